"""Statistics over clips: intervals of shares, medians and means, and the Wilcoxon signed-rank test.

Where the clips cannot tell how far a figure may be off, its interval is NaN, never a point. Below
six clips no interval between the smallest and the largest value holds the centre of a symmetric
distribution with 95 %: all `n` values lie on one side of it with a probability of `2^(1 - n)`.
Likewise the two-sided Wilcoxon test has no p below `2^(1 - n)`.
"""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer, Real

INTERVALS = (
    "In brackets are 95 % intervals over the clips: Wilson's of shares, between order statistics of medians, by"
    " bootstrap of means and their ratios; a dash where the clips are too few (below six) or too alike to tell"
)
"""What intervals in tables are, for the text beside them; without a full stop."""


@runtime_checkable
class Statistic(Protocol):
    """A statistic of samples along an axis, such as `np.mean`."""

    def __call__(self, values: np.ndarray, /, *, axis: int) -> Any: ...


def wilson(
    successes: Integer[np.ndarray, "*figures"], clips: int, *, level: float = 0.95
) -> tuple[Float[np.ndarray, "*figures"], Float[np.ndarray, "*figures"]]:
    """The score interval of a share (Wilson 1927), which Brown, Cai and DasGupta (2001) advise for
    few clips: 3 of 3 give 44 to 100 %, 0 of 6 give 0 to 39 %.

    Args:
        successes: how many of the clips, for each share.
        clips: out of how many.
        level: of the interval, in (0, 1).

    Returns:
        The lower and the upper ends; NaN over no clips.
    """
    if clips == 0:
        return _no_interval(successes.shape)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, widening = successes / clips, z**2 / clips
    centre = (share + widening / 2) / (1 + widening)
    half = np.sqrt(widening * share * (1 - share) + widening**2 / 4) / (1 + widening)
    return np.where(successes == 0, 0.0, centre - half), np.where(successes == clips, 1.0, centre + half)


def median_interval(
    values: Float[np.ndarray, "n ..."], *, level: float = 0.95
) -> tuple[Float[np.ndarray, "*figures"], Float[np.ndarray, "*figures"]]:
    """The interval of a median between two order statistics (David and Nagaraja, Order Statistics,
    2003, section 7.1).

    It holds the median with at least `level`, whatever the distribution: ties and infinite values
    are welcome.

    Args:
        values: of each clip.
        level: of the interval, in (0, 1).

    Returns:
        The lower and the upper ends; NaN where even the smallest and the largest value are too near
        to each other, which is below 6 clips at 95 %.
    """
    n = len(values)
    counts = itertools.accumulate(range(n), lambda count, k: count * (n - k) // (k + 1), initial=1)
    tails = (tail / 2**n for tail in itertools.accumulate(counts))  # of at most k of n values below the median
    rank = sum(1 for _ in itertools.takewhile(lambda tail: tail <= (1 - level) / 2, tails))
    if rank == 0:
        return _no_interval(values.shape[1:])
    ordered = np.sort(values, axis=0)
    return np.asarray(ordered[rank - 1]), np.asarray(ordered[n - rank])


def bootstrap(
    values: Float[np.ndarray, "n ..."],
    statistic: Statistic,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of a mean, or of a ratio of means, over clips, which are drawn again
    with replacement (Efron 1979).

    Args:
        values: of each clip, float[n ...]; all that is known of a clip is drawn together.
        statistic: of samples float[draws n ...] along axis 1.
        resamples: number of draws.
        level: of the interval, in (0, 1).
        seed: the same clips are drawn for the same number of clips.

    Returns:
        The lower and the upper end, each of the statistic's own shape. NaN below 6 clips (at 95 %),
        and where every draw comes to the same: of clips that are all alike, nothing can be drawn
        that tells how others are.
    """
    n = len(values)
    if 2.0 ** (1 - n) > 1 - level:
        return _no_interval(np.shape(statistic(np.ones((1, 1, *values.shape[1:])), axis=1))[1:])
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    parts = np.array_split(draws, 1 + resamples * values.size // 2**22)  # to bound the memory
    statistics = np.concatenate([statistic(values[rows], axis=1) for rows in parts])
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2], axis=0)
    same = np.isclose(low, high, rtol=1e-12, atol=0)
    return np.where(same, np.nan, low), np.where(same, np.nan, high)


def _no_interval(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.full(shape, np.nan), np.full(shape, np.nan)


def wilcoxon(differences: Real[np.ndarray, " n"]) -> float:
    """Two-sided p of the Wilcoxon signed-rank test (Wilcoxon 1945), exact for any number of ties.

    Zeros are dropped, equal magnitudes share their mean rank, and the p is taken from the sum of
    ranks over all `2^n` ways to give the magnitudes signs, counted by adding one rank after the
    other.

    Args:
        differences: one per pair.

    Returns:
        The p; NaN where no pair differs.
    """
    differences = differences[differences != 0]
    if len(differences) == 0:
        return math.nan
    magnitudes = np.abs(differences).round(9)  # log 6 - log 3 and log 2 - log 1 are the same but for the last bit
    _, group, size = np.unique(magnitudes, return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(size) - size + 1)[group]  # twice the mean rank is a whole number
    chance = np.zeros(int(doubled.sum()) + 1)
    chance[0] = 1
    for rank in doubled:
        chance /= 2
        chance[rank:] += chance[:-rank].copy()
    statistic = int(doubled[differences > 0].sum())
    return float(min(1.0, 2 * min(chance[: statistic + 1].sum(), chance[statistic:].sum())))

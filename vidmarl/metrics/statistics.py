"""Statistics over clips: bootstrap intervals and the Wilcoxon signed-rank test."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Real


@runtime_checkable
class Statistic(Protocol):
    """A statistic of samples along an axis, such as `np.mean`."""

    def __call__(self, values: np.ndarray, /, *, axis: int) -> Any: ...


def bootstrap(
    values: Float[np.ndarray, "n ..."],
    statistic: Statistic,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of a statistic over clips, which are drawn again with replacement
    (Efron 1979).

    Args:
        values: of each clip, float[n ...]; all that is known of a clip is drawn together.
        statistic: of samples float[draws n ...] along axis 1.
        resamples: number of draws.
        level: of the interval, in (0, 1).
        seed: the same clips are drawn for the same number of clips.

    Returns:
        The lower and the upper end, each of the statistic's own shape; NaN over no clips.
    """
    if len(values) == 0:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    parts = np.array_split(draws, 1 + resamples * values.size // 2**22)  # to bound the memory
    statistics = np.concatenate([statistic(values[rows], axis=1) for rows in parts])
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


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

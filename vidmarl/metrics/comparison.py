"""Two attacks on the same clips: which one makes do with less?"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from vidmarl.metrics.attack import Outcome, best_l2_at, queries_until_success_at
from vidmarl.metrics.statistics import bootstrap, median_interval, wilcoxon


@dataclasses.dataclass(frozen=True)
class PairedRatio:
    """How two attacks compare on the same clips.

    Attributes:
        ratio: the first attack's figure / the second's, so below 1 the first makes do with less. Of
            the L2 it is the median over the clips (`size_ratio`), of the queries the ratio of the
            means (`query_ratio`).
        low: lower end of its interval (see `vidmarl.metrics.statistics`); NaN where there is none.
        high: upper end.
        p: of the two-sided Wilcoxon signed-rank test on the logarithms of the ratios, which below
            six clips cannot be below 0.05; NaN without a clip that differs.
        clips: number of clips that both attacked.
    """

    ratio: float
    low: float
    high: float
    p: float
    clips: int


_NOTHING = PairedRatio(math.nan, math.nan, math.nan, math.nan, 0)


def size_ratio(
    first: Outcome,
    second: Outcome,
    budget: int | None = None,
    *,
    level: float = 0.95,
) -> PairedRatio:
    """Compares the L2 of two attacks, failures at `full_l2`; clips that either skipped are left
    out.

    Args:
        first: outcome of an attack.
        second: outcome of another attack on the same clips in the same order.
        budget: queries per clip; None: all that were spent.
        level: of the interval.

    Returns:
        The median over the clips of the ratio of the two L2, its interval, and the p of the
        Wilcoxon test on the clips' log ratios.
    """
    both = ~(first.skipped | second.skipped)
    a, b = (best_l2_at(result, [_budget(result, budget)])[both, 0].double() for result in (first, second))
    ratios = torch.where(a == b, 1.0, a / b).numpy()  # also 0 / 0: a distortion that does nothing to a clip
    if len(ratios) == 0:
        return _NOTHING
    with np.errstate(divide="ignore"):
        p = wilcoxon(np.log(ratios))
    low, high = median_interval(ratios, level=level)
    return PairedRatio(float(np.median(ratios)), float(low), float(high), p, len(ratios))


def query_ratio(
    first: Outcome,
    second: Outcome,
    budget: int | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedRatio:
    """Compares "AQ first" of two attacks; clips that either skipped are left out.

    Args:
        first: outcome of an attack.
        second: outcome of another attack on the same clips in the same order.
        budget: queries per clip; None: all that were spent.
        resamples: bootstrap samples of the clips, the same for both.
        level: of the interval.
        seed: of the bootstrap.

    Returns:
        The ratio of the two means, its interval, and the p of the Wilcoxon test on the clips' log
        ratios.
    """
    both = ~(first.skipped | second.skipped)
    spent = [queries_until_success_at(r, [_budget(r, budget)])[both, 0].double().numpy() for r in (first, second)]
    pairs = np.stack(spent, axis=1)
    if len(pairs) == 0:
        return _NOTHING

    def ratio(values: np.ndarray, axis: int) -> np.ndarray:
        means = values.mean(axis)
        return np.asarray(means[..., 0] / means[..., 1])

    low, high = bootstrap(pairs, ratio, resamples=resamples, level=level, seed=seed)
    p = wilcoxon(np.diff(np.log(pairs))[:, 0])
    return PairedRatio(float(ratio(pairs, axis=0)), float(low), float(high), p, len(pairs))


def _budget(result: Outcome, budget: int | None) -> int:
    return int(result.queries.max()) if budget is None else budget

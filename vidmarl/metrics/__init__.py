"""What is reported about perturbations and about attacks.

Of perturbations: functions of (clean, adversarial), float32[b 3 t h w] in [0, 1], to one number per
clip. Of attacks: functions of an `Outcome`, which knows every query of every clip. Clips that were
wrong before the attack are skipped: they are in no rate, no mean and no interval.

Queries at a budget `q`, where a clip has spent `n` in all and had its first success with query `f`:

| name | a fooled clip counts | a clip not fooled within `q` counts |
| --- | --- | --- |
| AQ | `min(n, q)`: all that was spent, cleaning up after the success included | `min(n, q)` |
| AQ first | `f` | `min(n, q)` |

AQ+ and AQ+ first are the same over the clips fooled within `q` only. Query 1 is the clean
prediction.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl.perturbations.grid import TubeletGrid

if TYPE_CHECKING:
    import pandas as pd

    from vidmarl.metrics.lpips_network import STLPIPS

BUDGETS = (25, 50, 100, 200, 500)
"""The query budgets at which attacks are compared."""

SSIM_SMALLEST = 11
"""Frames need this many pixels on their short side for SSIM, the size of its window."""


class Underway(Protocol):
    """What is known of an attack that may not have ended yet."""

    @property
    def skipped(self) -> Tensor:
        """bool[b]."""

    @property
    def history(self) -> dict[str, Tensor]:
        """ "score", "margin" and "l2" of each query, float32[b q], NaN beyond a clip's last."""


class Outcome(Underway, Protocol):
    """What the figures of an attack need to know about it, without its clips."""

    @property
    def success(self) -> Tensor:
        """bool[b]."""

    @property
    def queries(self) -> Tensor:
        """int64[b]."""

    @property
    def full_l2(self) -> Tensor:
        """float32[b], the norm with which a failure counts."""

    @property
    def settings(self) -> dict[str, Any]:
        """Plain data; "budget" where the attack had one."""


class ClipOutcome(Outcome, Protocol):
    """An outcome with its clips; `vidmarl.AttackResult` is one."""

    @property
    def clean(self) -> Tensor:
        """float32[b 3 t h w]."""

    @property
    def adversarial(self) -> Tensor:
        """float32[b 3 t h w]."""

    @property
    def strength(self) -> Tensor:
        """float32[b gt gh gw]."""


# --- of perturbations ----------------------------------------------------------------------------


def _per_frame(clips: Tensor) -> Float[Tensor, "n 3 h w"]:
    return rearrange(clips, "b c t h w -> (b t) c h w").contiguous()


def touched(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Bool[Tensor, "b t h w"]:
    """Pixels of which any channel has changed."""
    return (adversarial != clean).any(1)


def l0(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Number of pixels of all frames that have changed; a pixel counts once, however many of its
    channels changed."""
    return touched(clean, adversarial).flatten(1).sum(1).float()


def l2(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Euclidean norm of the perturbation in [0, 1] pixels, over the whole clip."""
    return (adversarial - clean).flatten(1).norm(dim=1)


def linf(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Largest change of a channel, in [0, 1]."""
    return (adversarial - clean).abs().flatten(1).amax(1)


def mean_absolute(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """MAP: mean absolute change over all pixels, channels and frames, in 8-bit steps. Flatters
    sparse attacks."""
    return (adversarial - clean).abs().flatten(1).mean(1) * 255


def mean_absolute_support(
    clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]
) -> Float[Tensor, " b"]:
    """MAP over the touched pixels only, in 8-bit steps; 0 where nothing is touched."""
    total = (adversarial - clean).abs().flatten(1).sum(1) * 255
    return total / (3 * l0(clean, adversarial)).clamp_min(1)


def frames_touched(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Fraction of the frames in which any pixel has changed."""
    return touched(clean, adversarial).flatten(2).any(2).float().mean(1)


def cells_touched(
    clean: Float[Tensor, "b 3 t h w"],
    adversarial: Float[Tensor, "b 3 t h w"],
    strength: Float[Tensor, "b gt gh gw"] | None = None,
    grid: TubeletGrid | None = None,
) -> Float[Tensor, " b"]:
    """Fraction of the tubelets that are touched.

    Args:
        clean: float[b 3 t h w].
        adversarial: float[b 3 t h w].
        strength: the strength map: a tubelet is touched where it is not 0. Without it, a tubelet is
            touched where a pixel in it has changed.
        grid: the tubelets, where there is no strength map; default 1 frame x 16 px.
    """
    if strength is not None:
        return (strength != 0).flatten(1).float().mean(1)
    share = (grid or TubeletGrid()).pool(touched(clean, adversarial)[:, None].float())
    return (share > 0).flatten(1).float().mean(1)


def ssim(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Structural similarity per frame (Wang et al. 2004, Gaussian window of 11 px), averaged; 1 for
    equal clips.

    NaN for frames smaller than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(clean.shape[-2:]) < SSIM_SMALLEST:
        return clean.new_full((len(clean),), torch.nan)

    def index(first: Tensor, second: Tensor) -> Tensor:
        value = structural_similarity_index_measure(second, first, data_range=1.0, reduction="none")
        return torch.as_tensor(value).view(-1)

    return _frame_mean(index, clean, adversarial, of_equal=1)


def psnr(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB per frame, averaged over the touched frames; infinite where
    there is none.

    An untouched frame has an infinite ratio, and one of them would make the average of any sparse
    attack infinite.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    ours, theirs = _per_frame(adversarial), _per_frame(clean)
    per_frame = peak_signal_noise_ratio(ours, theirs, data_range=1.0, reduction="none", dim=(1, 2, 3))
    per_frame = per_frame.view(len(clean), clean.shape[2])
    finite = per_frame.isfinite()
    mean = per_frame.where(finite, 0).sum(1) / finite.sum(1)
    return mean.where(finite.any(1), torch.inf)


def flicker(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Mean squared first time difference of the perturbation; 0 for one that stands still, or a
    single frame."""
    return _mean_square((adversarial - clean).diff(dim=2))


def flicker2(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Mean squared second time difference of the perturbation; 0 for one that grows or fades
    evenly."""
    return _mean_square((adversarial - clean).diff(n=2, dim=2))


def _mean_square(values: Tensor) -> Float[Tensor, " b"]:
    return values.square().flatten(1).mean(1) if values.numel() else values.new_zeros(len(values))


def warping_error(clean: Float[Tensor, "b 3 t h w"], video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """How far `video` is from moving as the clean clip moves (Lai et al., ECCV 2018, section 4.3).

    Mean squared difference of each frame and the next one warped back to it, over the pixels that
    are not occluded. Motion and occlusion are those of the clean clip. A clean clip has a warping
    error too, since light changes and flow
    errs: compare with it.
    """
    from vidmarl.perturbations.flow import estimate_flow, occlusion, warp

    if clean.shape[2] < 2 or len(clean) == 0:
        return clean.new_zeros(len(clean))
    forward, backward = estimate_flow(clean), estimate_flow(clean, "backward")
    visible = (~occlusion(forward, backward)).float()
    squares = (warp(video[:, :, 1:], forward) - video[:, :, :-1]).square().mean(1, keepdim=True)
    return (squares * visible).flatten(1).sum(1) / visible.flatten(1).sum(1).clamp_min(1)


@cache
def _stlpips() -> STLPIPS | None:
    """The ST-LPIPS network, loaded once, or None (said once) where its weights are not there."""
    from vidmarl.data.paths import data_root
    from vidmarl.metrics.lpips_network import STLPIPS, WEIGHTS

    path = data_root() / "weights" / WEIGHTS
    if not path.exists():
        warnings.warn(
            f"ST-LPIPS is left out: its weights are not at {path}. Set VIDMARL_DATA to the folder that has"
            f" weights/{WEIGHTS}.",
            stacklevel=4,
        )
        return None
    return STLPIPS.from_file(path)


def stlpips(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"] | None:
    """Shift-tolerant LPIPS (`lpips_network`) per frame, averaged; 0 for equal clips.

    NaN for frames too small for the network. None where its weights are not there; a warning says
    so, once.
    """
    from vidmarl.metrics.lpips_network import SMALLEST

    network = _stlpips()
    if network is None:
        return None
    if min(clean.shape[-2:]) < SMALLEST:
        return clean.new_full((len(clean),), torch.nan)
    with torch.inference_mode():
        return _frame_mean(network.to(clean.device), clean, adversarial, of_equal=0).clone()


def _frame_mean(
    metric: Callable[[Tensor, Tensor], Tensor], clean: Tensor, adversarial: Tensor, of_equal: float
) -> Float[Tensor, " b"]:
    """The mean over a clip's frames of a metric that is slow, and known to be `of_equal` for equal
    frames."""
    first, second = _per_frame(clean), _per_frame(adversarial)
    values = clean.new_full((len(first),), of_equal)
    differ = (first != second).flatten(1).any(1).nonzero().flatten()
    for rows in differ.split(8) if len(differ) else ():  # a few at a time, to bound the memory
        values[rows] = metric(first[rows], second[rows])
    return values.view(len(clean), clean.shape[2]).mean(1)


def perturbation_metrics(
    clean: Float[Tensor, "b 3 t h w"],
    adversarial: Float[Tensor, "b 3 t h w"],
    *,
    strength: Float[Tensor, "b gt gh gw"] | None = None,
    grid: TubeletGrid | None = None,
    perceptual: bool = False,
) -> dict[str, Float[Tensor, " b"]]:
    """All that is said about a perturbation, one number per clip and name.

    Args:
        clean: float[b 3 t h w] in [0, 1].
        adversarial: float[b 3 t h w] in [0, 1].
        strength: the strength map, for "cells", see `cells_touched`.
        grid: the tubelets, for "cells" where there is no strength map.
        perceptual: whether to add those that cost seconds a clip: "stlpips", and "warping" with
            "warping_clean", the same of the clean clip, and "warping_share".

    Returns:
        A perturbation of twice the norm flickers four times as much, so what compares attacks at
        equal norm is "flicker_share": the flicker over the mean squared perturbation, 0 where it
        stands still, 2 where every frame is another, at most 4 t / (t - 1). "warping_share" is the
        added warping error, likewise.

    Raises:
        ValueError: the two have different shapes.
    """
    if clean.shape != adversarial.shape:
        raise ValueError(
            f"Measuring a perturbation: expected two tensors of clips [b 3 t h w] of one shape, got"
            f" {tuple(clean.shape)} and {tuple(adversarial.shape)}."
        )
    values = {name: function(clean, adversarial) for name, function in _PERTURBATION.items()}
    energy = (adversarial - clean).square().flatten(1).mean(1).clamp_min(1e-12)
    values["flicker_share"] = values["flicker"] / energy
    values["cells"] = cells_touched(clean, adversarial, strength, grid)
    if perceptual:
        distance = stlpips(clean, adversarial)
        if distance is not None:
            values["stlpips"] = distance
        values["warping"] = warping_error(clean, adversarial)
        values["warping_clean"] = warping_error(clean, clean)
        values["warping_share"] = (values["warping"] - values["warping_clean"]) / energy
    return values


_PERTURBATION: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l0": l0,
    "l2": l2,
    "linf": linf,
    "map": mean_absolute,
    "map_support": mean_absolute_support,
    "frames": frames_touched,
    "ssim": ssim,
    "psnr": psnr,
    "flicker": flicker,
    "flicker2": flicker2,
}


# --- of attacks ----------------------------------------------------------------------------------


def _mean(values: Tensor) -> float:
    """The mean, NaN of nothing."""
    return float(values.double().mean()) if values.numel() else math.nan


def _median(values: Tensor) -> float:
    """The median, the mean of the middle two where there are two; NaN of nothing."""
    return float(np.median(values.double().numpy())) if values.numel() else math.nan


def fooling_rate(result: Outcome) -> float:
    """Fooled over attacked clips; NaN where every clip was skipped."""
    return _mean(result.success[~result.skipped])


def first_success(result: Underway) -> Int64[Tensor, " b"]:
    """With which query each clip was first fooled, the clean prediction being query 1; 0: never, or
    skipped."""
    wins = (result.history["margin"] < 0) & ~result.skipped[:, None]
    return torch.where(wins.any(1), wins.int().argmax(1) + 1, 0)


def success_at(result: Outcome, budgets: Sequence[int]) -> Bool[Tensor, "b budgets"]:
    """Whether each clip was fooled within its first `q` queries, for each `q` of `budgets`; False
    where skipped."""
    first = first_success(result)[:, None]
    return (first > 0) & (first <= _checked(budgets))


def best_l2_at(result: Outcome, budgets: Sequence[int]) -> Float[Tensor, "b budgets"]:
    """L2 of each clip's smallest success within its first `q` queries; `full_l2` without one, NaN
    where skipped."""
    margin, l2_norm = result.history["margin"], result.history["l2"]
    best = torch.where(margin < 0, l2_norm, torch.inf).cummin(1).values
    best = best[:, (_checked(budgets) - 1).clamp_max(best.shape[1] - 1)]
    best = torch.where(best.isinf(), result.full_l2[:, None], best)
    return best.masked_fill(result.skipped[:, None], torch.nan)


def _checked(budgets: Sequence[int]) -> Int64[Tensor, " budgets"]:
    if len(budgets) == 0 or min(budgets) < 1:
        raise ValueError(f"Evaluating at query budgets: expected at least one, each 1 or more, got {list(budgets)}.")
    return torch.tensor(list(budgets))


def average_queries(result: Outcome, budget: int | None = None) -> dict[str, float]:
    """AQ, AQ+, AQ first and AQ+ first, as the head of this module defines them; NaN over no clips.

    Args:
        result: of an attack.
        budget: queries per clip after which the attack is taken to have stopped; None: as it was.
    """
    budget = int(result.queries.max()) if budget is None else budget
    spent = result.queries.clamp_max(budget)
    fooled = success_at(result, [budget])[:, 0]
    first = _until_success(result, budget)
    attacked = ~result.skipped
    return {
        "AQ": _mean(spent[attacked]),
        "AQ+": _mean(spent[fooled]),
        "AQ first": _mean(first[attacked]),
        "AQ+ first": _mean(first[fooled]),
    }


def _bootstrap(
    values: Float[np.ndarray, "n q"],
    statistic: Callable[..., np.ndarray],
    resamples: int,
    level: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of a statistic over the rows, which are drawn again with replacement
    (Efron 1979)."""
    if len(values) == 0:
        nothing = np.full(values.shape[1], np.nan)
        return nothing, nothing
    random = np.random.default_rng(seed)
    draws = random.integers(len(values), size=(resamples, len(values)))
    parts = np.array_split(draws, 1 + draws.size * values.shape[1] // 2**22)  # to bound the memory
    statistics = np.concatenate([statistic(values[rows], axis=1) for rows in parts])
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def curves(
    result: Outcome,
    budgets: Sequence[int] = BUDGETS,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Fooling rate, median L2 (failures at `full_l2`) and AQ first at each budget, with bootstrap
    intervals over clips.

    Args:
        result: of an attack.
        budgets: queries per clip.
        resamples: bootstrap samples.
        level: of the intervals.
        seed: of the bootstrap; the same clips are drawn for the same number of clips.

    Returns:
        A row per budget: "budget", "fr", "fr_low", "fr_high", "l2", "l2_low", "l2_high", "aq",
            "aq_low", "aq_high".
    """
    import pandas as pd

    attacked = ~result.skipped
    fooled = success_at(result, budgets)[attacked].double().numpy()
    norms = best_l2_at(result, budgets)[attacked].double().numpy()
    asked = torch.stack([_until_success(result, budget) for budget in budgets], 1)[attacked].double().numpy()
    table: dict[str, Any] = {"budget": list(budgets)}
    for name, values, statistic in (("fr", fooled, np.mean), ("l2", norms, np.median), ("aq", asked, np.mean)):
        table[name] = statistic(values, axis=0) if len(values) else np.full(len(budgets), np.nan)
        table[f"{name}_low"], table[f"{name}_high"] = _bootstrap(values, statistic, resamples, level, seed)
    return pd.DataFrame(table)


@dataclasses.dataclass(frozen=True)
class PairedRatio:
    """How two attacks compare on the same clips.

    Attributes:
        ratio: the first attack's figure / the second's, so below 1 the first does with less. Of the
            L2 it is the median over the clips (`size_ratio`), of the queries the ratio of the means
            (`query_ratio`).
        low: lower end of its bootstrap interval.
        high: upper end.
        p: of the two-sided Wilcoxon signed-rank test on the logarithms of the ratios; NaN without a
            clip that differs.
        clips: number of clips that both attacked.
    """

    ratio: float
    low: float
    high: float
    p: float
    clips: int


def paired_ratio(first: ClipOutcome, second: ClipOutcome, budget: int | None = None, **bootstrap: Any) -> PairedRatio:
    """`size_ratio`, where it can be seen that the clips are the same.

    Raises:
        ValueError: the clips are not the same.
    """
    if first.clean.shape != second.clean.shape or not torch.equal(first.clean, second.clean):
        raise ValueError(
            "Comparing two attacks clip by clip: expected results on the same clips in the same order, got"
            f" {tuple(first.clean.shape)} and {tuple(second.clean.shape)}, or clips of different content."
        )
    return size_ratio(first, second, budget, **bootstrap)


def size_ratio(
    first: Outcome,
    second: Outcome,
    budget: int | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedRatio:
    """Compares the L2 of two attacks on the same clips, failures at `full_l2`; clips that either
    skipped are left out.

    Args:
        first: outcome of an attack.
        second: outcome of another attack on the same clips in the same order.
        budget: queries per clip; None: all that were spent.
        resamples: bootstrap samples.
        level: of the interval.
        seed: of the bootstrap.
    """
    both = ~(first.skipped | second.skipped)
    a, b = (
        best_l2_at(r, [int(r.queries.max()) if budget is None else budget])[both, 0].double() for r in (first, second)
    )
    ratios = torch.where(a == b, 1.0, a / b).numpy()  # also 0 / 0: a distortion that does nothing to a clip
    if len(ratios) == 0:
        return PairedRatio(math.nan, math.nan, math.nan, math.nan, 0)
    with np.errstate(divide="ignore"):
        p = wilcoxon(np.log(ratios))
    low, high = _bootstrap(ratios[:, None], np.median, resamples, level, seed)
    return PairedRatio(float(np.median(ratios)), float(low[0]), float(high[0]), p, len(ratios))


def query_ratio(
    first: Outcome,
    second: Outcome,
    budget: int | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedRatio:
    """Compares "AQ first" of two attacks on the same clips; clips that either skipped are left out.

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
    asked = np.stack([_until_success(r, budget)[both].double().numpy() for r in (first, second)], axis=1)
    if len(asked) == 0:
        return PairedRatio(math.nan, math.nan, math.nan, math.nan, 0)

    def ratio(values: np.ndarray, axis: int) -> np.ndarray:
        means = values.mean(axis)
        return means[..., 0] / means[..., 1]

    low, high = _bootstrap(asked, ratio, resamples, level, seed)
    return PairedRatio(
        float(ratio(asked, 0)), float(low), float(high), wilcoxon(np.diff(np.log(asked))[:, 0]), len(asked)
    )


def _until_success(result: Outcome, budget: int | None) -> Int64[Tensor, " b"]:
    """The query of each clip's first success within the budget; without one, what was spent of
    it."""
    budget = int(result.queries.max()) if budget is None else budget
    fooled = success_at(result, [budget])[:, 0]
    return torch.where(fooled, first_success(result), result.queries.clamp_max(budget))


def wilcoxon(differences: Float[np.ndarray, " n"]) -> float:
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


def summarise(
    result: ClipOutcome, budgets: Sequence[int] = BUDGETS, *, perceptual: bool = False, **bootstrap: Any
) -> pd.DataFrame:
    """An attack in figures, see `summary_table`, all of them measured here.

    Args:
        result: of an attack.
        budgets: queries per clip.
        perceptual: whether to add the slow metrics, see `perturbation_metrics`.
        **bootstrap: `resamples`, `level`, `seed` of `curves`.
    """
    fooled = result.success & ~result.skipped
    pictures = (
        perturbation_metrics(
            result.clean[fooled], result.adversarial[fooled], strength=result.strength[fooled], perceptual=perceptual
        )
        if fooled.any()
        else {}
    )
    return summary_table(result, pictures, budgets, **bootstrap)


def summary_table(
    result: Outcome, pictures: Mapping[str, Tensor], budgets: Sequence[int] = BUDGETS, **bootstrap: Any
) -> pd.DataFrame:
    """An attack in figures: a row per query budget.

    The budgets at or above the attack's own are one row, with the attack's own: more could not be
    spent.

    Args:
        result: of an attack.
        pictures: `perturbation_metrics` of the fooled clips.
        budgets: queries per clip.
        **bootstrap: `resamples`, `level`, `seed` of `curves`.

    Returns:
        "budget", "clips" (attacked), "skipped", "FR", "AQ", "AQ+", "AQ first", "AQ+ first", "L2"
        (median over the attacked clips, failures at `full_l2`), the intervals of FR, AQ first and
        L2, and the means of the other metrics of `perturbation_metrics` over the fooled clips, to
        be read beside FR. Only the smallest success is kept of each clip, so these stand only where
        the budget is all that was spent; else they are NaN.
    """
    import pandas as pd

    own = int(result.settings.get("budget", result.queries.max()))
    budgets = sorted({min(int(budget), own) for budget in budgets})
    curve = curves(result, budgets, **bootstrap)
    attacked = ~result.skipped
    table = []
    for point in curve.to_dict("records"):
        budget = int(point["budget"])
        row: dict[str, Any] = {
            "budget": budget,
            "clips": int(attacked.sum()),
            "skipped": int(result.skipped.sum()),
            "FR": point["fr"],
            "FR low": point["fr_low"],
            "FR high": point["fr_high"],
            **average_queries(result, budget),
            "AQ first low": point["aq_low"],
            "AQ first high": point["aq_high"],
            "L2": point["l2"],
            "L2 low": point["l2_low"],
            "L2 high": point["l2_high"],
        }
        final = budget >= int(result.queries.max())
        row |= {name: _mean(values) if final else math.nan for name, values in pictures.items() if name != "l2"}
        table.append(row)
    return pd.DataFrame(table)

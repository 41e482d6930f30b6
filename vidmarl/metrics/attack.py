"""What an attack has reached, and with how many queries.

Clips that were wrong before the attack are skipped: they are in no rate, no mean and no interval.

Queries at a budget `q`, where a clip has spent `n` in all and had its first success with query `f`:

| name | a fooled clip counts | a clip not fooled within `q` counts |
| --- | --- | --- |
| AQ | `min(n, q)`: all that was spent, cleaning up after the success included | `min(n, q)` |
| AQ first | `f` | `min(n, q)` |

AQ+ and AQ+ first are the same over the clips fooled within `q` only. Query 1 is the clean
prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl.metrics.statistics import Statistic, bootstrap, median_interval, wilson

if TYPE_CHECKING:
    import pandas as pd

BUDGETS = (25, 50, 100, 200, 500)
"""The query budgets at which attacks are compared."""


@runtime_checkable
class Outcome(Protocol):
    """What the figures of an attack need to know about it, without its clips."""

    @property
    def success(self) -> Bool[Tensor, " b"]:
        """Whether the clip was fooled."""

    @property
    def skipped(self) -> Bool[Tensor, " b"]:
        """Whether the goal held before the attack."""

    @property
    def queries(self) -> Int64[Tensor, " b"]:
        """Queries spent on the clip."""

    @property
    def full_l2(self) -> Float[Tensor, " b"]:
        """The norm of the full distortion, with which a failure counts."""

    @property
    def history(self) -> dict[str, Float[Tensor, "b q"]]:
        """ "score", "margin" and "l2" of each query, NaN beyond a clip's last."""

    @property
    def settings(self) -> dict[str, Any]:
        """Plain data; "budget" where the attack had one."""


@runtime_checkable
class ClipOutcome(Outcome, Protocol):
    """An outcome with its clips and what the victim says of them; `vidmarl.AttackResult` is one."""

    @property
    def clean(self) -> Float[Tensor, "b 3 t h w"]:
        """The clips as attacked, in [0, 1]."""

    @property
    def adversarial(self) -> Float[Tensor, "b 3 t h w"]:
        """What came of them."""

    @property
    def strength(self) -> Float[Tensor, "b gt gh gw"]:
        """The strength map of `adversarial`."""

    @property
    def classes(self) -> Int64[Tensor, " b"]:
        """The classes of the goal."""

    @property
    def prediction(self) -> Int64[Tensor, " b"]:
        """What the victim says of `clean`."""

    @property
    def adversarial_prediction(self) -> Int64[Tensor, " b"]:
        """What the victim says of `adversarial`."""


def outcomes(result: Outcome) -> list[str]:
    """What came of each clip: "fooled", "not fooled" or "skipped"."""
    both = zip(result.success.tolist(), result.skipped.tolist(), strict=True)
    return ["skipped" if skipped else "fooled" if success else "not fooled" for success, skipped in both]


def class_names(result: Outcome, classes: Int64[Tensor, " n"]) -> list[str]:
    """The victim's names of some classes, or their numbers where it has no names."""
    labels = result.settings.get("labels")
    return [str(index) if labels is None else str(labels[index]) for index in classes.tolist()]


def own_budget(result: Outcome) -> int:
    """The queries that the attack had for a clip."""
    return int(result.settings.get("budget", result.queries.max()))


def first_success(result: Outcome) -> Int64[Tensor, " b"]:
    """The query of each clip's first success, the clean prediction being query 1.

    It is 0 for a clip that was never fooled, or was skipped.
    """
    wins = (result.history["margin"] < 0) & ~result.skipped[:, None]
    return torch.where(wins.any(1), wins.int().argmax(1) + 1, 0)


def success_at(result: Outcome, budgets: Sequence[int]) -> Bool[Tensor, "b budgets"]:
    """Whether each clip was fooled within its first `q` queries, for each `q` of `budgets`; False
    where skipped.

    Raises:
        ValueError: there is no budget, or one below 1.
    """
    first = first_success(result)[:, None]
    return (first > 0) & (first <= _checked(budgets))


def best_l2_at(result: Outcome, budgets: Sequence[int]) -> Float[Tensor, "b budgets"]:
    """L2 of each clip's smallest success within its first `q` queries; `full_l2` without one, NaN
    where skipped.

    Raises:
        ValueError: there is no budget, or one below 1.
    """
    margin, l2_norm = result.history["margin"], result.history["l2"]
    best = torch.where(margin < 0, l2_norm, torch.inf).cummin(1).values
    best = best[:, (_checked(budgets) - 1).clamp_max(best.shape[1] - 1)]
    best = torch.where(best.isinf(), result.full_l2[:, None], best)
    return best.masked_fill(result.skipped[:, None], torch.nan)


def queries_until_success_at(result: Outcome, budgets: Sequence[int]) -> Int64[Tensor, "b budgets"]:
    """The query of each clip's first success within its first `q` queries; without one, what was
    spent of them.

    Raises:
        ValueError: there is no budget, or one below 1.
    """
    spent = result.queries[:, None].minimum(_checked(budgets))
    return torch.where(success_at(result, budgets), first_success(result)[:, None], spent)


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
    first = queries_until_success_at(result, [budget])[:, 0]
    attacked = ~result.skipped
    return {
        "AQ": mean(spent[attacked]),
        "AQ+": mean(spent[fooled]),
        "AQ first": mean(first[attacked]),
        "AQ+ first": mean(first[fooled]),
    }


def mean(values: Tensor) -> float:
    """The mean, NaN of nothing."""
    return float(values.double().mean()) if values.numel() else math.nan


def curves(
    result: Outcome,
    budgets: Sequence[int] = BUDGETS,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Fooling rate, median L2 (failures at `full_l2`) and AQ first at each budget, with their
    intervals over clips (see `vidmarl.metrics.statistics`).

    Args:
        result: of an attack.
        budgets: queries per clip.
        resamples: bootstrap samples, for AQ first.
        level: of the intervals.
        seed: of the bootstrap.

    Returns:
        A row per budget: "budget", "FR", "L2", "AQ first", and "low" and "high" of each, as in "FR
        low"; NaN where there is no interval.
    """
    import pandas as pd

    attacked = ~result.skipped
    wins = success_at(result, budgets)[attacked].numpy()
    sizes = best_l2_at(result, budgets)[attacked].double().numpy()
    asked = queries_until_success_at(result, budgets)[attacked].double().numpy()
    figures: dict[str, tuple[np.ndarray, Statistic, tuple[np.ndarray, np.ndarray]]] = {
        "FR": (wins, np.mean, wilson(wins.sum(0), len(wins), level=level)),
        "L2": (sizes, np.median, median_interval(sizes, level=level)),
        "AQ first": (asked, np.mean, bootstrap(asked, np.mean, resamples=resamples, level=level, seed=seed)),
    }
    table: dict[str, Any] = {"budget": list(budgets)}
    for name, (of_clips, statistic, (low, high)) in figures.items():
        table[name] = statistic(of_clips, axis=0) if len(of_clips) else np.full(len(budgets), np.nan)
        table[f"{name} low"], table[f"{name} high"] = low, high
    return pd.DataFrame(table)

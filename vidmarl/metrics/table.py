"""Tables of attacks: a row for each clip, or a row for each query budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.metrics.attack import (
    BUDGETS,
    ClipOutcome,
    Outcome,
    average_queries,
    class_names,
    curves,
    first_success,
    mean,
    own_budget,
)
from vidmarl.metrics.column import Column, columns, list_metrics

if TYPE_CHECKING:
    import pandas as pd

FIGURES = (
    Column("budget", "Budget", "queries per clip", format=",.0f"),
    Column("FR", "Fooled", "fooled over attacked clips", format="%", better="higher", interval=True),
    Column("AQ", "AQ", "mean queries of all attacked clips, those after the first success included", better="lower"),
    Column("AQ+", "AQ+", "AQ over the fooled clips only", better="lower"),
    Column(
        "AQ first",
        "AQ first",
        "mean queries until the first success; a failure counts what it spent",
        better="lower",
        interval=True,
    ),
    Column("AQ+ first", "AQ+ first", "AQ first over the fooled clips only", better="lower"),
    Column(
        "L2",
        "Median L2",
        "median over the attacked clips of the smallest success; a failure counts the norm of the full distortion",
        better="lower",
        interval=True,
    ),
)
"""The figures of an attack at a query budget, which `summary_table` gives."""

SUCCESS_COLUMNS = (
    Column("queries", "Queries", "queries spent on the clip", format=",.0f", better="lower"),
    Column("first_success", "First success", "the query of the first success", format=",.0f", better="lower"),
)
"""What came of a clip in numbers, which `clip_table` gives."""


def perturbation_metrics(
    clean: Float[Tensor, "b 3 t h w"],
    adversarial: Float[Tensor, "b 3 t h w"],
    *,
    strength: Float[Tensor, "b gt gh gw"] | None = None,
    slow: bool = False,
) -> dict[str, Float[Tensor, " b"]]:
    """All metrics of a perturbation, one number per clip and column (`vidmarl.metrics.columns`).

    Args:
        clean: float[b 3 t h w] in [0, 1].
        adversarial: float[b 3 t h w] in [0, 1].
        strength: the strength map, for "cells", see `cells_touched`.
        slow: whether to add the metrics that cost seconds a clip: ST-LPIPS, JOD and the warping
            error.

    Raises:
        ValueError: the two have different shapes.
    """
    if clean.shape != adversarial.shape:
        raise ValueError(
            f"Measuring a perturbation: expected two tensors of clips [b 3 t h w] of one shape, got"
            f" {tuple(clean.shape)} and {tuple(adversarial.shape)}."
        )
    values: dict[str, Tensor] = {}
    for metric in list_metrics(slow):
        values |= metric.measure(clean, adversarial, strength)
    return values


def clip_table(result: ClipOutcome, *, slow: bool = False) -> pd.DataFrame:
    """A row for each clip: what happened, and how large the perturbation is.

    Args:
        result: of an attack.
        slow: whether to add the metrics that cost seconds a clip.

    Returns:
        "clip", "prediction" (on the clean clip), "adversarial_prediction" (on the attacked one),
        "goal" (the label to lead away from, or the target), "success", "skipped", "queries",
        "first_success" (the query; missing where there is none), then the columns of
        `perturbation_metrics`. These are NaN where the clip was skipped: nothing was done to it.
    """
    import pandas as pd

    table: dict[str, Any] = {
        "clip": range(len(result.success)),
        "prediction": class_names(result, result.prediction),
        "adversarial_prediction": class_names(result, result.adversarial_prediction),
        "goal": class_names(result, result.classes),
        "success": result.success.numpy(),
        "skipped": result.skipped.numpy(),
        "queries": result.queries.numpy(),
        "first_success": pd.array([int(f) or None for f in first_success(result)], dtype="Int64"),
    }
    attacked = ~result.skipped
    measured = perturbation_metrics(
        result.clean[attacked], result.adversarial[attacked], strength=result.strength[attacked], slow=slow
    )
    for name, values in measured.items():
        column = torch.full(attacked.shape, torch.nan, dtype=torch.float64)  # rounds for people as one expects
        column[attacked] = values.double()
        table[name] = column.numpy()
    return pd.DataFrame(table)


def summarise(
    result: ClipOutcome, budgets: Sequence[int] = BUDGETS, *, slow: bool = False, **bootstrap: Any
) -> pd.DataFrame:
    """An attack in figures, see `summary_table`, all of them measured here.

    Args:
        result: of an attack.
        budgets: queries per clip.
        slow: whether to add the slow metrics, see `perturbation_metrics`.
        **bootstrap: `resamples`, `level`, `seed` of `curves`.
    """
    fooled = result.success & ~result.skipped
    measured = {}
    if fooled.any():
        measured = perturbation_metrics(
            result.clean[fooled], result.adversarial[fooled], strength=result.strength[fooled], slow=slow
        )
    return summary_table(result, measured, budgets, **bootstrap)


def summary_table(
    result: Outcome, measured: Mapping[str, Tensor], budgets: Sequence[int] = BUDGETS, **bootstrap: Any
) -> pd.DataFrame:
    """An attack in figures: a row per query budget.

    The budgets at or above the attack's own are one row, with the attack's own: more could not be
    spent.

    Args:
        result: of an attack.
        measured: `perturbation_metrics` of the fooled clips.
        budgets: queries per clip.
        **bootstrap: `resamples`, `level`, `seed` of `curves`.

    Returns:
        "clips" (attacked), "skipped", the columns of `FIGURES` with their intervals, and the means
        of the metrics over the fooled clips, to be read beside FR. Only the smallest success is
        kept of each clip, so these stand only where the budget is all that was spent; else they are
        NaN. The mean "l2" is left out: the median "L2" tells the size at every budget.
    """
    import pandas as pd

    own = own_budget(result)
    attacked = int((~result.skipped).sum())
    rows = []
    for point in curves(result, sorted({min(int(budget), own) for budget in budgets}), **bootstrap).to_dict("records"):
        budget = int(point["budget"])
        final = budget >= int(result.queries.max())
        row = point | average_queries(result, budget)
        row |= {"budget": budget, "clips": attacked, "skipped": len(result.skipped) - attacked}
        row |= {name: mean(values) if final else math.nan for name, values in measured.items() if name != "l2"}
        rows.append(row)
    table = pd.DataFrame(rows)
    figures = [name for column in FIGURES for name in names(column)]
    first = ["budget", "clips", "skipped", *figures[1:]]
    return table[[*first, *table.columns.drop(first)]]


def names(column: Column) -> list[str]:
    """The keys of a column in data frames: itself, and its interval where it has one."""
    return [column.name, *(f"{column.name} {end}" for end in ("low", "high") if column.interval)]


def shown_metrics(table: pd.DataFrame) -> list[Column]:
    """The columns of metrics that tables for people show, of those that a table has."""
    return [column for column in columns(slow=True) if column.shown and column.name in table]

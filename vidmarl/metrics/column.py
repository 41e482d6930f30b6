"""Columns of tables, and the metrics that fill them.

A metric of perturbations is a function of (clean, adversarial) under the decorator `metric`, which
says how its column is called, in which unit it is, and which way is better. The tables, the CSV
files and the reports are made from that: a new metric is a new file in this folder, or a decorated
function in a module of your own, and nothing else.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[..., Tensor | tuple[Tensor, ...] | None]
"""From clips to one number per clip, float[b], or to a tuple of these; None where it cannot be
measured on this machine."""

M = TypeVar("M", bound=Measure)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its key in CSV files and data frames.
        label: its name for people.
        meaning: what it says, in a phrase without a full stop.
        unit: of its values; empty where they have none.
        format: how a value is written for people: a format specification of Python such as ".3f",
            or "%" for a share, in per cent with two digits; empty for three significant digits.
        better: which values are better for the attack: "lower", "higher", or None for neither.
        shown: whether tables for people have it; CSV files have all columns.
        interval: whether the columns "NAME low" and "NAME high" hold its confidence interval.
    """

    name: str
    label: str
    meaning: str
    unit: str = ""
    format: str = ""
    better: Literal["lower", "higher"] | None = None
    shown: bool = True
    interval: bool = False

    @property
    def heading(self) -> str:
        """The label, with an arrow that points to the better values."""
        arrow = {"lower": " ↓", "higher": " ↑", None: ""}[self.better]
        return self.label + arrow

    @property
    def note(self) -> str:
        """The heading, the meaning and the unit, for the text below a table."""
        return f"{self.heading}: {self.meaning}" + (f", in {self.unit}" if self.unit else "")

    def text(self, value: float | int | None) -> str:
        """A value for people; a dash where there is none."""
        if value is None or not math.isfinite(value):
            return number(value)
        if self.format == "%":
            return percent(value)
        return format(value, self.format) if self.format else number(value)

    def texts(self, table: pd.DataFrame) -> list[str]:
        """The values of all rows for people."""
        return [self.text(value) for value in table[self.name].to_numpy(dtype=float, na_value=math.nan)]

    def cell(self, row: dict[Any, Any]) -> str:
        """The value of a row, with its interval in brackets where the column has one; a dash in
        them where there is none to be had."""
        value = row.get(self.name)
        text = self.text(value)
        if not self.interval or value is None or math.isnan(value):
            return text
        return f"{text} ({self.range(row) or number(None)})"

    def range(self, row: dict[Any, Any]) -> str:
        """The interval of a row, as in "2 to 3"; empty where there is none to be had."""
        ends = [row[f"{self.name} {end}"] for end in ("low", "high")]
        return "" if any(math.isnan(end) for end in ends) else " to ".join(map(self.text, ends))


def number(value: float | int | None) -> str:
    """A number for people: whole ones with commas, others to three significant digits, a dash where
    there is none."""
    if isinstance(value, int):
        return f"{value:,}"
    if value is None or math.isnan(value):
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e3:
        return f"{value:#.3g}".rstrip(".")
    return f"{value:,.0f}" if abs(value) > 1 else f"{value:.1e}"


def percent(value: float) -> str:
    """A share in per cent: whole per cents from 10 % on, two digits below; a dash for NaN."""
    if math.isnan(value):
        return "—"
    return f"{100 * value:.0f} %" if value == 0 or value >= 0.1 else f"{100 * value:.2g} %"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measure of perturbations and the columns that it fills.

    Attributes:
        columns: one for each number that the function gives.
        function: the measure.
        slow: whether it costs seconds a clip, so that it is measured on request only.
        order: columns of a lower order come first.
    """

    columns: tuple[Column, ...]
    function: Measure
    slow: bool
    order: float

    def measure(self, clean: Tensor, adversarial: Tensor, strength: Tensor | None) -> dict[str, Tensor]:
        """The values of each column, float[b]; empty where they cannot be measured."""
        extra = {"strength": strength} if "strength" in inspect.signature(self.function).parameters else {}
        values = self.function(clean, adversarial, **extra)
        if values is None:
            return {}
        values = values if isinstance(values, tuple) else (values,)
        return {column.name: value for column, value in zip(self.columns, values, strict=True)}


_METRICS: dict[str, Metric] = {}
"""By the name of the first column."""


def metric(*columns: Column, slow: bool = False, order: float = 100) -> Callable[[M], M]:
    """Makes a function a metric: its columns appear in all tables from then on.

    The function takes clean and adversarial clips, float32[b 3 t h w] in [0, 1]. Where it has a
    parameter `strength`, it also gets the strength map float[b gt gh gw], or None. It returns
    float[b], one for each clip whatever else is in the batch, or a tuple with one of these for each
    column.

    Args:
        columns: what the numbers are called. Their names are unique among all metrics.
        slow: whether it costs seconds a clip; it is then measured only where slow metrics are asked
            for.
        order: where the columns stand; those of vidmarl have 10 to 60.

    Raises:
        ValueError: there is no column, or another metric has a column of that name.
    """

    def register(function: M) -> M:
        if not columns:
            raise ValueError(f"Registering the metric {function!r}: expected at least one column.")
        taken = {column.name: other for other in _METRICS.values() for column in other.columns}
        for column in columns:
            other = taken.get(column.name)
            if other is not None and _path(other.function) != _path(function):  # a module may be imported anew
                raise ValueError(
                    f"Registering the metric {_path(function)}: {_path(other.function)} has a column"
                    f" {column.name!r} already. Choose another name."
                )
        _METRICS[columns[0].name] = Metric(columns, function, slow, order)
        return function

    return register


def _path(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def list_metrics(slow: bool = False) -> list[Metric]:
    """All metrics of perturbations, in the order of their columns.

    Args:
        slow: whether those that cost seconds a clip are among them.
    """
    package = importlib.import_module("vidmarl.metrics")
    for file in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{file.name}")
    chosen = [found for found in _METRICS.values() if slow or not found.slow]
    return sorted(chosen, key=lambda found: found.order)


def columns(slow: bool = False) -> list[Column]:
    """The columns of all metrics, in order.

    Args:
        slow: whether those of metrics that cost seconds a clip are among them.
    """
    return [column for found in list_metrics(slow) for column in found.columns]

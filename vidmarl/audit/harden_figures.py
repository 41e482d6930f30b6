"""How robust a victim was and is: the same attack on the same clips, before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from vidmarl.attacks.result import AttackResult
from vidmarl.metrics.attack import best_l2_at, own_budget
from vidmarl.metrics.comparison import size_ratio
from vidmarl.metrics.statistics import INTERVALS, bootstrap, median_interval, wilcoxon, wilson

Pair = tuple[AttackResult, AttackResult]
"""An attack's results on the same clips, before hardening and after."""


def compare(before: AttackResult, after: AttackResult) -> dict[str, Any]:
    """What hardening has changed, as plain data.

    "clean" is the share of all clips that the victim is right about, "robust" the share that it is
    right about and that the attack did not change, "size" the median L2 of the smallest success
    over the clips that it is right about (failures count with the full distortion). Each is there
    "before" and "after", with its 95 % interval, and as a "change" over the same clips: of shares
    the difference, with a bootstrap interval and the exact p of McNemar's test; of sizes the
    median ratio, see `vidmarl.metrics.size_ratio`, over the clips right both times.

    Args:
        before: of the attack on the victim as it was.
        after: of the same attack on the hardened victim, on the same clips in the same order.
    """
    both = (before, after)
    right = np.stack([(~result.skipped).numpy() for result in both], 1)
    robust = np.stack([(~result.skipped & ~result.success).numpy() for result in both], 1)
    return {
        "clips": len(right),
        "queries": [int(result.queries.sum()) for result in both],
        "clean": _shares(right),
        "robust": _shares(robust),
        "size": _sizes(before, after),
    }


def _shares(held: np.ndarray) -> dict[str, Any]:
    """Of bool[n 2]: both shares, and their difference."""
    n = len(held)
    low, high = wilson(held.sum(0), n)
    ends = bootstrap(held.astype(float), _difference)
    return {
        "before": _figure(held[:, 0].mean(), low[0], high[0]),
        "after": _figure(held[:, 1].mean(), low[1], high[1]),
        "change": _figure(held[:, 1].mean() - held[:, 0].mean(), *map(float, ends))
        | {"p": _or_none(wilcoxon(held[:, 1].astype(int) - held[:, 0].astype(int)))},
    }


def _difference(values: np.ndarray, /, *, axis: int) -> np.ndarray:
    means = values.mean(axis)
    return np.asarray(means[..., 1] - means[..., 0])


def _sizes(before: AttackResult, after: AttackResult) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, result in (("before", before), ("after", after)):
        sizes = best_l2_at(result, [own_budget(result)])[~result.skipped, 0].double().numpy()
        centre = float(np.median(sizes)) if len(sizes) else math.nan
        told[name] = _figure(centre, *map(float, median_interval(sizes)))
    ratio = size_ratio(after, before, own_budget(before))
    told["change"] = _figure(ratio.ratio, ratio.low, ratio.high) | {"p": _or_none(ratio.p), "clips": ratio.clips}
    return told


def _figure(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": _or_none(value), "interval": [_or_none(low), _or_none(high)]}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def table(figures: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each attack and figure, with numbers.

    Args:
        figures: what `compare` has given for each attack.
    """
    rows = []
    for attack, told in figures.items():
        for figure in ("clean", "robust", "size"):
            row: dict[str, Any] = {"attack": attack, "figure": figure, "clips": told["clips"]}
            for when in ("before", "after", "change"):
                found = told[figure][when]
                row |= {when: found["value"], f"{when} low": found["interval"][0], f"{when} high": found["interval"][1]}
            rows.append(row | {"p": told[figure]["change"]["p"]})
    return pd.DataFrame(rows)


NAMES = {"clean": "clean accuracy", "robust": "robust accuracy", "size": "median L2 of a success"}


def markdown(figures: Mapping[str, Mapping[str, Any]], trained: str) -> str:
    """The same as a table for persons.

    Args:
        figures: what `compare` has given for each attack.
        trained: the attack that the victim was hardened with.
    """
    lines = ["| attack | figure | before | after | change | p |", "| --- | --- | --- | --- | --- | --- |"]
    for attack, told in figures.items():
        for figure, name in NAMES.items():
            shares = figure != "size"
            cells = [_text(told[figure][when], shares, when == "change") for when in ("before", "after", "change")]
            p = told[figure]["change"]["p"]
            called = f"{attack} (hardened with it)" if attack == trained else f"{attack} (not seen)"
            lines.append(f"| {called} | {name} | {' | '.join(cells)} | {'-' if p is None else f'{p:.2g}'} |")
    return "\n".join([*lines, "", f"{INTERVALS}."])


def _text(figure: Mapping[str, Any], share: bool, change: bool) -> str:
    def say(value: float | None) -> str:
        if value is None:
            return "-"
        if share:
            return f"{100 * value:+.0f}" if change else f"{100 * value:.0f} %"
        return f"x {value:.2f}" if change else f"{value:.3g}"

    low, high = figure["interval"]
    ends = "-" if low is None or high is None else f"{say(low)} to {say(high)}"
    return f"{say(figure['value'])} ({ends})"

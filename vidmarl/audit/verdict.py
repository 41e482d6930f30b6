"""What an audit has found, in words: the most important first, and how surely."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vidmarl import metrics
from vidmarl.audit import tables
from vidmarl.metrics.column import number, percent
from vidmarl.report.verdict import SURELY, share

if TYPE_CHECKING:
    from vidmarl.audit.result import AuditResult


def verdict(result: AuditResult) -> list[str]:
    """The sentences, in order."""
    said = [clean(result), *corrupted(result), *attacked(result), *sensitive(result)]
    return [sentence for sentence in said if sentence]


def title_of(corruption: str) -> str:
    """The name of a corruption for people, also of one that is no longer there."""
    from vidmarl.audit.corruptions import CORRUPTIONS

    return CORRUPTIONS[corruption].title if corruption in CORRUPTIONS else corruption.replace("_", " ")


def clean(result: AuditResult) -> str:
    """How often it is right about clean clips, and whether its confidence fits."""
    found = result.clean
    if result.record["settings"]["labels"] == "prediction":
        return (
            f"The clips have no labels: right means here that {result.victim} says of a changed clip what it says of"
            f" the clean one, on {found['clips']} clips."
        )
    text = f"{result.victim} is right about {share(found['right'], found['clips'])}"
    if result.record["decisions only"]:
        return f"{text}. It says nothing but a class, so there is no confidence and no sensitivity to measure."
    if (result.record["classes"] or 0) > 5:
        text += f"; the class is among its five likeliest for {percent(found['top5']['share'])}"
    return (
        f"{text}. Its confidence is off by {percent(found['calibration error'])} on average (expected calibration"
        f" error), at a mean of {percent(found['confidence'])}."
    )


def corrupted(result: AuditResult) -> list[str]:
    """What hurts most, how surely, and from which severity on half is lost."""
    table = result.corruptions
    if table.empty or not result.clean["right"]:
        return []
    mean = float(table["top1"].mean())
    by_corruption = tables.by_clip(result.answers)
    order = by_corruption.mean().sort_values(kind="stable")
    worst = str(order.index[0])
    at_most = table[table["corruption"] == worst].iloc[-1]
    count = len(order)
    said = [
        f"Corrupted, it is right about {percent(mean)} on average over {_many(count, 'corruption')} at five severities,"
        f" {percent(mean / result.clean['top1']['share'])} of its clean accuracy."
    ]
    text = (
        f"{sentence_case(title_of(worst))} hurts most: {percent(float(order.iloc[0]))} right on average,"
        f" {percent(at_most['top1'])} at severity 5 (95 % interval {_ends(at_most['top1 low'], at_most['top1 high'])})"
    )
    said.append(text + _surely(by_corruption, [str(name) for name in order.index]) + ".")
    halved = tables.halved_at(table)
    known = sorted(((at, name) for name, at in halved.items() if at is not None), key=lambda pair: pair[0])
    if known:
        parts = []
        for severity in sorted({at for at, _ in known}):
            names = [title_of(name) for at, name in known if at == severity]
            parts.append(f"from severity {severity} on under {_list(names)}")
        never = count - len(known)
        tail = f"; it never falls so far under the other {never}" if never else ""
        said.append(f"Half of the clean accuracy is lost {'; '.join(parts)}{tail}.")
    else:
        said.append("Under none of them is half of the clean accuracy lost.")
    return said


def _surely(by_corruption: pd.DataFrame, order: list[str]) -> str:
    """Whether the first of an order is surely worse than the others: Wilcoxon's test on the clips'
    differences, against 0.05 divided by the number of comparisons, as it was chosen by looking."""
    worst, others = order[0], order[1:]
    if not others:
        return ""
    pairs = {
        name: metrics.wilcoxon((by_corruption[worst] - by_corruption[name]).to_numpy().round(9)) for name in others
    }
    unsure = [title_of(name) for name, p in pairs.items() if not p < SURELY / len(others)]
    if not unsure:
        return ", surely more than every other"
    if len(unsure) == len(others):
        return ", but too few clips tell it apart from the others"
    if len(unsure) > 3:
        unsure = [*unsure[:3], f"{len(unsure) - 3} more"]
    return f", but not surely more than {_list(unsure)}"


def attacked(result: AuditResult) -> list[str]:
    """How many clips hold, and how large an attack has to be."""
    if result.attacks is None:
        return []
    budget = int(result.record["attacks"]["budget"])
    rows = result.attacks
    best = tables.smallest(rows, budget)
    tried = len(rows[["clip", "path"]].drop_duplicates())
    if best.empty:
        return [f"It is right about none of the {tried} clips that were to be attacked."]
    fooled = int(best["fooled"].sum())
    names = list(dict.fromkeys(rows["attack"]))
    said = [
        f"Under attack, {budget:,} queries each by {_list(names)}, it holds {share(len(best) - fooled, len(best))} of"
        f" those that it is right about: robust accuracy {share(len(best) - fooled, tried)}."
    ]
    sizes = best["l2"].to_numpy(float)
    median = float(np.median(sizes))
    if fooled:
        low, high = metrics.median_interval(sizes)
        interval = "" if math.isnan(float(low)) else f" (95 % interval {number(float(low))} to {number(float(high))})"
        text = (
            f"Half of these clips are fooled by a perturbation of L2 {number(median)} or less{interval}"
            if math.isfinite(median)
            else "Fewer than half of these clips are fooled; the smallest perturbation that did it took L2"
            f" {number(float(sizes.min()))}"
        )
        jod = best.loc[best["fooled"], "jod"].dropna()
        seen = (
            f"; the median successful one is {10 - float(jod.median()):.1f} JOD away from the original"
            if len(jod)
            else ""
        )
        said.append(f"{text}{seen}.")
    return said


def sensitive(result: AuditResult) -> list[str]:
    """Where in the frame and when in the clip it is sensitive, against an even spread."""
    measured = result.sensitivity
    if not measured:
        return []
    middle, late = [], []
    for one in measured:
        space, time = one.spatial.double().clamp_min(0).numpy(), one.temporal.double().clamp_min(0).numpy()
        h, w = space.shape
        inner = space[h // 4 : h - h // 4, w // 4 : w - w // 4].sum()
        if space.sum() > 0 and time.sum() > 0:
            middle.append(inner / space.sum())
            late.append((time * (np.arange(len(time)) + 0.5) / len(time)).sum() / time.sum())
    if not middle:
        return []
    h, w = measured[0].spatial.shape
    even = (h - 2 * (h // 4)) * (w - 2 * (w // 4)) / (h * w)
    when = float(np.mean(late))
    half = (
        "evenly over the clip" if 0.45 <= when <= 0.55 else f"rather in the {'second' if when > 0.5 else 'first'} half"
    )
    return [
        f"On {_many(len(measured), 'clip')}, {percent(float(np.mean(middle)))} of its sensitivity lies in the middle"
        f" {percent(even)} of the frame, and {half}."
    ]


def points(value: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * value:+.1f} points"


def sentence_case(title: str) -> str:
    """A title at the beginning of a sentence."""
    return title[:1].upper() + title[1:]


def _ends(low: float, high: float) -> str:
    return f"{percent(low).removesuffix(' %')} to {percent(high)}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _list(names: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""What came of attacks, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from vidmarl import metrics
from vidmarl.metrics.attack import own_budget
from vidmarl.metrics.column import number, percent

SURELY = 0.05
"""The p below which a difference is called sure, divided by the number of comparisons."""


def share(successes: int, of: int) -> str:
    """A share with Wilson's interval: "3 of 3 clips (100 %; 95 % interval 44 to 100 %)"."""
    if of == 0:
        return "0 of 0 clips"
    low, high = (float(end) for end in metrics.wilson(np.array(successes), of))
    ends = " to ".join(percent(end).removesuffix(" %") for end in (low, high))
    return f"{successes} of {of} clip{'' if of == 1 else 's'} ({percent(successes / of)}; 95 % interval {ends} %)"


def distortion(settings: Mapping[str, Any]) -> str:
    """The name of a distortion for people, such as "Gaussian noise"; "" where it is not known."""
    record = settings.get("distortion")
    if isinstance(record, Mapping):
        record = record.get("init_args", {}).get("function") or record.get("class_path")
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(record or "").rsplit(".", 1)[-1]).replace("_", " ")
    words = words.replace("<lambda>", "a function")
    return words if words.isupper() else words[:1].upper() + words[1:].lower()


def held(name: str, result: metrics.Outcome, victim: str | None = None) -> str:
    """How many clips the victim held against an attack, and how sure that is.

    Args:
        name: of the attack.
        result: of the attack.
        victim: its name; None: that of the result.
    """
    attacked = int((~result.skipped).sum())
    fooled = int((result.success & ~result.skipped).sum())
    under = distortion(result.settings)
    return (
        f"{victim or result.settings.get('victim', 'The victim')} held {share(attacked - fooled, attacked)} against"
        f" {name}{f' with {under}' if under else ''}, {own_budget(result):,} queries each; {fooled} fooled."
    )


def size(table: pd.DataFrame) -> str:
    """How large the perturbation of the median fooled clip is; "" where none was fooled.

    Args:
        table: of `vidmarl.metrics.clip_table`.
    """
    fooled = table[table["success"] & ~table["skipped"]]
    if fooled.empty:
        return ""
    median = fooled[[name for name in ("l2", "frames", "ssim") if name in fooled]].median()
    text = f"The median fooled clip took an L2 of {number(median['l2'])}"
    if "frames" in median:
        text += f" in {percent(median['frames'])} of its frames"
    return text + (f", SSIM {median['ssim']:.3f} (1 is no change)." if "ssim" in median else ".")


def ahead(results: Mapping[str, metrics.Outcome]) -> list[str]:
    """Which attack makes do with the least, and against which of the others that is sure.

    The leader has the smallest median L2 at the end. It is compared clip by clip with each of the
    others (`vidmarl.metrics.size_ratio`); the p is held against 0.05 divided by the number of
    comparisons (Bonferroni), because the leader was chosen by looking.
    """
    budget = {name: own_budget(result) for name, result in results.items()}
    medians = {
        name: float(metrics.best_l2_at(result, [budget[name]])[~result.skipped, 0].double().nanquantile(0.5))
        for name, result in results.items()
        if not bool(result.skipped.all())
    }
    known = {name: median for name, median in medians.items() if math.isfinite(median)}
    if len(known) < 2:
        return []
    leader = min(known, key=lambda name: known[name])
    told, unsure = [], []
    for name in known:
        if name == leader:
            continue
        found = metrics.size_ratio(results[leader], results[name])
        sure = found.high < 1 and found.p < SURELY / (len(known) - 1)  # False where one of them is NaN
        if not sure:
            unsure.append(name)
        interval = f"95 % interval {number(found.low)} to {number(found.high)}, " if not math.isnan(found.low) else ""
        chance = "too few clips to tell" if math.isnan(found.low) else f"p = {number(found.p)}"
        told.append(
            f"{leader} took {number(found.ratio)} times the L2 of {name}, median over {found.clips} clips"
            f" ({interval}{chance}): {'surely less' if sure else 'no sure difference'}."
        )
    how = f"but not surely of {', '.join(unsure)}" if unsure else "surely of all others"
    head = f"{leader} is ahead with a median L2 of {number(known[leader])} (a failure counts in full), {how}."
    return [head, *told]

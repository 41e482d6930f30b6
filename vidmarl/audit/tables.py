"""What the answers and the attacks of an audit come to: shares with their intervals, by corruption,
severity, budget and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vidmarl import metrics
from vidmarl.audit.answers import CLEAN

if TYPE_CHECKING:
    import pandas as pd

BINS = 15
"""Of the calibration error."""


def share(right: int, of: int) -> dict[str, float]:
    """A share and its Wilson interval."""
    low, high = (float(end) for end in metrics.wilson(np.array(right), of))
    return {"share": right / of if of else math.nan, "low": low, "high": high}


def clean_figures(answers: pd.DataFrame) -> dict[str, Any]:
    """How often the victim is right about clean clips, and how well its confidence fits.

    Args:
        answers: of `Questionnaire.ask`.

    Returns:
        "clips", "right" and "among five" as counts, "top1" and "top5" with their intervals,
        "confidence" (mean) and "calibration error" (expected, 15 bins; Guo et al. 2017).
    """
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    clean = answers[answers["corruption"] == CLEAN]
    right = torch.tensor((clean["rank"] == 0).to_numpy())
    confidence = torch.tensor(clean["confidence"].to_numpy(float)).clamp(0, 1)
    n, first, five = len(clean), int(right.sum()), int((clean["rank"] < 5).sum())
    return {
        "clips": n,
        "right": first,
        "among five": five,
        "top1": share(first, n),
        "top5": share(five, n),
        "confidence": float(confidence.mean()),
        # of two classes, "right" and "wrong", where the confidence is the probability of the first
        "calibration error": float(binary_calibration_error(confidence, right.int(), n_bins=BINS, norm="l1")),
    }


def corruption_table(answers: pd.DataFrame) -> pd.DataFrame:
    """A row for each corruption and severity: how often the victim was right.

    Returns:
        "family", "corruption", "severity", "clips", "top1", "top1 low", "top1 high", "top5",
        "confidence" (mean), and "relative" (top1 / clean top1; the relative robustness of Schiappa
        et al. 2023, `1 - (A_clean - A) / A_clean`).
    """
    import pandas as pd

    clean = float((answers[answers["corruption"] == CLEAN]["rank"] == 0).mean())
    rows = []
    for (name, severity), of in answers[answers["corruption"] != CLEAN].groupby(["corruption", "severity"], sort=False):
        right = int((of["rank"] == 0).sum())
        found = share(right, len(of))
        rows.append(
            {
                "family": of["family"].iloc[0],
                "corruption": name,
                "severity": severity,
                "clips": len(of),
                "top1": found["share"],
                "top1 low": found["low"],
                "top1 high": found["high"],
                "top5": float((of["rank"] < 5).mean()),
                "confidence": float(of["confidence"].mean()),
                "relative": found["share"] / clean if clean else math.nan,
            }
        )
    return pd.DataFrame(rows)


def halved_at(table: pd.DataFrame) -> dict[str, int | None]:
    """The first severity of each corruption at which no more than half of the clean accuracy is
    left; None: it never falls so far.

    Args:
        table: of `corruption_table`.
    """
    found: dict[str, int | None] = {}
    for name, of in table.groupby("corruption", sort=False):
        halved = of[of["relative"] <= 0.5]["severity"]
        found[str(name)] = int(halved.min()) if len(halved) else None
    return found


def by_clip(answers: pd.DataFrame) -> pd.DataFrame:
    """The share of severities at which the victim is right: a row for each clip, a column for each
    corruption."""
    corrupted = answers[answers["corruption"] != CLEAN]
    right = (corrupted["rank"] == 0).astype(float)
    names = list(dict.fromkeys(corrupted["corruption"]))
    return right.groupby([corrupted["key"], corrupted["corruption"]], sort=False).mean().unstack()[names]


def robust_at(rows: pd.DataFrame, budgets: Sequence[int]) -> pd.DataFrame:
    """Robust accuracy: clips that the victim is right about and that no attack has fooled within a
    budget, of all clips tried.

    Args:
        rows: of a benchmark, a row for each clip and attack.
        budgets: queries per clip of each attack.

    Returns:
        "budget", "clips", "right" (a count), "accuracy", "low", "high"; the first row is that of
        budget 0, the clean clips.
    """
    import pandas as pd

    groups = rows.groupby(_clip_key(rows), sort=False)
    right = ~groups["skipped"].any()
    found = []
    for budget in (0, *budgets):
        fooled = groups[f"success@{budget}"].any() if budget else pd.Series(False, right.index)
        held = int((right & ~fooled).sum())
        one = share(held, len(right))
        found.append(
            {
                "budget": budget,
                "clips": len(right),
                "right": held,
                "accuracy": one["share"],
                "low": one["low"],
                "high": one["high"],
            }
        )
    return pd.DataFrame(found)


def smallest(rows: pd.DataFrame, budget: int) -> pd.DataFrame:
    """The smallest success of any attack on each clip that the victim is right about.

    Args:
        rows: of a benchmark.
        budget: queries per clip of each attack.

    Returns:
        A row for each clip: "clip", "path", "fooled", "l2" and "rms" (the root mean square of the
        change; both infinite where none has fooled it), and "jod" of that success where it was
        measured.
    """
    import pandas as pd

    found = []
    for _, of in rows[~rows["skipped"]].groupby(_clip_key(rows), sort=False):
        sizes = of[f"l2@{budget}"].where(of[f"success@{budget}"], math.inf)
        best = of.loc[sizes.idxmin()]
        fooled = bool(np.isfinite(sizes.min()))
        found.append(
            {"clip": best["clip"], "path": best["path"], "fooled": fooled, "l2": float(sizes.min())}
            | {"rms": 10 ** (-float(best["psnr"]) / 20) if fooled else math.inf}
            | {"jod": float(best["jod"]) if fooled and "jod" in of else math.nan}
        )
    return pd.DataFrame(found, columns=["clip", "path", "fooled", "l2", "rms", "jod"])


def robust_below(rows: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Robust accuracy against the size of what an attack may do: of all clips tried, those that the
    victim is right about and that no attack has fooled with less.

    Args:
        rows: of a benchmark.
        budget: queries per clip of each attack.

    Returns:
        "l2" (rising; each is the size at which one more clip is lost), "accuracy", "low", "high".
        The first row is that of size 0.
    """
    import pandas as pd

    tried = len(rows[_clip_key(rows)].drop_duplicates())
    best = smallest(rows, budget)
    sizes = np.sort(best["l2"].to_numpy(float))
    sizes = sizes[np.isfinite(sizes)]
    held = len(best) - np.arange(len(sizes) + 1)
    low, high = metrics.wilson(held, tried)
    return pd.DataFrame({"l2": [0.0, *sizes], "accuracy": held / max(tried, 1), "low": low, "high": high})


def _clip_key(rows: pd.DataFrame) -> list[str]:
    return ["clip", "path"]

"""The report of a benchmark: tables and curves by victim and distortion, one HTML file that works
offline.

The page is `report.html.j2` (escaped by Jinja), in the looks of the other report (`report.css`,
`charts.js`), under the same content security policy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidmarl.benchmark.trials import Trials
from vidmarl.report.html import number, percent, script_json
from vidmarl.utils.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, str]
"""(victim, distortion)."""


def write_benchmark_report(
    path: str | Path,
    results: Mapping[Key, Mapping[str, Trials]],
    summaries: Mapping[Key, pd.DataFrame],
    *,
    reference: str,
    title: str = "Benchmark",
) -> Path:
    """Writes what came of a benchmark.

    Args:
        path: the file; it appears whole or not at all.
        results: by (victim, distortion) and attack.
        summaries: of `vidmarl.benchmark.summarise`.
        reference: the attack that the others are compared with.
        title: of the page.

    Returns:
        The path.
    """
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    from vidmarl._version import __version__
    from vidmarl.report import figures, html

    here = Path(__file__)
    looks = Path(html.__file__)  # of all reports
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(here.with_name("report.html.j2").read_text(encoding="utf-8"))
    curves = [json.loads(figures.budget_curves(attacks).to_json()) for attacks in results.values()]
    text = page.render(
        title=title,
        version=__version__,
        reference=reference,
        sections=[_section(key, attacks, summaries[key]) for key, attacks in results.items()],
        data=script_json({"curves": curves}),
        style=looks.with_name("report.css").read_text(encoding="utf-8"),
        script="".join(
            path.read_text(encoding="utf-8") for path in (looks.with_name("charts.js"), here.with_name("report.js"))
        ),
        plotly=get_plotlyjs(),
    )
    return write_atomically(path, text)


def _section(key: Key, attacks: Mapping[str, Trials], summary: pd.DataFrame) -> dict[str, Any]:
    victim, distortion = key
    return {
        "victim": victim,
        "distortion": distortion,
        "clips": int(summary["clips"].max()),
        "skipped": int(summary["skipped"].max()),
        "rows": [_row(row) for row in summary.to_dict("records")],
        "settings": {
            name: {
                k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in trials.settings.items()
            }
            for name, trials in attacks.items()
        },
    }


def _row(row: dict[Any, Any]) -> dict[str, Any]:
    """A line of the table: its attack, its other cells, and whether its size is that of the best
    control."""
    cells = [
        number(int(row["budget"])),
        f"{percent(row['FR'])} ({percent(row['FR low'])} to {percent(row['FR high'])})",
        *(number(row[key]) for key in ("AQ", "AQ+")),
        _with_interval(row, "AQ first", " low", " high"),
        number(row["AQ+ first"]),
        _with_interval(row, "L2", " low", " high"),
        *(text for name in ("L2", "AQ") for text in _comparison(row, name)),
        *(number(row.get(key)) for key in ("map", "ssim", "stlpips", "flicker_share", "warping_share")),
        number(int(row["training queries"])),
    ]
    return {"attack": row["attack"], "cells": cells, "best": bool(row["best control"])}


def _with_interval(row: dict[Any, Any], key: str, low: str, high: str) -> str:
    return f"{number(row[key])} ({number(row[key + low])} to {number(row[key + high])})"


def _comparison(row: dict[Any, Any], name: str) -> list[str]:
    """The ratio to the reference and its p; empty for the reference itself."""
    if math.isnan(row[f"{name} ratio"]):
        return ["", ""]
    return [_with_interval(row, f"{name} ratio", " low", " high"), number(row[f"{name} p"])]

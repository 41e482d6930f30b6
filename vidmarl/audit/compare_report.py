"""The page of two audits beside each other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from vidmarl.audit import figures
from vidmarl.audit.verdict import points, title_of
from vidmarl.metrics.column import number, percent
from vidmarl.utils.tables import to_csv

if TYPE_CHECKING:
    from vidmarl.audit.compare import AuditComparison, Paired


def write_comparison_report(path: Path, comparison: AuditComparison) -> Path:
    """Writes the page, one file that needs nothing but a browser.

    Args:
        path: the file; it appears whole or not at all.
        comparison: of two audits.
    """
    from vidmarl.report.page import write_page

    results, table = comparison.results, comparison.table
    sizes, curves = [], []
    if len(table):
        curves.append(comparison.plot())
        clean = {name: of.clean["top1"]["share"] for name, of in results.items()}
        sizes.append(figures.by_severity({name: of.corruptions for name, of in results.items()}, clean))
    if comparison.held is not None:
        at, below = (
            {name: of.record["attacks"][key] for name, of in results.items()}
            for key in ("accuracy at budgets", "accuracy below sizes")
        )
        sizes.append(figures.robust(at, below))
    first, second = comparison.names
    return write_page(
        path,
        Path(__file__).with_name("compare.html.j2"),
        title=f"{first} and {second}",
        data={
            "fps": 5.0,
            "curves": curves,
            "sizes": sizes,
            "clips": {},
            "files": {"compare.csv": to_csv(table)},
        },
        verdict=comparison.verdict,
        tiles=[
            (name, _pair(of), _difference(of))
            for name, of in (
                ("Right about clean clips", comparison.clean),
                ("Right about corrupted ones", comparison.corrupted),
                ("Held under attack", comparison.held),
            )
            if of is not None
        ],
        names=(first, second),
        height=curves[0].layout.height if curves else 0,
        attacked=comparison.held is not None,
        rows=[
            {
                "corruption": title_of(row["corruption"]),
                "family": row["family"],
                first: percent(row["first"]),
                second: percent(row["second"]),
                "difference": points(row["difference"]),
                "95 % interval": "-" if math.isnan(row["low"]) else f"{points(row['low'])} to {points(row['high'])}",
                "p": number(row["p"]),
            }
            for row in table.sort_values("difference", key=abs, ascending=False).to_dict("records")
        ],
        settings=[
            (f"{name}: {key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for name, of in results.items()
            for key, value in ({"folder": str(of.folder)} | of.record["settings"] | of.record["provenance"]).items()
        ],
    )


def _pair(of: Paired) -> str:
    return f"{percent(of.first)} / {percent(of.second)}"


def _difference(of: Paired) -> str:
    if math.isnan(of.low):
        return f"{points(of.difference)}; too few clips to tell, or all alike"
    return f"{points(of.difference)}, 95 % interval {points(of.low)} to {points(of.high)}"

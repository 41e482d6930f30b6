"""Makes the files of docs/results/ about audits, and the picture of docs/audit.md, from folders of
`vidmarl audit`:

    python docs/make_audits.py outputs/audit/movinet outputs/audit/lrcn ...

The picture is of the last one; it needs the extra `export`, and Chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from vidmarl.audit import AuditResult, tables
from vidmarl.utils.tables import to_csv

DOCS = Path(__file__).parent


def summary(result: AuditResult) -> dict[str, object]:
    """What one wants to know of a victim at a glance."""
    clean, table = result.clean, result.corruptions
    order = table.groupby("corruption", sort=False)["top1"].mean().sort_values(kind="stable")
    halved = tables.halved_at(table)
    row: dict[str, object] = {
        "victim": result.victim,
        "clips": clean["clips"],
        "top1": clean["top1"]["share"],
        "top1 low": clean["top1"]["low"],
        "top1 high": clean["top1"]["high"],
        "top5": clean["top5"]["share"],
        "calibration error": clean["calibration error"],
        "corrupted": table["top1"].mean(),
        "worst": order.index[0],
        "worst top1": order.iloc[0],
        "halved by": sum(at is not None for at in halved.values()),
        "corruptions": len(halved),
    }
    if result.attacks is not None:
        end = result.record["attacks"]["accuracy at budgets"][-1]
        best = tables.smallest(result.attacks, end["budget"])
        row |= {"budget": end["budget"], "attacked": end["clips"], "robust": end["accuracy"]}
        row |= {"robust low": end["low"], "robust high": end["high"], "median L2": best["l2"].median()}
    return row | {"queries of this run": result.record["queries of this run"]}


def main(folders: list[str]) -> None:
    results = [AuditResult.load(folder) for folder in folders]
    rows = pd.DataFrame([summary(result) for result in results])
    Path(DOCS, "results", "audits.csv").write_text(to_csv(rows), "utf-8")
    for folder, result in zip(folders, results, strict=True):
        Path(DOCS, "results", f"audit_{Path(folder).name}.csv").write_text(to_csv(result.corruptions), "utf-8")
        print("\n".join(result.verdict), end="\n\n")
    figure = results[-1].plot()
    figure.update_layout(paper_bgcolor="white", font={"color": "#222"}, width=560)
    figure.write_image(DOCS / "screenshots" / "audit_heat_map.png", scale=1.2)


if __name__ == "__main__":
    main(sys.argv[1:])

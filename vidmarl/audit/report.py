"""The page of an audit: the verdict, pictures, the heat map and curves, tables folded."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidmarl.audit import figures, tables
from vidmarl.audit.corruptions import SEVERITIES
from vidmarl.audit.verdict import title_of
from vidmarl.metrics.column import number, percent
from vidmarl.utils.tables import to_csv, to_latex

if TYPE_CHECKING:
    import pandas as pd

    from vidmarl.audit.result import AuditResult

WORST = 3
"""Corruptions whose pictures are not folded."""

MOST_CLIPS = 6
"""Attacked clips that are shown frame by frame."""


def write_audit_report(path: str | Path, result: AuditResult) -> Path:
    """Writes the page of an audit, one file that needs nothing but a browser.

    Args:
        path: the file; it appears whole or not at all.
        result: the audit.
    """
    from vidmarl.report.page import write_page

    table = result.corruptions
    clean = result.clean
    attacks = result.record["attacks"]
    curves, sizes = [], []
    if len(table):
        curves.append(result.plot())
        sizes.append(figures.by_severity({result.victim: table}, {result.victim: clean["top1"]["share"]}))
    if attacks:
        at, below = ({result.victim: attacks[key]} for key in ("accuracy at budgets", "accuracy below sizes"))
        sizes.append(figures.robust(at, below))
    average = figures.average_sensitivity(result.sensitivity) if result.sensitivity else None
    maps = [average] if average is not None else []
    single = result.sensitivity if average is None or len(result.sensitivity) > 1 else []
    maps += [figures.of_clip(one) for one in single]
    shown = _attacked_clips(result)
    return write_page(
        path,
        Path(__file__).with_name("report.html.j2"),
        title=f"Audit of {result.victim}",
        data={
            "fps": 5.0,
            "curves": curves,
            "sizes": [*sizes, *maps],
            "clips": shown.pop("data"),
            "files": {"corruptions.csv": to_csv(table), "corruptions.tex": to_latex(wide(table))} if len(table) else {},
        },
        verdict=result.verdict,
        tiles=tiles(result),
        heat=curves[0].layout.height if curves else 0,
        galleries=_galleries(result, table),
        pictured=(result.record["pictures"] or {}).get("clip"),
        attacked=shown,
        sensitivity={"average": average is not None, "clips": [one.name for one in single]},
        corruptions=wide(table).to_dict("records"),
        robust=_robust_rows(result),
        severities=[
            (title_of(name), of["setting"], ", ".join(map(_plain, of["values"])), of["source"])
            for name, of in result.record["severities"].items()
        ],
        settings=_settings(result),
    )


def tiles(result: AuditResult) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, detail."""
    clean, table = result.clean, result.corruptions
    found = [("Right about clean clips", percent(clean["top1"]["share"]), _interval(clean["top1"]))]
    if len(table):
        found.append(
            ("Right about corrupted ones", percent(float(table["top1"].mean())), "mean over corruptions and severities")
        )
    if result.attacks is not None:
        end = result.record["attacks"]["accuracy at budgets"][-1]
        found.append((f"Robust accuracy, {end['budget']:,} queries", percent(end["accuracy"]), _interval(end)))
        best = tables.smallest(result.attacks, end["budget"])
        median = float(best["l2"].median()) if len(best) else math.nan
        held = "more than the attacks found" if math.isinf(median) else number(median)
        found.append(("L2 that fools half of them", held, "of the clips it is right about"))
    return found


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The corruptions as a table for people: a row each, the worst first, a column for each
    severity."""
    import pandas as pd

    if table.empty:
        return pd.DataFrame()
    halved = tables.halved_at(table)
    order = table.groupby("corruption", sort=False)["top1"].mean().sort_values(kind="stable")
    rows = []
    for name, mean in order.items():
        of = table[table["corruption"] == name].set_index("severity")
        cells = {
            f"severity {s}": f"{percent(of['top1'][s])} ({of['top1 low'][s]:.0%} to {of['top1 high'][s]:.0%})"
            for s in SEVERITIES
        }
        at = halved[str(name)]
        rows.append(
            {"corruption": title_of(str(name)), "family": of["family"].iloc[0], **cells, "mean": percent(float(mean))}
            | {"halved at": "never" if at is None else str(at)}
        )
    return pd.DataFrame(rows)


def _galleries(result: AuditResult, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Pictures of one clip under each corruption, the worst first, with the share that is right."""
    pictured = result.record["pictures"]
    if not pictured or table.empty:
        return []
    folder = result.folder / "pictures" / pictured["folder"]
    said = result.answers[result.answers["key"] == pictured["key"]].set_index(["corruption", "severity"])["answer"]
    right = table.set_index(["corruption", "severity"])["top1"]
    order = table.groupby("corruption", sort=False)["top1"].mean().sort_values(kind="stable").index
    found = []
    for rank, name in enumerate(order):
        parts = [
            {
                "severity": severity,
                "url": url,
                "right": percent(float(right[name, severity])),
                "says": said[name, severity],
            }
            for severity in SEVERITIES
            if (url := _picture(folder / f"{name}-{severity}.jpg"))
        ]
        found.append({"title": title_of(str(name)), "parts": parts, "folded": rank >= WORST})
    return found


def _picture(path: Path) -> str:
    """A picture file as a data URL; "" where it is gone."""
    try:
        return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError:
        return ""


def _attacked_clips(result: AuditResult) -> dict[str, Any]:
    """The median, the easiest and the hardest clips under each attack, for the page."""
    from vidmarl.report import verdict
    from vidmarl.report.clips import articles, attacked_clips, clip_data, typical_clips

    trials = result.trials()
    if not trials or not (attacked := attacked_clips(trials)):
        return {"articles": [], "several": False, "data": {}, "verdict": []}
    typical = typical_clips(trials)
    rows = [*typical, *(i for i in attacked if i not in typical)][:MOST_CLIPS]
    shown = {name: of.to_result(rows) for name, of in trials.items()}
    names = [next(iter(trials.values())).facts[i]["clip"] for i in rows]
    keys = [f"attacked-{i}" for i in rows]
    return {
        "articles": articles(shown, keys, names, [typical.get(i, "") for i in rows]),
        "several": len(shown) > 1,
        "data": clip_data(shown, keys),
        "verdict": [*verdict.ahead(trials), *(verdict.held(name, of, result.victim) for name, of in trials.items())],
    }


def _robust_rows(result: AuditResult) -> list[tuple[str, str]]:
    if result.attacks is None:
        return []
    return [
        (f"{row['budget']:,} queries" if row["budget"] else "clean", f"{percent(row['accuracy'])} ({_interval(row)})")
        for row in result.record["attacks"]["accuracy at budgets"]
    ]


def _interval(of: dict[str, Any]) -> str:
    return f"95 % interval {percent(of['low']).removesuffix(' %')} to {percent(of['high'])}"


def _plain(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _settings(result: AuditResult) -> list[tuple[str, str]]:
    """All that one has to know to get it again."""
    record = result.record
    told = {"data": record["data"], "queries of this run": record["queries of this run"]}
    told |= record["settings"] | {f"made with: {key}": value for key, value in record["provenance"].items()}
    return [(key, of if isinstance(of, str) else json.dumps(of, ensure_ascii=False)) for key, of in told.items()]

"""The report: one HTML file that needs nothing but a browser.

The page is `report.html.j2` (escaped by Jinja), its looks are `report.css`, its sliders
`report.js`. A content security policy in its head forbids it to load anything at all from anywhere.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl import metrics
from vidmarl.attacks.result import AttackResult
from vidmarl.report import pictures
from vidmarl.utils.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = {
    "clip": "Clip",
    "label": "Label",
    "outcome": "Outcome",
    "queries": "Queries",
    "first_success": "First success",
    "l2": "L2",
    "map": "MAP",
    "frames": "Frames",
    "cells": "Cells",
    "ssim": "SSIM",
    "flicker": "Flicker",
}


def write_report(
    path: str | Path,
    results: AttackResult | Mapping[str, AttackResult],
    *,
    title: str = "Robustness report",
    labels: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    budgets: Sequence[int] = metrics.BUDGETS,
    max_clips: int = 12,
    fps: float = 5.0,
) -> Path:
    """Writes what came of one attack, or of several on the same clips, as one self-contained HTML
    file.

    Args:
        path: the file; it appears whole or not at all.
        results: a result, or results by the name to show.
        title: of the page.
        labels: class names; default those in the results.
        names: of the clips, such as their file names; default "clip 0" and so on.
        budgets: the query budgets of the summary.
        max_clips: how many of the attacked clips are shown frame by frame, which is most of the
            file's size; the summary and the table hold all.
        fps: frames a second when the slider plays.

    Returns:
        The path.

    Raises:
        ValueError: there is no clip, the results are on different clips, or the names are not one
            for each.
        OSError: the file cannot be written.
    """
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    from vidmarl._version import __version__

    if isinstance(results, AttackResult):
        results = {str(results.settings.get("attack", "attack")): results}
    if labels is not None:
        results = {
            k: dataclasses.replace(r, settings=r.settings | {"labels": list(labels)}) for k, r in results.items()
        }
    names = _validated(results, names)
    attacked = ~torch.stack([result.skipped for result in results.values()]).all(0)
    shown = attacked.nonzero().flatten()[:max_clips].tolist()
    here = Path(__file__)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(here.with_name("report.html.j2").read_text(encoding="utf-8"))
    tables = {name: metrics.summarise(result, [*budgets, _budget(result)]) for name, result in results.items()}
    text = page.render(
        title=title,
        version=__version__,
        headlines=[_headline(name, result, tables[name]) for name, result in results.items()],
        summary=[row for name, table in tables.items() for row in _summary(name, table)],
        several=len(results) > 1,
        columns=_COLUMNS,
        rows=[row for name, result in results.items() for row in _rows(name, result, names, shown)],
        clips=[_clip(i, names[i], results) for i in shown],
        unshown=int(attacked.sum()) - len(shown),
        settings={name: _settings(result) for name, result in results.items()},
        data=script_json({"fps": fps, "colours": [pictures.MORE, pictures.LESS]} | _data(results, shown)),
        style=here.with_name("report.css").read_text(encoding="utf-8"),
        script="".join(here.with_name(name).read_text(encoding="utf-8") for name in ("charts.js", "report.js")),
        plotly=get_plotlyjs(),
    )
    return write_atomically(path, text)


def _validated(results: Mapping[str, AttackResult], names: Sequence[str] | None) -> list[str]:
    """The names of the clips, if the results can be shown side by side."""
    if not results or any(len(result) == 0 for result in results.values()):
        raise ValueError("Writing a report: expected at least one result with at least one clip.")
    first, *others = results.values()
    for other in others:
        if other.clean.shape != first.clean.shape or not torch.equal(other.clean, first.clean):
            raise ValueError(
                "Writing a report on several attacks: expected results on the same clips in the same order, got"
                f" {tuple(first.clean.shape)} and {tuple(other.clean.shape)}, or clips of different content. Write a"
                " report for each."
            )
    if names is not None and len(names) != len(first):
        raise ValueError(f"Writing a report on {len(first)} clips: got {len(names)} names.")
    return [f"clip {i}" for i in range(len(first))] if names is None else [str(name) for name in names]


def number(value: float | int | None) -> str:
    """A number for people: whole ones with commas, others to three significant digits, a dash where
    there is none."""
    if isinstance(value, int):
        return f"{value:,}"
    if value is None or not math.isfinite(value):
        return "∞" if value == math.inf else "—"
    if value == 0:
        return "0"
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e3 else f"{value:,.0f}" if value > 1 else f"{value:.1e}"


def percent(value: float) -> str:
    if math.isnan(value):
        return "—"
    return f"{100 * value:.0f} %" if value == 0 or value >= 0.1 else f"{100 * value:.2g} %"


def _budget(result: AttackResult) -> int:
    """Queries that the attack had for a clip."""
    return int(result.settings.get("budget", result.queries.max()))


def _headline(name: str, result: AttackResult, table: pd.DataFrame) -> dict[str, Any]:
    """The figures at the top, for the whole of an attack."""
    attacked = int((~result.skipped).sum())
    row = table.iloc[-1]
    return {
        "name": name,
        "victim": str(result.settings.get("victim", "the victim")),
        "fooled": int((result.success & ~result.skipped).sum()),
        "attacked": attacked,
        "skipped": len(result) - attacked,
        "budget": _budget(result),
        "tiles": [
            ("Fooled", percent(row["FR"]), f"95 % interval {percent(row['FR low'])} to {percent(row['FR high'])}"),
            ("Queries per clip", number(row["AQ"]), f"{number(row['AQ first'])} until the first success or the end"),
            ("Median L2", number(row["L2"]), f"95 % interval {number(row['L2 low'])} to {number(row['L2 high'])}"),
            ("SSIM of the fooled", number(row.get("ssim", math.nan)), "1 is no visible change"),
        ],
    }


def _summary(name: str, table: pd.DataFrame) -> list[list[str]]:
    """The rows of the table over query budgets."""
    return [
        [
            name,
            number(int(row["budget"])),
            f"{percent(row['FR'])} ({percent(row['FR low'])} to {percent(row['FR high'])})",
            *(number(row[key]) for key in ("AQ", "AQ+", "AQ first", "AQ+ first")),
            f"{number(row['L2'])} ({number(row['L2 low'])} to {number(row['L2 high'])})",
        ]
        for row in table.to_dict("records")
    ]


def _rows(name: str, result: AttackResult, names: list[str], shown: list[int]) -> list[dict[str, Any]]:
    """The rows of the table of clips: for each column the text and the value to sort by."""
    first = metrics.first_success(result).tolist()
    table = []
    for row in result.metrics().to_dict("records"):
        i = int(row["clip"])
        texts = {"clip": names[i], "label": row["goal"], "outcome": result.outcomes[i]}
        numbers = {
            "queries": int(row["queries"]),
            "first_success": first[i] or None,
            **{key: row[key] for key in ("l2", "map", "frames", "cells", "ssim", "flicker")},
        }
        cells = [(text, text, "text") for text in texts.values()]
        for key, value in numbers.items():
            text = percent(value) if key in ("frames", "cells") else number(value)
            missing = value is None or math.isnan(value)
            cells.append((text, "" if missing else repr(float(value)), "number"))
        table.append({"attack": name, "clip": i, "shown": i in shown, "outcome": texts["outcome"], "cells": cells})
    return table


def _clip(i: int, name: str, results: Mapping[str, AttackResult]) -> dict[str, Any]:
    """What the page says about a clip that it shows."""
    runs = []
    for attack, result in results.items():
        one = result[i]
        runs.append(
            {
                "attack": attack,
                "outcome": one.outcomes[0],
                "queries": int(one.queries),
                "l2": number(float(metrics.l2(one.clean, one.adversarial))),
                "prediction": one.label(int(one.adversarial_prediction)),
                "goal": one.label(int(one.classes)),
                "targeted": bool(one.settings.get("targeted")),
            }
        )
    first = next(iter(results.values()))
    return {
        "index": i,
        "name": name,
        "prediction": first.label(int(first.prediction[i])),
        "frames": first.clean.shape[2],
        "size": tuple(first.clean.shape[-2:]),
        "runs": runs,
    }


def _settings(result: AttackResult) -> list[tuple[str, str]]:
    return [
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in result.settings.items()
        if key != "labels"
    ]


def _data(results: Mapping[str, AttackResult], shown: list[int]) -> dict[str, Any]:
    """Pictures and charts, for the script of the page."""
    from vidmarl.report import figures

    gains = [pictures.gain(r.clean[shown], r.adversarial[shown]) for r in results.values()] if shown else [1]
    amplified = min(gains)  # one for the whole page, so that clips and attacks can be compared by eye
    first = next(iter(results.values()))
    return {
        "gain": amplified,
        "curves": json.loads(figures.budget_curves(results).to_json()),
        "clips": {
            str(i): {
                "frames": first.clean.shape[2],
                "height": first.clean.shape[3],
                "width": first.clean.shape[4],
                "clean": _picture(pictures.to_frames(first.clean[i])),
                "runs": [_run(result, i, amplified) for result in results.values()],
            }
            for i in shown
        },
    }


def _picture(frames: Any) -> dict[str, Any]:
    url, columns = pictures.sprite(frames)
    return {"url": url, "columns": columns}


def _run(result: AttackResult, i: int, amplified: int) -> dict[str, Any]:
    from vidmarl.report import figures

    clean, adversarial, strength = result.clean[i], result.adversarial[i], result.strength[i]
    cell = result.settings.get("grid") or pictures.cell_size(clean, strength)
    return {
        "attacked": _picture(pictures.to_frames(adversarial)),
        "difference": _picture(pictures.difference(clean, adversarial, amplified)),
        "cell": list(cell),
        "strength": _sparse(strength),
        "when": (adversarial - clean).square().sum((0, 2, 3)).sqrt().tolist(),
        "chart": json.loads(figures.trajectory(result, i).to_json()),
    }


def _sparse(strength: Float[Tensor, "gt gh gw"]) -> list[list[tuple[int, int, float]]]:
    """For each step of the map in time, its tubelets that are not 0: row, column, strength."""
    return [[(int(y), int(x), round(float(cells[y, x]), 3)) for y, x in cells.nonzero()] for cells in strength]


def script_json(data: Any) -> str:
    """JSON that no text in it can break out of: in a script element only `<` could end or comment
    anything."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")

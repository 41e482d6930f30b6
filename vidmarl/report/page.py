"""What all reports share: one HTML file that needs nothing but a browser.

The templates are `*.html.j2` (escaped by Jinja), the looks `report.css`, the sliders and charts
`charts.js` and `report.js`. A content security policy in the head of the page forbids it to load
anything at all from anywhere.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vidmarl._version import __version__
from vidmarl.metrics import FIGURES, INTERVALS, Column, Outcome, shown_metrics
from vidmarl.report import pictures
from vidmarl.utils.files import write_atomically

FOLDER = Path(__file__).parent


def write_page(path: str | Path, template: Path, *, title: str, data: Mapping[str, Any], **parts: Any) -> Path:
    """Writes a page.

    Args:
        path: the file; it appears whole or not at all.
        template: the page's own template, which extends `base.html.j2`.
        title: of the page.
        data: for the scripts of the page: "curves" and "sizes", lists of figures of plotly;
            "files", texts to download by their name; "clips" and "fps".
        **parts: what the template asks for besides.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = {kind: [json.loads(figure.to_json()) for figure in data[kind]] for kind in ("curves", "sizes")}
    text = environment.get_template(template.name).render(
        title=title,
        version=__version__,
        notes=notes,
        intervals=INTERVALS,
        data=script_json({**data, **charts, "colours": [pictures.MORE, pictures.LESS]}),
        style=(FOLDER / "report.css").read_text(encoding="utf-8"),
        script="".join((FOLDER / name).read_text(encoding="utf-8") for name in ("charts.js", "report.js")),
        plotly=packed_plotly(),
        **parts,
    )
    return write_atomically(path, text)


@functools.cache
def packed_plotly() -> str:
    """The whole of Plotly's script, packed by gzip and as base64: 2.0 MB in place of 4.8.

    `charts.js` unpacks it once the page is shown.

    Plotly's partial bundles are not in its Python package. The smallest, of 1.2 MB, would be a copy
    of another project's file here, and of another version than the figures are made for.
    """
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode("utf-8"), mtime=0)  # so that equal pages are equal
    return base64.b64encode(packed).decode("ascii")


def notes(columns: Iterable[Column]) -> str:
    """What columns mean, for the text below a table. Arrows point to the better values."""
    return "; ".join(column.note for column in columns) + "."


def summary_rows(
    attack: str, table: pd.DataFrame, columns: Sequence[Column], bold: str | None = None
) -> list[dict[str, Any]]:
    """The rows of a table over query budgets, for the macro `summary`.

    Args:
        attack: its name.
        table: a row per budget.
        columns: what to show of it.
        bold: the column to print in bold where the column "best control" of the row is true.
    """
    return [
        {
            "attack": attack,
            "cells": {column.name: column.cell(row) for column in columns},
            "bold": bold if row.get("best control") else None,
        }
        for row in table.to_dict("records")
    ]


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """A table over query budgets as text: the attack, the figures and the metrics that people are
    shown, with their intervals."""
    columns = [*FIGURES, *shown_metrics(table)]
    rows = table.to_dict("records")
    return pd.DataFrame(
        {"Attack": [row["attack"] for row in rows]} | {of.label: [of.cell(row) for row in rows] for of in columns}
    )


def setting_rows(result: Outcome) -> list[tuple[str, str]]:
    """The settings of an attack as text, and where its result comes from, if it says so; the
    victim's class names are left out."""
    origin = {f"made with: {key}": value for key, value in getattr(result, "provenance", {}).items()}
    return [
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in (result.settings | origin).items()
        if key != "labels"
    ]


def script_json(data: Any) -> str:
    """JSON that no text in it can break out of: in a script element only `<` could end or comment
    anything."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")

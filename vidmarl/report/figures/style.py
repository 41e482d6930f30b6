"""The looks that all figures share: colours, lines, and what suits a page whether it is light or
dark."""

from __future__ import annotations

import html
import os
from typing import Any

import plotly.graph_objects as go
import plotly.io

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""One per attack, in the order given: those of Okabe and Ito that can be told from each other with
any colour vision, and read on white and on black."""

DASHES = ("solid", "dash", "dot")
"""Taken in turn when the colours are used up."""

INK = "#767676"
"""A grey that is readable on white and, in a dark notebook, on black."""

LINE = "rgba(128,128,128,0.25)"

STRENGTHS = [[0, "rgba(213,94,0,0)"], [0.5, "rgba(213,94,0,0.55)"], [1, "rgba(213,94,0,1)"]]
"""A colour scale from nothing to vermilion, on pages of any colour."""

if plotly.io.renderers.default == "plotly_mimetype" and "PLOTLY_RENDERER" not in os.environ:
    # Plotly's own choice within Jupyter, which `jupyter nbconvert --to html` drops
    plotly.io.renderers.default = "plotly_mimetype+notebook"

_AXIS = {"gridcolor": LINE, "zeroline": False, "title": {"font": {"size": 13}}}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": INK},
        "title": {"font": {"size": 16}, "x": 0.01, "xanchor": "left"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 16, "t": 48, "b": 48},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "hovermode": "x unified",
    }
)


def line(index: int, **changes: Any) -> dict[str, Any]:
    """The line of the attack of that number; no two of the first 18 are alike."""
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[index % len(COLOURS)], "width": 2, "dash": dash} | changes


def plain(text: object) -> str:
    """Text that a figure shows as it is: plotly would take markup in it for its own."""
    return html.escape(str(text))


def shortened(text: object, most: int) -> str:
    """Text that has room where only so many characters have, as `plain`."""
    text = str(text)
    return plain(text if len(text) <= most else text[: max(most - 1, 1)] + "…")

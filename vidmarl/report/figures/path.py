"""The path of an attack on one clip, query by query."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vidmarl import metrics
from vidmarl.queries.session import PHASES
from vidmarl.report.figures.style import COLOURS, INK, TEMPLATE, plain


def trajectory(result: metrics.Outcome, i: int = 0) -> go.Figure:
    """The path of the attack on clip `i`: what the victim says, the margin, and the size of each
    candidate, which grows and shrinks with its region; and who acted: a search without learning,
    the agents, or one of the ways of making a success smaller.

    Args:
        result: of an attack. The probability of the runner-up follows from the label's and the
            margin between the two.
        i: the clip, from 0.
    """
    asked = int(result.queries[i])
    history = {key: values[i, :asked].double().numpy() for key, values in result.history.items()}
    query = np.arange(1, asked + 1)
    holds = history["margin"] < 0
    smallest = np.minimum.accumulate(np.where(holds, history["l2"], np.inf))
    targeted = bool(result.settings.get("targeted"))
    rival = history["score"] + (history["margin"] if targeted else -history["margin"])
    if result.settings.get("decisions_only"):
        rival = np.where(history["score"] < 0, 0.0, -np.inf)
    names = ("target", "best other class") if targeted else (_label(result, i), "runner-up")
    acting = _acting(history.get("phase"))
    rows = 4 if acting else 3
    heights = [3, 3, 3, 0.35 * len(acting) + 0.3][:rows]
    figure = make_subplots(rows, 1, shared_xaxes=True, vertical_spacing=0.06, row_heights=heights)
    blue, orange, green = COLOURS[:3]

    def add(row: int, values: np.ndarray, name: str, colour: str, legend: bool = False) -> None:
        """A line whose points are larger where the goal holds."""
        figure.add_scatter(
            x=query,
            y=values,
            mode="lines+markers",
            line={"color": colour, "width": 1.5},
            marker={"size": np.where(holds, 7, 4), "opacity": 1, "color": np.where(holds, orange, colour).tolist()},
            name=name,
            showlegend=legend,
            row=row,
            col=1,
        )

    add(1, np.exp(history["score"]), names[0], blue, legend=True)
    add(2, history["margin"], "margin", blue)
    add(3, history["l2"], "size", blue)
    add(1, np.exp(rival), names[1], green, legend=True)
    figure.add_scatter(
        x=[None], y=[None], mode="markers", marker={"color": orange, "size": 7}, name="the goal holds", row=1, col=1
    )
    figure.add_scatter(
        x=query,
        y=np.where(np.isinf(smallest), np.nan, smallest),
        mode="lines",
        line={"color": orange, "width": 2, "shape": "hv", "dash": "dot"},
        name="smallest success",
        row=3,
        col=1,
    )
    figure.update_yaxes(title="probability", range=[-0.02, 1.02], tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title="margin (nats)", row=2, col=1)
    figure.update_yaxes(title="size (L2)", rangemode="tozero", row=3, col=1)
    figure.add_hline(y=0, line={"color": INK, "width": 1, "dash": "dash"}, row=2, col=1)
    for lane, (name, asking) in enumerate(acting.items()):
        figure.add_scatter(
            x=query[asking],
            y=[name] * int(asking.sum()),
            mode="markers",
            marker={"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": COLOURS[lane % len(COLOURS)]}},
            hovertemplate="%{y}<extra></extra>",
            showlegend=False,
            row=4,
            col=1,
        )
    if acting:
        figure.update_yaxes(range=[len(acting) - 0.4, -0.6], automargin=True, row=4, col=1)
    figure.update_xaxes(range=[0.5, asked + 0.5]).update_xaxes(title="queries", row=rows, col=1)
    return figure.update_layout(template=TEMPLATE, height=520 + (40 + 24 * len(acting) if acting else 0))


def _acting(phase: np.ndarray | None) -> dict[str, np.ndarray]:
    """Who asked: for each phase that occurs, in order, whether it asked each query; empty where
    only one thing was done, or where the outcome does not know."""
    if phase is None:
        return {}
    acting = {name: phase == number for number, name in enumerate(PHASES[1:], start=1)}
    acting = {name: asking for name, asking in acting.items() if asking.any()}
    return acting if len(acting) > 1 else {}


def _label(result: metrics.Outcome, i: int) -> str:
    """The class under attack, if the outcome knows it."""
    classes = getattr(result, "classes", None)
    return "label" if classes is None else plain(metrics.class_names(result, classes[[i]])[0])

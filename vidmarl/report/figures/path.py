"""The path of an attack on one clip, query by query."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vidmarl import metrics
from vidmarl.report.figures.style import COLOURS, INK, TEMPLATE, plain


def trajectory(result: metrics.Outcome, i: int = 0) -> go.Figure:
    """The path of the attack on clip `i`: what the victim says, the margin, and the size of each
    candidate, which grows and shrinks with its region.

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
    figure = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.07)
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
    figure.update_xaxes(range=[0.5, asked + 0.5]).update_xaxes(title="queries", row=3, col=1)
    return figure.update_layout(template=TEMPLATE, height=520)


def _label(result: metrics.Outcome, i: int) -> str:
    """The class under attack, if the outcome knows it."""
    classes = getattr(result, "classes", None)
    return "label" if classes is None else plain(metrics.class_names(result, classes[[i]])[0])

"""Plotly figures: clips on a frame slider, strength maps, the path of an attack, attacks against
each other."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.express as px
import plotly.graph_objects as go
import plotly.io
from jaxtyping import Float, UInt8
from plotly.subplots import make_subplots
from torch import Tensor

from vidmarl import metrics
from vidmarl.report import pictures

COLOURS = ("#2f78c4", "#e66101", "#1b9e77", "#b5469b", "#a6761d", "#666f7a")
"""One per attack, in the order given; readable on white and on black."""

DASHES = ("solid", "dash", "dot")
"""Taken in turn when the colours are used up."""

MOST_PIXELS = 1_500_000
"""Of all frames of a film on a slider; those of larger ones are scaled down, so that a figure has a
few MB at most."""

_FRAME_MS = 200
"""How long a frame is shown when a slider plays, ms."""

if plotly.io.renderers.default == "plotly_mimetype" and "PLOTLY_RENDERER" not in os.environ:
    # Plotly's own choice within Jupyter, which `jupyter nbconvert --to html` drops
    plotly.io.renderers.default = "plotly_mimetype+notebook"

_STYLE = go.layout.Template(
    layout={
        # a grey that is readable on white and, in a dark notebook, on black
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": "#767676"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#767676"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 12, "t": 40, "b": 44},
        "xaxis": {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "title": {"font": {"size": 13}}},
        "yaxis": {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "title": {"font": {"size": 13}}},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "hovermode": "x unified",
    }
)


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def frames(
    clean: Float[Tensor, "3 t h w"],
    adversarial: Float[Tensor, "3 t h w"],
    strength: Float[Tensor, "gt gh gw"] | None = None,
) -> go.Figure:
    """A frame slider over three panels: the original, the attacked clip, and their amplified
    difference.

    It opens at the frame that is distorted the most.

    Args:
        clean: float[3 t h w] in [0, 1].
        adversarial: float[3 t h w] in [0, 1].
        strength: the strength map; with it, the attacked region is outlined and tinted: orange
            where the strength is above 0, purple where below.
    """
    amplified = pictures.gain(clean, adversarial)
    attacked = pictures.to_frames(adversarial)
    if strength is not None:
        attacked = pictures.outlined(attacked, strength, pictures.cell_size(clean, strength))
    difference = pictures.difference(clean, adversarial, amplified)
    panels = {"original": pictures.to_frames(clean), "attacked": attacked, f"difference x{amplified}": difference}
    return _slider(panels, start=int((adversarial - clean).square().sum((0, 2, 3)).argmax()))


def compare(clips: Mapping[str, Float[Tensor, "3 t h w"]], start: int = 0) -> go.Figure:
    """A frame slider over clips side by side.

    Args:
        clips: by the name to show; float[3 t h w] in [0, 1], all of one shape.
        start: the frame at which it opens, from 0.

    Raises:
        ValueError: there is no clip, or they differ in shape.
    """
    shapes = {tuple(clip.shape) for clip in clips.values()}
    if len(shapes) != 1:
        raise ValueError(
            f"Comparing {len(clips)} clips on a slider: expected clips of one shape, got {shapes or None}."
        )
    return _slider({html.escape(name): pictures.to_frames(clip) for name, clip in clips.items()}, start)


def _slider(panels: Mapping[str, UInt8[np.ndarray, "t h w 3"]], start: int) -> go.Figure:
    """Films side by side, each under its title, on one slider that opens at frame `start`."""
    t, height, width, _ = next(iter(panels.values())).shape
    scale = min(1.0, (MOST_PIXELS / (t * height * width)) ** 0.5)
    blank = np.zeros((len(panels), t, 1, 1, 3), np.uint8)
    figure = px.imshow(blank, facet_col=0, animation_frame=1, binary_string=True, labels={"animation_frame": "frame"})
    for annotation, title in zip(figure.layout.annotations, panels, strict=True):
        annotation.text = title
    for i, step in enumerate(figure.frames):
        for trace, film in zip(step.data, panels.values(), strict=True):
            trace.source = pictures.picture(film[i], scale)
    for trace, shown in zip(figure.data, figure.frames[start].data, strict=True):
        trace.source = shown.source
    play = {"duration": _FRAME_MS, "redraw": True}
    figure.update_layout(sliders=[{"active": start, "pad": {"t": 24}}], updatemenus=[{"pad": {"t": 34}}])
    figure.layout.updatemenus[0].buttons[0].args[1].update(frame=play, transition={"duration": 0})
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.update_layout(
        template=_STYLE,
        margin={"l": 8, "r": 8, "t": 56, "b": 8},
        hovermode=False,
        height=round(150 + 820 / len(panels) * height / width),  # fills what JupyterLab gives it in width
    )


def strength_heatmap(strength: Float[Tensor, "gt gh gw"]) -> go.Figure:
    """Where a clip is attacked (mean magnitude over time) and when (mean magnitude over the
    frame)."""
    size = strength.abs()
    figure = make_subplots(1, 2, subplot_titles=("where", "when"), column_widths=[0.5, 0.5])
    figure.add_heatmap(
        z=size.mean(0).numpy(), zmin=0, colorscale="Oranges", colorbar={"title": "strength", "x": 0.44}, row=1, col=1
    )
    figure.add_bar(y=size.mean((1, 2)).numpy(), marker_color=COLOURS[1], name="strength", row=1, col=2)
    figure.update_xaxes(visible=False, row=1, col=1)
    figure.update_yaxes(visible=False, autorange="reversed", scaleanchor="x", row=1, col=1)
    figure.update_xaxes(title="tubelet in time", row=1, col=2)
    figure.update_yaxes(title="mean strength", rangemode="tozero", row=1, col=2)
    return figure.update_layout(template=_STYLE, showlegend=False, height=320, hovermode="closest")


def trajectory(result: metrics.Outcome, i: int = 0) -> go.Figure:
    """The path of the attack on clip `i`: the class's probability, the margin and L2, query by
    query."""
    asked = int(result.queries[i])
    history = {key: values[i, :asked].double().numpy() for key, values in result.history.items()}
    query = np.arange(1, asked + 1)
    win = history["margin"] < 0
    smallest = np.minimum.accumulate(np.where(win, history["l2"], np.inf))
    figure = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.06)
    blue, orange = COLOURS[:2]
    what = "target" if result.settings.get("targeted") else "label"
    rows = ((f"p({what})", np.exp(history["score"])), ("margin (nats)", history["margin"]), ("L2", history["l2"]))
    for row, (name, values) in enumerate(rows, start=1):
        figure.add_scatter(
            x=query,
            y=values,
            mode="lines+markers",
            line={"color": blue, "width": 1.5},
            marker={"size": np.where(win, 6, 3), "color": np.where(win, orange, blue).tolist()},
            name=name,
            showlegend=False,
            row=row,
            col=1,
        )
        figure.update_yaxes(title=name, row=row, col=1)
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
    figure.update_yaxes(range=[-0.02, 1.02], row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=3, col=1)
    figure.add_hline(y=0, line={"color": "rgba(128,128,128,0.9)", "width": 1, "dash": "dash"}, row=2, col=1)
    figure.update_xaxes(title="queries", row=3, col=1)
    return figure.update_layout(template=_STYLE, height=460)


def budget_curves(results: Mapping[str, metrics.Outcome], budgets: Sequence[int] | None = None) -> go.Figure:
    """Fooling rate and median L2 (failures at the full distortion) against queries, with their 95 %
    intervals (`vidmarl.metrics.curves`).

    Args:
        results: of attacks, by the name to show.
        budgets: where the curves have their points; default: every query up to 20, then in steps of
            a few per cent.
    """
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.06)
    for index, (name, result) in enumerate(results.items()):
        last = int(result.settings.get("budget", result.queries.max()))
        points = budgets or sorted(
            {*range(1, min(last, 20) + 1), *np.geomspace(1, last, 60).round().astype(int).tolist()}
        )
        curve = metrics.curves(result, points)
        colour = COLOURS[index % len(COLOURS)]
        dash = DASHES[index // len(COLOURS) % len(DASHES)]
        shown = html.escape(name)  # plotly would take markup in a name for its own
        for row, key in enumerate(("FR", "L2"), start=1):
            for edge, fill in (("high", None), ("low", "tonexty")):
                figure.add_scatter(
                    x=points,
                    y=curve[f"{key} {edge}"],
                    mode="lines",
                    line={"width": 0, "shape": "hv", "color": colour},
                    fill=fill,
                    fillcolor=_pale(colour),
                    hoverinfo="skip",
                    legendgroup=shown,
                    showlegend=False,
                    row=row,
                    col=1,
                )
            figure.add_scatter(
                x=points,
                y=curve[key],
                mode="lines",
                line={"color": colour, "width": 2, "shape": "hv", "dash": dash},
                name=shown,
                legendgroup=shown,
                showlegend=row == 1,
                row=row,
                col=1,
            )
    figure.update_yaxes(title="fooling rate", range=[-0.02, 1.02], tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title="median L2", rangemode="tozero", row=2, col=1)
    ticks = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
    figure.update_xaxes(type="log", tickvals=ticks).update_xaxes(title="queries per clip", row=2, col=1)
    return figure.update_layout(template=_STYLE, height=520)

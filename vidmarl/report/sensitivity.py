"""A figure of where and when a distortion hurts a victim."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from vidmarl.report import pictures
from vidmarl.report.figures.style import COLOURS, TEMPLATE

MOST_FRAMES = 8
"""Frames of a clip in the strip above the profile."""

_SCALE = [[0, "rgba(0,114,178,0.9)"], [0.5, "rgba(128,128,128,0)"], [1, "rgba(213,94,0,0.9)"]]
"""From what helps the victim, in blue, over nothing to what hurts it, in vermilion."""


def sensitivity(
    clip: Float[Tensor, "3 t h w"],
    spatial: Float[Tensor, "gh gw"],
    temporal: Float[Tensor, " gt"],
    temporal_std: Float[Tensor, " gt"],
) -> go.Figure:
    """Where: a heat map over the clip's middle frame. When: a profile below some frames, with a
    band of two standard deviations where they are known.

    Args:
        clip: in [0, 1].
        spatial: what the margin falls by, nats, mean over time.
        temporal: the same, mean over the frame.
        temporal_std: how far off that may be.
    """
    figure = make_subplots(
        2,
        2,
        specs=[[{"rowspan": 2}, {}], [None, {}]],
        column_widths=[0.4, 0.6],
        row_heights=[0.24, 0.76],
        horizontal_spacing=0.2,
        vertical_spacing=0.04,
        subplot_titles=("where", "when"),
    )
    _add_where(figure, clip, spatial)
    _add_frames(figure, clip)
    _add_profile(figure, clip.shape[1], temporal, temporal_std)
    return figure.update_layout(template=TEMPLATE, showlegend=False, height=400, hovermode="closest")


def _add_where(figure: go.Figure, clip: Tensor, spatial: Tensor) -> None:
    gh, gw = spatial.shape
    frames = pictures.to_frames(clip.mean(0, keepdim=True).expand(3, -1, -1, -1))
    most = float(spatial.abs().nan_to_num().max()) or 1.0
    figure.add_layout_image(
        source=pictures.picture(frames[len(frames) // 2]),
        **{"x": 0, "y": 0, "sizex": gw, "sizey": gh, "xref": "x", "yref": "y", "sizing": "stretch", "layer": "below"},
    )
    figure.add_heatmap(
        z=spatial.double().numpy(),
        x0=0.5,
        y0=0.5,
        zmin=-most,
        zmax=most,
        colorscale=_SCALE,
        colorbar={"title": {"text": "nats"}, "x": 0.33, "thickness": 12},
        hovertemplate="%{z:.3g} nats<extra></extra>",
        row=1,
        col=1,
    )
    height, width = clip.shape[2:]
    figure.update_xaxes(visible=False, range=[0, gw], constrain="domain", row=1, col=1)
    figure.update_yaxes(
        visible=False,
        range=[gh, 0],
        constrain="domain",
        scaleanchor="x",
        scaleratio=(height / gh) / (width / gw),
        row=1,
        col=1,
    )


def _add_frames(figure: go.Figure, clip: Tensor) -> None:
    """The middle frames of equal parts of the clip, each above its part of the profile."""
    frames = pictures.to_frames(clip)
    shown = min(len(frames), MOST_FRAMES)
    part = len(frames) / shown
    for i in range(shown):
        figure.add_layout_image(
            source=pictures.picture(frames[int((i + 0.5) * part)]),
            **{"x": 0.5 + i * part, "y": 1, "sizex": 0.95 * part, "sizey": 1, "xref": "x2", "yref": "y2"},
        )
    # a cell without a trace is not drawn
    figure.add_scatter(x=[1], y=[0], mode="markers", marker={"opacity": 0}, hoverinfo="skip", row=1, col=2)
    figure.update_xaxes(visible=False, range=[0.5, len(frames) + 0.5], row=1, col=2)
    figure.update_yaxes(visible=False, range=[0, 1], row=1, col=2)


def _add_profile(figure: go.Figure, frames: int, temporal: Tensor, temporal_std: Tensor) -> None:
    long = -(-frames // len(temporal))
    first = np.arange(len(temporal)) * long
    middle = 0.5 + (first + np.minimum(first + long, frames)) / 2
    mean, std = temporal.double().numpy(), temporal_std.double().numpy()
    if np.isfinite(std).all():
        figure.add_scatter(
            x=np.concatenate([middle, middle[::-1]]),
            y=np.concatenate([mean + 2 * std, (mean - 2 * std)[::-1]]),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor="rgba(213,94,0,0.2)",
            hoverinfo="skip",
            row=2,
            col=2,
        )
    figure.add_scatter(
        x=middle,
        y=mean,
        mode="lines+markers",
        line={"color": COLOURS[1], "width": 2},
        hovertemplate="frame %{x:.3g}: %{y:.3g} nats<extra></extra>",
        row=2,
        col=2,
    )
    figure.add_hline(y=0, line={"color": "rgba(128,128,128,0.9)", "width": 1, "dash": "dash"}, row=2, col=2)
    figure.update_xaxes(title="frame", range=[0.5, frames + 0.5], row=2, col=2)
    figure.update_yaxes(title="fall of the margin (nats)", row=2, col=2)

"""Clips on a frame slider, all in step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8
from plotly.subplots import make_subplots
from torch import Tensor

from vidmarl.report import pictures
from vidmarl.report.figures.style import TEMPLATE, plain

MOST_PIXELS = 1_500_000
"""Of all frames of a film on a slider; those of larger ones are scaled down, so that a figure has a
few MB at most."""

FRAME_MS = 200
"""How long a frame is shown when a slider plays, ms."""

_WIDTH = 900
"""What JupyterLab gives a figure, px."""


def frames(
    clean: Float[Tensor, "3 t h w"],
    adversarial: Float[Tensor, "3 t h w"],
    strength: Float[Tensor, "gt gh gw"] | None = None,
    cell: Sequence[int] | None = None,
) -> go.Figure:
    """A frame slider over the original, the attacked clip and their amplified difference, and over
    the attacked region where the strength map is known.

    It opens at the frame that is distorted the most.

    Args:
        clean: float[3 t h w] in [0, 1].
        adversarial: float[3 t h w] in [0, 1].
        strength: the strength map; with it a fourth panel has the hull of the region as an outline,
            and inside it the strength: orange above 0, purple below.
        cell: frames, px and px of a tubelet; None: the clip divided evenly.
    """
    amplified = pictures.gain(clean, adversarial)
    films = {
        "original": pictures.to_frames(clean),
        "attacked": pictures.to_frames(adversarial),
        f"difference x{amplified}": pictures.difference(clean, adversarial, amplified),
    }
    start = int((adversarial - clean).square().sum((0, 2, 3)).argmax())
    if strength is None:
        return _slider(films, start)
    cell = cell or pictures.cell_size(clean, strength)
    films["region"] = pictures.tinted(films["original"], strength, cell)
    figure = _slider(films, start)
    outlines = [_closed(pictures.hulls(strength, cell, frame)) for frame in range(clean.shape[1])]
    here = {"mode": "lines", "line": {"color": "#ffffff", "width": 2}, "hoverinfo": "skip", "showlegend": False}
    x, y = outlines[start]
    figure.add_scatter(x=x, y=y, row=1, col=len(films), **here)
    for frame, (x, y) in zip(figure.frames, outlines, strict=True):
        frame.data = [*frame.data, go.Scatter(x=x, y=y, **here)]
        frame.traces = list(range(len(films) + 1))
    return figure


def _closed(hulls: Sequence[Float[np.ndarray, "_ 2"]]) -> tuple[list[float | None], list[float | None]]:
    """Polygons as one line with gaps: x and y."""
    points = [point for hull in hulls for point in (*hull.tolist(), hull[0].tolist(), (None, None))]
    return [x for x, _ in points], [y for _, y in points]


def side_by_side(clips: Mapping[str, Float[Tensor, "3 t h w"]], start: int = 0) -> go.Figure:
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
    return _slider({plain(name): pictures.to_frames(clip) for name, clip in clips.items()}, start)


def _slider(films: Mapping[str, UInt8[np.ndarray, "t h w 3"]], start: int) -> go.Figure:
    """Films side by side, each under its title, on one slider that opens at frame `start`."""
    t, height, width, _ = next(iter(films.values())).shape
    scale = min(1.0, (MOST_PIXELS / (t * height * width)) ** 0.5)
    figure = make_subplots(1, len(films), subplot_titles=list(films), horizontal_spacing=0.012)
    shown = [[picture_trace(film[i], scale) for film in films.values()] for i in range(t)]
    for column, trace in enumerate(shown[start], start=1):
        figure.add_trace(trace, row=1, col=column)
    fit_pictures(figure, height, width)
    figure.frames = [
        go.Frame(data=traces, name=str(i), traces=list(range(len(films)))) for i, traces in enumerate(shown)
    ]
    add_slider(figure, [str(i + 1) for i in range(t)], start, "frame ")
    return figure.update_layout(
        template=TEMPLATE,
        margin={"l": 8, "r": 8, "t": 64, "b": 8},
        hovermode=False,
        height=round(180 + _WIDTH / len(films) * height / width),
    )


def picture_trace(frame: UInt8[np.ndarray, "h w 3"], scale: float = 1.0) -> go.Image:
    """A frame in the coordinates of its own pixels, scaled down where that is asked for."""
    height, width, _ = frame.shape
    wide, high = (max(1, round(side * min(scale, 1))) for side in (width, height))
    dx, dy = width / wide, height / high
    return go.Image(
        source=pictures.picture(frame, scale), x0=dx / 2, y0=dy / 2, dx=dx, dy=dy, hoverinfo="skip", colormodel="rgb"
    )


def fit_pictures(figure: go.Figure, height: int, width: int) -> None:
    """Gives every pair of axes the shape of a frame, and hides it."""
    figure.update_xaxes(visible=False, range=[0, width], constrain="domain")
    figure.update_yaxes(visible=False, range=[height, 0], constrain="domain")
    for axis in figure.select_yaxes():
        axis.scaleanchor = axis.anchor or "x"


def add_slider(figure: go.Figure, labels: Sequence[str], start: int, prefix: str) -> None:
    """A slider over the frames of a figure, with buttons that play and stop it."""
    still = {"frame": {"duration": 0, "redraw": True}, "mode": "immediate", "transition": {"duration": 0}}
    moving = still | {"frame": {"duration": FRAME_MS, "redraw": True}, "fromcurrent": True}
    steps = [
        {"label": label, "method": "animate", "args": [[frame.name], still]}
        for label, frame in zip(labels, figure.frames, strict=True)
    ]
    buttons = [
        {"label": "&#9654;", "method": "animate", "args": [None, moving]},
        {"label": "&#9724;", "method": "animate", "args": [[None], still]},
    ]
    figure.update_layout(
        sliders=[
            {
                "active": start,
                "steps": steps,
                "currentvalue": {"prefix": prefix, "xanchor": "left"},
                "pad": {"t": 8, "l": 0},
                "x": 0.12,
                "len": 0.88,
                "y": 0,
            }
        ],
        updatemenus=[
            {
                "type": "buttons",
                "direction": "left",
                "showactive": False,
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 24},
            }
        ],
    )

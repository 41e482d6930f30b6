"""Where in the frame and when in the clip: of one clip, and of many."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from vidmarl.metrics.column import number, percent
from vidmarl.report import pictures
from vidmarl.report.figures.style import COLOURS, INK, STRENGTHS, TEMPLATE, line, plain, shortened

MOST_THUMBNAILS = 16

_COARSE = 16
"""Cells of a side of the frame that an average over clips is shown in."""

Maps = Mapping[str, Float[Tensor, "_ _ _ _"]]
"""Strength maps float[b gt gh gw] of many clips, by the name of the group."""


def where(
    strength: Float[Tensor, "gh gw"], frame: Float[Tensor, "3 h w"] | None = None, *, quantity: str = "mean strength"
) -> go.Figure:
    """A heat map over the frame.

    Args:
        strength: of each cell of the frame, at least 0.
        frame: what lies beneath, in [0, 1]; None: nothing.
        quantity: what the numbers are, with their unit.
    """
    figure = make_subplots(1, 1)
    most = float(strength.max())
    bar = {"tickvals": [0, 1], "ticktext": ["0", number(most)]}
    _add_where(figure, strength, frame, 1, 1, quantity, bar)
    return figure.update_layout(template=TEMPLATE, height=400, hovermode="closest", margin={"l": 16})


def _add_where(
    figure: go.Figure,
    strength: Tensor,
    frame: Tensor | None,
    row: int,
    col: int,
    quantity: str,
    bar: Mapping[str, object],
) -> None:
    """A heat map in a cell of a figure, in cells of the map, over a grey picture."""
    gh, gw = strength.shape
    height, width = (gh, gw) if frame is None else frame.shape[1:]
    figure.add_heatmap(
        z=(strength.double() / (float(strength.max()) or 1)).numpy(),
        customdata=strength.double().numpy(),
        x0=0.5,
        y0=0.5,
        zmin=0,
        zmax=1,
        colorscale=STRENGTHS,
        showscale=row == col == 1,
        colorbar={"title": {"text": quantity, "side": "right"}, "thickness": 12, **bar},
        hovertemplate=f"{quantity} %{{customdata:.3g}}<extra></extra>",
        row=row,
        col=col,
    )
    figure.update_xaxes(visible=False, range=[0, gw], constrain="domain", row=row, col=col)
    figure.update_yaxes(visible=False, range=[gh, 0], constrain="domain", row=row, col=col)
    [axis] = figure.select_yaxes(row=row, col=col)
    axis.scaleanchor, axis.scaleratio = axis.anchor or "x", (height / gh) / (width / gw)
    place = {"xref": axis.anchor or "x", "yref": (axis.plotly_name or "yaxis").replace("axis", "")}
    figure.add_shape(type="rect", x0=0, x1=gw, y0=0, y1=gh, line={"color": INK, "width": 1}, **place)
    if frame is not None:
        grey = frame.mean(0, keepdim=True).expand(3, -1, -1)
        source = pictures.picture(pictures.to_frames(grey[:, None])[0])
        figure.add_layout_image(
            source=source, x=0, y=0, sizex=gw, sizey=gh, sizing="stretch", layer="below", opacity=0.8, **place
        )


def timeline(
    clean: Float[Tensor, "3 t h w"], adversarial: Float[Tensor, "3 t h w"], strength: Float[Tensor, "gt gh gw"]
) -> go.Figure:
    """When a clip is attacked: the attacked frames, below each its strength, and between each and
    the next one how much the perturbation flickers.

    Args:
        clean: float[3 t h w] in [0, 1].
        adversarial: float[3 t h w] in [0, 1].
        strength: the strength map of `adversarial`.
    """
    t = clean.shape[1]
    size, delta = strength.abs().mean((1, 2)), adversarial - clean
    per_frame = size.repeat_interleave(pictures.cell_size(clean, strength)[0])[:t]
    flicker = delta.diff(dim=1).square().mean((0, 2, 3))
    figure = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[0.24, 0.44, 0.32])
    add_thumbnails(figure, adversarial)
    numbers = np.arange(1, t + 1)
    figure.add_bar(
        x=numbers, y=per_frame.double().numpy(), marker={"color": COLOURS[1]}, name="mean strength", row=2, col=1
    )
    figure.add_scatter(
        x=numbers[:-1] + 0.5,
        y=flicker.double().numpy(),
        mode="lines+markers",
        line=line(0),
        name="flicker",
        row=3,
        col=1,
    )
    figure.update_yaxes(title="mean strength", rangemode="tozero", row=2, col=1)
    figure.update_yaxes(title="flicker<br>(mean square)", rangemode="tozero", exponentformat="e", row=3, col=1)
    figure.update_xaxes(range=[0.5, t + 0.5], dtick=math.ceil(t / 20)).update_xaxes(title="frame", row=3, col=1)
    return figure.update_layout(template=TEMPLATE, showlegend=False, height=430, bargap=0.08, margin={"l": 80, "t": 16})


def add_thumbnails(figure: go.Figure, clip: Float[Tensor, "3 t h w"]) -> None:
    """Frames of a clip in the first row of a figure, each above its number; of long clips some."""
    films = pictures.to_frames(clip)
    t, height, width, _ = films.shape
    step = math.ceil(t / MOST_THUMBNAILS)
    # a row without a trace is not drawn
    figure.add_scatter(x=[1], y=[0.5], mode="markers", marker={"opacity": 0}, hoverinfo="skip", row=1, col=1)
    figure.update_yaxes(visible=False, range=[0, 1], row=1, col=1)
    figure.update_xaxes(showgrid=False, row=1, col=1)
    for first in range(0, t, step):
        figure.add_layout_image(
            source=pictures.picture(films[first], min(1, 112 / max(height, width))),
            x=first + 0.5 + step / 2,
            y=0.5,
            xanchor="center",
            yanchor="middle",
            sizex=0.96 * step,
            sizey=1,
            sizing="contain",
            xref="x",
            yref="y",
        )


def regions(maps: Maps, frame: Float[Tensor, "3 h w"] | None = None) -> go.Figure:
    """Where and when clips are attacked on average, for each group of clips: a class, a victim, a
    distortion.

    Every clip counts the same: what is shown is the magnitude of its strength against one that is
    spread evenly over the clip (1), averaged over time and clips for "where", over the frame and
    clips for "when". The colours of each group reach up to its own maximum; its mean strength
    stands above.

    Args:
        maps: strength maps float[b gt gh gw] by the group's name; groups may differ in shape.
        frame: what lies beneath "where", such as a frame of the only clip; None: nothing, and the
            tubelets are averaged down to at most 16 x 16.

    Raises:
        ValueError: there is no group, or an empty one.
    """
    _validated(maps, "Showing regions")
    spread = {name: _against_even(strength) for name, strength in maps.items()}
    columns = min(len(maps), 4)
    rows = -(-len(maps) // columns)
    titles = [
        f"{shortened(name, 84 // columns)}<br>{len(of)} clip{'' if len(of) == 1 else 's'}, strength"
        f" {percent(float(of.abs().double().mean()))}"
        for name, of in maps.items()
    ]
    height, width = next(iter(spread.values())).shape[2:] if frame is None else frame.shape[1:]
    high = min(300, round(740 / columns * height / width))
    heights = [high] * rows + [190]
    figure = make_subplots(
        rows + 1,
        columns,
        specs=[*([[{}] * columns] * rows), [{"colspan": columns}, *([None] * (columns - 1))]],
        subplot_titles=titles,
        row_heights=heights,
        vertical_spacing=64 / (sum(heights) + 64 * rows),
        horizontal_spacing=0.03,
    )
    for title in figure.layout.annotations:
        title.font.size = 12
    bar = {
        "len": max(high, 120),
        "lenmode": "pixels",
        "y": 1,
        "yanchor": "top",
        "tickvals": [0, 1],
        "ticktext": ["0", "most"],
    }
    for index, of in enumerate(spread.values()):
        place = of.mean((0, 1))
        if frame is None:
            place = adaptive_avg_pool2d(place[None], (min(place.shape[0], _COARSE), min(place.shape[1], _COARSE)))[0]
        _add_where(figure, place, frame, index // columns + 1, index % columns + 1, "strength against even", bar)
    for index, (name, of) in enumerate(spread.items()):
        when = of.mean((0, 2, 3))
        time = {"x": (np.arange(len(when)) + 0.5) / len(when), "y": when.numpy(), "name": plain(name)}
        if len(maps) == 1:
            figure.add_bar(**time, marker={"color": COLOURS[1]}, row=rows + 1, col=1)
        else:
            figure.add_scatter(**time, mode="lines+markers", line=line(index), row=rows + 1, col=1)
    for column in range(len(maps) % columns or columns, columns):  # nothing in them
        figure.update_xaxes(visible=False, row=rows, col=column + 1)
        figure.update_yaxes(visible=False, row=rows, col=column + 1)
    figure.update_xaxes(title="time in the clip", range=[0, 1], tickformat=".0%", row=rows + 1, col=1)
    figure.update_yaxes(title="strength<br>against even", rangemode="tozero", row=rows + 1, col=1)
    return figure.update_layout(
        template=TEMPLATE,
        height=sum(heights) + 64 * rows + 160,
        showlegend=len(maps) > 1,
        hovermode="closest",
        bargap=0.08,
        margin={"t": 56, "l": 80},
        legend={"yanchor": "top", "y": -0.09},
    )


def _against_even(strength: Float[Tensor, "b gt gh gw"]) -> Float[Tensor, "b gt gh gw"]:
    """Magnitudes over their mean in the clip; 0 where nothing was done."""
    size = strength.abs().double()
    return size / size.mean((1, 2, 3), keepdim=True).clamp_min(1e-12)


def agreement(maps: Maps) -> go.Figure:
    """Whether several victims (or attacks) are attacked in the same tubelets: Spearman's rank
    correlation of the magnitudes of two maps of a clip, mean over the clips.

    1 is the same order of the tubelets, 0 none in common. Maps of different shapes are averaged
    down to the coarsest of them.

    Args:
        maps: strength maps float[b gt gh gw] of the same clips in the same order, by the name to
            show.

    Raises:
        ValueError: there is no map, or not as many clips everywhere.
    """
    _validated(maps, "Comparing regions")
    if len({len(of) for of in maps.values()}) > 1:
        counts = {name: len(of) for name, of in maps.items()}
        raise ValueError(f"Comparing regions: expected maps of the same clips, got {counts} clips.")
    gt, gh, gw = (min(of.shape[axis] for of in maps.values()) for axis in (1, 2, 3))
    ranks = [_ranks(adaptive_avg_pool3d(of.abs().double(), (gt, gh, gw)).flatten(1)) for of in maps.values()]
    pairs = [[_correlations(one, other) for other in ranks] for one in ranks]
    mean = np.array([[float(of.nanmean()) for of in row] for row in pairs])
    clips = [[int((~of.isnan()).sum()) for of in row] for row in pairs]
    names = [plain(name) for name in maps]
    figure = go.Figure()
    figure.add_heatmap(
        z=mean,
        x=names,
        y=names,
        customdata=clips,
        zmin=-1,
        zmax=1,
        colorscale=[[0, COLOURS[0]], [0.5, "rgba(128,128,128,0.15)"], [1, COLOURS[1]]],
        texttemplate="%{z:.2f}",
        hovertemplate="%{y}, %{x}: %{z:.3f}, mean over %{customdata} clips<extra></extra>",
        colorbar={"title": {"text": "mean rank correlation", "side": "right"}, "thickness": 12},
    )
    figure.update_yaxes(autorange="reversed", showgrid=False).update_xaxes(showgrid=False)
    return figure.update_layout(template=TEMPLATE, height=180 + 60 * len(names), hovermode="closest", margin={"l": 140})


def _validated(maps: Maps, doing: str) -> None:
    if not maps or not all(len(of) for of in maps.values()):
        counts = {name: len(of) for name, of in maps.items()}
        raise ValueError(f"{doing}: expected at least one group, and clips in each, got {counts} clips.")


def _ranks(values: Float[Tensor, "b cells"]) -> Float[Tensor, "b cells"]:
    """The rank of each cell among those of its clip; equal values share their mean rank."""
    rows = []
    for row in values:
        _, group, size = row.unique(return_inverse=True, return_counts=True)
        rows.append((size.cumsum(0) - (size - 1) / 2)[group])
    return torch.stack(rows)


def _correlations(one: Float[Tensor, "b cells"], other: Float[Tensor, "b cells"]) -> Float[Tensor, " b"]:
    """Pearson's of each row; NaN where all cells are alike."""
    one, other = (ranks - ranks.mean(1, keepdim=True) for ranks in (one, other))
    correlation: Tensor = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))
    return correlation

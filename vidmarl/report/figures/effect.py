"""What distortions do to one clip and to the victim's answer, as they grow stronger."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, UInt8
from plotly.subplots import make_subplots
from torch import Tensor

from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.report import pictures
from vidmarl.report.figures.films import MOST_PIXELS, add_slider, fit_pictures, picture_trace
from vidmarl.report.figures.style import COLOURS, INK, TEMPLATE, line, plain, shortened
from vidmarl.victims.victim import Victim

_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class _Ladder:
    """One distortion at each strength.

    Attributes:
        stills: the frame that is shown.
        said: what the victim says of each.
        chance: probability of the class that it says of the original.
    """

    stills: UInt8[np.ndarray, "levels h w 3"]
    said: list[int]
    chance: list[float]


def effect(
    victim: Victim,
    clip: Float[Tensor, "3 t h w"],
    distortions: Mapping[str, Any] | Sequence[Any],
    strength: Float[Tensor, "gt gh gw"] | None = None,
    *,
    grid: TubeletGrid | None = None,
    levels: int = 5,
    seed: int = 0,
) -> go.Figure:
    """One clip and one region under several distortions side by side, with the victim's answer
    under each: a slider goes from strength 0 to 1.

    Asks the victim `1 + (levels - 1) * len(distortions)` times.

    Args:
        victim: who is asked; it counts the queries.
        clip: float[3 t h w] in [0, 1].
        distortions: what `as_distortion` takes, by the name to show, or a list of them.
        strength: the region, as the strength map of an attack; the slider scales it, and a
            distortion of one direction takes its magnitude. None: the whole clip.
        grid: the tubelets of the map; None: the clip divided evenly.
        levels: strengths from 0 to 1, at least 2.
        seed: of the distortions' randomness.

    Raises:
        ValueError: there is no distortion, or `levels` is below 2.
        DistortionError, VictimError: a distortion or the victim raises.
    """
    if not isinstance(distortions, Mapping):
        made = [as_distortion(each) for each in distortions]
        distortions = {each.title: each for each in made}
    if not distortions or levels < 2:
        raise ValueError(
            "Showing the effect of distortions: expected at least one distortion and two levels, got"
            f" {len(distortions)} and {levels}."
        )
    region = torch.ones(clip.shape[1], 1, 1) if strength is None else strength.float()
    grid = grid or TubeletGrid(*pictures.cell_size(clip, region))
    steps = torch.linspace(0, 1, levels)
    frame = int(grid.expand(region[None].abs(), *clip.shape[1:])[0, 0].sum((1, 2)).argmax())
    frame = clip.shape[1] // 2 if strength is None else frame
    clean = victim(clip[None])[0]
    label = int(clean.argmax())
    ladders = {}
    for name, distortion in distortions.items():
        renderer = Renderer(clip[None], as_distortion(distortion), grid, seed=seed)
        own = region if renderer.min_strength < 0 else region.abs()
        films = renderer.render(steps.view(-1, 1, 1, 1) * own, torch.zeros(levels, dtype=torch.int64))
        answers = torch.cat([clean[None], victim(films[1:])])
        ladders[name] = _Ladder(
            stills=np.concatenate([pictures.to_frames(film[:, frame : frame + 1]) for film in films]),
            said=answers.argmax(1).tolist(),
            chance=answers[:, label].exp().tolist(),
        )
    return _drawn(ladders, steps.tolist(), victim, label, frame)


def _drawn(ladders: Mapping[str, _Ladder], steps: list[float], victim: Victim, label: int, frame: int) -> go.Figure:
    """Pictures above, the probability of the label below, and a slider that moves through both."""
    columns = min(len(ladders), _COLUMNS)
    rows = -(-len(ladders) // columns)
    _, height, width, _ = next(iter(ladders.values())).stills.shape
    scale = min(1.0, (MOST_PIXELS / (len(ladders) * len(steps) * height * width)) ** 0.5)
    high = round(820 / columns * height / width) + 52
    figure = make_subplots(
        rows + 1,
        columns,
        specs=[*([[{}] * columns] * rows), [{"colspan": columns}, *([None] * (columns - 1))]],
        subplot_titles=["."] * len(ladders),
        row_heights=[high] * rows + [230],
        vertical_spacing=52 / (high * rows + 230),
        horizontal_spacing=0.02,
    )
    places = [(k // columns + 1, k % columns + 1) for k in range(len(ladders))]
    for (row, col), ladder in zip(places, ladders.values(), strict=True):
        figure.add_trace(picture_trace(ladder.stills[-1], scale), row=row, col=col)
    fit_pictures(figure, height, width)
    for number, (name, ladder) in enumerate(ladders.items()):
        figure.add_scatter(
            x=steps,
            y=ladder.chance,
            mode="lines+markers",
            line=line(number),
            name=plain(name),
            customdata=[plain(victim.label(index)) for index in ladder.said],
            hovertemplate="%{y:.0%}, says %{customdata}",
            row=rows + 1,
            col=1,
        )
    here = {"mode": "lines", "line": {"color": INK, "width": 2}, "showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(x=[1, 1], y=[0, 1], row=rows + 1, col=1, **here)
    titles = list(figure.layout.annotations)
    figure.frames = [
        go.Frame(
            data=[
                *(picture_trace(ladder.stills[k], scale) for ladder in ladders.values()),
                go.Scatter(x=[step, step], y=[0, 1], **here),
            ],
            traces=[*range(len(ladders)), 2 * len(ladders)],
            name=str(k),
            layout={"annotations": _captions(titles, ladders, k, victim, label)},
        )
        for k, step in enumerate(steps)
    ]
    figure.layout.annotations = figure.frames[-1].layout.annotations
    axis = {"visible": True, "constrain": None, "row": rows + 1, "col": 1}
    figure.update_xaxes(title="strength", range=[-0.01, 1.01], **axis)
    title = f"probability of<br>{plain(victim.label(label))}"
    figure.update_yaxes(title=title, range=[-0.02, 1.02], tickformat=".0%", **axis)
    [below] = figure.select_yaxes(row=rows + 1, col=1)
    below.scaleanchor = False
    add_slider(figure, [f"{step:.2g}" for step in steps], len(steps) - 1, "strength ")
    figure.layout.sliders[0].pad.t = figure.layout.updatemenus[0].pad.t = 56
    figure.update_layout(
        template=TEMPLATE,
        height=high * rows + 480,
        title=f"frame {frame + 1}; the original is {plain(victim.label(label))}",
        legend={"y": 230 / (high * rows + 230) - 0.03, "yanchor": "bottom"},
        margin={"t": 96, "b": 96},
    )
    return figure


def _captions(
    titles: Sequence[Any], ladders: Mapping[str, _Ladder], k: int, victim: Victim, label: int
) -> list[dict[str, Any]]:
    """The name of each distortion and what the victim says under it; in orange where that is no
    longer the label."""
    captions = []
    for title, (name, ladder) in zip(titles, ladders.items(), strict=True):
        said = ladder.said[k]
        room = 96 // min(len(ladders), _COLUMNS)
        text = f"{shortened(name, room)}<br><b>{shortened(victim.label(said), room)}</b>"
        font = {"size": 13, "color": INK if said == label else COLOURS[1]}
        captions.append(title.to_plotly_json() | {"text": text, "font": font})
    return captions

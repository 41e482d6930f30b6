"""Attacks against each other: over query budgets, and clip by clip."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vidmarl import metrics
from vidmarl.metrics.attack import own_budget
from vidmarl.metrics.column import number
from vidmarl.report.figures.style import INK, TEMPLATE, line, plain, shortened

_WHISKERS = 5
"""Budgets at which intervals are drawn."""

_APART = 0.035
"""How far the whiskers of attacks stand beside each other, in powers of ten of the budget."""


def budget_curves(results: Mapping[str, metrics.Outcome], budgets: Sequence[int] | None = None) -> go.Figure:
    """Fooling rate and median L2 (failures at the full distortion) against queries.

    The whiskers are 95 % intervals (`vidmarl.metrics.curves`), at some budgets and beside each
    other, so that they can be told apart; a button hides them, and a click on a name its attack.

    Args:
        results: of attacks, by the name to show.
        budgets: where the curves have their points; default: every query up to 20, then in steps of
            a few per cent.
    """
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.06)
    whiskers, curves = [], []
    drawn_at: dict[int, list[np.ndarray]] = {1: [np.array([0.0, 1.0])], 2: []}
    for index, (name, result) in enumerate(results.items()):
        points = list(budgets or _points(own_budget(result)))
        curve = metrics.curves(result, points)
        at = _nearest(points)
        beside = 10 ** (_APART * (index - (len(results) - 1) / 2))
        for row, key in enumerate(("FR", "L2"), start=1):
            style: dict[str, Any] = {"legendgroup": plain(name), "row": row, "col": 1}
            middle, low, high = (curve[key + end].to_numpy() for end in ("", " low", " high"))
            figure.add_scatter(
                x=points,
                y=middle,
                mode="lines",
                line=line(index, shape="hv"),
                name=plain(name),
                showlegend=row == 1,
                **style,
            )
            curves.append(figure.data[-1])
            drawn_at[row] += [middle, low[at], high[at]]
            whiskers.append(len(figure.data))
            figure.add_scatter(
                x=[points[k] * beside for k in at],
                y=middle[at],
                mode="markers",
                marker={"size": 5, "color": line(index)["color"]},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": (high - middle)[at],
                    "arrayminus": (middle - low)[at],
                    "thickness": 1.5,
                    "width": 4,
                },
                hoverinfo="skip",
                showlegend=False,
                **style,
            )
    longest = max(max(curve.x) for curve in curves)
    logarithmic = all(size > 0 for curve in curves[1::2] for size in curve.y)
    for row, drawn in ((1, curves[::2]), (2, curves[1::2])):
        if len(results) == 1:
            break
        scale = np.log10 if row == 2 and logarithmic else np.asarray
        values = np.concatenate(drawn_at[row])
        values = values[np.isfinite(values) & ((values > 0) | (scale is not np.log10))]
        drawn = [curve for curve in drawn if np.isfinite(curve.y[-1])]
        if not drawn:  # clips without a size
            continue
        lowest, highest = (float(scale(end(values))) for end in (np.min, np.max))
        heights = [float(scale(curve.y[-1])) for curve in drawn]
        room = 0.09 * (highest - lowest or 1)
        for curve, y in zip(drawn, _apart(heights, room, highest), strict=True):
            figure.add_scatter(
                x=[1.1 * longest],
                y=[10**y if row == 2 and logarithmic else y],
                mode="text",
                text=[shortened(html.unescape(curve.name), 20)],
                textposition="middle right",
                textfont={"color": curve.line.color},
                cliponaxis=False,
                hoverinfo="skip",
                showlegend=False,
                legendgroup=curve.name,
                row=row,
                col=1,
            )
    figure.update_yaxes(title="fooling rate", range=[-0.03, 1.05], tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title="median L2", row=2, col=1)
    figure.update_yaxes(**({"type": "log", "dtick": "D2"} if logarithmic else {"rangemode": "tozero"}), row=2, col=1)
    ticks = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
    span = [math.log10(0.9), math.log10(1.1 * longest)]
    figure.update_xaxes(type="log", tickvals=ticks, range=span).update_xaxes(title="queries per clip", row=2, col=1)
    buttons = [
        {"label": "with 95 % intervals", "method": "restyle", "args": [{"visible": True}, whiskers]},
        {"label": "without", "method": "restyle", "args": [{"visible": False}, whiskers]},
    ]
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "x": 1, "xanchor": "right", "y": 1.02}
    widest = min(max(len(name) for name in results), 20)
    return figure.update_layout(
        template=TEMPLATE,
        height=600,
        margin={"r": 24 + (8 * widest if len(results) > 1 else 0), "t": 96},
        showlegend=len(results) > 1,
        legend={"y": 1.1},
        updatemenus=[menu | {"yanchor": "bottom", "font": {"size": 12, "color": INK}}],
    )


def _nearest(points: Sequence[int]) -> list[int]:
    """Which of the points have whiskers: some, as far from each other as can be on a logarithmic
    axis, and never the first, the clean prediction."""
    wanted = np.geomspace(points[0], points[-1], _WHISKERS + 1)[1:]
    first = min(1, len(points) - 1)
    return sorted({max(first, int(np.abs(np.log(points) - np.log(one)).argmin())) for one in wanted})


def _points(last: int) -> list[int]:
    return sorted({*range(1, min(last, 20) + 1), *np.geomspace(1, max(last, 1), 60).round().astype(int).tolist()})


def _apart(heights: Sequence[float], room: float, top: float) -> list[float]:
    """Where labels stand, in order: at their heights, or above those that are in the way; but no
    higher than the top, from where they are pushed down."""
    order = np.argsort(heights, kind="stable").tolist()
    placed = list(heights)
    for lower, index in itertools.pairwise(order):
        placed[index] = max(placed[index], placed[lower] + room)
    for index in reversed(order):
        placed[index] = min(placed[index], top)
        top = placed[index] - room
    return placed


def sizes(
    results: Mapping[str, metrics.Outcome], names: Sequence[str] | None = None, budget: int | None = None
) -> go.Figure:
    """Each clip's query of the first success against the L2 of its smallest success, with the clip
    on hover.

    A clip that was not fooled is a hollow mark at what was spent and at the norm of the full
    distortion; one that was skipped is left out.

    Args:
        results: of attacks on the same clips, by the name to show.
        names: of the clips; None: their numbers.
        budget: queries per clip after which the attack is taken to have stopped; None: as it was.
    """
    figure = go.Figure()
    for index, (name, result) in enumerate(results.items()):
        at = [budget or own_budget(result)]
        fooled = metrics.success_at(result, at)[:, 0]
        asked = metrics.queries_until_success_at(result, at)[:, 0]
        size = metrics.best_l2_at(result, at)[:, 0]
        rows = (~result.skipped).nonzero().flatten().tolist()
        texts = [
            f"{plain(names[i] if names else f'clip {i}')}<br>{'fooled' if fooled[i] else 'not fooled'},"
            f" query {int(asked[i])}, L2 {number(float(size[i]))}"
            for i in rows
        ]
        colour = line(index)["color"]
        figure.add_scatter(
            x=asked[rows].numpy(),
            y=size[rows].double().numpy(),
            mode="markers",
            marker={
                "size": 10,
                "opacity": 0.85,
                "symbol": ["circle" if fooled[i] else "circle-open" for i in rows],
                "color": colour,
                "line": {"width": 1.5, "color": colour},
            },
            text=texts,
            hovertemplate=f"{plain(name)}: %{{text}}<extra></extra>",
            name=plain(name),
        )
    figure.update_xaxes(title="query of the first success (hollow: not fooled, queries spent)")
    figure.update_yaxes(title="size of the smallest success (L2)", rangemode="tozero")
    return figure.update_layout(template=TEMPLATE, height=420, hovermode="closest", showlegend=len(results) > 1)

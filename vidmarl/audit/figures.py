"""The figures of an audit: heat map, curves over severities, budgets and sizes, where and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from vidmarl.audit.corruptions import SEVERITIES
from vidmarl.audit.sensitive import ClipSensitivity
from vidmarl.audit.verdict import title_of
from vidmarl.report.figures.style import COLOURS, INK, TEMPLATE, line, plain
from vidmarl.report.sensitivity import sensitivity

LOST = [[0, "rgb(213,94,0)"], [0.5, "rgb(240,228,180)"], [1, "rgb(0,114,178)"]]
"""From nothing right, in vermilion, to all that is right about clean clips, in blue: apart for the
colour-blind, and in print."""


def heat_map(table: pd.DataFrame, clean: float) -> go.Figure:
    """Accuracy under each corruption at each severity, the worst corruption of each family first.

    Args:
        table: of `vidmarl.audit.tables.corruption_table`.
        clean: accuracy on clean clips, which is the lightest colour.
    """
    order = table.groupby(["family", "corruption"], sort=False)["top1"].mean().reset_index()
    families = list(dict.fromkeys(order["family"]))
    order["rank"] = order["family"].map(families.index)
    names = order.sort_values(["rank", "top1"], kind="stable")["corruption"].tolist()
    wide = table.pivot(index="corruption", columns="severity", values="top1").loc[names]
    ends = table.assign(
        ends=[f"{low:.0%} to {high:.0%}" for low, high in zip(table["top1 low"], table["top1 high"], strict=True)]
    )
    family = dict(zip(table["corruption"], table["family"], strict=True))
    titles = [f"{plain(title_of(name))}" for name in names]
    figure = go.Figure()
    figure.add_heatmap(
        z=wide.to_numpy(),
        x=[str(severity) for severity in wide.columns],
        y=titles,
        customdata=ends.pivot(index="corruption", columns="severity", values="ends").loc[names].to_numpy(),
        zmin=0,
        zmax=max(clean, 1e-6),
        colorscale=LOST,
        texttemplate="%{z:.0%}",
        hovertemplate="%{y}, severity %{x}: %{z:.1%}, 95 % interval %{customdata}<extra></extra>",
        colorbar={"title": {"text": "right", "side": "right"}, "tickformat": ".0%", "thickness": 12},
        xgap=2,
        ygap=2,
    )
    starts = [i for i, name in enumerate(names) if i == 0 or family[name] != family[names[i - 1]]]
    for start in starts[1:]:
        figure.add_hline(y=start - 0.5, line={"color": INK, "width": 1})
    figure.update_yaxes(autorange="reversed", showgrid=False, ticksuffix=" ")
    figure.update_xaxes(title="severity", type="category", side="top", showgrid=False)
    return figure.update_layout(
        template=TEMPLATE, height=90 + 24 * len(names), hovermode="closest", margin={"l": 130, "t": 64, "b": 16}
    )


def by_severity(tables: dict[str, pd.DataFrame], clean: dict[str, float]) -> go.Figure:
    """Mean accuracy over each family against the severity, or over all where several victims are
    compared; severity 0 is clean.

    Args:
        tables: of `vidmarl.audit.tables.corruption_table`, by the victim's name.
        clean: accuracy on clean clips, by the victim's name.
    """
    figure = go.Figure()
    curves: list[tuple[str, str, pd.Series]] = []
    for victim, table in tables.items():
        if len(tables) > 1:
            curves.append((victim, victim, table.groupby("severity")["top1"].mean()))
        else:
            curves += [
                (str(f), victim, of.groupby("severity")["top1"].mean()) for f, of in table.groupby("family", sort=False)
            ]
    for index, (name, victim, mean) in enumerate(curves):
        figure.add_scatter(
            x=[0, *mean.index],
            y=[clean[victim], *mean],
            mode="lines+markers",
            line=line(index),
            name=plain(name),
            hovertemplate="%{y:.1%}",
        )
    figure.update_xaxes(title="severity (0: clean)", tickvals=[0, *SEVERITIES])
    figure.update_yaxes(title="right, mean over corruptions", range=[-0.03, 1.05], tickformat=".0%")
    return figure.update_layout(template=TEMPLATE, height=420)


def robust(at: dict[str, Sequence[dict[str, Any]]], below: dict[str, Sequence[dict[str, Any]]]) -> go.Figure:
    """Robust accuracy against queries, and against the size of what an attack may do, with 95 %
    intervals.

    Args:
        at: of `vidmarl.audit.tables.robust_at`, by the victim's name.
        below: of `vidmarl.audit.tables.robust_below`, by the victim's name.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.14)
    for index, name in enumerate(at):
        for column, (key, rows) in enumerate((("budget", at[name]), ("l2", below[name])), start=1):
            x = [row[key] for row in rows]
            low, high = ([row[end] for row in rows] for end in ("low", "high"))
            colour = COLOURS[index % len(COLOURS)]
            band = f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},0.15)"
            place: dict[str, Any] = {"row": 1, "col": column, "legendgroup": plain(name)}
            style = {"shape": "hv"}
            figure.add_scatter(
                x=x, y=high, mode="lines", line={"width": 0, **style}, hoverinfo="skip", showlegend=False, **place
            )
            figure.add_scatter(
                x=x,
                y=low,
                mode="lines",
                line={"width": 0, **style},
                fill="tonexty",
                fillcolor=band,
                hoverinfo="skip",
                showlegend=False,
                **place,
            )
            figure.add_scatter(
                x=x,
                y=[row["accuracy"] for row in rows],
                mode="lines+markers",
                line=line(index, **style),
                name=plain(name),
                showlegend=column == 1 and len(at) > 1,
                hovertemplate="%{y:.1%}",
                **place,
            )
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%").update_yaxes(title="robust accuracy", row=1, col=1)
    figure.update_xaxes(title="queries per clip and attack", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="size of the perturbation (L2)", rangemode="tozero", row=1, col=2)
    return figure.update_layout(template=TEMPLATE, height=420)


def average_sensitivity(measured: Sequence[ClipSensitivity]) -> go.Figure | None:
    """Where and when, the mean over clips of one shape, each against its own largest effect; None
    where the shapes differ."""
    if len({(one.pixels.shape, one.spatial.shape, one.temporal.shape) for one in measured}) != 1:
        return None
    spatial = torch.stack([one.spatial for one in measured]).mean(0)
    temporal = torch.stack([one.temporal for one in measured])
    spread = temporal.std(0) / len(measured) ** 0.5 if len(measured) > 1 else torch.full_like(temporal[0], np.nan)
    clips = torch.stack([one.clip for one in measured]).mean(0)
    return sensitivity(clips, spatial, temporal.mean(0), spread)


def of_clip(one: ClipSensitivity) -> go.Figure:
    """Where and when one clip is sensitive."""
    return sensitivity(one.clip, one.spatial, one.temporal, one.temporal_std)


def differences(table: pd.DataFrame, first: str, second: str) -> go.Figure:
    """How many more clips the second victim is right about under each corruption, with 95 %
    intervals, the largest gain first.

    Args:
        table: of `vidmarl.audit.compare.AuditComparison`.
        first: name of the first victim.
        second: name of the second.
    """
    ordered = table.sort_values("difference", kind="stable")
    middle, low, high = (ordered[key].to_numpy(float) for key in ("difference", "low", "high"))
    figure = go.Figure()
    figure.add_scatter(
        x=middle,
        y=[plain(title_of(name)) for name in ordered["corruption"]],
        mode="markers",
        marker={"size": 9, "color": [COLOURS[0] if value > 0 else COLOURS[1] for value in middle]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - middle),
            "arrayminus": np.nan_to_num(middle - low),
            "thickness": 1.5,
            "width": 4,
            "color": INK,
        },
        customdata=np.stack([ordered["first"], ordered["second"]], axis=1),
        hovertemplate="%{y}: %{customdata[0]:.1%} to %{customdata[1]:.1%}, %{x:+.1%}<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dash"})
    figure.update_xaxes(title=f"right more often: {plain(second)} (right) than {plain(first)}", tickformat="+.0%")
    figure.update_yaxes(showgrid=False, ticksuffix=" ")
    height = 110 + 24 * len(ordered)
    return figure.update_layout(template=TEMPLATE, height=height, hovermode="closest", margin={"l": 130, "t": 24})

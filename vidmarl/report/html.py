"""The report on the clips of one attack, or of several on the same clips."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vidmarl import metrics
from vidmarl.metrics import Column
from vidmarl.metrics.attack import own_budget
from vidmarl.metrics.column import percent
from vidmarl.report import figures, pictures
from vidmarl.report.clips import Results, articles, attacked_clips, clip_data, common_gain
from vidmarl.report.page import FOLDER, setting_rows, summary_rows, write_page


def write_report(
    path: str | Path,
    results: metrics.ClipOutcome | Results,
    *,
    title: str = "Robustness report",
    names: Sequence[str] | None = None,
    budgets: Sequence[int] = metrics.BUDGETS,
    max_clips: int = 12,
    fps: float = 5.0,
) -> Path:
    """Writes what came of one attack, or of several on the same clips, as one self-contained HTML
    file.

    Args:
        path: the file; it appears whole or not at all.
        results: a result, or results by the name to show.
        title: of the page.
        names: of the clips, such as their file names; default "clip 0" and so on.
        budgets: the query budgets of the summary.
        max_clips: how many of the attacked clips are shown frame by frame, which is most of the
            file's size; the summary and the table hold all.
        fps: frames a second when the slider plays.

    Returns:
        The path.

    Raises:
        ValueError: there is no clip, the results are on different clips, or the names are not one
            for each.
        OSError: the file cannot be written.
    """
    if not isinstance(results, Mapping):
        results = {str(results.settings.get("attack", "attack")): results}
    names = _validated(results, names)
    attacked = attacked_clips(results)
    shown = attacked[:max_clips]
    summaries = {name: metrics.summarise(result, [*budgets, own_budget(result)]) for name, result in results.items()}
    tables = {name: metrics.clip_table(result) for name, result in results.items()}
    columns = [*metrics.SUCCESS_COLUMNS, *metrics.shown_metrics(next(iter(tables.values())))]
    gain = common_gain([(results, shown)])
    return write_page(
        path,
        FOLDER / "report.html.j2",
        title=title,
        data={
            "fps": fps,
            "colours": [pictures.MORE, pictures.LESS],
            "gain": gain,
            "curves": [json.loads(figures.budget_curves(results).to_json())],
            "clips": clip_data(results, shown, gain),
        },
        headlines=[_headline(name, result, summaries[name]) for name, result in results.items()],
        figures=metrics.FIGURES,
        summary=[row for name, table in summaries.items() for row in summary_rows(name, table, metrics.FIGURES)],
        several=len(results) > 1,
        columns=columns,
        rows=[row for name, table in tables.items() for row in _rows(name, table, columns, names, shown)],
        clips=articles(results, shown, names),
        unshown=len(attacked) - len(shown),
        settings={name: setting_rows(result) for name, result in results.items()},
    )


def _validated(results: Results, names: Sequence[str] | None) -> list[str]:
    """The names of the clips, if the results can be shown side by side."""
    if not results or any(len(result.success) == 0 for result in results.values()):
        raise ValueError("Writing a report: expected at least one result with at least one clip.")
    first, *others = results.values()
    for other in others:
        if other.clean.shape != first.clean.shape or not torch.equal(other.clean, first.clean):
            raise ValueError(
                "Writing a report on several attacks: expected results on the same clips in the same order, got"
                f" {tuple(first.clean.shape)} and {tuple(other.clean.shape)}, or clips of different content. Write a"
                " report for each."
            )
    clips = len(first.success)
    if names is not None and len(names) != clips:
        raise ValueError(f"Writing a report on {clips} clips: got {len(names)} names.")
    return [f"clip {i}" for i in range(clips)] if names is None else [str(name) for name in names]


def _headline(name: str, result: metrics.Outcome, summary: pd.DataFrame) -> dict[str, Any]:
    """The figures at the top, for the whole of an attack."""
    attacked = int((~result.skipped).sum())
    row = summary.iloc[-1].to_dict()
    of = {column.name: column for column in (*metrics.FIGURES, *metrics.columns())}
    return {
        "name": name,
        "victim": str(result.settings.get("victim", "the victim")),
        "fooled": int((result.success & ~result.skipped).sum()),
        "attacked": attacked,
        "skipped": len(result.skipped) - attacked,
        "budget": own_budget(result),
        "tiles": [
            ("Fooled", percent(row["FR"]), _interval(of["FR"], row)),
            (
                "Queries per clip",
                of["AQ"].text(row["AQ"]),
                f"{of['AQ'].text(row['AQ first'])} until the first success or the end",
            ),
            ("Median L2", of["L2"].text(row["L2"]), _interval(of["L2"], row)),
            ("SSIM of the fooled", of["ssim"].text(row.get("ssim")), "1 is no visible change"),
        ],
    }


def _interval(column: Column, row: dict[Any, Any]) -> str:
    low, high = (column.text(row[f"{column.name} {end}"]) for end in ("low", "high"))
    return f"95 % interval {low} to {high}"


def _rows(
    attack: str, table: pd.DataFrame, columns: Sequence[Column], names: Sequence[str], shown: Sequence[int]
) -> list[dict[str, Any]]:
    """The rows of the table of clips: for each column the text and the value to sort by."""
    rows = []
    for i, row in enumerate(table.to_dict("records")):
        outcome = "skipped" if row["skipped"] else "fooled" if row["success"] else "not fooled"
        values = [float("nan" if pd.isna(row[column.name]) else row[column.name]) for column in columns]
        cells = [
            (column.text(value), "" if math.isnan(value) else repr(value))
            for column, value in zip(columns, values, strict=True)
        ]
        rows.append(
            {
                "attack": attack,
                "clip": i,
                "name": names[i],
                "goal": row["goal"],
                "outcome": outcome,
                "shown": i in shown,
                "cells": cells,
            }
        )
    return rows

"""The report on the clips of one attack, or of several on the same clips."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor

from vidmarl import metrics
from vidmarl.metrics import ClipOutcome, Column
from vidmarl.metrics.attack import own_budget
from vidmarl.metrics.column import percent
from vidmarl.report import figures, pictures
from vidmarl.report.clips import articles, attacked_clips, clip_data, common_gain
from vidmarl.report.page import FOLDER, setting_rows, summary_rows, write_page


@runtime_checkable
class ClipTable(metrics.Outcome, Protocol):
    """An outcome that gives a table of all its clips, and some of them with their pixels."""

    def metrics(self) -> pd.DataFrame:
        """See `vidmarl.metrics.clip_table`."""

    def __getitem__(self, rows: list[int]) -> ClipOutcome:
        """The outcome of some of the clips."""


def write_report(
    path: str | Path,
    results: ClipTable | Mapping[str, ClipTable],
    *,
    title: str = "Robustness report",
    names: Sequence[str] | None = None,
    budgets: Sequence[int] = metrics.BUDGETS,
    max_clips: int = 12,
    fps: float = 5.0,
) -> Path:
    """Writes what came of one attack, or of several on the same clips, as one self-contained HTML
    file.

    Of the clips that are not shown no pixel is read.

    Args:
        path: the file; it appears whole or not at all.
        results: a result (`vidmarl.AttackResult`, or `SavedResult` for many clips), or results by
            the name to show.
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
    pictured = {name: result[shown] for name, result in results.items()} if shown else {}
    keys = [str(i) for i in shown]
    tables = {name: result.metrics() for name, result in results.items()}
    summaries = {
        name: metrics.summary_table(result, _of_fooled(tables[name]), [*budgets, own_budget(result)])
        for name, result in results.items()
    }
    columns = [*metrics.SUCCESS_COLUMNS, *metrics.shown_metrics(next(iter(tables.values())))]
    gain = common_gain([pictured])
    return write_page(
        path,
        FOLDER / "report.html.j2",
        title=title,
        data={
            "fps": fps,
            "colours": [pictures.MORE, pictures.LESS],
            "gain": gain,
            "curves": [json.loads(figures.budget_curves(results).to_json())],
            "clips": clip_data(pictured, keys, gain) if shown else {},
        },
        headlines=[_headline(name, result, summaries[name]) for name, result in results.items()],
        figures=metrics.FIGURES,
        summary=[row for name, table in summaries.items() for row in summary_rows(name, table, metrics.FIGURES)],
        several=len(results) > 1,
        columns=columns,
        rows=[row for name, table in tables.items() for row in _rows(name, table, columns, names, shown)],
        clips=articles(pictured, keys, [names[i] for i in shown]) if shown else [],
        unshown=len(attacked) - len(shown),
        settings={name: setting_rows(result) for name, result in results.items()},
    )


def _of_fooled(table: pd.DataFrame) -> dict[str, Tensor]:
    """What was measured of the fooled clips, float64[n], by column."""
    fooled = table[table["success"] & ~table["skipped"]]
    measured = [column.name for column in metrics.columns(slow=True) if column.name in table]
    return {name: torch.tensor(fooled[name].to_numpy(float)) for name in measured}


def _validated(results: Mapping[str, ClipTable], names: Sequence[str] | None) -> list[str]:
    """The names of the clips, if the results can be shown side by side."""
    if not results or any(len(result.success) == 0 for result in results.values()):
        raise ValueError("Writing a report: expected at least one result with at least one clip.")
    first, *others = results.values()
    clips = len(first.success)
    for other in others:
        same = len(other.success) == clips
        if not same or not all(torch.equal(first[[i]].clean, other[[i]].clean) for i in range(clips)):
            raise ValueError(
                "Writing a report on several attacks: expected results on the same clips in the same order, got"
                f" {clips} and {len(other.success)}, or clips of different content. Write a report for each."
            )
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
    known = column.range(row)
    return f"95 % interval {known}" if known else "no 95 % interval: too few clips"


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

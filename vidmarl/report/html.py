"""The report on the clips of one attack, or of several on the same clips."""

from __future__ import annotations

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
from vidmarl.report import figures, verdict
from vidmarl.report.clips import articles, attacked_clips, clip_data, typical_clips
from vidmarl.report.page import FOLDER, in_words, setting_rows, summary_rows, write_page
from vidmarl.utils.tables import to_csv, to_latex


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

    It says in words what came of it, then shows clips, curves and tables; it prints whole, and
    offers its tables and figures for download. Of the clips that are not shown no pixel is read.

    Args:
        path: the file; it appears whole or not at all.
        results: a result (`vidmarl.AttackResult`, or `SavedResult` for many clips), or results by
            the name to show.
        title: of the page.
        names: of the clips, such as their file names; default "clip 0" and so on.
        budgets: the query budgets of the summary.
        max_clips: how many of the attacked clips are shown frame by frame, which is most of the
            file's size; the median, the easiest and the hardest first. The summary and the table
            hold all.
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
    attacked, typical = attacked_clips(results), typical_clips(results)
    shown = [*typical, *(i for i in attacked if i not in typical)][: max(max_clips, 0)]
    pictured = {name: result[shown] for name, result in results.items()} if shown else {}
    keys = [str(i) for i in shown]
    tables = {name: result.metrics() for name, result in results.items()}
    summaries = {
        name: metrics.summary_table(result, _of_fooled(tables[name]), [*budgets, own_budget(result)])
        for name, result in results.items()
    }
    columns = [*metrics.SUCCESS_COLUMNS, *metrics.shown_metrics(next(iter(tables.values())))]
    titles = [typical.get(i, "") for i in shown]
    return write_page(
        path,
        FOLDER / "report.html.j2",
        title=title,
        data={
            "fps": fps,
            "curves": [figures.budget_curves(results)],
            "sizes": [figures.sizes(results, names)],
            "clips": clip_data(pictured, keys) if shown else {},
            "files": _files(tables, summaries, names),
        },
        verdict=_verdict(results, tables),
        tiles=_tiles(next(iter(summaries.values())), next(iter(tables.values()))) if len(results) == 1 else [],
        figures=metrics.FIGURES,
        summary=[row for name, table in summaries.items() for row in summary_rows(name, table, metrics.FIGURES)],
        several=len(results) > 1,
        columns=columns,
        rows=[row for name, table in tables.items() for row in _rows(name, table, columns, names, shown)],
        clips=articles(pictured, keys, [names[i] for i in shown], titles) if shown else [],
        unshown=len(attacked) - len(shown),
        settings={name: setting_rows(result) for name, result in results.items()},
    )


def _verdict(results: Mapping[str, ClipTable], tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What came of it all: who was ahead, and how many clips the victim held at what size."""
    said = verdict.ahead(results)
    for name, result in results.items():
        said += [verdict.held(name, result), verdict.size(tables[name])]
    skipped = sum(int(result.skipped.sum()) for result in results.values()) // len(results)
    if skipped:
        clips = "1 clip was" if skipped == 1 else f"{skipped} clips were"
        said.append(f"{clips} skipped: the goal held before the attack.")
    if any(result.settings.get("decisions_only") for result in results.values()):
        said.append("The victim said nothing but a class for each clip; the attack went by decisions alone.")
    return [sentence for sentence in said if sentence]


def _files(
    tables: Mapping[str, pd.DataFrame], summaries: Mapping[str, pd.DataFrame], names: Sequence[str]
) -> dict[str, str]:
    """What the page offers for download, by the file's name."""
    clips = pd.concat([table.assign(attack=name, clip=list(names)) for name, table in tables.items()])
    summary = pd.concat([table.assign(attack=name) for name, table in summaries.items()])
    clips, summary = (table[["attack", *table.columns.drop("attack")]] for table in (clips, summary))
    return {"clips.csv": to_csv(clips), "summary.csv": to_csv(summary), "summary.tex": to_latex(in_words(summary))}


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


def _tiles(summary: pd.DataFrame, table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """The figures at the top, for the whole of an attack: name, value, detail."""
    row = summary.iloc[-1].to_dict()
    of = {column.name: column for column in (*metrics.FIGURES, *metrics.columns())}
    fooled = table[table["success"] & ~table["skipped"]]
    ssim = float(fooled["ssim"].median()) if "ssim" in fooled else math.nan
    return [
        ("Fooled", percent(row["FR"]), _interval(of["FR"], row)),
        ("Median L2, a failure in full", of["L2"].text(row["L2"]), _interval(of["L2"], row)),
        (
            "Queries to the first success",
            of["AQ first"].text(row["AQ first"]),
            f"mean; {of['AQ'].text(row['AQ'])} with those after it",
        ),
        ("SSIM of the fooled", of["ssim"].text(ssim), "median; 1 is no change"),
    ]


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

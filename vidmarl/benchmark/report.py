"""The report of a benchmark: tables and curves by victim and distortion, and the clips where they
were kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidmarl import metrics
from vidmarl.benchmark.tables import TRAINING, Key, comparisons
from vidmarl.benchmark.trials import Trials
from vidmarl.metrics import Column

if TYPE_CHECKING:
    import pandas as pd


def write_benchmark_report(
    path: str | Path,
    trials: Mapping[Key, Mapping[str, Trials]],
    summaries: Mapping[Key, pd.DataFrame],
    *,
    reference: str,
    title: str = "Benchmark",
    max_clips: int = 12,
    fps: float = 5.0,
) -> Path:
    """Writes what came of a benchmark as one self-contained HTML file.

    Args:
        path: the file; it appears whole or not at all.
        trials: by (victim, distortion) and attack.
        summaries: of `vidmarl.benchmark.tables.summarise`.
        reference: the attack that the others are compared with.
        title: of the page.
        max_clips: how many of the attacked clips of each victim and distortion are shown frame by
            frame, where the trials have kept them.
        fps: frames a second when a slider plays.

    Returns:
        The path.
    """
    from vidmarl.report import figures, pictures
    from vidmarl.report.clips import articles, attacked_clips, clip_data, common_gain
    from vidmarl.report.page import setting_rows, summary_rows, write_page

    sections, pictured = [], []
    for number, (key, attacks) in enumerate(trials.items(), start=1):
        summary = summaries[key]
        columns = _columns(summary, reference)
        shown = attacked_clips(attacks)[:max_clips] if all(t.has_clips for t in attacks.values()) else []
        results = {name: of_attack.to_result(shown) for name, of_attack in attacks.items()} if shown else {}
        first = next(iter(attacks.values()))
        names = [first.facts[i]["clip"] for i in shown]
        keys = [f"{number}-{i}" for i in range(len(shown))]
        pictured.append((results, keys))
        sections.append(
            {
                "victim": key[0],
                "distortion": key[1],
                "clips": int(summary["clips"].max()),
                "skipped": int(summary["skipped"].max()),
                "columns": columns,
                "rows": [
                    row
                    for name, table in summary.groupby("attack", sort=False)
                    for row in summary_rows(str(name), table, columns, bold="L2")
                ],
                "articles": articles(results, keys, names) if shown else [],
                "settings": {name: setting_rows(of_attack) for name, of_attack in attacks.items()},
            }
        )
    gain = common_gain([results for results, _ in pictured])
    clips: dict[str, Any] = {}
    for results, keys in pictured:
        if keys:
            clips |= clip_data(results, keys, gain)
    return write_page(
        path,
        Path(__file__).with_name("report.html.j2"),
        title=title,
        data={
            "fps": fps,
            "colours": [pictures.MORE, pictures.LESS],
            "gain": gain,
            "curves": [json.loads(figures.budget_curves(attacks).to_json()) for attacks in trials.values()],
            "clips": clips,
        },
        sections=sections,
        reading=_columns(next(iter(summaries.values())), reference),
    )


def _columns(summary: pd.DataFrame, reference: str) -> list[Column]:
    """What the table of a section shows."""
    return [*metrics.FIGURES, *comparisons(reference), *metrics.shown_metrics(summary), TRAINING]

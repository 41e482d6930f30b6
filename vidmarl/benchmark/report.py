"""The report of a benchmark, by victim and distortion: who was ahead, the clips where they were
kept, curves and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidmarl import metrics
from vidmarl.benchmark.tables import TRAINING, Key, comparisons
from vidmarl.benchmark.trials import Trials
from vidmarl.metrics import Column
from vidmarl.utils.files import PathLike
from vidmarl.utils.tables import to_csv, to_latex

if TYPE_CHECKING:
    import pandas as pd

LEARNT = ("l2", "correlation")
"""The curves of a training that say whether it paid: the size of successes on held-out clips, and
how well the agents foretell the effect of distorting a place."""


def write_benchmark_report(
    path: str | Path,
    trials: Mapping[Key, Mapping[str, Trials]],
    summaries: Mapping[Key, pd.DataFrame],
    *,
    reference: str,
    training: PathLike | None = None,
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
        training: the log of the agents' training, whose curves are shown.
        title: of the page.
        max_clips: how many of the attacked clips of each victim and distortion are shown frame by
            frame, where the trials have kept them; the median, the easiest and the hardest first.
        fps: frames a second when a slider plays.

    Returns:
        The path.
    """
    from vidmarl.report import figures, verdict
    from vidmarl.report.clips import articles, attacked_clips, clip_data, typical_clips
    from vidmarl.report.page import in_words, setting_rows, summary_rows, write_page

    sections: list[dict[str, Any]] = []
    clips: dict[str, Any] = {}
    files: dict[str, str] = {}
    for number, (key, attacks) in enumerate(trials.items(), start=1):
        summary = summaries[key]
        columns = _columns(summary, reference)
        typical = typical_clips(attacks)
        order = [*typical, *(i for i in attacked_clips(attacks) if i not in typical)][:max_clips]
        shown = order if all(of_attack.has_clips for of_attack in attacks.values()) else []
        results = {name: of_attack.to_result(shown) for name, of_attack in attacks.items()} if shown else {}
        facts = next(iter(attacks.values())).facts
        names, titles = [facts[i]["clip"] for i in shown], [typical.get(i, "") for i in shown]
        keys = [f"{number}-{i}" for i in shown]
        clips |= clip_data(results, keys) if shown else {}
        own = {f"summary-{number}.csv": to_csv(summary), f"summary-{number}.tex": to_latex(in_words(summary))}
        files |= own
        sections.append(
            {
                "victim": key[0],
                "distortion": key[1],
                "clips": int(summary["clips"].max()),
                "skipped": int(summary["skipped"].max()),
                "verdict": verdict.ahead(attacks),
                "held": [verdict.held(name, of_attack, key[0]) for name, of_attack in attacks.items()],
                "tables": _tables(columns, reference),
                "rows": [
                    row
                    for name, table in summary.groupby("attack", sort=False)
                    for row in summary_rows(str(name), table, columns, bold="L2")
                ],
                "articles": articles(results, keys, names, titles) if shown else [],
                "files": list(own),
                "settings": {name: setting_rows(of_attack) for name, of_attack in attacks.items()},
            }
        )
    learnt = [] if training is None else [figures.training_curves(training, LEARNT)]
    names_of = {key: [fact["clip"] for fact in next(iter(attacks.values())).facts] for key, attacks in trials.items()}
    return write_page(
        path,
        Path(__file__).with_name("report.html.j2"),
        title=title,
        data={
            "fps": fps,
            "curves": [figures.budget_curves(attacks) for attacks in trials.values()],
            "sizes": [*(figures.sizes(attacks, names_of[key]) for key, attacks in trials.items()), *learnt],
            "clips": clips,
            "files": files,
        },
        sections=sections,
        learnt=bool(learnt),
        reading=_columns(next(iter(summaries.values())), reference),
    )


def _tables(columns: list[Column], reference: str) -> dict[str, list[Column]]:
    """Two tables that fit on a screen: what decides, and what else there is."""
    first = {"budget", "FR", "L2", "AQ first", *(column.name for column in comparisons(reference))}
    return {
        "Table": [column for column in columns if column.name in first],
        "More figures": [column for column in columns if column.name == "budget" or column.name not in first],
    }


def _columns(summary: pd.DataFrame, reference: str) -> list[Column]:
    """What the tables of a section show."""
    return [*metrics.FIGURES, *comparisons(reference), *metrics.shown_metrics(summary), TRAINING]

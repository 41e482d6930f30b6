"""The tables of a benchmark: CSV files with everything, and Markdown for people."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidmarl import metrics
from vidmarl.benchmark.trials import Trials, origins
from vidmarl.metrics import Column, Outcome
from vidmarl.metrics.table import names
from vidmarl.utils.files import write_atomically
from vidmarl.utils.tables import to_csv

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, str]
"""(victim, distortion), their names in the tables."""

Row = dict[Any, Any]

ORIGINS = ("device", "threads", "torch", "vidmarl", "python")
"""What of the provenance of trials may change a result: a column of rows.csv where they differ; the
device always is."""

BEST = "best control"
"""Whether no control has a smaller median L2 at this budget."""

TRAINING = Column("training queries", "Training queries", "what training its agents has cost", format=",.0f")
PAYS = Column("pays after", "Pays after", "attacked clips after which the training queries are made up for")


def comparisons(reference: str) -> list[Column]:
    """The columns that compare an attack with the reference, clip by clip."""
    test = "of the two-sided Wilcoxon signed-rank test on the clips' ratios, not corrected for the number of rows"
    return [
        Column(
            "L2 ratio",
            f"L2, {reference} / this",
            f"median over the clips of the L2 of {reference} divided by that of this attack; below 1 {reference} is"
            " smaller",
            interval=True,
        ),
        Column("L2 p", "p of L2", test, format=".2g"),
        Column(
            "AQ ratio",
            f"AQ first, {reference} / this",
            f"AQ first of {reference} divided by that of this attack; below 1 {reference} is quicker",
            interval=True,
        ),
        Column("AQ p", "p of AQ first", test, format=".2g"),
    ]


def write_tables(
    out: Path,
    trials: Mapping[Key, Mapping[str, Trials]],
    summaries: Mapping[Key, pd.DataFrame],
    *,
    budgets: Sequence[int],
    reference: str,
) -> pd.DataFrame:
    """Writes rows.csv, summary.csv and summary.md.

    Args:
        out: the folder.
        trials: by (victim, distortion) and attack.
        summaries: of `summarise`, by (victim, distortion).
        budgets: queries per clip.
        reference: the attack that the others are compared with.

    Returns:
        The summaries below each other, as in summary.csv.
    """
    import pandas as pd

    found = origins(of_attack for attacks in trials.values() for of_attack in attacks.values())
    told = [key for key in ORIGINS if key == "device" or len(found.get(key, ())) > 1]
    rows = []
    for (victim, distortion), attacks in trials.items():
        for attack, of_attack in attacks.items():
            table = of_attack.table(budgets)
            known = {"victim": victim, "distortion": distortion, "attack": attack}
            origin = {key: [provenance.get(key) for provenance in of_attack.provenances] for key in told}
            rows.append(pd.DataFrame(known | origin, index=table.index).join(table))
    parts = [table.assign(victim=v, distortion=d) for (v, d), table in summaries.items()]
    summary = pd.concat(parts, ignore_index=True)
    summary = summary[["victim", "distortion", *summary.columns.drop(["victim", "distortion"])]]
    write_atomically(out / "rows.csv", to_csv(pd.concat(rows)))
    write_atomically(out / "summary.csv", to_csv(summary))
    text = "\n".join(
        f"## {one_line(f'{v}, {d}')}\n\n{markdown(table, reference)}" for (v, d), table in summaries.items()
    )
    write_atomically(out / "summary.md", text)
    return summary


def summarise(
    attacks: Mapping[str, Outcome], figures: Mapping[str, pd.DataFrame], reference: str, controls: Collection[str]
) -> pd.DataFrame:
    """The figures of all attacks on one victim under one distortion, a row for each attack and
    budget.

    Args:
        attacks: what came of each attack, on the same clips.
        figures: of each, see `vidmarl.metrics.summary_table`.
        reference: the attack that the others are compared with.
        controls: the attacks among which the best is marked; oracles are left out.

    Returns:
        "attack", the columns of `vidmarl.metrics.summary_table`, those of `comparisons` (NaN for
        the reference), "best control" (whether no control has a smaller median L2 at this budget),
        "training queries" (of the outcome's settings), and "pays after", see `pays_after`.
    """
    import pandas as pd

    parts = []
    for attack, outcome in attacks.items():
        table = figures[attack].assign(**{TRAINING.name: outcome.settings.get("training_queries", 0)})
        table.insert(0, "attack", attack)
        parts.append(table)
    table = pd.concat(parts, ignore_index=True)
    compared = [_compared(attacks, reference, row["attack"], int(row["budget"])) for row in table.to_dict("records")]
    training = table.pop(TRAINING.name)
    table = table.join(pd.DataFrame(compared, columns=[n for c in comparisons(reference) for n in names(c)]))
    oracles = {attack for attack, outcome in attacks.items() if "oracle" in outcome.settings}
    is_control = table["attack"].isin(set(controls) - oracles)
    best = table["L2"].where(is_control).groupby(table["budget"]).transform("min")
    table[BEST] = is_control & (table["L2"] == best)
    table[TRAINING.name] = training
    table[PAYS.name] = [pays_after(row, table[is_control]) for _, row in table.iterrows()]
    return table


def _compared(attacks: Mapping[str, Outcome], reference: str, attack: str, budget: int) -> dict[str, float]:
    """How an attack compares with the reference; empty for the reference itself."""
    if attack == reference:
        return {}
    pair = attacks[reference], attacks[attack], budget
    ratios = {"L2": metrics.size_ratio(*pair), "AQ": metrics.query_ratio(*pair)}
    return {
        f"{name} {what}": value
        for name, found in ratios.items()
        for what, value in (
            ("ratio", found.ratio),
            ("ratio low", found.low),
            ("ratio high", found.high),
            ("p", found.p),
        )
    }


def pays_after(row: pd.Series, controls: pd.DataFrame) -> float:
    """After how many attacked clips the training queries of an attack are made up for by those that
    it saves.

    Saved is, at the budget of `row`, the AQ to the first success of the quickest control that fools
    no fewer clips, less the attack's own. NaN for an attack without training, or without such a
    control; infinite if it saves none.
    """
    rivals = controls[(controls["budget"] == row["budget"]) & (controls["FR"] >= row["FR"])]
    if not row[TRAINING.name] or rivals.empty:
        return math.nan
    saved = rivals["AQ first"].min() - row["AQ first"]
    return math.inf if saved <= 0 else float(row[TRAINING.name] / saved)


def markdown(table: pd.DataFrame, reference: str) -> str:
    """A summary for people, as Markdown: sizes, shares, comparisons and queries by budget, then
    what else is known at the end. All columns and intervals are in the CSV.

    Args:
        table: of `summarise`.
        reference: the attack that the table compares the others with.
    """
    of = {column.name: column for column in (*metrics.FIGURES, *comparisons(reference))}

    def size(row: Row) -> str:
        text = f"{of['L2'].text(row['L2'])} ({of['FR'].text(row['FR'])})"
        return f"**{text}**" if row[BEST] else text

    def ratio(row: Row) -> str:
        return f"{of['L2 ratio'].cell(row)}, p = {of['L2 p'].text(row['L2 p'])}"

    parts = [_by_budget(table, "Median L2 (fooled)", size), _by_budget(table, "Fooled", of["FR"].cell)]
    others = table[table["attack"] != reference]
    if len(others):
        parts.append(_by_budget(others, of["L2 ratio"].label, ratio))
    parts.append(_by_budget(table, "AQ first", of["AQ first"].cell))
    columns = [of["AQ"], of["AQ+"], of["AQ ratio"], of["AQ p"], *metrics.shown_metrics(table), TRAINING]
    end = table[table["budget"] == table["budget"].max()]
    lines = [[row["attack"], *(column.cell(row) for column in columns)] for row in end.to_dict("records")]
    parts.append(markdown_table([f"At {end['budget'].max()} queries", *(column.heading for column in columns)], lines))
    parts.append(f"Clips attacked: {table['clips'].max()}; skipped: {table['skipped'].max()}. {metrics.INTERVALS}.\n")
    return "\n".join(parts)


def _by_budget(table: pd.DataFrame, title: str, cell: Callable[[Row], str]) -> str:
    """A row for each attack, a column for each budget."""
    budgets = sorted(table["budget"].unique())
    lines = [
        [str(attack), *(cell(row) for row in rows.sort_values("budget").to_dict("records"))]
        for attack, rows in table.groupby("attack", sort=False)
    ]
    return markdown_table([title, *(f"{budget} queries" for budget in budgets)], lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, whatever is in its cells."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(["| " + " | ".join(map(one_line, row)) + " |" for row in lines]) + "\n"


def one_line(text: str) -> str:
    """Text that ends no line, no cell and no table of Markdown, and begins no HTML."""
    return re.sub(r"[\\|<]", r"\\\g<0>", " ".join(text.split()))

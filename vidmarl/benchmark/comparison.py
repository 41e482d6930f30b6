"""The comparison of attacks that `vidmarl test` writes: one table, one report, all results."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidmarl.attacks.result import AttackResult
from vidmarl.metrics import summarise
from vidmarl.utils.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from lightning import Trainer

PICTURES = {
    "MAP": ("map", ".3f"),
    "SSIM": ("ssim", ".4f"),
    "ST-LPIPS": ("stlpips", ".2g"),
    "flicker share": ("flicker_share", ".2f"),
    "warping share": ("warping_share", ".2g"),
}
"""Means over the fooled clips that the tables for people show: name, column and format."""

Parts = dict[str, list[tuple[Tensor, AttackResult]]]
"""Per attack: the indices of some clips, and the result on them."""


def merge(parts: list[tuple[Tensor, AttackResult]]) -> AttackResult:
    """One result in the order of the clips; a clip that a sampler has padded in twice stands there
    once."""
    index = torch.cat([rows for rows, _ in parts])
    result = AttackResult.cat([part for _, part in parts])
    order = index.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = index[order][1:] != index[order][:-1]
    return result[order[first]]


def gather_results(parts: Parts, out: Path, trainer: Trainer) -> dict[str, AttackResult] | None:
    """The results of all ranks, on rank 0; None on the others. They meet as files under `out`."""
    if trainer.world_size == 1:
        return {name: merge(of) for name, of in parts.items()}
    own = out / f"rank{trainer.global_rank}"
    for name, of in parts.items():
        index = torch.cat([rows for rows, _ in of])
        AttackResult.cat([part for _, part in of]).save(own / name, overwrite=True)
        (own / f"{name}.json").write_text(json.dumps(index.tolist()))
    trainer.strategy.barrier("results")
    if not trainer.is_global_zero:
        return None
    merged = {}
    for name in parts:
        ranks = [out / f"rank{rank}" for rank in range(trainer.world_size)]
        merged[name] = merge(
            [
                (torch.tensor(json.loads((rank / f"{name}.json").read_text())), AttackResult.load(rank / name))
                for rank in ranks
            ]
        )
    for rank in range(trainer.world_size):
        shutil.rmtree(out / f"rank{rank}")
    return merged


def compare(results: dict[str, AttackResult], budgets: Sequence[int]) -> pd.DataFrame:
    """One row per attack and budget, see `vidmarl.metrics.summarise`."""
    return stack({name: summarise(result, budgets) for name, result in results.items()})


def stack(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of `vidmarl.metrics.summary_table` below each other, the attack's name in the first
    column."""
    import pandas as pd

    table = pd.concat([table.assign(attack=name) for name, table in tables.items()], ignore_index=True)
    return table[["attack", *table.columns.drop("attack")]]


def markdown(table: pd.DataFrame, reference: str | None = None) -> str:
    """A summary for people, as Markdown: sizes, comparisons and queries by budget, then what else
    is known at the end.

    What stands in brackets are 95 % bootstrap intervals over clips. All columns and intervals are
    in the CSV.

    Args:
        table: of `compare`; with a column "training queries" where agents have been trained, or of
            `vidmarl.benchmark.summarise`.
        reference: the attack that the table compares the others with; None: it compares none.
    """
    parts = [_by_budget(table, "Median L2 (fooled)", _size)]
    others = table[table["attack"] != reference]
    if reference and len(others):
        named = f"L2 of {reference} / L2 of the attack on the same clip: median [interval], p"
        parts.append(_by_budget(others, named, lambda row: _ratio(row, "L2")))
    parts.append(_by_budget(table, "Queries to the first success (AQ first)", _first))
    clips, skipped = int(table["clips"].max()), int(table["skipped"].max())
    return "\n".join([*parts, _at_the_end(table, reference), f"{clips} clips, {skipped} skipped.", ""])


def _by_budget(table: pd.DataFrame, title: str, cell: Callable[[dict[Hashable, Any]], str]) -> str:
    """A row for each attack, a column for each budget."""
    budgets = sorted(table["budget"].unique())
    lines = [
        [attack, *(cell(row) for row in rows.sort_values("budget").to_dict("records"))]
        for attack, rows in table.groupby("attack", sort=False)
    ]
    return _lines([title, *(f"{budget} queries" for budget in budgets)], lines)


def _at_the_end(table: pd.DataFrame, reference: str | None) -> str:
    """What is known at the whole budget alone."""
    end = table[table["budget"] == table["budget"].max()]
    pictures = [(name, *how) for name, how in PICTURES.items() if how[0] in table]
    lines = [
        [
            row["attack"],
            f"{row['AQ']:.0f}",
            _figure(row["AQ+"], ".0f"),
            *([_ratio(row, "AQ")] if reference else []),
            *(_figure(row[key], form) for _, key, form in pictures),
            f"{row.get('training queries', 0)}",
        ]
        for row in end.to_dict("records")
    ]
    ratio = [f"AQ first of {reference} / of this, p"] if reference else []
    names = [f"At {end['budget'].max()} queries", "AQ", "AQ+", *ratio, *(name for name, *_ in pictures)]
    return _lines([*names, "training queries"], lines)


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]) + "\n"


def _size(row: dict[Hashable, Any]) -> str:
    text = f"{row['L2']:.2f} ({row['FR']:.0%})"
    return f"**{text}**" if row.get("best control") else text


def _first(row: dict[Hashable, Any]) -> str:
    return f"{row['AQ first']:.0f} [{row['AQ first low']:.0f}, {row['AQ first high']:.0f}]"


def _ratio(row: dict[Hashable, Any], of: str) -> str:
    """How the reference compares, with its interval, and the p."""
    ratio, low, high, p = (row[f"{of} {what}"] for what in ("ratio", "ratio low", "ratio high", "p"))
    return "" if math.isnan(ratio) else f"{ratio:.2f} [{low:.2f}, {high:.2f}], {_figure(p, '.2g')}".rstrip(", ")


def _figure(value: float, form: str) -> str:
    return "" if value != value else format(value, form)  # NaN: nothing was fooled


def write_comparison(
    out: Path, results: dict[str, AttackResult], budgets: Sequence[int], settings: dict[str, Any]
) -> pd.DataFrame:
    """Writes the summary (csv, md), the settings, the report and every result under `out`; returns
    the summary.

    Args:
        out: a folder, made where needed; what an earlier comparison left there is replaced.
        results: by attack, all on the same clips.
        budgets: where the curves are read off.
        settings: of the comparison, plain data.
    """
    from vidmarl.report import write_report

    out.mkdir(parents=True, exist_ok=True)
    table = compare(results, budgets)
    learnt = int(settings.get("training_queries", 0))
    table["training queries"] = [learnt if name == "rl" else 0 for name in table["attack"]]
    for name, result in results.items():
        result.save(out / name, overwrite=True)
    write_atomically(out / "summary.csv", table.to_csv(index=False))
    write_atomically(out / "summary.md", markdown(table))
    write_atomically(out / "settings.json", json.dumps(settings, indent=2))
    title = f"Attacks on {settings.get('victim', 'a victim')}"
    write_report(out / "report.html", results, title=title, budgets=budgets)
    return table

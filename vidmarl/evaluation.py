"""The comparison of attacks that `vidmarl test` writes: one table, one report, all results."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidmarl.attacks.result import AttackResult
from vidmarl.files import write_atomically
from vidmarl.metrics import summarise

if TYPE_CHECKING:
    import pandas as pd
    from lightning import Trainer

Parts = dict[str, list[tuple[Tensor, AttackResult]]]
"""Per attack: the indices of some clips, and the result on them."""


def merge(parts: list[tuple[Tensor, AttackResult]]) -> AttackResult:
    """One result in the order of the clips; a clip that a sampler has padded in twice stands there once."""
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
    """Tables of `vidmarl.metrics.summary_table` below each other, the attack's name in the first column."""
    import pandas as pd

    table = pd.concat([table.assign(attack=name) for name, table in tables.items()], ignore_index=True)
    return table[["attack", *table.columns.drop("attack")]]


def markdown(table: pd.DataFrame) -> str:
    """A summary as a Markdown table, for docs/results.md; intervals are 95 % bootstrap intervals over clips.

    Args:
        table: of `compare`; with a column "training queries" where agents have been trained, or of
            `vidmarl.benchmark.summarise`, where the attacks are compared with one of them.
    """
    names = ["attack", "queries", "fooled", "AQ", "AQ+", "median L2"]
    paired = "L2 ratio" in table
    names += ["L2: reference / this", "p", "AQ first", "AQ first: reference / this", "p"] if paired else []
    names += ["MAP", "SSIM", "flicker", "flicker share"]
    slow = [(name, key) for name, key in (("ST-LPIPS", "stlpips"), ("warping share", "warping_share")) if key in table]
    names += [name for name, _ in slow] + ["training queries"]
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    for row in table.to_dict("records"):
        size = f"{row['L2']:.2f} [{row['L2 low']:.2f}, {row['L2 high']:.2f}]"
        cells = [
            row["attack"],
            f"{row['budget']}",
            f"{row['FR']:.0%}",
            f"{row['AQ']:.0f}",
            _figure(row["AQ+"], ".0f"),
            f"**{size}**" if row.get("best control") else size,
        ]
        if paired:
            asked = f"{row['AQ first']:.0f} [{row['AQ first low']:.0f}, {row['AQ first high']:.0f}]"
            cells += [*_ratio(row, "L2"), asked, *_ratio(row, "AQ")]
        cells += [
            _figure(row.get("map", math.nan), ".3f"),
            _figure(row.get("ssim", math.nan), ".4f"),
            _figure(row.get("flicker", math.nan), ".1e"),
            _figure(row.get("flicker_share", math.nan), ".2f"),
            *(_figure(row[key], ".2g") for _, key in slow),
            f"{row.get('training queries', 0)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    clips, skipped = int(table["clips"].max()), int(table["skipped"].max())
    return "\n".join([*lines, "", f"{clips} clips, {skipped} skipped.", ""])


def _ratio(row: dict[Hashable, Any], of: str) -> list[str]:
    """How the reference compares, with its interval, and the p."""
    ratio, low, high, p = (row[f"{of} {what}"] for what in ("ratio", "ratio low", "ratio high", "p"))
    return ["", ""] if math.isnan(ratio) else [f"{ratio:.2f} [{low:.2f}, {high:.2f}]", _figure(p, ".2g")]


def _figure(value: float, form: str) -> str:
    return "" if value != value else format(value, form)  # NaN: only the final clips have pictures


def write_comparison(
    out: Path, results: dict[str, AttackResult], budgets: Sequence[int], settings: dict[str, Any]
) -> pd.DataFrame:
    """Writes the summary (csv, md), the settings, the report and every result under `out`; returns the summary.

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

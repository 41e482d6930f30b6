"""Measures what scores are worth to an attack: docs/results/hard_label.csv.

    vidmarl demo
    python docs/measure_hard_label.py

Every attack that can do without scores is run twice on the demo's victim and its unseen clips, with
equally many queries: once on the victim as it is, once on the same network of which only the
decisions are left (`vidmarl.victims.decisions`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import vidmarl
from vidmarl import AttackResult, metrics
from vidmarl.attacks import STDE, Attack
from vidmarl.data.synthetic import make_clips, split_seed
from vidmarl.demo.run import DISTORTION, GRID
from vidmarl.utils.files import write_atomically
from vidmarl.victims.decisions import decisions_only

BUDGETS = (25, 50, 100)
CLIPS = 24
OUT = Path(__file__).parent / "results" / "hard_label.csv"


def attacks(agents: str, **settings: Any) -> dict[str, Callable[[], Attack]]:
    """The attacks by the name in the table."""
    return {
        "rl (the demo's agents)": lambda: vidmarl.RLAttack(agents, **settings),
        "rl (gaussian_noise)": lambda: vidmarl.RLAttack("gaussian_noise", **settings),
        "grow_and_reduce": lambda: vidmarl.GrowAndReduce(**settings),
        "random_cells": lambda: vidmarl.RandomCells(**settings),
        "stde": lambda: STDE(**settings),
    }


def row(result: AttackResult, budget: int) -> dict[str, float]:
    """What had come of an attack after so many queries of each clip."""
    attacked = ~result.skipped
    fooled = metrics.success_at(result, [budget])[attacked, 0]
    first = torch.where(fooled, metrics.first_success(result)[attacked], budget)
    return {
        "fooled": float(fooled.float().mean()),
        "first success": float(first.float().mean()),
        "median L2": float(metrics.best_l2_at(result, [budget])[attacked, 0].quantile(0.5)),
    }


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", default="outputs/demo/agents.pt", help="those of `vidmarl demo`")
    parser.add_argument("--clips", type=int, default=CLIPS)
    args = parser.parse_args()
    victim = vidmarl.load_victim("demo")
    clips, _ = make_clips(args.clips, split_seed(0, "test"))
    settings = {"distortion": DISTORTION, "grid": GRID, "budget": max(BUDGETS)}
    rows = []
    for name, make in attacks(args.agents, **settings).items():
        for asked in (victim, decisions_only(victim)):
            result = make()(asked, clips)
            rows += [
                {"attack": name, "answers": "decisions" if asked.decisions_only else "scores", "budget": budget}
                | row(result, budget)
                for budget in BUDGETS
            ]
    write_atomically(OUT, pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()

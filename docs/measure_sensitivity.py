"""Measures sensitivity maps of few queries against exhaustive probing, for docs/sensitivity.md:

    VIDMARL_DATA=... python docs/measure_sensitivity.py [--clips 8] [--keep outputs/sensitivity]

Every clip of `CLIPS` is one that MoViNet-A0 gets right at 8 frames of 112 px. The truth is the
effect of each of its 392 cells, asked about alone. All that the victim has answered is kept in a
folder, so that a run that was cut short goes on, and a cell that was asked about once costs no time
again. Written are docs/sensitivity.csv, a row for each clip, distortion, method and budget,
and to the terminal the table of docs/sensitivity.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import vidmarl
from vidmarl.attacks.sensitivity.result import Sensitivity
from vidmarl.data.paths import data_root
from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import as_grid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.goals import Goal

OUT = Path(__file__).resolve().parent / "sensitivity.csv"

CLIPS = {  # of UCF-101, and what the victim calls them
    "BenchPress/v_BenchPress_g01_c03": "bench pressing",
    "Bowling/v_Bowling_g22_c04": "bowling",
    "BrushingTeeth/v_BrushingTeeth_g17_c02": "brushing teeth",
    "PlayingFlute/v_PlayingFlute_g05_c02": "playing flute",
    "PoleVault/v_PoleVault_g04_c02": "pole vault",
    "ShavingBeard/v_ShavingBeard_g03_c05": "shaving head",
    "SoccerPenalty/v_SoccerPenalty_g17_c04": "shooting goal (soccer)",
    "BoxingPunchingBag/v_BoxingPunchingBag_g01_c01": "punching bag",
    "HighJump/v_HighJump_g19_c05": "high jump",
    "RopeClimbing/v_RopeClimbing_g04_c01": "climbing a rope",
}
DISTORTIONS: dict[str, dict[str, Any]] = {
    "noise": {"class_path": "gaussian_noise", "init_args": {"std": 0.1}},
    "blur": {"class_path": "gaussian_blur", "init_args": {"sigma": 4.0}},
}
METHODS = ("posterior", "rise", "occlusion")
BUDGETS = (25, 50, 100, 200)
GRID, CELLS = 16, 8 * 7 * 7
DELETED = (1, 2, 4, 8, 16, 32, 64, 128, 256, CELLS)
"""Cells that are distorted at the points of a deletion curve."""


class Remembering(nn.Module):
    """A model that is asked about no clip twice."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.answers: dict[str, Tensor] = {}

    def forward(self, clips: Tensor) -> Tensor:
        keys = [hashlib.sha256(clip.numpy().tobytes()).hexdigest() for clip in clips]
        new = [i for i, key in enumerate(keys) if key not in self.answers]
        if new:
            self.answers |= zip([keys[i] for i in new], self.model(clips[new]), strict=True)
        return torch.stack([self.answers[key] for key in keys])


def rank(values: Tensor) -> Tensor:
    """The place of each value in order, from 0."""
    return values.flatten().argsort().argsort().double()


def correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation."""
    return float(torch.corrcoef(torch.stack([rank(one), rank(other)]))[0, 1])


def deletion(victim: vidmarl.Victim, renderer: Renderer, goal: Goal, row: int, order: Tensor) -> float:
    """The area under the share of the margin that is left, against the share of the full L2, when
    cells of a clip are distorted in an order, from its lowest value on."""
    masks = torch.stack([(rank(order) < count).float().view(renderer.shape) for count in (0, *DELETED)])
    rows = torch.full((len(masks),), row)
    clips = renderer.render(masks, rows)
    margin = goal.margin(victim(clips), rows).double()
    size = (clips - renderer.clips[row]).flatten(1).norm(dim=1).double()
    return float(torch.trapezoid(margin.clamp_min(0) / margin[0], size / size[-1]))


def measured(victim: vidmarl.Victim, names: dict[str, str], distortion: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of some clips, by the victim's name for each, under one distortion."""
    folder = data_root() / "clips" / "ucf101"
    clips = vidmarl.load_clips([folder / f"{name}.avi" for name in names], victim)
    goal = vidmarl.Misclassify(list(names.values())).resolve(victim, len(clips))
    renderer = Renderer(clips, as_distortion(distortion), as_grid(GRID))

    def sensitivity(method: Any, budget: int) -> Sensitivity:
        return vidmarl.sensitivity(victim, clips, distortion, budget, goal=goal, grid=GRID, method=method)

    truth = sensitivity("posterior", CELLS + 1)
    drawn = torch.rand(truth.map.shape, generator=torch.Generator().manual_seed(0))
    orders = {("exhaustive", None): truth, ("none", None): dataclasses.replace(truth, map=drawn)}
    orders |= {(method, budget): sensitivity(method, budget) for method in METHODS for budget in BUDGETS}
    for (method, budget), found in orders.items():
        for i, name in enumerate(names):
            row = {"clip": name.rpartition("/")[2], "margin": float(truth.margin[i]), "method": method}
            row["deletion"] = deletion(victim, renderer, goal, i, -found.map[i])
            if budget is not None:
                off = ((found.map[i] - truth.map[i]) / found.std[i])[found.std[i] > 0]
                row |= {
                    "budget": budget,
                    "queries": int(found.queries[i]),
                    "cells": correlation(found.map[i], truth.map[i]),
                    "where": correlation(found.spatial[i], truth.spatial[i]),
                    "when": correlation(found.temporal[i], truth.temporal[i]),
                    "within_2_std": float((off.abs() < 2).double().mean()),
                }
            yield row


def table(rows: pd.DataFrame) -> str:
    """Means over the clips, in Markdown."""
    lines = [
        "| | queries | cells | where | when | deletion, noise | deletion, blur | within 2 std |",
        "|" + " --- |" * 8,
    ]
    for (budget, method), of in rows.fillna({"budget": 0}).groupby(["budget", "method"], sort=False):
        both = [f"{of[column].mean():.2f}".replace("nan", "—") for column in ("cells", "where", "when")]
        areas = [f"{of.loc[of['distortion'] == kind, 'deletion'].mean():.3f}" for kind in DISTORTIONS]
        share = f"{100 * of['within_2_std'].mean():.0f} %".replace("nan %", "—")
        queries = "—" if budget == 0 else f"{of['queries'].mean():.0f}"
        lines.append(f"| {method} | {queries} | {' | '.join([*both, *areas, share])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8, help="the first so many of them")
    parser.add_argument("--keep", type=Path, default=Path("outputs/sensitivity"), help="folder of the answers")
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    victim = vidmarl.load_victim("movinet_a0", spec={"frames": 8, "size": 112}, device="cpu")
    model = Remembering(victim.model)  # type: ignore[arg-type]
    victim.model = model
    chosen = dict(list(CLIPS.items())[: asked.clips])
    rows = []
    for name, distortion in DISTORTIONS.items():
        kept = asked.keep / f"{name}.pt"
        model.answers = torch.load(kept) if kept.exists() else {}
        try:
            rows += [{"distortion": name, **row} for row in measured(victim, chosen, distortion)]
        finally:
            torch.save({key: answer.clone() for key, answer in model.answers.items()}, kept)
    result = pd.DataFrame(rows)
    result.to_csv(OUT, index=False, float_format="%.4g")
    print(table(result))


if __name__ == "__main__":
    main()

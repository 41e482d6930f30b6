"""Measures sensitivity maps against exhaustive probing: docs/results/sensitivity.csv.

    VIDMARL_DATA=... python docs/measure_sensitivity.py [--compile] [--keep outputs/sensitivity]

The clips are windows of UCF-101 videos that MoViNet-A0 gets right at 8 frames of 112 px, one of
each of 16 groups that had no part in the choices of docs/sensitivity.md. The truth is the effect of
each of a clip's 392 cells, asked about alone. All that the victim has answered is kept in
a folder, so that a run that was cut short goes on, and a cell that was asked about once costs no
time again. The table has a row for each clip, distortion, method and budget.
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
from measure_order import RESULTS, SPEC, first_of_each, kinetics_clips, load
from torch import Tensor, nn

import vidmarl
from vidmarl.attacks.sensitivity.result import Sensitivity
from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import as_grid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.goals import Goal
from vidmarl.utils.files import write_atomically

OUT = RESULTS / "sensitivity.csv"
MOST = 16
"""Groups."""
CHOSEN_ON = (
    *("v_BenchPress_g01", "v_Bowling_g22", "v_BrushingTeeth_g17", "v_PlayingFlute_g05", "v_PoleVault_g04"),
    *("v_ShavingBeard_g03", "v_SoccerPenalty_g17", "v_BoxingPunchingBag_g01", "v_HighJump_g19", "v_RopeClimbing_g04"),
)
"""The groups by which the method was chosen."""
DISTORTIONS: dict[str, dict[str, Any]] = {
    "noise": {"class_path": "gaussian_noise", "init_args": {"std": 0.1}},
    "blur": {"class_path": "gaussian_blur", "init_args": {"sigma": 2.0}},
}
METHODS: tuple[str, ...] = ("posterior", "rise", "occlusion")
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


def measured(
    victim: vidmarl.Victim, clips: Tensor, names: list[str], distortion: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The rows of some clips that the victim gets right, under one distortion."""
    goal = vidmarl.Misclassify(victim(clips).argmax(1)).resolve(victim, len(clips))
    renderer = Renderer(clips, as_distortion(distortion), as_grid(GRID))

    def sensitivity(method: Any, budget: int) -> Sensitivity:
        return vidmarl.sensitivity(victim, clips, distortion, budget, goal=goal, grid=GRID, method=method)

    truth = sensitivity("posterior", CELLS + 1)
    drawn = torch.rand(truth.map.shape, generator=torch.Generator().manual_seed(0))
    orders: dict[tuple[str, int | None], Sensitivity] = {("exhaustive", None): truth}
    orders["none", None] = dataclasses.replace(truth, map=drawn)
    orders |= {(method, budget): sensitivity(method, budget) for method in METHODS for budget in BUDGETS}
    for (method, budget), found in orders.items():
        for i, name in enumerate(names):
            row = {"clip": name, "margin": float(truth.margin[i]), "method": method}
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


def untouched(victim: vidmarl.Victim) -> tuple[Tensor, list[str]]:
    """The first clip of some groups that had no part in what was chosen, with a margin of at least
    1 nat, and the groups' names."""
    test = kinetics_clips(victim)
    names = [group.rpartition("/")[2] for group in test.groups]
    sure = [i for i, name in enumerate(names) if test.margin[i] >= 1 and name not in CHOSEN_ON]
    first = [sure[i] for i in first_of_each([names[i] for i in sure])]
    some = first if len(first) <= MOST else [first[i * len(first) // MOST] for i in range(MOST)]
    return test.clips[some], [names[i] for i in some]


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="compile the victim: a quarter faster, other rounding")
    parser.add_argument("--keep", type=Path, default=Path("outputs/sensitivity"), help="folder of the answers")
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    victim = load("movinet_a0", asked.compile, SPEC)
    clips, names = untouched(victim)
    model = Remembering(victim.model)  # type: ignore[arg-type]
    victim.model = model
    rows = []
    for kind, distortion in DISTORTIONS.items():
        kept = asked.keep / f"{kind}.pt"
        model.answers = torch.load(kept, weights_only=True) if kept.exists() else {}
        try:
            rows += [{"distortion": kind, **row} for row in measured(victim, clips, names, distortion)]
        finally:
            torch.save({key: answer.clone() for key, answer in model.answers.items()}, kept)
    write_atomically(OUT, pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()

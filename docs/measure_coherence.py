"""Measures what it costs that a distortion lasts: docs/results/coherence.csv.

    VIDMARL_DATA=... python docs/measure_coherence.py [--compile]

The victim and the agents are those of `measure_order.py` with Gaussian noise, the windows the first
of each group. The agents attack with tubelets of one frame, as they were trained, and of two, four
and all eight frames, in which the noise stands still; `SquareTubes` attacks with boxes. Ratios are
geometric means of the size over that of tubelets of one frame. How visible and how scattered the
successes are is a median over the windows that all of them fool: `pieces` are the parts of the
distorted pixels that do not touch each other, in space or time, `frames` those that are distorted.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pandas as pd
import torch
from measure_order import (
    BUDGETS,
    CELL,
    DISTORTIONS,
    GRID,
    OUT,
    RESULTS,
    SPEC,
    VISIBLE,
    first_of_each,
    geometric_mean,
    kinetics_clips,
    load,
    trained,
    visible,
)
from scipy import ndimage

import vidmarl
from vidmarl import metrics
from vidmarl.agents.networks import Agents
from vidmarl.attacks import as_attack
from vidmarl.attacks.base import Attack
from vidmarl.attacks.result import AttackResult
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.utils.files import write_atomically

LASTING = (1, 2, 4, 8)
TOUCHING = np.ones((3, 3, 3), bool)
"""Also at their edges and corners."""


def main() -> None:
    """Attacks the windows in every way and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="compile the victim: a quarter faster, other rounding")
    OUT.mkdir(parents=True, exist_ok=True)
    victim = load("movinet_a0", parser.parse_args().compile, SPEC)
    test = kinetics_clips(victim)
    first = first_of_each(test.groups)
    agents = trained(victim, "gaussian_noise", 0)
    found = {name: attack(victim, test.clips[first]) for name, attack in attacks_of(agents).items()}
    sizes = {name: metrics.best_l2_at(result, BUDGETS).log().numpy() for name, result in found.items()}
    fooled = {name: metrics.success_at(result, BUDGETS).float().mean(0) for name, result in found.items()}
    common = torch.stack([result.success for result in found.values()]).all(0).nonzero().flatten().tolist()
    if not common:
        raise SystemExit("measure_coherence.py: there is no window that all of the attacks fool.")
    one, rows = next(iter(found)), []
    for name, result in found.items():
        seen = visible(result, common).median(0).values.tolist()
        seen += np.median([scattered(result, row) for row in common], 0).tolist()
        for i, budget in enumerate(BUDGETS):
            row: dict[str, Any] = {"attack": name, "clips": len(first), "budget": budget}
            row |= {"fooled": float(fooled[name][i]), "mean L2": float(np.exp(sizes[name][:, i].mean()))}
            row |= geometric_mean(sizes[name][:, i] - sizes[one][:, i]) if name != one else {}
            if budget == max(BUDGETS):
                row |= dict(zip((*VISIBLE, "pieces", "frames"), seen, strict=True)) | {"seen on": len(common)}
            rows.append(row)
    write_atomically(RESULTS / "coherence.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))


def attacks_of(agents: Agents) -> dict[str, Attack]:
    """The agents with tubelets that last longer and longer, and boxes."""
    common: dict[str, Any] = {"distortion": DISTORTIONS["gaussian_noise"], "search_cell": CELL}
    common |= {"budget": max(BUDGETS), "progress": False}
    made: dict[str, Attack] = {
        f"agents, {frames} frame{'s' * (frames > 1)}": vidmarl.RLAttack(
            agents, grid=TubeletGrid(frames, GRID.height, GRID.width), **common
        )
        for frames in LASTING
    }
    return made | {"square_tubes": as_attack("square_tubes", grid=GRID, **common)}


def scattered(result: AttackResult, row: int) -> tuple[int, int]:
    """Of a success: its pieces, and the frames that are distorted."""
    changed = (result.adversarial[row] != result.clean[row]).any(0)
    cells = torch.nn.functional.max_pool3d(changed[None].float(), (1, 4, 4), ceil_mode=True)[0] > 0
    return ndimage.label(cells.numpy(), TOUCHING)[1], int(changed.flatten(1).any(1).sum())


if __name__ == "__main__":
    main()

"""Measures the fewest queries in a ball on real clips: docs/results/order_ball.csv.

    VIDMARL_DATA=... python docs/measure_ball.py [--compile]

The victim, the windows and their groups are those of `measure_order.py`, and so are the agents,
which are trained there for Gaussian noise. What may be done to a clip is `sign_bands`, stripes of
colour in an Linf ball. The agents start from full strength (`init="alternating"`); an attack ends
with its first success, and a failure counts with all 150 queries, the clean prediction included.
Ratios are those of the mean queries of the groups of videos, with a 95 % interval (bootstrap over
the groups).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from measure_order import CELL, GRID, OUT, RESULTS, SPEC, kinetics_clips, load, trained

import vidmarl
from vidmarl import metrics
from vidmarl.agents.checkpoint import fresh
from vidmarl.attacks import as_attack
from vidmarl.attacks.base import Attack
from vidmarl.utils.files import write_atomically

BALLS = (12.75, 4.0)
BUDGET = 150


def main() -> None:
    """Attacks the windows in both balls and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="compile the victim: a quarter faster, other rounding")
    compiled = parser.parse_args().compile
    OUT.mkdir(parents=True, exist_ok=True)
    victim = load("movinet_a0", compiled, SPEC)
    test = kinetics_clips(victim)
    rows: list[dict[str, Any]] = []
    for ball in BALLS:
        first: dict[str, np.ndarray] = {}
        for name, attack in attacks_of(victim, ball / 255).items():
            result = attack(victim, test.clips)
            queries = result.queries.numpy()
            first[name] = by_group(queries, test.groups)
            row = {"ball": ball, "attack": name, "fooled": float(result.success.float().mean())}
            row |= {"mean queries": queries.mean(), "median queries": float(np.median(queries))}
            row |= {"first query": float((result.success & (result.queries <= 2)).float().mean())}
            ratio, low, high = ratio_of(first["agents"], first[name])
            row |= {"ratio": ratio, "ratio low": low, "ratio high": high}
            row |= {"p": metrics.wilcoxon(first["agents"] - first[name]) if name != "agents" else np.nan}
            rows.append(row | test.about())
            print(row, flush=True)
    write_atomically(RESULTS / "order_ball.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))


def attacks_of(victim: vidmarl.Victim, epsilon: float) -> dict[str, Attack]:
    """The agents, their untrained selves, and what does without agents."""
    distortion = {"class_path": "SignBands", "init_args": {"epsilon": epsilon}}
    common: dict[str, Any] = {"grid": GRID, "search_cell": CELL, "budget": BUDGET}
    common |= {"max_queries_after_success": 0, "progress": False}
    agents = trained(victim, "gaussian_noise", 0)
    teams = {"agents": agents, "untrained": fresh(agents)}
    made: dict[str, Attack] = {
        name: vidmarl.RLAttack(team, distortion=distortion, init="alternating", **common)
        for name, team in teams.items()
    }
    settings: dict[str, dict[str, Any]] = {"square_tubes": {"search_cell": 2}, "signed_blocks": {}, "simba_dct": {}}
    return made | {name: as_attack(name, distortion=distortion, **common | own) for name, own in settings.items()}


def by_group(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """The mean of each group."""
    mean: np.ndarray = pd.Series(values).groupby(list(groups)).mean().to_numpy()
    return mean


def ratio_of(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Our mean over theirs, with a 95 % interval over the groups."""

    def ratio(samples: np.ndarray, axis: int) -> np.ndarray:
        mean = samples.mean(axis)
        return mean[..., 0] / mean[..., 1]

    low, high = metrics.bootstrap(np.stack([ours, theirs], 1), ratio, resamples=10_000)
    return ours.mean() / theirs.mean(), float(low), float(high)


if __name__ == "__main__":
    main()

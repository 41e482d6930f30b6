"""Measures how much of the bare victim's rate is left in the environment: docs/results/rate.csv.

    vidmarl demo
    VIDMARL_DATA=... python docs/measure_rate.py

Queries a second of the victim alone, of 40 probes a clip, of orders played in the environment by
TorchRL's collector, and of the whole attack with 100 queries a clip, on the same clips, on one core
or an accelerator. In each of
three rounds all take their turn; what counts is the median over the rounds of the ratio to the bare
victim of the same round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from measure_order import CELL, DISTORTIONS, GRID, RESULTS, SPEC, kinetics_clips
from torch import Tensor

import vidmarl
from vidmarl.agents.checkpoint import fresh, load_agents
from vidmarl.agents.environment import MOST_SETS, OrderEnv
from vidmarl.data.synthetic import make_clips, split_seed
from vidmarl.demo.run import DISTORTION as DEMO_DISTORTION
from vidmarl.demo.run import GRID as DEMO_GRID
from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.session import Session
from vidmarl.training.orders import play
from vidmarl.training.probing import probe
from vidmarl.utils.files import write_atomically

CLIPS, PROBES, ORDERS, BUDGET, ROUNDS = 16, 40, 2, 100, 3


def main() -> None:
    """Times each victim and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    demo = vidmarl.load_victim("demo", device=device)
    synthetic = make_clips(CLIPS, split_seed(0, "test"))[0]
    noise, cheap = DISTORTIONS["gaussian_noise"], vidmarl.load_victim("movinet_a0", spec=SPEC, device=device)
    rows = [
        {"victim": name, "device": device, "clips": CLIPS, **rates(victim, clips[:CLIPS].to(device), *how)}
        for name, victim, clips, how in (
            ("demo", demo, synthetic, (DEMO_DISTORTION, DEMO_GRID, 1)),
            ("movinet_a0, 8 x 112 px", cheap, kinetics_clips(cheap).clips, (noise, GRID, CELL)),
        )
    ]
    write_atomically(RESULTS / "rate.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))


def rates(
    victim: vidmarl.Victim, clips: Tensor, distortion: dict[str, Any], grid: TubeletGrid, cell: int
) -> dict[str, float]:
    """The bare victim's queries a second, and the share of that rate that is left in each way of
    asking."""
    agents = fresh(load_agents("gaussian_noise"))
    attack = vidmarl.RLAttack(agents, distortion=distortion, grid=grid, search_cell=cell, budget=BUDGET, progress=False)

    def session(budget: int) -> Session:
        return Session(victim, Renderer(clips, as_distortion(distortion), grid, search_cell=cell), budget=budget)

    def bare() -> None:
        for _ in range(PROBES):
            victim(clips)

    def probing() -> None:
        probe(session(1 + PROBES), PROBES, torch.Generator().manual_seed(0), longest=1)

    def playing() -> None:
        play(OrderEnv(session(1 + ORDERS * MOST_SETS), ORDERS), agents, ORDERS, 0)

    ways: dict[str, Callable[[], object]] = {"bare": bare, "probes": probing, "orders": playing}
    ways["attack"] = lambda: attack(victim, clips)
    victim(clips)
    found = pd.DataFrame([{name: rate(victim, way) for name, way in ways.items()} for _ in range(ROUNDS)])
    shares = found.div(found["bare"], axis=0).median()
    told = {"queries a second": found["bare"].median()} | {name: shares[name] for name in list(ways)[1:]}
    print(victim.name, {name: f"{value:.3g}" for name, value in told.items()}, flush=True)
    return told


def rate(victim: vidmarl.Victim, way: Callable[[], object]) -> float:
    """Queries a second of one way of asking."""
    asked, begun = victim.queries, time.perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (victim.queries - asked) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()

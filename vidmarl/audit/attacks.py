"""An audit's victim under attack: trials of a benchmark, on clips of the audit."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vidmarl.agents.checkpoint import list_agents
from vidmarl.audit import tables
from vidmarl.benchmark.clips import Clip
from vidmarl.benchmark.config import Benchmark
from vidmarl.benchmark.runner import BenchmarkResult, run_benchmark
from vidmarl.data.base import ClipSource, evenly
from vidmarl.distortions import DISTORTIONS, Distortion
from vidmarl.metrics import BUDGETS
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.victims.victim import Victim

if TYPE_CHECKING:
    import pandas as pd

STRONG: dict[str, Any] = {"class_path": "grow_and_reduce", "init_args": {"search_cell": 4, "start": 8}}
"""The strongest of the attacks without learning that ship (docs/results.md), as it is tuned
there."""

GRID = TubeletGrid(frames=1, height=2, width=2)
"""The tubelets of all attacks, those that the agents that ship were trained with."""


def usual_attacks(distortion: Distortion) -> dict[str, dict[str, Any]]:
    """The agents that ship for a distortion, where there are any, and a strong control."""
    name = DISTORTIONS.name_of(distortion)
    return ({"rl": {"init_args": {"agents": name}}} if name in list_agents() else {}) | {"grow_and_reduce": STRONG}


def attack(
    victim: Victim,
    clips: Sequence[Clip],
    out: Path,
    *,
    attacks: Mapping[str, dict[str, Any]] | None,
    distortion: Distortion,
    count: int,
    budget: int,
    labels: Literal["dataset", "prediction"],
    seed: int,
    progress: bool,
) -> BenchmarkResult:
    """Attacks some of the clips, spread evenly over them, each in every way; see `vidmarl.audit`.

    What is done stays done, in `out`, and the clips are kept for the report. JOD is measured where
    ColorVideoVDP is installed.
    """
    benchmark = Benchmark(
        victims=[victim],
        attacks=dict(attacks or usual_attacks(distortion)),
        data=ClipSource([]),  # the clips are given
        distortions=[distortion],
        seed=seed,
        budget=budget,
        grid=GRID,
        labels=labels,
        slow_metrics=importlib.util.find_spec("pycvvdp") is not None,
        keep_clips=True,
        out=out,
    )
    done = run_benchmark(benchmark, clips=evenly(clips, count), progress=progress)
    assert done is not None  # there are no other shards
    return done


def attack_record(done: BenchmarkResult, out: Path, rows: pd.DataFrame, budget: int) -> dict[str, Any]:
    """What came of the attacks, as plain data: robust accuracy at budgets and sizes, and of each
    attack its settings and the files of its trials."""
    [trials] = done.trials.values()  # of one victim under one distortion
    return {
        "budget": budget,
        "accuracy at budgets": tables.robust_at(rows, points(budget)).to_dict("records"),
        "accuracy below sizes": tables.robust_below(rows, budget).to_dict("records"),
        "by": {
            name: {"settings": of.settings, "trials": [path.relative_to(out).as_posix() for path in of.paths]}
            for name, of in trials.items()
        },
    }


def points(budget: int) -> list[int]:
    """The query budgets of the tables."""
    return sorted({min(point, budget) for point in (*BUDGETS, budget)})

"""The attacks of a benchmark, made before anything is asked, so that a mistake costs nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidmarl.agents.checkpoint import AGENTS, fresh, load_agents
from vidmarl.attacks import ATTACKS, as_attack
from vidmarl.attacks.base import Attack
from vidmarl.benchmark.config import Benchmark
from vidmarl.distortions import Distortion
from vidmarl.errors import SettingsError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.registry import settings_of

COMMON = ("distortion", "budget", "coherence", "seed", "clips_at_once", "progress")
"""Settings that are the benchmark's, the same for all attacks."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One attack under one distortion.

    Attributes:
        distortion: name in the tables.
        label: of the attack in the tables.
        attack: the attack.
        trained: whether it has agents that were trained; others are controls.
        training_queries: what training its agents has cost.
    """

    distortion: str
    label: str
    attack: Attack
    trained: bool
    training_queries: int


def make_entries(benchmark: Benchmark) -> list[Entry]:
    """Every attack under every distortion.

    Raises:
        ValueError: the settings of an attack do not fit.
        UnknownNameError: there is no attack, or there are no agents, of a name.
        FileNotFoundError, CheckpointError: the agents cannot be loaded.
    """
    return [
        _entry(benchmark, distortion, name, label)
        for name, distortion in benchmark.named_distortions()
        for label in benchmark.attacks
    ]


def _entry(benchmark: Benchmark, distortion: Distortion, name: str, label: str) -> Entry:
    described = benchmark.attacks[label]
    path, init_args = described.get("class_path", label), dict(described.get("init_args") or {})
    doing = f"Benchmark, attack {label!r} under {name!r}"
    if own := init_args.keys() & set(COMMON):
        raise ValueError(f"{doing}: {sorted(own)} are the benchmark's settings, the same for all attacks.")
    try:
        agents = _agents(benchmark, name, path, init_args.pop("agents", None), described.get("untrained", False))
        settings = {
            "distortion": distortion,
            "budget": benchmark.budget,
            "coherence": benchmark.coherence,
            "seed": benchmark.seed,
            "clips_at_once": benchmark.clips_at_once,
            "progress": False,
        }
        grid = _grid(benchmark.grid, init_args.get("grid"))
        optional = {"agents": agents, "search_cell": benchmark.search_cell, "grid": grid}
        settings |= {key: value for key, value in optional.items() if value is not None}
        attack = as_attack(path, **settings | {key: value for key, value in init_args.items() if key != "grid"})
    except (ValueError, SettingsError) as error:
        raise ValueError(f"{doing}: {error}") from error
    if not attack.batch_independent:
        raise ValueError(
            f"{doing}: what it does to a clip depends on the clips beside it, and these are others when a run is"
            " resumed. Give it donors of its own, init_args: {donors: [VIDEO, ...]}."
        )
    untrained = described.get("untrained") is True
    spent = 0 if agents is None else int(agents.trained.get("training_queries", 0))
    return Entry(name, label, attack, trained=agents is not None and not untrained, training_queries=spent)


def _agents(benchmark: Benchmark, distortion: str, path: str, thing: Any, untrained: bool | Sequence[str]) -> Any:
    """The agents of an attack that has any, untrained where this is asked for; else None."""
    kind = ATTACKS.find(path)
    if not isinstance(kind, type) or "agents" not in settings_of(kind):
        if thing is not None or untrained:
            raise ValueError("it has no agents, so neither agents nor untrained fit.")
        return None
    if thing is None:
        thing = "{distortion}"
    agents = load_agents(str(thing).replace("{distortion}", distortion) if isinstance(thing, str | Path) else thing)
    if not untrained:
        return agents
    return fresh(agents, benchmark.seed, only=AGENTS if untrained is True else untrained)


def _grid(common: TubeletGrid | None, own: TubeletGrid | Mapping[str, int] | None) -> TubeletGrid | None:
    """The tubelets of an attack: its own where it has any, what these leave out as in the
    others'."""
    if not isinstance(own, Mapping):
        return own or common
    known = {field.name for field in dataclasses.fields(TubeletGrid)}
    if unknown := set(own) - known:
        raise ValueError(f"a grid may have {sorted(known)}, got {sorted(unknown)}.")
    return dataclasses.replace(common or TubeletGrid(), **own)

"""Files of trained agents: those that ship with vidmarl, those of `save_agents`, and training
checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vidmarl.errors import CheckpointError, UnknownNameError
from vidmarl.utils.files import save_tensors
from vidmarl.utils.randomness import seeded

if TYPE_CHECKING:
    from vidmarl.agents.networks import Agents

FOLDER = Path(__file__).with_name("pretrained")
FORMAT, VERSION = "vidmarl-agents", 4
ACTORS = ("spatial", "temporal")


def list_agents() -> list[str]:
    """The names of the agents that ship with vidmarl, each that of the distortion that it was
    trained with."""
    return sorted(file.stem for file in FOLDER.glob("*.pt"))


def load_agents(thing: Agents | str | os.PathLike[str]) -> Agents:
    """Trained agents, and with them what they were trained for (`Agents.trained`).

    Args:
        thing: the name of agents that ship with vidmarl; the path of a training checkpoint or of a
            file of `save_agents`, of which nothing is executed; or agents, which are returned as
            they are. A file wins over a name.

    Raises:
        UnknownNameError: no agents of that name ship with vidmarl.
        FileNotFoundError: there is no file at the path.
        CheckpointError: the file is damaged, holds something else, or is of another version.
    """
    from vidmarl.agents.networks import Agents

    return thing if isinstance(thing, Agents) else _read(_find(thing))


def save_agents(path: str | os.PathLike[str], agents: Agents) -> None:
    """Writes a small file of nothing but the agents and what they were trained for, atomically."""
    save_tensors(path, pack_agents(agents))


def pack_agents(agents: Agents) -> dict[str, Any]:
    """The agents and what they were trained for, as plain data and tensors."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(agents.config),
        "trained": agents.trained,
        "state_dict": {key: value.detach().cpu() for key, value in agents.state_dict().items()},
    }


def fresh(agents: Agents, seed: int = 0, only: Collection[str] = ACTORS) -> Agents:
    """A copy of a team in which some agents are untrained, as controls and ablations need.

    Args:
        agents: the team.
        seed: of the new weights.
        only: the agents to start afresh, of "spatial" and "temporal". With both, the critic starts
            afresh too, and the copy has spent no training queries.

    Raises:
        ValueError: `only` names something else, or nothing.
    """
    if not only or set(only) - set(ACTORS):
        raise ValueError(f"Starting agents afresh: expected some of {ACTORS}, got {only!r}.")
    team = copy.deepcopy(agents)
    with seeded(seed):
        new = type(agents)(agents.config)
    everything = set(only) == set(ACTORS)
    for name in (*only, "critic") if everything else only:
        getattr(team, name).load_state_dict(getattr(new, name).state_dict())
    if everything:
        team.trained |= {"training_frames": 0, "training_queries": 0}
    return team


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file that a path or the name of shipped agents stands for."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix or path.parent != Path():
        raise FileNotFoundError(
            f"Loading agents: there is no file {path}. Give a checkpoint of `vidmarl fit`, a file of"
            f" `vidmarl export`, or one of the names {', '.join(list_agents())}."
        )
    if path.name not in list_agents():
        raise UnknownNameError("trained agents", path.name, list_agents())
    return FOLDER / f"{path.name}.pt"


def _read(path: Path) -> Agents:
    """The agents in a file of `save_agents` or a training checkpoint."""
    from vidmarl.agents.networks import Agents, AgentsConfig

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"Loading agents from {path}: it cannot be read as a checkpoint of plain tensors ({error})."
        ) from error
    packed = content.get("vidmarl", content) if isinstance(content, dict) else {}
    if packed.get("format") != FORMAT:
        raise CheckpointError(
            f"Loading agents from {path}: it holds no vidmarl agents. Give a checkpoint of `vidmarl fit`."
        )
    if packed.get("version") != VERSION:
        raise CheckpointError(
            f"Loading agents from {path}: it is of format version {packed.get('version')}, this vidmarl reads version"
            f" {VERSION}. Train again, or use the vidmarl that wrote it."
        )
    try:
        agents = Agents(AgentsConfig(**packed["config"]), packed["trained"])
        agents.load_state_dict(packed["state_dict"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"Loading agents from {path}: its content does not fit together ({error}).") from error
    return agents

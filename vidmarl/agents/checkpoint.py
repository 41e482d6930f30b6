"""Files of trained agents: those that ship with vidmarl, those of `save_agents`, and training
checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vidmarl.errors import CheckpointError, UnknownNameError
from vidmarl.perturbations.grid import as_grid
from vidmarl.utils.files import load_tensors, readable, save_tensors
from vidmarl.utils.fingerprints import fingerprint
from vidmarl.utils.kinds import check_kind
from vidmarl.utils.randomness import seeded

if TYPE_CHECKING:
    from vidmarl.agents.networks import Agents

FOLDER = Path(__file__).with_name("pretrained")
FORMAT, VERSION = "vidmarl-agents", 8
AGENTS = ("spatial", "temporal")


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
        SettingsError: `thing` is none of these.
        UnknownNameError: no agents of that name ship with vidmarl.
        FileNotFoundError: there is no file at the path.
        CheckpointError: the file is damaged, holds something else, or is of another version.
    """
    from vidmarl.agents.networks import Agents

    if isinstance(thing, Agents):
        return thing
    check_kind(thing, str | os.PathLike[str], "load_agents: thing")
    path = _find(thing)
    return unpack_agents(load_tensors(path, "Loading agents"), f"Loading agents from {readable(path)}")


def save_agents(path: str | os.PathLike[str], agents: Agents) -> None:
    """Writes a small file of nothing but the agents and what they were trained for, atomically."""
    save_tensors(path, pack_agents(agents))


def pack_agents(agents: Agents) -> dict[str, Any]:
    """The agents and what they were trained for, as plain data and tensors, with a checksum of
    these."""
    packed = {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(agents.config),
        "trained": agents.trained,
        "state_dict": {key: value.detach().cpu() for key, value in agents.state_dict().items()},
    }
    return packed | {"sha256": _checksum(packed)}


def unpack_agents(content: Any, doing: str) -> Agents:
    """The agents in what `pack_agents` has made, or in a training checkpoint that holds it.

    Args:
        content: what was read from a file.
        doing: opens the message of an error, and says which file.

    Raises:
        CheckpointError: it holds something else, is of another version, or is damaged.
    """
    from vidmarl.agents.networks import Agents, AgentsConfig

    packed = content.get("vidmarl", content) if isinstance(content, dict) else None
    if not isinstance(packed, dict) or packed.get("format") != FORMAT:
        raise CheckpointError(f"{doing}: it holds no vidmarl agents. Give a checkpoint of `vidmarl fit`.")
    if packed.get("version") != VERSION:
        raise CheckpointError(
            f"{doing}: it is of format version {packed.get('version')}, this vidmarl reads version {VERSION}. Train"
            " again, or use the vidmarl that wrote it."
        )
    try:
        with torch.device("meta"):  # without memory, and without a draw of the caller's generator
            agents = Agents(AgentsConfig(**packed["config"]), packed["trained"])
        agents.load_state_dict(packed["state_dict"], assign=True)
        if _checksum(packed) != packed["sha256"]:
            raise ValueError("its checksum is another")
        as_grid(agents.trained.get("grid") or 1)
        if type(agents.trained.get("search_cell", 1)) is not int:
            raise TypeError("search_cell must be a whole number")
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{doing}: its content does not fit together ({error}).") from error
    return agents


def _checksum(packed: dict[str, Any]) -> str:
    """A sha256 of agents and of what they were trained for, in hex."""
    plain = json.dumps([packed["config"], packed["trained"]], sort_keys=True, default=repr)
    return hashlib.sha256(f"{plain} {fingerprint(packed['state_dict'])}".encode()).hexdigest()


def fresh(agents: Agents, seed: int = 0, only: Collection[str] = AGENTS) -> Agents:
    """A copy of a team in which some agents are untrained, as controls and ablations need.

    Args:
        agents: the team.
        seed: of the new weights.
        only: the agents to start afresh, of "spatial" and "temporal". With both, the copy has spent
            no training queries.

    Raises:
        ValueError: `only` names something else, or nothing.
    """
    if not only or set(only) - set(AGENTS):
        raise ValueError(f"Starting agents afresh: expected some of {AGENTS}, got {only!r}.")
    team = copy.deepcopy(agents)
    with seeded(seed):
        new = type(agents)(agents.config)
    for name in only:
        getattr(team, name).load_state_dict(getattr(new, name).state_dict())
    if set(only) == set(AGENTS):
        team.trained |= {"training_orders": 0, "training_queries": 0}
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

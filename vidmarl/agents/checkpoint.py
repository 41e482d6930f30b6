"""The trained agents that ship with vidmarl: small files in `pretrained_agents/`, one for each
name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vidmarl.errors import CheckpointError, UnknownNameError
from vidmarl.utils.files import save_tensors
from vidmarl.utils.randomness import seeded

if TYPE_CHECKING:
    from vidmarl.agents.networks import Agents

FOLDER = Path(__file__).with_name("pretrained")


def list_pretrained() -> list[str]:
    """The names of the agents that ship with vidmarl, such as that of the distortion they were
    trained with."""
    return sorted(file.stem for file in FOLDER.glob("*.pt"))


def find_agents(name_or_path: str | Path) -> Path:
    """The file of trained agents that a path or the name of shipped ones stands for; a file wins
    over a name.

    Raises:
        FileNotFoundError: there is no file at the path.
        UnknownNameError: no agents of that name ship with vidmarl.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix or path.parent != Path():
        raise FileNotFoundError(f"Looking for trained agents: there is no file {path}.")
    if path.name not in list_pretrained():
        raise UnknownNameError("trained agents", path.name, list_pretrained())
    return FOLDER / f"{path.name}.pt"


FORMAT = "vidmarl-agents"


VERSION = 3


def fresh_agents(agents: Agents, seed: int = 0) -> Agents:
    """An untrained team of the same shape."""
    from vidmarl.agents.networks import Agents

    with seeded(seed):
        return Agents(agents.config)


def pack_agents(agents: Agents, settings: dict[str, Any]) -> dict[str, Any]:
    """The team and what it was trained on as plain data and tensors.

    Args:
        agents: the team.
        settings: plain data; "grid" (three integers), and what else describes the training.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": agents.describe(),
        "settings": settings,
        "state_dict": {key: value.detach().cpu() for key, value in agents.state_dict().items()},
    }


def save_agents(path: str | os.PathLike[str], agents: Agents, settings: dict[str, Any]) -> None:
    """Writes a small file with nothing but the team, atomically."""
    save_tensors(path, pack_agents(agents, settings))


def load_agents(path: str | os.PathLike[str]) -> tuple[Agents, dict[str, Any]]:
    """Reads a team, and its settings, from a training checkpoint or a file of `save_agents`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, holds something else, or is of another version.
    """
    from vidmarl.agents.networks import Agents, AgentsConfig

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Loading agents: there is no file {path}.")
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
        agents = Agents(AgentsConfig(**packed["config"]))
        agents.load_state_dict(packed["state_dict"])
        settings = packed["settings"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"Loading agents from {path}: its content does not fit together ({error}).") from error
    return agents, settings

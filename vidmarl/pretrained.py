"""The trained agents that ship with vidmarl: small files in `pretrained_agents/`, one for each name."""

from __future__ import annotations

from pathlib import Path

from vidmarl.errors import UnknownNameError

FOLDER = Path(__file__).with_name("pretrained_agents")


def list_pretrained() -> list[str]:
    """The names of the agents that ship with vidmarl, such as that of the distortion they were trained with."""
    return sorted(file.stem for file in FOLDER.glob("*.pt"))


def find_agents(name_or_path: str | Path) -> Path:
    """The file of trained agents that a path or the name of shipped ones stands for; a file wins over a name.

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

"""A saved result in parts: a folder with saved results, `part-0000` and so on, and a `result.json`
that names them in order, each with the checksum of its own `result.json`."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from vidmarl._version import __version__
from vidmarl.errors import CheckpointError
from vidmarl.utils.files import readable, write_atomically

RECORD = "result.json"


def part(path: Path, number: int) -> Path:
    """Where a part is saved."""
    return path / f"part-{number:04d}"


def join_parts(path: Path, count: int) -> None:
    """Makes one saved result of the parts in a folder.

    Raises:
        OSError: a part is missing, or the record cannot be written.
    """
    parts = {part(path, i).name: _checksum(part(path, i)) for i in range(count)}
    write_atomically(path / RECORD, json.dumps({"vidmarl": __version__, "parts": parts}, indent=1) + "\n")


def find_parts(path: Path) -> list[Path]:
    """The folders of a saved result: those of its parts, or itself where it has none.

    Raises:
        CheckpointError: no part is named, or one is missing or is not the one that was saved.
    """
    try:
        parts = dict(json.loads((path / RECORD).read_text(encoding="utf-8"))["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        return [path]
    if not parts:
        raise CheckpointError(f"Loading a result from {readable(path)}: it says that it has parts, and names none.")
    for name, checksum in parts.items():
        try:
            if not re.fullmatch(r"part-\d{4,}", name) or _checksum(path / name) != checksum:
                raise ValueError("it is damaged, or another one")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"Loading a result from {readable(path)}: its part {name!r}: {error}.") from error
    return [path / name for name in parts]


def _checksum(folder: Path) -> str:
    return hashlib.sha256((folder / RECORD).read_bytes()).hexdigest()

"""Writing files and folders that are there whole or not at all, whatever happens: an error, Ctrl-C,
a full disk.

What is new is made beside its place, under a hidden name, and takes its place by a rename when it
is complete.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]


def write_atomically(path: PathLike, content: bytes | str) -> Path:
    """Writes a file; no reader ever sees half of it.

    Args:
        path: the file; its folder must be there. An older file is replaced.
        content: bytes, or text, which is written as UTF-8.

    Raises:
        OSError: it cannot be written (no folder, full disk); nothing is left behind, an older file
            stays.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def save_tensors(path: PathLike, content: Mapping[str, Any]) -> Path:
    """Writes tensors and plain data for `torch.load(path, weights_only=True)`, as
    `write_atomically` does."""
    import torch

    buffer = io.BytesIO()  # straight to the file, torch would report a full disk as a fault of its own
    torch.save(content, buffer)
    return write_atomically(path, buffer.getvalue())


@contextlib.contextmanager
def new_directory(path: PathLike, overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears when all that belongs in it has been written.

    Gives an empty folder beside `path`. It takes its place when the block ends well, and vanishes
    when it does not, with any parents that were made for it.

    Args:
        path: the folder to make. An empty one may be there.
        overwrite: whether anything else that is there is replaced, with all that is in it.

    Raises:
        FileExistsError: something is there that may not be replaced.
        OSError: it cannot be written; what was there stays.
    """
    path = Path(path).absolute()
    if not overwrite and os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(
            f"Writing the folder {path}: it is there and not empty, or is a file. Give another folder, or allow"
            " replacing all of it (overwrite=True)."
        )
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new, old = workshop / "new", workshop / "old"
    try:
        new.mkdir()
        yield new
        if os.path.lexists(path):
            path.rename(old)
        new.rename(path)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(path):
            old.rename(path)  # where even this fails, the older folder stays in the workshop
        shutil.rmtree(workshop, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise
    shutil.rmtree(workshop, ignore_errors=True)

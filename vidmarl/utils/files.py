"""Writing files and folders that are there whole or not at all, whatever happens: an error, Ctrl-C,
a kill, a full disk, another writer.

What is new is made beside its place, under a hidden name of its own, and takes its place by a
rename when it is complete. The writer holds a lock on it for as long as it lives, so that `sweep`
can tell what a killed writer has left from what another is at.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import itertools
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vidmarl.errors import CheckpointError

PathLike = str | os.PathLike[str]

_PARTIAL = ".vidmarl-partial"


def readable(path: PathLike) -> str:
    """A path as text that can be printed and written: bytes that are not UTF-8 as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def write_atomically(path: PathLike, content: bytes | str) -> Path:
    """Writes a file; no reader ever sees half of it.

    Args:
        path: the file; its folder must be there. An older file is replaced; of a link, the file
            that it points to.
        content: bytes, or text, which is written as UTF-8. What UTF-8 cannot hold, as in the names
            of some files, is written as in Python's or JSON's strings (`\\udcff`).

    Raises:
        OSError: it cannot be written (no folder, full disk); nothing is left behind, an older file
            stays.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    partial, lock = _claim(target, folder=False)
    try:
        with open(lock, "wb", closefd=False) as file:
            file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(lock)
        os.replace(partial, target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(path)  # of a full disk the system does not say what did not fit
        raise
    finally:
        os.close(lock)
    return path


def save_tensors(path: PathLike, content: Mapping[str, Any]) -> Path:
    """Writes tensors and plain data for `load_tensors`, as `write_atomically` does."""
    import torch

    buffer = io.BytesIO()  # straight to the file, torch would report a full disk as a fault of its own
    torch.save(content, buffer)
    return write_atomically(path, buffer.getvalue())


def load_tensors(path: PathLike, doing: str) -> Any:
    """What a file of `torch.save` holds, on the CPU. Nothing in it is executed, and its checksums
    are verified, which torch itself does not do.

    Args:
        path: the file.
        doing: opens the message of an error.

    Raises:
        FileNotFoundError: there is no file at the path.
        CheckpointError: it is damaged, is no file of `torch.save`, or holds more than tensors and
            plain data.
    """
    import torch

    if not Path(path).is_file():
        raise FileNotFoundError(f"{doing}: there is no file {readable(path)}.")
    content = Path(path).read_bytes()
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):  # else it is of before torch 1.6, and has no checksums
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if archive.testzip() or sum(record.file_size for record in archive.infolist()) > len(content):
                    raise zipfile.BadZipFile("a checksum or a length in it is wrong")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of many types: a damaged file can lead torch anywhere
        objects = _objects_in(content)
        why = (
            f"it holds Python objects ({', '.join(objects)}), and nothing from a file is executed"
            if objects
            else "it is damaged, or no file of torch.save. Copy it again, or give another one"
        )
        raise CheckpointError(f"{doing}: expected tensors and plain data in {readable(path)}, but {why}.") from error


def _objects_in(content: bytes) -> list[str]:
    """The classes and functions that a file of `torch.save` would execute; none if it cannot be
    read."""
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content)))
    except Exception:
        return []


@contextlib.contextmanager
def new_directory(path: PathLike, overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears when all that belongs in it has been written.

    Gives an empty folder beside `path`. It takes its place when the block ends well, and vanishes
    when it does not, with any parents that were made for it. What an earlier, killed writer has
    left beside `path` is swept first.

    Args:
        path: the folder to make; of a link, the folder that it points to. An empty one may be
            there.
        overwrite: whether anything else that is there at the start is replaced, with all that is
            in it, unless it changes meanwhile. At each moment the old one or the new one is there.

    Raises:
        FileExistsError: something is there that may not be replaced. Where it has appeared only
            while the block was running, the new folder is kept under another name, which the
            message tells.
        OSError: it cannot be written; what was there stays.
    """
    path = Path(os.path.realpath(path))
    sweep(path.parent)
    replaceable = _replaceable(path, overwrite)
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    workshop, lock = _claim(path, folder=True)
    try:
        new = workshop / "new"
        new.mkdir()
        yield new
        _take_place(new, path, replaceable)
    except BaseException:
        if (workshop / "old").exists() and not os.path.lexists(path):
            raise  # the old one has lost its place and could not be put back: that is left to `sweep`
        shutil.rmtree(workshop, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise
    else:
        shutil.rmtree(workshop, ignore_errors=True)
    finally:
        os.close(lock)


@contextlib.contextmanager
def resumable_directory(path: PathLike, overwrite: bool = False) -> Iterator[Path]:
    """As `new_directory`, for long work: what the block has made outlives its end.

    Gives a visible folder, `unfinished(path)`. Its folder `new` takes the place of `path` when the
    block ends well, and the rest vanishes. When the block fails or the process is killed, all of it
    stays, and is given again the next time; only where `new` is empty does it vanish.

    Args:
        path: see `new_directory`.
        overwrite: see `new_directory`.

    Raises:
        BlockingIOError: another process is at work there.
        FileExistsError, OSError: see `new_directory`.
    """
    path = Path(os.path.realpath(path))
    workshop = unfinished(path)
    made = [parent for parent in path.parents if not parent.exists()]
    lock = _claim_again(workshop)
    new = workshop / "new"
    try:
        for old in (workshop / "old").glob("*"):
            _put(old, path, None)
        replaceable = _replaceable(path, overwrite)
        if not new.exists():  # it is fresh, or has taken its place just before a kill
            for left in workshop.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            new.mkdir()
        yield workshop
        _take_place(new, path, replaceable)
        shutil.rmtree(workshop, ignore_errors=True)
    except BaseException:
        with contextlib.suppress(OSError):
            if not new.is_dir() or not any(new.iterdir()):
                shutil.rmtree(workshop)
            for parent in made:
                parent.rmdir()
        raise
    finally:
        os.close(lock)


def unfinished(path: PathLike) -> Path:
    """Where `resumable_directory` makes a folder."""
    path = Path(os.path.realpath(path))
    return path.with_name(path.name + ".unfinished")


def sweep(folder: PathLike) -> None:
    """Removes what writers that were killed have left in a folder; what living ones are at stays.

    A folder that was being replaced at that moment, and whose place is empty, is put back.
    """
    with contextlib.suppress(OSError):  # no such folder: nothing to sweep
        for left in Path(folder).glob(f".*{_PARTIAL}"):
            with contextlib.suppress(OSError):  # it belongs to a living writer, or its owner is somebody else
                lock = os.open(left, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for old in (left / "old").glob("*"):
                        _put(old, left.parent / old.name, None)
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                finally:
                    os.close(lock)


def _replaceable(path: Path, overwrite: bool) -> tuple[int, ...] | None:
    """What is at `path` and may be replaced; None where nothing is or may be.

    Raises:
        FileExistsError: something is there that may not be replaced.
    """
    if not overwrite and os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(
            f"Writing the folder {readable(path)}: it is there and not empty, or is a file. Give another folder, or"
            " allow replacing all of it (overwrite=True)."
        )
    return _identity(path) if overwrite else None


def _take_place(new: Path, path: Path, replaceable: tuple[int, ...] | None) -> None:
    """Renames `new` to `path`; if something else is there by now, to another name.

    Raises:
        FileExistsError: something else is there, and the message tells the other name.
    """
    if not _put(new, path, replaceable):
        beside = _put_beside(new, path)
        raise FileExistsError(
            f"Writing the folder {readable(path)}: while it was being written, something else has appeared there,"
            f" which is left alone. What was written is in {readable(beside)}."
        )


def _claim_again(workshop: Path) -> int:
    """Makes a folder, if it is not there, and locks it until the descriptor is closed or the
    process ends.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    while True:
        workshop.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the other process has just ended well: again
            lock = os.open(workshop, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise BlockingIOError(
                    f"Writing the folder {readable(workshop)}: another process is at work there. Wait for its end, or"
                    " give another folder."
                ) from None
            except OSError:  # a file system without locks
                return lock
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), workshop.stat()):
                    return lock
            os.close(lock)


def _claim(target: Path, folder: bool) -> tuple[Path, int]:
    """A new hidden file or folder beside `target`, and a descriptor that holds a lock on it until
    it is closed or the process ends."""
    while True:
        partial = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}{_PARTIAL}")
        if folder:
            partial.mkdir()
        else:
            partial.touch(exist_ok=False)
        with contextlib.suppress(FileNotFoundError):  # swept before it was locked: another one
            lock = os.open(partial, os.O_RDONLY if folder else os.O_WRONLY)
            with contextlib.suppress(OSError):  # a file system without locks, where nothing is swept
                fcntl.flock(lock, fcntl.LOCK_EX)
            if partial.exists():
                return partial, lock
            os.close(lock)


def _put(new: Path, path: Path, replaceable: tuple[int, ...] | None) -> bool:
    """Renames `new` to `path` if nothing is there, or an empty folder, or what may be replaced,
    which goes to the workshop of `new`. Says whether it did."""
    try:
        os.rename(new, path)  # refuses to replace a file, or a folder that is not empty
        return True
    except OSError:
        if not os.path.lexists(path):
            raise
    if replaceable is None or _identity(path) != replaceable:
        return False
    if _exchange(new, path):
        if _identity(new) == replaceable:
            return True
        _exchange(new, path)  # another writer was quicker by a moment: it gets its place back
        return False
    old = new.parent / "old" / path.name
    old.parent.mkdir()
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    return True


def _put_beside(new: Path, path: Path) -> Path:
    """Renames `new` to the first free name of NAME-2, NAME-3, ..."""
    for number in itertools.count(2):
        beside = path.with_name(f"{path.name}-{number}")
        if not os.path.lexists(beside) and _put(new, beside, None):
            break
    return beside


def _exchange(one: Path, other: Path) -> bool:
    """Lets two places change what is there, in one step; False where the system cannot (Linux
    can)."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _identity(path: Path) -> tuple[int, ...] | None:
    """What tells a file or folder from any other that takes its place; None if there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns  # the numbers of what is deleted are given again

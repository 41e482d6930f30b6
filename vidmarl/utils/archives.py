"""Unpacks archives that come from elsewhere: zip, tar and rar, never beyond their folder."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from vidmarl.errors import DataError
from vidmarl.utils.files import PathLike, new_directory, readable
from vidmarl.utils.progress import progress_bar

T = TypeVar("T")

_CHUNK = 2**20
_RAR = {b"Rar!\x1a\x07\x00": "rar", b"Rar!\x1a\x07\x01\x00": "rar5"}


class _Member(NamedTuple):
    """What an archive holds under a name.

    Attributes:
        name: with "/" or "\\" between folders.
        kind: "file", "folder", or what else it is.
        blocks: the content of a file, to be read before the next member.
    """

    name: str
    kind: str
    blocks: Iterable[bytes]


def unpack(
    archive: PathLike,
    folder: PathLike,
    *,
    max_bytes: int | None = None,
    max_entries: int = 1_000_000,
    progress: bool = True,
) -> Path:
    """Unpacks a zip, tar (.gz, .bz2, .xz) or rar archive into a new folder, wholly or not at all.

    Only files and folders are made, with the rights of new ones. An archive with anything else in
    it (links, devices), or with a name that leads out of the folder, is refused.

    Args:
        archive: the file; what it is, is known by its content.
        folder: must be empty or not be there.
        max_bytes: what the files may have together; None: 20 times the size of the archive, and at
            least 1 GiB.
        max_entries: how many files and folders there may be.
        progress: show a progress bar.

    Returns:
        `folder`.

    Raises:
        DataError: the archive is not there, is damaged or of another kind, is refused, or nothing
            is installed that reads it.
        FileExistsError: the folder is not empty.
        OSError: it cannot be written, as on a full disk.
    """
    archive = Path(archive)
    doing = f"Unpacking {readable(archive)}"
    if not archive.is_file():
        raise DataError(f"{doing}: there is no such file.")
    bound = max(20 * archive.stat().st_size, 2**30) if max_bytes is None else max_bytes
    bar = progress_bar(None, show=progress, desc=f"unpacking {readable(archive.name)}", unit="B", unit_scale=True)
    held = 0
    with new_directory(folder) as new, bar:
        members = _guarded(_members(archive, doing), doing)
        for count, member in enumerate(members, start=1):
            if count > max_entries:
                raise DataError(f"{doing}: it holds more than the {max_entries:,} files and folders that it may.")
            target = new / _safe(member.name, doing)
            with _written(target, member, doing) as file:
                for block in _guarded(member.blocks, doing) if file else ():
                    held += len(block)
                    if held > bound:
                        raise DataError(f"{doing}: its files have more than the {bound:,} bytes that they may.")
                    assert file is not None
                    file.write(block)
                    bar.update(len(block))
    return Path(folder)


def can_unpack(archive: PathLike) -> bool:
    """Whether what unpacks an archive is installed, by its name: true of all but .rar without
    libarchive."""
    if Path(archive).suffix.lower() != ".rar":
        return True
    try:
        import libarchive  # noqa: F401
    except Exception:  # the package is there and the library is not: of several kinds
        return False
    return True


def _safe(name: str, doing: str) -> Path:
    """A member's path below the folder.

    Raises:
        DataError: it leads elsewhere.
    """
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or ".." in parts or "\0" in plain or re.match("[A-Za-z]:", plain):
        raise DataError(f"{doing}: refused, since {readable(name)!r} in it leads out of its folder.")
    return Path(*parts)


@contextlib.contextmanager
def _written(target: Path, member: _Member, doing: str) -> Iterator[io.BufferedIOBase | None]:
    """Makes a member: gives the open file, or None of a folder."""
    if member.kind not in ("file", "folder"):
        raise DataError(
            f"{doing}: refused, since {readable(member.name)!r} in it is a {member.kind}; only files and folders are"
            " unpacked."
        )
    try:
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            yield None
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"{doing}: refused, since {readable(member.name)!r} is in it twice.") from error
    try:
        with file:
            yield file
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(target)  # of a full disk the system does not say what did not fit
        raise


def _guarded(things: Iterable[T], doing: str) -> Iterator[T]:
    """What a reader gives, its errors, which are of many types, as one."""
    try:
        yield from things
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{doing}: it is damaged, needs a password, or is of a form that is not read here ({error}). Get it anew."
        ) from error


def _members(archive: Path, doing: str) -> Iterator[_Member]:
    with archive.open("rb") as file:
        start = file.read(8)
    for magic, form in _RAR.items():
        if start.startswith(magic):
            return _rar_members(archive, form, doing)
    if zipfile.is_zipfile(archive):
        return _zip_members(archive)
    if tarfile.is_tarfile(archive):
        return _tar_members(archive)
    raise DataError(f"{doing}: it is damaged, or no zip, tar or rar archive. Get it anew.")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = _kind(info.external_attr >> 16)
            if kind in ("", "file", "folder"):
                kind = "folder" if info.is_dir() else "file"
            yield _Member(info.filename, kind, _content(opened, info))


def _content(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with opened.open(info) as file:
        yield from _chunks(file.read)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as opened:
        for info in opened:
            if not (info.isreg() or info.isdir()):
                yield _Member(info.name, "link" if info.issym() or info.islnk() else "device", ())
            content = opened.extractfile(info) if info.isreg() else None
            yield _Member(info.name, "folder" if content is None else "file", _chunks(content.read) if content else ())


def _rar_members(archive: Path, form: str, doing: str) -> Iterator[_Member]:
    """By libarchive, which reads neither solid archives of version 4 nor verifies the checksums of
    all files."""
    try:
        import libarchive
    except Exception as error:
        raise DataError(
            f"{doing}: .rar archives need libarchive and its Python package: pip install 'vidmarl[rar]', and the"
            " library of the system (apt install libarchive13, or brew install libarchive), or a program such as unrar"
            f" and your hands. ({error})"
        ) from error
    with libarchive.file_reader(os.fspath(archive), format_name=form) as opened:
        for entry in opened:
            kind = "link" if entry.islnk else _kind(entry.filetype) or "file"
            yield _Member(os.fsdecode(entry.pathname), kind, entry.get_blocks(_CHUNK) if kind == "file" else ())


def _kind(mode: int) -> str:
    """What a Unix mode says a member is; "" if nothing."""
    kinds = {0: "", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(_CHUNK):
        yield chunk

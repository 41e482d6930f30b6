"""Files from the web: resumed where they broke off, checked, and there whole or not at all.

The libraries at hand do not resume (pooch, `torch.hub`), so this is a few pages on `urllib`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vidmarl._version import __version__
from vidmarl.errors import DataError
from vidmarl.utils.files import PathLike, readable, write_atomically
from vidmarl.utils.progress import progress_bar

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

BACK_OFF = 1.0
"""Seconds before the first new attempt; they double each time, up to a minute."""

_CHUNK = 2**20
_PASSING = frozenset([408, 425, 429, 500, 502, 503, 504])
"""Codes of a server that may well answer the next time."""

_ASTRAY = "its redirects lead in a circle, or to what is no address of http or https"


def fetch(
    url: str,
    path: PathLike,
    *,
    sha256: str | None = None,
    size: int | None = None,
    retries: int = 5,
    progress: bool = True,
) -> Path:
    """Downloads a file, unless it is there.

    What has arrived lies in `path` + ".part" until it is whole, and outlives an error, Ctrl-C, a
    kill and a full disk: the next call goes on from there, provided that the server still has the
    same file (by its ETag or date). Two processes that want the same file download it once.

    Args:
        url: its address, http or https; so are those that it may redirect to.
        path: where it goes; folders are made.
        sha256: of its content, in hex, or the first digits of it, which are all that some publish;
            None: not checked.
        size: in bytes; None: what the server says.
        retries: attempts in a row that may bring nothing new.
        progress: show a progress bar.

    Returns:
        `path`.

    Raises:
        DataError: it cannot be had, or is not the one expected; the message says which file to put
            where by hand.
        OSError: it cannot be written, as on a full disk.
        ValueError: the address is not of http or https.
    """
    path = Path(path)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"Downloading {readable(path.name)}: expected an address of http or https, got {url!r}.")
    wanted = _Wanted(url, path, sha256 and sha256.lower(), size)
    if path.exists():
        return wanted.check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _claimed(wanted) as part:
        if part is not None:  # else another process has brought it
            _download(wanted, part, retries, progress)
            _check_arrived(wanted, part, retries, progress)
            os.replace(wanted.part, path)
            wanted.note.unlink(missing_ok=True)
    return wanted.check(path) if part is None else path


def file_sha256(path: PathLike) -> str:
    """The sha256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Wanted(NamedTuple):
    """What is to be had, and where it goes."""

    url: str
    path: Path
    sha256: str | None
    size: int | None

    @property
    def part(self) -> Path:
        """What has arrived of it."""
        return self.path.with_name(self.path.name + ".part")

    @property
    def note(self) -> Path:
        """Which file of the server that is a part of."""
        return self.path.with_name(self.path.name + ".part.json")

    def wrong(self, path: Path) -> str:
        """What is wrong with the content of a file; "" if nothing is."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"expected {self.size:,} bytes, got {size:,}"
        if self.sha256 is not None and not (found := file_sha256(path)).startswith(self.sha256):
            return f"expected sha256 {self.sha256}, got {found} ({size:,} bytes)"
        return ""

    def check(self, path: Path) -> Path:
        if wrong := self.wrong(path):
            raise DataError(
                f"Using {readable(path)}: {wrong}. It is damaged, or another version: remove it, and it is downloaded"
                f" anew from {self.url}."
            )
        return path

    def failure(self, why: str) -> DataError:
        """Says what to do without a network, or without that server."""
        size = f"{self.size:,} bytes" if self.size is not None else "not known"
        return DataError(
            f"Downloading {readable(self.path.name)}: {why}.\n"
            "Try again later (what has arrived is kept), or get the file by other means and put it there:\n"
            f"  address  {self.url}\n"
            f"  file     {readable(self.path)}\n"
            f"  sha256   {self.sha256 or 'not known'}\n"
            f"  size     {size}"
        )


class _Broken(Exception):
    """An attempt that failed in a way that may pass."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@contextlib.contextmanager
def _claimed(wanted: _Wanted) -> Iterator[io.FileIO | None]:
    """The part, open and locked against other processes; None once another one has brought the
    file."""
    while True:
        with io.FileIO(wanted.part, "a+") as part:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(part, fcntl.LOCK_EX)
            if not _is_at(part, wanted.part) and not wanted.path.exists():
                continue  # who held it has failed
            try:
                yield None if wanted.path.exists() else part
            finally:
                if _is_at(part, wanted.part) and (_length(part) == 0 or wanted.path.exists()):
                    wanted.part.unlink()
                    wanted.note.unlink(missing_ok=True)
            return


def _download(wanted: _Wanted, part: io.FileIO, retries: int, progress: bool) -> None:
    """Brings the part to its whole length."""
    best, failed, arrived = _length(part), 0, False
    name = readable(wanted.path.name)
    with progress_bar(None, show=progress, desc=name, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        while True:
            try:
                return _attempt(wanted, part, bar)
            except _Broken as error:
                if _length(part) > best:
                    best, failed, arrived = _length(part), 0, True
                failed += 1
                if failed > retries or (not arrived and _is_offline(error.__cause__)):
                    raise wanted.failure(str(error)) from error
                time.sleep(min(max(BACK_OFF * 2 ** (failed - 1), error.wait), 60.0))


def _attempt(wanted: _Wanted, part: io.FileIO, bar: Any) -> None:
    """One connection.

    Raises:
        _Broken: it broke off, or the server is busy.
        DataError: the server does not have it, or has another one.
    """
    have, validator = _length(part), _known_validator(wanted)
    if have and validator is None and wanted.sha256 is None:
        have = 0  # nothing would tell whether the rest belongs to it
    try:
        answer = _ask(wanted, have, validator)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # there is no more of it, or it has changed
            error.close()
            if error.headers.get("Content-Range", "").strip() == f"bytes */{have}":
                return
            part.truncate(0)
            raise _Broken("the server does not have the rest of it") from error
        raise _judged(wanted, error) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if not isinstance(reason, BaseException):  # of a redirect, to ftp for example
            raise wanted.failure(_ASTRAY) from error
        host = urllib.parse.urlsplit(wanted.url).hostname
        raise _Broken(f"{host} cannot be reached ({reason})") from reason
    with answer:
        start = _start(answer) if answer.status == 206 else 0
        if start != (have if answer.status == 206 else 0):
            part.truncate(0)
            raise _Broken(f"asked from byte {have} on, the server sent from {start} on")
        part.truncate(start)
        _remember(wanted, answer)
        length = answer.headers.get("Content-Length", "")
        whole = start + int(length) if length.isdecimal() else None
        if wanted.size is not None and whole not in (None, wanted.size):
            part.truncate(0)
            page = ", a web page" if "html" in answer.headers.get("Content-Type", "") else ""
            raise wanted.failure(f"expected {wanted.size:,} bytes, the server has {whole:,}{page}")
        _check_room(wanted, (whole or 0) - start)
        bar.reset(total=whole)
        bar.update(start)
        _receive(wanted, answer, part, whole, bar)


def _receive(wanted: _Wanted, answer: http.client.HTTPResponse, part: io.FileIO, whole: int | None, bar: Any) -> None:
    """Appends what a connection sends.

    Raises:
        _Broken: it ends too early.
    """
    part.seek(0, os.SEEK_END)
    while True:
        try:
            chunk = answer.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"the connection broke off after {_length(part):,} bytes ({error})") from error
        if not chunk:
            break
        left = memoryview(chunk)
        while left:
            try:
                left = left[part.write(left) :]
            except OSError as error:
                raise _full(wanted, error) from error
        bar.update(len(chunk))
        if wanted.size is not None and _length(part) > wanted.size:
            part.truncate(0)
            raise wanted.failure(f"expected {wanted.size:,} bytes, the server sends more")
    if whole is not None and _length(part) < whole:
        raise _Broken(f"the connection broke off after {_length(part):,} of {whole:,} bytes")


def _check_arrived(wanted: _Wanted, part: io.FileIO, retries: int, progress: bool) -> None:
    """Looks at the whole content; what is wrong is removed.

    Raises:
        DataError: it is not the file that was expected.
    """
    os.fsync(part.fileno())
    wrong = wanted.wrong(wanted.part)
    if wrong and _noted(wanted).get("resumed"):
        part.truncate(0)  # pieces of two files, perhaps: once more, in one piece
        _download(wanted, part, retries, progress)
        wrong = wanted.wrong(wanted.part)
    if wrong:
        part.seek(0)
        page = " What came is a web page, not the file." if _is_page(part.read(512)) else ""
        part.truncate(0)
        raise wanted.failure(f"{wrong}.{page} The server has another file by now, or something on the way changed it")


def _ask(wanted: _Wanted, have: int, validator: str | None) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"vidmarl/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator is not None:
            headers["If-Range"] = validator
    opener = urllib.request.OpenerDirector()  # without those for files and FTP, which a redirect could lead to
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    answer: http.client.HTTPResponse = opener.open(urllib.request.Request(wanted.url, headers=headers), timeout=TIMEOUT)
    return answer


def _judged(wanted: _Wanted, error: urllib.error.HTTPError) -> Exception:
    """What an answer other than the file means."""
    said = f"the server answered {error.code} {error.reason}".strip()
    error.close()
    if error.code in _PASSING:
        wait = (error.headers.get("Retry-After") or "").strip()
        return _Broken(said, float(wait) if wait.isdecimal() else 0.0)
    return wanted.failure(_ASTRAY if 300 <= error.code < 400 else said)


def _start(answer: http.client.HTTPResponse) -> int:
    """The first byte of a partial answer; -1 if it does not say."""
    match = re.fullmatch(r"\s*bytes\s+(\d+)-\d+/(?:\d+|\*)\s*", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _known_validator(wanted: _Wanted) -> str | None:
    """What tells the server which file the part belongs to, if that is known."""
    note = _noted(wanted)
    return note.get("validator") or None if note.get("url") == wanted.url else None


def _noted(wanted: _Wanted) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        note = json.loads(wanted.note.read_text("utf-8"))
        return note if isinstance(note, dict) else {}
    return {}


def _remember(wanted: _Wanted, answer: http.client.HTTPResponse) -> None:
    tag = answer.headers.get("ETag", "")
    if not tag.startswith('"'):  # a weak one does not tell two versions apart
        tag = answer.headers.get("Last-Modified", "")
    note = {"url": wanted.url, "validator": tag, "resumed": answer.status == 206}
    write_atomically(wanted.note, json.dumps(note))


def _check_room(wanted: _Wanted, missing: int) -> None:
    free = shutil.disk_usage(wanted.path.parent).free
    if missing > free:
        raise _full(wanted, OSError(errno.ENOSPC, f"{missing:,} bytes are missing, {free:,} are free"))


def _full(wanted: _Wanted, error: OSError) -> OSError:
    said = (
        f"Downloading {readable(wanted.path.name)}: it cannot be written ({error.strerror}). What has arrived is kept:"
        " make room, then run the same again"
    )
    return OSError(error.errno, said, os.fspath(wanted.part))


def _is_offline(cause: BaseException | None) -> bool:
    """Whether there is no way at all to the server, so that a moment's wait does not help."""
    unreachable = (errno.ENETUNREACH, errno.EHOSTUNREACH)
    return isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in unreachable)


def _is_page(start: bytes) -> bool:
    return start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _is_at(file: io.FileIO, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _length(part: io.FileIO) -> int:
    return os.fstat(part.fileno()).st_size

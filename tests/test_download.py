"""Downloads: what a server, a disk and a user do to them. The server is one on this machine."""

from __future__ import annotations

import errno
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidmarl.errors import DataError
from vidmarl.utils import download
from vidmarl.utils.download import fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """A server with faults.

    Attributes:
        content: what it has.
        tag: the ETag of that.
        faults: what goes wrong with the next requests, one after the other: "cut" (half of what
            is asked for), "busy", "stall"; then all goes well.
        ranges: whether it knows Range.
        files: what it has at other paths.
        asked: of each request the path and the Range.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag = CONTENT, '"one"'
        self.faults: list[str] = []
        self.ranges = True
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        if self.path == "/gone":
            return self.send_error(404)
        if self.path.startswith("/to/"):
            return self.redirect(self.path.removeprefix("/to/"))
        if self.path == "/circle":
            return self.redirect("/circle")
        fault = server.faults.pop(0) if server.faults else ""
        if fault == "busy":
            return self.send_error(503)
        content, start = server.files.get(self.path, server.content), 0
        if wanted and server.ranges and self.headers.get("If-Range", server.tag) == server.tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 2] if fault else rest)
        if fault == "stall":
            self.wfile.flush()
            threading.Event().wait(1)

    def redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "BACK_OFF", 0.001)
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def only(folder: Path) -> str:
    """The one file in a folder."""
    (file,) = folder.iterdir()
    return file.name


def test_a_file_is_fetched_into_a_new_folder_with_nothing_beside_it_and_only_once(
    server: Server, tmp_path: Path
) -> None:
    path = fetch(server.url, tmp_path / "new" / "file.bin", sha256=SHA256.upper(), size=len(CONTENT), progress=False)
    assert path.read_bytes() == CONTENT
    assert only(path.parent) == "file.bin"
    fetch(server.url, path, sha256=SHA256, progress=False)
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_a_connection_that_breaks_off_is_taken_up_where_it_broke(server: Server, tmp_path: Path, fault: str) -> None:
    server.faults = [fault, fault]
    path = fetch(server.url, tmp_path / "file.bin", sha256=SHA256, progress=False)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=150000-", "bytes=225000-"]


def test_a_part_outlives_the_call_and_is_taken_up_by_the_next(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    server.faults = ["cut", *["busy"] * 3]
    with pytest.raises(DataError, match="503"):
        fetch(server.url, path, retries=2, progress=False)
    assert not path.exists()
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:150_000]
    fetch(server.url, path, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=150000-"
    assert only(tmp_path) == "file.bin"


def test_ctrl_c_loses_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.bin"
    server.faults = ["cut"]

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, path, progress=False)
    assert fetch(server.url, path, progress=False).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=150000-"


def test_a_file_that_has_changed_on_the_server_starts_over(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut", "busy"]
    with pytest.raises(DataError):
        fetch(server.url, tmp_path / "file.bin", retries=0, progress=False)
    server.content, server.tag, server.faults = CONTENT[::-1], '"two"', []
    assert fetch(server.url, tmp_path / "file.bin", progress=False).read_bytes() == CONTENT[::-1]


def test_a_server_that_ignores_range_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.ranges, server.faults = False, ["cut"]
    assert fetch(server.url, tmp_path / "file.bin", progress=False).read_bytes() == CONTENT


def test_without_etag_and_hash_nothing_is_pieced_together(server: Server, tmp_path: Path) -> None:
    server.tag, server.faults = "", ["cut"]
    assert fetch(server.url, tmp_path / "file.bin", progress=False).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, None]


def test_a_part_of_another_file_is_found_by_the_hash_and_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"another file")
    assert fetch(server.url, tmp_path / "file.bin", sha256=SHA256, progress=False).read_bytes() == CONTENT
    (tmp_path / "long.bin.part").write_bytes(CONTENT + b"and more")
    assert fetch(server.url, tmp_path / "long.bin", sha256=SHA256, progress=False).read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch(server.url, tmp_path / "file.bin", sha256=SHA256, progress=False).read_bytes() == CONTENT
    assert server.asked == [("/file.bin", f"bytes={len(CONTENT)}-")]


def test_a_wrong_file_is_refused_and_not_left_behind(server: Server, tmp_path: Path) -> None:
    server.content = b"<!DOCTYPE html><title>Please log in</title>"
    with pytest.raises(DataError, match=r"expected sha256 (?s:.*)a web page(?s:.*)address  http"):
        fetch(server.url, tmp_path / "file.bin", sha256=SHA256, progress=False)
    with pytest.raises(DataError, match="expected 300,000 bytes, the server has 43"):
        fetch(server.url, tmp_path / "file.bin", size=len(CONTENT), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_and_wrong_is_named_and_kept(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"the user's own")
    with pytest.raises(DataError, match=r"file\.bin: expected sha256.*remove it"):
        fetch(server.url, path, sha256=SHA256, progress=False)
    assert path.read_bytes() == b"the user's own"
    assert server.asked == []


def test_a_missing_file_is_said_at_once_with_what_to_put_where(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("file.bin", "gone")
    with pytest.raises(DataError) as caught:
        fetch(url, tmp_path / "file.bin", sha256=SHA256, size=7, progress=False)
    for part in ("404", url, str(tmp_path / "file.bin"), SHA256, "7 bytes"):
        assert part in str(caught.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize("address", ["circle", "to/ftp://127.0.0.1/file.bin", "to/file:///etc/passwd"])
def test_redirects_stay_on_the_web_and_end(server: Server, tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match="redirects lead in a circle, or to what is no address"):
        fetch(server.url.replace("file.bin", address), tmp_path / "file.bin", progress=False)


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("file.bin", "to//file.bin")
    assert fetch(url, tmp_path / "file.bin", progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "example.org/a"])
def test_an_address_that_is_none_of_the_web_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="http or https"):
        fetch(url, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_fails_at_once_and_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(DataError, match=r"no-such-host\.invalid cannot be reached(?s:.*)file     .*weights\.pt"):
        fetch("https://no-such-host.invalid/weights.pt", tmp_path / "weights.pt", progress=False)


def test_a_busy_server_is_asked_again_ever_more_slowly(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server.faults = ["busy"] * 4
    fetch(server.url, tmp_path / "file.bin", progress=False)
    assert waits == pytest.approx([0.001, 0.002, 0.004, 0.008])


def test_a_full_disk_is_said_before_and_while_writing_and_loses_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
        with pytest.raises(OSError, match="300,000 bytes are missing, 10 are free"):
            fetch(server.url, path, progress=False)
    assert server.asked == [("/file.bin", None)]

    class Full(download.io.FileIO):
        def write(self, data: Any) -> int:
            room = 100_000 - self.seek(0, 2)
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(memoryview(data)[:room])

    with monkeypatch.context() as patch:
        patch.setattr(download.io, "FileIO", Full)
        with pytest.raises(OSError, match="make room") as caught:
            fetch(server.url, path, progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:100_000]
    assert fetch(server.url, path, progress=False).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=100000-"


def test_two_that_want_the_same_file_download_it_once(server: Server, tmp_path: Path) -> None:
    got: list[Path] = []
    threads = [
        threading.Thread(target=lambda: got.append(fetch(server.url, tmp_path / "file.bin", progress=False)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == CONTENT for path in got] == [True] * 4
    assert len(server.asked) == 1
    assert only(tmp_path) == "file.bin"

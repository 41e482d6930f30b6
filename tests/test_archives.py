"""Archives that come from elsewhere: what they may hold, and that nothing leaves its folder."""

from __future__ import annotations

import contextlib
import errno
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidmarl.errors import DataError
from vidmarl.utils import archives
from vidmarl.utils.archives import can_unpack, unpack

Content = dict[str, bytes]


def make_zip(path: Path, content: Content) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def make_tar(path: Path, content: Content) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o4777
            file.addfile(info, io.BytesIO(data))
    return path


def make_rar(path: Path, content: Content, link: bool = False) -> Path:
    """A rar archive (version 4) of files that are stored, not compressed, as if made on Unix."""

    def block(kind: int, flags: int, body: bytes) -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head

    parts = [b"Rar!\x1a\x07\x00", block(0x73, 0, bytes(6))]
    for name, data in content.items():
        raw, unix, stored = name.encode(), 3, 0x30
        mode = (stat.S_IFLNK if link else stat.S_IFREG) | 0o644
        fields = struct.pack("<IIBIIBBHI", len(data), len(data), unix, zlib.crc32(data), 0, 20, stored, len(raw), mode)
        parts += [block(0x74, 0x8000, fields + raw), data]
    path.write_bytes(b"".join([*parts, block(0x7B, 0x4000, b"")]))
    return path


MAKERS: dict[str, Callable[[Path, Content], Path]] = {"zip": make_zip, "tar.gz": make_tar, "rar": make_rar}
CONTENT = {"walk/a.avi": b"one" * 1000, "walk/b.avi": b"", "bend/deep/c.avi": b"three"}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Content], Path]:
    if request.param == "rar":
        pytest.importorskip("libarchive")
    return lambda content: MAKERS[request.param](tmp_path / f"archive.{request.param}", content)


def content_of(folder: Path) -> Content:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_what_is_in_it_comes_out_with_the_rights_of_new_files(make: Any, tmp_path: Path) -> None:
    folder = unpack(make(CONTENT), tmp_path / "new" / "folder", progress=False)
    assert content_of(folder) == CONTENT
    assert {file.stat().st_mode & 0o7111 for file in folder.rglob("*.avi")} == {0}


@pytest.mark.parametrize("name", ["../out.avi", "a/../../out.avi", "/tmp/out.avi", "..\\out.avi", "C:\\out.avi"])
def test_a_name_that_leads_out_of_the_folder_refuses_the_archive(make: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="leads out of its folder"):
        unpack(make({"fine.avi": b"1", name: b"2"}), tmp_path / "folder", progress=False)
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith("archive")] == []


def _tar_of(path: Path, kind: bytes) -> Path:
    with tarfile.open(path, "w") as file:
        info = tarfile.TarInfo("way")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    return path


def _zip_of_a_link(path: Path) -> Path:
    info = zipfile.ZipInfo("way")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, "/etc/passwd")
    return path


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda path: _tar_of(path, tarfile.SYMTYPE), "link"),
        (lambda path: _tar_of(path, tarfile.LNKTYPE), "link"),
        (lambda path: _tar_of(path, tarfile.CHRTYPE), "device"),
        (lambda path: _tar_of(path, tarfile.FIFOTYPE), "device"),
        (_zip_of_a_link, "link"),
        (lambda path: make_rar(path, {"way": b"/etc/passwd"}, link=True), "link"),
    ],
    ids=["tar-symlink", "tar-hardlink", "tar-device", "tar-fifo", "zip-symlink", "rar-symlink"],
)
def test_links_and_devices_refuse_the_archive(build: Any, kind: str, tmp_path: Path) -> None:
    archive = build(tmp_path / "archive")
    if archive.read_bytes().startswith(b"Rar!"):
        pytest.importorskip("libarchive")
    with pytest.raises(DataError, match=f"'way' in it is a {kind}"):
        unpack(archive, tmp_path / "folder", progress=False)
    assert not (tmp_path / "folder").exists()


def test_bombs_end_at_a_bound(make: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"more than the 5,000 bytes"):
        unpack(make({"a": bytes(4000), "b": bytes(4000)}), tmp_path / "folder", max_bytes=5000, progress=False)
    with pytest.raises(DataError, match=r"more than the 2 files"):
        unpack(make(CONTENT), tmp_path / "folder", max_entries=2, progress=False)
    assert not (tmp_path / "folder").exists()


def test_a_small_archive_of_gigabytes_is_stopped_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "archive", {"a": bytes(100)})
    monkeypatch.setattr(
        archives, "_members", lambda *_: [archives._Member("a", "file", (bytes(2**20) for _ in range(2000)))]
    )
    monkeypatch.setattr(archives, "_written", lambda *_: contextlib.nullcontext(io.BytesIO()))
    with pytest.raises(DataError, match="1,073,741,824 bytes that they may"):
        unpack(archive, tmp_path / "folder", progress=False)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_refuses_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive", "w") as file:
        file.writestr("a", "1")
        file.writestr("./a", "2")
    with pytest.raises(DataError, match="in it twice"):
        unpack(tmp_path / "archive", tmp_path / "folder", progress=False)


def test_a_damaged_archive_is_said_and_leaves_nothing(make: Any, tmp_path: Path) -> None:
    archive = make({"a": bytes(range(256)) * 4000, "b": b"2"})
    content = bytearray(archive.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) // 4)
    archive.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        unpack(archive, tmp_path / "folder", progress=False)
    assert not (tmp_path / "folder").exists()


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_text("<html>not found</html>")
    with pytest.raises(DataError, match="no zip, tar or rar"):
        unpack(tmp_path / "page.zip", tmp_path / "folder")
    with pytest.raises(DataError, match="no such file"):
        unpack(tmp_path / "none.zip", tmp_path / "folder")


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "own").touch()
    with pytest.raises(FileExistsError):
        unpack(make_zip(tmp_path / "archive", CONTENT), tmp_path / "folder", progress=False)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["own"]


def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "archive", CONTENT)
    opened = Path.open

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", **how: Full() if mode == "xb" else opened(path, mode, **how)
    )
    with pytest.raises(OSError, match=r"No space left on device: .*a\.avi"):
        unpack(archive, tmp_path / "folder", progress=False)
    assert not (tmp_path / "folder").exists()


def test_without_libarchive_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "libarchive", None)
    assert can_unpack("a.zip")
    assert not can_unpack("a.rar")
    with pytest.raises(DataError, match=r"vidmarl\[rar\].*apt install.*unrar"):
        unpack(make_rar(tmp_path / "a.rar", CONTENT), tmp_path / "folder", progress=False)

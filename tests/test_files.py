"""Files and folders are there whole or not at all: after an error, with a full disk, beside what
was there before."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vidmarl.data.encode import write_mp4
from vidmarl.utils.files import new_directory, save_tensors, write_atomically

resource = pytest.importorskip("resource", reason="limits on the size of files are a matter of Unix")

ROOM = 100_000
BIG = b"0" * 2 * ROOM


@pytest.fixture
def small_disk() -> Iterator[None]:
    """The operating system refuses to let any file grow beyond `ROOM` bytes, in the middle of its
    writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_bytes_and_text_are_written_as_they_are(tmp_path: Path) -> None:
    for content in (b"\x00\r\n\xff", "é\r\n\n"):
        path = write_atomically(tmp_path / "file", content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_written_has_ordinary_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert mode(write_atomically(tmp_path / "file", "")) == 0o640
        with new_directory(tmp_path / "deep" / "folder"):
            pass
    finally:
        os.umask(before)
    assert mode(tmp_path / "deep" / "folder") == mode(tmp_path / "deep") == 0o750


@pytest.mark.parametrize("earlier", [None, b"earlier"])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_atomically(path, BIG),
        lambda path: save_tensors(path, {"a": torch.rand(ROOM)}),
        lambda path: write_mp4(path, torch.rand(3, 8, 160, 160), crf=0),
    ],
)
def test_a_full_disk_leaves_no_half_file(
    tmp_path: Path, small_disk: None, write: Callable[[Path], object], earlier: bytes | None
) -> None:
    path = tmp_path / "file"
    if earlier is not None:
        path.write_bytes(earlier)
    with pytest.raises(OSError, match="File too large"):
        write(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if earlier is None else {"file": earlier})


def test_a_rename_that_fails_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "file", "earlier")

    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_atomically(path, "new")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "earlier"


def test_a_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with new_directory(path) as folder:
        (folder / "a").write_text("a")
        assert not path.exists()
    assert [p.name for p in path.iterdir()] == ["a"]
    assert os.listdir(path.parent) == ["folder"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path, error: BaseException, overwrite: bool) -> None:
    path = tmp_path / "deep" / "folder"
    if overwrite:
        path.mkdir(parents=True)
        (path / "a").write_text("earlier")
    with pytest.raises(type(error)), new_directory(path, overwrite) as folder:  # noqa: PT012
        (folder / "b").write_text("new")
        raise error
    if overwrite:
        assert (path / "a").read_text() == "earlier"
        assert os.listdir(path.parent) == ["folder"]
    else:
        assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_no_half_folder(tmp_path: Path, small_disk: None) -> None:
    with pytest.raises(OSError, match="File too large"), new_directory(tmp_path / "folder") as folder:  # noqa: PT012
        (folder / "a").write_text("a")
        (folder / "b").write_bytes(BIG)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").write_text("earlier")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"), new_directory(path, overwrite=True):
        pass
    assert (path / "a").read_text() == "earlier"
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("there", ["file", "folder", "dangling link", "empty folder", "nothing"])
def test_what_is_there_is_replaced_only_on_request(tmp_path: Path, there: str) -> None:
    path = tmp_path / "it"
    if there == "file":
        path.write_text("mine")
    elif "folder" in there:
        path.mkdir()
        if there == "folder":
            (path / "note").write_text("mine")
    elif there == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    if there not in ("empty folder", "nothing"):
        with pytest.raises(FileExistsError, match=r"not empty, or is a file.*overwrite=True"), new_directory(path):
            pass
    with new_directory(path, overwrite=there not in ("empty folder", "nothing")) as folder:
        (folder / "new").write_text("new")
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["it"]

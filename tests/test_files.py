"""Files and folders are there whole or not at all: after an error, with a full disk, beside what
was there before."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from vidmarl.data.encode import write_mp4
from vidmarl.errors import CheckpointError
from vidmarl.utils import files
from vidmarl.utils.files import (
    load_tensors,
    new_directory,
    readable,
    resumable_directory,
    save_tensors,
    unfinished,
    write_atomically,
)

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


@pytest.fixture(params=["exchange", "two renames"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Folders change places in one step where the system can do that, else in two."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return request.param


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a").write_text("earlier")
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if source.name == "new":
            raise OSError(errno.ENOTEMPTY if path.exists() else errno.EIO, "no")
        rename(source, target)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="no"), new_directory(path, overwrite=True):
        pass
    assert (path / "a").read_text() == "earlier"
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("there", ["file", "folder", "empty folder", "nothing"])
def test_what_is_there_is_replaced_only_on_request(tmp_path: Path, how: str, there: str) -> None:
    path = tmp_path / "it"
    if there == "file":
        path.write_text("mine")
    elif "folder" in there:
        path.mkdir()
        if there == "folder":
            (path / "note").write_text("mine")
    if there not in ("empty folder", "nothing"):
        with pytest.raises(FileExistsError, match=r"not empty, or is a file.*overwrite=True"), new_directory(path):
            pass
    with new_directory(path, overwrite=there not in ("empty folder", "nothing")) as folder:
        (folder / "new").write_text("new")
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("there", ["folder", "nothing"])
@pytest.mark.parametrize("comes", ["file", "folder", "another writer"])
def test_what_appears_while_a_folder_is_written_is_left_alone(
    tmp_path: Path, how: str, overwrite: bool, there: str, comes: str
) -> None:
    path = tmp_path / "it"
    if there == "folder":
        path.mkdir()
        if overwrite:
            (path / "note").write_text("earlier")
    with (  # noqa: PT012
        pytest.raises(FileExistsError, match=r"something else has appeared.*it-2"),
        new_directory(path, overwrite) as folder,
    ):
        (folder / "mine").write_text("mine")
        if there == "folder" and comes == "file":
            shutil.rmtree(path)
        if comes == "file":
            path.write_text("theirs")
        elif comes == "folder":
            path.mkdir(exist_ok=True)
            (path / "theirs").write_text("theirs")
        else:
            with new_directory(path, overwrite) as other:
                (other / "theirs").write_text("theirs")
    assert (path if comes == "file" else path / "theirs").read_text() == "theirs"
    assert os.listdir(tmp_path / "it-2") == ["mine"]
    assert sorted(os.listdir(tmp_path)) == ["it", "it-2"]


KILLED = """
import os, signal, sys
from pathlib import Path
from vidmarl.utils import files

path, calls, exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "exchange"
def deadly(function):
    def count(*arguments, **options):
        global calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return count
files._exchange = deadly(files._exchange) if exchange else lambda one, other: False
os.rename = deadly(os.rename)
files.shutil.rmtree = deadly(files.shutil.rmtree)
with files.new_directory(path, overwrite=True) as folder:
    (folder / "new").write_text("new")
"""


@pytest.mark.thorough
@pytest.mark.parametrize("exchange", ["exchange", "two renames"])
@pytest.mark.parametrize("calls", range(5))
def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path: Path, calls: int, exchange: str) -> None:
    path = tmp_path / "it"
    path.mkdir()
    (path / "old").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), str(calls), exchange], check=False)
    assert killed.returncode == (-signal.SIGKILL if calls < (3 if exchange == "exchange" else 4) else 0)
    if exchange == "exchange":  # at no moment was the place empty
        assert len(os.listdir(path)) == 1
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["it"]
    assert os.listdir(path) in (["old"], ["new"])
    with new_directory(path, overwrite=True) as folder:
        (folder / "next").write_text("next")
    assert os.listdir(path) == ["next"]


def test_what_a_killed_writer_has_left_is_swept_and_what_a_living_one_is_at_stays(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from vidmarl.utils import files
with files.new_directory(sys.argv[1] + "/folder") as folder:
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    files.write_atomically(sys.argv[1] + "/file", "content")
"""
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    with new_directory(tmp_path / "other") as folder:
        (folder / "a").write_text("a")
        assert len(os.listdir(tmp_path)) == 1
        files.sweep(tmp_path)
        with new_directory(tmp_path / "third"):
            pass
    assert os.listdir(tmp_path / "other") == ["a"]
    assert sorted(os.listdir(tmp_path)) == ["other", "third"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in two containers
    contents = [f"{n}" * 10_000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(tmp_path / "file", content), contents * 20))
    assert (tmp_path / "file").read_text() in contents
    assert os.listdir(tmp_path) == ["file"]


# --- links, long names, names that are not UTF-8


@pytest.mark.parametrize("there", ["folder", "nothing"])
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path, there: str) -> None:
    if there == "folder":
        (tmp_path / "deep" / "folder").mkdir(parents=True)
        (tmp_path / "deep" / "folder" / "old").write_text("old")
        with pytest.raises(FileExistsError), new_directory(tmp_path / "deep" / "folder"):
            pass
    (tmp_path / "link").symlink_to("deep/folder")
    with new_directory(tmp_path / "link", overwrite=there == "folder") as folder:
        (folder / "new").write_text("new")
    assert os.readlink(tmp_path / "link") == "deep/folder"
    assert os.listdir(tmp_path / "deep" / "folder") == ["new"]
    (tmp_path / "file link").symlink_to("deep/folder/new")
    write_atomically(tmp_path / "file link", "newer")
    assert (tmp_path / "deep" / "folder" / "new").read_text() == "newer"
    assert os.readlink(tmp_path / "file link") == "deep/folder/new"


@pytest.mark.parametrize("name", ["n" * 250, "\U0001f600" * 60, os.fsdecode(b"clip\xff.mp4")])
def test_every_name_that_the_system_takes_can_be_written(tmp_path: Path, name: str) -> None:
    with new_directory(tmp_path / name) as folder:
        write_atomically(folder / name, "content")
    assert (tmp_path / name / name).read_text() == "content"


def test_text_that_utf_8_cannot_hold_is_escaped_as_json_does(tmp_path: Path) -> None:
    name = os.fsdecode(b"clip \xff \xc3\xa9.mp4")
    assert readable(name) == "clip \\xff é.mp4"
    record = write_atomically(tmp_path / "record.json", json.dumps({"file": name}, ensure_ascii=False))
    assert json.loads(record.read_text("utf-8")) == {"file": name}


# --- files of tensors

CONTENT = {"weights": torch.arange(1000) / 7, "one": torch.tensor(1), "name": "a name", "sizes": [1, (2, 3)]}


def same(one: object, other: object) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return (
        torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
    )


def test_tensors_come_back_as_they_were_saved(tmp_path: Path) -> None:
    assert same(load_tensors(save_tensors(tmp_path / "file", CONTENT), "Loading"), CONTENT)
    torch.save(CONTENT, tmp_path / "old", _use_new_zipfile_serialization=False)  # as torch wrote before 1.6
    assert same(load_tensors(tmp_path / "old", "Loading"), CONTENT)


@pytest.mark.thorough
def test_a_flipped_bit_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    whole = save_tensors(tmp_path / "file", CONTENT).read_bytes()
    draw, refused = random.Random(0), 0
    for bit in draw.sample(range(8 * len(whole)), 200):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "file").write_bytes(damaged)
        try:
            assert same(load_tensors(tmp_path / "file", "Loading"), CONTENT)
        except CheckpointError:
            refused += 1
    assert refused > 50  # the rest is in the gaps between records and in what nothing reads


@pytest.mark.parametrize("size", [0, 1, 100, 2000])
def test_a_cut_file_is_an_error(tmp_path: Path, size: int) -> None:
    whole = save_tensors(tmp_path / "file", CONTENT).read_bytes()
    for content in (whole[:size], whole[size + 1 :]):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(CheckpointError, match="it is damaged, or no file of"):
            load_tensors(tmp_path / "file", "Loading")


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
def test_what_would_be_executed_is_named_in_one_line(tmp_path: Path, zipped: bool) -> None:
    bomb = {"weights": Call(os.system, f"touch {tmp_path / 'executed'}")}
    torch.save(bomb, tmp_path / "bomb", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"^Loading: expected tensors and plain data in .*bomb, but") as caught:
        load_tensors(tmp_path / "bomb", "Loading")
    assert (
        "it holds Python objects (posix.system), and nothing from a file is executed" in str(caught.value)
    ) == zipped
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["bomb"]


def test_a_file_that_would_grow_when_it_is_read_is_refused(tmp_path: Path) -> None:
    torch.save({"zeros": torch.zeros(10**6)}, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as whole, zipfile.ZipFile(tmp_path / "bomb", "w") as bomb:
        for record in whole.infolist():
            bomb.writestr(record.filename, whole.read(record), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="damaged"):
        load_tensors(tmp_path / "bomb", "Loading")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "nothing", "."):
        with pytest.raises(FileNotFoundError, match="Loading: there is no file"):
            load_tensors(tmp_path / name, "Loading")


def test_what_a_run_that_failed_has_made_is_there_for_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with pytest.raises(KeyboardInterrupt), resumable_directory(path) as workshop:  # noqa: PT012
        (workshop / "new" / "a").write_text("paid")
        (workshop / "note").write_text("of the first run")
        raise KeyboardInterrupt
    assert not path.exists()
    with resumable_directory(path) as workshop:
        assert workshop == unfinished(path)
        assert (workshop / "note").read_text() == "of the first run"
        (workshop / "new" / "b").write_text("new")
    assert sorted(os.listdir(path)) == ["a", "b"]
    assert os.listdir(path.parent) == ["folder"]


def test_a_run_that_has_made_nothing_leaves_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "deep" / "er" / "folder", tmp_path / "folder"):
        with pytest.raises(OSError, match="disk"), resumable_directory(path) as workshop:  # noqa: PT012
            (workshop / "note").write_text("begun")
            raise OSError("disk")
    assert os.listdir(tmp_path) == []


def test_a_run_that_was_killed_when_all_was_in_place_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with resumable_directory(path) as workshop:
        (workshop / "new" / "a").write_text("a")
    workshop.mkdir()
    (workshop / "note").write_text("left over")
    with pytest.raises(FileExistsError, match="not empty"), resumable_directory(path):
        pass
    assert os.listdir(tmp_path) == ["folder"]
    workshop.mkdir()
    (workshop / "note").write_text("left over")
    with resumable_directory(path, overwrite=True) as again:
        assert os.listdir(again) == ["new"]


def test_a_run_that_was_killed_between_two_renames_gives_the_old_folder_back(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (unfinished(path) / "old" / "folder").mkdir(parents=True)
    (unfinished(path) / "old" / "folder" / "a").write_text("earlier")
    (unfinished(path) / "new").mkdir()
    (unfinished(path) / "new" / "b").write_text("new")
    with pytest.raises(OSError, match="disk"), resumable_directory(path, overwrite=True):
        raise OSError("disk")
    assert os.listdir(path) == ["a"]
    assert (unfinished(path) / "new" / "b").read_text() == "new"


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_at_once_are_one_too_many(tmp_path: Path, overwrite: bool) -> None:
    path = tmp_path / "folder"
    with resumable_directory(path) as workshop:
        (workshop / "new" / "a").write_text("a")
        with pytest.raises(BlockingIOError, match="another process"), resumable_directory(path, overwrite):
            pass
    assert os.listdir(path) == ["a"]

"""Attacks on files: written as they come, gone on with after whatever has stopped them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Brightness
from torch import Tensor, nn

import vidmarl.pipeline
from vidmarl import AttackResult, ClipSpec, GrowAndReduce, Misclassify, Victim, attack_files, load_clips
from vidmarl.attacks.result import load_outcome
from vidmarl.attacks.saved import SavedResult
from vidmarl.data.encode import write_lossless, write_mp4
from vidmarl.data.synthetic import make_clips
from vidmarl.errors import CheckpointError, ClipError, SettingsError, VictimError
from vidmarl.utils.files import resumable_directory, unfinished

resource = pytest.importorskip("resource", reason="limits on the size of files are a matter of Unix")

SPEC = ClipSpec(frames=8, size=32, sampling="uniform")
CLIPS = 5


class Moody(nn.Module):
    """Looks at brightness and texture, and fails as it is told to."""

    def __init__(self, fails: Callable[[int], object] = lambda asked: None) -> None:
        super().__init__()
        self.fails = fails
        self.asked = 0

    def forward(self, clips: Tensor) -> Tensor:
        self.asked += len(clips)
        self.fails(self.asked)
        texture = clips.diff(dim=-1).abs().mean((1, 2, 3, 4))
        return 0.05 * Brightness()(clips) + 5 * torch.stack([0 * texture, texture, -texture], 1)


def victim(fails: Callable[[int], object] = lambda asked: None) -> Victim:
    return Victim(Moody(fails), spec=SPEC, device="cpu", name="moody", labels=["dark", "grey", "bright"])


def attack(**settings: object) -> GrowAndReduce:
    return GrowAndReduce(**{"budget": 16, "clips_at_once": 2, "progress": False} | settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    clips, _ = make_clips(CLIPS, seed=0, frames=16, size=32)
    return [write_mp4(folder / f"clip {i}.mp4", clip, fps=8) for i, clip in enumerate(clips)]


@pytest.fixture(scope="module")
def whole(videos: list[Path]) -> AttackResult:
    """What comes of the clips in one go, in the memory."""
    one = victim()
    return attack()(one, load_clips(videos, one))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def same(one: AttackResult, other: AttackResult) -> bool:
    """Whether two results are the same bit for bit, wherever and whenever they were made."""
    for field in dataclasses.fields(AttackResult):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, Tensor) and not torch.equal(first, second):
            return False
    history = [torch.equal(one.history[key].nan_to_num(9.0), other.history[key].nan_to_num(9.0)) for key in one.history]
    return all(history) and one.settings == other.settings


@pytest.mark.thorough
def test_batch_by_batch_comes_the_same_as_in_one_go(videos: list[Path], whole: AttackResult, out: Path) -> None:
    saved = attack_files(videos, victim(), attack(), out)
    assert isinstance(saved, SavedResult)
    assert same(saved[:], whole)
    assert same(AttackResult.load(out / "result"), whole)
    assert same(saved[[4, 0, 4]], whole[[4, 0, 4]])
    assert same(saved[3], whole[3])
    assert same(saved[-2:], whole[3:])
    assert len(saved) == CLIPS
    assert saved.records() == whole.records()
    table = whole.metrics().replace(math.inf, math.nan)  # files of JSON know no infinity
    pd.testing.assert_frame_equal(saved.metrics(), table, check_exact=True, check_dtype=True)
    assert torch.equal(saved.strength, whole.strength)
    assert "of 5 clips" in repr(saved)
    assert os.listdir(out.parent) == ["out"]
    record = json.loads((out / "results.json").read_text("utf-8"))
    assert record["provenance"] == saved.provenance == AttackResult.load(out / "result").provenance
    assert record["provenance"]["victim"] == victim().identity()
    assert [clip["queries"] for clip in record["clips"]] == whole.queries.tolist()
    assert [clip["lossless"] for clip in record["clips"]] == [f"clips/000{i}_clip_{i}.webm" for i in range(CLIPS)]


@pytest.mark.thorough
def test_goals_go_with_their_clips(videos: list[Path], out: Path) -> None:
    one, labels = victim(), ["dark", "grey", "bright", "grey", "dark"]
    saved = attack_files(videos, one, attack(), out, labels=labels)
    goal = Misclassify([one.class_index(label) for label in labels])
    assert same(saved[:], attack()(one, load_clips(videos, one), goal))


@pytest.mark.thorough
def test_the_memory_holds_one_batch_of_clips(videos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(paths: list[Path], *rest: object) -> Tensor:
        loaded.append(len(paths))
        return load_clips(paths, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(vidmarl.pipeline, "load_clips", load)
    attack_files(videos, victim(), attack(), out)
    assert loaded == [1] * CLIPS + [2, 2, 1]
    loaded.clear()
    monkeypatch.setattr(vidmarl.pipeline, "PIXELS_AT_ONCE", 3 * 8 * 32 * 32 + 1)
    attack_files(videos, victim(), attack(clips_at_once=64), out, overwrite=True)
    assert loaded == [1] * CLIPS + [3, 2]


@pytest.mark.thorough
def test_a_saved_result_holds_no_pixels_until_they_are_asked_for(videos: list[Path], out: Path) -> None:
    saved = attack_files(videos, victim(), attack(), out)
    part = load_outcome(out / "result" / "part-0000")
    whole = AttackResult.load(out / "result" / "part-0000")
    for name in ("success", "queries", "strength", "full_l2"):
        values = getattr(part, name)
        assert torch.equal(values, getattr(whole, name))
        assert values.untyped_storage().nbytes() == values.nbytes, name
    assert part.clean.untyped_storage().nbytes() == part.adversarial.untyped_storage().nbytes() == 0
    assert not hasattr(saved, "clean")
    assert saved[0].clean.shape[2] == 8


def test_a_file_that_cannot_be_used_costs_no_query(videos: list[Path], out: Path, tmp_path: Path) -> None:
    one = victim()
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ClipError, match=r"text\.mp4"):
        attack_files([*videos, tmp_path / "text.mp4"], one, attack(), out)
    whole_videos = Victim(Moody(), spec=ClipSpec(frames=None, size=32), device="cpu")
    longer = write_mp4(tmp_path / "longer.mp4", torch.rand(3, 24, 32, 32), fps=8)
    with pytest.raises(ClipError, match="16 to 24 frames"):
        attack_files([*videos, longer], whole_videos, attack(), out)
    assert one.queries == whole_videos.queries == 0
    assert not unfinished(out).exists()


class Stop(BaseException):
    """What stops a job."""


def fail_at(moment: int, how: BaseException) -> Callable[[int], None]:
    def fails(asked: int) -> None:
        if asked >= moment:
            raise how

    return fails


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit, Stop])
@pytest.mark.parametrize("moment", [1, 3, 19, 70])
def test_a_job_that_was_cut_short_goes_on_where_it_was(
    videos: list[Path],
    whole: AttackResult,
    out: Path,
    kind: type[BaseException],
    moment: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = victim(fail_at(moment, kind("odd")))
    with pytest.raises(VictimError if kind is RuntimeError else kind) as caught:
        attack_files(videos, first, attack(), out)
    kept = [note for note in caught.value.__notes__ if note.startswith("Kept in")] if moment > 2 else []
    assert not out.exists()
    assert first.journal is None
    assert unfinished(out).exists() == bool(kept)
    if kept:
        (unfinished(out) / "new" / "clips" / ".half.vidmarl-partial").touch()  # of a writer that was killed

    second = victim()
    saved = attack_files(videos, second, attack(), out)
    assert same(saved[:], whole)
    assert first.model.asked + second.model.asked <= int(whole.queries.sum()) + 2  # the forward pass that failed
    assert os.listdir(out.parent) == ["out"]
    assert len(os.listdir(out / "clips")) == 2 * CLIPS
    said = capsys.readouterr().err
    for note in kept:
        told = note.partition(": ")[2].partition(". ")[0]
        assert "batches done" in told
        assert f"vidmarl: going on in {unfinished(out)}: {told}\n" == said
    assert bool(said) == bool(kept)


@pytest.mark.thorough
def test_scores_that_are_nan_once_cost_nothing_but_themselves(
    videos: list[Path], whole: AttackResult, out: Path
) -> None:
    class Once(Moody):
        def forward(self, clips: Tensor) -> Tensor:
            scores = super().forward(clips)
            return scores * torch.nan if self.asked > 60 else scores

    first = Victim(Once(), spec=SPEC, device="cpu", name="moody", labels=["dark", "grey", "bright"])
    with pytest.raises(VictimError, match="NaN"):
        attack_files(videos, first, attack(), out)
    second = victim()
    assert same(attack_files(videos, second, attack(), out)[:], whole)
    assert first.queries + second.queries <= int(whole.queries.sum()) + 2


def cut_short(videos: list[Path], out: Path) -> None:
    with pytest.raises(Stop):
        attack_files(videos, victim(fail_at(40, Stop())), attack(), out)


@pytest.mark.thorough
def test_other_settings_and_other_clips_do_not_mix_with_an_unfinished_job(
    videos: list[Path], whole: AttackResult, out: Path
) -> None:
    cut_short(videos, out)
    for paths, how, told in (
        (videos, attack(seed=1), "attack.settings.seed was 0, and is 1"),
        (videos, attack(clips_at_once=3), "clips_at_once was 2, and is 3"),
        (videos[1:], attack(), "other clips"),
    ):
        with pytest.raises(SettingsError, match=rf"unfinished job .*{told}.*overwrite=True"):
            attack_files(paths, victim(), how, out)
    assert same(attack_files(videos, victim(), attack(), out)[:], whole)
    cut_short(videos, out.with_name("again"))
    saved = attack_files(videos[1:], victim(), attack(), out.with_name("again"), overwrite=True)
    assert same(saved[:], whole[1:])


@pytest.mark.thorough
def test_the_job_of_another_process_is_left_alone(videos: list[Path], whole: AttackResult, out: Path) -> None:
    cut_short(videos, out)
    with resumable_directory(out) as folder:
        before = sorted(folder.rglob("*"))
        with pytest.raises(BlockingIOError, match="another process is at work"):
            attack_files(videos, victim(), attack(), out, overwrite=True)
        assert sorted(folder.rglob("*")) == before
        (folder / "new" / "mine").touch()
        with pytest.raises(BlockingIOError):  # and the refused one has not taken the lock away
            attack_files(videos, victim(), attack(), out)


@pytest.mark.thorough
def test_a_file_that_changes_meanwhile_stops_the_job(tmp_path: Path, out: Path) -> None:
    clips, _ = make_clips(3, seed=1, frames=16, size=32)
    files = [write_mp4(tmp_path / f"{i}.mp4", clip, fps=8) for i, clip in enumerate(clips)]

    def change(asked: int) -> None:
        if asked == 20:
            write_mp4(files[2], clips[0], fps=8)

    with pytest.raises(ClipError, match=r"2\.mp4: the file has changed"):
        attack_files(files, victim(change), attack(), out)


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Lets the system refuse files beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.thorough
@pytest.mark.parametrize("room", [3000, 30_000, 1_000_000])
def test_a_full_disk_stops_a_job_that_goes_on_when_there_is_room(
    videos: list[Path], whole: AttackResult, out: Path, small_disk: Callable[[int], None], room: int
) -> None:
    first, second = victim(), victim()
    small_disk(room)
    with pytest.raises(OSError, match="File too large") as caught:
        attack_files(videos, first, attack(), out)
    assert caught.value.__notes__[-1].startswith("Kept in")
    assert not out.exists()
    small_disk(resource.RLIM_INFINITY)
    assert same(attack_files(videos, second, attack(), out)[:], whole)
    assert first.queries + second.queries <= int(whole.queries.sum()) + 2


@pytest.mark.thorough
def test_a_link_to_a_folder_stays_one(videos: list[Path], whole: AttackResult, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "results")
    saved = attack_files(videos, victim(), attack(), tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["results"]
    assert same(saved[:], whole)


@pytest.mark.thorough
def test_a_part_that_is_missing_or_another_one_is_said(videos: list[Path], out: Path) -> None:
    attack_files(videos, victim(), attack(), out)
    second = out / "result" / "part-0001"
    text = (second / "result.json").read_text("utf-8")
    (second / "result.json").write_text(text.replace('"budget": 16', '"budget": 17'))
    for read in (AttackResult.load, SavedResult):
        with pytest.raises(CheckpointError, match="part-0001"):
            read(out / "result")
    second.rename(out / "elsewhere")
    with pytest.raises(CheckpointError, match="part-0001"):
        AttackResult.load(out / "result")
    (out / "result" / "result.json").write_text('{"parts": {}}')
    for read in (AttackResult.load, SavedResult):
        with pytest.raises(CheckpointError, match="names none"):
            read(out / "result")


@pytest.mark.thorough
def test_a_lossless_clip_is_written_the_same_each_time(tmp_path: Path) -> None:
    clip, _ = make_clips(1, seed=0, frames=8, size=96)
    for name in ("a.webm", "a.mkv"):
        assert len({write_lossless(tmp_path / name, clip[0]).read_bytes() for _ in range(4)}) == 1


COUNTED = """
import os, time
import torch
from vidmarl import ClipSpec, Victim
class Counted(torch.nn.Module):
    def forward(self, clips):
        os.write(log, b"." * len(clips))
        time.sleep(0.01)
        level = clips[:, 0].mean((1, 2, 3))
        return -12 * (level[:, None] - torch.tensor([0.3, 0.5, 0.7])).abs()
log = os.open("asked", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def victim():
    return Victim(Counted(), spec=ClipSpec(frames=8, size=32, sampling="uniform"), name="counted", device="cpu")
"""


def kill_until_it_ends(line: list[str], folder: Path, kills: int, seconds: float, draw: random.Random) -> int:
    """Runs a command again and again, and kills it so many times, each at a moment drawn from the
    seconds after it has begun to work; says how many kills it was. The last run is left to end."""
    environment, asked, killed = os.environ | {"OMP_NUM_THREADS": "1"}, folder / "asked", 0
    asked.touch()
    while True:
        before = asked.stat().st_size
        with open(folder / "said", "w+", encoding="utf-8") as said:
            process = subprocess.Popen(line, cwd=folder, env=environment, stdout=said, stderr=said)
            while process.poll() is None and killed < kills:
                if asked.stat().st_size > before or "going on" in (folder / "said").read_text("utf-8"):
                    time.sleep(draw.uniform(0, seconds))
                    process.kill()
                    break
                time.sleep(0.01)
            if process.wait() != -signal.SIGKILL:
                said.seek(0)
                assert process.returncode == 0, said.read()
                return killed
        killed += 1
        if (folder / "out").exists():  # it was about to end
            return killed


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing_and_cost_one_call_each(videos: list[Path], tmp_path: Path) -> None:
    attacked = {"class_path": "grow_and_reduce", "init_args": {"clips_at_once": 2}}
    words = ["attack", *map(str, videos), "--victim", "counted.victim", "--attack", json.dumps(attacked)]
    line = [sys.executable, "-m", "vidmarl", *words, "--budget", "30", "--no-progress", "--out", "out"]
    results, asked = [], []
    names = ("at once", "with kills")
    for name, kills in zip(names, (0, 5), strict=True):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "counted.py").write_text(COUNTED)
        killed = kill_until_it_ends(line, folder, kills, seconds=1.0, draw=random.Random(0))
        results.append(AttackResult.load(folder / "out" / "result"))
        asked.append((folder / "asked").stat().st_size)
        assert not (unfinished(folder / "out") / "new").exists()
    assert killed >= 3
    assert same(*results)
    written = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "out" / "clips").glob("*.webm")} for name in names
    ]
    assert written[0] == written[1]
    assert asked[0] == int(results[0].queries.sum())
    assert asked[0] <= asked[1] <= asked[0] + 2 * killed

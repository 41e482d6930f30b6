"""`vidmarl data check`: what a folder of videos is said to be, and the faults that are found in
it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import MakeVideo

from vidmarl.cli import main
from vidmarl.data import check, decode, sample
from vidmarl.data.check import check_data
from vidmarl.data.spec import ClipSpec
from vidmarl.errors import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDMARL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def faulty(make_video: MakeVideo, tmp_path: Path) -> Path:
    """Two classes of three videos; and beside them one that is cut short, a copy, a copy in another
    container, a still, one of another clock, and a text that is named as a video."""
    import av

    root = tmp_path / "videos"
    for number in range(6):
        make_video(f"videos/{'ab'[number % 2]}/{number}.mp4", frames=20 + number)
    content = (root / "a" / "0.mp4").read_bytes()
    (root / "a" / "cut.mp4").write_bytes(make_video("whole.mp4", faststart=True).read_bytes()[: len(content) * 2 // 3])
    shutil.copy(root / "a" / "2.mp4", root / "b" / "copy.mp4")
    with av.open(str(root / "b" / "1.mp4")) as source, av.open(str(root / "b" / "boxed.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    make_video("videos/b/short.mp4", frames=2)
    make_video("videos/b/fast.mp4", frames=33, fps=60)
    (root / "a" / "text.avi").write_text("no video")
    return root


def test_every_fault_is_found_and_named(faulty: Path) -> None:
    report = check_data(faulty)
    assert report.kind == "videos in folders"
    assert not report.ok
    assert set(report.broken) == {"a/cut.mp4", "a/text.avi"}
    assert report.doubled == [
        {"same": "bytes", "files": ["a/2.mp4", "b/copy.mp4"]},
        {"same": "frames", "files": ["b/1.mp4", "b/boxed.mkv"]},
    ]
    assert report.odd["b/short.mp4"] == "only 2 frames"
    assert report.odd["b/fast.mp4"] == "60 frames a second, where 10 are usual"
    assert report.missing is None
    assert {name: row["clips"] for name, row in report.classes.items()} == {"a": 5, "b": 7}
    assert report.classes["a"]["broken"] == 2
    assert report.classes["b"]["doubled"] == 2


def test_a_quick_look_reads_packets_alone(faulty: Path) -> None:
    report = check_data(faulty, quick=True)
    assert "a/text.avi" in report.broken
    assert [group["files"] for group in report.doubled] == [["a/2.mp4", "b/copy.mp4"]]


def test_what_was_looked_at_is_not_looked_at_again_until_it_changes(
    faulty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    stopped: list[Path] = []
    look = check.look_at

    def noted(path: Path, quick: bool = False) -> check.FileFacts:
        seen.append(path.name)
        if len(seen) == 9 and not stopped:
            stopped.append(path)
            raise KeyboardInterrupt
        return look(path, quick)

    monkeypatch.setattr(check, "look_at", noted)
    monkeypatch.setattr(check.os, "sched_getaffinity", lambda _: {0}, raising=False)  # one after the other
    with pytest.raises(KeyboardInterrupt):
        check_data(faulty)
    seen.clear()
    first = check_data(faulty)
    assert 0 < len(seen) < 12
    seen.clear()
    assert check_data(faulty) == first
    assert seen == []
    os.utime(faulty / "a" / "0.mp4", (0, 0))
    check_data(faulty)
    assert seen == ["0.mp4"]


def test_clips_that_the_official_lists_have_are_missed(make_video: MakeVideo, tmp_path: Path) -> None:
    lists = tmp_path / "splits"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 YoYo\n")
    (lists / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 1\nYoYo/v_YoYo_g08_c01.avi 2\n")
    (lists / "testlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi\n")
    for name in ("Archery/v_Archery_g08_c01", "YoYo/v_YoYo_g01_c01", "YoYo/v_YoYo_g99_c01"):
        make_video(f"clips/ucf101/{name}.avi", frames=9 + len(name[-9:]) + int(name[-6:-4]) % 5)
    report = check_data(tmp_path / "clips" / "ucf101")
    assert report.kind == "UCF-101"
    assert report.missing == ["v_YoYo_g08_c01"]
    assert report.classes["YoYo"] == {"clips": 2, "official": 2, "missing": 1, "broken": 0, "doubled": 0, "odd": 1}
    assert report.odd == {"YoYo/v_YoYo_g99_c01.avi": "in no official list"}


@pytest.mark.parametrize("name", ["weizmann", "hmdb51"])
def test_real_datasets_are_known(data_root: Path, name: str) -> None:
    report = check_data(data_root / "clips" / name, quick=True)
    assert report.kind == {"weizmann": "Weizmann actions", "hmdb51": "HMDB-51"}[name]
    assert report.broken == {}
    if name == "weizmann":
        assert report.ok
    else:
        assert len(report.missing or ()) + len(report.facts) in (6766, 6767)  # one has a name of its own


def test_the_command_prints_a_table_or_json_and_exits_by_what_it_finds(
    faulty: Path, make_video: MakeVideo, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(faulty)])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert f"{faulty}: videos in folders" in said
    assert "broken (2):\n  a/cut.mp4:" in said
    assert "doubled (2):" in said
    table = [line for line in said.splitlines() if line.startswith(("class", "a  ", "b  ", "all"))]
    assert len({len(line) for line in table}) == 1
    with pytest.raises(SystemExit):
        main(["data", "check", str(faulty), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["ok"] is False
    assert record["clips"] == 12
    assert record["facts"]["a/0.mp4"]["frames"] == 20
    for name in ("a/text.avi", "a/cut.mp4", "b/copy.mp4", "b/boxed.mkv"):
        (faulty / name).unlink()
    main(["data", "check", str(faulty)])
    assert "Nothing is broken or doubled." in capsys.readouterr().out


def test_a_folder_without_videos_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file in it"):
        check_data(tmp_path)


@pytest.mark.thorough
def test_the_sample_is_small_whole_and_what_its_code_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "sample"])
    path = Path(capsys.readouterr().out.strip())
    assert path == sample.sample_clip()
    assert path.stat().st_size < 100_000
    assert check.look_at(path).broken == ""
    (tmp_path / "drawn.mp4").write_bytes(sample.draw_sample())
    spec = ClipSpec(frames=8, size=64)
    assert (decode(path, spec).int() - decode(tmp_path / "drawn.mp4", spec)).abs().max() <= 8

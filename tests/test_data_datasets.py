"""Datasets list what is there with the right labels, clips are drawn reproducibly, and training and
test never mix."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import lightning
import pytest
import torch
from conftest import TYPES_ARE_CHECKED, MakeVideo
from torch import nn

import vidmarl
from vidmarl import ClipSpec, Victim
from vidmarl.data import (
    HMDB51,
    UCF101,
    ClipData,
    ClipDataset,
    ClipFile,
    ClipSource,
    Folder,
    Kinetics,
    ListedClips,
    SomethingSomethingV2,
    Weizmann,
    data_path,
    decode,
    hmdb51,
    paths,
    ucf101,
    write_lossless,
)
from vidmarl.data.base import find_videos
from vidmarl.data.joined import Joined
from vidmarl.data.synthetic import Synthetic, make_clip
from vidmarl.errors import ClipError, DataError, SettingsError, UnknownNameError

SPEC = ClipSpec(frames=4, size=(32, 32), sampling="stride", stride=2)


def touch(root: Path, *names: str) -> Path:
    """Files of these names; a source looks at names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def videos(make_video: MakeVideo, tmp_path: Path) -> Path:
    """A folder with two classes of four videos, each of its own length."""
    for number in range(8):
        make_video(f"videos/{'ab'[number % 2]}/{number}.mp4", frames=12 + number)
    return tmp_path / "videos"


# --- where the data are


def test_the_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDMARL_DATA", str(tmp_path))
    touch(tmp_path, "clips/ucf101/x")
    assert data_path("clips", "ucf101") == tmp_path / "clips" / "ucf101"
    with pytest.raises(DataError, match=r"'clips/hmdb51'.*\$VIDMARL_DATA.*not there"):
        HMDB51()


def test_without_the_variable_it_is_the_projects_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDMARL_DATA", raising=False)
    assert paths.data_root() == Path(__file__).resolve().parents[1] / "data"
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "vidmarl" / "data" / "paths.py"))
    monkeypatch.chdir(tmp_path)
    assert paths.data_root() == tmp_path / "data"
    with pytest.raises(DataError, match="VIDMARL_DATA is not set"):
        data_path("weights")


# --- UCF-101


@pytest.mark.thorough
def test_ucf101_reads_the_official_lists(data_root: Path) -> None:
    everything = UCF101()
    assert len(everything.classes) == 101
    assert everything.classes[0] == "ApplyEyeMakeup"
    for file in everything:
        assert file.name.startswith("v_" + everything.classes[file.label])
    for split in (1, 2, 3):
        train, test = UCF101(split=split, train=True), UCF101(split=split, train=False)
        assert not set(train.paths) & set(test.paths)
        assert set(train.paths) | set(test.paths) == set(UCF101(split=split).paths) <= set(everything.paths)
        groups = [{file.name.rsplit("_", 1)[0] for file in side} for side in (train, test)]
        assert not groups[0] & groups[1]


def test_ucf101_by_classes(data_root: Path) -> None:
    some = UCF101(classes=["YoYo", "Punch"])
    rest = UCF101(exclude=["YoYo", "Punch"])
    assert len(some) + len(rest) == len(UCF101())
    assert {some.classes[label] for label in some.labels} == {"YoYo", "Punch"}
    few = UCF101(classes=["YoYo", "Punch"], max_clips=6)
    assert len(few) == 6
    assert len(set(few.labels)) == 2
    with pytest.raises(UnknownNameError, match="did you mean YoYo"):
        UCF101(classes=["Yoyo"])


def test_ucf101_where_there_are_no_lists(tmp_path: Path) -> None:
    root = touch(tmp_path / "ucf", "B/v_B_g01_c01.avi", "A/v_A_g01_c01.avi", "A/notes.txt", "A/._v_A_g01_c01.avi")
    source = UCF101(root, lists=tmp_path)
    assert [(file.name, file.label) for file in source] == [("v_A_g01_c01", 0), ("v_B_g01_c01", 1)]
    with pytest.raises(DataError, match=r"trainlist02\.txt"):
        UCF101(root, split=2, train=True, lists=tmp_path)
    with pytest.raises(ValueError, match="needs a split"):
        UCF101(root, train=True, lists=tmp_path)
    with pytest.raises(ValueError, match="got 4"):
        UCF101(root, split=4, lists=tmp_path)
    (tmp_path / "testlist01.txt").write_text("C/v_C_g01_c01.avi\n")
    with pytest.raises(DataError, match="none is in the part asked for"):
        UCF101(root, split=1, train=False, lists=tmp_path)


@pytest.mark.parametrize("layout", ["{c}/v_{n}", "{n}/v_{n}", "{c}/v_{c}", "v_{n}", "v_{c}", "train/v_{n}", "{c}/own"])
@pytest.mark.parametrize("with_lists", [True, False])
def test_ucf101_reads_every_spelling_and_layout(tmp_path: Path, layout: str, with_lists: bool) -> None:
    """The official files write HandStandPushups, the official class list HandstandPushups."""
    spellings = [("HandstandPushups", "HandStandPushups"), ("Archery", "Archery")]
    root = touch(tmp_path / "ucf", *(layout.format(c=c, n=n) + "_g01_c01.avi" for c, n in spellings))
    if with_lists:
        (tmp_path / "classInd.txt").write_text("1 ApplyLipstick\n2 Archery\n3 HandstandPushups\n")
        (tmp_path / "testlist01.txt").write_text("HandstandPushups/v_HandStandPushups_g01_c01.avi\n")
    source = UCF101(root, lists=tmp_path)
    found = {file.name: source.classes[file.label].lower() for file in source if file.label is not None}
    assert len(found) == (1 if layout == "{c}/own" else 2)
    for name, action in found.items():
        assert action in name.lower() or layout == "{c}/own"
    if with_lists:
        assert source.classes == ["ApplyLipstick", "Archery", "HandstandPushups"]
        if layout != "{c}/own":
            assert [file.label for file in UCF101(root, split=1, train=False, lists=tmp_path)] == [2]


def test_a_label_that_is_lost_is_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "classInd.txt").write_text("1 Archery\n")
    (tmp_path / "labels.txt").write_text("wave\n")
    root = touch(tmp_path / "videos", *(f"odd{n}/film{n}.mp4" for n in range(12)))
    rest = r"\(12\): {0}0, {0}1, {0}10, {0}11, {0}2, .* and 2 more"
    with pytest.warns(UserWarning, match=r"UCF-101: no label for videos whose name.*" + rest.format("film")):
        assert set(UCF101(root, lists=tmp_path).labels) == {None}
    with pytest.warns(UserWarning, match=r"HMDB-51: no label for videos whose folder.*" + rest.format("film")):
        assert set(HMDB51(root, labels=tmp_path / "labels.txt").labels) == {None}
    with pytest.warns(UserWarning, match=r"Kinetics: no label for the videos of folders.*" + rest.format("odd")):
        assert set(Kinetics(root, labels=tmp_path / "labels.txt").labels) == {None}
    with pytest.warns(UserWarning, match=r"Folder: no label for the videos of folders.*" + rest.format("odd")):
        assert set(Folder(root, ["even"]).labels) == {None}


# --- HMDB-51


def test_hmdb51_labels_and_splits(data_root: Path) -> None:
    source = HMDB51()
    assert len(source.classes) == 51
    found = {file.name: source.classes[file.label] for file in source if file.label is not None}
    assert found["TrumanShow_wave_f_nm_np1_fr_med_26"] == "wave"
    assert found["cartwheel_1"] == "cartwheel"
    sides = [{f.name for f in HMDB51(split=1, train=side)} for side in (True, False) if _any(1, side)]
    assert sides
    assert sum(map(len, sides)) == len(set().union(*sides))


@pytest.mark.thorough
def test_hmdb51_labels_all_clips_of_the_official_lists_by_their_names(data_root: Path, tmp_path: Path) -> None:
    with tarfile.open(data_root / "splits" / "hmdb51_testTrainMulti_7030_splits.tar.gz") as tar:
        lists = {
            m.name.rpartition("_test_split1")[0].rpartition("/")[2]: tar.extractfile(m)
            for m in tar
            if "split1" in m.name
        }
        names = {line.split()[0].decode(): action for action, file in lists.items() for line in file}
    assert len(names) == 6766
    assert any("_np10_" in name for name in names)
    source = HMDB51(touch(tmp_path, *names))
    assert {file.path.name: source.classes[file.label] for file in source if file.label is not None} == names


@pytest.mark.parametrize("folder", ["brush_hair", "Brush Hair", "."])
@pytest.mark.parametrize("people", ["np1", "np10"])
def test_hmdb51_reads_every_spelling_and_layout(tmp_path: Path, folder: str, people: str) -> None:
    (tmp_path / "labels").write_text("hair\nbrush_hair\n")
    root = touch(tmp_path / "hmdb", f"{folder}/My_film_brush_hair_u_nm_{people}_ba_goo_2.avi")
    assert HMDB51(root, labels=tmp_path / "labels").labels == [1]


def _any(split: int, side: bool) -> bool:
    try:
        return bool(HMDB51(split=split, train=side))
    except DataError:
        return False


def _archive(path: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return path


def test_the_split_archive_is_read_without_unpacking_anything(tmp_path: Path) -> None:
    stem = "Film_shoot_bow_f_nm_np1_fr_goo_"
    root = touch(tmp_path / "hmdb", *(f"{stem}{number}.avi" for number in range(3)), "holiday.avi")
    labels = tmp_path / "labels.txt"
    labels.write_text("bow\nshoot_bow\n")
    lines = "".join(f"{stem}{number}.avi {number}\n" for number in range(3)).encode()
    archive = _archive(
        tmp_path / "splits.tar.gz",
        {
            "s/shoot_bow_test_split1.txt": lines,
            "../outside_test_split1.txt": b"",
            "s/bow_test_split1.txt": b" " * (2**20 + 1),
        },
        links=("s/link_test_split1.txt",),
    )
    common = {"root": root, "labels": labels}
    before = set(tmp_path.rglob("*"))
    with pytest.warns(UserWarning, match="no label"):
        train, test = (HMDB51(**common, split=1, train=side, archive=archive) for side in (True, False))
    assert [file.name for file in train] == [stem + "1"]
    assert [file.name for file in test] == [stem + "2"]
    assert train.labels == [1]
    assert dict(zip(HMDB51(**common).names, HMDB51(**common).labels, strict=True))["holiday"] is None
    assert set(tmp_path.rglob("*")) == before
    archive.write_bytes(archive.read_bytes()[:60])
    with (
        pytest.warns(UserWarning, match="no label"),
        pytest.raises(DataError, match="Reading the HMDB-51 split lists"),
    ):
        HMDB51(**common, split=1, archive=archive)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_hmdb51_reads_lists_that_were_unpacked_and_needs_no_label_file(
    data_root: Path, tmp_path: Path, split: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = data_root / "splits" / "hmdb51_testTrainMulti_7030_splits.tar.gz"
    assert list(hmdb51.ACTIONS) == (data_root / "labels" / "hmdb51_labels.txt").read_text().split()
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "splits" / "hmdb51", filter="data")
    official = hmdb51.official_clips(archive)
    assert len(official) == 6766
    assert official == hmdb51.official_clips(tmp_path / "splits" / "hmdb51")
    touch(tmp_path / "clips" / "hmdb51", *(f"{name}.avi" for name in [*official][::40]))
    monkeypatch.setenv("VIDMARL_DATA", str(tmp_path))
    for side in (True, False):
        assert HMDB51(split=split, train=side).names == HMDB51(split=split, train=side, archive=archive).names != []


def test_ucf101_knows_its_official_clips_and_lists_in_a_folder_of_their_own(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = ucf101.official_clips()
    assert len(official) == 13320
    assert len(set(official.values())) == 101
    for file in (data_root / "splits").glob("ucf101_*"):
        target = tmp_path / "splits" / "ucf101" / file.name.removeprefix("ucf101_")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    touch(tmp_path / "clips" / "ucf101", *(f"{action}/{name}.avi" for name, action in [*official.items()][::60]))
    monkeypatch.setenv("VIDMARL_DATA", str(tmp_path))
    for split in (1, 2, 3):
        train, test = (set(UCF101(split=split, train=side).names) for side in (True, False))
        assert train
        assert test
        assert not train & test
        assert len(train | test) == len(UCF101())


# --- Something-Something


SSV2_LABELS = {"Holding something": "1", "Moving something up": "0", "Pushing [something] so": "2"}


@pytest.fixture
def ssv2(tmp_path: Path) -> Path:
    """A data folder with six videos: two in training, one in validation, two in test, one in
    none."""
    lists = tmp_path / "splits" / "ssv2"
    lists.mkdir(parents=True)
    labels = {name.replace("[", "").replace("]", ""): number for name, number in SSV2_LABELS.items()}
    train = [
        {"id": "10", "label": "moving a cup up", "template": "Moving [something] up", "placeholders": ["a cup"]},
        {"id": "9", "label": "holding a pen", "template": "Holding [something]", "placeholders": ["a pen"]},
        {"id": "77", "label": "holding a hat", "template": "Holding [something]", "placeholders": ["a hat"]},
    ]
    validation = [{"id": "3", "label": "pushing a box so", "template": "Pushing [something] so"}]
    for name, content in (
        ("labels", labels),
        ("train", train),
        ("validation", validation),
        ("test", [{"id": "4"}, {"id": "5"}]),
    ):
        (lists / f"something-something-v2-{name}.json").write_text(json.dumps(content))
    touch(tmp_path / "clips" / "ssv2", *(f"{number}.webm" for number in (10, 9, 3, 4, 5, 6)))
    return tmp_path


def test_something_something_by_its_official_lists(ssv2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDMARL_DATA", str(ssv2))
    train = SomethingSomethingV2(split="train")
    assert train.classes == ["Moving something up", "Holding something", "Pushing something so"]
    assert [(file.name, file.label) for file in train] == [("10", 0), ("9", 1)]
    assert [(file.name, file.label) for file in SomethingSomethingV2(split="validation")] == [("3", 2)]
    assert [(file.name, file.label) for file in SomethingSomethingV2(split="test")] == [("4", None), ("5", None)]
    with pytest.warns(UserWarning, match=r"in none of the lists \(1\): 6"):
        assert len(SomethingSomethingV2()) == 6
    (ssv2 / "splits" / "ssv2" / "test-answers.csv").write_text("4;Holding something\n5;Moving something up\n")
    assert SomethingSomethingV2(split="test").labels == [1, 0]


def test_something_something_without_its_lists_says_which(ssv2: Path) -> None:
    lists = ssv2 / "splits" / "ssv2"
    for name, content in (
        ("test", None),
        ("validation", '[{"id": "3", "template": "Eating [something]"}]'),
        ("labels", '{"a": "7"}'),
    ):
        file = lists / f"something-something-v2-{name}.json"
        file.unlink() if content is None else file.write_text(content)
        with pytest.raises(DataError, match=name):
            SomethingSomethingV2(ssv2 / "clips", split="test" if name == "test" else "validation", lists=lists)


# --- a list of one's own


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/x.mp4,walk\nb y.mp4,run\nc.mp4,\n",
        "\ufeffLabel;Video\nwalk;a/x.mp4\nrun;b y.mp4\n;c.mp4\n",
        "a/x.mp4\twalk\nb y.mp4\trun\nc.mp4\t\n",
        'video_path,split,class\na/x.mp4,1,walk\n"b y.mp4",1,run\nc.mp4,1\n',
    ],
)
def test_a_list_of_videos_in_every_form(tmp_path: Path, text: str) -> None:
    (touch(tmp_path, "a/x.mp4", "b y.mp4", "c.mp4") / "list.csv").write_text(text, "utf-8")
    source = ListedClips(tmp_path / "list.csv")
    assert source.classes == ["run", "walk"]
    assert [(file.name, file.label) for file in source] == [("a/x", 1), ("b y", 0), ("c", None)]
    assert ListedClips(tmp_path / "list.csv", class_names=["walk", "sit", "run"]).labels == [0, 2, None]


def test_a_list_with_numbers_for_classes_and_spaces_between_columns(tmp_path: Path) -> None:
    (touch(tmp_path / "videos", "a x.mp4", "b.mp4") / "list.txt").write_text("a x.mp4 0\nb.mp4 2\n")
    source = ListedClips(tmp_path / "videos" / "list.txt")
    assert source.classes == ["0", "1", "2"]
    assert source.labels == [0, 2]
    assert ListedClips(tmp_path / "videos" / "list.txt", class_names=["p", "q", "r"]).labels == [0, 2]


def test_a_list_says_what_is_missing_or_wrong(tmp_path: Path) -> None:
    file = touch(tmp_path, "a.mp4") / "list.csv"
    file.write_text("a.mp4,walk\nb.mp4,run\n")
    with pytest.warns(UserWarning, match=r"not there are left out \(1\): b\.mp4"):
        assert ListedClips(file).names == ["a"]
    with pytest.raises(ValueError, match=r"the class 'walk' of a\.mp4 is not among"):
        ListedClips(file, class_names=["run"])
    for text, words in (("", "it is empty"), ("where,label\na.mp4,walk\n", "columns are where, label")):
        file.write_text(text)
        with pytest.raises(DataError, match=words):
            ListedClips(file)
    with pytest.raises(DataError, match=r"none\.csv"):
        ListedClips(tmp_path / "none.csv")


def test_videos_of_one_scene_are_in_one_part_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{scene}/{take}.mp4" for scene in range(40) for take in range(3)]
    rows = [f"{name}\t{name[: name.index('/')]}" for name in names]
    (touch(tmp_path, *names) / "all.tsv").write_text("\n".join(["file\tScene", *rows]), "utf-8")
    monkeypatch.setenv("VIDMARL_DATA", str(tmp_path))  # where lists are looked for that are not here
    parts = [{file.name for file in ListedClips("all.tsv", part=p, together="scene")} for p in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(names)
    scenes = [{name.partition("/")[0] for name in part} for part in parts]
    assert len(scenes[0]) > 24
    assert all(scenes)
    assert not scenes[0] & scenes[1] | scenes[1] & scenes[2] | scenes[0] & scenes[2]
    (tmp_path / "all.tsv").write_text("\n".join(["file\tscene", *rows[30:]]), "utf-8")
    fewer = {file.name for file in ListedClips("all.tsv", part="train", together="scene")}
    assert fewer == parts[0] - {name.removesuffix(".mp4") for name in names[:30]}  # whatever else is in the list
    with pytest.raises(UnknownNameError, match=r"column of .*'person'.*scene"):
        ListedClips("all.tsv", part="test", together="person")


# --- Weizmann, Kinetics, folders


def test_kinetics_by_an_official_list(tmp_path: Path) -> None:
    names = ["abcdefghijk_000010_000020", "abcdefghijk_000050_000060", "-_345678901", "other678901_000000_000010"]
    root = touch(tmp_path / "videos", *(f"{name}.mp4" for name in names))
    file = tmp_path / "train.csv"
    file.write_text(
        "label,youtube_id,time_start,time_end,split\ntasting beer,abcdefghijk,10,20,train\n"
        "abseiling,-_345678901,3,13,train\nnot here,zzzzzzzzzzz,0,10,train\n"
    )
    source = Kinetics(root, annotations=file)
    assert source.classes == ["abseiling", "not here", "tasting beer"]
    assert {file.name: file.label for file in source} == {names[0]: 2, names[2]: 0}
    file.write_text("youtube_id,time_start,time_end,split\nother678901,0,10,test\n")
    assert [(file.name, file.label) for file in Kinetics(root, annotations=file)] == [(names[3], None)]
    file.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="expected the columns label, youtube_id"):
        Kinetics(root, annotations=file)


def test_weizmann_is_ten_actions_by_nine_persons(data_root: Path) -> None:
    everything = Weizmann()
    assert len(everything) == 90
    assert all(file.path.parent.name == everything.classes[file.label] for file in everything)
    train, test = Weizmann(exclude_persons=["daria", "ido"]), Weizmann(persons=["daria", "ido"])
    assert (len(train), len(test)) == (70, 20)
    assert not set(train.paths) & set(test.paths)
    assert {name.split("_")[0] for name in test.names} == {"daria", "ido"}
    with pytest.raises(UnknownNameError, match="Weizmann person"):
        Weizmann(persons=["dario"])


def test_weizmann_by_file_name_alone(tmp_path: Path) -> None:
    root = touch(tmp_path, "lena_run1.avi", "lena_run2.avi", "ido_wave2.avi", "somebody_run.avi")
    assert [(f.name, f.label) for f in Weizmann(root)] == [("ido_wave2", 9), ("lena_run1", 4), ("lena_run2", 4)]


def test_kinetics_loose_and_in_classes(tmp_path: Path, data_root: Path) -> None:
    assert set(Kinetics().labels) == {None}
    root = touch(tmp_path, "air_drumming/x.mp4", "abseiling/y.mp4", "loose.mp4")
    source = Kinetics(root, version=400)
    assert len(source.classes) == 400
    assert {f.name: f.label is not None and source.classes[f.label] for f in source} == {
        "x": "air drumming",
        "y": "abseiling",
        "loose": False,
    }
    assert Kinetics(root).classes == ["abseiling", "air drumming"]
    assert Kinetics(root, classes=["abseiling"]).names == ["y"]


@pytest.mark.parametrize("version", [400, 600])
@pytest.mark.parametrize("spelling", ["official", "underscores", "torchvision"])
def test_kinetics_reads_every_spelling(data_root: Path, tmp_path: Path, version: int, spelling: str) -> None:
    names = (data_root / "labels" / f"kinetics{version}_labels.txt").read_text("utf-8").splitlines()
    folders = names if spelling == "official" else [name.replace(" ", "_") for name in names]
    if spelling == "torchvision":  # torchvision.datasets.Kinetics
        folders = [folder.replace("'", "").replace("(", "").replace(")", "") for folder in folders]
    source = Kinetics(touch(tmp_path, *(f"{folder}/{n:03}.mp4" for n, folder in enumerate(folders))), version=version)
    assert {int(file.name): file.label for file in source} == {n: n for n in range(version)}


def test_folder_of_classes_or_flat(tmp_path: Path) -> None:
    root = touch(tmp_path, "dog/deep/x.mp4", "cat/x.webm", "loose.MKV", "cat/readme.txt", ".hidden/z.mp4")
    source = Folder(root)
    assert source.classes == ["cat", "dog"]
    assert [(file.name, file.label) for file in source] == [("x", 0), ("deep/x", 1), ("loose", None)]
    with pytest.warns(UserWarning, match=r"no label for the videos of folders.*\(1\): cat\."):
        assert Folder(root, class_names=["dog"]).labels == [None, 0, None]
    assert Folder(root, exclude=["dog"]).names == ["x", "loose"]
    with pytest.raises(DataError, match="no such folder"):
        Folder(root / "nowhere")
    with pytest.raises(ValueError, match="max_clips"):
        Folder(root, max_clips=0)


@pytest.mark.parametrize(
    "name",
    ["a.3gp", "a.FLV", "a.mts", "a.m2ts", "a.ts", "a.vob", "a.h264", "a.y4m", "a.ogv", "a.wmv", "a.3g2", "a.rmvb"],
)
def test_every_kind_of_video_file_is_found(tmp_path: Path, name: str) -> None:
    assert [path.name for path in find_videos(touch(tmp_path, name, "a.txt", "a.jpg", "a", "a.wav"))] == [name]


def test_a_folder_counts_once_whatever_links_to_it(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "a/1.mp4", "b/deep/2.mp4", "loose.mp4")
    outside = touch(tmp_path / "outside", "3.mp4", "below/4.mp4")
    (root / "a" / "circle").symlink_to(root)
    (root / "a" / "0").symlink_to(root / "b")  # met before the folder itself
    (root / "b" / "circle").symlink_to("../a")
    (root / "c").symlink_to(outside)
    (root / "d").symlink_to(outside / "below")
    (outside / "back").symlink_to(root / "b")
    (outside / "broken").symlink_to(tmp_path / "nowhere")
    (outside / "itself").symlink_to("itself")
    found = [path.relative_to(root).as_posix() for path in find_videos(root)]
    assert found == ["a/1.mp4", "b/deep/2.mp4", "c/3.mp4", "c/below/4.mp4", "loose.mp4"]
    (tmp_path / "link").symlink_to(root)
    assert len(find_videos(tmp_path / "link")) == 5


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry]:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"folders that cannot be read \(1\): .*Permission denied: '.*b'"):
        assert find_videos(tmp_path) == [tmp_path / "a" / "1.mp4"]


def test_a_name_that_is_not_utf_8_is_escaped(make_video: MakeVideo, tmp_path: Path) -> None:
    name = os.fsdecode(b"clip\xff.mp4")
    make_video(f"videos/{name}", frames=12)
    source = Folder(tmp_path / "videos")
    assert source.names == ["clip\\xff"]
    assert ClipDataset(source, SPEC)[0][0].shape == (3, 4, 32, 32)
    with pytest.raises(ClipError, match=r"clip\\xff\.mp4: too short") as error:
        decode(source.paths[0], ClipSpec(frames=99, sampling="stride"))
    str(error.value).encode()


def test_sources_are_sequences(videos: Path) -> None:
    source = Folder(videos)
    assert source[1] == ClipFile(videos / "a" / "2.mp4", 0, "2")
    assert source[2:4].paths == source.paths[2:4]
    assert source[2:4].classes == source.classes
    assert "8 videos of 2 classes" in repr(source)
    with pytest.raises(ValueError, match="has no class"):
        ClipSource([ClipFile(videos, 2, "x")], ["only"])


def test_joined_sources_keep_their_classes_and_order(tmp_path: Path) -> None:
    one = touch(tmp_path / "one", "run/a.mp4", "run/b.mp4", "walk/c.mp4", "loose.mp4")
    two = touch(tmp_path / "two", "daria_run1.avi", "ido_wave2.avi")
    joined = Joined([Folder(one), Weizmann(two)])
    assert joined.paths == [*Folder(one).paths, *Weizmann(two).paths]
    assert joined.classes == [
        *(f"Folder/{n}" for n in ("run", "walk")),
        *(f"Weizmann/{n}" for n in Weizmann(two).classes),
    ]
    found = {f.path.stem: None if f.label is None else joined.classes[f.label] for f in joined}
    assert found == {
        "a": "Folder/run",
        "b": "Folder/run",
        "c": "Folder/walk",
        "loose": None,
        "daria_run1": "Weizmann/run",
        "ido_wave2": "Weizmann/wave2",
    }
    with pytest.raises(DataError, match="none was given"):
        Joined([])


def test_joined_sources_take_so_many_of_a_class_spread_over_it(tmp_path: Path) -> None:
    many = touch(tmp_path / "many", *(f"run/{i}.mp4" for i in range(10)), *(f"loose{i}.mp4" for i in range(5)))
    few = touch(tmp_path / "few", "run/0.mp4", "walk/1.mp4")
    joined = Joined([Folder(many), Folder(few)], per_class=3)
    kept = [f.path.relative_to(tmp_path).as_posix() for f in joined if f.label is not None]
    assert kept == ["many/run/0.mp4", "many/run/3.mp4", "many/run/6.mp4", "few/run/0.mp4", "few/walk/1.mp4"]
    assert joined.labels.count(None) == 5  # which class they are of is not known
    assert len({f.label for f in joined if f.label is not None}) == 3  # classes of one name in two sources are two


# --- clips


def test_clips_are_what_decode_gives_whether_cached_or_not(videos: Path) -> None:
    source = Folder(videos)
    kept, anew = ClipDataset(source, SPEC), ClipDataset(source, SPEC, cache_bytes=0)
    for index in (0, 5, 0):
        for dataset in (kept, anew):
            clip, position = dataset[index]
            assert position == index
            assert clip.dtype == torch.uint8
            assert torch.equal(clip, decode(source.paths[index], SPEC))


@pytest.mark.thorough
@pytest.mark.parametrize("sampling", ["stride", "fps", "uniform"])
@pytest.mark.parametrize("fit", ["crop", "letterbox", "squash"])
def test_augmented_clips_follow_from_seed_epoch_and_index_alone(videos: Path, sampling: str, fit: str) -> None:
    spec = ClipSpec(frames=4, size=(32, 32), sampling=sampling, fit=fit, short_side=40, fps=5.0)
    source = Folder(videos)
    options = {"augment": True, "repeats": 3, "seed": 7}
    kept = ClipDataset(source, spec, **options)
    anew = ClipDataset(source, spec, **options, cache_bytes=0)
    keys = [(epoch, index) for epoch in (0, 3) for index in (0, 1, 8, 23)]
    first = {key: kept[key][0] for key in keys}
    assert len(kept) == 24
    for key in reversed(keys):
        assert first[key].shape == (3, 4, 32, 32)
        assert torch.equal(anew[key][0], first[key])
        assert anew[key][1] == key[1] % 8
    assert torch.equal(kept[1][0], first[0, 1])
    assert not torch.equal(first[0, 0], first[0, 8])  # the same video, drawn again
    assert not torch.equal(first[0, 0], first[3, 0])
    assert not torch.equal(first[0, 0], ClipDataset(source, spec, augment=True, seed=8)[0][0])


def test_augmentation_moves_window_and_crop_and_mirrors(make_video: MakeVideo) -> None:
    source = ClipSource([ClipFile(make_video(frames=30), None, "x")])
    dataset = ClipDataset(source, ClipSpec(frames=2, size=(32, 32), sampling="stride"), augment=True, repeats=60)
    clips = torch.stack([clip for clip, _ in dataset]).float()
    starts = (clips[:, 0, 0].mean((1, 2)) / 10).round().unique()
    assert {0, 28} & set(starts.int().tolist())
    assert len(starts) > 15
    mirrored = clips[:, 2, 0, 0, 0] > clips[:, 2, 0, 0, -1]
    assert 15 < mirrored.sum() < 45
    assert len(clips[:, 1, 0, 0, 0].unique()) > 2


def test_broken_videos_are_named_and_left_out(videos: Path) -> None:
    (videos / "a" / "2.mp4").write_text("no video")
    short = videos / "b" / "1.mp4"
    spec = ClipSpec(frames=14, size=(32, 32), sampling="stride")
    with pytest.warns(UserWarning, match=r"(?s)Leaving out 3 of the 8 videos.*a/0\.mp4.*a/2\.mp4.*b/1\.mp4") as caught:
        dataset = ClipDataset(Folder(videos), spec)
    assert f"{short}: too short: it has 13 frames" in str(caught[0].message)
    assert dataset.videos == [2, 3, 5, 6, 7]
    assert dataset[0][1] == 2
    with pytest.raises(ClipError, match=r"(?s)None of the 8 videos.*can be used.*too short"):
        ClipDataset(Folder(videos), ClipSpec(frames=99, sampling="stride"))
    with pytest.raises(ClipError, match="holds no videos"):
        ClipDataset(ClipSource([]), spec)


@pytest.mark.thorough
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("how", ["gone", "cut", "no permission"])
def test_a_video_that_fails_later_is_left_out_and_the_run_goes_on(
    videos: Path, monkeypatch: pytest.MonkeyPatch, augment: bool, how: str
) -> None:
    source = Folder(videos)
    dataset = ClipDataset(source, SPEC, augment=augment, cache_bytes=0)
    next_one = dataset[3]
    if how == "gone":
        source.paths[2].unlink()
    elif how == "cut":
        source.paths[2].write_bytes(source.paths[2].read_bytes()[:300])
    else:
        exists = Path.exists

        def refuse(path: Path) -> bool:
            if path == source.paths[2]:
                raise PermissionError(13, "Permission denied", str(path))
            return exists(path)

        monkeypatch.setattr(Path, "exists", refuse)
    with pytest.warns(UserWarning, match=r"Leaving out a clip, and taking the next video instead: .*a/4\.mp4"):
        clip, position = dataset[2]
    assert position == 3
    assert augment or torch.equal(clip, next_one[0])
    with pytest.warns(UserWarning, match="Leaving out"):
        again, _ = dataset[2]
    assert torch.equal(again, clip)
    with pytest.warns(UserWarning, match="Leaving out 1 of the 8 videos"):
        assert ClipDataset(source, SPEC).videos == [0, 1, 3, 4, 5, 6, 7]


def test_when_no_video_can_be_decoded_any_more_it_is_an_error(videos: Path) -> None:
    dataset = ClipDataset(Folder(videos), SPEC)
    shutil.rmtree(videos)
    with (
        pytest.warns(UserWarning, match="no such file"),
        pytest.raises(ClipError, match=r"None of the 8 videos.*any more.*no such file"),
    ):
        dataset[0]


def test_a_stream_without_a_container_is_a_video_like_others(make_video: MakeVideo, tmp_path: Path) -> None:
    make_video("videos/raw.h264", codec="libx264", pix_fmt="yuv420p")
    make_video("videos/x.mp4")
    assert ClipDataset(Folder(tmp_path / "videos"), SPEC).videos == [0, 1]


def test_saved_clips_are_used_as_they_are(tmp_path: Path) -> None:
    clip = torch.randint(0, 256, (3, 4, 32, 32), dtype=torch.uint8)
    write_lossless(tmp_path / "clip.webm", clip)
    spec = ClipSpec(frames=4, size=(32, 32), sampling="stride", stride=7)
    assert torch.equal(ClipDataset(Folder(tmp_path), spec)[0][0], clip)
    for cache_bytes in (0, 2**20):
        varied = ClipDataset(Folder(tmp_path), spec, augment=True, cache_bytes=cache_bytes)
        assert varied[0][0].shape == (3, 4, 32, 32)


# --- the data module


@pytest.mark.thorough
def test_loaders_give_float_batches(videos: Path) -> None:
    source = Folder(videos)
    data = ClipData(train=source[::2], val=source[1::2], test=source[1::2], batch_size=3, eval_batch_size=3, spec=SPEC)
    train = list(data.train_dataloader())
    assert [batch.shape for batch in train] == [(3, 3, 4, 32, 32)]
    assert train[0].dtype == torch.float32
    assert torch.equal((train[0] * 255).round() / 255, train[0])
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        batches = list(loader)
        assert [len(clips) for clips, _ in batches] == [3, 1]
        assert torch.cat([index for _, index in batches]).tolist() == [0, 1, 2, 3]
        assert torch.equal(batches[1][0][0], decode(source.paths[7], SPEC).float() / 255)


@pytest.mark.thorough
def test_whole_videos_of_different_length_make_no_batch(videos: Path) -> None:
    data = ClipData(test=Folder(videos), spec=ClipSpec(frames=None, size=(32, 32)), eval_batch_size=2)
    with pytest.raises(ClipError, match=r"Putting 2 clips in one batch: they have 12 to 14 frames.*frames=None"):
        next(iter(data.test_dataloader()))


@pytest.mark.thorough
def test_epochs_differ_and_come_again_the_same_with_workers(videos: Path) -> None:
    source = Folder(videos)

    def epoch(number: int, workers: int = 0) -> torch.Tensor:
        loader = ClipData(train=source, batch_size=4, spec=SPEC, repeats=2, num_workers=workers).train_dataloader()
        loader.sampler.set_epoch(number)
        return torch.cat(list(loader))

    assert epoch(0).shape[0] == 16
    assert not torch.equal(epoch(0), epoch(1))
    assert torch.equal(epoch(1), epoch(1))
    assert torch.equal(epoch(1), epoch(1, workers=2))


def test_ranks_share_no_draw(videos: Path) -> None:
    from vidmarl.data.module import EpochSampler

    dataset = ClipDataset(Folder(videos), SPEC, repeats=2)
    shares = [{i for _, i in EpochSampler(dataset, 2, rank, seed=0, drop_last=True)} for rank in (0, 1)]
    assert not shares[0] & shares[1]
    assert shares[0] | shares[1] == set(range(16))


class Watcher(lightning.LightningModule):
    """Learns nothing; keeps a fingerprint of every training batch."""

    def __init__(self, spec: ClipSpec) -> None:
        super().__init__()
        self.victim = Victim(lambda clips: clips.mean((1, 2, 3))[:, :2], spec=spec)
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, float]] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        weights = torch.linspace(0, 1, batch[0].numel(), dtype=torch.float64)
        self.seen.append((self.current_epoch, float((batch.flatten(1).double() * weights).sum())))
        return self.weight * batch.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.thorough
def test_a_resumed_run_draws_what_the_whole_run_would_have_drawn(videos: Path, tmp_path: Path) -> None:
    def run(epochs: int, checkpoint: Path | None = None) -> tuple[Watcher, lightning.Trainer]:
        module = Watcher(SPEC)
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, datamodule=ClipData(train=Folder(videos), batch_size=4), ckpt_path=checkpoint)
        return module, trainer

    whole, _ = run(3)
    cut, trainer = run(1)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    resumed, _ = run(3, tmp_path / "cut.ckpt")
    assert [epoch for epoch, _ in whole.seen] == [0, 0, 1, 1, 2, 2]
    assert len({value for _, value in whole.seen}) == 6
    assert cut.seen + resumed.seen == whole.seen


@pytest.mark.parametrize("how", ["path", "link", "copy"])
def test_a_video_in_training_and_test_is_refused(videos: Path, tmp_path: Path, how: str) -> None:
    train, victim = Folder(videos, classes=["a"]), Folder(videos, classes=["b"])
    ClipData(train=train, val=victim, test=victim)
    leak = tmp_path / "elsewhere" / "other_name.mp4"
    leak.parent.mkdir()
    if how == "path":
        leak = train.paths[0]
    elif how == "link":
        leak.symlink_to(train.paths[0])
    else:
        shutil.copy(train.paths[0], leak)
    test = ClipSource([*victim, ClipFile(leak, None, "x")], victim.classes)
    with pytest.raises(ClipError, match=rf"1 videos stand in both train and test.*{leak.name}"):
        ClipData(train=train, test=test)
    with pytest.raises(ClipError, match="train and val"):
        ClipData(train=train, val=test)


def test_a_video_in_a_joined_source_and_test_is_refused(videos: Path, tmp_path: Path) -> None:
    train, test = Folder(videos, classes=["a"]), Folder(videos, classes=["b"])
    (tmp_path / "more").mkdir()
    shutil.copy(test.paths[0], tmp_path / "more" / "renamed.mp4")
    ClipData(train=Joined([train]), test=test)
    with pytest.raises(ClipError, match="1 videos stand in both train and test"):
        ClipData(train=Joined([train, Folder(tmp_path / "more")]), test=test)


def test_what_is_missing_is_said(videos: Path) -> None:
    source = Folder(videos)
    with pytest.raises(ClipError, match="none were given"):
        ClipData(train=source).test_dataloader()
    with pytest.raises(ClipError, match="nothing says how clips are sampled"):
        ClipData(train=source).train_dataloader()
    with pytest.raises(ClipError, match=r"do not fill one batch of 16.*repeats"):
        ClipData(train=source, spec=SPEC).train_dataloader()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ClipData(batch_size=0)
    assert ClipData(train=source, spec=SPEC).val_dataloader() == []


def test_a_repr_tells_what_there_is(videos: Path) -> None:
    source = Folder(videos)
    assert repr(source) == "Folder(8 videos of 2 classes)"
    told = repr(ClipDataset(source, SPEC, repeats=2))
    assert all(word in told for word in ("16 clips", repr(source), repr(SPEC), "augment=False"))
    assert repr(ClipData(test=source, spec=SPEC)) == f"ClipData(test={source!r}, spec={SPEC!r}, batch_size=16)"


def test_a_misspelt_setting_of_a_source_is_answered_with_the_nearest(tmp_path: Path) -> None:
    for kind, wrong, right in ((UCF101, "exlude", "exclude"), (Folder, "rot", "root"), (Kinetics, "lables", "labels")):
        with pytest.raises(SettingsError, match=rf"Making {kind.__name__}: .* '{wrong}'; did you mean {right}"):
            kind(**{wrong: tmp_path})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: Folder(3), "Folder: root must be a path, got 3"),
        (lambda v: Folder(b"x"), "Folder: root must be a path, got b'x'"),
        (lambda v: Folder("a\0b"), "Folder: root must be a path"),
        (lambda v: Folder(v, classes="walk"), r"classes must be a list \(each item text\) or None, got 'walk'"),
        (lambda v: Folder(v, exclude=[1]), r"exclude must be .*, got \[1\]"),
        (lambda v: Folder(v, max_clips=1.5), "max_clips must be a whole number or None, got 1.5"),
        (lambda v: Folder(v, max_clips=True), "max_clips must be a whole number or None, got True"),
        (lambda v: ClipSource([None]), r"ClipSource: files must be a list \(each item ClipFile\), got \[None\]"),
        (lambda v: ClipDataset(Folder(v), "x"), "ClipDataset: spec must be ClipSpec, got 'x'"),
        (lambda v: ClipDataset(Folder(v), SPEC, augment=1), "augment must be True or False, got 1"),
        (lambda v: ClipDataset(Folder(v), SPEC, seed=-1), "ClipDataset: seed must be at least 0, got -1"),
        (lambda v: ClipData(cache_gb=math.nan), "ClipData: cache_gb must be a finite number, got nan"),
        (lambda v: vidmarl.load_clips(3), r"load_clips: paths must be a path or a list \(each item a path\), got 3"),
        (lambda v: vidmarl.load_clips([v, None]), "load_clips: paths must be"),
        (
            lambda v: vidmarl.load_clips(v, {"frames": 2}),
            "victim must be HasSpec or ClipSpec or None, got {'frames': 2}",
        ),
        (lambda v: decode(v, SPEC, "x"), "decode: offset must be a finite number or None, got 'x'"),
        (lambda v: Synthetic(2, size=7), "Synthetic: size must be at least 8, got 7"),
        (lambda v: make_clip(0, 0, 8), "make_clip: label must be an index of the 8 CLASSES, got 8"),
        (lambda v: ClipSpec(fps=math.inf), "ClipSpec: fps must be a number above 0 and at most 1,000,000, got inf"),
        (lambda v: ClipSpec(frames=True), "ClipSpec: frames must be a whole number above 0 .*, got True"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(
    videos: Path, call: Callable[[Path], object], message: str
) -> None:
    with pytest.raises((SettingsError, ValueError), match=message):
        call(videos)


def test_a_warning_points_to_the_line_that_asked(videos: Path) -> None:
    (videos / "a" / "broken.mp4").write_text("this is no video")
    with pytest.warns(UserWarning, match="Leaving out 1 of") as caught:
        ClipDataset(Folder(videos), SPEC)
    if not TYPES_ARE_CHECKED:
        assert caught[0].filename == __file__

"""Datasets from the web: a server on this machine has them, in the form of the official ones."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from test_archives import make_rar
from test_download import Server, server  # noqa: F401

from vidmarl.cli import main
from vidmarl.data import HMDB51, UCF101, Weizmann, download
from vidmarl.data.download import DATASETS, Archive, Part, download_dataset
from vidmarl.errors import DataError, UnknownNameError

LIST = "1 ApplyEyeMakeup\n2 Archery\n"


def zipped(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return buffer.getvalue()


UCF_SPLITS = {
    "ucfTrainTestlist/classInd.txt": LIST.encode(),
    "ucfTrainTestlist/trainlist01.txt": b"Archery/v_Archery_g08_c01.avi 2\n",
    "ucfTrainTestlist/testlist01.txt": b"ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n",
    "__MACOSX/ucfTrainTestlist/._x": b"",
}
UCF_VIDEOS = {
    "UCF-101/Archery/v_Archery_g08_c01.avi": b"video",
    "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi": b"another",
}


@pytest.fixture
def mirror(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:  # noqa: F811
    """The official archives, small, and the addresses of the datasets turned to them."""
    rar = lambda content: make_rar(tmp_path / "some.rar", content).read_bytes()  # noqa: E731
    film = "Film_{}_f_nm_np1_fr_goo_{}.avi"
    actions = {
        action: rar({f"{action}/{film.format(action, n)}": f"{action} {n}".encode() for n in range(2)})
        for action in ("walk", "wave")
    }
    lists = {
        f"testTrainMulti_7030_splits/{action}_test_split1.txt": "".join(
            f"{film.format(action, n)} {n + 1}\n" for n in range(2)
        ).encode()
        for action in actions
    }
    server.files = {
        "/UCF101TrainTestSplits-RecognitionTask.zip": zipped(UCF_SPLITS),
        "/UCF101.rar": rar(UCF_VIDEOS),
        "/UCF101_videos.zip": zipped(UCF_VIDEOS),
        "/hmdb51_org.rar": rar({f"{action}.rar": content for action, content in actions.items()}),
        "/test_train_splits.rar": rar(lists),
        **{f"/{a}.zip": zipped({f"ido_{a}.avi": b"1", f"ira_{a}.avi": b"2"}) for a in ("bend", "walk")},
    }
    (tmp_path / "some.rar").unlink()
    server.content = b"<html>no such page</html>"
    address = server.url.removesuffix("file.bin")

    def turned(archive: Archive) -> Archive:
        content = server.files["/" + archive.name]
        known = archive.sha256 and hashlib.sha256(content).hexdigest()
        return Archive(address + archive.name, known, archive.size and len(content))

    datasets = {
        name: tuple(
            Part(part.place, tuple(map(turned, part.archives)))
            for part in parts
            if "/" + part.archives[0].name in server.files
        )
        for name, parts in DATASETS.items()
    }
    monkeypatch.setattr(download, "DATASETS", datasets)
    monkeypatch.setenv("VIDMARL_DATA", str(tmp_path))
    return server


def test_the_official_addresses_are_of_the_web_and_every_part_has_one() -> None:
    archives = [archive for parts in DATASETS.values() for part in parts for archive in part.archives]
    assert {archive.url.partition("://")[0] for archive in archives} <= {"http", "https"}
    assert [len(parts) for parts in DATASETS.values()] == [2, 2, 10]
    assert all(len(archive.sha256) == 64 for archive in archives if archive.sha256)


def test_ucf101_arrives_where_its_dataset_looks_for_it(mirror: Server, tmp_path: Path) -> None:
    pytest.importorskip("libarchive")
    mirror.faults = ["", "cut"]
    done = download_dataset("ucf101", progress=False)
    assert [str(path.relative_to(tmp_path)) for path in done.made] == ["splits/ucf101", "clips/ucf101"]
    assert [path.name for path in done.unpublished] == ["UCF101.rar"]
    assert sorted(p.name for p in (tmp_path / "clips" / "ucf101").iterdir()) == ["ApplyEyeMakeup", "Archery"]
    assert UCF101(split=1, train=True).names == ["v_Archery_g08_c01"]
    assert UCF101(split=1, train=False).labels == [0]
    asked = len(mirror.asked)
    again = download_dataset("ucf101", progress=False)
    assert again.made == []
    assert again.there == done.made
    assert len(mirror.asked) == asked


def test_where_nothing_unpacks_rar_or_the_first_address_fails_the_next_is_taken(
    mirror: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "libarchive", None)
        done = download_dataset("ucf101", tmp_path / "one", progress=False)
    assert done.archives[-1].name == "UCF101_videos.zip"
    assert done.unpublished == []
    mirror.files["/UCF101.rar"] = b"<html>moved</html>"
    done = download_dataset("ucf101", tmp_path / "two", progress=False)
    assert (tmp_path / "two" / "clips" / "ucf101" / "Archery" / "v_Archery_g08_c01.avi").read_bytes() == b"video"
    del mirror.files["/UCF101.rar"], mirror.files["/UCF101_videos.zip"]
    with pytest.raises(DataError, match=r"UCF101\.rar(?s:.*)Or instead:(?s:.*)UCF101_videos\.zip"):
        download_dataset("ucf101", tmp_path / "three", progress=False)


def test_hmdb51_is_archives_within_an_archive(mirror: Server, tmp_path: Path) -> None:
    pytest.importorskip("libarchive")
    download_dataset("hmdb51", progress=False)
    assert sorted(str(f.relative_to(tmp_path)) for f in (tmp_path / "clips").rglob("*_0.avi")) == [
        "clips/hmdb51/walk/Film_walk_f_nm_np1_fr_goo_0.avi",
        "clips/hmdb51/wave/Film_wave_f_nm_np1_fr_goo_0.avi",
    ]
    assert list((tmp_path / "clips").rglob("*.rar")) == []
    assert HMDB51(split=1, train=True).names == ["Film_walk_f_nm_np1_fr_goo_0", "Film_wave_f_nm_np1_fr_goo_0"]


def test_a_hash_that_nobody_publishes_is_that_of_the_first_download(mirror: Server, tmp_path: Path) -> None:
    done = download_dataset("weizmann", progress=False)
    assert [path.name for path in done.unpublished] == ["bend.zip", "walk.zip"]
    assert len(Weizmann(persons=["ido"])) == 2
    noted = json.loads((tmp_path / "downloads" / "sha256.json").read_text())
    assert [*noted.values()] == [hashlib.sha256(mirror.files[f"/{a}.zip"]).hexdigest() for a in ("bend", "walk")]
    for path in (tmp_path / "downloads" / "bend.zip", *(tmp_path / "clips" / "weizmann" / "bend").iterdir()):
        path.unlink()
    mirror.files["/bend.zip"] = zipped({"ido_bend.avi": b"changed"})
    with pytest.raises(DataError, match="expected sha256"):
        download_dataset("weizmann", progress=False)


def test_an_archive_that_was_put_there_by_hand_needs_no_network(
    mirror: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "downloads").mkdir()
    for name in ("bend.zip", "walk.zip"):
        (tmp_path / "downloads" / name).write_bytes(mirror.files["/" + name])
    assert len(download_dataset("weizmann", progress=False).made) == 2
    assert mirror.asked == []


def test_a_hostile_or_damaged_archive_makes_no_folder_and_says_what_to_do(mirror: Server, tmp_path: Path) -> None:
    mirror.files["/bend.zip"] = zipped({"../../../out.avi": b"x"})
    with pytest.raises(
        DataError, match=r"leads out of its folder(?s:.*)unpack .*bend\.zip by hand into .*weizmann/bend"
    ):
        download_dataset("weizmann", progress=False)
    assert not (tmp_path / "clips").exists()
    assert [*tmp_path.rglob("out.avi")] == []


def test_one_message_names_all_that_has_to_be_had_by_hand(mirror: Server, tmp_path: Path) -> None:
    address = mirror.url.removesuffix("file.bin")
    mirror.server_close()
    with pytest.raises(DataError, match=rf"downloads/bend\.zip(?s:.*)After that it needs(?s:.*){address}walk\.zip"):
        download_dataset("weizmann", progress=False)


def test_an_unknown_dataset_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="ucf101"):
        download_dataset("ucf11", tmp_path)


def test_the_command_says_what_it_wrote_and_what_to_type_next(
    mirror: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.delenv("VIDMARL_DATA")
    main(["data", "download", "weizmann", "--root", str(tmp_path / "my data")])
    said = capsys.readouterr().out
    assert f"wrote: {tmp_path}/my data/clips/weizmann/bend" in said
    assert "no sha256 is published" in said
    assert "not needed any more" in said
    assert f"export VIDMARL_DATA='{tmp_path}/my data'" in said
    assert f"next: vidmarl data check '{tmp_path}/my data/clips/weizmann'" in said
    main(["data", "download", "weizmann", "--root", str(tmp_path / "my data")])
    assert "there already" in capsys.readouterr().out

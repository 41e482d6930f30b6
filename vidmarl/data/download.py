"""Gets the datasets that can be downloaded without a form, from their official addresses.

The addresses, sizes and hashes are those of November 2026; where nothing is published, the hash of
the first download is kept, and later ones must have it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vidmarl.data.paths import data_root
from vidmarl.data.weizmann import ACTIONS
from vidmarl.errors import DataError, UnknownNameError
from vidmarl.utils.archives import can_unpack, unpack
from vidmarl.utils.download import fetch, file_sha256
from vidmarl.utils.files import PathLike, new_directory, readable, write_atomically


class Archive(NamedTuple):
    """An archive on the web.

    Attributes:
        url: where it is.
        sha256: of its content, where that is published.
        size: bytes, where that is published.
    """

    url: str
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.url.rpartition("/")[2]


class Part(NamedTuple):
    """A part of a dataset.

    Attributes:
        place: the folder that it makes, in the data folder.
        archives: any of these has it; the official one comes first.
    """

    place: str
    archives: tuple[Archive, ...]


_UCF = "https://www.crcv.ucf.edu/data/UCF101/"
_SERRE = "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/"
_WEIZMANN = "https://www.wisdom.weizmann.ac.il/~vision/VideoAnalysis/Demos/SpaceTimeActions/DB/"

DATASETS: dict[str, tuple[Part, ...]] = {
    "ucf101": (
        Part(
            "splits/ucf101",
            (
                Archive(
                    _UCF + "UCF101TrainTestSplits-RecognitionTask.zip",
                    # Size and hash of this and the next: those of TensorFlow Datasets.
                    "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
                    113_943,
                ),
            ),
        ),
        Part(
            "clips/ucf101",
            (
                Archive(_UCF + "UCF101.rar"),
                Archive(  # by the same authors, for the challenge THUMOS 2014
                    "https://storage.googleapis.com/thumos14_files/UCF101_videos.zip",
                    "dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d",
                    6_960_400_115,
                ),
            ),
        ),
    ),
    "hmdb51": (
        Part("splits/hmdb51", (Archive(_SERRE + "test_train_splits.rar"),)),
        Part("clips/hmdb51", (Archive(_SERRE + "hmdb51_org.rar"),)),
    ),
    "weizmann": tuple(Part(f"clips/weizmann/{action}", (Archive(f"{_WEIZMANN}{action}.zip"),)) for action in ACTIONS),
}
"""The parts of each dataset; lists come first, since they are small."""

_INSIDE = (".zip", ".rar", ".tar.gz")
"""Archives within an archive: HMDB-51 has one for each action."""


class Download(NamedTuple):
    """What a download has done.

    Attributes:
        made: the folders that are new.
        there: the folders that were there already, and were left as they are.
        archives: the files that were unpacked, which are not needed any more.
        unpublished: those of them whose hash nobody has published.
    """

    made: list[Path]
    there: list[Path]
    archives: list[Path]
    unpublished: list[Path]


def download_dataset(name: str, root: PathLike | None = None, *, progress: bool = True) -> Download:
    """Downloads a dataset and unpacks it to where the datasets of vidmarl look for it.

    The same call goes on after an error, Ctrl-C or a kill. Archives lie in `downloads` in the data
    folder; one that was put there by hand is used as if it had been downloaded.

    Args:
        name: "ucf101", "hmdb51" or "weizmann".
        root: the data folder; None: that of `$VIDMARL_DATA`.
        progress: show progress bars.

    Raises:
        UnknownNameError: there is no address for that dataset.
        DataError: something cannot be had, is damaged, or cannot be unpacked; the message says
            which file to put where.
        OSError: it cannot be written, as on a full disk.
    """
    if name not in DATASETS:
        raise UnknownNameError("dataset with an address", name, DATASETS)
    base = data_root() if root is None else Path(root)
    done = Download([], [], [], [])
    parts = DATASETS[name]
    for number, part in enumerate(parts, start=1):
        place = base / part.place
        if place.is_dir() and any(place.iterdir()):
            done.there.append(place)
            continue
        try:
            archive, path = _obtain(part, place, base / "downloads", progress)
        except DataError as error:
            raise DataError(f"{error}{_still_to_come(parts[number:], base)}") from error
        done.made.append(place)
        done.archives.append(path)
        if archive.sha256 is None:
            done.unpublished.append(path)
    return done


def _still_to_come(parts: Sequence[Part], base: Path) -> str:
    """The addresses of the parts that come after one that failed, for who gets them by hand."""
    folder = base / "downloads"
    urls = [
        part.archives[0].url
        for part in parts
        if not (base / part.place).exists() and not any((folder / one.name).exists() for one in part.archives)
    ]
    return "\n".join(["\nAfter that it needs, in the same folder:", *(f"  {url}" for url in urls)]) if urls else ""


def _obtain(part: Part, place: Path, folder: Path, progress: bool) -> tuple[Archive, Path]:
    """Downloads and unpacks the first archive of a part that can be had and read; those that lie
    there already are tried first."""
    usable = [archive for archive in part.archives if can_unpack(archive.name)] or list(part.archives)
    failed: list[DataError] = []
    for archive in sorted(usable, key=lambda archive: not (folder / archive.name).exists()):
        path = folder / archive.name
        try:
            _fetch(archive, path, folder / "sha256.json", progress)
            _unpack(path, place, progress)
            return archive, path
        except DataError as error:
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    raise DataError("\nOr instead:\n".join(map(str, failed))) from failed[0]


def _fetch(archive: Archive, path: Path, known: Path, progress: bool) -> None:
    """Downloads an archive; one without a published hash must be what it was the first time."""
    noted = _noted(known)
    fetch(archive.url, path, sha256=archive.sha256 or noted.get(archive.url), size=archive.size, progress=progress)
    if archive.sha256 is None and archive.url not in noted:
        write_atomically(known, json.dumps(noted | {archive.url: file_sha256(path)}, indent=1) + "\n")


def _noted(file: Path) -> dict[str, str]:
    """The hashes of first downloads, by address."""
    if not file.exists():
        return {}
    try:
        noted: dict[str, str] = json.loads(file.read_text("utf-8"))
        return {str(url): str(sha256) for url, sha256 in noted.items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f"Reading the hashes of downloads {readable(file)}: {error}. Remove the file.") from error


def _unpack(archive: Path, place: Path, progress: bool) -> None:
    """Unpacks an archive and those in it; a folder that is all there is, is left out."""
    with new_directory(place) as new:
        try:
            unpack(archive, new / "all", progress=progress)
            _unwrap(new / "all")
            for inner in sorted(path for path in (new / "all").rglob("*") if path.name.endswith(_INSIDE)):
                stem = next(inner.name.removesuffix(end) for end in _INSIDE if inner.name.endswith(end))
                unpack(inner, inner.with_name(stem), progress=False)
                _unwrap(inner.with_name(stem))
                inner.unlink()
        except DataError as error:
            raise DataError(
                f"{error}\nOr unpack {readable(archive)} by hand into {readable(place)}, and run the same again."
            ) from error
        _lift(new / "all")


def _unwrap(folder: Path) -> None:
    """Takes away a folder that is all there is."""
    shutil.rmtree(folder / "__MACOSX", ignore_errors=True)
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        _lift(inside[0])


def _lift(folder: Path) -> None:
    """Puts what is in a folder in its place."""
    aside = folder.rename(folder.with_name(".lifted"))
    for path in aside.iterdir():
        path.rename(folder.parent / path.name)
    aside.rmdir()

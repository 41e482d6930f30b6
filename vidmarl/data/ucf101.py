"""UCF-101: 13,320 clips of 101 actions from YouTube, in 25 groups an action (Soomro, Zamir and
Shah, 2012).

The official lists give three splits by group: clips of one group come from one video and stay on
one side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from vidmarl.data.base import ClipFile, ClipSource, choose, find_videos, read_lines, warn_of_lost_labels
from vidmarl.data.paths import data_path, data_root
from vidmarl.errors import DataError
from vidmarl.utils.files import PathLike

_CLIP_NAME = re.compile(r"v_(?P<action>\w+)_g\d+_c\d+", re.IGNORECASE)


class UCF101(ClipSource):
    """The UCF-101 videos that are present, in class folders or loose.

    The class is that of the file's name, or else that of the folder. Labels are the official
    indices (from 0) where the official class list is there, else count the classes by name. Upper
    and lower case are alike: the official files themselves write HandstandPushups in two ways.

    Args:
        root: the folder; None: `clips/ucf101` in the data folder.
        split: official split to read, or None for whatever is there.
        train: with a split, its training (True) or test list (False), or None for both.
        classes: the classes to keep; None: all.
        exclude: classes to leave out.
        max_clips: at most so many videos, spread evenly over the list, which is sorted by class.
        lists: folder of the official lists; None: `splits` in the data folder, or `ucf101` in it.

    Raises:
        DataError: videos or lists are missing, or none is left.
        UnknownNameError: no such class.
        ValueError: `train` without a split, or no such split.
    """

    def __init__(
        self,
        root: PathLike | None = None,
        split: Literal[1, 2, 3] | None = None,
        train: bool | None = None,
        classes: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        max_clips: int | None = None,
        lists: PathLike | None = None,
    ) -> None:
        if split not in (None, 1, 2, 3):
            raise ValueError(f"UCF-101: the official splits are 1, 2 and 3, got {split!r}.")
        if split is None and train is not None:
            raise ValueError("UCF-101: train=True or False needs a split, 1, 2 or 3.")
        base = Path(data_path("clips", "ucf101") if root is None else root)
        folder = data_root() / "splits" if lists is None else Path(lists)
        videos = {video: _said_classes(video, base) for video in find_videos(base)}
        names = _class_names(folder) or _distinct(said[0] for said in videos.values() if said)
        index = {name.casefold(): label for label, name in enumerate(names)}
        files = [ClipFile(video, _label(said, index), video.stem) for video, said in videos.items()]
        unknown = [file.name for file in files if file.label is None]
        warn_of_lost_labels("UCF-101", unknown, "videos whose name and folder say no class")
        if split is not None:
            sides = ("train", "test") if train is None else ("train",) if train else ("test",)
            listed = {stem for side in sides for stem in _listed(folder, side, split)}
            files = [file for file in files if file.name.casefold() in listed]
        super().__init__(choose(files, names, "UCF-101", only=classes, exclude=exclude, max_clips=max_clips), names)


def official_clips(lists: PathLike | None = None) -> dict[str, str]:
    """The class of every clip of the official lists, by the clip's name; none where they are
    missing. `lists` as for `UCF101`."""
    folder = data_root() / "splits" if lists is None else Path(lists)
    found: dict[str, str] = {}
    for side in ("train", "test"):
        if file := _find(folder, f"{side}list01.txt"):
            lines = [Path(line.split()[0]) for line in read_lines(file, "an official split")]
            found |= {line.stem: line.parent.name for line in lines}
    return found


def _said_classes(video: Path, root: Path) -> list[str]:
    """What a video may say of its class, by its name and by its folder, likeliest first."""
    name = _CLIP_NAME.fullmatch(video.stem)
    folder = [] if video.parent == root else [video.parent.name]
    if name is None or [name["action"].casefold()] == [part.casefold() for part in folder]:
        return folder
    return [name["action"], *folder]


def _label(said: Iterable[str], index: Mapping[str, int]) -> int | None:
    return next((index[name.casefold()] for name in said if name.casefold() in index), None)


def _distinct(names: Iterable[str]) -> list[str]:
    """The names sorted, one spelling of each."""
    return sorted({name.casefold(): name for name in sorted(names)}.values())


def _class_names(folder: Path) -> list[str]:
    """The names of the official class list, in its order; none where the list is missing."""
    file = _find(folder, "classInd.txt")
    return [] if file is None else [line.split()[-1] for line in read_lines(file, "the class names")]


def _listed(folder: Path, side: str, split: int) -> set[str]:
    name = f"{side}list{split:02d}.txt"
    file = _find(folder, name)
    if file is None:
        raise DataError(f"UCF-101, split {split}: looked for {name} (or ucf101_{name}) in {folder}: it is not there.")
    return {Path(line.split()[0]).stem.casefold() for line in read_lines(file, "an official split")}


def _find(folder: Path, name: str) -> Path | None:
    """A list under its own name, with the prefix that tells it from those of other datasets, or in
    a folder of its own."""
    places = (folder / f"ucf101_{name}", folder / name, folder / "ucf101" / name)
    return next((file for file in places if file.is_file()), None)

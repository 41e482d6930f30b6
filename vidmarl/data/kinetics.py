"""Kinetics-400, -600 and -700: ten-second clips of human actions from YouTube (Kay et al., 2017;
Carreira et al., 2018 and 2019)."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from vidmarl.data.base import ClipFile, ClipSource, choose, find_videos, read_lines, warn_of_lost_labels
from vidmarl.data.paths import data_path
from vidmarl.errors import DataError
from vidmarl.utils.files import PathLike, readable

_CLIP_NAME = re.compile(r"(?P<video>[\w-]{11})(?:_(?P<start>\d{6})_\d{6})?")
"""`<address at YouTube>_<first second>_<last second>`, as the official scripts name clips."""


class Kinetics(ClipSource):
    """Kinetics videos: in a folder per class, or loose; without an official list, loose ones have
    no label.

    The folders may be spelt as the classes are, or as torchvision and others write them: "tying
    knot (not on a tie)" or "tying_knot_not_on_a_tie".

    Args:
        root: the folder; None: `clips/kinetics` in the data folder.
        version: number the classes as Kinetics-400 or -600 models do. None: count the class folders
            by name.
        classes: the classes to keep; None: all, and the loose videos.
        exclude: classes to leave out.
        max_clips: at most so many videos, spread evenly.
        labels: file of class names, one a line; None: `labels/kinetics<version>_labels.txt` in the
            data folder.
        annotations: official list of a split, such as `train.csv` (columns `label`, `youtube_id`,
            `time_start`, `time_end`): the videos that are in it, with the classes that it says.
            None: all videos, with the classes of their folders.

    Raises:
        DataError: videos, list or labels are missing, or nothing is left.
        UnknownNameError: no such class.
    """

    def __init__(
        self,
        root: PathLike | None = None,
        version: Literal[400, 600] | None = None,
        classes: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        max_clips: int | None = None,
        labels: PathLike | None = None,
        annotations: PathLike | None = None,
    ) -> None:
        base = Path(data_path("clips", "kinetics") if root is None else root)
        videos = find_videos(base)
        if annotations is None:
            said = {video: _folder_of(video, base) for video in videos}
        else:
            listed = _listed(Path(annotations))
            said = {video: listed[clip] for video in videos if (clip := _clip(video.stem, listed)) is not None}
        if labels is not None or version is not None:
            file = Path(labels or data_path("labels", f"kinetics{version}_labels.txt"))
            names = read_lines(file, "the class names")
        elif annotations is not None:
            names = sorted({name for name in listed.values() if name})
        else:
            names = sorted({name.replace("_", " ").strip().lower() for name in said.values() if name})
        index = {_key(name): label for label, name in enumerate(names)}
        unknown = [name for name in said.values() if name and _key(name) not in index]
        warn_of_lost_labels("Kinetics", unknown, "the videos of folders that are no class of the list")
        files = [ClipFile(video, index.get(_key(name)), video.stem) for video, name in said.items()]
        super().__init__(choose(files, names, "Kinetics", only=classes, exclude=exclude, max_clips=max_clips), names)


def _folder_of(video: Path, root: Path) -> str:
    """The folder that a video lies in; "" of a loose one."""
    return "" if video.parent == root else video.parent.name


def _clip(stem: str, listed: Mapping[tuple[str, int | None], str]) -> tuple[str, int | None] | None:
    """The clip of the list that a file is, by its name."""
    match = _CLIP_NAME.fullmatch(stem)
    if match is None:
        return None
    clip = match["video"], int(match["start"]) if match["start"] else None
    return clip if clip in listed else None


def _listed(file: Path) -> dict[tuple[str, int | None], str]:
    """The class ("" in test lists) of each clip of an official list, by its video and first second;
    of a video with one clip also by the video alone."""
    clips: dict[tuple[str, int | None], str] = {}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                name = (row.get("label") or "").strip()
                clips[row["youtube_id"], int(float(row["time_start"]))] = name
                clips[row["youtube_id"], None] = name
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(
            f"Reading the Kinetics list {readable(file)}: expected the columns label, youtube_id, time_start and"
            f" time_end ({error!r})."
        ) from error
    return clips


def _key(name: str) -> str:
    """What all spellings of a class name have in common: its letters and digits."""
    return "".join(filter(str.isalnum, name.casefold()))

"""Something-Something v2: 220,847 videos of 174 acts with things, of which the order of the frames
tells most (Goyal et al., ICCV 2017).

The official package has the videos as `<number>.webm`, and lists in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from vidmarl.data.base import ClipFile, ClipSource, choose, find_videos, warn_of_lost_labels
from vidmarl.data.paths import data_root
from vidmarl.errors import DataError
from vidmarl.utils.files import PathLike, readable

_OTHER = "something-something-v2-"
"""Before the names of the lists in one of the two official packages."""


class SomethingSomethingV2(ClipSource):
    """The Something-Something v2 videos that are present, with the classes of the official lists.

    Args:
        root: the folder of the videos; None: `clips/ssv2` in the data folder.
        split: official list to read; None: every video that a list has, and those that none has,
            without a label. The videos of "test" have no label, unless the file of the answers is
            there.
        classes: the classes to keep, as the label file spells them; None: all.
        exclude: classes to leave out.
        max_clips: at most so many videos, spread evenly.
        lists: folder of `labels.json`, `train.json`, `validation.json` and `test.json`, or with
            "something-something-v2-" before each; None: `splits/ssv2` in the data folder.

    Raises:
        DataError: videos or lists are missing or damaged, or nothing is left.
        UnknownNameError: no such class.
        ValueError: no such split.
    """

    def __init__(
        self,
        root: PathLike | None = None,
        split: Literal["train", "validation", "test"] | None = None,
        classes: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        max_clips: int | None = None,
        lists: PathLike | None = None,
    ) -> None:
        if split not in (None, "train", "validation", "test"):
            raise ValueError(f"Something-Something v2: the lists are train, validation and test, got {split!r}.")
        folder = Path(data_root() / "splits" / "ssv2" if lists is None else lists)
        index = _class_index(folder)
        listed: dict[str, int | None] = {}
        for part in ("train", "validation", "test") if split is None else (split,):
            if split is not None or _find(folder, f"{part}.json"):
                listed |= _listed(folder, part, index)
        videos = find_videos(data_root() / "clips" / "ssv2" if root is None else root)
        if split is None:
            unknown = [video.stem for video in videos if video.stem not in listed]
            warn_of_lost_labels("Something-Something v2", unknown, "videos that are in none of the lists")
        else:
            videos = [video for video in videos if video.stem in listed]
        names = list(index)
        files = [ClipFile(video, listed.get(video.stem), video.stem) for video in videos]
        chosen = choose(files, names, "Something-Something v2", only=classes, exclude=exclude, max_clips=max_clips)
        super().__init__(chosen, names)


def _class_index(folder: Path) -> dict[str, int]:
    """The classes in the order of their official indices, which the file has as text."""
    file = _find(folder, "labels.json")
    content = _read(folder / "labels.json" if file is None else file)
    try:
        index = {str(name): int(number) for name, number in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"Reading {readable(folder)}/labels.json: expected {{class: index}} ({error}).") from error
    if sorted(index.values()) != list(range(len(index))):
        raise DataError(f"Reading {readable(folder)}/labels.json: the indices of its classes are not 0 to n - 1.")
    return dict(sorted(index.items(), key=lambda item: item[1]))


def _listed(folder: Path, part: str, index: dict[str, int]) -> dict[str, int | None]:
    """Of each video of a list its class."""
    file = _find(folder, f"{part}.json") or folder / f"{part}.json"
    answers = _answers(folder) if part == "test" else {}
    labels: dict[str, int | None] = {}
    try:
        for entry in _read(file):
            name = str(entry["id"])
            # "Holding [something]" is of the class "Holding something".
            said = entry.get("template", answers.get(name, "")).replace("[", "").replace("]", "")
            labels[name] = index[said] if said else None
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"Reading {readable(file)}: expected a list of videos, each with its id and a template of labels.json"
            f" ({error!r})."
        ) from error
    return labels


def _answers(folder: Path) -> dict[str, str]:
    """The classes of the test videos, where their file is there: `number;class` in each line."""
    file = _find(folder, "test-answers.csv")
    lines = [] if file is None else file.read_text("utf-8").splitlines()
    return {name: said for name, _, said in (line.partition(";") for line in lines)}


def _find(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / (_OTHER + name)) if file.is_file()), None)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"Reading the list {readable(file)} of Something-Something v2: {error}. Put the lists of the official"
            " package there, or say where they are (lists)."
        ) from error

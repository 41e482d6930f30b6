"""Kinetics-400 and -600: ten-second clips of human actions from YouTube (Kay et al., 2017; Carreira
et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vidmarl.data.base import ClipFile, ClipSource, choose, find_videos, read_lines, warn_of_lost_labels
from vidmarl.data.paths import data_path
from vidmarl.utils.files import PathLike


class Kinetics(ClipSource):
    """Kinetics videos: in a folder per class, or loose and then without labels.

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

    Raises:
        DataError: videos or labels are missing, or nothing is left.
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
    ) -> None:
        base = Path(data_path("clips", "kinetics") if root is None else root)
        found = [(video, video.relative_to(base).parts[:-1]) for video in find_videos(base)]
        if labels is not None or version is not None:
            file = Path(labels or data_path("labels", f"kinetics{version}_labels.txt"))
            names = read_lines(file, "the class names")
        else:
            names = sorted({folders[-1].replace("_", " ").strip().lower() for _, folders in found if folders})
        index = {_key(name): label for label, name in enumerate(names)}
        unknown = [folders[-1] for _, folders in found if folders and _key(folders[-1]) not in index]
        warn_of_lost_labels("Kinetics", unknown, "the videos of folders that are no class of the list")
        files = [ClipFile(v, index.get(_key(folders[-1])) if folders else None, v.stem) for v, folders in found]
        super().__init__(choose(files, names, "Kinetics", only=classes, exclude=exclude, max_clips=max_clips), names)


def _key(name: str) -> str:
    """What all spellings of a class name have in common: its letters and digits."""
    return "".join(filter(str.isalnum, name.casefold()))

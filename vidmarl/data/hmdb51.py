"""HMDB-51: 6,766 clips of 51 actions from films and the web (Kuehne et al., ICCV 2011).

The official splits come as one archive of text files; one that is a .tar.gz is read in place and
nothing is unpacked, one that was unpacked is read as a folder.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from vidmarl.data.base import ClipFile, ClipSource, choose, find_videos, read_lines, warn_of_lost_labels
from vidmarl.data.paths import data_path, data_root
from vidmarl.errors import DataError
from vidmarl.utils.files import PathLike, readable

# fmt: off
ACTIONS = (
    "brush_hair", "cartwheel", "catch", "chew", "clap", "climb", "climb_stairs", "dive", "draw_sword", "dribble",
    "drink", "eat", "fall_floor", "fencing", "flic_flac", "golf", "handstand", "hit", "hug", "jump", "kick",
    "kick_ball", "kiss", "laugh", "pick", "pour", "pullup", "punch", "push", "pushup", "ride_bike", "ride_horse",
    "run", "shake_hands", "shoot_ball", "shoot_bow", "shoot_gun", "sit", "situp", "smile", "smoke", "somersault",
    "stand", "swing_baseball", "sword", "sword_exercise", "talk", "throw", "turn", "walk", "wave",
)
# fmt: on
"""The classes."""

FOLDER, ARCHIVE = "hmdb51", "hmdb51_testTrainMulti_7030_splits.tar.gz"
"""Where the lists are in the folder of lists."""

_LIST_NAME = re.compile(r"(?:.*/)?(?P<action>\w+)_test_split(?P<split>[123])\.txt")
_LIST_BYTES = 2**20  # a list has some 70 lines; a larger one is none
_TRAIN, _TEST = "1", "2"  # "0" marks clips that a split leaves out

# <film>_<action>_<visible body>_<camera>_<people>_<viewpoint>_<quality>_<number>, or shortened to
# <action>_<number>. The film is matched lazily: "shoot_bow" is not "bow".
_CLIP_NAME = (
    r"(?:.+?_(?P<full>{actions})_[fhul]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)|(?P<short>{actions}))_\d+"
)


class HMDB51(ClipSource):
    """The HMDB-51 videos that are present, in class folders or loose.

    Args:
        root: the folder; None: `clips/hmdb51` in the data folder.
        split: official split to read, or None for whatever is there.
        train: with a split, its training (True) or test part (False), or None for both.
        classes: the classes to keep; None: all.
        exclude: classes to leave out.
        max_clips: at most so many videos, spread evenly.
        labels: file of class names, one a line; None: the 51 by alphabet, which is how models count
            them.
        archive: the official split lists, as an archive (.tar.gz) or a folder; None: those in
            `splits` in the data folder, `hmdb51` or `hmdb51_testTrainMulti_7030_splits.tar.gz`.

    Raises:
        DataError: videos, labels or lists are missing or damaged, or nothing is left.
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
        labels: PathLike | None = None,
        archive: PathLike | None = None,
    ) -> None:
        if split not in (None, 1, 2, 3):
            raise ValueError(f"HMDB-51: the official splits are 1, 2 and 3, got {split!r}.")
        if split is None and train is not None:
            raise ValueError("HMDB-51: train=True or False needs a split, 1, 2 or 3.")
        videos = find_videos(data_path("clips", "hmdb51") if root is None else root)
        names = list(ACTIONS) if labels is None else read_lines(labels, "the class names")
        files = [ClipFile(video, _label(video, names), video.stem) for video in videos]
        unknown = [file.name for file in files if file.label is None]
        warn_of_lost_labels("HMDB-51", unknown, "videos whose folder and name say no class")
        if split is not None:
            wanted = {None: (_TRAIN, _TEST), True: (_TRAIN,), False: (_TEST,)}[train]
            sides = {Path(name).stem: side for name, side in _split_lines(_lists(archive), split)}
            # Some collections put the name of the dataset before that of the clip.
            files = [file for file in files if sides.get(file.name.removeprefix("hmdb51_")) in wanted]
        super().__init__(choose(files, names, "HMDB-51", only=classes, exclude=exclude, max_clips=max_clips), names)


def _label(video: Path, names: list[str]) -> int | None:
    """By the folder's name ("brush_hair", "Brush Hair"), else by the clip's."""
    folder = video.parent.name.casefold().replace(" ", "_")
    if folder in names:
        return names.index(folder)
    match = re.fullmatch(_CLIP_NAME.format(actions="|".join(map(re.escape, names))), video.stem)
    return names.index(match["full"] or match["short"]) if match else None


def official_clips(splits: PathLike | None = None) -> dict[str, str]:
    """The class of every clip of the official lists, by the clip's name; none where the lists are
    missing.

    Args:
        splits: the folder that holds the lists, or their folder or archive; None: `splits` in the
            data folder.

    Raises:
        DataError: the lists are damaged.
    """
    folder = data_root() / "splits" if splits is None else Path(splits)
    return {
        Path(line.split()[0]).stem: action
        for action, content in _split_files(_lists_in(folder), 1)
        for line in content.splitlines()
        if len(line.split()) == 2
    }


def _lists(archive: PathLike | None) -> Path:
    if archive is not None:
        return Path(archive)
    here = _lists_in(data_root() / "splits")
    return here if here.is_file() or here.name == FOLDER else data_path("splits", ARCHIVE)


def _lists_in(folder: Path) -> Path:
    """The lists in a folder: a folder of their own, the archive, or the folder itself."""
    return next((path for path in (folder / FOLDER, folder / ARCHIVE) if path.exists()), folder)


def _split_lines(lists: Path, split: int) -> Iterator[tuple[str, str]]:
    """(clip name, side) of every line of one split."""
    for _, content in _split_files(lists, split):
        for line in content.splitlines():
            if len(fields := line.split()) == 2:
                yield fields[0], fields[1]


def _split_files(lists: Path, split: int) -> Iterator[tuple[str, str]]:
    """(action, content) of every list of one split."""
    try:
        if not lists.is_file():
            for path in sorted(lists.rglob(f"*_test_split{split}.txt")):
                yield path.stem.removesuffix(f"_test_split{split}"), path.read_text("utf-8", errors="replace")
            return
        with tarfile.open(lists, "r:gz") as tar:
            for member in tar:
                match = _LIST_NAME.fullmatch(member.name)
                if not match or int(match["split"]) != split or not member.isfile() or member.size > _LIST_BYTES:
                    continue
                content = tar.extractfile(member)
                assert content is not None  # a regular file has content
                yield match["action"], content.read().decode("utf-8", errors="replace")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"Reading the HMDB-51 split lists {readable(lists)}: {error}. Get them anew.") from error

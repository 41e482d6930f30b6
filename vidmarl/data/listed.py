"""Videos that a table lists, with their classes."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from vidmarl.data.base import ClipFile, ClipSource, choose, warn_of_missing
from vidmarl.data.paths import data_root
from vidmarl.errors import DataError, UnknownNameError
from vidmarl.utils.files import PathLike, readable

PATH_NAMES = ("path", "video", "video_path", "file", "filename", "clip")
LABEL_NAMES = ("label", "class", "class_name", "category", "action")
"""Titles that the columns may have."""


class ListedClips(ClipSource):
    """The videos of a CSV file, in its order: a path and a class in each row.

    Columns are parted by commas, semicolons, tabs or, where there is none of these, the last
    space. Their titles may be "path" or "video", "label" or "class" and the like; without titles
    the first is the path and the second the class. A class is a name or a whole number, which is
    then the index; an empty one is no label. Videos that are not there are left out, with a
    warning.

    Args:
        file: the CSV file; one that is not here is looked for in the data folder.
        root: the folder that paths start from; None: that of the file.
        class_names: the classes in the order of their indices; None: the names by alphabet, or the
            numbers from 0 to the highest.
        classes: the classes to keep; None: all, and the unlabelled.
        exclude: classes to leave out.
        part: "train", "val" or "test": about four fifths of the videos, a tenth, and the other
            tenth; None: all.
        together: the title of a column, such as "scene" or "person": videos that share a value
            there are in the same part. None: each video for itself.
        max_clips: at most so many videos, spread evenly.

    Raises:
        DataError: the file cannot be read, or none of its videos is there.
        UnknownNameError: no such class, or no such column.
        ValueError: a class of the file is not among `class_names`.
    """

    def __init__(
        self,
        file: PathLike,
        root: PathLike | None = None,
        class_names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        part: Literal["train", "val", "test"] | None = None,
        together: str | None = None,
        max_clips: int | None = None,
    ) -> None:
        what = f"The list {readable(file)}"
        place = Path(file) if Path(file).is_file() else data_root() / file
        base = place.parent if root is None else Path(root)
        rows = _rows(place if place.is_file() else Path(file), together)
        numbered = all(row.label.isdecimal() for row in rows if row.label)
        if class_names is not None:
            names = list(class_names)
        elif numbered:
            highest = max((int(row.label) for row in rows if row.label), default=-1)
            names = [str(number) for number in range(highest + 1)]
        else:
            names = sorted({row.label for row in rows if row.label})
        index = {name: label for label, name in enumerate(names)}
        files, missing = [], []
        for path, label, group in rows:
            if part is not None and _part(group) != part:
                continue
            if label and label not in index and not (label.isdecimal() and int(label) < len(names)):
                raise ValueError(f"{what}: the class {label!r} of {path} is not among the {len(names)} class_names.")
            known = None if not label else index[label] if label in index else int(label)
            if (base / path).is_file():
                files.append(ClipFile(base / path, known, Path(path).with_suffix("").as_posix()))
            else:
                missing.append(path)
        warn_of_missing(what, missing)
        super().__init__(choose(files, names, what, only=classes, exclude=exclude, max_clips=max_clips), names)


class _Row(NamedTuple):
    """A video of the list; the class may be empty. Videos of one group are in the same part."""

    path: str
    label: str
    group: str


def _part(group: str) -> str:
    """The part that a group is in, whatever else there is."""
    tenth = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 10
    return {8: "val", 9: "test"}.get(tenth, "train")


def _rows(file: Path, together: str | None) -> list[_Row]:
    try:
        lines = [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"Reading the list of videos {readable(file)}: {error}.") from error
    if not lines:
        raise DataError(f"Reading the list of videos {readable(file)}: it is empty.")
    mark = next((mark for mark in ",;\t" if mark in lines[0]), None)
    table = (
        [line.rsplit(maxsplit=1) for line in lines]
        if mark is None
        else list(csv.reader(lines, delimiter=mark, skipinitialspace=True))
    )
    titles = [cell.strip().casefold() for cell in table[0]]
    path = next((titles.index(name) for name in PATH_NAMES if name in titles), None)
    label = next((titles.index(name) for name in LABEL_NAMES if name in titles), None)
    if path is not None:
        table = table[1:]
    elif label is None:
        path, label = 0, 1
    else:
        raise DataError(
            f"Reading the list of videos {readable(file)}: its columns are {', '.join(table[0])}; expected one of the"
            f" name {' or '.join(PATH_NAMES)}, or no titles at all."
        )
    if together is not None and together.casefold() not in titles:
        raise UnknownNameError(f"column of {readable(file)}", together, titles)
    group = path if together is None else titles.index(together.casefold())
    return [_Row(*(_cell(row, column) for column in (path, label, group))) for row in table if _cell(row, path)]


def _cell(row: list[str], column: int | None) -> str:
    return row[column].strip() if column is not None and column < len(row) else ""

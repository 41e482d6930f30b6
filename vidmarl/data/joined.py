"""Several datasets as one."""

from __future__ import annotations

from vidmarl.data.base import ClipFile, ClipSource, evenly
from vidmarl.errors import DataError


class Joined(ClipSource):
    """The videos of several sources, one source after the other.

    Args:
        sources: at least one. Each keeps its classes: "UCF101/Archery".
        per_class: at most so many videos of a class, spread evenly over it, so that none outweighs
            the others.

    Raises:
        DataError: no source was given.
    """

    def __init__(self, sources: list[ClipSource], per_class: int | None = None) -> None:
        if not sources:
            raise DataError("Joining datasets: none was given.")
        classes: list[str] = []
        files: list[ClipFile] = []
        for source in sources:
            kind = type(source).__name__
            offset = len(classes)
            classes += [f"{kind}/{name}" for name in source.classes]
            by_class: dict[int | None, list[ClipFile]] = {}
            for file in source.files:
                by_class.setdefault(file.label, []).append(file)
            for label, members in by_class.items():
                kept = evenly(members, None if label is None else per_class)
                files += [file._replace(label=None if label is None else offset + label) for file in kept]
        super().__init__(files, classes)

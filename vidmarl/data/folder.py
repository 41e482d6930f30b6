"""Any folder of videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidmarl.data.base import ClipFile, ClipSource, choose, find_videos, warn_of_lost_labels
from vidmarl.utils.files import PathLike


class Folder(ClipSource):
    """The videos below a folder: one sub-folder a class, and files that lie loose without a label.

    Args:
        root: the folder.
        class_names: the classes in the order of their indices, for a victim's own numbering; None:
            the sub-folders by name. Sub-folders that are not named here give no label, with a
            warning.
        classes: the classes to keep; None: all, and the loose videos.
        exclude: classes to leave out.
        max_clips: at most so many videos, spread evenly.

    Raises:
        DataError: there is no such folder, or no video in it.
        UnknownNameError: no such class.
    """

    def __init__(
        self,
        root: PathLike,
        class_names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        max_clips: int | None = None,
    ) -> None:
        base = Path(root)
        found = [(video, video.relative_to(base).parts[:-1]) for video in find_videos(base)]
        names = list(class_names or sorted({folders[0] for _, folders in found if folders}))
        index = {name: label for label, name in enumerate(names)}
        unknown = [folders[0] for _, folders in found if folders and folders[0] not in index]
        warn_of_lost_labels("Folder", unknown, "the videos of folders that are not among class_names")
        files = [
            ClipFile(video, index.get(folders[0]) if folders else None, "/".join((*folders[1:], video.stem)))
            for video, folders in found
        ]
        super().__init__(choose(files, names, "Folder", only=classes, exclude=exclude, max_clips=max_clips), names)

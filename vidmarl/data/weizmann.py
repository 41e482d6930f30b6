"""The Weizmann actions: ten actions by nine persons, 180x144 px (Gorelick et al., PAMI 2007).

The only honest split is by person: every person does every action before the same kind of
background.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vidmarl.data.base import ClipFile, ClipSource, choose, find_videos
from vidmarl.data.paths import data_path
from vidmarl.errors import UnknownNameError
from vidmarl.utils.files import PathLike

ACTIONS = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
PERSONS = ("daria", "denis", "eli", "ido", "ira", "lena", "lyova", "moshe", "shahar")

NAME = re.compile(rf"(?P<person>{'|'.join(PERSONS)})_(?P<action>{'|'.join(ACTIONS)})\d*", re.IGNORECASE)
"""How its files are called."""


def official_clips() -> dict[str, str]:
    """The action of every clip, by its name without the number of the take."""
    return {f"{person}_{action}": action for action in ACTIONS for person in PERSONS}


class Weizmann(ClipSource):
    """The Weizmann videos that are present, named `<person>_<action>`.

    Args:
        root: the folder, with or without a folder per action; None: `clips/weizmann` in the data
            folder.
        persons: whose videos to keep; None: everybody's.
        exclude_persons: whose videos to leave out.
        classes: the actions to keep; None: all.
        exclude: actions to leave out.
        max_clips: at most so many videos, spread evenly over the actions.

    Raises:
        DataError: videos are missing, or none is left.
        UnknownNameError: no such action or person.
    """

    def __init__(
        self,
        root: PathLike | None = None,
        persons: Sequence[str] | None = None,
        exclude_persons: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        max_clips: int | None = None,
    ) -> None:
        for name in (*(persons or ()), *(exclude_persons or ())):
            if name not in PERSONS:
                raise UnknownNameError("Weizmann person", name, PERSONS)
        whose = set(PERSONS if persons is None else persons) - set(exclude_persons or ())
        files = []
        for video in find_videos(data_path("clips", "weizmann") if root is None else root):
            match = NAME.fullmatch(video.stem)
            if match and match["person"].lower() in whose:
                files.append(ClipFile(video, ACTIONS.index(match["action"].lower()), video.stem))
        super().__init__(
            choose(files, ACTIONS, "Weizmann", only=classes, exclude=exclude, max_clips=max_clips), ACTIONS
        )

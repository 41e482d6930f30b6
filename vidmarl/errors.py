"""The errors of vidmarl."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class VidmarlError(Exception):
    """Base of every error that vidmarl raises on purpose.

    Attributes:
        result: what an attack had found when this was raised, see `vidmarl.attacks.Attack`; else
            None.
    """

    result: Any = None


class VictimError(VidmarlError):
    """The victim gave scores that cannot be used, or raised while it was asked."""


class BudgetError(VidmarlError):
    """A clip was sent to the victim with none of its query budget left: a fault of the attack,
    never of its user."""


class ClipError(VidmarlError, ValueError):
    """A clip, or the file it comes from, cannot be used as it is."""


class DistortionError(VidmarlError, ValueError):
    """A distortion raised, or gave something else than finite clips."""


class DataError(VidmarlError, FileNotFoundError):
    """A data file or folder that was asked for is not there."""


class CheckpointError(VidmarlError):
    """A checkpoint is damaged, or belongs to another version or to other software."""


class SettingsError(VidmarlError, TypeError):
    """A setting that does not exist, or one that is missing."""


class UnknownNameError(VidmarlError, KeyError):
    """A name that nothing is known by; the message offers the nearest known names.

    Args:
        kind: what was looked for, such as "attack".
        name: the name.
        known: the names that there are.
        lacking: what there is not.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], lacking: str = "none of that name") -> None:
        super().__init__(f"Looked up the {kind} {name!r}: there is {lacking}; {nearest(name, known)}")

    def __str__(self) -> str:  # KeyError would show the message as a quoted repr
        return str(self.args[0])


def nearest(name: str, known: Iterable[str]) -> str:
    """The part of a message that helps after a misspelling: the nearest known names, or else all of
    them."""
    known = sorted(set(known))
    folded: dict[str, list[str]] = {}
    for candidate in known:
        folded.setdefault(candidate.casefold(), []).append(candidate)
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.4)
    if near:
        return f"did you mean {' or '.join(n for key in near for n in folded[key])}?"
    return f"known are: {', '.join(known)}." if known else "none are known."

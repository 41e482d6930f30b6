"""The errors of vidmarl, and the one helper for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VidmarlError(Exception):
    """Base of every error that vidmarl raises on purpose."""


class VictimError(VidmarlError):
    """The victim gave scores that cannot be used, or raised while it was asked."""


class BudgetError(VidmarlError):
    """A clip was sent to the victim with none of its query budget left: a fault of the attack,
    never of its user."""


class ClipError(VidmarlError, ValueError):
    """A clip, or the file it comes from, cannot be used as it is."""


class DataError(VidmarlError, FileNotFoundError):
    """A data file or folder that was asked for is not there."""


class CheckpointError(VidmarlError):
    """A checkpoint is damaged, or belongs to another version or to other software."""


class UnknownNameError(VidmarlError, KeyError):
    """A name that nothing is known by; the message offers the nearest known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        offer = f"did you mean {' or '.join(near)}?" if near else f"known are: {', '.join(known)}."
        super().__init__(f"Looked up the {kind} {name!r}: there is none of that name; {offer}")

    def __str__(self) -> str:  # KeyError would show the message as a quoted repr
        return str(self.args[0])

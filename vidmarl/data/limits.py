"""How large a frame may be: small files can claim any size."""

from __future__ import annotations

import os

from vidmarl.errors import ClipError

MAX_PIXELS = 2**25
"""Pixels of a frame, decoded or scaled: an 8K frame has a few less. The environment variable
VIDMARL_MAX_PIXELS sets another bound."""


def max_pixels() -> int:
    """The bound in force.

    Raises:
        ValueError: the environment variable holds no whole number above 0.
    """
    bound = os.environ.get("VIDMARL_MAX_PIXELS", "").strip() or str(MAX_PIXELS)
    if not bound.isdecimal() or int(bound) < 1:
        raise ValueError(f"VIDMARL_MAX_PIXELS must be a whole number of pixels above 0, got {bound!r}.")
    return int(bound)


def check_pixels(pixels: int, doing: str) -> None:
    """Raises a ClipError if a frame has more pixels than allowed; `doing` says what for."""
    if pixels > max_pixels():
        raise ClipError(
            f"{doing} takes {pixels:,} px a frame, and {max_pixels():,} are allowed. If the file can be trusted, raise"
            " the bound with the environment variable VIDMARL_MAX_PIXELS."
        )

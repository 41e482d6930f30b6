"""Corruptions: what happens to videos without anybody's ill will, a family a file.

They are whole-clip relatives of `vidmarl.distortions`, which attacks apply region by region, and
are made of these wherever one fits. The severities are those of the literature, named with each.
What the papers do to the video file before frames are sampled from it happens here to the clip as
the victim gets it, so that no two victims differ in anything but what they see.

A new family is a file with functions under `corruption`, and an import here.
"""

from collections.abc import Iterable

from vidmarl.audit.corruptions import blur, camera, digital, light, noise, temporal
from vidmarl.audit.corruptions.base import FOUND, SEVERITIES, Corruption
from vidmarl.errors import UnknownNameError

__all__ = ["CORRUPTIONS", "FAMILIES", "SEVERITIES", "Corruption", "choose", "list_corruptions"]

FAMILIES = tuple(module.FAMILY for module in (noise, blur, digital, temporal, camera, light))

CORRUPTIONS = {one.name: one for one in sorted(FOUND, key=lambda one: FAMILIES.index(one.family))}
"""All corruptions by name, family after family."""


def list_corruptions() -> list[str]:
    """The names of all corruptions, family after family."""
    return list(CORRUPTIONS)


def choose(names: Iterable[str] | None) -> list[Corruption]:
    """Corruptions by their names or those of their families, each once; None: all.

    Raises:
        UnknownNameError: there is no corruption and no family of a name.
    """
    if names is None:
        return list(CORRUPTIONS.values())
    wanted = list(names)
    for name in wanted:
        if name not in CORRUPTIONS and name not in FAMILIES:
            raise UnknownNameError("corruption", name, [*FAMILIES, *CORRUPTIONS])
    return [one for one in CORRUPTIONS.values() if one.name in wanted or one.family in wanted]

"""Networks that take clips of one shape only."""

from __future__ import annotations

from vidmarl.data.spec import ClipSpec


def check_shape(name: str, wanted: ClipSpec, made_for: ClipSpec) -> None:
    """Raises a ValueError unless a victim whose classifier is made for one shape of clips gets
    them.

    Args:
        name: of the victim.
        wanted: the spec that was asked for.
        made_for: a spec of the right number of frames and size; None frames are any.
    """
    frames = made_for.frames or wanted.frames
    if (wanted.frames, wanted.size) != (frames, made_for.size):
        raise ValueError(
            f"Making the victim {name!r}: its classifier is made for {frames} frames of {made_for.size} px, got a spec"
            f" of {wanted.frames} frames of {wanted.size} px. Leave out the spec, or take another victim."
        )

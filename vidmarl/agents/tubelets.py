"""How long a tubelet of the agents lasts, its sign, and how that goes on in time."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

WIDTHS = (1, 2, 4, 8, 16)
"""How many frames a tubelet may last."""


def lengths(frames: int, longest: int) -> int:
    """How many of `WIDTHS`, from the first on, tubelets may last in a clip.

    Args:
        frames: of the clip.
        longest: frames that a tubelet lasts at most.
    """
    return sum(width <= min(frames, longest) for width in WIDTHS)


def random_signs(uniform: Float[Tensor, "*n"], low: float) -> Float[Tensor, "*n"]:
    """The directions that these uniform numbers in [0, 1) stand for, 1 or -1.

    Args:
        uniform: the numbers.
        low: the smallest strength; above -1 a distortion has one direction, and all are 1.
    """
    return torch.where((uniform < 0.5) & (low < 0), -1.0, 1.0)


def lasting(
    frame: Int64[Tensor, "*n"], width: Int64[Tensor, "*#n"], frames: int, *, alternate: bool
) -> Float[Tensor, "*n t"]:
    """The course of a tubelet in time: 1 or -1 in the frames in which it lasts, 0 in the others.

    With width w it lasts from w // 2 frames before its frame to (w - 1) // 2 after it, cut at the
    clip's ends.

    Args:
        frame: which frame it is centred in.
        width: index in `WIDTHS` of how many frames it lasts.
        frames: of the clip.
        alternate: whether its direction turns from frame to frame. A pattern that is held fools few
            victims, one that turns fools most (docs/experiments.md).
    """
    last = torch.tensor(WIDTHS, device=width.device)[width][..., None]
    offset = torch.arange(frames, device=frame.device) - frame[..., None]
    lasts = (offset >= -(last // 2)) & (offset <= (last - 1) // 2)
    return (lasts * (1 - 2 * (offset % 2) if alternate else 1)).float()

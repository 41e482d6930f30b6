"""Temporal: frames that are missing, stand still or come in another order.

The papers do this to the whole video; here it happens to the frames that the victim gets.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.audit.corruptions.base import UCF101_P, corruption

FAMILY = "temporal"

OF_CLIP = f"{UCF101_P}; the steps are of frames of the clip, where the paper's are of the video"

Clip = Float[Tensor, "3 t h w"]


@corruption(FAMILY, UCF101_P, "frames for which one is shown", (2, 4, 8, 16, 32))
def sampling(clip: Clip, hold: int, rng: torch.Generator) -> Clip:
    """A lower frame rate: every n-th frame, shown n times."""
    return clip[:, torch.arange(clip.shape[1]) // hold * hold]


@corruption(FAMILY, UCF101_P, "frames for which one is shown", (2, 4, 8, 16, 32))
def reverse_sampling(clip: Clip, hold: int, rng: torch.Generator) -> Clip:
    """A lower frame rate, played backwards."""
    return sampling(clip, hold, rng).flip(1)


@corruption(FAMILY, OF_CLIP, "frames that change places", (2, 4, 8, 16, 32))
def jumble(clip: Clip, reach: int, rng: torch.Generator) -> Clip:
    """Frames in random order, within segments of n frames."""
    parts = torch.arange(clip.shape[1]).split(reach)
    return clip[:, torch.cat([part[torch.randperm(len(part), generator=rng)] for part in parts])]


@corruption(FAMILY, OF_CLIP, "segments that change places", (2, 4, 8, 16, 32))
def box_jumble(clip: Clip, count: int, rng: torch.Generator) -> Clip:
    """Segments in random order, the frames of each in theirs."""
    parts = torch.arange(clip.shape[1]).tensor_split(min(count, clip.shape[1]))
    order = torch.randperm(len(parts), generator=rng)
    if torch.equal(order, torch.arange(len(parts))):
        order = order.roll(1)  # two segments would stay where they are half the time
    return clip[:, torch.cat([parts[i] for i in order.tolist()])]


@corruption(FAMILY, UCF101_P, "share of the frames that are left", (0.4, 0.2, 0.1, 0.05, 0.025))
def freeze(clip: Clip, share: float, rng: torch.Generator) -> Clip:
    """Frames at random, each shown until the next one."""
    t = clip.shape[1]
    kept = torch.randperm(t, generator=rng)[: max(1, int(share * t))].sort().values
    last = torch.searchsorted(kept, torch.arange(t), right=True) - 1
    return clip[:, kept[last.clamp_min(0)]]

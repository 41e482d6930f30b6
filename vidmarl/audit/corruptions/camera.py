"""Camera motion: a camera that is tilted, that turns, that shakes."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.audit.corruptions.base import UCF101_P, corruption, scaled, uniform

FAMILY = "camera motion"

Clip = Float[Tensor, "3 t h w"]


@corruption(FAMILY, UCF101_P, "degrees", (7.5, 15, 30, 45, 90))
def static_rotation(clip: Clip, angle: float, rng: torch.Generator) -> Clip:
    """The whole clip turned; black around it."""
    return _turned(clip, torch.full((clip.shape[1],), float(angle)))


@corruption(FAMILY, UCF101_P, "degrees at most, to either side", (6, 12, 18, 24, 30))
def dynamic_rotation(clip: Clip, most: float, rng: torch.Generator) -> Clip:
    """Every frame turned by an angle of its own; black around it."""
    return _turned(clip, most * (2 * torch.rand(clip.shape[1], generator=rng) - 1))


@corruption(FAMILY, UCF101_P, "px at most, at a short side of 256", (8, 16, 24, 32, 40))
def translation(clip: Clip, most: float, rng: torch.Generator) -> Clip:
    """Every frame moved by a step of its own, both ways; its border repeated."""
    from kornia.geometry.transform import translate

    step = scaled(most, clip) * (uniform((clip.shape[1], 2), rng, clip) - 0.5)
    frames: Tensor = translate(rearrange(clip, "c t h w -> t c h w"), step, padding_mode="border")
    return rearrange(frames, "t c h w -> c t h w")


def _turned(clip: Clip, angles: Float[Tensor, " t"]) -> Clip:
    from kornia.geometry.transform import rotate

    frames: Tensor = rotate(rearrange(clip, "c t h w -> t c h w"), angles.to(clip.device))
    return rearrange(frames, "t c h w -> c t h w")

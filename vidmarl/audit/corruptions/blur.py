"""Blur: of a lens out of focus, of a camera that moves, of one that zooms."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.audit.corruptions.base import UCF101_P, corruption, scaled, uniform
from vidmarl.distortions.defocus_blur import defocus_blur as defocus
from vidmarl.distortions.motion_blur import motion_blur as smear
from vidmarl.distortions.zoom_blur import zoom_blur as zoom

FAMILY = "blur"

Clip = Float[Tensor, "3 t h w"]


@corruption(FAMILY, UCF101_P, "radius of the disc, px at a short side of 256", (3, 4, 6, 8, 10))
def defocus_blur(clip: Clip, radius: float, rng: torch.Generator) -> Clip:
    """Every point becomes a disc."""
    return defocus(clip[None], scaled(radius, clip))[0]


@corruption(FAMILY, UCF101_P, "length of the line, px at a short side of 256", (6.5, 10.6, 14.0, 15.3, 19.9))
def motion_blur(clip: Clip, length: float, rng: torch.Generator) -> Clip:
    """Every point becomes a line, in a direction of at most 45 degrees from the horizontal.

    The paper's kernel is half a Gaussian, cut off; the line here has its standard deviation.
    """
    angle = 90 * uniform((1,), rng, clip) - 45
    return smear(clip[None], scaled(length, clip), angle)[0]


@corruption(FAMILY, UCF101_P, "largest zoom", (1.10, 1.15, 1.20, 1.24, 1.30))
def zoom_blur(clip: Clip, largest: float, rng: torch.Generator) -> Clip:
    """The mean over zooms into the middle of the frame."""
    return zoom(clip[None], largest)[0]

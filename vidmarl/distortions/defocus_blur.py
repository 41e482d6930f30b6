"""Defocus: a lens out of focus, which draws every point as a disc."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import bounded
from vidmarl.distortions.ladder import Ladder


def disc(radius: float, device: torch.device) -> Float[Tensor, "k k"]:
    """A disc as a convolution kernel of sum 1, its edge as soft as a pixel is wide.

    Args:
        radius: px.
        device: where the kernel is made.
    """
    reach = math.ceil(radius)
    pixel = torch.arange(-reach, reach + 1, device=device)
    inside = (radius + 0.5 - torch.hypot(pixel[:, None].float(), pixel.float())).clamp(0, 1)
    return inside / inside.sum()


def defocus_blur(clips: Float[Tensor, "b 3 t h w"], radius: float) -> Float[Tensor, "b 3 t h w"]:
    """Averages over a disc around every pixel; the border's pixels are repeated beyond it.

    Args:
        clips: float32[b 3 t h w].
        radius: of the disc, px.
    """
    from kornia.filters import filter2d

    frames = rearrange(clips, "b c t h w -> (b t) c h w")
    blurred = filter2d(frames, disc(radius, clips.device)[None], border_type="replicate")
    return rearrange(blurred, "(b t) c h w -> b c t h w", b=len(clips))


class DefocusBlur(Ladder):
    """Defocus whose disc grows with the strength.

    Args:
        radius: of the disc at strength 1, px, 1 to 64.
    """

    def __init__(self, radius: float = 3.0) -> None:
        super().__init__()
        bounded(self, radius=(radius, 1, 64))
        self.radius = radius

    def at(self, strength: float, clips: Tensor, noise: Tensor) -> Tensor:
        return defocus_blur(clips, self.radius * strength)

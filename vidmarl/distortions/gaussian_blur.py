"""Defocus: every frame blurred by a Gaussian."""

from __future__ import annotations

import math

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import bounded
from vidmarl.distortions.ladder import Ladder


def gaussian_blur(clips: Float[Tensor, "b 3 t h w"], sigma: float) -> Float[Tensor, "b 3 t h w"]:
    """Convolves every frame with a Gaussian, cut at three sigma; the border's pixels are repeated beyond it.

    Args:
        clips: float32[b 3 t h w].
        sigma: standard deviation of the Gaussian in px.
    """
    from kornia.filters import gaussian_blur2d

    side = 2 * math.ceil(3 * sigma) + 1
    frames = rearrange(clips, "b c t h w -> (b t) c h w")
    blurred = gaussian_blur2d(frames, (side, side), (sigma, sigma), border_type="replicate")
    return rearrange(blurred, "(b t) c h w -> b c t h w", b=len(clips))


class GaussianBlur(Ladder):
    """Gaussian blur whose sigma grows with the strength.

    Args:
        sigma: standard deviation of the Gaussian at strength 1, in px.
    """

    def __init__(self, sigma: float = 2.0) -> None:
        super().__init__()
        bounded(self, sigma=(sigma, 0, math.inf))
        self.sigma = sigma

    def at(self, strength: float, clips: Tensor, noise: Tensor) -> Tensor:
        return gaussian_blur(clips, self.sigma * strength)

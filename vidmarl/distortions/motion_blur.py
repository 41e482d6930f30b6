"""Motion blur: every frame smeared along a straight line, as by a moving camera."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import bounded, uniforms
from vidmarl.distortions.ladder import Ladder


def line_kernel(length: float, angle: Float[Tensor, " b"]) -> Float[Tensor, "b k k"]:
    """The mean over a line of `length` px centred on the pixel, as a convolution kernel of sum 1.

    The line is sampled eight times a pixel, and every sample is shared between the four pixels
    around it (bilinear).

    Args:
        length: px.
        angle: direction of the line, degrees counter-clockwise from the right.
    """
    radius = math.ceil(length / 2) + 1
    along = torch.linspace(-length / 2, length / 2, 8 * math.ceil(length) + 1, device=angle.device)
    angle = angle.deg2rad()[:, None]
    pixel = torch.arange(-radius, radius + 1, device=angle.device)
    x = (1 - (along * angle.cos() - pixel[:, None, None]).abs()).clamp_min(0)
    y = (1 - (-along * angle.sin() - pixel[:, None, None]).abs()).clamp_min(0)
    return torch.einsum("ybs,xbs->byx", y, x) / len(along)


def motion_blur(
    clips: Float[Tensor, "b 3 t h w"], length: float, angle: Float[Tensor, " b"]
) -> Float[Tensor, "b 3 t h w"]:
    """Averages every frame along a line; the border's pixels are repeated beyond it.

    Args:
        clips: float32[b 3 t h w].
        length: of the line, px.
        angle: direction of the line in each clip, degrees counter-clockwise from the right.
    """
    from kornia.filters import filter2d

    kernels = repeat(line_kernel(length, angle), "b y x -> (b t) y x", t=clips.shape[2])
    blurred = filter2d(rearrange(clips, "b c t h w -> (b t) c h w"), kernels, border_type="replicate")
    return rearrange(blurred, "(b t) c h w -> b c t h w", b=len(clips))


class MotionBlur(Ladder):
    """Motion blur whose length grows with the strength.

    Args:
        length: of the smear at strength 1, px, 0.01 to 256.
        angle: its direction, degrees counter-clockwise from the right, -360 to 360; None
            draws one for each clip.
    """

    def __init__(self, length: float = 13.0, angle: float | None = None) -> None:
        super().__init__()
        bounded(self, length=(length, 0.01, 256), angle=(angle, -360, 360))
        self.length = length
        self.angle = angle

    def at(self, strength: float, clips: Tensor, noise: Tensor) -> Tensor:
        drawn = 180 * uniforms(noise, 1).squeeze(1)
        angle = drawn if self.angle is None else torch.full_like(drawn, self.angle)
        return motion_blur(clips, self.length * strength, angle)

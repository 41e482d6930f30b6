"""Fog: banks of white that veil the picture and take its contrast."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded, uniforms


def plasma(numbers: Float[Tensor, "b n"], h: int, w: int, smoothness: float) -> Float[Tensor, "b 1 1 h w"]:
    """Clouds in [0, 1]: random heights on ever finer grids, each finer one `smoothness` times as
    flat (fractional Brownian motion; Mandelbrot and Van Ness 1968).

    Args:
        numbers: uniform in [0, 1); as many as the grids have points are used, at most the first
            `h w` for each.
        h: height of the frame, px.
        w: width of the frame, px.
        smoothness: at least 1.
    """
    total = numbers.new_zeros(len(numbers), 1, h, w)
    cells, weight = 2, 1.0
    while cells <= 2 * max(h, w):
        rows, columns = (min(cells, size) for size in (h, w))
        heights = rearrange(numbers[:, : rows * columns].roll(cells, 1), "b (y x) -> b 1 y x", y=rows)
        total += weight * F.interpolate(heights, (h, w), mode="bilinear", align_corners=True)
        cells, weight = 2 * cells, weight / smoothness
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    return ((total - low) / (high - low).clamp_min(1e-6))[:, :, None]


def fog(
    clips: Float[Tensor, "n 3 t h w"],
    strength: Float[Tensor, "n 1 t h w"],
    banks: Float[Tensor, "n 1 1 h w"],
    thickness: float,
) -> Float[Tensor, "n 3 t h w"]:
    """Adds the banks, and brings the sum back into the range of the clip: `(clip + k banks) m / (m
    + k)` with `k = strength * thickness` and `m` the clip's largest value.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        strength: in [0, 1].
        banks: in [0, 1], see `plasma`.
        thickness: of the fog at strength 1; at 1 a bank is as light as white.
    """
    most = clips.amax((1, 2, 3, 4), keepdim=True).clamp_min(1 / 255)
    amount = strength * thickness
    return (clips + amount * banks) * most / (most + amount)


class Fog(Distortion):
    """Fog that stands still, with banks of its own in each clip.

    Args:
        thickness: of the fog at strength 1, 0.05 to 10; at 1 a bank is as light as white.
        smoothness: how much flatter the banks are at half their size, 1 to 10.
    """

    def __init__(self, thickness: float = 1.5, smoothness: float = 2.0) -> None:
        super().__init__()
        bounded(self, thickness=(thickness, 0.05, 10), smoothness=(smoothness, 1, 10))
        self.thickness = thickness
        self.smoothness = smoothness

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        h, w = clips.shape[-2:]
        return {"banks": plasma(uniforms(noise, h * w), h, w, self.smoothness)}

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return fog(clips, strength, state["banks"], self.thickness)

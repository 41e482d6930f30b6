"""Glare: a lamp or the sun shines into the lens and veils the picture around it."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded, uniforms


def veil(centre: Float[Tensor, "b 2"], radius: float, h: int, w: int) -> Float[Tensor, "b 1 1 h w"]:
    """The light that a lamp spreads over the frame, 1 at the lamp.

    Stray light falls with the square of the distance, as in the Stiles-Holladay formula of
    disability glare, made
    finite at the lamp: `1 / (1 + (distance / radius)^2)`.

    Args:
        centre: position of the lamp (x, y), px.
        radius: distance at which half of the light is left, px.
        h: height of the frame, px.
        w: width of the frame, px.
    """
    dx = torch.arange(w, device=centre.device) - centre[:, 0, None]
    dy = torch.arange(h, device=centre.device) - centre[:, 1, None]
    squared = dy.square()[:, :, None] + dx.square()[:, None, :]
    return rearrange(1 / (1 + squared / radius**2), "b h w -> b 1 1 h w")


def glare(
    clips: Float[Tensor, "n 3 t h w"],
    strength: Float[Tensor, "n 1 t h w"],
    light: Float[Tensor, "n 1 1 h w"],
    peak: float,
) -> Float[Tensor, "n 3 t h w"]:
    """Mixes white in: `clip + strength * peak * light * (1 - clip)`.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        strength: in [0, 1].
        light: in [0, 1], see `veil`.
        peak: share of white at the lamp at strength 1.
    """
    return clips.addcmul(strength * light, 1 - clips, value=peak)


class Glare(Distortion):
    """A lamp at a place of its own in each clip; it stands still, because lamps do, whatever the
    noise does.

    Args:
        peak: share of white at the lamp at strength 1, in [0.01, 1].
        radius: distance from the lamp at which half of the light is left, px, 0.01 to 100,000.
    """

    def __init__(self, peak: float = 0.9, radius: float = 32.0) -> None:
        super().__init__()
        bounded(self, peak=(peak, 0.01, 1), radius=(radius, 0.01, 100_000))
        self.peak = peak
        self.radius = radius

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        h, w = clips.shape[-2:]
        centre = uniforms(noise, 2) * clips.new_tensor([w - 1, h - 1])
        return {"light": veil(centre, self.radius, h, w)}

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return glare(clips, strength, state["light"], self.peak)

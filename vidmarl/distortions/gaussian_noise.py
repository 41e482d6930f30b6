"""Sensor noise: additive, Gaussian, independent between pixels and channels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded


def gaussian_noise(
    clips: Float[Tensor, "n 3 t h w"],
    strength: Float[Tensor, "n 1 t h w"],
    noise: Float[Tensor, "n 3 t h w"],
    std: float,
) -> Float[Tensor, "n 3 t h w"]:
    """`clip + std * strength * noise`.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        strength: in [-1, 1].
        noise: standard normal.
        std: standard deviation at strength 1, in [0, 1] pixels.
    """
    return clips.addcmul(strength, noise, value=std)


class GaussianNoise(Distortion):
    """Gaussian noise; a negative strength is the same pattern negated.

    Args:
        std: standard deviation at strength 1, in [0, 1] pixels; 1/255, one 8-bit level, to 10.
    """

    signed = True

    def __init__(self, std: float = 0.1) -> None:
        super().__init__()
        bounded(self, std=(std, 1 / 255, 10))
        self.std = std

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return gaussian_noise(clips, strength, state["noise"], self.std)

"""Speckle noise: multiplicative, Gaussian, as of coherent light or of a sensor's gain."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded


def speckle_noise(
    clips: Float[Tensor, "n 3 t h w"],
    strength: Float[Tensor, "n 1 t h w"],
    noise: Float[Tensor, "n 3 t h w"],
    std: float,
) -> Float[Tensor, "n 3 t h w"]:
    """`clip * (1 + std * strength * noise)`.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        strength: in [-1, 1].
        noise: standard normal.
        std: standard deviation at strength 1, as a share of each value.
    """
    return clips.addcmul(strength * clips, noise, value=std)


class SpeckleNoise(Distortion):
    """Noise that is the stronger the lighter the pixel; a negative strength is the same pattern
    negated.

    Args:
        std: standard deviation at strength 1, as a share of each value, 0.01 to 10.
    """

    signed = True

    def __init__(self, std: float = 0.2) -> None:
        super().__init__()
        bounded(self, std=(std, 0.01, 10))
        self.std = std

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return speckle_noise(clips, strength, state["noise"], self.std)

"""Dead pixels: single pixels of the sensor that are stuck at black or at white."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded


def dead_pixels(
    clips: Float[Tensor, "n 3 t h w"],
    strength: Float[Tensor, "n 1 t h w"],
    rank: Float[Tensor, "n 1 t h w"],
    hot: Bool[Tensor, "n 1 t h w"],
    rate: float,
) -> Float[Tensor, "n 3 t h w"]:
    """A pixel whose rank is below `rate * strength` is white where `hot`, else black.

    So the pixels dead at a small strength are dead at every larger one too.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        strength: in [0, 1].
        rank: uniform in [0, 1].
        hot: which way a pixel fails.
        rate: fraction of the pixels that are dead at strength 1.
    """
    return torch.where(rank < rate * strength, hot.to(clips.dtype), clips)


class DeadPixels(Distortion):
    """Dead pixels; the same ones in every frame where the noise is held still.

    Args:
        rate: fraction of the pixels that are dead at strength 1, in [1e-6, 1].
    """

    def __init__(self, rate: float = 0.03) -> None:
        super().__init__()
        bounded(self, rate=(rate, 1e-6, 1))
        self.rate = rate

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        return {"rank": torch.special.ndtr(noise[:, :1]), "hot": noise[:, 1:2] > 0}

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return dead_pixels(clips, strength, state["rank"], state["hot"], self.rate)

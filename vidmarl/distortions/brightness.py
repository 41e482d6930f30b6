"""Brightness: exposure drifts, everything lighter or darker by the same amount."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded


def brightness(
    clips: Float[Tensor, "n 3 t h w"], strength: Float[Tensor, "n 1 t h w"], shift: float
) -> Float[Tensor, "n 3 t h w"]:
    """`clip + strength * shift`.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        strength: in [-1, 1].
        shift: at strength 1, in [0, 1] pixels.
    """
    return clips + strength * shift


class Brightness(Distortion):
    """Lighter, or with a negative strength darker.

    Args:
        shift: at strength 1, in [0, 1] pixels; at least 1/255, one 8-bit level.
    """

    signed = True

    def __init__(self, shift: float = 0.2) -> None:
        super().__init__()
        bounded(self, shift=(shift, 1 / 255, 1))
        self.shift = shift

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        return {}

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return brightness(clips, strength, self.shift)

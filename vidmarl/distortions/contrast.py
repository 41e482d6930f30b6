"""Contrast: the distance of every value from the clip's mean grey, stretched or shrunk."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded


def contrast(
    clips: Float[Tensor, "n 3 t h w"],
    strength: Float[Tensor, "n 1 t h w"],
    pivot: Float[Tensor, "n 1 1 1 1"],
    gain: float,
) -> Float[Tensor, "n 3 t h w"]:
    """`clip + strength * gain * (clip - pivot)`.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        strength: in [-1, 1].
        pivot: the grey that stays as it is.
        gain: change of the contrast at strength 1, as a fraction; at 1, strength -1 leaves nothing
            but the pivot.
    """
    return clips.addcmul(strength, clips - pivot, value=gain)


class Contrast(Distortion):
    """More contrast, or with a negative strength less. The pivot is one for the whole clip, so that
    nothing flickers.

    Args:
        gain: change of the contrast at strength 1, as a fraction in [0.01, 1].
    """

    signed = True

    def __init__(self, gain: float = 0.6) -> None:
        super().__init__()
        bounded(self, gain=(gain, 0.01, 1))
        self.gain = gain

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        return {"pivot": clips.mean(dim=(1, 2, 3, 4), keepdim=True)}

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return contrast(clips, strength, state["pivot"], self.gain)

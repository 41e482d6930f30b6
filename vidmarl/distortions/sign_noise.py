"""Sign noise: every value moves by the same amount, up or down, inside an Linf ball: the bounded
track."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded


def whole_levels(epsilon: float) -> float:
    """The largest k/255 that is no larger than `epsilon`."""
    return math.floor(epsilon * 255 + 1e-6) / 255


def sign_noise(
    clips: Float[Tensor, "n 3 t h w"],
    strength: Float[Tensor, "n 1 t h w"],
    noise: Float[Tensor, "n 3 t h w"],
    epsilon: float,
) -> Float[Tensor, "n 3 t h w"]:
    """`clip + strength * whole_levels(epsilon) * sign(noise)`.

    A clip is stored in 8 bits. 12.75/255 would be rounded to 13/255 and leave the ball, so the
    largest step is a whole number of levels, here 12/255: then `|distorted - clip| <= epsilon`
    holds after rounding too, at every strength.

    Args:
        clips: float32[n 3 t h w] in [0, 1], 8-bit values.
        strength: in [-1, 1].
        noise: any pattern whose sign is as often positive as negative.
        epsilon: radius of the Linf ball in [0, 1] pixels.
    """
    return clips.addcmul(strength, noise.sign(), value=whole_levels(epsilon))


class SignNoise(Distortion):
    """A random sign pattern in an Linf ball; a negative strength is the same pattern negated.

    Args:
        epsilon: radius of the ball in [0, 1] pixels, at least 1/255. The default is
            that of V-BAD, SVA, EARL and AstFocus.
    """

    signed = True

    def __init__(self, epsilon: float = 12.75 / 255) -> None:
        super().__init__()
        bounded(self, epsilon=(epsilon, 1 / 255, 1))
        self.epsilon = epsilon

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return sign_noise(clips, strength, state["noise"], self.epsilon)

"""Attacks on pixels inside an Linf ball, where most earlier work on video lives: the bounded track.

They share the ball, and the search of each ends at the first success; each attack is a file of its
own.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Float
from torch import Tensor

from vidmarl.attacks.base import Attack, DistortionLike
from vidmarl.distortions.sign_noise import SignNoise, whole_levels


class BallAttack(Attack):
    """An attack on pixels in an Linf ball.

    A subclass writes `search`, which yields `Pixels`, runs on the device of the clips, and ends at
    the first success. The grid, the search cells and the coherence only shape the strength map of
    the result.

    Args:
        distortion: `SignNoise` or `SignBands`, whose epsilon is the ball's radius; the pattern is
            not used. A failure has the norm of a corner of the ball.

    Raises:
        TypeError: the distortion is another one: these attacks choose the pixels by themselves.
    """

    distortion: DistortionLike = dataclasses.field(default="sign_noise", kw_only=False)
    needs_scores = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.distortion, SignNoise):
            raise TypeError(
                f"{type(self).__name__} chooses every pixel inside an Linf ball, so its distortion must be"
                f" 'sign_noise' or 'sign_bands', whose epsilon is the ball's radius; got {self.distortion}."
            )

    @property
    def epsilon(self) -> float:
        """The radius that 8 bits leave of the ball's: 12/255 for 12.75/255."""
        assert isinstance(self.distortion, SignNoise)  # checked when it was made
        return whole_levels(self.distortion.epsilon)

    def project(
        self, candidates: Float[Tensor, "*n 3 t h w"], clip: Float[Tensor, "3 t h w"]
    ) -> Float[Tensor, "*n 3 t h w"]:
        """The nearest clips that lie in the ball around `clip` and in [0, 1]."""
        return candidates.clamp(clip - self.epsilon, clip + self.epsilon).clamp(0, 1)

"""Distortions whose strength is a parameter (a blur's width, a codec's quality) and no cross-fade.

Such a parameter differs from pixel to pixel when it follows a strength map, which no filter or
codec can do. So the clip is distorted at a few strengths once, the rungs, and every pixel lies
between the two rungs next to its strength.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl.distortions.base import Distortion, State

RUNGS = (0.25, 0.5, 0.75, 1.0)


def climb(
    clips: Float[Tensor, "n 3 t h w"], rungs: UInt8[Tensor, "n k 3 t h w"], strength: Float[Tensor, "n 1 t h w"]
) -> Float[Tensor, "n 3 t h w"]:
    """Linear interpolation per pixel: the clip at strength 0, `rungs[:, i]` at strength `(i + 1) /
    k`.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        rungs: 8-bit values, uint8[n k 3 t h w].
        strength: in [0, 1], float32[n 1 t h w].
    """
    height = strength * rungs.shape[1]
    out = clips * (1 - height).clamp_min(0)
    for i, rung in enumerate(rungs.unbind(1), start=1):
        weight = (1 - (height - i).abs()).clamp_min(0)
        if weight.any():  # strength maps are sparse and often 0 or 1: most rungs are not needed
            out.addcmul_(weight, rung, value=1 / 255)
    return out


class Ladder(Distortion):
    """A one-sided distortion that is computed for whole clips at the strengths `RUNGS`, see
    `climb`."""

    @abstractmethod
    def at(
        self, strength: float, clips: Float[Tensor, "b 3 t h w"], noise: Float[Tensor, "b 3 t h w"]
    ) -> Float[Tensor, "b 3 t h w"]:
        """The clips distorted everywhere at one strength in (0, 1]."""

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        rungs = [(self.at(rung, clips, noise).clamp(0, 1) * 255).round().to(torch.uint8) for rung in RUNGS]
        return {"rungs": torch.stack(rungs, dim=1)}

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return climb(clips, state["rungs"], strength)

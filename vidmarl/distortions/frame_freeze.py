"""Frame freeze: the picture lags behind, because a buffer shows what it showed some frames ago."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded


def frame_freeze(
    clips: Float[Tensor, "n 3 t h w"], strength: Float[Tensor, "n 1 t h w"], hold: int
) -> Float[Tensor, "n 3 t h w"]:
    """Blends every frame towards the one `hold` frames earlier, or the first where there is none so
    early.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        strength: share of the earlier frame, in [0, 1].
        hold: frames.
    """
    earlier = (torch.arange(clips.shape[2], device=clips.device) - hold).clamp_min(0)
    return clips.lerp(clips[:, :, earlier], strength)


class FrameFreeze(Distortion):
    """At strength 1 a pixel shows what it showed `hold` frames earlier; the first frame stays as it
    is.

    Args:
        hold: frames, 1 to 10,000.
    """

    def __init__(self, hold: int = 4) -> None:
        super().__init__()
        bounded(self, hold=(hold, 1, 10_000))
        self.hold = hold

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        return {}

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return frame_freeze(clips, strength, self.hold)

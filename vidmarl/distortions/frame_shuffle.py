"""Frame shuffle: frames that arrive in the wrong order, as from a jittering network."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.distortions.base import Distortion, State, bounded, uniforms


def shuffled(keys: Float[Tensor, "b t"], reach: int) -> Int64[Tensor, "b t"]:
    """For every frame, the frame of the same window that is shown in its place: no frame stays
    where it was.

    The frames of a window are put in the order of their keys, and each takes the place of the next
    (a random cycle, as in Sattolo's algorithm). A last window of a single frame has nothing to
    change places with.

    Args:
        keys: random numbers in (0, 1).
        reach: frames per window.
    """
    frame = torch.arange(keys.shape[1], device=keys.device)
    order = (keys + frame // reach).argsort(1)
    following = torch.where((frame + 1) % reach == 0, frame + 1 - reach, frame + 1)
    following[-1] = frame[-1] // reach * reach
    return torch.empty_like(order).scatter_(1, order, order[:, following])


def frame_shuffle(
    clips: Float[Tensor, "n 3 t h w"], strength: Float[Tensor, "n 1 t h w"], source: Int64[Tensor, "n t"]
) -> Float[Tensor, "n 3 t h w"]:
    """Blends every frame towards its source.

    Args:
        clips: float32[n 3 t h w] in [0, 1].
        strength: share of the source, in [0, 1].
        source: for every frame, the frame shown in its place.
    """
    clip = torch.arange(len(clips), device=clips.device)[:, None]
    moved = rearrange(clips, "n c t h w -> n t c h w")[clip, source]
    return clips.lerp(rearrange(moved, "n t c h w -> n c t h w"), strength)


class FrameShuffle(Distortion):
    """At strength 1 every frame shows another one, at most `reach - 1` frames away. The order is
    drawn once per clip.

    Args:
        reach: frames per window within which they change places, 2 to 10,000.
    """

    def __init__(self, reach: int = 4) -> None:
        super().__init__()
        bounded(self, reach=(reach, 2, 10_000))
        self.reach = reach

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        return {"source": shuffled(uniforms(noise, clips.shape[2]), self.reach)}

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return frame_shuffle(clips, strength, state["source"])

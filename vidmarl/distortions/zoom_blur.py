"""Zoom blur: the camera zooms in while the shutter is open."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import bounded
from vidmarl.distortions.ladder import Ladder

STEPS = 11
"""Zooms that are averaged."""


def zoom_blur(clips: Float[Tensor, "b 3 t h w"], largest: float) -> Float[Tensor, "b 3 t h w"]:
    """The mean over zooms into the middle of the frame, from none to the largest.

    Args:
        clips: float32[b 3 t h w].
        largest: zoom, at least 1.
    """
    frames = rearrange(clips, "b c t h w -> (b t) c h w")
    total = torch.zeros_like(frames)
    for zoom in torch.linspace(1, largest, STEPS).tolist():
        place = torch.eye(2, 3, device=clips.device) / zoom
        grid = F.affine_grid(place.expand(len(frames), 2, 3), list(frames.shape), align_corners=False)
        total += F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
    return rearrange(total / STEPS, "(b t) c h w -> b c t h w", b=len(clips))


class ZoomBlur(Ladder):
    """Zoom blur whose largest zoom grows with the strength.

    Args:
        largest: zoom at strength 1, 1.01 to 4.
    """

    def __init__(self, largest: float = 1.2) -> None:
        super().__init__()
        bounded(self, largest=(largest, 1.01, 4))
        self.largest = largest

    def at(self, strength: float, clips: Tensor, noise: Tensor) -> Tensor:
        return zoom_blur(clips, 1 + (self.largest - 1) * strength)

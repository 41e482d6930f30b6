"""JPEG: the blocks and colour bleeding of strong compression, by a real codec (libjpeg, through
OpenCV)."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.distortions.base import bounded
from vidmarl.distortions.ladder import Ladder


def jpeg(clips: Float[Tensor, "b 3 t h w"], quality: int) -> Float[Tensor, "b 3 t h w"]:
    """Encodes and decodes every frame.

    Args:
        clips: float32[b 3 t h w] in [0, 1].
        quality: of libjpeg, 1 to 100.
    """
    import cv2

    frames = (rearrange(clips, "b c t h w -> b t h w c").flip(-1) * 255).round().to(torch.uint8).cpu().numpy()
    decoded = np.empty_like(frames)
    for place in np.ndindex(frames.shape[:2]):
        _, stream = cv2.imencode(".jpg", frames[place], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded[place] = cv2.imdecode(stream, cv2.IMREAD_COLOR)
    out = torch.from_numpy(decoded).to(clips.device).flip(-1)
    return rearrange(out, "b t h w c -> b c t h w").float() / 255


def coarser(quality: int, factor: float) -> int:
    """The quality whose quantisation steps are `factor` times those of `quality`.

    libjpeg scales its tables by `5000 / quality` per cent below quality 50, and by `200 - 2
    quality` from there on.
    """
    scale = factor * (5000 / quality if quality < 50 else 200 - 2 * quality)
    return max(1, round(5000 / scale if scale > 100 else 100 - scale / 2))


class JPEG(Ladder):
    """JPEG compression whose quantisation steps grow with the strength.

    Args:
        quality: of libjpeg at strength 1, 1 to 99.
    """

    def __init__(self, quality: int = 10) -> None:
        super().__init__()
        bounded(self, quality=(quality, 1, 99))
        self.quality = quality

    def at(self, strength: float, clips: Tensor, noise: Tensor) -> Tensor:
        return jpeg(clips, coarser(self.quality, strength))

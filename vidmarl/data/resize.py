"""Frames at the size that a spec wants, in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl.data.limits import check_pixels
from vidmarl.data.spec import ClipSpec

_TIE = 1e-6
"""Added before pixels are rounded: halves, which are frequent at simple ratios of sizes, come out a
last bit above or below with another number of threads, and a clip must not depend on that. In
double precision no other value is so near to a half."""


def fit(frame: UInt8[Tensor, "3 h w"], spec: ClipSpec, crop: float = 0.5) -> UInt8[Tensor, "3 H W"]:
    """A frame at `spec.size`: cropped, letterboxed or squashed; untouched where it has that size
    already.

    Args:
        frame: as it was decoded.
        spec: the size, and how it gets there.
        crop: where the crop lies along the axis of which it cuts more: 0 first, 0.5 centred, 1
            last.

    Raises:
        ClipError: it is so long and thin that scaling it takes more pixels than are allowed.
    """
    height, width = spec.size
    h, w = frame.shape[-2:]
    if spec.fit == "squash":
        return resize(frame, (height, width), spec.antialias)
    if spec.fit == "letterbox":
        scale = min(height / h, width / w)
        inner = max(1, int(h * scale + 1e-6)), max(1, int(w * scale + 1e-6))  # rounded down, but for a float's noise
        frame = resize(frame, inner, spec.antialias)
        below, beside = height - frame.shape[-2], width - frame.shape[-1]
        return F.pad(frame, (beside // 2, beside - beside // 2, below // 2, below - below // 2))
    scale = max(height / h, width / w)
    if spec.short_side is not None:
        scale = max(scale, spec.short_side / min(h, w))
    scaled = max(height, round(h * scale)), max(width, round(w * scale))
    check_pixels(max(h * scaled[1], scaled[0] * width), f"scaling its {h} x {w} px to cover {height} x {width} px")
    taller = scaled[0] - height >= scaled[1] - width
    down, right = (crop, 0.5) if taller else (0.5, crop)
    return resize(frame, scaled, spec.antialias, *window(scaled, spec.size, down, right))


def window(of: Sequence[int], size: tuple[int, int], down: float, right: float) -> tuple[slice, slice]:
    """The rows and columns of a window of `size`, placed by two fractions of the room there is:
    (0, 0) top left, (1, 1) bottom right."""
    top, left = int((of[0] - size[0]) * down), int((of[1] - size[1]) * right)
    return slice(top, top + size[0]), slice(left, left + size[1])


def resize(
    frame: UInt8[Tensor, "3 h w"],
    size: tuple[int, int],
    antialias: bool,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> UInt8[Tensor, "3 H W"]:
    """Some rows and columns of a frame that is scaled to `size`, one axis after the other, each
    cropped before the next."""
    if tuple(frame.shape[-2:]) == size:
        return frame[:, rows, columns]
    # In bytes, it rounds after each axis, as PIL and most pipelines of training do.
    pixels = frame[None] if antialias else frame[None].double()
    across = F.interpolate(pixels, (frame.shape[-2], size[1]), mode="bilinear", antialias=antialias)[..., columns]
    kept = across.shape[-1]
    if kept == 1:
        across = across.repeat(1, 1, 1, 2)  # torch (2.14) scales a single column wrongly
    scaled = F.interpolate(across, (size[0], across.shape[-1]), mode="bilinear", antialias=antialias)[0, :, rows, :kept]
    return scaled if antialias else (scaled + _TIE).round().to(torch.uint8)


def resize_clips(clips: Float[Tensor, "b 3 t h w"], spec: ClipSpec) -> Float[Tensor, "b 3 t H W"]:
    """Clips at `spec.size`, squashed; untouched where they have that size already."""
    if tuple(clips.shape[-2:]) == spec.size:
        return clips
    frames = rearrange(clips, "b c t h w -> (b t) c h w")
    frames = F.interpolate(frames, spec.size, mode="bilinear", align_corners=False, antialias=spec.antialias)
    return rearrange(frames, "(b t) c h w -> b c t h w", b=len(clips))

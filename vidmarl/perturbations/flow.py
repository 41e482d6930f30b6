"""Motion: optical flow by DIS, warping, occlusions, and patterns carried along the motion of a
clip.

A flow field holds displacements in px, channel 0 to the right and channel 1 downwards. The
*forward* field `i` lives on the pixels of frame `i` and says where they go: what is at `p` in frame
`i` is at `p + forward[i](p)` in frame `i + 1`. The *backward* field `i` lives on the pixels of
frame `i + 1` and says where they come from: what is at `p` in frame `i + 1` was at `p +
backward[i](p)` in frame `i`. `warp(frames, flow)(p) = frames(p + flow(p))`, so

    warp(clips[:, :, 1:], forward)   resembles  clips[:, :, :-1],
    warp(clips[:, :, :-1], backward)  resembles  clips[:, :, 1:].
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""ITU-R BT.601 luma weights of R, G and B."""

_SMALLEST = 32
"""Px of the short side below which DIS (patches of 8 px on a pyramid) cannot work; such frames are
enlarged."""


def luminance(clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b t h w"]:
    """Luminance, colour by colour: a matrix product would round by the size of the batch."""
    red, green, blue = clips.unbind(1)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def estimate_flow(
    clips: Float[Tensor, "b 3 t h w"], direction: Literal["forward", "backward"] = "forward"
) -> Float[Tensor, "b t-1 2 h w"]:
    """The motion between neighbouring frames, by dense inverse search (Kroeger et al., ECCV 2016)
    on grey frames.

    Args:
        clips: float[b 3 t h w] in [0, 1].
        direction: "forward": field `i` lives on frame `i` and points into frame `i + 1`;
            "backward": field `i` lives on frame `i + 1` and points into frame `i` (see the module's
            docstring).

    Returns:
        Displacements in px (x, y), float32[b t-1 2 h w], on the clips' device; exactly 0 between
        identical frames.
    """
    import cv2

    if direction not in ("forward", "backward"):
        raise ValueError(f"Estimating flow: direction must be 'forward' or 'backward', got {direction!r}.")
    b, _, t, h, w = clips.shape
    scale = max(1, -(-_SMALLEST // min(h, w)))
    frames = (luminance(clips.detach().float()) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = np.zeros((b, t - 1, h, w, 2), np.float32)
    for clip, fields in zip(frames, flow, strict=True):
        for i in range(t - 1):
            here, there = (clip[i], clip[i + 1]) if direction == "forward" else (clip[i + 1], clip[i])
            if np.array_equal(here, there):
                continue
            if scale == 1:
                fields[i] = dis.calc(here, there, None)  # type: ignore[call-overload]
            else:
                large = [cv2.resize(f, (w * scale, h * scale), interpolation=cv2.INTER_LINEAR) for f in (here, there)]
                field = dis.calc(*large, None)  # type: ignore[call-overload]
                fields[i] = cv2.resize(field, (w, h), interpolation=cv2.INTER_AREA) / scale
    return rearrange(torch.from_numpy(flow), "b t h w xy -> b t xy h w").to(clips.device)


def warp(frames: Float[Tensor, "b c t h w"], flow: Float[Tensor, "b t 2 h w"]) -> Float[Tensor, "b c t h w"]:
    """Looks every pixel up where its flow points to: `out[..., i, p] = frames[..., i, p +
    flow[i](p)]`.

    Bilinear between pixels; beyond the frame, the nearest pixel of its border (see `occlusion`).

    Args:
        frames: float[b c t h w].
        flow: displacements in px (x, y), float[b t 2 h w], one field for each of `frames`.
    """
    b, _, _, h, w = frames.shape
    source = _pixels(h, w, frames.device) + flow
    size = source.new_tensor([max(w - 1, 1), max(h - 1, 1)]).view(2, 1, 1)
    where = rearrange(2 * source / size - 1, "b t xy h w -> (b t) h w xy")
    flat = rearrange(frames.float(), "b c t h w -> (b t) c h w")
    out = F.grid_sample(flat, where, mode="bilinear", padding_mode="border", align_corners=True)
    return rearrange(out, "(b t) c h w -> b c t h w", b=b)


def occlusion(flow: Float[Tensor, "b t 2 h w"], reverse: Float[Tensor, "b t 2 h w"]) -> Bool[Tensor, "b 1 t h w"]:
    """Pixels that cannot be followed: those that leave the frame, or do not come back to where they
    started.

    The forward-backward test of Sundaram, Brox and Keutzer (ECCV 2010), eq. 5: with `back =
    reverse(p + flow(p))`, a pixel is occluded where `|flow + back|^2 > 0.01 (|flow|^2 + |back|^2) +
    0.5`.

    Args:
        flow: the field on the pixels in question: forward gives the pixels of frame `i` that are
            hidden in frame `i + 1`, backward those of frame `i + 1` that were hidden in frame `i`.
        reverse: the field of the other direction.

    Returns:
        bool[b 1 t h w], in the layout of clips; True where occluded.
    """
    here = rearrange(flow, "b t xy h w -> b xy t h w")
    back = warp(rearrange(reverse, "b t xy h w -> b xy t h w"), flow)
    squared = here.square().sum(1, keepdim=True) + back.square().sum(1, keepdim=True)
    lost = (here + back).square().sum(1, keepdim=True) > 0.01 * squared + 0.5
    h, w = flow.shape[-2:]
    end = rearrange(_pixels(h, w, flow.device) + flow, "b t xy h w -> b xy t h w")
    x, y = end[:, :1], end[:, 1:]
    outside = (x < -0.5) | (x > w - 0.5) | (y < -0.5) | (y > h - 0.5)
    return lost | outside


def carry(pattern: Float[Tensor, "b c h w"], clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c t h w"]:
    """A pattern on the first frame, carried along the motion of the clip.

    The backward fields are composed into one map from every frame into the first, and the map is
    looked up at the *nearest* pixel: interpolation would average neighbours and shrink the
    variance, a copy keeps every pixel's distribution exactly that of the pattern. Beyond the first
    frame the pattern goes on mirrored, so what enters the picture brings a pattern of its own that
    then moves with it. Where the picture is enlarged, neighbours come to share a value; along the
    outline of a moving object, where the estimate is smooth and the motion is not, the pattern
    slips by about a pixel a frame.

    Args:
        pattern: values on the first frame, float[b c h w].
        clips: float[b 3 t h w] in [0, 1]; their motion is estimated.

    Returns:
        float[b c t h w]; the pattern repeated, bit for bit, where the clip stands still.
    """
    b, c, h, w = pattern.shape
    flow = estimate_flow(clips, "backward")
    to_first = [flow.new_zeros(b, 2, 1, h, w)]
    for i in range(flow.shape[1]):  # to the frame before, then from there to the first
        field = flow[:, i : i + 1]
        to_first.append(rearrange(field, "b t xy h w -> b xy t h w") + warp(to_first[-1], field))
    source = _pixels(h, w, flow.device)[:, None] + torch.cat(to_first, dim=2)
    source = (source + 0.5).floor().long()
    index = _mirror(source[:, 1], h) * w + _mirror(source[:, 0], w)
    index = rearrange(index, "b t h w -> b 1 (t h w)").expand(b, c, -1)
    return pattern.flatten(2).gather(2, index).view(b, c, -1, h, w)


def _pixels(h: int, w: int, device: torch.device) -> Float[Tensor, "2 h w"]:
    """The coordinates (x, y) of every pixel."""
    y, x = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    return torch.stack([x, y]).float()


def _mirror(index: Tensor, size: int) -> Tensor:
    """Indices beyond `[0, size)` reflected back into it, the border itself not repeated."""
    period = max(2 * (size - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)

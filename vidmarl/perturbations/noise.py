"""The fixed randomness of a perturbation: seeds that follow from a clip's bytes, and noise coherent
in time."""

from __future__ import annotations

import zlib
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.perturbations.flow import carry

Coherence = Literal["static", "flow", "free"]


def clip_seeds(clips: Float[Tensor, "b 3 t h w"], seed: int) -> list[int]:
    """A seed per clip from its bytes and `seed`, so that no result depends on which clips share a
    batch."""
    stored = (clips.detach().cpu() * 255).round().to(torch.uint8)
    return [zlib.crc32(clip.numpy().tobytes(), seed & 0xFFFFFFFF) for clip in stored]


def draw_noise(clips: Float[Tensor, "b 3 t h w"], coherence: Coherence, seeds: list[int]) -> Float[Tensor, "b 3 t h w"]:
    """Standard normal noise, one value per pixel and channel, coherent in time as asked.

    Args:
        clips: float[b 3 t h w] in [0, 1]; gives the shape, and the motion for "flow".
        coherence: "static" holds the pattern still, "flow" carries the first frame's pattern along
            the estimated motion of the clip, "free" draws every frame anew.
        seeds: a seed per clip.
    """
    if coherence not in ("static", "flow", "free"):
        raise ValueError(f"Drawing noise: coherence must be 'static', 'flow' or 'free', got {coherence!r}.")
    b, c, t, h, w = clips.shape
    frames = t if coherence == "free" else 1
    noise = torch.stack([torch.randn(c, frames, h, w, generator=torch.Generator().manual_seed(s)) for s in seeds])
    noise = noise.to(clips.device)
    if coherence == "flow":
        return carry(noise[:, :, 0], clips)
    return noise.expand(b, c, t, h, w)

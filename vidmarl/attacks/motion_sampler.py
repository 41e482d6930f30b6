"""Motion-excited sampler: exploration with noise that moves with the clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from vidmarl.attacks.base import DistortionLike
from vidmarl.attacks.search.gradient_estimation import BanditAttack
from vidmarl.distortions.sign_noise import SignNoise
from vidmarl.perturbations.flow import carry


class MotionSampler(BanditAttack):
    """Bandit descent along noise warped by the clip's motion (Zhang et al., ECCV 2020, arXiv
    2003.07637).

    Each iteration draws one frame of normal noise, carries it along the motion of the clip, asks
    two probes along this direction (`bandit`), steps by the signs of the corrected estimate, and
    asks about the iterate: 3 queries.

    What differs from the paper and its public code: the motion is dense optical flow from frame to
    frame instead of the motion vectors of a compressed file (of which the code applies one field to
    all frames), and the noise is one pattern for the whole clip instead of one for each group of 12
    frames, because a clip that was sampled at 5 frames a second has lost its groups. The loss is
    the margin of the goal. Success is looked for in 8 bits.

    Args:
        distortion: see `BallAttack`; by default sign noise of 0.03, the paper's ball.
    """

    distortion: DistortionLike = dataclasses.field(default_factory=lambda: SignNoise(0.03), kw_only=False)

    def directions(self, clip: Tensor, rng: torch.Generator) -> Iterator[Tensor]:
        source = origins(clip)
        while True:
            noise = torch.randn(3, source.shape[1] * source.shape[2], generator=rng).to(clip.device)
            yield noise[:, source]


def origins(clip: Tensor) -> Int64[Tensor, "t h w"]:
    """For every pixel of a clip float[3 t h w], where its motion began: the index of a pixel of the
    first frame.

    The motion is estimated once for the whole search: `noise[:, origins(clip)]` carries any pattern
    along.
    """
    h, w = clip.shape[-2:]
    pixels = torch.arange(h * w, device=clip.device).float()  # exact up to 16 million of them
    return carry(pixels.view(1, 1, h, w), clip[None])[0, 0].long()

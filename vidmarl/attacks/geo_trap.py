"""GEO-TRAP: exploration with one random frame under a random affine map per frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.attacks.base import DistortionLike
from vidmarl.attacks.search.gradient_estimation import BanditAttack
from vidmarl.distortions.sign_noise import SignNoise


class GeoTrap(BanditAttack):
    """Bandit descent along one frame of noise, warped differently in each frame.

    Li et al., "Adversarial Attacks on Black Box Video Classifiers: Leveraging the Power of
    Geometric Transformations", NeurIPS 2021, arXiv 2110.01823. Each iteration draws one frame of
    normal noise and an affine map per frame with normal entries, asks two probes along the warped
    noise (`bandit`), steps by the signs of the corrected estimate, and
    asks about the iterate: 3 queries. A map that enlarges turns the noise into smooth blobs, so the
    few directions that are tried are of low frequency.

    What differs from the paper and its public code: only the affine family of maps is offered, and
    the loss is the margin of the goal. Success is looked for in 8 bits.

    Args:
        distortion: see `BallAttack`; by default sign noise of 10/255, the paper's ball.
    """

    distortion: DistortionLike = dataclasses.field(default_factory=lambda: SignNoise(10 / 255), kw_only=False)

    def directions(self, clip: Tensor, rng: torch.Generator) -> Iterator[Tensor]:
        _, t, h, w = clip.shape
        while True:
            frame = torch.randn(3, h, w, generator=rng).to(clip.device)
            maps = torch.randn(t, 2, 3, generator=rng).to(clip.device)
            yield warped(frame, maps)


def warped(frame: Float[Tensor, "c h w"], maps: Float[Tensor, "t 2 3"]) -> Float[Tensor, "c t h w"]:
    """A frame under one affine map for each frame of a clip, 0 where a map leads out of the
    picture.

    Args:
        frame: values.
        maps: from (x, y, 1) of the result to (x, y) of the frame, both from -1 to 1 across the
            picture.
    """
    frames = frame.expand(len(maps), -1, -1, -1)
    grid = F.affine_grid(maps, list(frames.shape), align_corners=True)
    return rearrange(F.grid_sample(frames, grid, align_corners=True), "t c h w -> c t h w")

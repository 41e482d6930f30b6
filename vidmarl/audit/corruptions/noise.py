"""Noise: of the sensor, of few photons, of broken pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.audit.corruptions.base import UCF101_P, corruption, uniform
from vidmarl.distortions.gaussian_noise import gaussian_noise as add_noise
from vidmarl.distortions.speckle_noise import speckle_noise as multiply_noise

FAMILY = "noise"

Clip = Float[Tensor, "3 t h w"]


def _normal(clip: Clip, rng: torch.Generator) -> Clip:
    return torch.randn(clip.shape, generator=rng).to(clip.device)


@corruption(FAMILY, UCF101_P, "standard deviation, of values in [0, 1]", (0.08, 0.12, 0.18, 0.26, 0.38))
def gaussian_noise(clip: Clip, std: float, rng: torch.Generator) -> Clip:
    """Normal noise, drawn anew for each value of each frame."""
    return add_noise(clip[None], torch.ones_like(clip[None, :1]), _normal(clip, rng)[None], std)[0]


@corruption(FAMILY, UCF101_P, "photons that are white", (250, 100, 50, 30, 15))
def shot_noise(clip: Clip, photons: int, rng: torch.Generator) -> Clip:
    """Counts of photons, which are Poisson distributed."""
    return (torch.poisson(clip.cpu() * photons, generator=rng) / photons).to(clip.device)


@corruption(FAMILY, UCF101_P, "share of the values", (0.03, 0.06, 0.09, 0.17, 0.27))
def impulse_noise(clip: Clip, amount: float, rng: torch.Generator) -> Clip:
    """Salt and pepper: values that are 0 or 1, as often the one as the other."""
    drawn = uniform(tuple(clip.shape), rng, clip)
    return torch.where(drawn < amount / 2, 0.0, torch.where(drawn < amount, 1.0, clip))


@corruption(FAMILY, UCF101_P, "standard deviation, as a share of each value", (0.15, 0.2, 0.25, 0.3, 0.35))
def speckle_noise(clip: Clip, std: float, rng: torch.Generator) -> Clip:
    """Noise that is the stronger the lighter the pixel."""
    return multiply_noise(clip[None], torch.ones_like(clip[None, :1]), _normal(clip, rng)[None], std)[0]

"""Sign bands: stripes of colour in an Linf ball, as lamps that flicker leave them in a rolling
shutter's pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from vidmarl.distortions.base import State, bounded
from vidmarl.distortions.sign_noise import SignNoise


class SignBands(SignNoise):
    """A random colour for every few lines, the same over the whole width; a negative strength is
    the opposite colour.

    In a ball of the same radius, bands that turn with every frame fool MoViNet-A0 about twice as
    often as a random sign for each pixel (docs/experiments.md). Horizontal stripes that come and go
    are what a rolling shutter makes of lamps that flicker. Bands lie still in the frame: "flow" is
    no coherence for them, and looks partly like "free".

    Args:
        epsilon: see `SignNoise`.
        height: lines in a band, 1 to 10,000.
    """

    def __init__(self, epsilon: float = 12.75 / 255, height: int = 2) -> None:
        super().__init__(epsilon)
        bounded(self, height=(height, 1, 10_000))
        self.height = height

    def prepare(self, clips: Tensor, noise: Tensor) -> State:
        """One value of the noise for every band: that of its first line's first pixel."""
        line = torch.arange(noise.shape[3], device=noise.device) // self.height * self.height
        return {"noise": noise[..., line, :1].expand_as(noise)}

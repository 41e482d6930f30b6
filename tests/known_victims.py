"""Small victims of which it is known what fools them, and clips for them."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vidmarl import TubeletGrid, Victim
from vidmarl.distortions.base import FunctionDistortion

GRID = TubeletGrid(frames=1, height=8, width=8)
SHAPE = (3, 4, 4)
"""Tubelets of a clip of 3 frames of 32 px."""

GREY = torch.full((1, 3, 3, 32, 32), 128 / 255)
SIGNED = FunctionDistortion(lambda clips, strength, noise: clips + 0.2 * strength, signed=True)
ONE_SIDED = FunctionDistortion(lambda clips, strength, noise: clips - 0.3 * strength)


class Linear(nn.Module):
    """Scores that are linear in the mean of every tubelet."""

    def __init__(self, classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        weights = torch.randn(classes, 3 * 4 * 4, generator=torch.Generator().manual_seed(seed))
        self.weights = nn.Parameter(weights)

    def forward(self, clips: Tensor) -> Tensor:
        cells = rearrange(clips, "b c t (gh h) (gw w) -> b (t gh gw) (c h w)", h=8, w=8).mean(-1)
        return 8 * (cells - 0.5) @ self.weights.T


class Constant(nn.Module):
    """Class 0 of every clip, a little less surely the darker it is."""

    def forward(self, clips: Tensor) -> Tensor:
        mean = clips.flatten(1).mean(1)
        return torch.stack([3 + mean, torch.zeros_like(mean), torch.zeros_like(mean)], 1)


class Conjunction(nn.Module):
    """Class 1 if and only if every tubelet of a known set differs from grey."""

    def __init__(self, needed: set[int]) -> None:
        super().__init__()
        self.needed = sorted(needed)

    def forward(self, clips: Tensor) -> Tensor:
        cells = rearrange(clips, "b c t (gh h) (gw w) -> b (t gh gw) (c h w)", h=8, w=8)
        touched = (cells - 128 / 255).abs().amax(-1) > 1e-4
        fooled = touched[:, self.needed].all(1).float()
        return torch.stack([1 - fooled, fooled], 1)


class Counted:
    """A model in a victim, and the number of clips that have reached the model."""

    def __init__(self, model: nn.Module, **kwargs: Any) -> None:
        self.seen = 0
        model.register_forward_pre_hook(self._count)
        self.victim = Victim(model, **kwargs)

    def _count(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen += len(inputs[0])

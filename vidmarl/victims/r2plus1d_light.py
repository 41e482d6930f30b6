"""A 0.3 M-parameter (2+1)-D residual network with the 101 classes of UCF-101.

The clips of UCF-101 may have been in its training split: it is a victim, not a measure of accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims.cards import Card
from vidmarl.victims.padding import LAYOUT
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

WEIGHTS = WeightFile(
    "r2plus1d_light_ucf101_300k.pt", "db1ca9a66f9e134dca51945535ee5c9fc0e533f3194bdba6004d296a84208493"
)
SPEC = ClipSpec(frames=10, size=(224, 224), fit="letterbox", sampling="uniform", antialias=False)


class Residual(nn.Module):
    """A convolution in space, one in time, and a projected shortcut around both."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        # as many parameters as a full 3x3x3 convolution (Tran et al., CVPR 2018, section 3.5)
        middle = 27 * inner * outer // (9 * inner + 3 * outer)
        self.spatial_conv = nn.Conv3d(inner, middle, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.bn1 = nn.BatchNorm3d(middle)
        self.temporal_conv = nn.Conv3d(middle, outer, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.bn2 = nn.BatchNorm3d(outer)
        self.shortcut = nn.Sequential(nn.Conv3d(inner, outer, 1, bias=False), nn.BatchNorm3d(outer))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        y = F.relu(self.bn1(self.spatial_conv(x)))
        return F.relu(self.bn2(self.temporal_conv(y)) + self.shortcut(x))


class R2Plus1DLight(nn.Module):
    """Three residual stages, each halving time and space. Clips of 8 frames and 8 px or more, RGB
    in [0, 1]."""

    def __init__(self, classes: int = 101) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(Residual(3, 32), nn.MaxPool3d(2))
        self.conv2 = nn.Sequential(Residual(32, 64), nn.MaxPool3d(2))
        self.conv3 = nn.Sequential(Residual(64, 128), nn.MaxPool3d(2))
        self.classifier = nn.Linear(128, classes)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        x = self.conv3(self.conv2(self.conv1(clips.contiguous(memory_format=LAYOUT))))
        scores: Tensor = self.classifier(x.mean((2, 3, 4)))
        return scores


def names() -> list[str]:
    """The victims of this family."""
    return ["r2plus1d_light"]


def card(name: str) -> Card:
    """What is known of it."""
    return Card(
        description="a small R(2+1)D",
        classes="UCF-101",
        parameters=303_576,
        weights=WEIGHTS,
        source="github.com/IstiyakV/End-to-End-Lightweight-Spatiotemporal-Learning-for-Practical-Human-Action-"
        "Classification, commit 3ab102a, Desktop-App/results/checkpoints/ucf101_paper_x112_b16_l2_d30_300k_best.pth"
        " without its optimizer state",
        licence="MIT (by its README alone)",
    )


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return SPEC


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """The light (2+1)-D network; see `vidmarl.load_victim`."""
    model, found = build(name, R2Plus1DLight, weights, WEIGHTS)
    model.to(memory_format=LAYOUT)
    return Victim(model, spec=spec, labels=class_names(model, found), name=title(name, found), **options)

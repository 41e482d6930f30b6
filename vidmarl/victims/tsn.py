"""TSN: one ResNet-50 on a frame of each part of the video; their scores are averaged (Wang et al.,
"Temporal Segment Networks", ECCV 2016). With MMAction2's conventions and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims.cards import Card
from vidmarl.victims.names import RESNET, renamer
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

MMACTION = "https://download.openmmlab.com/mmaction/v1.0/recognition"
_RUN = "tsn_imagenet-pretrained-r50_8xb32-1x1x8-100e_kinetics400-rgb"
WEIGHTS = WeightFile(f"{_RUN}_20220906-2692d16c.pth", "2692d16c", f"{MMACTION}/tsn/{_RUN}/{_RUN}_20220906-2692d16c.pth")
SPEC = ClipSpec(frames=8, size=(224, 224), short_side=256, sampling="segments", antialias=False)
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
renamed = renamer(RESNET, prefix="net.")
"""Gives the tensors of MMAction2, and of the authors of TSM, their names here."""


class TSN(nn.Module):
    """A ResNet-50 of torchvision on every frame, and the mean of its scores. Clips of any length
    and size, normalised as for ImageNet."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.net: nn.Module = resnet50(num_classes=classes)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        frames = rearrange(clips, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        scores: Tensor = rearrange(self.net(frames), "(b t) k -> b t k", b=len(clips)).mean(1)
        return scores


def names() -> list[str]:
    """The victims of this family."""
    return ["tsn_r50"]


def card(name: str) -> Card:
    """What is known of it."""
    return Card(
        description="TSN, a ResNet-50 on frames of eight parts of the video",
        paper="Wang et al., ECCV 2016",
        classes="Kinetics-400",
        parameters=24_327_632,
        weights=WEIGHTS,
        licence="Apache-2.0",
    )


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return SPEC


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """TSN; see `vidmarl.load_victim`."""
    model, found = build(name, TSN, weights, WEIGHTS, renamed=renamed)
    return Victim(
        model.to(memory_format=torch.channels_last),
        spec=spec,
        labels=class_names(model, found, "kinetics400"),
        name=title(name, found),
        **IMAGENET,
        **options,
    )

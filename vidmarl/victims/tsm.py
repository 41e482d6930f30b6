"""TSM: a ResNet-50 on frames that look at their neighbours: before each residual branch an eighth
of the channels comes from the next frame, an eighth from the one before (Lin et al., "TSM: Temporal
Shift Module for Efficient Video Understanding", ICCV 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims import tsn
from vidmarl.victims.cards import Card
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

_RUN = "tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb"
WEIGHTS = WeightFile(
    f"{_RUN}_20220831-64d69186.pth", "64d69186", f"{tsn.MMACTION}/tsm/{_RUN}/{_RUN}_20220831-64d69186.pth"
)
SHARE = 8
"""One channel of so many comes from the next frame, another from the one before."""
FRAMES = 8


class ShiftedConv2d(nn.Conv2d):
    """A convolution of frames whose first channels have been shifted in time; what comes from
    beyond the clip is 0.

    Args:
        inner: channels that come in.
        outer: channels that go out.
        frames: of a clip.
    """

    def __init__(self, inner: int, outer: int, frames: int) -> None:
        super().__init__(inner, outer, 1, bias=False)
        self.frames = frames

    def forward(self, x: Float[Tensor, "bt c h w"]) -> Float[Tensor, "bt d h w"]:
        clips = rearrange(x, "(b t) c h w -> b t c h w", t=self.frames)
        fold = clips.shape[2] // SHARE
        shifted = clips.clone()
        shifted[:, :-1, :fold], shifted[:, -1:, :fold] = clips[:, 1:, :fold], 0
        shifted[:, 1:, fold : 2 * fold], shifted[:, :1, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold], 0
        return super().forward(rearrange(shifted, "b t c h w -> (b t) c h w"))


class TSM(tsn.TSN):
    """TSN whose frames look at their neighbours. Clips of one length and any size, normalised as
    for ImageNet.

    Args:
        classes: how many.
        frames: of a clip.
    """

    def __init__(self, classes: int = 400, frames: int = FRAMES) -> None:
        super().__init__(classes)
        from torchvision.models.resnet import Bottleneck

        self.frames = frames
        for block in self.net.modules():
            if isinstance(block, Bottleneck):
                block.conv1 = ShiftedConv2d(block.conv1.in_channels, block.conv1.out_channels, frames)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        if clips.shape[2] != self.frames:
            raise ValueError(
                f"TSM was made for clips of {self.frames} frames, got {clips.shape[2]}. Load it with"
                f" spec={{'frames': {clips.shape[2]}}}."
            )
        return super().forward(clips)


def names() -> list[str]:
    """The victims of this family."""
    return ["tsm_r50"]


def card(name: str) -> Card:
    """What is known of it."""
    return Card(
        description="TSM, a ResNet-50 whose frames exchange channels",
        paper="Lin et al., ICCV 2019",
        classes="Kinetics-400",
        parameters=24_327_632,
        weights=WEIGHTS,
        licence="Apache-2.0",
    )


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return tsn.SPEC


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """TSM; see `vidmarl.load_victim`."""
    frames = spec.frames or FRAMES
    model, found = build(name, lambda classes=400: TSM(classes, frames), weights, WEIGHTS, renamed=tsn.renamed)
    return Victim(
        model.to(memory_format=torch.channels_last),
        spec=spec,
        labels=class_names(model, found, "kinetics400"),
        name=title(name, found),
        **tsn.IMAGENET,
        **options,
    )

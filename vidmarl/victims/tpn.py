"""TPN: a pyramid of the features of a slow 3-D ResNet-50, which are pooled over time at each of its
levels (Yang et al., "Temporal Pyramid Network for Action Recognition", CVPR 2020). With MMAction2's
conventions and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.utils.quiet import quiet_import
from vidmarl.victims import tsn
from vidmarl.victims.cards import Card
from vidmarl.victims.names import AROUND, Rules, renamer
from vidmarl.victims.padding import LAYOUT
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

_RUN = "tpn_imagenet_pretrained_slowonly_r50_8x8x1_150e_kinetics_rgb"
WEIGHTS = WeightFile(
    f"{_RUN}-44362b55.pth",
    "44362b55",
    f"https://download.openmmlab.com/mmaction/recognition/tpn/{_RUN}/{_RUN}-44362b55.pth",
)
SPEC = ClipSpec(frames=8, size=(224, 224), short_side=256, sampling="stride", stride=8, antialias=False, short="loop")
WIDTH = 1024
"""Channels of a level of the pyramid."""
GROUPS = 32
"""Of the grouped convolutions."""
POOLED = 8
"""Frames that become one."""
RULES: Rules = (
    *AROUND,
    (r"^layer(\d)\.(\d)\.", r"blocks.\1.res_blocks.\2."),
    (r"^conv1\.conv\.", "blocks.0.conv."),
    (r"^conv1\.bn\.", "blocks.0.norm."),
    *((rf"\.conv{n}\.conv\.", f".branch2.conv_{letter}.") for n, letter in enumerate("abc", 1)),
    *((rf"\.conv{n}\.bn\.", f".branch2.norm_{letter}.") for n, letter in enumerate("abc", 1)),
    (r"\.downsample\.conv\.", ".branch1_conv."),
    (r"\.downsample\.bn\.", ".branch1_norm."),
    (r"^neck\.spatial_modulation\.spatial_modulation\.0\.0\.", "spatial."),
    (r"^neck\.temporal_modulation_ops\.(\d)\.conv\.conv\.", r"temporal.\1."),
    (r"^neck\.downsample_ops\.0\.conv\.conv\.", "upward."),
    (r"^neck\.level_fusion_(\d)\.downsamples\.(\d)\.conv\.", r"fusion\1.levels.\2."),
    (r"^neck\.level_fusion_(\d)\.fusion_conv\.", r"fusion\1.both."),
    (r"^neck\.pyramid_fusion\.", "pyramid."),
)
"""MMAction2's names; here those of the backbone are PyTorchVideo's."""


class Unit(nn.Module):
    """A convolution with batch norm and ReLU."""

    def __init__(self, inner: int, outer: int, kernel: tuple[int, int, int] = (1, 1, 1), **options: Any) -> None:
        super().__init__()
        time, height, width = kernel
        padding = (time // 2, height // 2, width // 2)
        self.conv = nn.Conv3d(inner, outer, kernel, padding=padding, bias=False, **options)
        self.bn = nn.BatchNorm3d(outer)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Fusion(nn.Module):
    """The two levels of the pyramid, side by side, become one map."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Unit(WIDTH, WIDTH, groups=GROUPS) for _ in range(2))
        self.both = Unit(2 * WIDTH, 2 * WIDTH)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        fused: Tensor = self.both(torch.cat([self.levels[0](low), self.levels[1](high)], 1))
        return fused


class TPN(nn.Module):
    """A temporal pyramid over the last two stages of a slow ResNet-50. Clips of any length and
    size, normalised as for ImageNet."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        with quiet_import():
            from pytorchvideo.models.hub import slow_r50

        self.blocks: nn.ModuleList = slow_r50(pretrained=False).blocks[:5]  # all but its classifier
        self.spatial = Unit(WIDTH, 2 * WIDTH, (1, 3, 3), stride=(1, 2, 2))
        self.temporal = nn.ModuleList(self._temporal(2 * WIDTH) for _ in range(2))
        self.upward = self._temporal(WIDTH, groups=1)
        self.fusion1, self.fusion2 = Fusion(), Fusion()
        self.pyramid = Unit(4 * WIDTH, 2 * WIDTH)
        self.fc = nn.Linear(2 * WIDTH, classes)

    @staticmethod
    def _temporal(inner: int, groups: int = GROUPS) -> nn.Conv3d:
        return nn.Conv3d(inner, WIDTH, (3, 1, 1), padding=(1, 0, 0), groups=groups, bias=False)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        stages = [clips.contiguous(memory_format=LAYOUT)]
        for block in self.blocks:
            stages.append(block(stages[-1]))
        low, high = (
            F.max_pool3d(temporal(stage), (POOLED, 1, 1), ceil_mode=True)
            for temporal, stage in zip(self.temporal, (self.spatial(stages[-2]), stages[-1]), strict=True)
        )
        low = low + high
        downwards = self.fusion1(low, high)
        upwards = self.fusion2(low, high + self.upward(low))
        scores: Tensor = self.fc(self.pyramid(torch.cat([downwards, upwards], 1)).mean((2, 3, 4)))
        return scores


def names() -> list[str]:
    """The victims of this family."""
    return ["tpn_r50"]


def card(name: str) -> Card:
    """What is known of it."""
    return Card(
        description="TPN, a temporal pyramid over a slow 3-D ResNet-50",
        paper="Yang et al., CVPR 2020",
        classes="Kinetics-400",
        parameters=71_800_272,
        weights=WEIGHTS,
        licence="Apache-2.0",
    )


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return SPEC


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """TPN; see `vidmarl.load_victim`."""
    model, found = build(name, TPN, weights, WEIGHTS, renamed=renamer(RULES))
    model.to(memory_format=LAYOUT)
    return Victim(
        model,
        spec=spec,
        labels=class_names(model, found, "kinetics400"),
        name=title(name, found),
        **tsn.IMAGENET,
        **options,
    )

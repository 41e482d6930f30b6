"""MoViNet-A0-Base to A5-Base on Kinetics-600 (Kondratyuk et al., "MoViNets", CVPR 2021): the float
networks of the paper, with 3-D convolutions, swish, batch norm and squeeze-and-excitation.

Their names end in "_base"; `vidmarl.victims.movinet` has the causal ones of the 8-bit release.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims.cards import Card
from vidmarl.victims.movinet_tables import CLIPS, HIDDEN, SHAPES, Layout, Shape
from vidmarl.victims.names import Rules, renamer
from vidmarl.victims.padding import avg_pool_same, pad_same
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

FILES = {
    size: WeightFile(
        f"model{size.upper()}_statedict_v3",
        url=f"https://github.com/Atze00/MoViNet-pytorch/raw/main/weights/model{size.upper()}_statedict_v3",
    )
    for size in SHAPES
}
"""The authors' weights as PyTorch tensors. No checksums of them are published."""
PARAMETERS = {
    "a0": 3_111_799,
    "a1": 4_690_296,
    "a2": 5_249_562,
    "a3": 7_397_545,
    "a4": 11_349_463,
    "a5": 18_650_523,
}
RULES: Rules = (
    (r"\.conv_1\.", "."),
    (r"\.conv3d\.", ".conv."),
    (r"\.norm\.", ".bn."),
    (r"\.deep\.", ".dw."),
    (r"\.project\.", ".proj."),
    (r"\.res\.\d\.", ".skip."),
    (r"\.se\.fc(\d)\.(conv\.)?", r".se\1."),
    (r"^conv1\.", "stem."),
    (r"^classifier\.0\.(conv\.)?", "head."),
    (r"^classifier\.3\.(conv\.)?", "cls."),
)
"""What the tensors are called in the published files."""


class FrameConv(nn.Conv3d):
    """A 3-D convolution with "SAME" padding, for clips whose frames lie in the batch.

    It is a sum of 2-D convolutions, one for each frame of its kernel: depthwise 3-D convolutions
    are slow on a CPU.
    """

    def __init__(
        self, inner: int, outer: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, groups: int = 1
    ) -> None:
        time, space = kernel
        super().__init__(inner, outer, (time, space, space), (1, stride, stride), groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "bt c h w"], clips: int = 1) -> Float[Tensor, "bt d h2 w2"]:
        stride = self.stride[1:]
        x = pad_same(x, self.kernel_size[1:], stride)
        taps = [F.conv2d(x, tap, stride=stride, groups=self.groups) for tap in self.weight.unbind(2)]
        if len(taps) == 1:
            return taps[0]
        early, now = len(taps) // 2, rearrange(taps[len(taps) // 2].clone(), "(b t) c h w -> b t c h w", b=clips)
        for place, tap in enumerate(taps):
            lag, frames = place - early, rearrange(tap, "(b t) c h w -> b t c h w", b=clips)
            if lag < 0:
                now[:, -lag:] += frames[:, :lag]
            elif lag > 0:
                now[:, :-lag] += frames[:, lag:]
        return rearrange(now, "b t c h w -> (b t) c h w")


class Unit(nn.Module):
    """A convolution and batch norm."""

    def __init__(
        self, inner: int, outer: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = FrameConv(inner, outer, kernel, stride, groups)
        self.bn = nn.BatchNorm3d(outer, eps=1e-3)

    def forward(self, x: Float[Tensor, "bt c h w"], clips: int = 1) -> Float[Tensor, "bt d h2 w2"]:
        y = self.conv(x, clips)
        bn = self.bn
        return F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, self.training, eps=bn.eps)


class Block(nn.Module):
    """Expand, filter in space and time, weigh the channels, project; added to the (shrunk,
    projected) input."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        inner, expanded, outer, kernel, frames, stride = layout
        squeezed = divisible(expanded / 4)
        self.expand = Unit(inner, expanded)
        self.dw = Unit(expanded, expanded, (max(frames, 1), kernel), stride, groups=expanded)
        self.se1 = nn.Conv3d(expanded, squeezed, 1)
        self.se2 = nn.Conv3d(squeezed, expanded, 1)
        self.proj = Unit(expanded, outer)
        self.skip = Unit(inner, outer) if stride > 1 or inner != outer else None
        self.alpha = nn.Parameter(torch.ones(()))
        self.stride = stride

    def forward(self, x: Float[Tensor, "bt c h w"], clips: int) -> Float[Tensor, "bt d h2 w2"]:
        y = F.silu(self.dw(F.silu(self.expand(x)), clips))
        mean = reduce(y, "(b t) c h w -> b c 1 1 1", "mean", b=clips)
        weights = self.se2(F.silu(self.se1(mean))).sigmoid()
        y = y * weights.squeeze(2).repeat_interleave(len(y) // clips, 0)
        y = self.proj(y) * self.alpha
        out: Tensor = y + (x if self.skip is None else self.skip(avg_pool_same(x, 3, self.stride)))
        return out


class MoViNetBase(nn.Module):
    """A MoViNet with 3-D convolutions. Clips of any size and length, RGB in [0, 1]."""

    def __init__(self, classes: int = 600, shape: Shape = SHAPES["a0"]) -> None:
        super().__init__()
        self.stem = Unit(3, shape.blocks[0].inner, (1, 3), stride=2)
        self.blocks = nn.ModuleDict(
            {f"b{i}_l{j}": Block(layout) for i, stage in enumerate(shape.stages) for j, layout in enumerate(stage)}
        )
        self.conv7 = Unit(shape.blocks[-1].outer, shape.features)
        self.head = nn.Conv3d(shape.features, HIDDEN, 1)
        self.cls = nn.Conv3d(HIDDEN, classes, 1)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        b = len(clips)
        x = rearrange(clips, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        x = F.silu(self.stem(x))
        for block in self.blocks.values():
            x = block(x, b)
        x = reduce(F.silu(self.conv7(x)), "(b t) c h w -> b c 1 1 1", "mean", b=b)
        scores: Tensor = self.cls(F.silu(self.head(x)))
        return scores.flatten(1)


def divisible(channels: float, by: int = 8) -> int:
    """The multiple that is nearest to a number of channels, and no less than nine tenths of it."""
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest + by if nearest < 0.9 * channels else nearest


def names() -> list[str]:
    """The victims of this family."""
    return [f"movinet_{size}_base" for size in SHAPES]


def size_of(name: str) -> str:
    """Which of the networks a name means: "a0" to "a5"."""
    return name.split("_")[1]


def card(name: str) -> Card:
    """What is known of it."""
    size = size_of(name)
    return Card(
        description=f"MoViNet-{size.upper()}, a small network found by search",
        paper="Kondratyuk et al., CVPR 2021",
        classes="Kinetics-600",
        parameters=PARAMETERS[size],
        weights=FILES[size],
        licence="Apache-2.0 (as PyTorch tensors: MIT)",
    )


def default_spec(name: str) -> ClipSpec:
    """The clips that it was tested on."""
    frames, pixels, fps = CLIPS[size_of(name)]
    return ClipSpec(frames=frames, size=(pixels, pixels), sampling="fps", fps=fps, short="hold")


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """A MoViNet with 3-D convolutions; see `vidmarl.load_victim`."""
    size = size_of(name)
    make = functools.partial(MoViNetBase, shape=SHAPES[size])
    model, found = build(name, make, weights, FILES[size], renamed=renamer(RULES))
    return Victim(model, spec=spec, labels=class_names(model, found, "kinetics600"), name=title(name, found), **options)

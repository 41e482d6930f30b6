"""MoViNet-A0-Stream to A2-Stream on Kinetics-600 (Kondratyuk et al., "MoViNets", CVPR 2021), on
whole clips.

The weights are those of the released 8-bit models, dequantised (`vidmarl convert movinet`). They
fix what differs from the paper: ReLU6 throughout, no squeeze-and-excitation, batch norm folded into
the biases. A3 to A5 were not released so; `vidmarl.victims.movinet_base` has all six as they are in
the paper.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims.cards import Card
from vidmarl.victims.movinet_tables import HIDDEN, SHAPES, Layout, Shape
from vidmarl.victims.padding import avg_pool_same, pad_same
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

WEIGHTS = WeightFile(
    "movinet_a0_stream_k600_fp32.pt", "3dbb1cfb39ac275dfa50fc50b8a06272b483c8ade008e828526631f6229a8380"
)
FILES = {
    "movinet_a0": WEIGHTS,
    "movinet_a1": WeightFile("movinet_a1_stream_k600.pt"),
    "movinet_a2": WeightFile("movinet_a2_stream_k600.pt"),
}
SPECS = {
    "movinet_a0": ClipSpec(frames=16, size=(176, 176), sampling="fps", fps=5.0, short="hold"),
    "movinet_a1": ClipSpec(frames=16, size=(172, 172), sampling="fps", fps=5.0, short="hold"),
    "movinet_a2": ClipSpec(frames=16, size=(224, 224), sampling="fps", fps=5.0, short="hold"),
}
"""Three of the ten seconds that they were tested on."""
PARAMETERS = {"movinet_a0": 2_723_407, "movinet_a1": 3_733_288, "movinet_a2": 4_059_986}


def relu6(x: Tensor) -> Tensor:
    """ReLU6, in the memory of `x`."""
    return F.relu6(x, inplace=True)


class SameConv2d(nn.Conv2d):
    """A 2-D convolution with "SAME" padding."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # At stride 1 the padding is even, and the convolution can do it by itself, without a copy.
        super().__init__(inner, outer, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.padding[0] else pad_same(x, self.kernel_size, self.stride))


class CausalConv1d(nn.Conv1d):
    """A depthwise convolution over the frames of a clip that sees no later frame."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel, groups=channels)

    def forward(self, frames: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        # A sum of shifted frames: no transposing to and from the layout of a 1-D convolution.
        *past, present = self.weight.unsqueeze(-1).unbind(2)
        assert self.bias is not None
        out = torch.addcmul(self.bias.view(-1, 1, 1), frames, present)
        for lag, tap in enumerate(reversed(past), start=1):
            out[:, lag:].addcmul_(frames[:, :-lag], tap)
        return out


class Block(nn.Module):
    """Expand, filter in space, filter in time, project; added to the (shrunk, projected) input."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        inner, expanded, outer, kernel, frames, stride = layout
        self.expand = nn.Conv2d(inner, expanded, 1)
        self.dw = SameConv2d(expanded, expanded, kernel, stride, groups=expanded)
        self.dwt = CausalConv1d(expanded, frames) if frames else None
        self.proj = nn.Conv2d(expanded, outer, 1)
        self.alpha = nn.Parameter(torch.ones(()))
        self.skip = nn.Conv2d(inner, outer, 1) if stride > 1 or inner != outer else None
        self.stride = stride

    def forward(self, x: Float[Tensor, "bt c h w"], clips: int) -> Float[Tensor, "bt d h2 w2"]:
        y = relu6(self.dw(relu6(self.expand(x))))
        if self.dwt is not None:
            y = rearrange(y, "(b t) c h w -> b t c h w", b=clips)
            y = rearrange(relu6(self.dwt(y)), "b t c h w -> (b t) c h w")
        y = self.proj(y) * self.alpha
        out: Tensor = y + (x if self.skip is None else self.skip(avg_pool_same(x, 3, self.stride)))
        return out


class MoViNet(nn.Module):
    """MoViNet-Stream without its stream: the whole clip at once. Clips of any size and length, RGB
    in [0, 1]."""

    def __init__(self, classes: int = 600, shape: Shape = SHAPES["a0"]) -> None:
        super().__init__()
        self.stem = SameConv2d(3, shape.blocks[0].inner, 3, stride=2)
        self.blocks = nn.ModuleList(Block(layout) for layout in shape.blocks)
        self.conv7 = nn.Conv2d(shape.blocks[-1].outer, shape.features, 1)
        self.head = nn.Linear(shape.features, HIDDEN)
        self.cls = nn.Linear(HIDDEN, classes)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        b = len(clips)
        frames = rearrange(clips, "b c t h w -> (b t) c h w")
        x = relu6(self.stem(frames.contiguous(memory_format=torch.channels_last)))  # a third faster on a CPU
        for block in self.blocks:
            x = block(x, b)
        x = relu6(self.conv7(x)).mean((2, 3))
        x = rearrange(x, "(b t) c -> b t c", b=b).mean(1)
        scores: Tensor = self.cls(relu6(self.head(x)))
        return scores


def names() -> list[str]:
    """The victims of this family."""
    return list(SPECS)


def card(name: str) -> Card:
    """What is known of it."""
    size = name.removeprefix("movinet_")
    published = f"lite-model/movinet/{size}/stream/kinetics-600/classification/tflite/int8/1.tflite"
    return Card(
        description=f"MoViNet-{size.upper()}-Stream, small and causal, from its 8-bit release",
        paper="Kondratyuk et al., CVPR 2021",
        classes="Kinetics-600",
        parameters=PARAMETERS[name],
        weights=FILES[name],
        made_by=f"vidmarl convert movinet {size.upper()}.tflite {FILES[name].name}",
        source=f"https://storage.googleapis.com/tfhub-lite-models/google/{published}",
        licence="Apache-2.0",
    )


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return SPECS[name]


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """MoViNet-Stream; see `vidmarl.load_victim`."""
    make = functools.partial(MoViNet, shape=SHAPES[name.removeprefix("movinet_")])
    model, found = build(name, make, weights, FILES[name])
    return Victim(model, spec=spec, labels=class_names(model, found, "kinetics600"), name=title(name, found), **options)

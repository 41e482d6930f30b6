"""MoViNet-A0-Stream on Kinetics-600 (Kondratyuk et al., "MoViNets", CVPR 2021), on whole clips.

The weights are those of the released 8-bit model, dequantised. They fix what differs from the
paper: ReLU6 throughout, no squeeze-and-excitation, batch norm folded into the biases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims.padding import pad_same
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

WEIGHTS = WeightFile(
    "movinet_a0_stream_k600_fp32.pt", "3dbb1cfb39ac275dfa50fc50b8a06272b483c8ade008e828526631f6229a8380"
)
SPEC = ClipSpec(frames=16, size=(176, 176), sampling="fps", fps=5.0, short="hold")


class Layout(NamedTuple):
    """One block: channels in, expanded and out, spatial and temporal kernel (0: none), spatial
    stride."""

    inner: int
    expanded: int
    outer: int
    kernel: int
    frames: int
    stride: int


A0 = (
    Layout(8, 24, 8, 5, 0, 2),
    Layout(8, 80, 32, 3, 3, 2),
    Layout(32, 80, 32, 3, 3, 1),
    Layout(32, 80, 32, 3, 3, 1),
    Layout(32, 184, 56, 3, 5, 2),
    Layout(56, 112, 56, 3, 3, 1),
    Layout(56, 184, 56, 3, 3, 1),
    Layout(56, 184, 56, 3, 5, 1),
    Layout(56, 184, 56, 3, 3, 1),
    Layout(56, 184, 56, 3, 3, 1),
    Layout(56, 184, 56, 3, 3, 1),
    Layout(56, 384, 104, 3, 5, 2),
    Layout(104, 280, 104, 5, 0, 1),
    Layout(104, 280, 104, 5, 0, 1),
    Layout(104, 344, 104, 5, 0, 1),
)


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
        out: Tensor = y + (x if self.skip is None else self.skip(self._shrink(x)))
        return out

    def _shrink(self, x: Tensor) -> Tensor:
        """3x3 average at the block's stride, of the pixels inside the frame only."""
        if self.stride == 1:
            return x
        window, step = (3, 3), (self.stride, self.stride)
        total = F.avg_pool2d(pad_same(x, window, step), window, step)
        inside = F.avg_pool2d(pad_same(torch.ones_like(x[:1, :1]), window, step), window, step)
        return total / inside


class MoViNet(nn.Module):
    """MoViNet-A0-Stream without its stream: the whole clip at once. Clips of any size and length,
    RGB in [0, 1]."""

    def __init__(self, classes: int = 600, blocks: tuple[Layout, ...] = A0) -> None:
        super().__init__()
        self.stem = SameConv2d(3, blocks[0].inner, 3, stride=2)
        self.blocks = nn.ModuleList(Block(layout) for layout in blocks)
        self.conv7 = nn.Conv2d(blocks[-1].outer, 480, 1)
        self.head = nn.Linear(480, 2048)
        self.cls = nn.Linear(2048, classes)

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
    return ["movinet_a0"]


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return SPEC


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """MoViNet-A0-Stream; see `vidmarl.load_victim`."""
    model, found = build(name, MoViNet, weights, WEIGHTS)
    return Victim(model, spec=spec, labels=class_names(model, found, "kinetics600"), name=title(name, found), **options)

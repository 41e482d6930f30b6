"""EfficientNet-Lite0, an image classifier: the prior of attacks that look at single frames.

The mobile variant of Tan and Le (ICML 2019), without squeeze and excitation and with ReLU6
throughout.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.victims.padding import pad_same


class Stage(NamedTuple):
    """Some blocks in a row: how often, channels in and out, expansion, kernel, and the stride of
    the first."""

    repeats: int
    inner: int
    outer: int
    expansion: int
    kernel: int
    stride: int


LITE0 = (
    Stage(1, 32, 16, 1, 3, 1),
    Stage(2, 16, 24, 6, 3, 2),
    Stage(2, 24, 40, 6, 5, 2),
    Stage(3, 40, 80, 6, 3, 2),
    Stage(3, 80, 112, 6, 5, 1),
    Stage(4, 112, 192, 6, 5, 2),
    Stage(1, 192, 320, 6, 3, 1),
)


class SameConv2d(nn.Conv2d):
    """A 2-D convolution with TensorFlow's "SAME" padding, with which the weights were trained."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size, self.stride))


class ConvNorm(nn.Sequential):
    """A convolution, batch norm, and ReLU6 unless told otherwise."""

    def __init__(
        self, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        layers: list[nn.Module] = [
            SameConv2d(inner, outer, kernel, stride, groups=groups, bias=False),
            nn.BatchNorm2d(outer, eps=1e-3),
        ]
        super().__init__(*layers, *([nn.ReLU6()] if active else []))


class Block(nn.Module):
    """Expand, filter each channel, project; added to the input where the shapes allow."""

    def __init__(self, inner: int, outer: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inner * expansion
        self.expand = ConvNorm(inner, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, outer, 1, active=False)
        self.residual = stride == 1 and inner == outer

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """From frames float[n 3 h w] in [0, 1], of any size, to the pooled features float[n 1280]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, stride=2)
        blocks = [
            Block(s.outer if i else s.inner, s.outer, s.expansion, s.kernel, 1 if i else s.stride)
            for s in LITE0
            for i in range(s.repeats)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(320, 1280, 1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1280"]:
        x: Tensor = self.head(self.blocks(self.stem((frames * 255 - 127) / 128)))
        return x.mean((2, 3))

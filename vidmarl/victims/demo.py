"""The victim of `vidmarl demo`: a small 3-D residual network of pytorchvideo's building blocks,
which the demo trains in a minute.

It tells the motions of `vidmarl.data.synthetic` apart. Its first filters start as drifting Gabor
waves, the model of motion energy of Adelson and Bergen (1985, "Spatiotemporal energy models for the
perception of motion"). From filters drawn without structure it takes many epochs before the first
motion is told from another.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidmarl.data.paths import cache_root
from vidmarl.data.spec import ClipSpec
from vidmarl.data.synthetic import CLASSES
from vidmarl.errors import CheckpointError
from vidmarl.utils.quiet import quiet_import
from vidmarl.victims.cards import Card
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build

SPEC = ClipSpec(frames=8, size=(64, 64), sampling="uniform")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def names() -> list[str]:
    """The victims of this family."""
    return ["demo"]


def card(name: str) -> Card:
    """What is known of it."""
    return Card(
        description="a small 3-D ResNet that tells motions apart",
        classes="synthetic motions",
        parameters=122_552,
        weights=WeightFile(default_path().name),
        made_by="vidmarl demo",
        source="trained by the demo",
        licence="MIT",
    )


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return SPEC


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """The trained victim of the demo; see `vidmarl.load_victim`.

    Without `weights` it is the one that the last demo has left in the cache folder.

    Raises:
        CheckpointError: it has not been trained yet, or `weights` are those of another network.
    """
    if weights is None:
        weights = default_path()
        if not weights.is_file():
            raise CheckpointError(
                f"Loading the victim {name!r}: expected its weights at {str(weights)!r}, where there is nothing yet."
                " `vidmarl demo` trains it, in about a minute. Or pass weights='path/to/victim.pt', or"
                " weights='random' for an untrained network."
            )
    model, _ = build(name, make_network, weights)
    return Victim(model, mean=MEAN, std=STD, spec=spec, labels=CLASSES, name=name, **options)


def default_path() -> Path:
    """Where the trained victim is kept unless another place is given."""
    return cache_root() / "demo_victim.pt"


def make_network(classes: int = len(CLASSES)) -> nn.Module:
    """The untrained network, for clips of any length and size.

    Args:
        classes: number of classes.

    Returns:
        A network from normalised clips float[b 3 t h w] to logits float[b classes].
    """
    with quiet_import():
        from pytorchvideo.models.head import create_res_basic_head
        from pytorchvideo.models.net import Net
        from pytorchvideo.models.resnet import create_bottleneck_block, create_res_stage
        from pytorchvideo.models.stem import create_res_basic_stem

    stem = create_res_basic_stem(
        in_channels=3, out_channels=16, conv_kernel_size=(3, 5, 5), conv_stride=(1, 2, 2), conv_padding=(1, 2, 2)
    )
    blocks, width = [stem], 16
    for inner, out in ((16, 32), (32, 64), (48, 96)):
        stage = create_res_stage(
            depth=1,
            dim_in=width,
            dim_inner=inner,
            dim_out=out,
            bottleneck=create_bottleneck_block,
            conv_a_kernel_size=(1, 1, 1),
            conv_a_stride=(1, 1, 1),
            conv_a_padding=(0, 0, 0),
            conv_b_kernel_size=(3, 3, 3),
            conv_b_stride=(1, 2, 2),
            conv_b_padding=(1, 1, 1),
        )
        blocks.append(stage)
        width = out
    # without a pool of its own, the head averages its scores over whatever is left of time and
    # space
    blocks.append(create_res_basic_head(in_features=width, out_features=classes, pool=None, dropout_rate=0.0))
    network: nn.Module = Net(blocks=nn.ModuleList(blocks))  # draws every weight anew, so the filters come after it
    _start_as_gabors(stem.conv)
    return network.to(memory_format=torch.channels_last_3d)  # a quarter faster on a CPU


@torch.no_grad()
def _start_as_gabors(conv: nn.Conv3d) -> None:
    """Turns the filters into Gabor waves that drift in all directions, at 1.5 to 4.5 px a frame, in
    random colours."""
    filters, _, *extent = conv.weight.shape
    t, y, x = torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in extent], indexing="ij")
    depth, height, width = extent
    window = torch.exp(-((2 * t / depth) ** 2) - (2 * y / height) ** 2 - (2 * x / width) ** 2)
    for i in range(filters):
        heading = 2 * math.pi * i / filters
        speed = 1.5 + 3 * float(torch.rand(()))
        frequency = min(1 / (4 + 8 * float(torch.rand(()))), 0.4 / speed)  # cycles/px; at 0.5 cycles/frame, it aliases
        along = x * math.cos(heading) + y * math.sin(heading)
        wave = window * torch.cos(2 * math.pi * (frequency * (along - speed * t) + torch.rand(())))
        colour = 1 + 0.7 * torch.randn(3)  # mostly light and dark, as most of what there is to see
        kernel = colour.view(3, 1, 1, 1) * (wave - wave.mean())
        conv.weight[i] = kernel / kernel.norm()

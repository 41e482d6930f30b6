"""C3D: eight 3x3x3 convolutions and three linear layers (Tran et al., "Learning Spatiotemporal
Features with 3D Convolutional Networks", ICCV 2015), trained on Sports-1M and then on UCF-101. With
MMAction2's conventions and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims import tsn
from vidmarl.victims.cards import Card
from vidmarl.victims.names import AROUND, Rules, renamer
from vidmarl.victims.padding import LAYOUT
from vidmarl.victims.shapes import check_shape
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

_RUN = "c3d_sports1m-pretrained_8xb30-16x1x1-45e_ucf101-rgb"
WEIGHTS = WeightFile(
    f"{_RUN}_20220811-31723200.pth", "31723200", f"{tsn.MMACTION}/c3d/{_RUN}/{_RUN}_20220811-31723200.pth"
)
SPEC = ClipSpec(frames=16, size=(112, 112), short_side=128, sampling="stride", stride=1, antialias=False, short="loop")
MEAN = (104 / 255, 117 / 255, 128 / 255)
"""Of R, G and B. Nothing is divided by a standard deviation: the values go up to 255."""
CONVOLUTIONS = {
    "conv1": (3, 64),
    "conv2": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
"""Channels in and out."""
POOLS = {
    "conv1": ((1, 2, 2), (0, 0, 0)),
    "conv2": ((2, 2, 2), (0, 0, 0)),
    "conv3b": ((2, 2, 2), (0, 0, 0)),
    "conv4b": ((2, 2, 2), (0, 0, 0)),
    "conv5b": ((2, 2, 2), (0, 1, 1)),
}
"""Window, which is the stride too, and padding of the max pooling that follows a convolution."""
_LAYERS = dict(zip((0, 3, 6, 8, 11, 13, 16, 18), CONVOLUTIONS, strict=True))
RULES: Rules = (
    *AROUND,
    (r"^fc\.", "fc8."),  # MMAction2's
    (r"^conv([12])a\.", r"conv\1."),
    (r"^(conv\d[ab]?)\.conv\.", r"\1."),
    *((rf"^features\.{number}\.", f"{name}.") for number, name in _LAYERS.items()),  # converted from Caffe
    *((rf"^classifier\.{number}\.", f"{name}.") for number, name in ((0, "fc6"), (3, "fc7"), (6, "fc8"))),
)
"""What the layers are called elsewhere. "conv1" to "fc8" are the names of its Sports-1M weights in
PyTorch, and of the authors' Caffe model but for an "a"."""


class C3D(nn.Module):
    """C3D. Clips of 16 frames of 112 px, RGB up to 255, less their mean."""

    def __init__(self, classes: int = 101) -> None:
        super().__init__()
        for name, (inner, outer) in CONVOLUTIONS.items():
            self.add_module(name, nn.Conv3d(inner, outer, 3, padding=1))
        self.fc6 = nn.Linear(8192, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        x = clips.contiguous(memory_format=LAYOUT)
        for name in CONVOLUTIONS:
            x = F.relu(self.get_submodule(name)(x))
            if name in POOLS:
                window, padding = POOLS[name]
                x = F.max_pool3d(x, window, padding=padding)
        x = F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))
        scores: Tensor = self.fc8(x)
        return scores


def names() -> list[str]:
    """The victims of this family."""
    return ["c3d"]


def card(name: str) -> Card:
    """What is known of it."""
    return Card(
        description="C3D, eight 3-D convolutions, trained on Sports-1M and UCF-101",
        paper="Tran et al., ICCV 2015",
        classes="UCF-101",
        parameters=78_409_573,
        weights=WEIGHTS,
        licence="Apache-2.0",
    )


def default_spec(name: str) -> ClipSpec:
    """How its clips are made unless told otherwise."""
    return SPEC


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """C3D; see `vidmarl.load_victim`."""
    check_shape(name, spec, SPEC)
    model, found = build(name, C3D, weights, WEIGHTS, renamed=renamer(RULES))
    model.to(memory_format=LAYOUT)
    return Victim(
        model,
        mean=MEAN,
        std=(1 / 255,) * 3,
        spec=spec,
        labels=class_names(model, found, "ucf101"),
        name=title(name, found),
        **options,
    )

"""The video classifiers of torchvision, with the preprocessing that its weights state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from vidmarl.data.spec import ClipSpec
from vidmarl.victims.cards import Card
from vidmarl.victims.padding import fit_pools
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title

# torchvision states size, mean and std of a model in code, but clip length and frame rate only in
# prose.
TIMING = {"mvit": (16, 7.5), "swin3d": (32, 15.0), "s3d": (128, 15.0), "": (16, 15.0)}
"""Frames of a clip and frames a second, by the start of a model's name."""
ABOUT = {
    "mc3": ("MC3, 3-D convolutions, then 2-D ones", "Tran et al., CVPR 2018"),
    "mvit_v1": ("MViT, a multiscale vision transformer", "Fan et al., ICCV 2021"),
    "mvit_v2": ("MViTv2, a better multiscale vision transformer", "Li et al., CVPR 2022"),
    "r2plus1d": ("R(2+1)D on a ResNet", "Tran et al., CVPR 2018"),
    "r3d": ("R3D, a 3-D ResNet", "Tran et al., CVPR 2018"),
    "s3d": ("S3D, a separable 3-D Inception", "Xie et al., ECCV 2018"),
    "swin3d": ("Video Swin, a transformer of shifted windows", "Liu et al., CVPR 2022"),
    "": ("a video model of torchvision", ""),
}
"""What a network is and where it was published, by the start of its name."""


def names() -> list[str]:
    """The victims of this family."""
    from torchvision import models

    found: list[str] = models.list_models(module=models.video)
    return found


def card(name: str) -> Card:
    """What is known of it."""
    from torchvision import models

    description, paper = next(about for start, about in ABOUT.items() if name.startswith(start))
    return Card(
        description=description,
        paper=paper,
        classes="Kinetics-400",
        parameters=models.get_model_weights(name).DEFAULT.meta["num_params"],
        weights=weight_file(name),
        licence="BSD-3-Clause",
    )


def weight_file(name: str) -> WeightFile:
    """Its published weights; at the end of the file's name are the first digits of its sha256."""
    from torchvision import models

    url: str = models.get_model_weights(name).DEFAULT.url
    digits = re.search(r"-([0-9a-f]{8,})\.\w+$", url)
    return WeightFile(url.rpartition("/")[2], digits and digits[1], url)


def conventions(name: str) -> tuple[ClipSpec, dict[str, Any]]:
    """How torchvision's own weights for a model want their clips.

    Its resize to fixed height and width (128 x 171, 256 x 256) becomes a resize of the short side
    to that height, so that frames of any aspect keep their shape.

    Returns:
        The clip spec, and mean and std for `Victim`.
    """
    from torchvision import models

    preset = models.get_model_weights(name).DEFAULT.transforms()
    frames, fps = next(timing for start, timing in TIMING.items() if name.startswith(start))
    height, width = preset.crop_size
    spec = ClipSpec(
        frames=frames,
        size=(height, width),
        short_side=preset.resize_size[0],
        sampling="fps",
        fps=fps,
        antialias=False,
        short="hold",
    )
    return spec, {"mean": preset.mean, "std": preset.std}


def default_spec(name: str) -> ClipSpec:
    """The clips that torchvision's own weights for the model were tested on."""
    return conventions(name)[0]


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """A model of `torchvision.models.video`; see `vidmarl.load_victim`."""
    from torchvision import models

    usual, normalisation = conventions(name)
    if name.startswith("mvit") and (spec.frames, spec.size) != (usual.frames, usual.size):
        raise ValueError(
            f"Making the victim {name!r}: its position encoding is made for {usual.frames} frames of {usual.size} px,"
            f" got a spec of {spec.frames} frames of {spec.size} px. Leave out the spec, or take another victim."
        )

    def make(classes: int = 400) -> nn.Module:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        return model

    model, found = build(name, make, weights, weight_file(name))
    fit_pools(model)
    return Victim(
        model,
        spec=spec,
        labels=class_names(model, found, "kinetics400"),
        name=title(name, found),
        **normalisation,
        **options,
    )

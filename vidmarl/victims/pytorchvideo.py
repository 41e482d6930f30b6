"""The video classifiers of PyTorchVideo's hub, with the clips that their published weights were
tested on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.utils.quiet import quiet_import
from vidmarl.victims.cards import Card
from vidmarl.victims.padding import fit_pools
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import WeightFile, build, class_names, title


class Convention(NamedTuple):
    """Frames x stride at about 30 frames a second, short side and crop in px, the file of its
    weights, parameters, the argument for the class count."""

    frames: int
    stride: int
    short_side: int
    crop: int
    file: str
    parameters: int
    classes: str = "model_num_class"


# Frames and strides: PyTorchVideo's model zoo. Sizes: those of its hub examples, one view in the
# centre; X3D-L and the efficient X3Ds have none there and get their training crop. The detection
# models (which want boxes) and the image model of the hub are no clip classifiers and are left out.
CONVENTIONS = {
    "c2d_r50": Convention(8, 8, 256, 256, "C2D_8x8_R50", 24_327_632),
    "csn_r101": Convention(32, 2, 256, 256, "CSN_32x2_R101", 22_213_776),
    "efficient_x3d_s": Convention(13, 6, 182, 160, "efficient_x3d_s_original_form", 3_794_322, "num_classes"),
    "efficient_x3d_xs": Convention(4, 12, 182, 160, "efficient_x3d_xs_original_form", 3_794_322, "num_classes"),
    "i3d_r50": Convention(8, 8, 256, 256, "I3D_8x8_R50", 28_043_472),
    "mvit_base_16x4": Convention(16, 4, 256, 224, "MVIT_B_16x4", 36_610_672, "head_num_classes"),
    "mvit_base_32x3": Convention(32, 3, 256, 224, "MVIT_B_32x3_f294077834", 36_611_440, "head_num_classes"),
    "r2plus1d_r50": Convention(16, 4, 256, 256, "R2PLUS1D_16x4_R50", 28_107_600),
    "slow_r50": Convention(8, 8, 256, 256, "SLOW_8x8_R50", 32_454_096),
    "slowfast_16x8_r101_50_50": Convention(64, 2, 256, 256, "SLOWFAST_16x8_R101_50_50", 53_774_808),
    "slowfast_r101": Convention(32, 2, 256, 256, "SLOWFAST_8x8_R101", 62_826_968),
    "slowfast_r50": Convention(32, 2, 256, 256, "SLOWFAST_8x8_R50", 34_566_488),
    "x3d_l": Convention(16, 5, 356, 312, "X3D_L", 6_153_384),
    "x3d_m": Convention(16, 5, 256, 256, "X3D_M", 3_794_274),
    "x3d_s": Convention(13, 6, 182, 182, "X3D_S", 3_794_274),
    "x3d_xs": Convention(4, 12, 182, 182, "X3D_XS", 3_794_274),
}
ABOUT = {
    "c2d": ("C2D, a 2-D ResNet that pools over time", "Wang et al., CVPR 2018"),
    "csn": ("CSN, channel-separated convolutions", "Tran et al., ICCV 2019"),
    "efficient_x3d": ("X3D for the CPU of a phone", "Feichtenhofer, CVPR 2020"),
    "i3d": ("I3D on a ResNet", "Carreira & Zisserman, CVPR 2017"),
    "mvit": ("MViT, a multiscale vision transformer", "Fan et al., ICCV 2021"),
    "r2plus1d": ("R(2+1)D on a ResNet", "Tran et al., CVPR 2018"),
    "slowfast": ("SlowFast, two pathways of two frame rates", "Feichtenhofer et al., ICCV 2019"),
    "slow": ("Slow, the slow pathway of SlowFast alone", "Feichtenhofer et al., ICCV 2019"),
    "x3d": ("X3D, a small network expanded step by step", "Feichtenhofer, CVPR 2020"),
}
"""What a network is and where it was published, by the start of its name."""
ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
"""Where its published weights are. No checksums of them are published."""
SLOWFAST_ALPHA = 4
"""How many frames of the fast pathway go by for one of the slow pathway."""


class TwoPathways(nn.Module):
    """Gives SlowFast what it wants: the slow and the fast frames of each clip."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        frames = clips.shape[2]
        if frames % SLOWFAST_ALPHA:
            raise ValueError(f"SlowFast needs a multiple of {SLOWFAST_ALPHA} frames, got {frames}.")
        # Its sampling: spread evenly from the first frame to the last, not every fourth.
        slow = [i * (frames - 1) // max(frames // SLOWFAST_ALPHA - 1, 1) for i in range(frames // SLOWFAST_ALPHA)]
        scores: Tensor = self.network([clips[:, :, slow], clips])  # a new list: the network overwrites its entries
        return scores


def names() -> list[str]:
    """The victims of this family."""
    return list(CONVENTIONS)


def card(name: str) -> Card:
    """What is known of it."""
    description, paper = next(about for start, about in ABOUT.items() if name.startswith(start))
    return Card(
        description=description,
        paper=paper,
        classes="Kinetics-400",
        parameters=CONVENTIONS[name].parameters,
        weights=weight_file(name),
        licence="Apache-2.0",
    )


def weight_file(name: str) -> WeightFile:
    """Its published weights."""
    file = f"{CONVENTIONS[name].file}.pyth"
    return WeightFile(file, url=f"{ZOO}/{file}")


def default_spec(name: str) -> ClipSpec:
    """The clips that the model's published weights were tested on."""
    usual = CONVENTIONS[name]
    return ClipSpec(
        frames=usual.frames,
        size=(usual.crop, usual.crop),
        short_side=usual.short_side,
        sampling="stride",
        stride=usual.stride,
        antialias=False,
        short="hold",
    )


def load(name: str, weights: str | Path | None, *, spec: ClipSpec, **options: Any) -> Victim:
    """A model of `pytorchvideo.models.hub`; see `vidmarl.load_victim`."""
    with quiet_import():
        from pytorchvideo.models import hub

    builder: Callable[..., nn.Module] = getattr(hub, name)
    fixed = {}
    if name.startswith("mvit"):  # its position encoding is made for one size
        fixed = {"spatial_size": spec.size, "temporal_size": spec.frames or CONVENTIONS[name].frames}

    def make(classes: int = 400) -> nn.Module:
        return builder(pretrained=False, **{CONVENTIONS[name].classes: classes}, **fixed)

    model, found = build(name, make, weights, weight_file(name))
    labels = class_names(model, found, "kinetics400")
    softmax = any(isinstance(module, nn.Softmax) for module in model.modules())  # X3D and R(2+1)D end in one
    fit_pools(model)
    return Victim(
        TwoPathways(model) if name.startswith("slowfast") else model,
        mean=(0.45,) * 3,
        std=(0.225,) * 3,
        spec=spec,
        outputs="probabilities" if softmax else "logits",
        labels=labels,
        name=title(name, found),
        **options,
    )

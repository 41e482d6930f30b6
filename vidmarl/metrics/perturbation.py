"""How large a perturbation is, and how much of a clip it touches.

Each function takes (clean, adversarial), float32[b 3 t h w] in [0, 1], and gives one number per
clip.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidmarl.metrics.column import Column, metric
from vidmarl.perturbations.grid import TubeletGrid


def touched(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Bool[Tensor, "b t h w"]:
    """Pixels of which any channel has changed."""
    return (adversarial != clean).any(1)


def mean_square(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Mean squared change over all pixels, channels and frames."""
    return (adversarial - clean).square().flatten(1).mean(1)


@metric(
    Column("l2", "L2", "Euclidean norm of the perturbation over the whole clip, pixels in [0, 1]", better="lower"),
    order=10,
)
def l2(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Euclidean norm of the perturbation in [0, 1] pixels, over the whole clip."""
    norm: Tensor = (adversarial - clean).flatten(1).norm(dim=1)
    return norm


@metric(Column("l0", "L0", "number of changed pixels in all frames", better="lower", shown=False), order=11)
def l0(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Number of pixels of all frames that have changed.

    A pixel counts once, however many of its channels have changed.
    """
    return touched(clean, adversarial).flatten(1).sum(1).float()


@metric(Column("linf", "Linf", "largest change of a channel, in [0, 1]", better="lower", shown=False), order=12)
def linf(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Largest change of a channel, in [0, 1]."""
    return (adversarial - clean).abs().flatten(1).amax(1)


@metric(Column("map", "MAP", "mean absolute change of a channel", "8-bit steps", better="lower"), order=13)
def mean_absolute(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """MAP: mean absolute change over all pixels, channels and frames, in 8-bit steps.

    It flatters sparse attacks.
    """
    return (adversarial - clean).abs().flatten(1).mean(1) * 255


@metric(
    Column(
        "map_support", "MAP on support", "MAP over the touched pixels only", "8-bit steps", better="lower", shown=False
    ),
    order=14,
)
def mean_absolute_support(
    clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]
) -> Float[Tensor, " b"]:
    """MAP over the touched pixels only, in 8-bit steps; 0 where nothing is touched."""
    total = (adversarial - clean).abs().flatten(1).sum(1) * 255
    return total / (3 * l0(clean, adversarial)).clamp_min(1)


@metric(Column("frames", "Frames", "share of the frames that are touched", format="%", better="lower"), order=15)
def frames_touched(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Fraction of the frames in which any pixel has changed."""
    return touched(clean, adversarial).flatten(2).any(2).float().mean(1)


@metric(Column("cells", "Cells", "share of the tubelets that are touched", format="%", better="lower"), order=16)
def cells_touched(
    clean: Float[Tensor, "b 3 t h w"],
    adversarial: Float[Tensor, "b 3 t h w"],
    strength: Float[Tensor, "b gt gh gw"] | None = None,
    grid: TubeletGrid | None = None,
) -> Float[Tensor, " b"]:
    """Fraction of the tubelets that are touched.

    Args:
        clean: float[b 3 t h w].
        adversarial: float[b 3 t h w].
        strength: the strength map: a tubelet is touched where it is not 0. Without it, a tubelet is
            touched where a pixel in it has changed.
        grid: the tubelets, where there is no strength map; default 1 frame x 16 px.
    """
    if strength is not None:
        return (strength != 0).flatten(1).float().mean(1)
    share = (grid or TubeletGrid()).pool(touched(clean, adversarial)[:, None].float())
    return (share > 0).flatten(1).to(torch.float32).mean(1)

"""How a perturbation behaves in time: whether it flickers, and whether it moves as the clip does.

Each function takes (clean, adversarial), float32[b 3 t h w] in [0, 1], and gives one number per
clip. A perturbation of twice the norm flickers four times as much. What compares attacks at equal
norm is a share: the flicker, or the warping error that was added, over the mean squared
perturbation.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vidmarl.metrics.column import Column, metric
from vidmarl.metrics.perturbation import mean_square

_SMALLEST_ENERGY = 1e-12
"""Of a perturbation in a share, so that the share of none is 0."""


@metric(
    Column("flicker", "Flicker", "mean squared change of the perturbation between frames", better="lower", shown=False),
    order=30,
)
def flicker(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Mean squared first time difference of the perturbation.

    It is 0 for one that stands still, and for a single frame.
    """
    return _mean_square((adversarial - clean).diff(dim=2))


@metric(
    Column(
        "flicker2",
        "Flicker, second",
        "mean squared second time difference of the perturbation",
        better="lower",
        shown=False,
    ),
    order=31,
)
def flicker2(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Mean squared second time difference of the perturbation; 0 for one that grows or fades
    evenly."""
    return _mean_square((adversarial - clean).diff(n=2, dim=2))


@metric(
    Column(
        "flicker_share",
        "Flicker share",
        "flicker over the mean squared perturbation (0 stands still, 2 is another pattern in every frame)",
        format=".2f",
        better="lower",
    ),
    order=32,
)
def flicker_share(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Flicker over the mean squared perturbation.

    It is 0 where the perturbation stands still, 2 where every frame has another one, and at most
    4 t / (t - 1).
    """
    return flicker(clean, adversarial) / mean_square(clean, adversarial).clamp_min(_SMALLEST_ENERGY)


def _mean_square(values: Tensor) -> Float[Tensor, " b"]:
    return values.square().flatten(1).mean(1) if values.numel() else values.new_zeros(len(values))


def warping_error(clean: Float[Tensor, "b 3 t h w"], video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """How far `video` is from moving as the clean clip moves (Lai et al., ECCV 2018, section 4.3).

    It is the mean squared difference of each frame and the next one warped back to it, over the
    pixels that are not occluded. Motion and occlusion are those of the clean clip. A clean clip has
    a warping error too, since light changes and flow errs: compare with it.
    """
    return _warping_errors(clean, video)[0]


@metric(
    Column("warping", "Warping error", "warping error of the attacked clip", better="lower", shown=False),
    Column("warping_clean", "Warping error, clean", "warping error of the original", shown=False),
    Column(
        "warping_share",
        "Warping share",
        "warping error that the attack has added, over the mean squared perturbation",
        format=".2g",
        better="lower",
    ),
    slow=True,
    order=33,
)
def warping(
    clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The warping error of the attacked clip, that of the clean clip, and what was added as a share
    of the mean squared perturbation."""
    attacked, original = _warping_errors(clean, adversarial, clean)
    energy = mean_square(clean, adversarial).clamp_min(_SMALLEST_ENERGY)
    return attacked, original, (attacked - original) / energy


def _warping_errors(clean: Tensor, *videos: Tensor) -> list[Tensor]:
    """The warping error of each video under the motion of the clean clip, which costs the most."""
    from vidmarl.perturbations.flow import estimate_flow, occlusion, warp

    if clean.shape[2] < 2 or len(clean) == 0:
        return [clean.new_zeros(len(clean)) for _ in videos]
    forward, backward = estimate_flow(clean), estimate_flow(clean, "backward")
    visible = (~occlusion(forward, backward)).float()
    pixels = visible.flatten(1).sum(1).clamp_min(1)

    def error(video: Tensor) -> Tensor:
        squares = (warp(video[:, :, 1:], forward) - video[:, :, :-1]).square().mean(1, keepdim=True)
        return (squares * visible).flatten(1).sum(1) / pixels

    return [error(video) for video in videos]

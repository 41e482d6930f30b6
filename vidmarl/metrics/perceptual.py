"""How much of a perturbation a person would see: SSIM, PSNR and ST-LPIPS, frame by frame.

Each function takes (clean, adversarial), float32[b 3 t h w] in [0, 1], and gives one number per
clip.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.metrics.column import Column, metric
from vidmarl.metrics.lpips_network import SMALLEST, STLPIPS, WEIGHTS

SSIM_SMALLEST = 11
"""Frames need this many pixels on their short side for SSIM, the size of its window."""

_AT_ONCE = 8
"""Frames that are compared at once; bounds the memory."""


@metric(Column("ssim", "SSIM", "structural similarity, 1 for equal clips", format=".4f", better="higher"), order=20)
def ssim(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Structural similarity per frame (Wang et al. 2004, Gaussian window of 11 px), averaged.

    It is 1 for equal clips, and NaN for frames smaller than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(clean.shape[-2:]) < SSIM_SMALLEST:
        return clean.new_full((len(clean),), torch.nan)

    def index(first: Tensor, second: Tensor) -> Tensor:
        value = structural_similarity_index_measure(second, first, data_range=1.0, reduction="none")
        return torch.as_tensor(value).view(-1)

    return _frame_mean(index, clean, adversarial, of_equal=1)


@metric(
    Column("psnr", "PSNR", "peak signal-to-noise ratio of the touched frames", "dB", better="higher", shown=False),
    order=21,
)
def psnr(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB per frame, averaged over the touched frames.

    It is infinite where no frame is touched. An untouched frame has an infinite ratio, and one of
    them would make the average of any sparse attack infinite.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    ours, theirs = _frames(adversarial), _frames(clean)
    per_frame = peak_signal_noise_ratio(ours, theirs, data_range=1.0, reduction="none", dim=(1, 2, 3))
    per_frame = rearrange(per_frame, "(b t) -> b t", t=clean.shape[2])
    finite = per_frame.isfinite()
    mean = per_frame.where(finite, 0).sum(1) / finite.sum(1)
    return mean.where(finite.any(1), torch.inf)


@metric(
    Column("stlpips", "ST-LPIPS", "shift-tolerant LPIPS, 0 for equal clips", better="lower"),
    slow=True,
    order=22,
)
def stlpips(clean: Float[Tensor, "b 3 t h w"], adversarial: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, " b"] | None:
    """Shift-tolerant LPIPS (`lpips_network`) per frame, averaged; 0 for equal clips.

    NaN for frames too small for the network. None where its weights are not there; a warning says
    so, once.
    """
    network = _stlpips()
    if network is None:
        return None
    if min(clean.shape[-2:]) < SMALLEST:
        return clean.new_full((len(clean),), torch.nan)
    with torch.inference_mode():
        return _frame_mean(network.to(clean.device), clean, adversarial, of_equal=0).clone()


@cache
def _stlpips() -> STLPIPS | None:
    """The ST-LPIPS network, loaded once, or None (said once) where its weights are not there."""
    from vidmarl.data.paths import data_root

    path = data_root() / "weights" / WEIGHTS
    if not path.exists():
        warnings.warn(
            f"ST-LPIPS is left out: its weights are not at {path}. Set VIDMARL_DATA to the folder that has"
            f" weights/{WEIGHTS}.",
            stacklevel=4,
        )
        return None
    return STLPIPS.from_file(path)


def _frames(clips: Tensor) -> Float[Tensor, "n 3 h w"]:
    return rearrange(clips, "b c t h w -> (b t) c h w").contiguous()


def _frame_mean(
    distance: Callable[[Tensor, Tensor], Tensor], clean: Tensor, adversarial: Tensor, of_equal: float
) -> Float[Tensor, " b"]:
    """The mean over a clip's frames of a slow distance that is `of_equal` for equal frames."""
    first, second = _frames(clean), _frames(adversarial)
    values = clean.new_full((len(first),), of_equal)
    differ = (first != second).flatten(1).any(1).nonzero().flatten()
    for rows in differ.split(_AT_ONCE) if len(differ) else ():
        values[rows] = distance(first[rows], second[rows])
    return rearrange(values, "(b t) -> b t", t=clean.shape[2]).mean(1)

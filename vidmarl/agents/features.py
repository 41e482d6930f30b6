"""What every tubelet looks like to a black-box attacker, and what distorting it costs: the input of
the agents' learned encoders."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from vidmarl.perturbations.flow import luminance
from vidmarl.perturbations.grid import TubeletGrid

NAMES: tuple[str, ...] = (
    "red",
    "green",
    "blue",
    "top_left",
    "top_right",
    "bottom_left",
    "bottom_right",
    "contrast",
    "gradient_x",
    "gradient_y",
    "change_before",
    "change_after",
    "motion",
    "x",
    "y",
    "time",
    "cost",
)
CHANNELS: int = len(NAMES)

_CONTRAST = 4.0
_EDGES = 10.0
_CHANGE = 8.0
"""Factors that bring the spread of natural clips to about one."""

SMALLEST_COST = 0.02
"""Added to every cost, as a share of the mean of the clip's tubelets, so that the worth of what
hardly changes a pixel has a bound."""


@torch.no_grad()
def extract(
    clips: Float[Tensor, "b 3 t h w"], grid: TubeletGrid, energy: Float[Tensor, "b gt gh gw"]
) -> Float[Tensor, "b c gt gh gw"]:
    """The appearance, change, place and cost of every tubelet; takes a few poolings and no flow.

    - `red`, `green`, `blue`: mean colour, [0, 1].
    - `top_left` ... `bottom_right`: mean luminance of the quarters of the cell, [0, 1]: a thumbnail
      of 2 x 2.
    - `contrast`: standard deviation of the luminance.
    - `gradient_x`, `gradient_y`: mean absolute difference to the pixel on the right, and below.
    - `change_before`, `change_after`: mean absolute difference of the colours to the frame before
      and after, 0 where there is none.
    - `motion`: the sum of both changes less its median over the frame's tubelets. The median stands
      for what the camera does to the whole frame, so what is left is what moves by itself; below 0
      where less happens than around.
    - `x`, `y`: the tubelet's centre, [-1, 1] from the left and the top border to the right and the
      bottom one.
    - `time`: [0, 1] from the first frame to the last.
    - `cost`: logarithm of what distorting it adds to the squared L2 norm, over the mean of its clip
      (the function `cost`).

    Contrast, gradients and changes are scaled to a spread of about one in natural clips.

    Args:
        clips: float[b 3 t h w] in [0, 1].
        grid: the tubelets; those at the end may be ragged.
        energy: what each adds to the squared L2 norm at full strength
            (`vidmarl.perturbations.renderer.Renderer.cell_energy`).

    Returns:
        float32[b c gt gh gw], the channels in the order of `NAMES`.
    """
    clips = clips.float()
    b, _, t, h, w = clips.shape
    luma = luminance(clips)[:, None]
    mean = grid.pool(luma)
    contrast = grid.pool((luma - grid.expand(mean[:, 0], t, h, w)).square()).sqrt()

    edges = torch.zeros_like(luma).expand(b, 2, t, h, w).clone()
    edges[:, 0, ..., :, :-1] = luma.diff(dim=-1).abs()[:, 0]
    edges[:, 1, ..., :-1, :] = luma.diff(dim=-2).abs()[:, 0]

    change = clips.new_zeros(b, 2, t, h, w)
    difference = clips.diff(dim=2).abs().mean(1)
    change[:, 0, 1:] = difference
    change[:, 1, :-1] = difference
    change = grid.pool(change)
    total = change.sum(1, keepdim=True)
    motion = total - total.flatten(3).median(3).values[..., None, None]

    return torch.cat(
        [
            grid.pool(clips),
            _quarters(luma, mean, grid),
            _CONTRAST * contrast,
            _EDGES * grid.pool(edges),
            _CHANGE * change,
            _CHANGE * motion,
            _place(clips, grid),
            cost(energy, energy.flatten(1).mean(1)).log()[:, None],
        ],
        dim=1,
    )


def cost(energy: Float[Tensor, "b ..."], mean: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """Squared norms as shares of the mean one of a clip's tubelets, and a little more: see
    `SMALLEST_COST`.

    Args:
        energy: squared L2 norms.
        mean: that of the clip.
    """
    return energy / mean.clamp_min(1e-12).view(-1, *[1] * (energy.ndim - 1)) + SMALLEST_COST


def _quarters(
    luma: Float[Tensor, "b 1 t h w"], mean: Float[Tensor, "b 1 gt gh gw"], grid: TubeletGrid
) -> Float[Tensor, "b 4 gt gh gw"]:
    """Mean luminance of each quarter of a cell; that of the cell where a quarter has no pixels."""
    upper = _first_half(luma.shape[-2], grid.height, luma)[:, None]
    left = _first_half(luma.shape[-1], grid.width, luma)
    inside = torch.stack([upper * left, upper * (1 - left), (1 - upper) * left, (1 - upper) * (1 - left)])
    inside = repeat(inside, "q h w -> 1 q t h w", t=luma.shape[2])
    share = grid.pool(inside)
    return torch.where(share > 0, grid.pool(luma * inside) / share.clamp_min(1e-6), mean)


def _first_half(size: int, cell: int, like: Tensor) -> Float[Tensor, " size"]:
    """1 in the first half of every cell along an axis, its middle pixel included; a ragged cell is
    halved as it is."""
    place = torch.arange(size, device=like.device)
    start = place // cell * cell
    end = (start + cell).clamp_max(size)
    return (2 * (place - start) < end - start).to(like)


def _place(clips: Float[Tensor, "b 3 t h w"], grid: TubeletGrid) -> Float[Tensor, "b 3 gt gh gw"]:
    """Where the centre of every tubelet is: x and y in [-1, 1], time in [0, 1]."""
    b, _, t, h, w = clips.shape
    x = (2 * torch.arange(w, device=clips.device) + 1) / w - 1
    y = (2 * torch.arange(h, device=clips.device) + 1) / h - 1
    time = torch.arange(t, device=clips.device) / max(t - 1, 1)
    time, y, x = torch.meshgrid(time, y, x, indexing="ij")
    return grid.pool(rearrange([x, y, time], "c t h w -> 1 c t h w")).expand(b, -1, -1, -1, -1)

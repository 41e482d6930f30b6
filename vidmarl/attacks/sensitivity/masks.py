"""Maps made of the mean answer of the masks that cover a cell: RISE and occlusion.

They are what `posterior` is measured against (docs/sensitivity.md). They say nothing of how far off
they are.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from vidmarl.attacks.sensitivity.plan import Estimate, Plan
from vidmarl.queries.clip import ClipView

DENSITY = 0.2
"""The share of the cells that a mask of RISE distorts. Of 0.5 (as in the paper), 0.2, 0.1, 0.03
and 0.01 it gave by far the best maps of where, and with 0.01 the best of cells
(docs/sensitivity.md)."""


def rise(clip: ClipView, most: int) -> Plan:
    """Random smooth masks (Petsiuk et al., "RISE", 2018), here of distortion.

    A mask is drawn on a grid half as fine as that of the search cells and enlarged linearly, at
    a random offset.

    Args:
        clip: the clip.
        most: the number of masks.
    """
    masks = torch.stack([_smooth_mask(clip.shape, clip.rng) for _ in range(most)])
    return _averaged(masks)


def _smooth_mask(shape: tuple[int, int, int], rng: torch.Generator) -> Float[Tensor, "t y x"]:
    coarse = [-(-side // 2) + 1 for side in shape]
    drawn = (torch.rand(coarse, generator=rng) < DENSITY).float()
    fine = interpolate(drawn[None, None], scale_factor=2, mode="trilinear")[0, 0]
    t, y, x = torch.randint(2, (3,), generator=rng).tolist()
    return fine[t : t + shape[0], y : y + shape[1], x : x + shape[2]]


def occlusion(clip: ClipView, most: int) -> Plan:
    """A box that slides over the clip (Zeiler and Fergus 2014), in the finest steps that the budget
    allows; boxes overlap by half.

    Args:
        clip: the clip.
        most: boxes at most.
    """
    t, y, x = clip.shape
    steps = itertools.product(range(1, t + 1), range(1, max(y, x) + 1))
    count, (along, across) = max(
        ((n, step) for step in steps if (n := _boxes(clip.shape, step)) <= most), key=lambda found: found[0]
    )
    masks = torch.zeros(count, t, y, x)
    places = itertools.product(range(0, t, along), range(0, y, across), range(0, x, across))
    for mask, (first, top, left) in zip(masks, places, strict=True):
        mask[first : first + 2 * along - 1, top : top + 2 * across - 1, left : left + 2 * across - 1] = 1
    return _averaged(masks)


def _boxes(shape: tuple[int, int, int], step: tuple[int, int]) -> int:
    along, across = step
    return math.prod(-(-side // by) for side, by in zip(shape, (along, across, across), strict=True))


def _averaged(masks: Float[Tensor, "n t y x"]) -> Plan:
    """A plan whose map is the mean fall of the margin over the masks, weighted by how much they
    cover a cell."""

    def read(drops: Float[Tensor, " n"], margin: float) -> Estimate:
        covered = masks.sum(0)
        effects = torch.einsum("n,ntyx->tyx", drops, masks) / covered
        effects = effects.where(covered > 0, drops.mean())
        unknown = torch.full_like(effects, torch.nan)
        return Estimate(effects, unknown, unknown[0], unknown[:, 0, 0])

    return Plan(masks, read)

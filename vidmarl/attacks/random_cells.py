"""The weak control: random cells, more and more of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.attacks.search.restarts import Find, RestartAttack
from vidmarl.queries.clip import ClipView


class RandomCells(RestartAttack):
    """Distorts random search cells at full strength, a block more with each query.

    Of what the victim says, only whether the goal holds is used. Where the distortion has two
    directions each cell gets one at random. Once every cell is distorted in vain, another random
    order begins. A success found this way is much too large; like that of every attack it is
    minimized.

    Args:
        block: search cells added with each query; None: as many as it takes to reach all of them
            in half of the budget.
    """

    block: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block is not None and self.block < 1:
            raise ValueError(f"RandomCells: a block needs at least 1 search cell, got {self.block}.")

    def find(self, clip: ClipView, bound: float) -> Find:
        cells = math.prod(clip.shape)
        block = self.block or -(-cells // max(self.budget // 2, 1))
        return (yield from in_random_order(clip, [*range(block, cells, block), cells], bound))


def in_random_order(clip: ClipView, counts: Sequence[int], bound: float) -> Find:
    """Asks about the first so many cells of a random order, one count after the other.

    It ends when the goal holds, or when the distortion is as large as `bound`.
    """
    order = torch.randperm(math.prod(clip.shape), generator=clip.rng)
    full = clip.random_signs()
    for count in counts:
        strength = first_cells(full, order, count)
        response = yield strength
        if response.l2 >= bound:
            break
        if response.success:
            return strength, float(response.l2)
    return None


def first_cells(full: Float[Tensor, "t y x"], order: Int64[Tensor, " n"], count: int) -> Float[Tensor, "t y x"]:
    """The strengths of `full` at the first `count` cells of an order, and 0 elsewhere."""
    strength = torch.zeros_like(full)
    strength.view(-1)[order[:count]] = full.flatten()[order[:count]]
    return strength

"""The weak control: random tubelets, more and more of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vidmarl.attacks.search.restarts import Find, RoundsAttack
from vidmarl.queries.session import Session


class RandomCells(RoundsAttack):
    """Distorts random tubelets at full strength, a block more with each query, until the goal
    holds.

    Nothing that the victim says is used, but whether the goal holds. Where the distortion has two
    directions each tubelet gets one at random. Once every tubelet is distorted in vain, another
    random order (and other directions) begins. What is found is much too large, so by default it is
    reduced like every other attack's find: with `reduce=False` this is the control without any
    feedback.

    Args:
        distortion: see `Attack`.
        block: tubelets added with each query; None: as many as it takes to get through all in half
            of the budget.
        **common: see `RoundsAttack`.
    """

    def __init__(self, distortion: Any = "gaussian_noise", *, block: int | None = None, **common: Any) -> None:
        super().__init__(distortion, **common)
        if block is not None and block < 1:
            raise ValueError(f"RandomCells: a block needs at least 1 tubelet, got {block}.")
        self.block = block

    def find(self, session: Session, row: int, room: float) -> Find:
        cells = math.prod(session.renderer.cells)
        block = self.block or -(-cells // max(self.budget // 2, 1))
        return (yield from in_random_order(session, row, [*range(block, cells, block), cells], room))


def in_random_order(session: Session, row: int, counts: Sequence[int], room: float) -> Find:
    """Asks about the first so many tubelets of a random order, one count after the other, until the
    goal holds, or until they are as large as `room`."""
    order, full = random_order(session, row)
    for count in counts:
        strength = first_cells(full, order, count)
        response = yield strength
        if response.l2 >= room:
            break
        if response.success:
            return strength, float(response.l2)
    return None


def random_order(session: Session, row: int) -> tuple[Tensor, Tensor]:
    """A random order of a clip's tubelets, and a map of full strength in random directions.

    Returns:
        int64[cells], and float[gt gh gw] of 1, or of -1 and 1 where the distortion has two
        directions.
    """
    generator = session.generator(row)
    full = torch.ones(session.renderer.cells)
    order = torch.randperm(full.numel(), generator=generator)
    if session.renderer.low < 0:
        full = torch.where(torch.rand(full.shape, generator=generator) < 0.5, -full, full)
    return order, full


def first_cells(full: Tensor, order: Tensor, count: int) -> Tensor:
    """The strengths of `full` at the first `count` tubelets of an order, and 0 elsewhere."""
    strength = torch.zeros_like(full)
    strength.view(-1)[order[:count]] = full.flatten()[order[:count]]
    return strength

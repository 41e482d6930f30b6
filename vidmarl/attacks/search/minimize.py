"""The minimization that every attack ends with: a success is made smaller."""

from __future__ import annotations

from collections.abc import Generator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Request, Search
from vidmarl.queries.session import Response
from vidmarl.utils.randomness import gumbel

FACTORS = (0.0, 0.5, 0.75)
"""What groups of tubelets are multiplied by, one factor after another: removed, then weakened."""


def minimize(
    clip: ClipView,
    strength: Float[Tensor, "t y x"] | None = None,
    l2: float | None = None,
    *,
    ranking: Float[Tensor, "t y x"] | None = None,
) -> Search:
    """Makes a success smaller, for as long as it stays a success and there is budget.

    Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
    2002) over the touched tubelets: remove half of them; if the goal still holds, go on with the
    rest. Once no group of this size can be spared, try groups of half the size, down to single
    tubelets. Groups are random search cells; groups smaller than a search cell are neighbouring
    tubelets of one. Then the same with groups at half of their strength, and at three quarters,
    each time from the whole map on. Without a success there is nothing to do.

    Args:
        clip: the clip.
        strength: the success, float[gt gh gw] or a map of search cells; None: the best of the clip.
        l2: its L2 norm.
        ranking: logits of the search cells; groups are made, and tried, from the low to the high
            ones, as drawn by chance. None: all alike.
    """
    if strength is None or l2 is None:
        if not clip.fooled:
            return
        strength, l2 = clip.best.strength, clip.best.l2
    strength = clip.upsample(strength) * (clip.energy() > 0)
    with clip.phase("minimize"):
        for factor in FACTORS:
            strength, l2 = yield from _weaken(clip, strength, l2, factor, ranking)


def _weaken(
    clip: ClipView, strength: Tensor, l2: float, factor: float, ranking: Tensor | None
) -> Generator[Tensor | Request, Response, tuple[Tensor, float]]:
    """Multiplies groups of tubelets by `factor` while the goal holds; the success and its norm."""
    size = int(strength.count_nonzero())
    while size:
        spared = False
        for group in by_search_cell(strength, clip.search_cell, clip.rng, ranking).split(size):
            candidate = strength.clone()
            candidate.view(-1)[group] *= factor
            if not candidate.any():  # the clean clip
                continue
            response = yield candidate
            smaller = response.l2 < l2 or (factor == 0 and response.l2 == l2)
            if response.success and smaller:
                strength, l2, spared = candidate, float(response.l2), True
        if not spared:
            size //= 2
        if factor == 0:  # at most half of what is left can be tried: all of it leaves the clean clip
            size = min(size, -(-int(strength.count_nonzero()) // 2))
    return strength, l2


def by_search_cell(
    strength: Float[Tensor, "gt gh gw"],
    search_cell: int,
    rng: torch.Generator,
    ranking: Float[Tensor, "t y x"] | None = None,
) -> Int64[Tensor, " n"]:
    """The flat indices of the touched tubelets, search cell after search cell in random order.

    Within a search cell they follow a Z-order curve, so that a run of them is a connected part of
    the cell.

    Args:
        strength: a strength map.
        search_cell: width and height of a search cell, in tubelets.
        rng: the clip's source of randomness.
        ranking: logits of the search cells, by which high ones come late; None: all alike.
    """
    t, y, x = strength.nonzero().unbind(1)
    _, gh, gw = strength.shape
    cells = (t * (gh // search_cell + 1) + y // search_cell) * (gw // search_cell + 1) + x // search_cell
    present, cells = cells.unique(return_inverse=True)
    if ranking is None:
        shuffled = torch.randperm(len(present), generator=rng)[cells]
    else:
        first = torch.zeros(len(present)).scatter(0, cells, ranking[t, y // search_cell, x // search_cell])
        shuffled = (first + gumbel(torch.rand(len(present), generator=rng))).argsort().argsort()[cells]
    within = torch.zeros_like(t)
    bits = (search_cell - 1).bit_length()
    for bit in range(bits):
        within |= ((y % search_cell >> bit & 1) << (2 * bit + 1)) | ((x % search_cell >> bit & 1) << (2 * bit))
    order = (shuffled << (2 * bits) | within).argsort()
    return ((t * gh + y) * gw + x)[order]

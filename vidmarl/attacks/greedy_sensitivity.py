"""The greedy control: probe where the victim is sensitive, then distort the most sensitive tubelets
first."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from vidmarl.attacks.base import Attack
from vidmarl.attacks.grow_and_reduce import growing
from vidmarl.attacks.random_cells import first_cells
from vidmarl.attacks.search.minimize import reduce
from vidmarl.queries.session import Response, Search, Session


class GreedySensitivity(Attack):
    """Spends up to half of the budget on probes, then adds tubelets in the order of what the probes
    have shown.

    A probe distorts one part of the clip at full strength; what the margin falls by is the part's
    effect. Probed is every tubelet where the budget allows it. Where it does not, every spatial
    column (one place in all frames) and every frame (all places at one time), and a tubelet's
    effect is the additive estimate: mean effect per tubelet of its column, plus that of its frame,
    minus the mean of all. Where even this is too much, columns and frames are merged into blocks of
    2, 3, ... cells a side.

    Where the distortion has two directions only one is probed: a part whose probe raised the margin
    is distorted in the other direction.

    After that the best 1, 2, 4, ... tubelets are distorted until the goal holds; bisection finds
    the shortest beginning of the order that is enough. A probe that succeeds ends the search at
    once. If all tubelets together fail the attack
    ends: nothing is left to try.

    Args:
        distortion: see `Attack`.
        reduce: whether the success is made smaller with the rest of the budget.
        **common: see `Attack`.
    """

    def __init__(self, distortion: Any = "gaussian_noise", *, reduce: bool = True, **common: Any) -> None:
        super().__init__(distortion, **common)
        self.reduce = reduce

    def search(self, session: Session, row: int) -> Search:
        effect = yield from self._probe(session, row)
        signed = session.renderer.low < 0
        full = torch.where(effect < 0, -1.0, 1.0) if signed else torch.ones_like(effect)
        rank = effect.abs() if signed else effect
        shuffled = torch.randperm(rank.numel(), generator=session.generator(row))  # equals come in random order
        order = shuffled[rank.flatten()[shuffled].argsort(descending=True, stable=True)]
        if not session.fooled[row]:
            yield from _shortest_beginning(full, order)
        if self.reduce:
            yield from reduce(session, row)

    def _probe(self, session: Session, row: int) -> Generator[Tensor, Response, Tensor]:
        """The estimated effect of every tubelet: what the margin falls by, nats, float[gt gh
        gw]."""
        parts = probe_parts(session.renderer.cells, (self.budget - 1) // 2)
        clean = float(session.history["margin"][row, 0])
        falls = []
        for part in parts:
            if session.fooled[row]:
                break
            response = yield part
            falls.append(clean - float(response.margin))
        effect = torch.zeros(session.renderer.cells)
        for part, fall in zip(parts, falls, strict=False):
            effect += part * fall / part.sum()
        if len(parts) < effect.numel():  # each tubelet lies in a column and in a frame: two means, one too many
            effect -= effect.mean() / 2
        return effect


def _shortest_beginning(full: Tensor, order: Tensor) -> Search:
    """Doubles the number of tubelets until the goal holds, then halves the doubt about how few are
    enough."""
    enough = too_few = 0
    for count in growing(len(order)):
        response = yield first_cells(full, order, count)
        if response.success:
            enough = count
            break
        too_few = count
    while enough - too_few > 1:
        count = (enough + too_few) // 2
        response = yield first_cells(full, order, count)
        if response.success:
            enough = count
        else:
            too_few = count


def probe_parts(shape: tuple[int, int, int], probes: int) -> list[Tensor]:
    """The parts of a clip to probe with at most `probes` queries, as maps float[gt gh gw] of 0 and
    1.

    Either all tubelets one by one, or columns and frames, in blocks no coarser than needed; none
    where not even that fits.
    """
    t, gh, gw = shape
    if t * gh * gw <= probes:
        return list(rearrange(torch.eye(t * gh * gw), "n (t gh gw) -> n t gh gw", t=t, gh=gh))
    for side in range(1, max(shape) + 1):
        blocks_t, blocks_h, blocks_w = (_blocks(length, side) for length in shape)
        if len(blocks_t) + len(blocks_h) * len(blocks_w) <= probes:
            frames = repeat(blocks_t, "n t -> n t gh gw", gh=gh, gw=gw)
            columns = torch.einsum("mh,nw->mnhw", blocks_h, blocks_w)
            return [*frames, *repeat(columns, "m n gh gw -> (m n) t gh gw", t=t)]
    return []


def _blocks(length: int, side: int) -> Tensor:
    """An axis cut into blocks, as rows of 0 and 1: float[n length]."""
    index = torch.arange(length) // side
    return (index == torch.arange(int(index[-1]) + 1)[:, None]).float()

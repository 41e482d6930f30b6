"""The greedy control: probe where the victim is sensitive, then distort the most sensitive tubelets
first."""

from __future__ import annotations

from collections.abc import Generator

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.attacks.base import Attack
from vidmarl.attacks.grow_and_reduce import doubling
from vidmarl.attacks.random_cells import first_cells
from vidmarl.attacks.search.minimize import minimize
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Request, Search
from vidmarl.queries.session import Response


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

    After that the best 1, 2, 4, ... cells are distorted until the goal holds, and bisection finds
    the shortest beginning of the order that is enough. A probe that succeeds ends the search at
    once. Where all cells together fail, the attack ends: nothing is left to try. A success is
    minimized.
    """

    needs_scores = True

    def search(self, clip: ClipView) -> Search:
        effect = yield from self._probe(clip)
        signed = clip.min_strength < 0
        full = torch.where(effect < 0, -1.0, 1.0) if signed else torch.ones_like(effect)
        order = descending(effect.abs() if signed else effect, clip.rng)
        if not clip.fooled:
            yield from shortest_beginning(full, order)
        yield from minimize(clip)

    def _probe(self, clip: ClipView) -> Generator[Tensor | Request, Response, Tensor]:
        """The estimated effect of every tubelet: what the margin falls by, nats, float[gt gh
        gw]."""
        parts = probe_parts(clip.shape, (self.budget - 1) // 2)
        falls = []
        for part in parts:
            if clip.fooled:
                break
            response = yield part
            falls.append(clip.clean_margin - float(response.margin))
        effect = clip.zeros()
        for part, fall in zip(parts, falls, strict=False):
            effect += part * fall / part.sum()
        if len(parts) < effect.numel():  # each tubelet lies in a column and in a frame: two means, one too many
            effect -= effect.mean() / 2
        return effect


def descending(scores: Float[Tensor, "t y x"], rng: torch.Generator) -> Int64[Tensor, " n"]:
    """Flat indices from the highest score to the lowest; equal ones come in random order."""
    shuffled = torch.randperm(scores.numel(), generator=rng)
    return shuffled[scores.flatten()[shuffled].argsort(descending=True, stable=True)]


def shortest_beginning(full: Tensor, order: Tensor) -> Search:
    """Doubles the number of cells until the goal holds, then finds the fewest by bisection."""
    enough = too_few = 0
    for count in doubling(len(order)):
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

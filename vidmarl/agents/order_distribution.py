"""The distribution that orders of tubelets are drawn from: by their ranking, spread or not.

Noise side by side does much the same to a victim: the best tubelets by themselves are not the best
set. There an order goes through the clip in passes, in each of which neighbours in space or time
keep apart. Blur takes more from a place, the more of it is blurred (docs/experiments.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import max_pool3d

from vidmarl.utils.randomness import gumbel

SHARP_CELLS = 400
"""Up to so many cells, an order is as sharp as the agents rank. The best of many cells do much the
same, so with more of them logits shrink with the root of their number (docs/experiments.md)."""

LAST_PASS = 62
"""Where tubelets of five lengths leave more passes to make, the last one takes all that is left."""


def softened(log_prob: Float[Tensor, "*n t y x w"]) -> Float[Tensor, "*n t y x w"]:
    """What orders are drawn by where the agents rank so: in clips of more than `SHARP_CELLS` less
    strictly by rank."""
    if (cells := log_prob[..., 0].flatten(-3).shape[-1]) <= SHARP_CELLS:
        return log_prob
    return (log_prob * math.sqrt(SHARP_CELLS / cells)).flatten(-4).log_softmax(-1).view_as(log_prob)


class OrderDistribution(Distribution):
    """Orders of all tubelets: each place of the first pass goes to one of those that may follow, in
    proportion to its probability to come first (Luce 1959, Plackett 1975).

    All that are left may follow, in a single pass; or those that have no neighbour in the pass,
    that are not centred in the cell of one of its tubelets, or in a cell beside it. Later passes go
    by the draw that the first one went by.

    An action is int64[... k], the flat indices in their order. Its log-probability comes place by
    place, because learning goes by the first places alone.

    Args:
        ranking: float[... t y x w], log-probability of each tubelet to come first.
        apart: whether neighbours keep apart.
        places: of how many first places `log_prob` tells; None: of all.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own class attribute)
    has_rsample = False

    def __init__(self, ranking: Float[Tensor, "*n t y x w"], apart: bool, places: int | None = None) -> None:
        self.logits, self.of = ranking.flatten(-4), ranking.shape[-4:]
        self.apart, self.places = apart, places
        super().__init__(self.logits.shape[:-1], self.logits.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Non-negative integers."""
        return constraints.nonnegative_integer

    def draw(self, uniform: Float[Tensor, "... k"]) -> Int64[Tensor, "... k"]:
        """The order that these uniform numbers in [0, 1) stand for."""
        return self._by(self.logits + gumbel(uniform))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.logits.shape
        return self.draw(torch.rand(shape, device=self.logits.device))

    @property
    def mode(self) -> Tensor:
        """The likely ones first."""
        return self._by(self.logits)

    deterministic_sample = mode

    def _by(self, score: Float[Tensor, "... k"]) -> Int64[Tensor, "... k"]:
        if self.apart:
            return in_passes(score.unflatten(-1, self.of))
        return score.argsort(dim=-1, descending=True)

    def log_prob(self, value: Int64[Tensor, "... k"]) -> Float[Tensor, "... p"]:
        """Of each of the first places, given the places before it; 0 beyond the first pass, whose
        draw decides the later ones, too."""
        logits = self.logits.expand(value.shape)
        out = value.argsort(-1)  # the place from which on a tubelet may not follow any more
        if self.apart:
            of_cell = out.reshape(-1, *self.of).amin(-1).float()
            near = -max_pool3d(-of_cell, 3, 1, 1).long()
            out = near[..., None].expand(-1, *self.of).reshape(value.shape)
        outs, by_out = out.sort(-1)
        may_follow = logits.gather(-1, by_out).flip(-1).logcumsumexp(-1).flip(-1)
        place = torch.arange(value.shape[-1], device=value.device).expand(value.shape).contiguous()
        begin = torch.searchsorted(outs, place).clamp_max(value.shape[-1] - 1)
        told = logits.gather(-1, value) - may_follow.gather(-1, begin)
        return told.where(out.gather(-1, value) == place, 0)[..., : self.places]


def in_passes(score: Float[Tensor, "*n t y x w"]) -> Int64[Tensor, "*n k"]:
    """All tubelets by their score, in passes, in each of which neighbours keep apart.

    The pass of a tubelet is its colour in the greedy colouring of the graph of neighbours, those
    with the highest scores first (Welsh and Powell 1967).

    Args:
        score: of the tubelets that are centred in each cell, of each length.

    Returns:
        Their flat indices.
    """
    *_, t, y, x, w = score.shape
    orders = score.flatten(-4).argsort(dim=-1, descending=True, stable=True).cpu()
    passes = torch.zeros_like(orders)
    cells = torch.stack(torch.unravel_index(orders // w, (t, y, x)), -1)
    every = cells.view(-1, t * y * x * w, 3).tolist(), passes.view(-1, t * y * x * w).numpy()
    for own, found in zip(*every, strict=True):
        taken = np.zeros((t + 2, y + 2, x + 2), np.int64)  # a bit for each pass that a neighbour is in
        for i, (frame, row, column) in enumerate(own):
            bits = int(taken[frame + 1, row + 1, column + 1])
            free = ~bits & (bits + 1)
            found[i] = min(free.bit_length(), LAST_PASS)
            taken[frame : frame + 3, row : row + 3, column : column + 3] |= min(free, 1 << (LAST_PASS - 1))
    return orders.gather(-1, passes.argsort(dim=-1, stable=True)).to(score.device)

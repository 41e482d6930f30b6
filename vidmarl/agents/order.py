"""What a search asks for to have a success built from the tubelets that the agents rank first.

Both agents together rank all tubelets: the temporal agent by the frame that they are centred in and
how long they last, the spatial agent by where they are. An order is drawn by this ranking
(`vidmarl.agents.order_distribution`). Blocks of it are tried one after the other, and kept unless
the margin rises, until the victim is fooled: SimBA (Guo et al. 2019, arXiv 1905.07121) whose
directions come in the order of what the agents expect of them. So few decisions matter, and what is
learnt is the ranking itself: the sensitivity of the clip over space and time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl.agents.networks import Agents
from vidmarl.agents.observation import look
from vidmarl.agents.order_distribution import OrderDistribution, softened
from vidmarl.agents.tubelets import lasting, random_signs
from vidmarl.queries.scheduler import Request
from vidmarl.queries.session import Response, Session

BLOCK = 1 / 50
"""What a block adds to the squared L2 norm where neighbours do not keep apart, as a share of what
the full distortion adds: where all search cells cost the same, as many as in `SignedBlocks`."""

SMALLEST_BLOCK, LARGEST_BLOCK, OF_TRIED = 1 / 100, 1 / 25, 1 / 2
"""Where they keep apart, a first block does more, and may be smaller: a block adds half as much as
all blocks of its order before it, within these bounds. So some clips are fooled by little, and the
others soon (docs/experiments.md)."""


@dataclasses.dataclass(frozen=True)
class Order:
    """All tubelets of a clip, in the order in which they are added.

    Attributes:
        tubelets: int64[k], flat indices into `Agents.rank` of the clip, the first one first.
        signs: float[k], the direction of each.
        ranking: float[t y x], log-probability with which a tubelet centred in each search cell
            comes first.
        alternate: see `vidmarl.agents.tubelets.lasting`.
    """

    tubelets: Int64[Tensor, " k"]
    signs: Float[Tensor, " k"]
    ranking: Float[Tensor, "t y x"]
    alternate: bool

    @classmethod
    def draw(
        cls, log_prob: Float[Tensor, "t y x w"], chance: Float[Tensor, "2 k"], low: float, *, apart: bool
    ) -> Order:
        """An order by given uniform numbers in [0, 1).

        Args:
            log_prob: of each tubelet to come first, as the agents rank.
            chance: the numbers, two for each tubelet.
            low: the smallest strength: with -1 every tubelet has a random direction.
            apart: whether neighbours keep apart.
        """
        signs, log_prob = random_signs(chance[1], low), softened(log_prob)
        return cls(OrderDistribution(log_prob, apart).draw(chance[0]), signs, log_prob.logsumexp(3), low < 0)

    def first(self, count: int) -> Float[Tensor, "t y x"]:
        """The strength map of the first tubelets; where two of them meet, the earlier one holds."""
        return self._map(0, count, self._first_to_touch(0))

    def block(
        self, begin: int, free: Bool[Tensor, "t y x"], energy: Float[Tensor, "t y x"], enough: float
    ) -> tuple[Float[Tensor, "t y x"], int]:
        """The strength map of the next tubelets in the free cells, and where the order goes on.

        Args:
            begin: the place of the first one.
            free: the cells that may be touched.
            energy: what each cell adds to the squared norm.
            enough: as many tubelets are taken as it needs to add so much; fewer where the order
                ends.
        """
        touching, left = self._first_to_touch(begin), len(self.tubelets) - begin
        turn, energy = touching[free.flatten(1)], energy[free].double()
        added = turn.bincount(energy, minlength=left + 1)[:left].cumsum(0)
        count = min(int((added < enough).sum()) + 1, left)
        return self._map(begin, count, touching) * free, begin + count

    def _first_to_touch(self, begin: int) -> Int64[Tensor, "t c"]:
        """Which tubelet from a place on is the first to touch each cell, counted from there; their
        number where none does."""
        t, y, x = self.ranking.shape
        course, place = self._course[begin:], self._centre_and_place[1][begin:]
        turn = torch.where(course != 0, torch.arange(len(course))[:, None], len(course)).T
        return torch.full((t, y * x), len(course)).scatter_reduce(1, place.expand(t, -1), turn, "amin")

    def _map(self, begin: int, count: int, touching: Int64[Tensor, "t c"]) -> Float[Tensor, "t y x"]:
        """The strength map of so many tubelets."""
        course = self._course[begin : begin + count]
        course = torch.cat([course, torch.zeros(1, course.shape[1])])  # of cells that none of them touches
        return course.T.gather(1, touching.clamp_max(len(course) - 1)).view(self.ranking.shape)

    @cached_property
    def _centre_and_place(self) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        """Of each tubelet the frame that it is centred in, and its cell."""
        _, y, x = self.ranking.shape
        return self.tubelets // (self._widths * y * x), self.tubelets // self._widths % (y * x)

    @cached_property
    def _course(self) -> Float[Tensor, "k t"]:
        """The strength of each tubelet over time."""
        frames, widths = len(self.ranking), self.tubelets % self._widths
        return self.signs[:, None] * lasting(self._centre_and_place[0], widths, frames, alternate=self.alternate)

    @property
    def _widths(self) -> int:
        return len(self.tubelets) // self.ranking.numel()


class Grow(Request):
    """A request for the next block of an order, on top of what was kept of those before it.

    A block is kept unless it raises the margin: of a victim that says its decision alone, all are.
    When all of an order has been tried and some of it kept, another one is drawn for the cells that
    are left.

    Args:
        agents: the team.
        start: a map of search cells that is asked about first, and built on: a block then turns
            what is there to the other end of the range of strengths. None: the clean clip.

    Attributes:
        over: whether the search is at its end: the clip is fooled, the set has reached the bound,
            or no block is left that would be kept.
        fooled: whether a set has fooled the clip.
        strength: the last set asked about, a map of search cells on the CPU.
        l2: its norm.
    """

    strength: Float[Tensor, "t y x"]

    def __init__(self, agents: Agents, start: Float[Tensor, "t y x"] | None = None) -> None:
        self._agents = agents
        self._seen: _Seen | None = None
        self._begin(start, math.inf)

    @property
    def ranking(self) -> Float[Tensor, "t y x"] | None:
        """How the agents rank the search cells, as orders go by it; None before the first query."""
        return None if self._seen is None else softened(self._seen.log_prob).logsumexp(3)

    def restart(self, bound: float) -> None:
        """Begins again from the clean clip, with another order.

        Args:
            bound: the L2 norm at which a set is too large.
        """
        self._begin(None, bound)

    def _begin(self, start: Tensor | None, bound: float) -> None:
        self._start, self._turns, self._bound = start, start is not None, bound
        self._order: Order | None = None
        self._kept: _Kept | None = None
        self.over, self.fooled, self.l2 = False, False, 0.0

    def answer(self, session: Session, batch: Mapping[int, Request]) -> dict[int, Response]:
        rows = torch.tensor(list(batch), device=session.renderer.clips.device)
        asking = [request for request in batch.values() if isinstance(request, Grow)]
        if new := [i for i, request in enumerate(asking) if request._seen is None]:
            for i, seen in zip(new, _see(self._agents, session, rows[new]), strict=True):
                asking[i]._seen = seen
        for request, row in zip(asking, rows.split(1), strict=True):
            request._next(session, row)
        response = session.query(torch.stack([request.strength for request in asking]).to(rows.device), rows).cpu()
        answers = {row: response[i] for i, row in enumerate(batch)}
        for request, answer in zip(asking, answers.values(), strict=True):
            request._judge(answer)
        return answers

    def _next(self, session: Session, row: Int64[Tensor, " 1"]) -> None:
        """Makes the set that is asked about; draws an order where one is due."""
        seen, low = self._seen, session.renderer.min_strength
        assert seen is not None
        if self._kept is None:
            self._kept = _Kept(torch.zeros_like(seen.energy), seen.clean_margin)
            self._free = torch.ones_like(seen.energy, dtype=torch.bool)
        if self._start is not None:
            self.strength = self._start
            return
        if self._order is None:
            chance = session.rand(row, 2, seen.log_prob.numel())[0].cpu()
            order = Order.draw(seen.log_prob, chance, low, apart=self._apart)
            self._order, self._gained, self._tried = order, False, 0.0
            self._take(order, 0)
        kept = self._kept.strength
        self.strength = torch.where(self._block != 0, low + 1 - kept, kept) if self._turns else kept + self._block

    @property
    def _apart(self) -> bool:
        """Whether neighbours keep apart: not where all is distorted already, and turned."""
        return self._agents.config.apart and not self._turns

    def _take(self, order: Order, begin: int) -> None:
        """Takes the next block. Where there is none, another order is due, or nothing is left that
        would help."""
        assert self._seen is not None
        energy = self._seen.energy
        whole = float(energy.sum())
        enough = BLOCK * whole
        if self._apart:
            enough = min(max(OF_TRIED * self._tried, SMALLEST_BLOCK * whole), LARGEST_BLOCK * whole)
        enough = enough or math.inf  # all at once where nothing changes a pixel
        self._block, self._end = order.block(begin, self._free, energy, enough)
        self._tried += float(energy[self._block != 0].sum())
        if not self._block.any():
            self._order = None
            self.over = not (self._gained and self._free.any())

    def _judge(self, response: Response) -> None:
        """Takes in what the victim has said of the set."""
        started, self._start = self._start is not None, None
        if self._kept is None or (self._order is None and not started):
            raise RuntimeError("Building on an order of tubelets: a reply came before any order was drawn.")
        self.l2 = float(response.l2)
        self.fooled = bool(response.success) and self.l2 < self._bound
        self.over = self.fooled or self.l2 >= self._bound
        if self.over:
            return
        if started or response.margin <= self._kept.margin:
            self._kept, self._gained = _Kept(self.strength, float(response.margin)), True
            if not started:
                self._free = self._free & (self._block == 0)
        if self._order is not None:
            self._take(self._order, self._end)


class _Seen(NamedTuple):
    """What is known of a clip before it is distorted."""

    log_prob: Float[Tensor, "t y x w"]
    energy: Float[Tensor, "t y x"]
    clean_margin: float


class _Kept(NamedTuple):
    """What a search builds on, and the margin with it."""

    strength: Float[Tensor, "t y x"]
    margin: float


@torch.no_grad()
def _see(agents: Agents, session: Session, rows: Int64[Tensor, " n"]) -> Iterator[_Seen]:
    """How the agents rank the tubelets of some clips, what cells cost, and the clean margins."""
    td = look(session, rows, agents.config.classes)
    known = td["known"].cpu()
    return map(_Seen, agents.rank(td).cpu(), known["energy"], known["clean_margin"].tolist())

"""What a search asks for to have a success grown from the tubelets that the agents rank first.

Both agents together rank all tubelets: the temporal agent by when they begin and how long they
last, the spatial agent by where they are. An order is drawn by this ranking (the model of Luce 1959
and Plackett 1975), and sets of its first 1, 2, 4, ... tubelets are asked about until one of them
fools the victim. So few decisions matter, each query is one of about a dozen, and what is learnt is
the ranking itself: the sensitivity of the clip over space and time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from tensordict import TensorDict
from torch import Tensor
from torch.distributions import Distribution, constraints

from vidmarl.agents.actions import lasting
from vidmarl.agents.episodes import Episodes
from vidmarl.agents.networks import Agents
from vidmarl.queries.scheduler import Request
from vidmarl.queries.session import Response, Session
from vidmarl.utils.randomness import gumbel


class OrderDistribution(Distribution):
    """Orders of all tubelets: each place goes to one of those that are left, in proportion to its
    probability to come first (Plackett 1975).

    An action is int64[... k], the flat indices in their order. Its log-probability comes place by
    place, because learning goes by the first places alone.

    Args:
        ranking: float[... t c w], log-probability of each tubelet to come first.
        places: of how many first places `log_prob` tells; None: of all.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own class attribute)
    has_rsample = False

    def __init__(self, ranking: Float[Tensor, "*n t c w"], places: int | None = None) -> None:
        self.logits = ranking.flatten(-3)
        self.places = places
        super().__init__(self.logits.shape[:-1], self.logits.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Non-negative integers."""
        return constraints.nonnegative_integer

    def draw(self, uniform: Float[Tensor, "... k"]) -> Int64[Tensor, "... k"]:
        """The order that these uniform numbers in [0, 1) stand for."""
        return (self.logits + gumbel(uniform)).argsort(dim=-1, descending=True)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.logits.shape
        return self.draw(torch.rand(shape, device=self.logits.device))

    @property
    def mode(self) -> Tensor:
        """The likely ones first."""
        return self.logits.argsort(dim=-1, descending=True)

    deterministic_sample = mode

    def log_prob(self, value: Int64[Tensor, "... k"]) -> Float[Tensor, "... p"]:
        """Of each of the first places, given the places before it."""
        chosen = self.logits.expand(value.shape).gather(-1, value)
        return (chosen - chosen.flip(-1).logcumsumexp(-1).flip(-1))[..., : self.places]


@dataclasses.dataclass(frozen=True)
class Order:
    """All tubelets of a clip, in the order in which they are added.

    Attributes:
        tubelets: int64[k], flat indices into `Agents.rank` of the clip, the first one first.
        signs: float[k], the direction of each.
        ranking: float[t y x], log-probability with which a tubelet centred in each search cell
            comes first.
        alternate: see `vidmarl.agents.actions.lasting`.
    """

    tubelets: Int64[Tensor, " k"]
    signs: Float[Tensor, " k"]
    ranking: Float[Tensor, "t y x"]
    alternate: bool

    @classmethod
    def draw(
        cls, log_prob: Float[Tensor, "t c w"], chance: Float[Tensor, "2 k"], shape: tuple[int, int, int], low: float
    ) -> Order:
        """An order by given uniform numbers in [0, 1).

        Args:
            log_prob: of each tubelet to come first.
            chance: the numbers, two for each tubelet.
            shape: `(t, y, x)`, the search cells.
            low: the smallest strength: with -1 every tubelet has a random direction.
        """
        signs = torch.where((chance[1] < 0.5) & (low < 0), -1.0, 1.0)
        return cls(OrderDistribution(log_prob).draw(chance[0]), signs, log_prob.logsumexp(2).view(shape), low < 0)

    def first(self, count: int) -> Float[Tensor, "t y x"]:
        """The strength map of the first tubelets; where two of them meet, the earlier one holds."""
        t, y, x = self.ranking.shape
        widths = len(self.tubelets) // (t * y * x)
        chosen, signs = self.tubelets[:count], self.signs[:count]
        centre, place = chosen // (widths * y * x), chosen // widths % (y * x)
        course = signs[:, None] * lasting(centre, chosen % widths, t, alternate=self.alternate)
        turn = torch.where(course != 0, torch.arange(len(chosen))[:, None], len(chosen)).T
        first = torch.full((t, y * x), len(chosen)).scatter_reduce(1, place.expand(t, -1), turn, "amin")
        course = torch.cat([course, torch.zeros(1, t)])  # of cells that none of them touches
        return course.T.gather(1, first).view(t, y, x)


class Grow(Request):
    """A request for the next larger set of one order of tubelets.

    Args:
        agents: the team.

    Attributes:
        over: whether the order is used up: a set has fooled the clip, has reached the bound, or
            covers the clip.
        fooled: whether a set has fooled the clip.
        strength: the last set asked about, a map of search cells on the CPU.
        l2: its norm.
    """

    strength: Float[Tensor, "t y x"]

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._td: TensorDict | None = None
        self.restart(math.inf)

    @property
    def ranking(self) -> Float[Tensor, "t y x"] | None:
        """How the agents rank the search cells; None before the first set."""
        return None if self._order is None else self._order.ranking

    def restart(self, bound: float) -> None:
        """Has another order drawn, with all that was learnt about the clip.

        Args:
            bound: the L2 norm at which its sets are too large.
        """
        self._bound = bound
        self._order: Order | None = None
        self._count = 1
        self.over, self.fooled, self.l2 = False, False, 0.0

    def answer(self, session: Session, batch: Mapping[int, Request]) -> dict[int, Response]:
        rows = torch.tensor(list(batch), device=session.renderer.clips.device)
        asking = [request for request in batch.values() if isinstance(request, Grow)]
        episodes = Episodes(session, classes=self._agents.config.classes)
        seen = [
            episodes.begin(row) if request._td is None else request._td
            for request, row in zip(asking, rows.split(1), strict=True)
        ]
        td = torch.cat(seen)
        self._draw(asking, td, session, rows)
        sets = torch.stack([request._grown() for request in asking]).to(rows.device)
        response = session.query(sets, rows)
        td = episodes.learn(td, rows, sets, response.margin)
        response = response.cpu()
        for i, (request, one) in enumerate(zip(asking, td.split(1), strict=True)):
            request._judge(one, response[i])
        return {row: response[i] for i, row in enumerate(batch)}

    def _draw(self, asking: list[Grow], td: TensorDict, session: Session, rows: Int64[Tensor, " n"]) -> None:
        """Draws an order where one is due, from the clip's own source of randomness."""
        due = [i for i, request in enumerate(asking) if request._order is None]
        if not due:
            return
        with torch.no_grad():
            log_prob = self._agents.rank(td[due]).cpu()
        chance = session.rand(rows[due], 2, log_prob[0].numel()).cpu()
        shape, low = session.renderer.coarse_shape, session.renderer.min_strength
        for i, own, numbers in zip(due, log_prob, chance, strict=True):
            asking[i]._order = Order.draw(own, numbers, shape, low)

    def _grown(self) -> Float[Tensor, "t y x"]:
        """The set that is next."""
        if self._order is None:
            raise RuntimeError("Growing a set of tubelets: no order has been drawn yet.")
        self.strength = self._order.first(self._count)
        return self.strength

    def _judge(self, td: TensorDict, response: Response) -> None:
        """Takes in what the victim has said of the set."""
        self._td, self._count = td, 2 * self._count
        self.l2, self.fooled = float(response.l2), bool(response.success)
        covered: Bool[Tensor, ""] = (self.strength != 0).all()
        self.over = self.fooled or self.l2 >= self._bound or bool(covered)

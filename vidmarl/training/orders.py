"""Reinforcement of agents that rank tubelets: each order is paid by the size of what it led to.

Some orders of each clip are drawn, and from each a success is grown as an attack would
(`vidmarl.agents.order`). An order is better or worse than the others of the same clip: the mean of
those is its baseline (leave-one-out: Kool, van Hoof and Welling, "Buy 4 REINFORCE Samples, Get a
Baseline for Free!", 2019), so that no critic is needed. What is paid are the places of the order
that were asked about, each for itself, with PPO's clipped ratio.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from tensordict import TensorDict
from tensordict.nn import InteractionType, ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential
from torch import Tensor
from torchrl.objectives import ClipPPOLoss

from vidmarl.agents.episodes import Episodes
from vidmarl.agents.networks import OBSERVATION, Agents
from vidmarl.agents.order import Order, OrderDistribution
from vidmarl.queries.session import Session

PAID = 64
"""How many of an order's first places are paid: sets of more say little of any one of them."""

MOST_SETS = 32
"""How many sets one order can have: each is twice the one before."""


def order_loss(agents: Agents, clip: float) -> ClipPPOLoss:
    """PPO's loss over what `play` gives.

    Args:
        agents: the team; both actors get their share of the gradient.
        clip: of the probability ratio.
    """
    actor = ProbabilisticTensorDictSequential(
        agents.ranking(),
        ProbabilisticTensorDictModule(
            in_keys=["ranking"],
            out_keys=["action"],
            distribution_class=OrderDistribution,
            default_interaction_type=InteractionType.RANDOM,
        ),
    )
    loss = ClipPPOLoss(actor, None, clip_epsilon=clip, entropy_bonus=False, normalize_advantage=False)
    loss.set_keys(sample_log_prob="log_prob")
    return loss


@torch.no_grad()
def play(session: Session, agents: Agents, count: int, generator: torch.Generator) -> TensorDict:
    """Draws some orders of every active clip of a fresh session, and grows a success from each.

    Args:
        session: the attack on the clips, with budget for all orders.
        agents: the team.
        count: orders of each clip, at least 2.
        generator: of the orders.

    Returns:
        Of n clips: their observations; "action" int64[n o k], the orders; "log_prob" float[n o k],
        of each place; "advantage" float[n o k 1]; "size" float[n o], the L2 norm that each order
        came to, a failure having that of the full distortion; "fooled" bool[n o].
    """
    rows, shape, low = session.rows, session.renderer.coarse_shape, session.renderer.min_strength
    seen = Episodes(session, classes=agents.config.classes).begin(rows)
    td = seen.select(*OBSERVATION, ("temporal", "proposal_size"))
    ranking = agents.rank(td)
    chance = torch.rand(len(rows), count, 2, ranking[0].numel(), generator=generator)
    orders = [
        [Order.draw(own, numbers, shape, low) for numbers in of_clip]
        for own, of_clip in zip(ranking.cpu(), chance, strict=True)
    ]
    grown = [_grow(session, rows, [of_clip[i] for of_clip in orders]) for i in range(count)]
    size, fooled, asked = (torch.stack(each, 1) for each in zip(*grown, strict=True))
    action = torch.stack([torch.stack([order.tubelets for order in of_clip]) for of_clip in orders]).to(rows.device)
    found = {
        "action": action,
        "log_prob": OrderDistribution(ranking).log_prob(action),
        "advantage": _advantages(size, asked, action.shape[-1])[..., None],
        "size": size,
        "fooled": fooled,
    }
    return td.update(found)


def _grow(session: Session, rows: Int64[Tensor, " n"], orders: list[Order]) -> tuple[Tensor, Tensor, Tensor]:
    """Asks about ever larger sets of one order of each clip until it is fooled: the norm of the
    last one, whether it has fooled, and how many tubelets it had."""
    size, fooled = session.full_l2[rows].clone(), torch.zeros_like(rows, dtype=torch.bool)
    asked, left, count = torch.zeros_like(rows), torch.arange(len(rows)), 1
    while len(left):
        sets = torch.stack([orders[i].first(count) for i in left.tolist()]).to(rows.device)
        response = session.query(sets, rows[left])
        asked[left], fooled[left] = count, response.success
        size[left] = torch.where(response.success, response.l2, size[left])
        covered = (sets != 0).flatten(1).all(1)
        left, count = left[~(response.success | covered).cpu()], 2 * count
    return size, fooled, asked


def _advantages(size: Float[Tensor, "n o"], asked: Int64[Tensor, "n o"], places: int) -> Float[Tensor, "n o k"]:
    """By how much smaller, in natural logarithms, an order's success is than the others' of its
    clip, for each place that was asked about. All orders weigh the same, however long."""
    gained = -size.clamp_min(1e-3).log()
    others = (gained.sum(1, keepdim=True) - gained) / (gained.shape[1] - 1)
    paid = torch.arange(places, device=size.device) < asked.clamp_max(PAID)[..., None]
    return (gained - others)[..., None] * paid * places / paid.sum(-1, keepdim=True)

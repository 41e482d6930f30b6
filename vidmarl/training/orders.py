"""Reinforcement of agents that rank tubelets: each order is paid by the size of what it led to.

Some orders of each clip are drawn, and sets of the first 1, 2, 4, ... tubelets of each are asked
about until one fools: unlike the blocks of an attack (`vidmarl.agents.order`), this tells in a
handful of queries what an order is worth. An order is better or worse than the others of the same
clip: the mean of those is its baseline (leave-one-out: Kool, van Hoof and Welling, "Buy 4 REINFORCE
Samples, Get a Baseline for Free!", 2019), so that no critic is needed. Only the places of an order
that were asked about are paid, each for itself, with PPO's clipped ratio.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from tensordict import TensorDict
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor
from torchrl.objectives import ClipPPOLoss

from vidmarl.agents.episodes import Episodes
from vidmarl.agents.networks import OBSERVATION, Agents
from vidmarl.agents.order import Order, OrderDistribution
from vidmarl.queries.session import Session

PAID = 64
"""How many of an order's first places are paid: sets of more say little of any one of them."""

MOST_SETS = 32
"""More sets than an order of any length has, each being twice the one before."""


def order_loss(agents: Agents, clip: float) -> ClipPPOLoss:
    """PPO's loss over what `play` gives.

    Args:
        agents: the team; both actors get their share of the gradient.
        clip: of the probability ratio.
    """
    actor = ProbabilisticTensorDictSequential(
        agents.ranking_net(),
        TensorDictModule(_for_several, in_keys=["ranking"], out_keys=["ranking"]),
        ProbabilisticTensorDictModule(
            in_keys=["ranking"],
            out_keys=["action"],
            distribution_class=OrderDistribution,
            distribution_kwargs={"places": PAID},
            default_interaction_type=InteractionType.RANDOM,
        ),
    )
    loss = ClipPPOLoss(actor, None, clip_epsilon=clip, entropy_bonus=False, normalize_advantage=False)
    loss.set_keys(sample_log_prob="log_prob")
    return loss


def _for_several(ranking: Float[Tensor, "n t c w"]) -> Float[Tensor, "n 1 t c w"]:
    """One ranking for all orders of a clip."""
    return ranking[:, None]


@torch.no_grad()
def play(session: Session, agents: Agents, count: int, generator: torch.Generator) -> TensorDict:
    """Draws some orders of every active clip of a fresh session, and grows a success from each.

    Args:
        session: the attack on the clips, with budget for all orders.
        agents: the team.
        count: orders of each clip, at least 2.
        generator: of the orders.

    Returns:
        Of n clips: their observations; "action" int64[n o k], the orders; "log_prob" float[n o p],
        of the first places; "advantage" float[n o p 1]; "size" float[n o], the L2 norm that each
        order came to, a failure having that of the full distortion; "fooled" bool[n o].
    """
    rows, shape, low = session.rows, session.renderer.coarse_shape, session.renderer.min_strength
    seen = Episodes(session, classes=agents.config.classes).begin(rows)
    td = seen.select(*OBSERVATION, ("temporal", "proposal_size"))
    ranking = agents.rank(td)
    chance = torch.rand(len(rows), count, 2, ranking[0].numel(), generator=generator)
    orders = [
        Order.draw(own, numbers, shape, low)
        for own, of_clip in zip(ranking.cpu(), chance, strict=True)
        for numbers in of_clip
    ]
    grown = _grow(session, rows.repeat_interleave(count), orders)
    size, fooled, asked = (rearrange(each, "(n o) -> n o", o=count) for each in grown)
    action = torch.stack([order.tubelets for order in orders]).to(rows.device)
    action = rearrange(action, "(n o) k -> n o k", o=count)
    log_prob = OrderDistribution(_for_several(ranking), PAID).log_prob(action)
    found = {
        "action": action,
        "log_prob": log_prob,
        "advantage": _advantages(size, asked, log_prob.shape[-1])[..., None],
        "size": size,
        "fooled": fooled,
    }
    return td.update(found)


def _grow(
    session: Session, rows: Int64[Tensor, " m"], orders: list[Order]
) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"], Int64[Tensor, " m"]]:
    """Asks about ever larger sets of each order until one fools its clip: the norm of the last set,
    whether it has fooled, and how many tubelets it had."""
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


def _advantages(size: Float[Tensor, "n o"], asked: Int64[Tensor, "n o"], places: int) -> Float[Tensor, "n o p"]:
    """By how much smaller, in natural logarithms, an order's success is than the others' of its
    clip, for each of its first places that was asked about.

    All orders weigh the same, however many places of them are paid. So a place of a short order
    weighs more than one of a long order, which favours orders that succeed early: the mean over
    places in place of REINFORCE's sum, as in GRPO (Shao et al. 2024, equation 3).
    """
    gained = -size.clamp_min(1e-3).log()
    others = (gained.sum(1, keepdim=True) - gained) / (gained.shape[1] - 1)
    paid = torch.arange(places, device=size.device) < asked[..., None]
    return (gained - others)[..., None] * paid * places / paid.sum(-1, keepdim=True)

"""Reinforcement of the agents: each order is paid by the size of what it led to.

An order is better or worse than the others of the same clip: the mean of those is its baseline
(leave-one-out: Kool, van Hoof and Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!",
2019), so that no critic is needed. Only the places of an order that were asked about are paid, of
its first pass, each for itself, with PPO's clipped ratio.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from tensordict import TensorDict
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.objectives import ClipPPOLoss

from vidmarl.agents.environment import OrderEnv
from vidmarl.agents.networks import Agents
from vidmarl.agents.observation import OBSERVATION
from vidmarl.agents.order_distribution import OrderDistribution, softened

PAID = 64
"""How many of an order's first places are paid: sets of more say little of any one of them."""


def order_policy(agents: Agents, orders: int) -> ProbabilisticTensorDictSequential:
    """The team as a policy that draws some orders of each clip as an attack does; "log_prob"
    float[n o p] is that of their first places.

    Args:
        agents: the team.
        orders: of each clip.
    """

    def for_each(ranking: Float[Tensor, "n t y x w"]) -> Float[Tensor, "n o t y x w"]:
        return softened(ranking)[:, None].expand(-1, orders, -1, -1, -1, -1)

    return ProbabilisticTensorDictSequential(
        agents.ranking_net(),
        TensorDictModule(for_each, in_keys=["ranking"], out_keys=["ranking"]),
        ProbabilisticTensorDictModule(
            in_keys=["ranking"],
            out_keys=["action"],
            distribution_class=OrderDistribution,
            distribution_kwargs={"apart": agents.config.apart, "places": PAID},
            default_interaction_type=InteractionType.RANDOM,
            return_log_prob=True,
            log_prob_key="log_prob",
        ),
    )


def order_loss(agents: Agents, orders: int, clip: float) -> ClipPPOLoss:
    """PPO's loss over what `play` gives.

    Args:
        agents: the team; both get their share of the gradient.
        orders: of each clip.
        clip: of the probability ratio.
    """
    policy = order_policy(agents, orders)
    loss = ClipPPOLoss(policy, None, clip_epsilon=clip, entropy_bonus=False, normalize_advantage=False)
    loss.set_keys(sample_log_prob="log_prob")
    return loss


@torch.no_grad()
def play(env: OrderEnv, agents: Agents, orders: int, seed: int) -> TensorDict:
    """Has the team play some orders of every clip.

    Args:
        env: of the clips.
        agents: the team.
        orders: of each clip, at least 2.
        seed: of the orders.

    Returns:
        Of n clips what they look like and what was done, with "advantage" float[n o p 1], and
        "size", "fooled" and "asked" as in `OrderEnv`.
    """
    env.set_seed(seed)
    n = len(env.session)
    collector = Collector(
        env,
        order_policy(agents, orders),
        frames_per_batch=n,
        total_frames=n,
        device=env.device,
        storing_device=env.device,
        trust_policy=True,
        auto_register_policy_transforms=False,
        use_buffers=False,
    )
    with torch.random.fork_rng(devices=[env.device] if env.device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            played: TensorDict = next(iter(collector)).squeeze(1)
        finally:
            collector.shutdown()
    after = played["next"]
    td = played.select(*OBSERVATION, "action", "log_prob")
    place = torch.arange(played["log_prob"].shape[-1], device=env.device)
    chosen = (place < after["asked"][..., None]) & (played["log_prob"] != 0)
    advantage = advantages(after["reward"][..., 0], chosen)
    return td.update({"advantage": advantage[..., None], **{key: after[key] for key in ("size", "fooled", "asked")}})


def advantages(reward: Float[Tensor, "n o"], chosen: Bool[Tensor, "n o p"]) -> Float[Tensor, "n o p"]:
    """By how much more an order has earned than the others of its clip, for each place that was
    chosen and asked about.

    All orders weigh the same, however many places of them are paid. So a place of a short order
    weighs more than one of a long order, which favours orders that succeed early: the mean over
    places in place of REINFORCE's sum, as in GRPO (Shao et al. 2024, equation 3).

    Args:
        reward: of each order of n clips.
        chosen: which of its first places are paid.
    """
    others = (reward.sum(1, keepdim=True) - reward) / (reward.shape[1] - 1)
    share = chosen * chosen.shape[-1] / chosen.sum(-1, keepdim=True).clamp_min(1)
    return (reward - others)[..., None] * share

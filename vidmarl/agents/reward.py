"""The team's reward for one query.

Two potentials, so that the rewards of an episode sum to how far it has come, and a cost for every
query. RLAB (images) pays the fall of the true class's probability per unit of added L2, AstFocus
gives both of its agents one reward; here each is a weighted term.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Reward:
    """The weights of the terms.

    Attributes:
        margin: per drop of the margin by the clean clip's margin; an episode's sum is at most this.
        size: per natural logarithm by which the size of the attack falls, a failure having the size
            of the full distortion: an episode's sum is log(full L2 / final L2), so both the success
            and what is taken away after it are paid.
        query: cost of every query.
    """

    margin: float = 1.0
    size: float = 0.5
    query: float = 0.01

    def __call__(self, before: TensorDict, after: TensorDict) -> Float[Tensor, " n"]:
        """The reward of a step.

        Args:
            before: the state of each episode (`vidmarl.agents.episodes.Episodes`).
            after: the same after a query.
        """
        drop: Tensor = before["margin"].clamp_min(0) - after["margin"].clamp_min(0)
        drop = drop / before["clean_margin"].clamp_min(1e-2)
        return self.margin * drop + self.size * (_size(before) / _size(after)).log() - self.query


def _size(episode: TensorDict) -> Float[Tensor, " n"]:
    """The norm that an episode counts with: that of the full distortion until it has a success."""
    return torch.where(episode["fooled"], episode["l2"], episode["full_l2"]).clamp_min(1e-3)

"""The team's reward for one query.

A potential of the goal's margin, so that the rewards of an episode sum to how far it has come;
costs for the query, for the size and for flicker; a bonus at success that grows with what was
saved. RLAB (images) pays the fall of the true class's probability per unit of added L2, AstFocus
gives both of its agents one reward; here each is a weighted term.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Bool, Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Reward:
    """The weights of the terms.

    Attributes:
        progress: per fall of the margin by the clean clip's margin; an episode's sum is at most
            this.
        query: cost of every query.
        flicker: cost per added mean squared frame-to-frame difference of the strength map.
        success: bonus at the first success.
        saved: further bonus then, times the fraction of the budget that is left.
        small: per natural logarithm by which the size of the attack falls, a failure having the
            size of the full distortion: an episode's sum is log(full L2 / final L2), so what is
            taken away after success is paid too.
    """

    progress: float = 1.0
    query: float = 0.01
    flicker: float = 0.1
    success: float = 0.5
    saved: float = 0.5
    small: float = 0.5

    def __call__(
        self,
        *,
        margin_fall: Float[Tensor, " n"],
        clean_margin: Float[Tensor, " n"],
        l2_before: Float[Tensor, " n"],
        l2: Float[Tensor, " n"],
        added_flicker: Float[Tensor, " n"],
        first_success: Bool[Tensor, " n"],
        budget_left: Float[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """The reward of each clip's step.

        Args:
            margin_fall: margin before minus margin after, both cut at 0, in nats.
            clean_margin: margin of the clean clip, in nats, above 0.
            l2_before: size of the attack before, that of the full distortion where there was no
                success yet.
            l2: size after, likewise.
            added_flicker: flicker of the strength map after minus before.
            first_success: whether this step reached the goal for the first time.
            budget_left: fraction of the budget that is left.
        """
        return (
            self.progress * margin_fall / clean_margin.clamp_min(1e-2)
            - self.query
            - self.flicker * added_flicker
            + self.small * (l2_before.clamp_min(1e-3) / l2.clamp_min(1e-3)).log()
            + (self.success + self.saved * budget_left) * first_success
        )


def strength_flicker(strength: Float[Tensor, "n t gh gw"]) -> Float[Tensor, " n"]:
    """Mean squared difference of the strength map from frame to frame; 0 for a single frame."""
    if strength.shape[1] < 2:
        return strength.new_zeros(len(strength))
    return strength.diff(dim=1).square().flatten(1).mean(1)

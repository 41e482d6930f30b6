"""The team's reward for one query.

A potential of the goal's margin, so that the rewards of an episode sum to how far it has come; costs for the query, for
the size and for flicker; a bonus at success that grows with what was saved. RLAB (images) pays the fall of the true
class's probability per unit of added L2, AstFocus gives both of its agents one reward; here each is a weighted term.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Bool, Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Reward:
    """The weights of the terms.

    Attributes:
        progress: per fall of the margin by the clean clip's margin; an episode's sum is at most this.
        query: cost of every query.
        size: cost per added L2, in units of the full distortion's norm.
        flicker: cost per added mean squared frame-to-frame difference of the strength map.
        success: bonus at success.
        saved: further bonus at success, times the fraction of the budget that is left.
        small: further bonus at success, times 1 minus the L2 in units of the full distortion's norm.
    """

    progress: float = 1.0
    query: float = 0.01
    size: float = 0.5
    flicker: float = 0.1
    success: float = 0.5
    saved: float = 0.5
    small: float = 1.0

    def __call__(
        self,
        *,
        margin_fall: Float[Tensor, " n"],
        clean_margin: Float[Tensor, " n"],
        added_l2: Float[Tensor, " n"],
        l2: Float[Tensor, " n"],
        full_l2: Float[Tensor, " n"],
        added_flicker: Float[Tensor, " n"],
        success: Bool[Tensor, " n"],
        budget_left: Float[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """The reward of each clip's step.

        Args:
            margin_fall: margin before minus margin after, both cut at 0, in nats.
            clean_margin: margin of the clean clip, in nats, above 0.
            added_l2: L2 after minus before, in [0, 1] pixels.
            l2: L2 after.
            full_l2: L2 of the full distortion.
            added_flicker: flicker of the strength map after minus before.
            success: whether this step reached the goal.
            budget_left: fraction of the budget that is left.
        """
        full = full_l2.clamp_min(1e-6)
        bonus = self.success + self.saved * budget_left + self.small * (1 - l2 / full)
        return (
            self.progress * margin_fall / clean_margin.clamp_min(1e-2)
            - self.query
            - self.size * added_l2 / full
            - self.flicker * added_flicker
            + bonus * success
        )


def strength_flicker(strength: Float[Tensor, "n t gh gw"]) -> Float[Tensor, " n"]:
    """Mean squared difference of the strength map from frame to frame; 0 for a single frame."""
    if strength.shape[1] < 2:
        return strength.new_zeros(len(strength))
    return strength.diff(dim=1).square().flatten(1).mean(1)

"""The clean-up that every attack ends with: a success is made smaller until nothing of it can be spared."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from vidmarl.session import Reply, Search, Session

FACTORS = (0.0, 0.5, 0.75)
"""What a group of tubelets is multiplied by, one after another: first taken away, then made weaker."""


def reduce(session: Session, row: int) -> Search:
    """Makes the best success of a clip smaller, for as long as it stays a success and there is budget.

    Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002) over the touched
    tubelets: take half of them away, if the goal still holds go on with the rest; once nothing of this size can be
    spared, try groups of half the size, down to single tubelets. Then the same again with groups halved in strength,
    and with groups at three quarters, each starting with the whole map. Without a success there is nothing to do.
    """
    if not session.fooled[row]:
        return
    strength, l2 = session.best_strength[row].cpu(), float(session.best_l2[row])
    for factor in FACTORS:
        strength, l2 = yield from _weaken(strength, l2, factor, session.generator(row))


def _weaken(
    strength: Tensor, l2: float, factor: float, generator: torch.Generator
) -> Generator[Tensor, Reply, tuple[Tensor, float]]:
    """Multiplies groups of tubelets by `factor` while the goal holds; returns the last success and its norm."""
    size = int(strength.count_nonzero())
    while size:
        touched = strength.flatten().nonzero().flatten()
        touched = touched[torch.randperm(len(touched), generator=generator)]
        spared = False
        for group in touched.split(size):
            candidate = strength.clone()
            candidate.view(-1)[group] *= factor
            if not candidate.any():  # the clean clip
                continue
            reply = yield candidate
            smaller = reply.l2 < l2 or (factor == 0 and reply.l2 == l2)
            if reply.success and smaller:
                strength, l2, spared = candidate, float(reply.l2), True
        if not spared:
            size //= 2
        if factor == 0:  # at most half of what is left can be tried: all of it leaves the clean clip
            size = min(size, -(-int(strength.count_nonzero()) // 2))
    return strength, l2

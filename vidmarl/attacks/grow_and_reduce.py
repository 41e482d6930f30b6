"""The strong control: a random set of cells doubles until the victim fails, and is minimized."""

from __future__ import annotations

import math

from vidmarl.attacks.random_cells import in_random_order
from vidmarl.attacks.search.restarts import Find, RestartAttack
from vidmarl.queries.clip import ClipView


class GrowAndReduce(RestartAttack):
    """Finds a success in a logarithmic number of queries, and spends the budget on minimizing it.

    1, 2, 4, ... random search cells are distorted at full strength, in random directions where the
    distortion has two, up to all of them. If that fails, another random order begins. A method that
    does not beat this control has learnt nothing.

    Args:
        start: search cells of the first query.
    """

    start: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start < 1:
            raise ValueError(f"GrowAndReduce: start must be at least 1 search cell, got {self.start}.")

    def find(self, clip: ClipView, bound: float) -> Find:
        return (yield from in_random_order(clip, doubling(math.prod(clip.shape), self.start), bound))


def doubling(end: int, start: int = 1) -> list[int]:
    """`start`, then each time twice as many, and at last `end`."""
    counts = []
    while start < end:
        counts.append(start)
        start *= 2
    return [*counts, end]

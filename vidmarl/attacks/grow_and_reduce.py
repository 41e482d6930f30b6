"""The strong control: a random set of tubelets grown by doubling until the victim fails, then delta
debugging."""

from __future__ import annotations

import math
from typing import Any

from vidmarl.attacks.random_cells import in_random_order
from vidmarl.attacks.search.restarts import Find, RoundsAttack
from vidmarl.queries.session import Session


class GrowAndReduce(RoundsAttack):
    """Finds some success in a logarithmic number of queries, and spends the budget on making it
    smaller.

    1, 2, 4, ... random tubelets are distorted at full strength (in random directions, where the
    distortion has two) up to all of them; if that fails, another random order begins. A method that
    does not beat this control has learned nothing.

    Args:
        distortion: see `Attack`.
        start: tubelets of the first query.
        growth: how many times as many each query distorts as the one before, above 1.
        **common: see `RoundsAttack`.
    """

    def __init__(
        self, distortion: Any = "gaussian_noise", *, start: int = 1, growth: float = 2.0, **common: Any
    ) -> None:
        super().__init__(distortion, **common)
        if start < 1 or growth <= 1:
            raise ValueError(
                f"GrowAndReduce: expected a start of at least 1 tubelet and a growth above 1, got {start} and {growth}."
            )
        self.start = start
        self.growth = growth

    def find(self, session: Session, row: int, room: float) -> Find:
        counts = growing(math.prod(session.renderer.cells), self.start, self.growth)
        return (yield from in_random_order(session, row, counts, room))


def growing(end: int, start: int = 1, growth: float = 2.0) -> list[int]:
    """`start`, then each time `growth` times as many, and at last `end`."""
    counts, count = [], float(start)
    while count < end:
        counts.append(int(count))
        count = max(count * growth, int(count) + 1)
    return [*counts, end]

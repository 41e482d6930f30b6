"""The strong control: a random set of tubelets grown by doubling until the victim fails, then delta debugging."""

from __future__ import annotations

from typing import Any

from vidmarl.attacks.base import Attack
from vidmarl.attacks.random_cells import first_cells, random_order
from vidmarl.attacks.reduce import reduce
from vidmarl.session import Search, Session


class GrowAndReduce(Attack):
    """Finds some success in a logarithmic number of queries, and spends the budget on making it smaller.

    1, 2, 4, ... random tubelets are distorted at full strength (in random directions, where the distortion has two) up
    to all of them; if that fails, another random order begins. A method that does not beat this control has
    learned nothing.

    Args:
        distortion: see `Attack`.
        reduce: whether the success is made smaller with the rest of the budget.
        **common: see `Attack`.
    """

    def __init__(self, distortion: Any = "gaussian_noise", *, reduce: bool = True, **common: Any) -> None:
        super().__init__(distortion, **common)
        self.reduce = reduce

    def search(self, session: Session, row: int) -> Search:
        while not session.fooled[row]:
            order, full = random_order(session, row)
            for count in doubling(len(order)):
                reply = yield first_cells(full, order, count)
                if reply.success:
                    break
        if self.reduce:
            yield from reduce(session, row)


def doubling(end: int) -> list[int]:
    """1, 2, 4, ... and at last `end`."""
    return [*(1 << i for i in range((end - 1).bit_length())), end]

"""What the controls have in common: find a success, make it smaller, begin again."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

from torch import Tensor

from vidmarl.attacks.base import Attack
from vidmarl.attacks.search.minimize import polish, reduce
from vidmarl.queries.session import SLACK, Response, Search, Session

Find = Generator[Tensor, Response, tuple[Tensor, float] | None]
"""Like a `Search`, and returns the success that it found with its norm, or None."""


class RoundsAttack(Attack):
    """Finds a success, spends what the clean-up takes on making it smaller, and begins again until
    the budget is spent.

    A subclass writes `find`.

    Args:
        distortion: see `Attack`.
        reduce: whether successes are made smaller; False: the attack ends with its first success.
        rounds: whether the rest of the budget goes into further rounds from the clean clip, with
            fresh randomness.
        polish: queries of polishing after each clean-up (`vidmarl.attacks.search.minimize.polish`),
            with another behind it.
        **common: see `Attack`.
    """

    def __init__(
        self,
        distortion: Any = "gaussian_noise",
        *,
        reduce: bool = True,
        rounds: bool = True,
        polish: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(distortion, **common)
        self.reduce = reduce
        self.rounds = rounds
        self.polish = polish

    def search(self, session: Session, row: int) -> Search:
        smallest = math.inf
        while True:
            before = int(session.queries[row])
            found = yield from self.find(session, row, SLACK * smallest)
            if found is not None and self.reduce:
                smallest = min(smallest, found[1])
                yield from reduce(session, row, *found)
                if self.polish:
                    yield from polish(session, row, self.polish)
                    yield from reduce(session, row)
            once = session.fooled[row] and not (self.reduce and self.rounds)
            if once or int(session.queries[row]) == before:  # a round that found nothing to ask about is the last
                return

    def find(self, session: Session, row: int, room: float) -> Find:
        """Looks for a success from the clean clip; gives up (None) where it would be no smaller
        than `room`.

        Args:
            session: the books.
            row: the clip.
            room: the norm below which a success is of use; infinite where there is none yet.
        """
        raise NotImplementedError

"""What the controls have in common: find a success, make it smaller, start again."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator

from torch import Tensor

from vidmarl.attacks.base import Attack
from vidmarl.attacks.search.minimize import minimize
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Request, Search
from vidmarl.queries.session import Response

RESTART_SLACK = 1.1
"""A restart may find a success so many times as large as the smallest one found so far, before it
was minimized: minimizing it from another place can still end smaller."""

Find = Generator[Tensor | Request, Response, tuple[Tensor, float] | None]
"""Like a `Search`, and returns the success that it found with its L2 norm, or None."""


class RestartAttack(Attack):
    """Finds a success, minimizes it, and starts again from the clean clip, until the budget ends.

    A subclass writes `find`. See `Attack` for the settings.
    """

    def search(self, clip: ClipView) -> Search:
        smallest = math.inf
        while True:
            before = clip.queries
            found = yield from self.find(clip, RESTART_SLACK * smallest)
            if found is not None:
                strength, l2 = found
                smallest = min(smallest, l2)
                yield from minimize(clip, strength, l2)
            if clip.queries == before:  # there was nothing left to ask
                return

    @abstractmethod
    def find(self, clip: ClipView, bound: float) -> Find:
        """Looks for a success, from the clean clip on.

        Args:
            clip: the clip.
            bound: an L2 norm. The search gives up (None) where a success would be no smaller. It is
                infinite before the first success.
        """

"""The strong control of signed strengths: SimBA over blocks of tubelets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidmarl.attacks.search.restarts import Find, RoundsAttack
from vidmarl.queries.session import Session


class SignedBlocks(RoundsAttack):
    """Random blocks of tubelets in random directions, kept where the margin falls (Guo et al. 2019,
    arXiv 1905.07121).

    SimBA walks along random orthogonal directions; here a direction is a block of untouched
    tubelets, each at full strength with a random sign. Each block is tried as drawn; where that
    does not lower the margin, with all its signs turned. Where the distortion has one direction a
    block goes from nothing to full strength, and has no second try.

    Once every tubelet was drawn, a new order begins. Then a block may hold tubelets touched before:
    they get new signs, or where there is one direction, those that are on go off. So later passes
    revise the earlier ones.

    What differs from the paper: the directions are tubelets of a given distortion instead of pixels
    or frequencies, a step goes to the end of the strength range at once, and a success is made
    smaller.

    Args:
        distortion: see `Attack`.
        block: tubelets in a block; None: a fiftieth of all (8 of 392, 39 of 1,936), which brings a
            first success within a few queries at both sizes; much larger blocks succeed sooner
            still, but on fewer clips.
        opposite: whether a block that failed is tried with its signs turned, as in the paper.
            False: the next query goes to a fresh block.
        **common: see `RoundsAttack`.
    """

    def __init__(
        self,
        distortion: Any = "gaussian_noise",
        *,
        block: int | None = None,
        opposite: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(distortion, **common)
        if block is not None and block < 1:
            raise ValueError(f"SignedBlocks: a block needs at least 1 tubelet, got {block}.")
        self.block = block
        self.opposite = opposite

    def find(self, session: Session, row: int, room: float) -> Find:
        strength = torch.zeros(session.renderer.cells)
        block = self.block or -(-strength.numel() // 50)
        margin = float(session.history["margin"][row, 0])
        asked = True
        while asked:  # a pass that found nothing to ask about is the last
            asked = False
            order = torch.randperm(strength.numel(), generator=session.generator(row))
            for cells in order.split(block):
                for values in self._values(session, row, strength.flatten()[cells]):
                    candidate = strength.clone()
                    candidate.view(-1)[cells] = values
                    if torch.equal(candidate, strength) or not candidate.any():  # the answers are known
                        continue
                    asked = True
                    response = yield candidate
                    if response.l2 >= room:
                        return None
                    if response.success:
                        return candidate, float(response.l2)
                    if response.margin < margin:
                        strength, margin = candidate, float(response.margin)
                        break
        return None

    def _values(self, session: Session, row: int, before: Tensor) -> list[Tensor]:
        """What a block's tubelets, float[k], are set to, one try after another."""
        if session.renderer.low == 0:
            return [1 - before]
        signs = torch.where(torch.rand(len(before), generator=session.generator(row)) < 0.5, -1.0, 1.0)
        return [signs, -signs] if self.opposite else [signs]

"""The strong control of signed strengths: SimBA over blocks of cells."""

from __future__ import annotations

import torch
from torch import Tensor

from vidmarl.attacks.search.restarts import Find, RestartAttack
from vidmarl.queries.clip import ClipView


class SignedBlocks(RestartAttack):
    """Random blocks of cells in random directions, kept where the margin falls.

    SimBA (Guo et al. 2019, arXiv 1905.07121) walks along random orthogonal directions. Here a
    direction is a block of untouched search cells, each at full strength with a random sign. Each
    block is tried as drawn; where that does not lower the margin, with all its signs changed. Where
    the distortion has one direction a block goes from nothing to full strength, and has no second
    try.

    Once every cell was drawn, a new order begins. Then a block may hold cells touched before: they
    get new signs, or, where there is one direction, those that are on go off. So later passes
    revise the earlier ones.

    What differs from the paper: the directions are cells of a given distortion instead of pixels or
    frequencies, a step goes to the end of the strength range at once, and a success is minimized.

    Args:
        block: search cells in a block; None: a fiftieth of all (8 of 392, 39 of 1,936), which
            brings a first success within a few queries at both sizes. Much larger blocks succeed
            sooner, but on fewer clips.
    """

    block: int | None = None
    needs_scores = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block is not None and self.block < 1:
            raise ValueError(f"SignedBlocks: a block needs at least 1 search cell, got {self.block}.")

    def find(self, clip: ClipView, bound: float) -> Find:
        strength, margin = clip.zeros(), clip.clean_margin
        block = self.block or -(-strength.numel() // 50)
        asked = True
        while asked:  # a pass without anything to ask about is the last
            asked = False
            for cells in torch.randperm(strength.numel(), generator=clip.rng).split(block):
                for values in _tries(clip, strength.flatten()[cells]):
                    candidate = strength.clone()
                    candidate.view(-1)[cells] = values
                    if torch.equal(candidate, strength) or not candidate.any():  # the answers are known
                        continue
                    asked = True
                    response = yield candidate
                    if response.l2 >= bound:
                        return None
                    if response.success:
                        return candidate, float(response.l2)
                    if response.margin < margin:
                        strength, margin = candidate, float(response.margin)
                        break
        return None


def _tries(clip: ClipView, before: Tensor) -> list[Tensor]:
    """What a block's cells, float[k], are set to, one try after another."""
    if clip.min_strength == 0:
        return [1 - before]
    signs = torch.where(torch.rand(len(before), generator=clip.rng) < 0.5, -1.0, 1.0)
    return [signs, -signs]

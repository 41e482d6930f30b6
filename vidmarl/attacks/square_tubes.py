"""Square Attack in space and time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.attacks.search.restarts import Find, RestartAttack
from vidmarl.queries.clip import ClipView

HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
"""The iterations, of 10,000, at which the paper halves the size of its squares."""


class SquareTubes(RestartAttack):
    """Random search with boxes of tubelets at the extremes of strength (Andriushchenko et al. 2020,
    arXiv 1912.00049).

    It starts from vertical stripes, each at a random extreme of the strength range: -1 or 1, or 0
    or 1 where the distortion has one direction. Each query sets a random box of cells to one
    extreme, which is kept if the margin falls. The box takes up the fraction `p` of the clip, which
    is halved as in the paper, with its schedule shrunk to the budget.

    What differs from the paper: the search runs on the strength map of a given distortion instead
    of on pixels in an Linf ball; the squares are boxes in time, height and width, equal fractions
    of each axis; there is one strength for the three channels; boxes that would change nothing are
    drawn again; and a success is minimized.

    Args:
        p: fraction of the search cells that the first boxes take up. The paper's 0.05 is meant for
            10,000 queries; within a hundred, larger boxes succeed sooner.
    """

    p: float = 0.3
    needs_scores = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.p <= 1:
            raise ValueError(f"SquareTubes: p is a fraction of the clip, expected 0 < p <= 1, got {self.p}.")

    def find(self, clip: ClipView, bound: float) -> Find:
        # `bound` cuts nothing: at an extreme everywhere, all candidates are about equally large
        extremes = torch.tensor([clip.min_strength, 1.0])
        strength = extremes[torch.randint(2, clip.shape[-1:], generator=clip.rng)].expand(clip.shape)
        response = yield strength
        margin, iteration = response.margin, 1
        while not response.success:
            candidate = set_box(strength, self._fraction(iteration), extremes, clip.rng)
            response = yield candidate
            if response.margin < margin:
                strength, margin = candidate, response.margin
            iteration += 1
        return strength, float(response.l2)

    def _fraction(self, iteration: int) -> float:
        """The fraction of the clip that a box takes up, by the paper's schedule."""
        of_10000 = iteration / self.budget * 10_000
        return self.p * 0.5 ** sum(of_10000 > halving for halving in HALVINGS)


def set_box(
    strength: Float[Tensor, "t y x"], fraction: float, extremes: Float[Tensor, " 2"], rng: torch.Generator
) -> Float[Tensor, "t y x"]:
    """A copy of a map with a random box set to an extreme that it does not hold throughout."""
    sides = [max(1, round(fraction ** (1 / 3) * length)) for length in strength.shape]
    while True:
        corner = [
            int(torch.randint(length - side + 1, (), generator=rng))
            for length, side in zip(strength.shape, sides, strict=True)
        ]
        box = tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))
        value = extremes[torch.randint(2, (), generator=rng)]
        if (strength[box] != value).any():
            candidate = strength.clone()
            candidate[box] = value
            return candidate

"""SimBA with the low frequencies of a clip as its directions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vidmarl.attacks.search.linf_ball import BallAttack
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Pixels, Search


class SimbaDCT(BallAttack):
    """Random low-frequency waves, kept where the margin falls (SimBA-DCT: Guo et al. 2019, arXiv
    1905.07121).

    A direction is one wave of the three-dimensional cosine basis in one colour channel. They come
    in random order, without repetition; each is added, and if that does not lower the margin,
    subtracted: one query or two. Once all were tried the waves are drawn again in another order.

    What differs from the paper: waves in time, height and width instead of on one image; a clip is
    projected into the Linf ball after each step (the paper bounds nothing and counts the L2), and
    since it is, a step is measured by its
    largest change of a pixel: the paper's 0.2 in L2 would be a fifth of an 8-bit level here and
    vanish in the rounding; what shall fall is the margin rather than the label's probability.

    Args:
        ratio: fraction of the frequencies of each axis, the lowest ones, as in the paper.
        step: largest change of a pixel in one step, as a fraction of the ball's radius.
    """

    ratio: float = 1 / 8
    step: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio <= 1:
            raise ValueError(f"SimbaDCT: ratio is a fraction, expected 0 < ratio <= 1, got {self.ratio}.")
        if not 0 < self.step <= 2:
            raise ValueError(f"SimbaDCT: expected 0 < step <= 2, as far as the ball is wide, got {self.step}.")

    def search(self, clip: ClipView) -> Search:
        current, margin = clip.pixels, clip.clean_margin
        shape = clip.pixels.shape[1:]
        for channel, frequencies in self._directions(shape, clip.rng):
            change = self.step * self.epsilon * wave(shape, frequencies).to(clip.pixels.device)
            for sign in (1, -1):
                moved = current.clone()
                moved[channel] += sign * change
                candidate = self.project(moved[None], clip.pixels)
                response = yield Pixels(candidate)
                if response.success[0]:
                    return
                if float(response.margin[0]) < margin:
                    current, margin = candidate[0], float(response.margin[0])
                    break

    def _directions(self, shape: torch.Size, rng: torch.Generator) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Channels and frequencies along t, h and w without end, each of them once before any comes
        again."""
        lowest = [max(1, round(self.ratio * length)) for length in shape]
        while True:
            for index in torch.randperm(3 * math.prod(lowest), generator=rng):
                channel, *frequencies = (int(i) for i in torch.unravel_index(index, (3, *lowest)))
                yield channel, tuple(frequencies)


def wave(shape: torch.Size | tuple[int, ...], frequencies: tuple[int, ...]) -> Tensor:
    """A basis function of the discrete cosine transform (DCT-II) along all axes, largest value 1:
    float[t h w]."""
    axes = [
        torch.cos(math.pi / length * (torch.arange(length) + 0.5) * frequency)
        for length, frequency in zip(shape, frequencies, strict=True)
    ]
    t, h, w = (axis / axis.abs().amax() for axis in axes)
    return torch.einsum("t,h,w->thw", t, h, w)

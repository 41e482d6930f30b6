"""How long a tubelet of the agents lasts, and how its sign goes on in time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidmarl.agents.tubelets import WIDTHS, lasting, lengths


@pytest.mark.parametrize(
    ("width", "frame", "frames"),
    [
        (1, 3, [3]),
        (2, 3, [2, 3]),
        (4, 3, [1, 2, 3, 4]),
        (8, 0, [0, 1, 2, 3]),
        (8, 7, [3, 4, 5, 6, 7]),
        (2, 0, [0]),
        (16, 4, list(range(8))),
    ],
)
def test_a_tubelet_lasts_as_long_as_its_width_within_the_clip(width: int, frame: int, frames: list[int]) -> None:
    index = torch.tensor(WIDTHS.index(width))
    held, turning = (lasting(torch.tensor(frame), index, 8, alternate=alternate) for alternate in (False, True))
    assert held.tolist() == [float(t in frames) for t in range(8)]
    assert turning.tolist() == [float(t in frames) * (-1) ** (t - frame) for t in range(8)]


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 19), st.integers(0, 4)), min_size=1), st.booleans())
def test_many_tubelets_at_once_are_each_what_it_is_alone(frames: int, some: list, alternate: bool) -> None:
    centre, width = torch.tensor(some).unbind(1)
    centre = centre % frames
    together = lasting(centre, width, frames, alternate=alternate)
    alone = [lasting(c, w, frames, alternate=alternate) for c, w in zip(centre, width, strict=True)]
    assert torch.equal(together, torch.stack(alone))
    assert together[torch.arange(len(some)), centre].eq(1).all()  # where it is centred it goes its own way


@pytest.mark.parametrize(
    ("frames", "longest", "expected"),
    [(8, 16, [1, 2, 4, 8]), (8, 3, [1, 2]), (3, 16, [1, 2]), (1, 16, [1]), (40, 16, list(WIDTHS)), (8, 1, [1])],
)
def test_no_tubelet_is_longer_than_the_clip_or_than_it_may_be(frames: int, longest: int, expected: list[int]) -> None:
    assert list(WIDTHS[: lengths(frames, longest)]) == expected

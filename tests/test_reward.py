"""The reward in closed form."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from vidmarl.agents.reward import Reward

FULL = 40.0


def state(margin: float = 2.0, l2: float = 10.0, fooled: bool = False, clean_margin: float = 2.0) -> TensorDict:
    """What a reward goes by, of one episode."""
    numbers = {"margin": margin, "l2": l2, "clean_margin": clean_margin, "full_l2": FULL}
    entries = {key: torch.tensor([value]) for key, value in numbers.items()}
    return TensorDict(entries | {"fooled": torch.tensor([fooled])}, batch_size=[1])


WEIGHTS = Reward(margin=1, size=0.7, query=0)


def test_nothing_happened_costs_one_query() -> None:
    assert float(Reward()(state(), state())) == pytest.approx(-Reward().query)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (state(), state(margin=1.0), 0.5),
        (state(margin=1.0), state(margin=2.0), -0.5),
        (state(margin=1.0), state(margin=-3.0), 0.5),  # below 0 it counts no further
        (state(l2=5.0), state(l2=7.0), 0),  # the size of a failure is that of the full distortion
        (state(margin=0.0), state(margin=-1.0, l2=10.0, fooled=True), 0.7 * math.log(4)),
        (state(margin=-1.0, fooled=True), state(margin=-1.0, l2=5.0, fooled=True), 0.7 * math.log(2)),
    ],
)
def test_each_term(before: TensorDict, after: TensorDict, expected: float) -> None:
    assert float(WEIGHTS(before, after)) == pytest.approx(expected)


def test_margins_of_an_episode_telescope() -> None:
    episode = [state(margin=m) for m in (2.0, 1.4, 1.4, 0.3, 0.0)]
    assert sum(float(WEIGHTS(a, b)) for a, b in itertools.pairwise(episode)) == pytest.approx(1)


@pytest.mark.thorough
@given(sizes=st.lists(st.floats(0.1, 30), min_size=1, max_size=8), weight=st.floats(0.1, 2))
def test_sizes_of_an_episode_telescope_to_the_log_of_what_was_saved(sizes: list[float], weight: float) -> None:
    """Whatever the way from the full distortion's size to the last one."""
    weights = Reward(margin=0, size=weight, query=0)
    episode = [state(l2=3.0), *(state(l2=size, fooled=True) for size in sizes)]
    total = sum(float(weights(a, b)) for a, b in itertools.pairwise(episode))
    assert total == pytest.approx(weight * math.log(FULL / sizes[-1]), abs=1e-4)


def test_a_size_of_zero_and_a_clean_margin_of_zero_are_no_infinities() -> None:
    assert math.isfinite(Reward()(state(l2=1.0, fooled=True), state(l2=0.0, fooled=True)))
    assert math.isfinite(Reward()(state(margin=0.0, clean_margin=0.0), state(margin=0.0, clean_margin=0.0)))

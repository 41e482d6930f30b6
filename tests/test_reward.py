"""The reward in closed form."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidmarl.agents.reward import Reward, strength_flicker

NOTHING = {"progress": 0.0, "query": 0.0, "flicker": 0.0, "success": 0.0, "saved": 0.0, "small": 0.0}


def reward(weights: Reward, **changes: float | bool) -> float:
    one = torch.ones(1)
    values = {
        "margin_fall": 0 * one,
        "clean_margin": 2 * one,
        "l2_before": 10 * one,
        "l2": 10 * one,
        "added_flicker": 0 * one,
        "first_success": torch.zeros(1, dtype=torch.bool),
        "budget_left": 0.5 * one,
    }
    return float(weights(**(values | {k: torch.as_tensor([v]) for k, v in changes.items()})))


def test_nothing_happened_costs_one_query() -> None:
    assert reward(Reward()) == pytest.approx(-Reward().query)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"margin_fall": 1.0}, 0.5),
        ({"added_flicker": 0.2}, -0.1 * 0.2),
        ({"l2": 2.5}, 0.7 * math.log(4)),
        ({"l2_before": 2.5, "l2": 10.0}, -0.7 * math.log(4)),
        ({"first_success": True}, 0.5 + 0.4 * 0.5),
        ({"first_success": True, "budget_left": 0.0, "l2": 5.0}, 0.5 + 0.7 * math.log(2)),
    ],
)
def test_each_term(changes: dict[str, float | bool], expected: float) -> None:
    weights = Reward(progress=1, query=0, flicker=0.1, success=0.5, saved=0.4, small=0.7)
    assert reward(weights, **changes) == pytest.approx(expected)


def test_progress_of_an_episode_telescopes() -> None:
    margins = torch.tensor([2.0, 1.4, 1.4, 0.3, 0.0])
    weights = Reward(**(NOTHING | {"progress": 1.0}))
    total = sum(reward(weights, margin_fall=float(a - b)) for a, b in itertools.pairwise(margins))
    assert total == pytest.approx(1)


@given(sizes=st.lists(st.floats(0.1, 30), min_size=1, max_size=8), small=st.floats(0.1, 2))
def test_size_of_an_episode_telescopes_to_the_log_of_what_was_saved(sizes: list[float], small: float) -> None:
    """Whatever the way from the full distortion's size to the last one."""
    full = 40.0
    weights = Reward(**(NOTHING | {"small": small}))
    total = sum(reward(weights, l2_before=a, l2=b) for a, b in itertools.pairwise([full, *sizes]))
    assert total == pytest.approx(small * math.log(full / sizes[-1]), abs=1e-4)


def test_a_size_of_zero_and_a_clean_margin_of_zero_are_no_infinities() -> None:
    assert math.isfinite(reward(Reward(), l2_before=1.0, l2=0.0))
    assert math.isfinite(reward(Reward(), clean_margin=0.0, margin_fall=0.0))


def test_flicker_of_a_still_map_is_zero_and_of_a_blinking_one_is_not() -> None:
    still = torch.rand(2, 1, 3, 3).expand(2, 4, 3, 3)
    assert strength_flicker(still).eq(0).all()
    blinking = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 4, 1, 1)
    assert strength_flicker(blinking) == pytest.approx(1)
    assert strength_flicker(torch.rand(2, 1, 3, 3)).eq(0).all()

"""The reward in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch

from vidmarl.reward import Reward, strength_flicker


def reward(weights: Reward, **changes):
    one = torch.ones(1)
    values = {
        "margin_fall": 0 * one,
        "clean_margin": 2 * one,
        "added_l2": 0 * one,
        "l2": 0 * one,
        "full_l2": 10 * one,
        "added_flicker": 0 * one,
        "success": torch.zeros(1, dtype=torch.bool),
        "budget_left": 0.5 * one,
    }
    return float(weights(**(values | {k: torch.as_tensor([v]) for k, v in changes.items()})))


def test_nothing_happened_costs_one_query():
    assert reward(Reward()) == pytest.approx(-Reward().query)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"margin_fall": 1.0}, 0.5),
        ({"added_l2": 5.0}, -0.5 * 0.5),
        ({"added_l2": -5.0}, 0.5 * 0.5),
        ({"added_flicker": 0.2}, -0.1 * 0.2),
        ({"success": True, "l2": 2.5}, 0.5 + 0.5 * 0.5 + 1.0 * 0.75),
    ],
)
def test_each_term(changes, expected):
    weights = Reward(progress=1, query=0, size=0.5, flicker=0.1, success=0.5, saved=0.5, small=1)
    assert reward(weights, **changes) == pytest.approx(expected)


def test_progress_of_an_episode_telescopes():
    margins = torch.tensor([2.0, 1.4, 1.4, 0.3, 0.0])
    weights = Reward(progress=1, query=0, size=0, flicker=0, success=0, saved=0, small=0)
    total = sum(reward(weights, margin_fall=float(a - b)) for a, b in itertools.pairwise(margins))
    assert total == pytest.approx(1)


def test_flicker_of_a_still_map_is_zero_and_of_a_blinking_one_is_not():
    still = torch.rand(2, 1, 3, 3).expand(2, 4, 3, 3)
    assert strength_flicker(still).eq(0).all()
    blinking = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 4, 1, 1)
    assert strength_flicker(blinking) == pytest.approx(1)
    assert strength_flicker(torch.rand(2, 1, 3, 3)).eq(0).all()

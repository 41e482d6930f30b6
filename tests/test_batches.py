"""A clip's result is the same to the bit, whatever is attacked beside it and however many clips go
through the victim at once, if the victim itself says the same of a clip in every batch."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vidmarl import AttackResult, Victim
from vidmarl.attacks import as_attack, list_attacks
from vidmarl.testing import easy_clips

CLIPS = 4
NAMES = [name for name in list_attacks() if as_attack(name).batch_independent]


class Exact(nn.Module):
    """Linear in the means of cells, rounded to what every order of the sums comes to."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = 8 * torch.randn(3 * 3 * 4 * 4, 4, generator=torch.Generator().manual_seed(0)).double()

    def forward(self, clips: Tensor) -> Tensor:
        cells = torch.nn.functional.adaptive_avg_pool3d(clips.double(), (3, 4, 4)) - 0.5
        return ((cells.flatten(1) @ self.weights) * 2**16).round() / 2**16


def attacked(name: str, order: list[int], clips_at_once: int = 64, batch_size: int | None = None) -> AttackResult:
    """An attack on clips in this order; the result in the order of the clips."""
    attack = as_attack(name, budget=30, progress=False, clips_at_once=clips_at_once)
    result = attack(Victim(Exact(), batch_size=batch_size), easy_clips()[:CLIPS][order])
    return result[torch.tensor(order).argsort()]


@functools.cache
def usual(name: str) -> AttackResult:
    return attacked(name, list(range(CLIPS)))


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4)
@given(st.permutations(range(CLIPS)), st.sampled_from([1, 3, 64]), st.sampled_from([1, 7]))
def test_order_and_size_of_batches_change_no_bit(
    name: str, order: list[int], clips_at_once: int, batch_size: int
) -> None:
    expected, result = usual(name), attacked(name, order, clips_at_once, batch_size)
    tensors = {field.name: getattr(expected, field.name) for field in dataclasses.fields(expected)}
    tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    for key, values in tensors.items():
        assert torch.equal(getattr(result, key), values), key
    for key, values in expected.history.items():
        assert torch.equal(result.history[key].nan_to_num(-1e9), values.nan_to_num(-1e9)), key

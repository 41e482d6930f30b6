"""The action distributions: exact probabilities, shown by enumeration and by counting draws."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidmarl import proposals
from vidmarl.proposals import BLOCK_SIZES, WINDOW_WIDTHS, BlockDistribution, WindowDistribution


def block(g: int, seed: int = 0, can_up: list[bool] | None = None, can_down: list[bool] | None = None):
    torch.manual_seed(seed)
    return BlockDistribution(
        torch.randn(g),
        torch.randn(g),
        torch.randn(len(BLOCK_SIZES)),
        torch.tensor(can_up or [True] * g),
        torch.tensor(can_down or [True] * g),
    )


def every_block(g: int, k: int):
    """All distinct actions over g cells: the part beyond the size is filled with the cells left over."""
    for index, size in enumerate(BLOCK_SIZES):
        if size > g:
            continue
        for cells in itertools.permutations(range(g), size):
            rest = [c for c in range(g) if c not in cells][: k - size]
            for ups in itertools.product((0, 1), repeat=size):
                yield torch.tensor([index, *cells, *rest, *ups, *([0] * (k - size))])


def test_probabilities_of_all_blocks_sum_to_one():
    dist = block(3)
    total = sum(float(dist.log_prob(action).exp()) for action in every_block(3, dist.k))
    assert total == pytest.approx(1, abs=1e-5)


def test_what_lies_beyond_the_size_does_not_count():
    dist = block(4)
    one = torch.tensor([0, 2, 0, 1, 3, 1, 0, 0, 0])
    other = torch.tensor([0, 2, 3, 0, 1, 1, 1, 1, 1])
    assert dist.log_prob(one) == dist.log_prob(other)
    assert torch.equal(dist.block(one[None], 4), dist.block(other[None], 4))


def test_draws_have_the_probabilities_that_log_prob_gives():
    torch.manual_seed(1)
    dist = block(3, seed=2)
    drawn = dist.sample(torch.Size([20000]))
    single = drawn[drawn[:, 0] == 0]
    for cell in range(3):
        for up in (0, 1):
            action = torch.tensor([0, cell, *[c for c in range(3) if c != cell], up, 0, 0])
            share = float(((single[:, 1] == cell) & (single[:, 4] == up)).sum() / len(drawn))
            assert share == pytest.approx(float(dist.log_prob(action).exp()), abs=0.015)


@settings(max_examples=25)
@given(g=st.integers(2, 40), seed=st.integers(0, 99), data=st.data())
def test_cells_are_distinct_and_moves_possible(g, seed, data):
    up = data.draw(st.lists(st.booleans(), min_size=g, max_size=g).filter(any))
    down = data.draw(st.lists(st.booleans(), min_size=g, max_size=g))
    dist = block(g, seed, up, down)
    movable = sum(u or d for u, d in zip(up, down, strict=True))
    action = dist.sample()
    size = min(BLOCK_SIZES[int(action[0])], movable)
    cells = action[1 : 1 + size].tolist()
    assert len(set(cells)) == size
    for cell, direction in zip(cells, action[1 + dist.k :].tolist(), strict=False):
        assert up[cell] if direction else down[cell]
    assert dist.log_prob(action).isfinite()
    assert dist.entropy().isfinite()


def test_log_prob_has_gradients_to_all_logits():
    cells, ups = (torch.randn(2, 9, requires_grad=True) for _ in range(2))
    sizes = torch.randn(2, len(BLOCK_SIZES), requires_grad=True)
    able = torch.ones(2, 9, dtype=torch.bool)
    dist = BlockDistribution(cells, ups, sizes, able, able)
    action = dist.sample()
    action[:, 0] = 2
    dist.log_prob(action).sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (cells, ups, sizes))


def test_windows_sum_to_one_and_fit_the_clip():
    torch.manual_seed(0)
    dist = WindowDistribution(torch.randn(4), torch.randn(len(WINDOW_WIDTHS)))
    actions = torch.cartesian_prod(torch.arange(4), torch.arange(len(WINDOW_WIDTHS)))
    assert dist.log_prob(actions).exp().sum() == pytest.approx(1, abs=1e-5)
    assert all(WINDOW_WIDTHS[int(dist.sample()[1])] <= 4 for _ in range(50))


@pytest.mark.parametrize("width", range(len(WINDOW_WIDTHS)))
def test_window_is_full_at_its_centre_and_falls_off(width):
    weight = WindowDistribution.window(torch.tensor([[8, width]]), 17)[0]
    assert weight[8] == 1
    assert (weight[8:].diff() <= 0).all()
    assert torch.equal(weight[:8].flip(0), weight[9:])
    if WINDOW_WIDTHS[width] == 1:
        assert weight.sum() == 1
    else:
        assert weight[8 + WINDOW_WIDTHS[width] // 2] == pytest.approx(0.5)


def test_the_same_uniform_numbers_give_the_same_action_in_any_batch():
    torch.manual_seed(0)
    g = 12
    logits, ups, sizes = torch.randn(5, g), torch.randn(5, g), torch.randn(5, len(BLOCK_SIZES))
    able = torch.ones(5, g, dtype=torch.bool)
    together = BlockDistribution(logits, ups, sizes, able, able)
    uniform = torch.rand(5, together.uniforms_needed)
    alone = BlockDistribution(logits[3:4], ups[3:4], sizes[3:4], able[3:4], able[3:4])
    assert torch.equal(together.draw(uniform)[3], alone.draw(uniform[3:4])[0])


def test_masked_logit_is_finite():
    assert torch.tensor(proposals._NEVER).isfinite()

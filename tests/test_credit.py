"""The credit map explains every response, learns a linear margin, and shares what it learns with
the neighbours."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidmarl.agents.credit import OWN, learn, scaled

shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


def single(place: tuple[int, int, int], shape: tuple[int, int, int] = (5, 7, 7), value: float = 1.0) -> Tensor:
    change = torch.zeros(1, *shape)
    change[0, place[0], place[1], place[2]] = value
    return change


@pytest.mark.thorough
@settings(max_examples=50)
@given(shape=shapes, seed=st.integers(0, 999), signed=st.booleans())
def test_the_last_reply_is_explained_exactly(shape: tuple[int, ...], seed: int, signed: bool) -> None:
    torch.manual_seed(seed)
    change = (torch.rand(shape) < 0.3).float()
    change[:, 0, 0, 0] = 1
    if signed:
        change = change * torch.randn(shape).sign()
    fall = torch.randn(shape[0])
    after = learn(torch.randn(shape), change, fall)
    assert torch.allclose((after * change).flatten(1).sum(1), fall, atol=1e-3)


def test_a_reply_that_was_expected_changes_nothing() -> None:
    credit, change = torch.randn(1, 5, 7, 7), single((2, 3, 3))
    assert torch.allclose(learn(credit, change, (credit * change).sum()[None]), credit, atol=1e-6)


def test_asking_about_nothing_teaches_nothing() -> None:
    credit = torch.randn(1, 5, 7, 7)
    assert torch.equal(learn(credit, torch.zeros_like(credit), torch.tensor([3.0])), credit)


def test_neighbours_share_credit_less_with_distance_and_alike_on_both_sides() -> None:
    credit = learn(torch.zeros(1, 5, 7, 7), single((2, 3, 3)), torch.tensor([1.0]))[0]
    assert credit[2, 3, 3] == pytest.approx(1)
    for line in (credit[:, 3, 3], credit[2, :, 3], credit[2, 3, :]):
        assert torch.allclose(line, line.flip(0))
        middle = len(line) // 2
        assert (line[middle:].diff() < 0).all()
        assert line.min() > 0
        assert line[middle + 1] < 1 - OWN  # the cell has something of its own
    assert torch.allclose(credit, credit.transpose(1, 2))


def test_what_one_cell_says_of_another_is_what_that_says_of_it() -> None:
    one, other = (1, 2, 3), (3, 5, 2)
    zero, response = torch.zeros(1, 5, 7, 7), torch.tensor([1.0])
    there, back = learn(zero, single(one), response)[0], learn(zero, single(other), response)[0]
    assert there[other] == pytest.approx(float(back[one]))


def test_every_clip_learns_from_its_own_reply_alone() -> None:
    change = torch.cat([single((0, 0, 0)), single((4, 6, 6)), single((2, 3, 3), value=-1.0)])
    fall = torch.tensor([1.0, -2.0, 0.5])
    together = learn(torch.zeros_like(change), change, fall)
    for i in range(3):
        alone = learn(torch.zeros(1, 5, 7, 7), change[i : i + 1], fall[i : i + 1])
        assert torch.allclose(together[i], alone[0], atol=1e-6)
    assert torch.allclose(learn(torch.zeros(1, 5, 7, 7), -change[:1], -fall[:1])[0], together[0])


def smooth_truth(seed: int) -> Tensor:
    """The effects of cells as they are: a bump somewhere, and every cell's own part."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(8.0), torch.arange(8.0), indexing="ij"))
    centre = torch.rand(3, 1, 1, 1, generator=generator) * 6
    bump = (-(place - centre).square().sum(0) / 8).exp()
    return (bump + 0.1 * torch.randn(6, 8, 8, generator=generator))[None]


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_margin_is_learnt_from_blocks(seed: int) -> None:
    truth, credit = smooth_truth(seed), torch.zeros(1, 6, 8, 8)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(150):
        change = (torch.rand(credit.shape, generator=generator) < 4 / 384).float()
        credit = learn(credit, change, (truth * change).flatten(1).sum(1))
    assert (credit - truth).square().mean() < 0.3 * truth.square().mean()
    assert torch.corrcoef(torch.stack([credit.flatten(), truth.flatten()]))[0, 1] > 0.8


def test_single_probes_tell_more_than_of_the_cells_probed() -> None:
    truth, credit = smooth_truth(0), torch.zeros(1, 6, 8, 8)
    order = torch.randperm(384, generator=torch.Generator().manual_seed(0))
    for cell in order[:40]:
        change = torch.zeros(1, 384)
        change[0, cell] = 1
        change = change.view_as(truth)
        credit = learn(credit, change, (truth * change).flatten(1).sum(1))
    unseen = order[40:]
    error = (credit - truth).flatten()[unseen].square().mean()
    assert error < 0.7 * truth.flatten()[unseen].square().mean()


def test_the_agents_see_it_bounded_and_in_order() -> None:
    credit = torch.linspace(-2, 2, 101).view(1, 1, 1, -1)
    assert scaled(credit).abs().max() <= 1
    assert (scaled(credit).diff() >= 0).all()
    assert (scaled(credit).flatten() * credit.flatten() >= 0).all()

"""The action distributions: exact probabilities by enumeration, draws that have them, and what an
action means."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidmarl.agents import actions as actions
from vidmarl.agents.actions import COUNTS, DRAWS, WIDTHS, WhenDistribution, WhereDistribution, directions, within

T, G = 3, 2


def when(t: int, seed: int = 0, batch: tuple[int, ...] = (), **can: Tensor) -> WhenDistribution:
    torch.manual_seed(seed)
    counts, widths = len(actions.COUNTS), len(actions.WIDTHS)
    logits = [torch.randn(*batch, n) for n in (counts, widths, t)]
    every = {"count_mask": torch.ones(*batch, counts).bool(), "frame_mask": torch.ones(*batch, t).bool()}
    return WhenDistribution(*logits, **(every | can))


def where(action: Tensor, t: int, g: int, seed: int = 0, **can: Tensor) -> WhereDistribution:
    torch.manual_seed(seed)
    shape = (*action.shape[:-1], t, g)
    every = {"up_mask": torch.ones(shape).bool(), "down_mask": torch.ones(shape).bool()}
    return WhereDistribution(torch.randn(shape), torch.randn(shape), when=action, **(every | can))


def temporal(count: int, width: int, *frames: int) -> Tensor:
    """A temporal action from the numbers themselves; the frames beyond those given are 0."""
    rest = [0] * (actions.DRAWS - len(frames))
    return torch.tensor([actions.COUNTS.index(count), actions.WIDTHS.index(width), *frames, *rest])


def spatial(*draws: tuple[int, int]) -> Tensor:
    """A spatial action from (cell, direction) of its first draws."""
    rest = [0] * (actions.DRAWS - len(draws))
    return torch.tensor([*(cell for cell, _ in draws), *rest, *(up for _, up in draws), *rest])


@pytest.fixture
def two_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals of one or two tubelets, few enough to list them all."""
    monkeypatch.setattr(actions, "COUNTS", (1, 2))
    monkeypatch.setattr(actions, "WIDTHS", (1, 2))
    monkeypatch.setattr(actions, "DRAWS", 2)
    monkeypatch.setattr(WhenDistribution, "uniforms_needed", 4)
    monkeypatch.setattr(WhereDistribution, "uniforms_needed", 4)


def every_temporal() -> list[Tensor]:
    """All temporal actions over T frames, those that differ beyond the count alone being one."""
    return [
        temporal(count, width, *frames)
        for count, width in itertools.product(actions.COUNTS, actions.WIDTHS)
        for frames in itertools.product(range(T), repeat=count)
    ]


def every_spatial(count: int) -> list[Tensor]:
    return [spatial(*draws) for draws in itertools.product(itertools.product(range(G), (0, 1)), repeat=count)]


# --- log-probabilities


def test_probabilities_of_all_joint_actions_sum_to_one(two_draws: None) -> None:
    first, total = when(T), 0.0
    for action in every_temporal():
        second, count = where(action, T, G), actions.COUNTS[int(action[0])]
        given_it = sum(float(second.log_prob(other).exp()) for other in every_spatial(count))
        assert given_it == pytest.approx(1, abs=1e-5)
        total += float(first.log_prob(action).exp()) * given_it
    assert total == pytest.approx(1, abs=1e-5)


def test_temporal_draws_have_the_probabilities_that_log_prob_gives(two_draws: None) -> None:
    dist, n = when(T, seed=3), 20000
    drawn = dist.sample(torch.Size([n]))
    drawn[drawn[:, 0] == 0, 3] = 0  # what lies beyond the count
    for action in every_temporal():
        p = float(dist.log_prob(action).exp())
        share = float((drawn == action).all(1).float().mean())
        assert share == pytest.approx(p, abs=5 * math.sqrt(p / n))


def test_spatial_draws_have_the_probabilities_that_log_prob_gives(two_draws: None) -> None:
    dist, n = where(temporal(2, 1, 2, 0), T, G, seed=3), 20000
    drawn = dist.sample(torch.Size([n]))
    for action in every_spatial(2):
        p = float(dist.log_prob(action).exp())
        share = float((drawn == action).all(1).float().mean())
        assert share == pytest.approx(p, abs=5 * math.sqrt(p / n))


def test_every_draw_goes_by_the_logits_of_its_own_frame() -> None:
    cells = torch.tensor([[50.0, 0, 0], [0, 50, 0], [0, 0, 50]])
    ups = torch.tensor([[50.0, 0, 0], [0, -50, 0], [0, 0, 50]])
    able = torch.ones(3, 3).bool()
    dist = WhereDistribution(cells, ups, able, able, temporal(4, 1, 2, 0, 1, 1))
    expected = spatial((2, 1), (0, 1), (1, 0), (1, 0))
    for action in (dist.mode, dist.sample()):
        assert torch.equal(action[:4], expected[:4])
        assert torch.equal(action[DRAWS : DRAWS + 4], expected[DRAWS : DRAWS + 4])
    assert dist.log_prob(expected) == pytest.approx(0, abs=1e-5)
    assert dist.log_prob(spatial((0, 1), (0, 1), (1, 0), (1, 0))) == pytest.approx(-50, abs=1)


@pytest.mark.thorough
@settings(max_examples=25)
@given(count=st.sampled_from(COUNTS), seed=st.integers(0, 99))
def test_what_lies_beyond_the_count_neither_counts_nor_acts(count: int, seed: int) -> None:
    t, g = 5, 6
    first = when(t, seed)
    one = first.sample()
    one[0] = COUNTS.index(count)
    second = where(one, t, g, seed)
    a = second.sample()
    other, b = one.clone(), a.clone()
    beyond = ~within(one)
    assert int(beyond.sum()) == DRAWS - count
    other[2:][beyond] = (one[2:][beyond] + 1) % t
    b[:DRAWS][beyond] = (a[:DRAWS][beyond] + 1) % g
    b[DRAWS:][beyond] = 1 - a[DRAWS:][beyond]
    assert first.log_prob(one) == first.log_prob(other)
    assert second.log_prob(a) == second.log_prob(b) == where(other, t, g, seed).log_prob(a)
    assert torch.equal(directions(one[None], a[None], (t, g)), directions(other[None], b[None], (t, g)))


def test_log_probs_have_gradients_to_all_logits() -> None:
    t, g = 4, 3
    first = [torch.randn(2, n, requires_grad=True) for n in (len(COUNTS), len(WIDTHS), t)]
    second = [torch.randn(2, t, g, requires_grad=True) for _ in range(2)]
    dist = WhenDistribution(*first, torch.ones(2, len(COUNTS)).bool(), torch.ones(2, t).bool())
    action = dist.sample()
    action[:, 0] = len(COUNTS) - 1
    able = torch.ones(2, t, g).bool()
    spatial_dist = WhereDistribution(*second, able, able, action)
    for loss in (
        dist.log_prob(action) + spatial_dist.log_prob(spatial_dist.sample()),
        dist.entropy() + spatial_dist.entropy(),
    ):
        grads = torch.autograd.grad(loss.sum(), first + second, retain_graph=True)
        assert all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in grads)


def test_entropies_are_those_of_the_parts(two_draws: None) -> None:
    dist = when(T)
    single = [a for a in every_temporal() if a[0] == 0]
    p = torch.stack([dist.log_prob(a) for a in single]) - dist.count.log_prob(torch.tensor(0))
    expected = -(p.exp() * p).sum() + dist.count.entropy()  # of width and one frame, and of the count
    assert torch.isclose(dist.entropy(), expected, atol=1e-5)
    one = where(temporal(1, 1, 2), T, G)
    p = torch.stack([one.log_prob(a) for a in every_spatial(1)])
    assert torch.isclose(one.entropy(), -(p.exp() * p).sum(), atol=1e-5)
    two = where(temporal(2, 1, 2, 0), T, G)
    zero = where(temporal(1, 1, 0), T, G)
    assert torch.isclose(two.entropy(), (one.entropy() + zero.entropy()) / 2, atol=1e-5)


# --- draws


@pytest.mark.thorough
@settings(max_examples=60)
@given(
    t=st.integers(1, 6),
    g=st.integers(1, 7),
    seed=st.integers(0, 999),
    extreme=st.sampled_from([None, 0.0, 1 - 2**-24]),
)
def test_only_what_changes_anything_is_drawn(t: int, g: int, seed: int, extreme: float | None) -> None:
    torch.manual_seed(seed)
    up_mask, down_mask = (torch.rand(3, t, g) < 0.3 for _ in range(2))
    up_mask[:, -1, -1] = True
    frame_mask = (up_mask | down_mask).any(2)
    count_mask = torch.rand(3, len(COUNTS)) < 0.3
    count_mask[:, 1] = True
    first = when(t, seed, (3,), count_mask=count_mask, frame_mask=frame_mask)

    def numbers(dist: WhenDistribution | WhereDistribution) -> Tensor:
        shape = (3, dist.uniforms_needed)
        return torch.rand(shape) if extreme is None else torch.full(shape, extreme)

    for action in (first.draw(numbers(first)), first.mode):
        assert count_mask.gather(1, action[:, :1]).all()
        assert all(WIDTHS[width] <= t for width in action[:, 1])
        assert frame_mask.gather(1, action[:, 2:]).all()
        assert first.log_prob(action).isfinite().all()
        second = where(action, t, g, seed, up_mask=up_mask, down_mask=down_mask)
        for chosen in (second.draw(numbers(second)), second.mode):
            row = torch.arange(3)[:, None]
            place = (row, action[:, 2:], chosen[:, :DRAWS])
            assert torch.where(chosen[:, DRAWS:].bool(), up_mask[place], down_mask[place]).all()
            assert (second.log_prob(chosen) > -1000).all()
            assert second.entropy().isfinite().all()


def test_a_row_without_any_choice_left_stays_defined() -> None:
    nothing = torch.zeros(4).bool()
    first = when(4, count_mask=torch.zeros(len(COUNTS)).bool(), frame_mask=nothing)
    action = first.sample()
    second = where(action, 4, 4, up_mask=torch.zeros(4, 4).bool(), down_mask=torch.zeros(4, 4).bool())
    for dist, drawn in ((first, action), (second, second.sample())):
        assert dist.log_prob(drawn).isfinite()
        assert dist.entropy().isfinite()


def test_a_draw_inverts_the_cumulative_probabilities() -> None:
    """Evenly spread numbers meet every frame, cell and direction as often as its probability
    says."""
    n, g = 4000, 5
    dist = when(T, seed=5)
    spread = ((torch.arange(n) + 0.5) / n)[:, None]
    frames = dist.draw(spread.expand(-1, 2 + DRAWS))
    for column, probs in ((0, dist.count.probs), (1, dist.width.probs), (2, dist.frame.probs), (-1, dist.frame.probs)):
        share = torch.bincount(frames[:, column], minlength=len(probs)) / n
        assert torch.allclose(share, probs, atol=1 / n)
    second = where(temporal(1, 1, 1), T, g, seed=5)
    half = torch.full((n, DRAWS), 0.5)
    cells = second.draw(torch.cat([spread.expand(-1, DRAWS), half], 1))[:, 0]
    assert torch.allclose(torch.bincount(cells, minlength=g) / n, second.cell_logits[0].exp(), atol=1 / n)
    drawn = second.draw(torch.cat([half, spread.expand(-1, DRAWS)], 1))
    assert float(drawn[:, DRAWS].float().mean()) == pytest.approx(
        float(second.up_logits[0, drawn[0, 0]].sigmoid()), abs=1 / n
    )


def test_samples_are_draws_from_the_current_seed() -> None:
    first = when(T, batch=(4,))
    torch.manual_seed(1)
    action = first.sample()
    torch.manual_seed(1)
    assert torch.equal(first.draw(torch.rand(4, first.uniforms_needed)), action)
    second = where(action, T, G)
    torch.manual_seed(2)
    chosen = second.sample()
    torch.manual_seed(2)
    assert torch.equal(second.draw(torch.rand(4, second.uniforms_needed)), chosen)
    assert (action.shape, chosen.shape) == ((4, *first.event_shape), (4, *second.event_shape))


def test_the_same_uniform_numbers_give_the_same_action_in_any_batch() -> None:
    t, g = 6, 12
    logits = [torch.randn(5, n) for n in (len(COUNTS), len(WIDTHS), t)]
    can = [torch.ones(5, n).bool() for n in (len(COUNTS), t)]
    maps = [torch.randn(5, t, g) for _ in range(2)]
    able = torch.ones(5, t, g).bool()
    numbers = torch.rand(5, 2 + DRAWS), torch.rand(5, 2 * DRAWS)

    def draw(rows: slice) -> tuple[Tensor, Tensor]:
        action = WhenDistribution(*(x[rows] for x in logits + can)).draw(numbers[0][rows])
        spatial_dist = WhereDistribution(*(x[rows] for x in maps), able[rows], able[rows], action)
        return action, spatial_dist.draw(numbers[1][rows])

    for together, alone in zip(draw(slice(None)), draw(slice(3, 4)), strict=True):
        assert torch.equal(together[3], alone[0])


def test_the_mode_is_the_likeliest_of_every_part() -> None:
    dist = when(5, seed=2)
    mode = dist.mode
    assert int(mode[0]) == int(dist.count.probs.argmax())
    assert int(mode[1]) == int(dist.width.probs.argmax())
    assert mode[2:].eq(dist.frame.probs.argmax()).all()
    second = where(mode, 5, 4, seed=2)
    best = second.log_prob(second.mode)
    assert all(second.log_prob(second.sample()) <= best + 1e-6 for _ in range(50))


# --- what actions mean


def literally(first: list[int], second: list[int], t: int, g: int) -> Tensor:
    """`directions` of one row as its docstring has it, word by word."""
    out = torch.zeros(t, g)
    width = WIDTHS[first[1]]
    for draw in range(COUNTS[first[0]]):
        frame, cell, up = first[2 + draw], second[draw], second[DRAWS + draw]
        for f in range(max(0, frame - width // 2), min(t - 1, frame + (width - 1) // 2) + 1):
            out[f, cell] = 1 if up else -1
    return out


@pytest.mark.thorough
@settings(max_examples=60)
@given(t=st.integers(1, 20), g=st.integers(1, 5), n=st.integers(1, 3), seed=st.integers(0, 9999))
def test_directions_name_tubelets_of_the_width_and_the_last_draw_holds(t: int, g: int, n: int, seed: int) -> None:
    torch.manual_seed(seed)

    def pick(top: int, *shape: int) -> Tensor:
        return torch.randint(top, (n, *shape))

    first = torch.cat([pick(len(COUNTS), 1), pick(len(WIDTHS), 1), pick(t, DRAWS)], 1)
    second = torch.cat([pick(g, DRAWS), pick(2, DRAWS)], 1)
    found = directions(first, second, (t, g))
    expected = torch.stack([literally(a, b, t, g) for a, b in zip(first.tolist(), second.tolist(), strict=True)])
    assert torch.equal(found, expected)
    assert (found != 0).flatten(1).any(1).all()


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
    found = directions(temporal(1, width, frame)[None], spatial((1, 0))[None], (8, 3))[0]
    assert found[:, 1].nonzero().flatten().tolist() == frames
    assert found[:, 1].sum() == -len(frames)
    assert found[:, [0, 2]].eq(0).all()


def test_of_two_draws_of_one_tubelet_the_last_holds() -> None:
    first = temporal(2, 2, 2, 3)[None]
    found = directions(first, spatial((0, 1), (0, 0))[None], (5, 1))[0, :, 0]
    assert found.tolist() == [0, 1, -1, -1, 0]

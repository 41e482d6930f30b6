"""Successes that grow from the tubelets that the agents rank first."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_probing import CELL, FRAME, SIDE, T, agents, darken, generator, learn, probe, session
from test_rl_attack import Unmoved, Weighed
from torch import Tensor, nn

from vidmarl.agents.networks import Agents
from vidmarl.agents.observation import look
from vidmarl.agents.order import Grow, Order
from vidmarl.agents.order_distribution import OrderDistribution
from vidmarl.agents.tubelets import WIDTHS, lasting
from vidmarl.attacks.rl import RLAttack
from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.scheduler import run_searches
from vidmarl.queries.session import Session
from vidmarl.victims.victim import Victim

SHAPE = (4, 2, 3)
FITS = 3  # of WIDTHS, in four frames


def order(seed: int = 0, logits: Tensor | None = None, low: float = -1.0) -> Order:
    log_prob = torch.zeros(*SHAPE, FITS) if logits is None else logits
    chance = torch.rand(2, log_prob.numel(), generator=generator(seed))
    return Order.draw(log_prob.flatten().log_softmax(0).view_as(log_prob), chance, low, apart=seed % 2 == 0)


def attack(budget: int = 40, **settings) -> RLAttack:
    settings = {"distortion": "brightness", "grid": TubeletGrid(1, 8, 8), "progress": False} | settings
    return RLAttack(agents(), budget=budget, **settings)


# --- an order


@given(st.integers(0, 2**16), st.integers(0, 72), st.integers(0, 72))
def test_a_longer_beginning_of_an_order_holds_the_shorter_one(seed: int, one: int, other: int) -> None:
    few, many = sorted((one, other))
    small, large = order(seed).first(few), order(seed).first(many)
    assert torch.equal(small[small != 0], large[small != 0])
    assert large.abs().max() <= 1
    assert torch.equal(order(seed).first(72) != 0, torch.ones(SHAPE, dtype=torch.bool))


@given(st.integers(0, 2**16))
def test_the_first_tubelet_is_the_one_that_its_index_names(seed: int) -> None:
    drawn = order(seed)
    index = int(drawn.tubelets[0])
    frame, place, width = index // (6 * FITS), index // FITS % 6, index % FITS
    course = lasting(torch.tensor(frame), torch.tensor(width), 4, alternate=True)
    expected = torch.zeros(4, 6)
    expected[:, place] = drawn.signs[0] * course
    assert torch.equal(drawn.first(1).flatten(1), expected)
    assert int(course.count_nonzero()) <= WIDTHS[width]


def test_each_tubelet_comes_once_and_the_likely_ones_first() -> None:
    logits = torch.randn(*SHAPE, FITS, generator=generator(3))
    logits[2, 1, 1, 1] = 8.0
    firsts = [order(seed, logits) for seed in range(300)]
    assert all(sorted(drawn.tubelets.tolist()) == list(range(72)) for drawn in firsts)
    share = sum(int(drawn.tubelets[0]) == (2 * 6 + 4) * FITS + 1 for drawn in firsts) / 300
    expected = float(logits.flatten().softmax(0)[(2 * 6 + 4) * FITS + 1])
    assert share == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("shape", "share"), [((4, 10, 10, 1), 1.0), ((4, 20, 20, 1), 0.5), ((4, 10, 10, 3), 1.0)])
def test_orders_of_many_cells_go_less_strictly_by_rank(shape: tuple[int, ...], share: float) -> None:
    """Logits shrink with the root of the cells of a block, from four of them on."""
    log_prob = (5 * torch.randn(shape, generator=generator(1))).flatten().log_softmax(0).view(shape)
    chance = torch.rand(2, log_prob.numel(), generator=generator(2))
    softer = (share * log_prob).flatten().log_softmax(0).view(shape)
    drawn = Order.draw(log_prob, chance, -1.0, apart=True)
    assert torch.equal(drawn.tubelets, OrderDistribution(softer, apart=True).draw(chance[0]))
    torch.testing.assert_close(drawn.ranking, softer.logsumexp(3))


@given(st.integers(0, 2**16), st.floats(0.1, 9))
def test_blocks_take_the_order_apart(seed: int, enough: float) -> None:
    drawn = order(seed)
    energy = torch.rand(SHAPE, generator=generator(seed))
    free, place, whole = torch.ones(SHAPE, dtype=torch.bool), 0, torch.zeros(SHAPE)
    while free.any():
        before = place
        block, place = drawn.block(place, free, energy, enough)
        touched = block != 0
        assert place > before
        assert not (touched & ~free).any()
        assert energy[touched].sum() >= min(enough, float(energy[free].sum())) - 1e-4
        last = drawn.block(before, free, energy, 0.0)
        if last[1] < place:  # without its last tubelet it would not be enough
            shorter = drawn.first(place - 1) != 0
            assert energy[shorter & free].sum() < enough + 1e-4
        whole, free = whole + block, free & ~touched
    assert torch.equal(whole, drawn.first(72))
    assert not drawn.block(72, free, energy, enough)[0].any()


def test_a_block_holds_the_more_cells_the_less_they_cost() -> None:
    drawn, free = order(7), torch.ones(SHAPE, dtype=torch.bool)
    energy = torch.ones(SHAPE)
    few, many = (int(drawn.block(0, free, factor * energy, 3.0)[0].count_nonzero()) for factor in (1.0, 0.25))
    assert 3 <= few < 12 <= many


def test_a_distortion_of_one_direction_only_adds() -> None:
    assert order(low=0.0).first(72).eq(1).all()
    assert set(order(low=-1.0).first(72).unique().tolist()) == {-1.0, 1.0}


# --- growing


def built(books: Session, grow: Grow) -> tuple[list[Tensor], list[float], list[float]]:
    """Has a success built on one clip: what was asked about, the margins, and the norms."""
    asked, margins, norms = [], [float(books.history["margin"][0, 0])], []

    def search(clip):
        while not grow.over:
            response = yield grow
            asked.append(grow.strength)
            margins.append(float(response.margin))
            norms.append(float(response.l2))

    list(run_searches(books, search))
    return asked, margins, norms


def test_blocks_are_kept_where_the_margin_falls_until_the_clip_is_fooled() -> None:
    books, grow = session(n=1), Grow(agents())
    asked, margins, norms = built(books, grow)
    assert grow.fooled
    assert books.fooled.all()
    assert grow.l2 == pytest.approx(float(books.best_l2)) == norms[-1]
    assert books.queries.tolist() == [1 + len(asked)]
    kept, lowest = torch.zeros_like(asked[0]), margins[0]
    for strength, margin in zip(asked, margins[1:], strict=True):
        assert torch.equal(strength[kept != 0], kept[kept != 0])
        assert (strength != 0).sum() > (kept != 0).sum()
        if margin < lowest:
            kept, lowest = strength, margin
    assert lowest == margins[-1] < 0


class Surer(nn.Module):
    """The surer of its first class, the darker a clip is."""

    def forward(self, clips: Tensor) -> Tensor:
        return torch.stack([2 - clips.mean((1, 2, 3, 4)), torch.zeros(len(clips))], 1)


def test_where_everything_harms_all_is_tried_and_nothing_kept() -> None:
    grow = Grow(agents())
    asked, _, _ = built(Session(Victim(Surer()), session(n=1).renderer, budget=400), grow)
    assert grow.over
    assert not grow.fooled
    assert torch.stack([strength != 0 for strength in asked]).any(0).all()
    assert not any((strength != 0).all() for strength in asked)


@pytest.mark.parametrize("apart", [True, False])
def test_where_the_victim_does_not_tell_blocks_add_up(apart: bool) -> None:
    team = Agents(dataclasses.replace(agents().config, apart=apart))
    grow, renderer = Grow(team), session(n=1).renderer
    asked, _, norms = built(Session(Victim(Unmoved()), renderer, budget=400), grow)
    assert grow.over
    assert (asked[-1] != 0).all()
    touched = [int((strength != 0).sum()) for strength in asked]
    assert touched == sorted(set(touched))
    added = torch.tensor([0.0, *norms]).square().diff()[:-1]  # the last block is what is left
    energy = renderer.cell_energy(torch.tensor([0]))
    whole, largest = float(energy.sum()), float(energy.max())
    before = added.cumsum(0) - added
    least = (before / 2).clamp(whole / 100, whole / 25) if apart else torch.tensor(whole / 50)
    assert (added >= 0.99 * least).all()
    assert (added <= 1.01 * (least + T * largest)).all()  # a tubelet is whole


def test_a_distortion_that_changes_nothing_is_over_at_once() -> None:
    grow, renderer = Grow(agents()), session(n=1, distortion=lambda clips, strength, noise: clips).renderer
    asked, margins, norms = built(Session(Victim(Unmoved()), renderer, budget=400), grow)
    assert len(asked) == 1
    assert (asked[0] != 0).all()
    assert grow.over
    assert not grow.fooled
    assert norms == [0]
    assert margins[0] == margins[1]


def test_a_set_at_the_bound_is_no_success() -> None:
    books, grow = session(n=1), Grow(agents())
    grow.restart(0.0)
    asked, _, _ = built(books, grow)
    assert len(asked) == 1
    assert grow.over
    assert not grow.fooled


def test_the_agents_rank_a_clip_once_and_each_order_is_another_draw(monkeypatch) -> None:
    books, team, ranked, drawn = session(n=1), agents(), [], []
    monkeypatch.setattr(team, "rank", lambda td: ranked.append(len(td)) or Agents.rank(team, td))
    grow = Grow(team)

    def search(clip):
        for _ in range(3):
            yield grow
            drawn.append((grow.strength.clone(), grow.ranking))
            grow.restart(1000.0)

    list(run_searches(books, search))
    assert ranked == [1]
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])


@pytest.mark.parametrize(("longest", "frames"), [(1, {1}), (2, {1, 2}), (3, {1, 2})])
def test_tubelets_last_no_longer_than_they_may(longest: int, frames: set[int]) -> None:
    team = Agents(dataclasses.replace(agents().config, longest=longest))
    books, grow = session(n=1), Grow(team)
    built(books, grow)
    assert grow.fooled
    td = look(session(n=2), torch.arange(2))
    assert team.rank(td).shape == (2, T, SIDE, SIDE, len(frames))
    assert team.rank(td).flatten(1).exp().sum(1).tolist() == pytest.approx([1, 1], abs=1e-4)
    probes = probe(session(n=2), 10, generator(), longest=longest)
    assert set(probes["maps"].count_nonzero((2, 3, 4)).flatten().tolist()) == frames


@pytest.mark.thorough
def test_agents_that_have_learnt_find_the_one_tubelet_at_once() -> None:
    team, _ = learn(probe(session(n=24), 40, generator()), 80)
    books = session(n=8)

    def search(clip):
        yield Grow(team)

    list(run_searches(books, search))
    found = books.best_strength[:, FRAME].flatten(1)[:, CELL] != 0
    assert found.float().mean() > 0.7


# --- growing on a start


class Spots(nn.Module):
    """Sure of its first class by as much as some cells are bright; its first 16 cells count
    nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.rand(T * SIDE**2, generator=generator(5)) + 0.1
        self.weights[:16] = 0

    def forward(self, clips: Tensor) -> Tensor:
        cells = torch.nn.functional.avg_pool3d(clips, (1, 8, 8)).mean(1).flatten(1)
        return torch.stack([(cells * self.weights).sum(1) + 1, torch.zeros(len(clips))], 1)


def on_spots(distortion="brightness") -> Session:
    return Session(Victim(Spots()), session(n=1, distortion=distortion).renderer, budget=400)


def everywhere(value: float) -> Tensor:
    return torch.full((T, SIDE, SIDE), value)


def test_a_start_is_asked_about_first_and_before_any_order_is_drawn() -> None:
    books, start, team = on_spots(), torch.rand(T, SIDE, SIDE, generator=generator()), agents()
    grow, before, seen = Grow(team, start), books.generator(0).get_state(), look(books, torch.arange(1))
    assert grow.ranking is None

    def search(clip):
        yield grow
        assert torch.equal(grow.strength, start)
        assert torch.equal(books.generator(0).get_state(), before)
        torch.testing.assert_close(grow.ranking, team.rank(seen)[0].logsumexp(3))  # a success would be minimized by it
        assert not grow.over
        yield grow
        assert grow.ranking is not None
        assert not torch.equal(books.generator(0).get_state(), before), "an order was drawn"

    list(run_searches(books, search))
    assert books.queries.tolist() == [3]


@pytest.mark.parametrize(
    ("distortion", "value", "turned"),
    [
        ("brightness", 1.0, -1.0),
        ("brightness", -0.5, 0.5),
        (darken, 1.0, 0.0),
        (darken, 0.25, 0.75),
        (darken, 0.0, 1.0),
    ],
)
def test_a_block_turns_what_is_there_to_the_other_end_of_the_range(distortion, value: float, turned: float) -> None:
    """What raises the margin is taken back, and tried once in each order."""
    books, grow = on_spots(distortion), Grow(agents(), everywhere(value))
    asked, margins, _ = built(books, grow)
    kept, lowest, tried = asked[0], margins[1], torch.zeros(T, SIDE, SIDE)
    for strength, margin in zip(asked[1:], margins[2:], strict=True):
        block = strength != kept
        assert 0 < int(block.sum()) < T * SIDE**2 / 4
        assert kept[block].eq(value).all(), "nothing turns twice"
        assert strength[block].eq(turned).all()
        tried += block
        if margin <= lowest:
            kept, lowest = strength, margin
    assert tried.all()
    brighter = turned > value if distortion == "brightness" else turned < value
    assert lowest < margins[1] or brighter
    # what counts nothing does no harm either way
    assert kept.flatten()[:16].eq(turned).any()
    assert (kept.flatten()[16:] != value).all() == (not brighter)


def test_a_start_that_raises_the_margin_is_built_on_all_the_same() -> None:
    asked, margins, _ = built(on_spots(), Grow(agents(), everywhere(1.0)))  # as bright as it gets
    assert margins[1] > margins[0]
    assert all(strength.abs().eq(1).all() for strength in asked)
    assert margins[-1] < margins[0]


def test_what_is_turned_does_not_keep_apart() -> None:
    teams = (Agents(dataclasses.replace(agents().config, apart=apart)) for apart in (True, False))
    one, other = (built(on_spots(), Grow(team, everywhere(1.0)))[0] for team in teams)
    assert len(one) == len(other) > 2
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_a_start_that_fools_is_the_success() -> None:
    books, start = session(n=1), torch.zeros(T, SIDE, SIDE)
    start[FRAME].view(-1)[CELL] = 1
    grow = Grow(agents(), start)
    asked, _, norms = built(books, grow)
    assert len(asked) == 1
    assert grow.fooled
    assert [grow.l2] == norms == [pytest.approx(float(books.best_l2))]
    assert torch.equal(grow.strength, start)


def test_a_restart_begins_from_the_clean_clip() -> None:
    books, grow = on_spots(darken), Grow(agents(), everywhere(0.5))

    def search(clip):
        yield grow
        yield grow
        grow.restart(1000.0)
        yield grow
        assert int(grow.strength.count_nonzero()) < T * SIDE**2 / 4, "one block, and nothing else"
        assert grow.strength.max() == 1

    list(run_searches(books, search))
    assert books.queries.tolist() == [4]


def test_clips_that_have_just_started_are_answered_beside_others() -> None:
    """In one batch with those that are at their second block."""
    alone = [built(on_spots(), Grow(agents(), start))[0] for start in (None, everywhere(1.0))]
    two = session(n=1, distortion="brightness").renderer.clips.expand(2, -1, -1, -1, -1)
    renderer = Renderer(two, as_distortion("brightness"), TubeletGrid(1, 8, 8))
    asked: list[list[Tensor]] = [[], []]

    def search(clip):
        grow = Grow(agents(), everywhere(1.0) if clip.row else None)
        while not grow.over:
            yield grow
            asked[clip.row].append(grow.strength)

    list(run_searches(Session(Victim(Spots()), renderer, budget=400), search))
    for row in range(2):
        assert len(asked[row]) == len(alone[row])
        assert all(torch.equal(*pair) for pair in zip(asked[row], alone[row], strict=True))


# --- the attack


def clips(n: int = 5) -> Tensor:
    return torch.rand(n, 3, 4, 32, 32, generator=generator(1))


@pytest.mark.thorough
def test_every_query_is_counted_and_the_success_is_one() -> None:
    model = Weighed()
    result = attack()(Victim(model), clips())
    assert model.seen == int(result.queries.sum())
    assert (result.queries <= 40).all()
    assert result.success[~result.skipped].any()
    with torch.no_grad():
        said = model(result.adversarial).argmax(1)
    assert torch.equal(said != result.prediction, result.success)


@pytest.mark.thorough
def test_the_result_of_a_clip_does_not_depend_on_those_beside_it() -> None:
    together = attack()(Victim(Weighed()), clips())
    for i in range(5):
        alone = attack()(Victim(Weighed()), clips()[i : i + 1])
        assert torch.equal(alone.adversarial[0], together.adversarial[i])
        assert int(alone.queries) == int(together.queries[i])


@pytest.mark.thorough
def test_what_resists_everything_costs_the_whole_budget_and_no_more() -> None:
    result = attack()(Victim(Unmoved()), clips(2))
    assert result.queries.tolist() == [40, 40]
    assert not result.success.any()

"""Reinforcement from orders: places are paid by what their order came to, and the tubelet that
matters rises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict.nn import TensorDictModule
from test_order import FITS
from test_probing import CELL, FRAME, SIDE, T, agents, generator, session
from test_rl_attack import Unmoved

from vidmarl.agents.environment import MOST_SETS, OrderEnv
from vidmarl.agents.observation import OBSERVATION
from vidmarl.agents.order_distribution import OrderDistribution, in_passes, softened
from vidmarl.queries.goals import Misclassify
from vidmarl.queries.session import Session
from vidmarl.training.orders import PAID, advantages, order_loss, order_policy, play
from vidmarl.victims.victim import Victim

TUBELETS = T * SIDE**2 * FITS


def opened(clips: int = 6, orders: int = 3) -> OrderEnv:
    return OrderEnv(session(n=clips, budget=1 + orders * MOST_SETS), orders)


def played(clips: int = 6, orders: int = 3, seed: int = 0):
    env = opened(clips, orders)
    return env.session, play(env, agents(), orders, seed)


def test_the_policy_of_play_is_that_of_attacks(monkeypatch) -> None:
    """In clips of many cells orders go less strictly by rank, in play as well."""
    team, shape = agents(), (2, 4, 11, 10, 1)
    ranking = torch.randn(shape, generator=generator()).flatten(1).log_softmax(1).view(shape)
    net = TensorDictModule(lambda features: ranking, in_keys=["features"], out_keys=["ranking"])
    monkeypatch.setattr(team, "ranking_net", lambda: net)
    env = opened(clips=2, orders=2)
    td = order_policy(team, 2)(env.reset())
    told = OrderDistribution(softened(ranking)[:, None], team.config.apart, PAID).log_prob(td["action"])
    torch.testing.assert_close(td["log_prob"], told)
    assert not torch.equal(softened(ranking), ranking)


def test_play_leaves_the_callers_randomness_alone() -> None:
    env, team = opened(clips=2), agents()
    before = torch.get_rng_state()
    play(env, team, 3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


# --- the distribution


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_the_probabilities_of_all_orders_sum_to_one(logits: list[float]) -> None:
    ranking = torch.tensor(logits).log_softmax(0).view(1, 3, 1, 2)
    every = torch.tensor(list(itertools.permutations(range(6))))
    log_prob = OrderDistribution(ranking, apart=False).log_prob(every)
    assert log_prob.sum(-1).exp().sum() == pytest.approx(1, abs=1e-4)
    assert log_prob[:, 0] == pytest.approx(ranking.flatten()[every[:, 0]], abs=1e-5)
    assert log_prob[:, -1] == pytest.approx(0, abs=1e-5)  # the last one is the only one left


def test_orders_are_drawn_as_often_as_their_probability_says() -> None:
    ranking = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 1, 1, 3)
    torch.manual_seed(0)
    drawn = OrderDistribution(ranking, apart=False).sample((20_000,))
    assert torch.equal(OrderDistribution(ranking, apart=False).mode, torch.arange(3))
    for order in itertools.permutations(range(3)):
        share = (drawn == torch.tensor(order)).all(-1).float().mean()
        expected = OrderDistribution(ranking, apart=False).log_prob(torch.tensor([order])).sum().exp()
        assert share == pytest.approx(float(expected), abs=0.015)


SHAPE = (2, 2, 5, 2)


def near(tubelet: int) -> Tensor:
    """Which tubelets of `SHAPE` are centred in the cell of this one, or in one beside it."""
    places = torch.stack(torch.unravel_index(torch.arange(math.prod(SHAPE)), SHAPE), 1)[:, :3]
    return (places - places[tubelet]).abs().amax(1) <= 1


@given(st.integers(0, 2**16))
def test_neighbours_are_in_different_passes_the_best_ones_first(seed: int) -> None:
    score = torch.randn(SHAPE, generator=generator(seed))
    order = in_passes(score).tolist()
    assert sorted(order) == list(range(len(order)))
    left = torch.ones(len(order), dtype=torch.bool)
    while left.any():
        may = left.clone()
        while may.any():
            tubelet = order.pop(0)
            assert tubelet == score.flatten().masked_fill(~may, -math.inf).argmax()
            left[tubelet] = False
            may &= ~near(tubelet)


@given(st.integers(0, 2**16))
def test_a_place_of_the_first_pass_has_the_probability_among_those_that_may_follow(seed: int) -> None:
    ranking = torch.randn(SHAPE, generator=generator(seed)).flatten().log_softmax(0)
    places = OrderDistribution(ranking.view(SHAPE), apart=True)
    torch.manual_seed(seed)
    order = places.sample()
    may, expected = torch.ones(len(order), dtype=torch.bool), []
    for tubelet in order.tolist():
        expected.append(float(ranking[tubelet] - ranking[may].logsumexp(0)) if may.any() else 0.0)
        may &= ~near(tubelet)
    assert not may.any()
    assert places.log_prob(order).tolist() == pytest.approx(expected, abs=1e-5)


def test_first_passes_are_drawn_as_often_as_their_probability_says() -> None:
    ranking = torch.tensor([0.1, 0.3, 0.2, 0.4]).log().view(1, 1, 4, 1)
    torch.manual_seed(0)
    places = OrderDistribution(ranking, apart=True)
    drawn = places.sample((20_000,))[:, :2]
    assert places.mode.tolist() == [3, 1, 2, 0]
    assert set(map(tuple, drawn.tolist())) == {(0, 2), (0, 3), (1, 3), (2, 0), (3, 0), (3, 1)}
    for first in drawn.unique(dim=0):
        share = (drawn == first).all(-1).float().mean()
        rest = [tubelet for tubelet in range(4) if tubelet not in first]
        expected = places.log_prob(torch.tensor([*first, *rest])).sum().exp()
        assert share == pytest.approx(float(expected), abs=0.015)


@pytest.mark.parametrize("apart", [True, False])
def test_what_is_sampled_has_a_probability_by_its_own_ranking(apart: bool) -> None:
    ranking = torch.randn(3, 8, generator=generator()).log_softmax(1).view(3, 2, 2, 2, 1)
    together = OrderDistribution(ranking, apart)
    for shape in ((), (5,), (3,)):
        drawn = together.sample(shape)
        assert drawn.shape == (*shape, 3, 8)
        for i in range(3):
            alone = OrderDistribution(ranking[i], apart, places=4)
            assert torch.allclose(together.log_prob(drawn)[..., i, :4], alone.log_prob(drawn[..., i, :]))


# --- playing


def test_orders_grow_until_they_fool_and_every_query_is_counted() -> None:
    books, found = played()
    assert found["fooled"].all()  # full darkness fools OneTubelet
    assert books.victim.model.seen == books.victim.queries == int(books.queries.sum())
    paid = found["advantage"][..., 0] != 0
    assert paid.any()
    first = chosen(found["asked"], PAID) & (found["log_prob"] != 0)
    assert torch.equal(paid, first & paid.any(-1, keepdim=True)), "all places of an order, or none"
    assert set(found["asked"].flatten().tolist()) <= {2**i for i in range(12)} | {TUBELETS}
    assert (found["size"] <= books.full_l2[:, None] + 1e-4).all()


def test_what_is_played_is_what_the_agents_see_and_rank() -> None:
    books, found = played()
    team = agents()
    assert set(found.keys()) == {*OBSERVATION, "action", "log_prob", "advantage", "size", "fooled", "asked"}
    assert found["action"].sort(-1).values.eq(torch.arange(TUBELETS)).all(), "each tubelet comes once"
    assert len({tuple(order) for order in found["action"].flatten(0, 1).tolist()}) == 6 * 3
    expected = OrderDistribution(team.rank(found)[:, None], team.config.apart, PAID).log_prob(found["action"]).detach()
    assert torch.allclose(found["log_prob"], expected, atol=1e-5)
    assert not found["log_prob"].requires_grad
    assert torch.equal(found["features"], OrderEnv(books, 3).reset()["features"])


def test_the_seed_says_what_is_played() -> None:
    actions = []
    for seed, before in ((1, 0), (1, 99), (2, 0)):
        torch.manual_seed(before)
        actions.append(played(seed=seed)[1]["action"])
    assert torch.equal(actions[0], actions[1])
    assert not torch.equal(actions[0], actions[2])


def test_where_nothing_fools_or_needs_to_no_order_is_better_than_another() -> None:
    books, _ = played()
    unmoved = OrderEnv(Session(Victim(Unmoved()), books.renderer, budget=100), 3)
    said = 1 - books.clean.argmax(1)
    wrong = OrderEnv(Session(books.victim, books.renderer, Misclassify(said), budget=100), 3)
    for env, asked in ((unmoved, TUBELETS), (wrong, 0)):
        found = play(env, agents(), 3, seed=0)
        assert not found["fooled"].any()
        assert found["advantage"].eq(0).all()
        assert (found["asked"] == asked).all() or asked
        assert torch.equal(found["size"], env.session.full_l2[:, None].expand(-1, 3))
    assert wrong.session.queries.tolist() == [1] * 6


def chosen(asked: Tensor, places: int) -> Tensor:
    """Which of the first places were asked about."""
    return torch.arange(places) < asked[..., None]


def test_an_order_is_better_by_what_it_has_earned_above_the_others_of_its_clip() -> None:
    reward, asked = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]]), torch.tensor([[1, 2, 8], [4, 1, 0]])
    found = advantages(reward, chosen(asked, 4))
    assert found[0].tolist() == [[-12, 0, 0, 0], [-3, -3, 0, 0], [4.5] * 4]  # all weigh the same
    assert found[1].eq(0).all()


@given(st.lists(st.lists(st.floats(-3, 3), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(1, 70))
def test_the_mean_over_places_is_what_an_order_has_earned_above_the_others(rewards, most: int) -> None:
    reward = torch.tensor(rewards)
    asked = torch.randint(1, most + 1, reward.shape, generator=generator())
    mean = advantages(reward, chosen(asked, PAID)).mean(-1)
    for clip, order in itertools.product(range(len(rewards)), range(3)):
        others = [rewards[clip][other] for other in range(3) if other != order]
        assert float(mean[clip, order]) == pytest.approx(rewards[clip][order] - sum(others) / 2, abs=1e-4)


def test_what_is_played_is_paid_by_its_sizes() -> None:
    _, found = played()
    first = chosen(found["asked"], min(PAID, TUBELETS)) & (found["log_prob"] != 0)
    expected = advantages(-found["size"].log(), first)
    assert torch.allclose(found["advantage"][..., 0], expected, atol=1e-3)
    assert found["advantage"].any()


def test_before_the_first_step_the_loss_has_the_gradient_of_the_paid_log_probabilities() -> None:
    team = agents()
    found = play(opened(4), team, 3, seed=0)
    said = order_loss(team, 3, 0.2)(found)
    assert said["kl_approx"] == pytest.approx(0, abs=1e-6)
    assert said["mean_ratio"] == pytest.approx(1)
    said["loss_objective"].backward()
    by_loss = [parameter.grad.clone() for parameter in team.parameters() if parameter.grad is not None]
    team.zero_grad()
    log_prob = OrderDistribution(team.rank(found)[:, None], team.config.apart, PAID).log_prob(found["action"])
    (-(log_prob * found["advantage"][..., 0]).mean()).backward()
    by_hand = [parameter.grad for parameter in team.parameters() if parameter.grad is not None]
    assert len(by_loss) == len(list(team.parameters())), "DDP waits for a gradient of every parameter"
    assert any(bool(gradient.any()) for gradient in by_hand)
    torch.testing.assert_close(by_loss, by_hand)


def test_a_ratio_that_has_gone_too_far_has_no_gradient() -> None:
    team = agents()
    found = play(opened(4), team, 3, seed=0)
    found["log_prob"] -= torch.where(found["advantage"][..., 0] > 0, 1.0, -1.0)  # it has moved as it should
    said = order_loss(team, 3, 0.2)(found)
    said["loss_objective"].backward()
    assert not any(bool(parameter.grad.any()) for parameter in team.parameters())
    assert said["clip_fraction"] > 0.9


def test_a_policy_draws_orders_of_each_clip_and_tells_their_first_places() -> None:
    td = opened(2).reset()
    drawn = order_policy(agents(), 5)(td)
    assert drawn["action"].shape == (2, 5, TUBELETS)
    assert drawn["log_prob"].shape == (2, 5, min(PAID, TUBELETS))


@pytest.mark.thorough
def test_the_place_and_the_moment_that_matter_rise() -> None:
    team = agents()
    loss, optimizer = order_loss(team, 4, 0.2), torch.optim.Adam(team.parameters(), lr=1e-2)
    sizes = []
    for seed in range(25):
        found = play(opened(12, 4), team, 4, seed)
        sizes.append(float(found["size"].log().mean()))
        for _ in range(2):
            optimizer.zero_grad()
            loss(found)["loss_objective"].backward()
            optimizer.step()
    assert sum(sizes[-3:]) / 3 < sum(sizes[:3]) / 3 - 0.3
    with torch.no_grad():
        ranking = team.rank(opened(4).reset())
    where = ranking.logsumexp(4).mean(0)
    assert where.flatten().argmax() == FRAME * SIDE**2 + CELL

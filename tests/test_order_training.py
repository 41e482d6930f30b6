"""Reinforcement from orders: places are paid by what their order came to, and the tubelet that
matters rises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_cloning import CELL, FRAME, SIDE, T, agents, generator, session
from test_order import FITS
from test_training import Logged, batches, module, state, trainer

from vidmarl.agents.order import OrderDistribution
from vidmarl.training.behaviour_cloning import Cloning
from vidmarl.training.orders import MOST_SETS, PAID, order_loss, play
from vidmarl.training.ppo import PPO

TUBELETS = T * SIDE**2 * FITS


def played(clips: int = 6, orders: int = 3, seed: int = 0):
    books = session(n=clips, budget=1 + orders * MOST_SETS)
    return books, play(books, agents(), orders, generator(seed))


# --- the distribution


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_the_probabilities_of_all_orders_sum_to_one(logits: list[float]) -> None:
    ranking = torch.tensor(logits).log_softmax(0).view(1, 3, 2)
    every = torch.tensor(list(itertools.permutations(range(6))))
    log_prob = OrderDistribution(ranking).log_prob(every)
    assert log_prob.sum(-1).exp().sum() == pytest.approx(1, abs=1e-4)
    assert log_prob[:, 0] == pytest.approx(ranking.flatten()[every[:, 0]], abs=1e-5)
    assert log_prob[:, -1] == pytest.approx(0, abs=1e-5)  # the last one is the only one left


def test_orders_are_drawn_as_often_as_their_probability_says() -> None:
    ranking = torch.tensor([0.5, 0.3, 0.2]).log().view(1, 1, 3)
    torch.manual_seed(0)
    drawn = OrderDistribution(ranking).sample((20_000,))
    assert torch.equal(OrderDistribution(ranking).mode, torch.arange(3))
    for order in itertools.permutations(range(3)):
        share = (drawn == torch.tensor(order)).all(-1).float().mean()
        expected = OrderDistribution(ranking).log_prob(torch.tensor([order])).sum().exp()
        assert share == pytest.approx(float(expected), abs=0.015)


def test_what_is_sampled_has_a_probability_by_its_own_ranking() -> None:
    ranking = torch.randn(3, 2, 2, 2, generator=generator()).flatten(1).log_softmax(1).view(3, 2, 2, 2)
    together = OrderDistribution(ranking)
    for shape in ((), (5,), (3,)):
        drawn = together.sample(shape)
        assert drawn.shape == (*shape, 3, 8)
        for i in range(3):
            alone = OrderDistribution(ranking[i], places=4)
            assert torch.allclose(together.log_prob(drawn)[..., i, :4], alone.log_prob(drawn[..., i, :]))


# --- playing


def test_orders_grow_until_they_fool_and_every_query_is_counted() -> None:
    books, found = played()
    assert found["fooled"].all()  # full darkness fools OneTubelet
    assert books.victim.model.seen == books.victim.queries == int(books.queries.sum())
    paid = (found["advantage"][..., 0] != 0).sum(-1)
    asked = 2 ** torch.arange(math.ceil(math.log2(TUBELETS)) + 1)
    assert set(paid.flatten().tolist()) <= {0, *asked.clamp_max(PAID).tolist()}
    assert (found["size"] <= books.full_l2[:, None] + 1e-4).all()


def test_an_order_is_paid_by_how_much_smaller_it_ended_than_the_others_of_its_clip() -> None:
    _, found = played(orders=3)
    gained = -found["size"].log()
    for clip, order in itertools.product(range(len(found)), range(3)):
        others = [gained[clip, other] for other in range(3) if other != order]
        place = found["advantage"][clip, order, :, 0]
        asked = int((place != 0).sum())
        expected = float(gained[clip, order] - sum(others) / 2)
        if abs(expected) > 1e-5:
            assert float(place.mean()) == pytest.approx(expected, abs=1e-4)  # however many were asked about
            assert (place[:asked] == place[0]).all()
            assert len(place) == min(PAID, TUBELETS)


def test_before_the_first_step_the_loss_has_the_gradient_of_the_paid_log_probabilities() -> None:
    team = agents()
    books = session(n=4, budget=1 + 3 * MOST_SETS)
    found = play(books, team, 3, generator())
    said = order_loss(team, 0.2)(found)
    assert said["kl_approx"] == pytest.approx(0, abs=1e-6)
    assert said["mean_ratio"] == pytest.approx(1)
    said["loss_objective"].backward()
    actors = [*team.temporal.parameters(), *team.spatial.parameters()]
    by_loss = [parameter.grad.clone() for parameter in actors if parameter.grad is not None]
    team.zero_grad()
    log_prob = OrderDistribution(team.rank(found)[:, None], PAID).log_prob(found["action"])
    (-(log_prob * found["advantage"][..., 0]).mean()).backward()
    by_hand = [parameter.grad for parameter in actors if parameter.grad is not None]
    assert by_hand
    assert any(bool(gradient.any()) for gradient in by_hand)
    torch.testing.assert_close(by_loss, by_hand)


@pytest.mark.thorough
def test_the_place_and_the_moment_that_matter_rise() -> None:
    team = agents()
    loss, optimizer = order_loss(team, 0.2), torch.optim.Adam(team.parameters(), lr=1e-2)
    sizes = []
    for seed in range(25):
        books = session(n=12, budget=1 + 4 * MOST_SETS)
        found = play(books, team, 4, generator(seed))
        sizes.append(float(found["size"].log().mean()))
        for _ in range(2):
            optimizer.zero_grad()
            loss(found)["loss_objective"].backward()
            optimizer.step()
    assert sum(sizes[-3:]) / 3 < sum(sizes[:3]) / 3 - 0.3
    with torch.no_grad():
        ranking = team.rank(play(session(n=4, budget=1 + 2 * MOST_SETS), team, 2, generator()))
    where = ranking.logsumexp(3).mean(0)
    assert where.flatten().argmax() == FRAME * SIDE**2 + CELL


# --- in a training


ORDER = {"acts": "order", "cloning": Cloning(epochs=1, probes=6, updates=2, minibatch=8, n_known=3)}


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_orders_are_played_after_cloning_and_their_queries_count(tmp_path, precision) -> None:
    learner, seen = module(**ORDER), Logged()
    trainer(tmp_path, epochs=2, callbacks=[seen], precision=precision).fit(learner, batches())
    assert learner.victim.model.seen == int(learner.counts[2]) == learner.agents.trained["training_queries"]
    assert [("cloning/loss" in row, "train/l2" in row) for row in seen.rows] == [(True, False)] * 2 + [(True, True)] * 2
    assert all(row["losses/first_ratio"] == pytest.approx(1, abs=1e-5) for row in seen.rows[2:])
    assert int(learner.counts[1]) == 16 * PPO().orders


@pytest.mark.thorough
def test_play_does_not_begin_with_the_moments_of_cloning(tmp_path) -> None:
    run = trainer(tmp_path, epochs=2)
    run.fit(module(**ORDER), batches())
    steps = {int(moments["step"]) for moments in run.optimizers[0].state.values()}
    assert steps == {4}  # two batches, two passes over each


@pytest.mark.thorough
def test_a_resumed_run_of_orders_goes_on_exactly(tmp_path) -> None:
    whole = module(**ORDER)
    trainer(tmp_path / "whole", epochs=3).fit(whole, batches())
    first = trainer(tmp_path / "first", epochs=2, enable_checkpointing=True)
    first.fit(module(**ORDER), batches())
    resumed = module(**ORDER)
    trainer(tmp_path / "second", epochs=3).fit(resumed, batches(), ckpt_path=first.checkpoint_callback.best_model_path)
    assert torch.equal(state(resumed.agents), state(whole.agents))
    assert resumed.counts.tolist() == whole.counts.tolist()


def test_a_single_order_has_no_baseline() -> None:
    with pytest.raises(ValueError, match="PPO: orders must be at least 2, got 1"):
        PPO(orders=1)

"""The agents' environment: its specs, the queries that it asks, what orders are paid, and that it
keeps nothing."""

from __future__ import annotations

import math

import pytest
import torch
from test_probing import CELL, FRAME, SIDE, OneTubelet, T, agents, generator, session
from test_rl_attack import DEAD, Unmoved
from torch import Tensor, nn
from torchrl.envs import PendulumEnv
from torchrl.envs.utils import check_env_specs

from vidmarl.agents.environment import MOST_SETS, OrderEnv
from vidmarl.agents.features import CHANNELS
from vidmarl.agents.networks import Agents, AgentsConfig
from vidmarl.agents.observation import STATE, look
from vidmarl.agents.tubelets import lengths
from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.goals import Misclassify
from vidmarl.queries.session import Session
from vidmarl.training.orders import PAID, order_policy
from vidmarl.victims.victim import Victim

CELLS = T * SIDE**2
TARGET = FRAME * SIDE**2 + CELL
"""The tubelet that fools `OneTubelet`, where none lasts longer than a frame."""


def environment(orders: int = 3, longest: int = 1, budget: int = 400, **settings) -> OrderEnv:
    return OrderEnv(session(budget=budget, **settings), orders, longest=longest)


def permutations(n: int, orders: int, seed: int = 0) -> Tensor:
    """Random orders of single tubelets."""
    draws = [torch.randperm(CELLS, generator=generator(seed + i)) for i in range(n * orders)]
    return torch.stack(draws).view(n, orders, CELLS)


def with_target_at(places: list[list[int]], seed: int = 0) -> Tensor:
    """Orders in which the one tubelet that matters stands at these places, from 0."""
    actions = permutations(len(places), len(places[0]), seed)
    for row, of_clip in enumerate(places):
        for order, place in enumerate(of_clip):
            action = actions[row, order]
            action[action == TARGET] = action[place].clone()
            action[place] = TARGET
    return actions


def stepped(env: OrderEnv, action: Tensor, seed: int = 0):
    env.set_seed(seed)
    return env.step(env.reset().set("action", action))["next"]


def replaced(env: OrderEnv, model: nn.Module, goal=None) -> OrderEnv:
    """The same clips, with another victim."""
    return OrderEnv(Session(Victim(model), env.session.renderer, goal, env.session.budget), 3, longest=1)


# --- what an environment promises


@pytest.mark.thorough
@pytest.mark.parametrize("longest", [1, 4])
@pytest.mark.parametrize("search_cell", [1, 3])
@pytest.mark.parametrize("distortion", ["brightness", DEAD])
def test_specs_hold(distortion, search_cell: int, longest: int) -> None:
    check_env_specs(environment(n=2, distortion=distortion, search_cell=search_cell, longest=longest))


@pytest.mark.thorough
def test_the_environment_keeps_nothing_of_a_clip() -> None:
    env = environment(n=3)
    assert set(vars(env)) - set(vars(PendulumEnv())) == {"session", "classes", "signs"}
    td, action = env.reset(), permutations(3, 3)
    kept = td.clone()
    once = env.step(td.clone().set("action", action))["next"]
    env.step(td.clone().set("action", permutations(3, 3, seed=99)))  # other orders in between
    again = env.step(td.clone().set("action", action))["next"]
    for key in once.keys(include_nested=True, leaves_only=True):
        assert torch.equal(once[key], again[key]), key
    for key in kept.keys(include_nested=True, leaves_only=True):
        assert torch.equal(td[key], kept[key]), key
    seen = env.reset()
    for key in seen.keys(include_nested=True, leaves_only=True):
        assert torch.equal(seen[key], td[key]), f"{key}: answers add nothing to what is seen"


def test_a_reset_costs_nothing_and_is_a_look_at_the_clips() -> None:
    env = environment(n=3)
    td = env.reset()
    assert env.session.victim.model.seen == 3  # the clean predictions
    seen = look(env.session, torch.arange(3))
    for key in seen.keys(include_nested=True, leaves_only=True):
        assert torch.equal(td[key], seen[key]), key
    for key in ("size", "fooled", "asked"):
        assert not td[key].any()
    assert not td["done"].any()


def test_the_observations_after_a_step_are_those_before_it() -> None:
    env = environment(n=2)
    before = env.reset()
    after = stepped(env, permutations(2, 3))
    for key in ("features", "state", ("known", "clean_margin"), ("known", "energy")):
        assert torch.equal(after[key], before[key]), key
    assert after["done"].all()


# --- queries, and what they are paid


@pytest.mark.parametrize(("places", "sets"), [([0, 1, 2], [1, 2, 3]), ([3, 4, 7], [3, 4, 4]), ([8, 31, 63], [5, 6, 7])])
def test_sets_of_the_first_1_2_4_tubelets_are_asked_about_until_one_fools(places: list[int], sets: list[int]) -> None:
    env = environment(n=1)
    action = with_target_at([places])
    after = stepped(env, action)
    assert after["fooled"].all()
    assert after["asked"].tolist() == [[2 ** (count - 1) for count in sets]]
    assert env.session.queries.tolist() == [1 + sum(sets)]
    assert env.session.victim.model.seen == 1 + sum(sets)
    full = float(env.session.full_l2)
    for order, count in enumerate(after["asked"][0].tolist()):
        strength = torch.zeros(CELLS).scatter(0, action[0, order, :count], 1.0).view(1, T, SIDE, SIDE)
        size = float((env.session.renderer.render(strength) - env.session.renderer.clips).norm())
        assert float(after["size"][0, order]) == pytest.approx(size, rel=1e-4)
        assert float(after["reward"][0, order]) == pytest.approx(math.log(full / size), abs=1e-4)


def test_an_order_of_which_nothing_fools_is_paid_nothing() -> None:
    env = replaced(environment(n=2), Unmoved())
    after = stepped(env, permutations(2, 3))
    assert not after["fooled"].any()
    assert after["reward"].eq(0).all()
    assert torch.equal(after["size"], env.session.full_l2[:, None].expand(2, 3))
    assert after["asked"].eq(CELLS).all()
    assert env.session.queries.tolist() == [1 + 3 * 7] * 2  # 1, 2, 4, ..., 64 of 64


def test_clips_that_need_no_attack_cost_nothing_and_pay_nothing() -> None:
    env = environment(n=3)
    said = env.session.clean.argmax(1)
    said[1] = 1 - said[1]  # the victim is wrong about it
    env = replaced(env, OneTubelet(), Misclassify(said))
    after = stepped(env, with_target_at([[0, 1, 2]] * 3))
    assert env.session.queries.tolist() == [1 + 6, 1, 1 + 6]
    assert after["asked"][1].eq(0).all()
    assert after["reward"][1].eq(0).all()
    assert not after["fooled"][1].any()
    assert after["reward"][[0, 2]].gt(0).all()


def test_every_order_is_played_as_if_it_were_alone() -> None:
    places = [[0, 5, 40], [7, 2, 63]]
    together = stepped(environment(n=2), with_target_at(places))
    for order in range(3):
        env = environment(n=2, orders=1)
        alone = stepped(env, with_target_at(places)[:, order : order + 1])
        for key in ("reward", "size", "fooled", "asked"):
            assert torch.equal(alone[key], together[key][:, order : order + 1]), key


def noted(env: OrderEnv) -> list[Tensor]:
    """The strength maps that will be asked about, batch by batch."""
    asked, query = [], env.session.query
    env.session.query = lambda strength, rows: (asked.append(strength), query(strength, rows))[1]
    return asked


@pytest.mark.parametrize(("distortion", "values"), [("brightness", {-1.0, 0.0, 1.0}), (DEAD, {0.0, 1.0})])
def test_tubelets_have_a_random_direction_where_there_are_two(distortion, values: set[float]) -> None:
    env = environment(n=2, distortion=distortion)
    asked = noted(env)
    firsts = []
    for seed in (0, 0, 1):
        before = len(asked)
        stepped(env, permutations(2, 3), seed)
        firsts.append(asked[before])
    assert set(torch.cat(asked).unique().tolist()) == values
    assert torch.equal(firsts[0], firsts[1]), "the seed says which"
    assert torch.equal(firsts[0], firsts[2]) == (-1.0 not in values)


def test_tubelets_that_last_turn_from_frame_to_frame_where_there_are_two_directions() -> None:
    for distortion, course in (("brightness", [1, -1, 1, -1]), (DEAD, [1] * 4)):
        env = environment(n=1, orders=1, longest=4, distortion=distortion)
        asked, fits = noted(env), lengths(T, 4)
        action = torch.arange(CELLS * fits).roll(-((2 * SIDE**2 + 5) * fits + 2))  # frame 2, cell 5, four frames
        stepped(env, action[None, None])
        first = asked[0].flatten(2)[0, :, 5]
        assert (first * first[2]).tolist() == course
        assert asked[0].count_nonzero() == 4


# --- what the agents may know


class Replayed(nn.Module):
    """Has nothing inside but a list of answers."""

    def __init__(self, answers: list[Tensor]) -> None:
        super().__init__()
        self.left = iter(answers)

    def forward(self, clips: Tensor) -> Tensor:
        return next(self.left)


@pytest.mark.thorough
def test_observations_follow_from_the_clips_and_the_answers_alone() -> None:
    """A victim that only replays what another has answered brings about the same observations,
    orders and rewards."""
    answers, policy = [], order_policy(agents(), 3)
    first = environment(n=4, longest=16)
    model = OneTubelet()
    model.register_forward_hook(lambda _, __, out: answers.append(out.clone()))
    rollouts = []
    for victim in (model, Replayed(answers)):
        books = Session(Victim(victim), first.session.renderer, budget=400)
        env = OrderEnv(books, 3, longest=16)
        env.set_seed(0)
        torch.manual_seed(0)
        rollouts.append(env.rollout(1, policy))
    seen, again = rollouts
    assert seen["next", "fooled"].any()
    for key in seen.keys(include_nested=True, leaves_only=True):
        assert torch.equal(seen[key], again[key]), key


def test_the_nets_do_not_see_what_is_known() -> None:
    env, policy, drawn = environment(n=2, longest=16), order_policy(agents(), 3), []
    for td in (env.reset(), env.reset().exclude("known")):
        torch.manual_seed(0)
        drawn.append(policy(td)["action"])
    assert torch.equal(*drawn)


@pytest.mark.parametrize("shape", [(4, 32, 32), (8, 24, 40), (2, 16, 16), (1, 8, 8)])
def test_the_same_agents_work_on_any_grid(shape: tuple[int, int, int]) -> None:
    team = Agents(AgentsConfig(CHANNELS, len(STATE), longest=16))
    clips = 0.45 + 0.1 * torch.rand(2, 3, *shape, generator=generator())
    books = Session(
        Victim(Unmoved()),
        Renderer(clips, as_distortion("gaussian_noise"), TubeletGrid(1, 8, 8)),
        budget=1 + 2 * MOST_SETS,
    )
    env = OrderEnv(books, 2, longest=16)
    out = env.rollout(1, order_policy(team, 2))
    tubelets = env.action_spec.space.n
    assert out["action"].sort(-1).values.eq(torch.arange(tubelets)).all()
    assert out["log_prob"].shape == (2, 1, 2, min(PAID, tubelets))
    assert out["log_prob"].isfinite().all()


def test_what_is_seen_and_paid_does_not_depend_on_the_precision_of_a_run() -> None:
    plain = stepped(environment(n=2, distortion="gaussian_noise"), permutations(2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        half = stepped(environment(n=2, distortion="gaussian_noise"), permutations(2, 3))
    for key in plain.keys(include_nested=True, leaves_only=True):
        assert torch.equal(plain[key], half[key]), key

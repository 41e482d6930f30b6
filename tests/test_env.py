"""The two-agent environment: its specs, its one query a step, what it keeps, and what its
observations may know."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.envs.utils import check_env_specs

from vidmarl.agents.actions import COUNTS, DRAWS, WIDTHS
from vidmarl.agents.environment import GIVE_UP, LEVELS, SLACK, STATE, VideoAttackEnv
from vidmarl.agents.networks import Agents
from vidmarl.agents.reward import Reward
from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.session import Session
from vidmarl.victims.victim import Victim

GRID = TubeletGrid(1, 8, 8)
FAINT = {"class_path": "Brightness", "init_args": {"shift": 0.02}}  # too faint to fool: the episode goes on
DEAD = {"class_path": "DeadPixels", "init_args": {"rate": 1.0}}  # has one direction only


class MeanBrightness(nn.Module):
    """Two classes, bright and dark, told apart by the weighted mean of the clip; counts what it is
    shown."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.seen = weight, 0

    def forward(self, clips: Tensor) -> Tensor:
        self.seen += len(clips)
        score = 40 * ((clips - 0.5) * self.weight).flatten(1).mean(1)
        return torch.stack([score, -score], 1)


class Scripted(nn.Module):
    """Gives margins from a list, whatever it is shown."""

    def __init__(self, margins: Iterable[float]) -> None:
        super().__init__()
        self.left = iter(margins)

    def forward(self, clips: Tensor) -> Tensor:
        margin = next(self.left)
        return torch.tensor([[margin, 0.0]]).expand(len(clips), -1)


def clips(n: int, seed: int = 0) -> Tensor:
    return 0.45 + 0.2 * torch.rand(n, 3, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


def opened(model: nn.Module, distortion="brightness", budget=12, n=3, zoom=1, **kwargs) -> VideoAttackEnv:
    session = Session(Victim(model), Renderer(clips(n), as_distortion(distortion), GRID, zoom=zoom), budget=budget)
    return VideoAttackEnv(session, supply=lambda m: clips(m, seed=7), **kwargs)


def environment(distortion="brightness", budget=12, n=3, weight=None, **kwargs):
    model = MeanBrightness(torch.ones(()) if weight is None else weight)
    return opened(model, distortion, budget, n, **kwargs), model


def team(env: VideoAttackEnv) -> TensorDictSequential:
    torch.manual_seed(0)
    agents = Agents(env.agents_config)
    return TensorDictSequential(agents.temporal, agents.spatial)


def act(td: TensorDict, count: int, width: int, draws: list[tuple[int, int, int]]) -> TensorDict:
    """Puts the same action into every row: (frame, cell, direction) of its first draws."""
    rest = [(0, 0, 0)] * (DRAWS - len(draws))
    frames, cells, ups = zip(*draws, *rest, strict=True)
    lead = (len(td), 1, -1)
    td["temporal", "action"] = torch.tensor([COUNTS.index(count), WIDTHS.index(width), *frames]).expand(lead)
    td["spatial", "action"] = torch.tensor([*cells, *ups]).expand(lead)
    return td


def told(td: TensorDict, name: str) -> Tensor:
    """What an observation's state says about each clip, float[b]."""
    return td["state"][:, STATE.index(name)]


EIGHT = [(frame, cell, 0) for frame in (0, 2) for cell in (0, 5, 6, 15)]
"""Eight tubelets, darker."""


@pytest.mark.parametrize("zoom", [1, 2, 3])
@pytest.mark.parametrize("distortion", ["brightness", "gaussian_noise", "gaussian_blur"])
def test_specs_hold(distortion: str, zoom: int) -> None:
    env, _ = environment(distortion, zoom=zoom)
    check_env_specs(env)


# --- queries


@pytest.mark.parametrize("zoom", [1, 2])
def test_one_query_per_clip_and_step(zoom: int) -> None:
    env, model = environment(zoom=zoom)
    assert model.seen == 3  # the clean predictions
    td = env.reset()
    assert model.seen == 3  # which the first reset takes over
    policy = team(env)
    for _ in range(6):
        running = int((~td["done"]).sum())
        assert running == len(env.running())
        before = model.seen
        td = env.step_mdp(env.step(policy(td)))
        assert model.seen - before == running
    assert torch.equal(td["queries"].flatten(), env.session.queries)


def test_ended_rows_cost_nothing_and_stay_as_they_are() -> None:
    env, model = environment(budget=3)
    rollout = env.rollout(10, team(env), break_when_any_done=False, break_when_all_done=True)
    assert rollout["next", "done"][:, -1].all()
    assert (env.session.queries <= 3).all()
    strength, seen = env.strength.clone(), model.seen
    out = env.step(team(env)(rollout["next"][:, -1].exclude("reward")))
    assert model.seen == seen
    assert torch.equal(env.strength, strength)
    assert out["next", "reward"].eq(0).all()


# --- additions


def test_before_success_a_proposal_is_kept_exactly_if_it_lowers_the_margin() -> None:
    env, _ = environment(FAINT)
    td = env.reset()
    for up, kept in ((1, False), (0, True)):  # brighter helps "bright", darker does not
        out = env.step(act(td, 8, 1, [(f, c, up) for f, c, _ in EIGHT]))["next"]
        assert (env.strength != 0).any() == kept
        assert told(out, "kept").bool().all() == kept
        assert told(out, "failures").eq(0).all() == kept
    assert (env.strength != 0).flatten(1).sum(1).eq(8).all()
    assert env.strength[:, [0, 2]].min() == -1
    assert env.strength.max() == 0


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_before_success_up_and_down_are_inverse_within_the_range(step: float) -> None:
    env, _ = environment(step=step)
    td = env.reset()

    def proposed(up: int) -> Tensor:
        act(td, 1, 2, [(2, 5, up)])
        return env.propose(td["temporal", "action"].squeeze(1), td["spatial", "action"].squeeze(1))

    env.strength = proposed(1)
    assert env.strength.flatten(1).count_nonzero(1).tolist() == [2, 2, 2]
    assert env.strength[:, 1:3, 1, 1].eq(step).all()
    assert proposed(0).eq(0).all()
    env.strength = env.strength.sign()
    assert torch.equal(proposed(1), env.strength)  # no further than 1


def test_masks_say_what_would_change_anything() -> None:
    for distortion, signed in (("brightness", True), ("gaussian_blur", False)):
        env, _ = environment(distortion)
        td = env.reset()
        assert td["spatial", "can_up"].all()
        assert td["spatial", "can_down"].all() == signed
        assert td["spatial", "can_down"].any() == signed
        env.strength[:, 1] = 1
        td = env._observe()
        flags = td["spatial", "can_up"], td["spatial", "can_down"]
        assert flags[0].flatten(3).any(3).tolist() == [[[True, False, True, True]]] * 3
        assert flags[1][:, :, 1].all()
        assert td["temporal", "can_frame"].all()
        env.strength[:] = 1
        if not signed:
            env.session.renderer.low = 1.0  # as if there were no way down either
            assert not env._observe()["temporal", "can_frame"].any()


def test_counts_beyond_the_cells_are_masked() -> None:
    env, _ = environment(zoom=4)  # one cell a frame
    assert env.reset()["temporal", "can_count"][:, 0].tolist() == [[count <= 4 for count in COUNTS]] * 3


# --- removals


@pytest.mark.parametrize("zoom", [1, 2])
@pytest.mark.parametrize("distortion", ["brightness", DEAD])
def test_once_fooled_the_strength_stays_a_success_and_never_grows(distortion, zoom: int) -> None:
    env, _ = environment(distortion, budget=60, zoom=zoom, level=4, patience=20)  # starts with more than is needed
    policy, td, removed = team(env), env.reset(), 0
    renderer, model = env.session.renderer, env.session.victim.model
    label = env.session.goal.classes
    while len(rows := env.running()):
        was, old, l2 = td["fooled"].flatten().clone(), env.strength.clone(), td["l2"].flatten().clone()
        acted = policy(td)
        proposal = env.propose(acted["temporal", "action"].squeeze(1), acted["spatial", "action"].squeeze(1))
        left = proposal[was]
        assert ((left == 0) | (left == old[was])).all()
        assert (proposal[rows][was[rows]] != old[rows][was[rows]]).flatten(1).any(1).all()
        td = env.step_mdp(env.step(acted))
        now = td["l2"].flatten()
        assert (now[was] <= l2[was]).all()
        removed += int((now[was] < l2[was]).sum())
        shown = renderer.render(env.strength)
        assert torch.allclose((shown - renderer.clips).flatten(1).norm(dim=1), now, atol=1e-3)
        fooled = td["fooled"].flatten()
        assert (model(shown).argmax(1) != label)[fooled].all()
        assert torch.equal(env.session.best_l2[fooled], now[fooled])
        assert torch.equal(env.session.best_strength[fooled], renderer.refine(env.strength)[fooled])
    assert td["fooled"].any()
    assert removed > 0


def test_after_success_both_directions_take_away_what_is_there() -> None:
    env = opened(Scripted([4, -1, -1]), n=1)
    td = env.step_mdp(env.step(act(env.reset(), 8, 1, EIGHT)))
    assert td["fooled"].all()
    touched = rearrange(env.strength != 0, "b t h w -> b 1 t (h w)")
    assert torch.equal(td["spatial", "can_up"], touched)
    assert torch.equal(td["spatial", "can_down"], touched)
    assert td["temporal", "can_frame"].tolist() == [[[True, False, True, False]]]
    assert td["temporal", "can_count"].tolist() == [[[count <= 8 / 2 for count in COUNTS]]]  # at most half
    env.step(act(td, 4, 1, [(0, 0, 1), (0, 5, 0), (2, 0, 1), (1, 3, 1)]))  # the last of them touches nothing
    assert int((env.strength != 0).sum()) == 5
    assert env.strength.max() == 0


def test_a_removal_is_kept_only_if_the_clip_stays_fooled_and_gets_smaller() -> None:
    env = opened(Scripted([4, -1, 0.5, -3, -1]), n=1, patience=6)
    td = env.step_mdp(env.step(act(env.reset(), 8, 1, EIGHT)))
    before = env.strength.clone()
    td = env.step_mdp(env.step(act(td, 1, 1, [EIGHT[0]])))  # a success no more
    assert torch.equal(env.strength, before)
    assert env.margin == pytest.approx(-1)
    td = env.step_mdp(env.step(act(td, 1, 1, [(1, 0, 1)])))  # a lower margin, but nothing is taken away
    assert torch.equal(env.strength, before)
    assert told(td, "kept") == 0
    assert told(td, "failures") == pytest.approx(2 / 8)
    td = env.step_mdp(env.step(act(td, 1, 1, [EIGHT[0]])))
    assert int((env.strength != 0).sum()) == 7
    assert told(td, "kept") == 1
    assert told(td, "failures") == 0


@pytest.mark.parametrize("patience", [1, 3])
def test_removals_that_fail_in_a_row_end_the_episode(patience: int) -> None:
    env = opened(
        Scripted([4, 5, 5, 5, -1, *[1] * (patience - 1), -1, *[1] * patience]), budget=50, n=1, patience=patience
    )
    td = env.reset()
    for _ in range(3):  # additions that fail are not counted
        td = env.step_mdp(env.step(act(td, 1, 1, [EIGHT[0]])))
    td = env.step_mdp(env.step(act(td, 8, 1, EIGHT)))
    for _ in range(patience - 1):
        td = env.step_mdp(env.step(act(td, 1, 1, [EIGHT[0]])))
        assert not td["done"].any()
    td = env.step_mdp(env.step(act(td, 1, 1, [EIGHT[0]])))  # one that succeeds starts the count anew
    for _ in range(patience):
        assert not td["done"].any()
        td = env.step_mdp(env.step(act(td, 1, 1, [EIGHT[1]])))
    assert td["done"].all()
    assert td["terminated"].all()
    assert env.session.active.all()  # the rest of the budget is the clean-up's


def test_a_success_of_one_cell_ends_the_episode() -> None:
    env = opened(Scripted([4, -1]), n=1)
    td = env.step_mdp(env.step(act(env.reset(), 1, 1, [EIGHT[0]])))
    assert td["fooled"].all()
    assert td["done"].all()


def test_the_size_terms_of_an_episode_sum_to_the_log_of_what_was_saved() -> None:
    size = Reward(progress=0, query=0, flicker=0, success=0, saved=0, small=0.7)
    for distortion, fools in (("brightness", True), (FAINT, False)):
        env, _ = environment(distortion, budget=30, reward=size)
        full = env.session.full_l2()
        end = env.rollout(40, team(env), break_when_any_done=False, break_when_all_done=True)["next"]
        assert env.session.fooled.any() == fools
        final = torch.where(env.session.fooled, end["l2"][:, -1, 0], full)
        assert torch.allclose(end["reward"].sum((1, 2)), 0.7 * (full / final).log(), atol=1e-4)


# --- the suggested size


def test_the_level_follows_the_step_size_rule() -> None:
    margins = [4, 3, 5, 3.5, 2, 1, -1, 1, 1, -1, 1, -1]
    env = opened(Scripted(margins), budget=50, n=1, level=3, patience=9)
    td = env.reset()
    assert td["temporal", "level"].tolist() == [[3]]
    # kept: one up; taken back: one down
    for draw, level in ((EIGHT[0], 4), (EIGHT[1], 3), (EIGHT[2], 2), (EIGHT[3], 3)):
        td = env.step_mdp(env.step(act(td, 1, 1, [draw])))
        assert td["temporal", "level"].tolist() == [[level]]
        assert told(td, "level") == pytest.approx(level / LEVELS)
    lower_half = [(1, cell, 0) for cell in range(8, 16)]
    td = env.step_mdp(env.step(act(td, 8, 1, EIGHT)))
    td = env.step_mdp(env.step(act(td, 8, 2, lower_half)))
    assert td["fooled"].all()
    assert int((env.strength != 0).sum()) == 8 + 16 - 1  # frames 0 and 1, where cell 15 of frame 0 was touched before
    assert td["temporal", "level"].tolist() == [[3]]  # now half of what is there at most: 8 of 23
    for draw, touched, level in (
        (EIGHT[0], 23, 2),  # taken back: one down
        (EIGHT[0], 23, 1),
        (EIGHT[0], 22, 3),  # kept: half of what is left
        (EIGHT[1], 22, 2),
    ):
        td = env.step_mdp(env.step(act(td, 1, 1, [draw])))
        assert int((env.strength != 0).sum()) == touched
        assert td["temporal", "level"].tolist() == [[level]]
    td = env.step_mdp(env.step(act(td, 8, 2, lower_half)))
    assert int((env.strength != 0).sum()) == 6
    assert td["temporal", "level"].tolist() == [[1]]  # 2 of 6


@pytest.mark.parametrize(("falls", "spread", "level"), [(1, 2, 5), (-1, 2, 1), (1, 0, 3), (-1, 0, 3)])
def test_until_the_clip_is_fooled_the_level_stays_within_its_spread(falls: int, spread: int, level: int) -> None:
    margins = [20 - falls * i for i in range(20)]
    env = opened(Scripted(margins), FAINT, budget=50, n=1, level=3, spread=spread)
    td = env.reset()
    for i in range(6):
        td = env.step_mdp(env.step(act(td, 1, 1, [(i % 4, i, 0)])))
    assert td["temporal", "level"].tolist() == [[level]]


@pytest.mark.parametrize(("falls", "level"), [(1, LEVELS - 1), (-1, 0)])
def test_the_level_stays_within_its_range(falls: int, level: int) -> None:
    margins = [20 - falls * i for i in range(20)]
    env = opened(Scripted(margins), FAINT, budget=50, n=1)
    td = env.reset()
    for i in range(12):
        td = env.step_mdp(env.step(act(td, 1, 1, [(i % 4, i, 0)])))
    assert td["temporal", "level"].tolist() == [[level]]


def test_an_untrained_team_draws_sizes_around_the_level_and_places_evenly() -> None:
    env, _ = environment()
    agents = Agents(env.agents_config)
    td = env.reset()
    for level in range(LEVELS):
        td["temporal", "level"][:] = level
        dist = agents.temporal.get_dist(td)
        fit = sum(count <= env.strength[0].numel() for count in COUNTS)
        assert dist.mode[..., 0].eq(min(level, fit - 1)).all()
        assert dist.width.probs.argmax(-1).eq(min(max(level - len(COUNTS) + 1, 0), 2)).all()  # 4 frames at most
        assert torch.allclose(dist.frame.probs, torch.tensor(1 / 4))
    td["temporal", "action"] = dist.sample()
    spatial = agents.spatial.get_dist(td)
    assert torch.allclose(spatial.cell_logits.exp(), torch.tensor(1 / 16))
    assert spatial.up_logits.eq(0).all()


# --- cells of several tubelets


@settings(max_examples=30)
@given(zoom=st.integers(1, 4), size=st.tuples(st.integers(1, 40), st.integers(1, 40)), frames=st.integers(1, 3))
def test_a_cell_of_the_agents_is_a_square_of_tubelets_on_ragged_grids_too(
    zoom: int, size: tuple[int, int], frames: int
) -> None:
    renderer = Renderer(torch.rand(1, 3, 3, *size), as_distortion("brightness"), TubeletGrid(frames, 8, 8), zoom=zoom)
    env = VideoAttackEnv(Session(Victim(MeanBrightness(torch.ones(()))), renderer, budget=5))
    assert env.strength.shape[1:] == env.shape_of_cells == renderer.cells
    assert env.reset()["features"].shape[2:] == renderer.cells
    cells = torch.arange(env.strength.numel(), dtype=torch.float32).view(env.strength.shape)
    per_pixel = renderer.coarse.expand(cells, 3, *size)
    assert torch.equal(per_pixel, renderer.grid.expand(renderer.refine(cells), 3, *size))


@pytest.mark.parametrize(("distortion", "odd"), [("brightness", -1.0), ("gaussian_blur", 0.0)])
def test_an_episode_may_open_with_distortion_everywhere_that_turns_with_every_frame(
    distortion: str, odd: float
) -> None:
    env = opened(Scripted([2.0, 1.5, 1.0, 3.0]), distortion, budget=4, n=1, opening=1, step=2.0)
    td = act(env.reset(), 1, 1, [(2, 5, 0)])
    td = env.step_mdp(env.step(td))
    everywhere = torch.tensor([1.0, odd, 1.0, odd]).view(1, 4, 1, 1).expand_as(env.strength)
    assert torch.equal(env.strength, everywhere)
    assert told(td, "kept").all()
    env.step(act(td, 1, 1, [(2, 5, 0)]))  # from then on the agents have their say: here they turn one tubelet round
    changed = env.strength != everywhere
    assert changed.sum() == 1
    assert env.strength[changed] == env.session.renderer.low


def test_the_opening_comes_at_its_query_unless_the_clip_is_fooled_by_then() -> None:
    late = opened(Scripted([2.0, 1.5, 1.0, 3.0]), budget=4, n=1, opening=2)
    won = opened(Scripted([2.0, -0.5, -1.0, 3.0]), budget=4, n=1, opening=2)
    for env, touched in ((late, [2, 64]), (won, [2, 1])):
        td = env.reset()
        for expected in touched:
            td = env.step_mdp(env.step(act(td, 2 if expected == 2 else 1, 1, [(2, 5, 0), (1, 3, 0)])))
            assert env.strength.count_nonzero() == expected


def test_zoom_and_step_are_checked() -> None:
    with pytest.raises(ValueError, match="zoom=0"):
        environment(zoom=0)
    with pytest.raises(ValueError, match="step"):
        environment(step=0.0)


# --- what is learnt from the responses


def test_credit_finds_the_cells_that_matter() -> None:
    weight = torch.zeros(3, 4, 32, 32)
    weight[:, 1, 8:16, 16:24] = 16 * 4  # one tubelet: frame 1, row 1, column 2
    env, _ = environment(FAINT, budget=200, n=1, weight=weight)
    td = env.reset()
    policy = team(env)
    for _ in range(160):
        td = env.step_mdp(env.step(policy(td)))
    assert not td["done"].any()
    signed = rearrange(env._signed_credit[0], "t h w -> (t h w)")
    target = 1 * 16 + 1 * 4 + 2
    assert int(signed.abs().argmax()) == target
    assert signed[target] < 0  # darker is what helps
    assert td["maps"][0, 3].sum() > 0


def test_without_credit_the_agents_see_what_they_tried_and_nothing_more() -> None:
    env, _ = environment(FAINT, credit=False)
    td, policy = env.reset(), team(env)
    for _ in range(3):
        td = env.step_mdp(env.step(policy(td)))
    assert td["maps"][:, 1:3].eq(0).all()
    assert td["maps"][:, 3].sum() > 0


# --- rounds


def rounds(env: VideoAttackEnv) -> TensorDict:
    """Plays the untrained team until every clip's round is over."""
    policy, td = team(env), env._observe()
    while len(env.running()):
        td = env.step_mdp(env.step(policy(td)))
    return td


def test_another_round_begins_from_the_clean_clip_with_all_that_was_learnt() -> None:
    env, model = environment(budget=200)
    clean = env.reset()
    end, seen, spent = rounds(env), model.seen, env.session.queries.clone()
    assert env.won.all()
    assert env.first.all()
    others, best = env.strength[[0, 2]].clone(), env.session.best_l2.clone()
    td = env.again(torch.tensor([1]))
    assert model.seen == seen
    assert torch.equal(env.session.queries, spent)
    assert env.first.tolist() == [True, False, True]
    for name in ("margin", "own", "rival", "size", "kept", "fall", "won", "touched", "failures"):
        assert told(td, name)[1] == told(clean, name)[1], name
        assert torch.equal(told(td, name)[[0, 2]], told(end, name)[[0, 2]]), name
    assert torch.equal(told(td, "spent"), told(end, "spent"))
    for key in ("fooled", "l2", "done"):
        assert torch.equal(td[key][1], clean[key][1]), key
    assert env.strength[1].eq(0).all()
    assert td["maps"][1, 0].eq(0).all()
    assert td["maps"][:, 1:].flatten(2).any(2).all()
    assert torch.equal(td["maps"][:, 1:], end["maps"][:, 1:]), "credit and trials stay"
    assert torch.equal(td["features"], clean["features"])
    assert torch.equal(env.strength[[0, 2]], others)
    assert env.session.fooled.all()
    assert torch.equal(env.session.best_l2, best)


@pytest.mark.parametrize("distortion", ["brightness", DEAD])
@pytest.mark.parametrize("zoom", [1, 2])
def test_a_later_round_never_grows_beyond_its_room(distortion, zoom: int) -> None:
    env, _ = environment(distortion, budget=150, zoom=zoom)
    policy, td = team(env), env.reset()
    smallest = torch.full((3,), torch.inf)
    begun = 0
    for _ in range(150):
        over = env.session.active.clone()
        over[env.running()] = False
        if len(rows := over.nonzero().flatten()):
            begun += len(rows)
            smallest[rows] = torch.where(env.won, env.l2.minimum(smallest), smallest)[rows]
            td = td.update(env.again(rows))
            if not len(env.running()):
                break
        td = env.step_mdp(env.step(policy(td)))
        touched = (env.strength != 0).flatten(1).any(1)
        assert (env.l2 <= SLACK * smallest)[touched].all()
        shown = env.session.renderer.render(env.strength)
        assert torch.allclose((shown - env.session.renderer.clips).flatten(1).norm(dim=1), env.l2, atol=1e-3)
        assert (env.session.best_l2 <= env.l2 + 1e-4)[env.won].all()
    assert begun > 3


def test_a_success_beyond_the_room_is_taken_back() -> None:
    env = opened(Scripted([4, -1, -1, -1]), n=1, patience=0)
    td = env.step_mdp(env.step(act(env.reset(), 4, 1, EIGHT[:4])))
    assert td["done"].all()
    td = env.again(torch.tensor([0]))
    counts = [count <= SLACK**2 * 4 for count in COUNTS]
    assert td["temporal", "can_count"].tolist() == [[counts]], "what there is no room for is not proposed"
    td = env.step_mdp(env.step(act(td, 8, 1, EIGHT)))
    assert env.strength.eq(0).all()
    assert not td["fooled"].any()
    assert told(td, "failures") == pytest.approx(1 / 8)
    assert env.session.best_strength.count_nonzero() == 4, "the books know the smaller one still"
    td = env.step_mdp(env.step(act(td, 4, 1, EIGHT[4:])))
    assert td["fooled"].all()
    assert env.strength.count_nonzero() == 4


def test_the_first_level_of_another_round_is_half_of_what_was_won_with() -> None:
    env = opened(Scripted([4, -1, *[5] * GIVE_UP]), budget=50, n=1, level=1, patience=0)
    env.step(act(env.reset(), 8, 1, EIGHT))
    td = env.again(torch.tensor([0]))
    assert td["temporal", "level"].tolist() == [[COUNTS.index(4)]]
    for _ in range(GIVE_UP):
        td = env.step_mdp(env.step(act(td, 1, 1, [EIGHT[0]])))
    assert env.again(torch.tensor([0]))["temporal", "level"].tolist() == [[1]], "after a round in vain as at first"


def test_a_later_round_gives_up_and_the_first_does_not() -> None:
    first, later = 2 * GIVE_UP, GIVE_UP
    env = opened(Scripted([4, *[5] * first, -1, *[5] * (later - 1), 3, *[5] * later]), budget=100, n=1, patience=0)
    td = env.reset()
    for _ in range(first):
        td = env.step_mdp(env.step(act(td, 1, 1, [EIGHT[0]])))
        assert not td["done"].any()
    env.step(act(td, 8, 1, EIGHT))
    td = env.again(torch.tensor([0]))
    for draw in (*[EIGHT[1]] * (later - 1), EIGHT[0], *[EIGHT[1]] * later):  # one that is kept starts the count anew
        assert not td["done"].any()
        td = env.step_mdp(env.step(act(td, 1, 1, [draw])))
    assert td["done"].all()
    assert not td["fooled"].any()
    assert env.session.active.all()
    assert env.has_room(0)


def test_there_is_no_room_below_one_cell_of_average_size() -> None:
    env = opened(Scripted([4, -1]), n=1)
    env.step(act(env.reset(), 1, 1, [EIGHT[0]]))
    assert env.has_room(0), "another cell of this size will do"
    seen = clips(1)
    seen[:, :, 0, :8, :8] = 0.01  # hardly any darker in the first tubelet
    session = Session(Victim(Scripted([4, -1])), Renderer(seen, as_distortion("brightness"), GRID), budget=12)
    env = VideoAttackEnv(session)
    env.step(act(env.reset(), 1, 1, [EIGHT[0]]))
    assert env.won.all()
    assert not env.has_room(0)
    assert env.again(torch.tensor([0]))["done"].all()
    assert not env.has_room(0)


def test_a_reset_forgets_the_rounds() -> None:
    env, _ = environment(budget=200)
    env.reset()
    rounds(env)
    env.again(torch.arange(3))
    assert env._room.isfinite().all()
    td = env.reset()
    assert env.first.all()
    assert env._room.isinf().all()
    assert td["maps"].eq(0).all()
    assert td["temporal", "level"].eq(env.level).all()


# --- episodes


def test_a_partial_reset_renews_only_its_rows() -> None:
    env, model = environment(budget=4)
    td = env.rollout(3, team(env), break_when_any_done=False)[:, -1]["next"].exclude("reward")
    strength, spent, seen = env.strength.clone(), env.session.queries.clone(), model.seen
    level = env._level.clone()
    mask = torch.tensor([[False], [True], [False]])
    td["_reset"] = mask
    out = env.reset(td)
    assert model.seen == seen + 1
    assert env.session.queries.tolist() == [int(spent[0]), 1, int(spent[2])]
    assert torch.equal(env.strength[[0, 2]], strength[[0, 2]])
    assert env._level.tolist() == [int(level[0]), env.level, int(level[2])]
    assert out["maps"][1].eq(0).all()
    assert not out["done"][1]


def test_without_a_supply_there_is_one_episode() -> None:
    env, _ = environment()
    env.supply = None
    env.reset()
    with pytest.raises(RuntimeError, match="supply"):
        env.reset()


class Replayed(nn.Module):
    """Has nothing inside but a list of answers."""

    def __init__(self, answers: list[Tensor]) -> None:
        super().__init__()
        self.left = iter(answers)

    def forward(self, clips: Tensor) -> Tensor:
        return next(self.left)


def test_observations_follow_from_the_clips_and_the_answers_alone() -> None:
    """A victim that only replays what another has answered brings about the same observations,
    rewards and ends."""
    answers = []
    model = MeanBrightness(torch.ones(()))
    model.register_forward_hook(lambda _, __, out: answers.append(out.clone()))
    first = opened(model, budget=60)
    seen = first.rollout(60, team(first), break_when_any_done=False, break_when_all_done=True)
    second = opened(Replayed(answers), budget=60)
    again = second.rollout(60, team(second), break_when_any_done=False, break_when_all_done=True)
    assert seen.shape == again.shape
    assert seen["next", "fooled"].any()
    for key in seen.keys(include_nested=True, leaves_only=True):
        assert torch.equal(seen[key], again[key]), key


@pytest.mark.parametrize("shape", [(4, 32, 32), (8, 24, 40), (2, 16, 16), (1, 8, 8)])
def test_the_same_agents_work_on_any_grid(shape: tuple[int, int, int]) -> None:
    env, _ = environment()
    agents = Agents(env.agents_config)
    t, h, w = shape
    session = Session(
        Victim(MeanBrightness(torch.ones(()))),
        Renderer(0.45 + 0.1 * torch.rand(2, 3, t, h, w), as_distortion("gaussian_noise"), GRID),
        budget=5,
    )
    other = VideoAttackEnv(session, supply=lambda m: torch.rand(m, 3, t, h, w))
    out = other.rollout(2, TensorDictSequential(agents.temporal, agents.spatial), break_when_any_done=False)
    assert agents.critic(out)["state_value"].shape == (2, out.shape[1], 1, 1)
    for group in ("spatial", "temporal"):
        assert out[group, "log_prob"].isfinite().all()

"""The agents' episodes and their environment: specs, one query a step, what is accepted, what the
observations may know, and that all of it is in the TensorDict."""

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
from torchrl.envs import PendulumEnv
from torchrl.envs.utils import check_env_specs

from vidmarl.agents.actions import COUNTS, DRAWS, WIDTHS
from vidmarl.agents.environment import VideoAttackEnv
from vidmarl.agents.episodes import MAPS, MAX_FAILED_ADDITIONS, PROPOSAL_SIZES, STATE, Episodes, mean_cell_energy
from vidmarl.agents.features import CHANNELS
from vidmarl.agents.networks import Agents, AgentsConfig
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


def opened(model: nn.Module, distortion="brightness", budget=12, n=3, search_cell=1, **kwargs) -> VideoAttackEnv:
    renderer = Renderer(clips(n), as_distortion(distortion), GRID, search_cell=search_cell)
    return VideoAttackEnv(Session(Victim(model), renderer, budget=budget), lambda m: clips(m, seed=7), **kwargs)


def environment(distortion="brightness", budget=12, n=3, weight=None, **kwargs):
    model = MeanBrightness(torch.ones(()) if weight is None else weight)
    return opened(model, distortion, budget, n, **kwargs), model


def untrained() -> Agents:
    torch.manual_seed(0)
    return Agents(AgentsConfig(CHANNELS, MAPS, len(STATE)))


def team() -> TensorDictSequential:
    agents = untrained()
    return TensorDictSequential(agents.temporal, agents.spatial)


def strength_of(td: TensorDict) -> Tensor:
    """The accepted strength maps, float[b t gh gw]."""
    return td["episode", "strength"]


def step(env: VideoAttackEnv, td: TensorDict) -> TensorDict:
    """The observations after the actions in `td`."""
    return env.step_mdp(env.step(td))


def changed(env: VideoAttackEnv, td: TensorDict, **entries: Tensor) -> TensorDict:
    """What is observed where something else is true of the episodes."""
    return env.episodes.observe(td["features"], td["episode"].copy().update(entries), torch.arange(len(td)))


def actions(td: TensorDict) -> tuple[Tensor, Tensor]:
    return td["temporal", "action"].squeeze(1), td["spatial", "action"].squeeze(1)


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


# --- no state but that of the TensorDict


@pytest.mark.thorough
@pytest.mark.parametrize("search_cell", [1, 2, 3])
@pytest.mark.parametrize("distortion", ["brightness", "gaussian_noise", "gaussian_blur"])
def test_specs_hold(distortion: str, search_cell: int) -> None:
    env, _ = environment(distortion, search_cell=search_cell)
    check_env_specs(env)


@pytest.mark.thorough
def test_the_environment_keeps_nothing_of_an_episode() -> None:
    env, _ = environment(budget=30)
    own = set(vars(env)) - set(vars(PendulumEnv()))
    assert own == {"episodes", "next_clips", "reward", "seeds"}
    td, policy = env.reset(), team()
    before = {name: id(vars(env)[name]) for name in own}
    for _ in range(5):
        td = step(env, policy(td))
    assert {name: id(vars(env)[name]) for name in own} == before
    assert not [value for value in vars(env).values() if isinstance(value, Tensor)]


def test_a_step_starts_from_its_tensordict_and_leaves_it_as_it_is() -> None:
    env, _ = environment(FAINT, budget=30)
    start = act(env.reset(), 8, 1, EIGHT)
    kept = start.clone()
    once = step(env, start.clone())
    step(env, act(once.clone(), 4, 1, EIGHT[4:]))  # another path in between
    again = step(env, start)
    for key in kept.keys(include_nested=True, leaves_only=True):
        assert torch.equal(start[key], kept[key]), key
    counted = {("episode", "queries"), "state"}  # the session counts the queries of both
    for key in once.keys(include_nested=True, leaves_only=True):
        assert key in counted or torch.equal(once[key], again[key]), key


@pytest.mark.thorough
@pytest.mark.parametrize("search_cell", [1, 2])
def test_one_query_per_clip_and_step(search_cell: int) -> None:
    env, model = environment(search_cell=search_cell)
    assert model.seen == 3  # the clean predictions
    td = env.reset()
    assert model.seen == 3  # which the first reset takes over
    policy = team()
    for _ in range(6):
        running, before = int((~td["done"]).sum()), model.seen
        td = step(env, policy(td))
        assert model.seen - before == running
    assert torch.equal(td["episode", "queries"], env.session.queries)


def test_ended_rows_cost_nothing_and_stay_as_they_are() -> None:
    env, model = environment(budget=3)
    rollout = env.rollout(10, team(), break_when_any_done=False, break_when_all_done=True)
    assert rollout["next", "done"][:, -1].all()
    assert (env.session.queries <= 3).all()
    end, seen = rollout["next"][:, -1].exclude("reward"), model.seen
    out = env.step(team()(end.clone()))["next"]
    assert model.seen == seen
    assert torch.equal(strength_of(out), strength_of(end))
    assert out["reward"].eq(0).all()


# --- additions


def test_before_success_a_proposal_is_accepted_exactly_if_it_lowers_the_margin() -> None:
    env, _ = environment(FAINT)
    td = env.reset()
    for up, accepted in ((1, False), (0, True)):  # brighter helps "bright", darker does not
        out = env.step(act(td, 8, 1, [(f, c, up) for f, c, _ in EIGHT]))["next"]
        assert (strength_of(out) != 0).any() == accepted
        assert told(out, "accepted").bool().all() == accepted
        assert told(out, "failures").eq(0).all() == accepted
        assert (told(out, "margin_drop") > 0).all() == accepted
    assert (strength_of(out) != 0).flatten(1).sum(1).eq(8).all()
    assert strength_of(out)[:, [0, 2]].min() == -1
    assert strength_of(out).max() == 0


@pytest.mark.parametrize("step_size", [1.0, 0.5])
def test_before_success_up_and_down_are_inverse_within_the_range(step_size: float) -> None:
    env, _ = environment(step_size=step_size)
    td = env.reset()

    def proposed(up: int, strength: Tensor) -> Tensor:
        return env.episodes.propose(changed(env, td, strength=strength), *actions(act(td, 1, 2, [(2, 5, up)])))

    up = proposed(1, strength_of(td))
    assert up.flatten(1).count_nonzero(1).tolist() == [2, 2, 2]
    assert up[:, 2, 1, 1].eq(step_size).all()
    assert up[:, 1, 1, 1].eq(-step_size).all()  # one that lasts turns from frame to frame
    assert proposed(0, up).eq(0).all()
    assert torch.equal(proposed(1, up.sign()), up.sign())  # no further than 1


def test_with_a_step_of_two_a_tubelet_changes_its_sign_at_once() -> None:
    env, _ = environment(step_size=2.0)
    td = act(env.reset(), 1, 1, [(2, 5, 0)])
    flipped = env.episodes.propose(changed(env, td, strength=torch.ones(3, 4, 4, 4)), *actions(td))
    assert (flipped != 1).nonzero().tolist() == [[row, 2, 1, 1] for row in range(3)]
    assert flipped.min() == -1


def test_masks_say_what_would_change_anything() -> None:
    for distortion, signed in (("brightness", True), ("gaussian_blur", False)):
        env, _ = environment(distortion)
        td = env.reset()
        assert td["spatial", "up_mask"].all()
        assert td["spatial", "down_mask"].all() == signed
        assert td["spatial", "down_mask"].any() == signed
        strength = torch.zeros(3, 4, 4, 4)
        strength[:, 1] = 1
        td = changed(env, td, strength=strength)
        up, down = td["spatial", "up_mask"], td["spatial", "down_mask"]
        assert up.flatten(3).any(3).tolist() == [[[True, False, True, True]]] * 3
        assert down[:, :, 1].all()
        assert td["temporal", "frame_mask"].all()
        if not signed:
            env.session.renderer.min_strength = 1.0  # as if there were no way down either
            assert not changed(env, td, strength=torch.ones(3, 4, 4, 4))["temporal", "frame_mask"].any()


def test_counts_beyond_the_cells_are_masked() -> None:
    env, _ = environment(search_cell=4)  # one cell a frame
    assert env.reset()["temporal", "count_mask"][:, 0].tolist() == [[count <= 4 for count in COUNTS]] * 3


# --- removals


@pytest.mark.thorough
@pytest.mark.parametrize("search_cell", [1, 2])
@pytest.mark.parametrize("distortion", ["brightness", DEAD])
def test_once_fooled_the_strength_stays_a_success_and_never_grows(distortion, search_cell: int) -> None:
    settings = {"proposal_size": 4, "max_failed_removals": 20}  # starts with more than is needed
    env, _ = environment(distortion, budget=60, search_cell=search_cell, **settings)
    policy, td, removed = team(), env.reset(), 0
    renderer, model = env.session.renderer, env.session.victim.model
    label = env.session.goal.classes
    while len(rows := (~td["done"].flatten()).nonzero().flatten()):
        old = td["episode"].clone()
        was = old["fooled"]
        acted = policy(td)
        proposal = env.episodes.propose(acted, *actions(acted))
        left = proposal[was]
        assert ((left == 0) | (left == old["strength"][was])).all()
        assert (proposal[rows][was[rows]] != old["strength"][rows][was[rows]]).flatten(1).any(1).all()
        td = step(env, acted)
        now = td["episode", "l2"]
        assert (now[was] <= old["l2"][was]).all()
        removed += int((now[was] < old["l2"][was]).sum())
        shown = renderer.render(strength_of(td))
        assert torch.allclose((shown - renderer.clips).flatten(1).norm(dim=1), now, atol=1e-3)
        fooled = td["episode", "fooled"]
        assert (model(shown).argmax(1) != label)[fooled].all()
        assert torch.equal(env.session.best_l2[fooled], now[fooled])
        assert torch.equal(env.session.best_strength[fooled], renderer.upsample(strength_of(td))[fooled])
    assert td["episode", "fooled"].any()
    assert removed > 0


def test_after_success_both_directions_take_away_what_is_there() -> None:
    env = opened(Scripted([4, -1, -1]), n=1)
    td = step(env, act(env.reset(), 8, 1, EIGHT))
    assert td["episode", "fooled"].all()
    touched = rearrange(strength_of(td) != 0, "b t h w -> b 1 t (h w)")
    assert torch.equal(td["spatial", "up_mask"], touched)
    assert torch.equal(td["spatial", "down_mask"], touched)
    assert td["temporal", "frame_mask"].tolist() == [[[True, False, True, False]]]
    assert td["temporal", "count_mask"].tolist() == [[[count <= 8 / 2 for count in COUNTS]]]  # at most half
    td = step(env, act(td, 4, 1, [(0, 0, 1), (0, 5, 0), (2, 0, 1), (1, 3, 1)]))  # the last of them touches nothing
    assert int((strength_of(td) != 0).sum()) == 5
    assert strength_of(td).max() == 0


def test_a_removal_is_accepted_only_if_the_clip_stays_fooled_and_gets_smaller() -> None:
    env = opened(Scripted([4, -1, 0.5, -3, -1]), n=1, max_failed_removals=6)
    td = step(env, act(env.reset(), 8, 1, EIGHT))
    before = strength_of(td).clone()
    td = step(env, act(td, 1, 1, [EIGHT[0]]))  # a success no more
    assert torch.equal(strength_of(td), before)
    assert td["episode", "margin"] == pytest.approx(-1)
    td = step(env, act(td, 1, 1, [(1, 0, 1)]))  # a lower margin, but nothing is taken away
    assert torch.equal(strength_of(td), before)
    assert told(td, "accepted") == 0
    assert told(td, "failures") == pytest.approx(2 / 8)
    td = step(env, act(td, 1, 1, [EIGHT[0]]))
    assert int((strength_of(td) != 0).sum()) == 7
    assert told(td, "accepted") == 1
    assert told(td, "failures") == 0


@pytest.mark.parametrize("limit", [1, 3])
def test_removals_that_fail_in_a_row_end_the_episode(limit: int) -> None:
    margins = [4, 5, 5, 5, -1, *[1] * (limit - 1), -1, *[1] * limit]
    env = opened(Scripted(margins), budget=50, n=1, max_failed_removals=limit)
    td = env.reset()
    for _ in range(3):  # additions that fail are not counted
        td = step(env, act(td, 1, 1, [EIGHT[0]]))
    td = step(env, act(td, 8, 1, EIGHT))
    for _ in range(limit - 1):
        td = step(env, act(td, 1, 1, [EIGHT[0]]))
        assert not td["done"].any()
    td = step(env, act(td, 1, 1, [EIGHT[0]]))  # one that succeeds starts the count anew
    for _ in range(limit):
        assert not td["done"].any()
        td = step(env, act(td, 1, 1, [EIGHT[1]]))
    assert td["done"].all()
    assert td["terminated"].all()
    assert env.session.active.all()  # the rest of the budget is for minimizing


def test_a_success_of_one_cell_ends_the_episode() -> None:
    env = opened(Scripted([4, -1]), n=1)
    td = step(env, act(env.reset(), 1, 1, [EIGHT[0]]))
    assert td["episode", "fooled"].all()
    assert td["done"].all()


@pytest.mark.thorough
def test_the_rewards_of_an_episode_sum_to_what_was_saved_less_its_queries() -> None:
    weights = Reward(margin=0, size=0.7, query=0.01)
    for distortion, fools in (("brightness", True), (FAINT, False)):
        env, _ = environment(distortion, budget=60, reward=weights)
        full = env.session.full_l2
        td, policy, total = env.reset(), team(), torch.zeros(3)
        while not td["done"].all():
            out = env.step(policy(td))
            total += out["next", "reward"].squeeze(1)
            td = env.step_mdp(out)
        assert env.session.fooled.any() == fools
        final = torch.where(env.session.fooled, td["episode", "l2"], full)
        spent = env.session.queries - 1
        assert torch.allclose(total, 0.7 * (full / final).log() - 0.01 * spent, atol=1e-4)


# --- the suggested size


@pytest.mark.thorough
def test_the_size_of_proposals_follows_the_step_size_rule() -> None:
    margins = [4, 3, 5, 3.5, 2, 1, -1, 1, 1, -1, 1, -1]
    env = opened(Scripted(margins), budget=50, n=1, proposal_size=3, max_failed_removals=9)
    td = env.reset()
    assert td["temporal", "proposal_size"].tolist() == [[3]]
    # accepted: one up; taken back: one down
    for draw, size in ((EIGHT[0], 4), (EIGHT[1], 3), (EIGHT[2], 2), (EIGHT[3], 3)):
        td = step(env, act(td, 1, 1, [draw]))
        assert td["temporal", "proposal_size"].tolist() == [[size]]
        assert told(td, "proposal_size") == pytest.approx(size / PROPOSAL_SIZES)
    lower_half = [(1, cell, 1) for cell in range(8, 16)]
    td = step(env, act(td, 8, 1, EIGHT))
    td = step(env, act(td, 8, 2, lower_half))
    assert td["episode", "fooled"].all()
    touched = 8 + 16 - 1  # frames 0 and 1, where cell 15 of frame 0 was touched before
    assert int((strength_of(td) != 0).sum()) == touched
    assert td["temporal", "proposal_size"].tolist() == [[3]]  # now half of what is there at most: 8 of 23
    for draw, touched, size in (
        (EIGHT[0], 23, 2),  # taken back: one down
        (EIGHT[0], 23, 1),
        (EIGHT[0], 22, 3),  # accepted: half of what is left
        (EIGHT[1], 22, 2),
    ):
        td = step(env, act(td, 1, 1, [draw]))
        assert int((strength_of(td) != 0).sum()) == touched
        assert td["temporal", "proposal_size"].tolist() == [[size]]
    td = step(env, act(td, 8, 2, lower_half))
    assert int((strength_of(td) != 0).sum()) == 6
    assert td["temporal", "proposal_size"].tolist() == [[1]]  # 2 of 6


@pytest.mark.thorough
@pytest.mark.parametrize(("drops", "size"), [(1, PROPOSAL_SIZES - 1), (-1, 0)])
def test_the_size_of_proposals_stays_within_its_range(drops: int, size: int) -> None:
    env = opened(Scripted([20 - drops * i for i in range(20)]), FAINT, budget=50, n=1)
    td = env.reset()
    for i in range(12):
        td = step(env, act(td, 1, 1, [(i % 4, i, 0)]))
    assert td["temporal", "proposal_size"].tolist() == [[size]]


def test_an_untrained_team_draws_sizes_around_the_suggested_one_and_places_evenly() -> None:
    env, _ = environment()
    agents, td = untrained(), env.reset()
    for size in range(PROPOSAL_SIZES):
        td["temporal", "proposal_size"][:] = size
        dist = agents.temporal.get_dist(td)
        fit = sum(count <= strength_of(td)[0].numel() for count in COUNTS)
        assert dist.mode[..., 0].eq(min(size, fit - 1)).all()
        assert dist.width.probs.argmax(-1).eq(min(max(size - len(COUNTS) + 1, 0), 2)).all()  # 4 frames at most
        assert torch.allclose(dist.frame.probs, torch.tensor(1 / 4))
    td["temporal", "action"] = dist.sample()
    spatial = agents.spatial.get_dist(td)
    assert torch.allclose(spatial.cell_logits.exp(), torch.tensor(1 / 16))
    assert spatial.up_logits.eq(0).all()


# --- search cells of several tubelets


@pytest.mark.thorough
@settings(max_examples=30)
@given(search_cell=st.integers(1, 4), size=st.tuples(st.integers(1, 40), st.integers(1, 40)), frames=st.integers(1, 3))
def test_a_search_cell_is_a_square_of_tubelets_on_ragged_grids_too(
    search_cell: int, size: tuple[int, int], frames: int
) -> None:
    shown, grid = torch.rand(1, 3, 3, *size), TubeletGrid(frames, 8, 8)
    renderer = Renderer(shown, as_distortion("brightness"), grid, search_cell=search_cell)
    td = VideoAttackEnv(Session(Victim(MeanBrightness(torch.ones(()))), renderer, budget=5)).reset()
    assert strength_of(td).shape[1:] == td["features"].shape[2:] == renderer.coarse_shape
    cells = torch.arange(strength_of(td).numel(), dtype=torch.float32).view(strength_of(td).shape)
    per_pixel = renderer.coarse.expand(cells, 3, *size)
    assert torch.equal(per_pixel, renderer.grid.expand(renderer.upsample(cells), 3, *size))


@pytest.mark.parametrize(
    ("wrong", "message"), [({"step_size": 0.0}, "step_size"), ({"proposal_size": 10}, "in \\[0, 10")]
)
def test_settings_are_checked(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        environment(**wrong)


# --- what is learnt from the responses


@pytest.mark.thorough
def test_credit_finds_the_cells_that_matter() -> None:
    weight = torch.zeros(3, 4, 32, 32)
    weight[:, 1, 8:16, 16:24] = 16 * 4  # one tubelet: frame 1, row 1, column 2
    env, _ = environment(FAINT, budget=200, n=1, weight=weight)
    td, policy = env.reset(), team()
    for _ in range(160):
        td = step(env, policy(td))
    assert not td["done"].any()
    signed = rearrange(td["episode", "signed_credit"][0], "t h w -> (t h w)")
    target = 1 * 16 + 1 * 4 + 2
    assert int(signed.abs().argmax()) == target
    assert signed[target] < 0  # darker is what helps
    assert td["maps"][0, 3].sum() > 0


# --- another episode on the same clip, under a bound


def played(env: VideoAttackEnv, td: TensorDict) -> TensorDict:
    """Plays the untrained team until every episode is over."""
    policy = team()
    while not td["done"].all():
        td = step(env, policy(td))
    return td


EVERY = torch.arange(3)


@pytest.mark.thorough
def test_a_restart_begins_from_the_clean_clip_with_all_that_was_learnt() -> None:
    env, model = environment(budget=200)
    clean = env.reset()
    end = played(env, clean)
    assert end["episode", "fooled"].all()
    kept, seen = end.clone(), model.seen
    td = env.episodes.restart(end, EVERY, bound=5.0)
    assert model.seen == seen
    for name in ("margin", "label", "runner_up", "size", "accepted", "margin_drop", "fooled", "touched", "failures"):
        assert torch.equal(told(td, name), told(clean, name)), name
    assert torch.equal(told(td, "spent"), told(end, "spent"))
    for key in (("episode", "fooled"), ("episode", "l2"), ("episode", "strength"), "done", "features"):
        assert torch.equal(td[key], clean[key]), key
    assert td["maps"][:, 0].eq(0).all()
    assert td["maps"][:, 1:].flatten(2).any(2).all()
    assert torch.equal(td["maps"][:, 1:], end["maps"][:, 1:]), "credit and trials stay"
    assert td["episode", "bound"].eq(5).all()
    for key in kept.keys(include_nested=True, leaves_only=True):
        assert torch.equal(end[key], kept[key]), key


@pytest.mark.thorough
@pytest.mark.parametrize("distortion", ["brightness", DEAD])
@pytest.mark.parametrize("search_cell", [1, 2])
def test_an_episode_stays_below_its_bound(distortion, search_cell: int) -> None:
    env, _ = environment(distortion, budget=300, search_cell=search_cell)
    td = played(env, env.reset())
    policy = team()
    for _ in range(4):
        bound = td["episode", "l2"].clamp_min(1e-3).max()
        td = env.episodes.restart(td, EVERY, float(bound))
        while not td["done"].all():
            td = step(env, policy(td))
            assert (td["episode", "l2"] < bound).all()
            shown = env.session.renderer.render(strength_of(td))
            norms = (shown - env.session.renderer.clips).flatten(1).norm(dim=1)
            assert torch.allclose(norms, td["episode", "l2"], atol=1e-3)
        if td["episode", "fooled"].logical_not().any():
            break


def test_a_success_beyond_the_bound_is_taken_back() -> None:
    env = opened(Scripted([4, -1, -1, -1]), n=1, max_failed_removals=0)
    td = step(env, act(env.reset(), 4, 1, EIGHT[:4]))
    assert td["done"].all()
    td = env.episodes.restart(td, torch.tensor([0]), 1.1 * float(td["episode", "l2"]))
    counts = [count <= 1.1**2 * 4 for count in COUNTS]
    assert td["temporal", "count_mask"].tolist() == [[counts]], "what does not fit is not proposed"
    td = step(env, act(td, 8, 1, EIGHT))
    assert strength_of(td).eq(0).all()
    assert not td["episode", "fooled"].any()
    assert told(td, "failures") == pytest.approx(1 / 8)
    assert env.session.best_strength.count_nonzero() == 4, "the session still knows the smaller one"
    td = step(env, act(td, 4, 1, EIGHT[4:]))
    assert td["episode", "fooled"].all()
    assert strength_of(td).count_nonzero() == 4


def test_the_first_size_after_a_restart_is_half_of_the_last_success() -> None:
    row = torch.tensor([0])
    margins = [4, -1, *[5] * MAX_FAILED_ADDITIONS]
    env = opened(Scripted(margins), budget=50, n=1, proposal_size=1, max_failed_removals=0)
    td = step(env, act(env.reset(), 8, 1, EIGHT))
    td = env.episodes.restart(td, row, 9.0)
    assert td["temporal", "proposal_size"].tolist() == [[COUNTS.index(4)]]
    for _ in range(MAX_FAILED_ADDITIONS):
        td = step(env, act(td, 1, 1, [EIGHT[0]]))
    again = env.episodes.restart(td, row, 9.0)
    assert again["temporal", "proposal_size"].tolist() == [[1]], "after an episode in vain as at first"


@pytest.mark.thorough
def test_under_a_bound_an_episode_gives_up_and_without_one_it_does_not() -> None:
    first, later = 2 * MAX_FAILED_ADDITIONS, MAX_FAILED_ADDITIONS
    margins = [4, *[5] * first, -1, *[5] * (later - 1), 3, *[5] * later]
    env = opened(Scripted(margins), budget=100, n=1, max_failed_removals=0)
    td = env.reset()
    for _ in range(first):
        td = step(env, act(td, 1, 1, [EIGHT[0]]))
        assert not td["done"].any()
    td = step(env, act(td, 8, 1, EIGHT))
    td = env.episodes.restart(td, torch.tensor([0]), 1.1 * float(td["episode", "l2"]))
    for draw in (*[EIGHT[1]] * (later - 1), EIGHT[0], *[EIGHT[1]] * later):  # one accepted starts the count anew
        assert not td["done"].any()
        td = step(env, act(td, 1, 1, [draw]))
    assert td["done"].all()
    assert not td["episode", "fooled"].any()
    assert env.session.active.all()


def test_a_bound_below_a_cell_of_average_size_ends_an_episode_before_it_begins() -> None:
    env, _ = environment()
    td = env.reset()
    cell = float(mean_cell_energy(td["episode"])[0].sqrt())
    assert torch.allclose(td["episode", "full_l2"], 8 * mean_cell_energy(td["episode"]).sqrt())  # of 64 cells
    row = torch.tensor([0])
    assert not env.episodes.restart(td[:1], row, 1.01 * cell)["done"].any()
    assert env.episodes.restart(td[:1], row, 0.99 * cell)["done"].all()


# --- resets


def test_a_partial_reset_renews_only_its_rows() -> None:
    env, model = environment(budget=4)
    td = env.rollout(3, team(), break_when_any_done=False)[:, -1]["next"].exclude("reward")
    kept, spent, seen = td.clone(), env.session.queries.clone(), model.seen
    td["_reset"] = torch.tensor([[False], [True], [False]])
    out = env.reset(td)
    assert model.seen == seen + 1
    assert env.session.queries.tolist() == [int(spent[0]), 1, int(spent[2])]
    for key in kept.keys(include_nested=True, leaves_only=True):
        assert torch.equal(out[key][[0, 2]], kept[key][[0, 2]]), key
    assert out["episode", "proposal_size"][1] == env.episodes.proposal_size
    assert out["maps"][1].eq(0).all()
    assert not torch.equal(out["features"][1], kept["features"][1])
    assert not out["done"][1]


@pytest.mark.thorough
def test_a_reset_forgets_a_bound() -> None:
    env, _ = environment(budget=200)
    env.episodes.restart(played(env, env.reset()), EVERY, 3.0)
    td = env.reset()
    assert td["episode", "bound"].isinf().all()
    assert td["maps"].eq(0).all()


def test_clips_that_nothing_was_asked_about_stay() -> None:
    env, model = environment()
    before = env.reset()["features"]
    assert torch.equal(env.reset()["features"], before)
    assert model.seen == 3


def test_without_further_clips_there_is_one_episode() -> None:
    env, _ = environment()
    env.next_clips = None
    step(env, team()(env.reset()))
    with pytest.raises(RuntimeError, match="next_clips"):
        env.reset()


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
    rewards and ends."""
    answers = []
    model = MeanBrightness(torch.ones(()))
    model.register_forward_hook(lambda _, __, out: answers.append(out.clone()))
    first = opened(model, budget=60)
    seen = first.rollout(60, team(), break_when_any_done=False, break_when_all_done=True)
    second = opened(Replayed(answers), budget=60)
    again = second.rollout(60, team(), break_when_any_done=False, break_when_all_done=True)
    assert seen.shape == again.shape
    assert seen["next", "episode", "fooled"].any()
    for key in seen.keys(include_nested=True, leaves_only=True):
        assert torch.equal(seen[key], again[key]), key


def test_the_nets_do_not_see_the_state_of_the_episode() -> None:
    """It holds what an observation does not tell, such as the clean margin in nats."""
    env, _ = environment()
    td, agents = env.reset(), untrained()
    torch.manual_seed(0)
    one = TensorDictSequential(agents.temporal, agents.spatial)(td.clone())
    torch.manual_seed(0)
    other = TensorDictSequential(agents.temporal, agents.spatial)(td.exclude("episode"))
    for group in ("temporal", "spatial"):
        assert torch.equal(one[group, "action"], other[group, "action"])


@pytest.mark.parametrize("shape", [(4, 32, 32), (8, 24, 40), (2, 16, 16), (1, 8, 8)])
def test_the_same_agents_work_on_any_grid(shape: tuple[int, int, int]) -> None:
    agents = untrained()
    t, h, w = shape
    session = Session(
        Victim(MeanBrightness(torch.ones(()))),
        Renderer(0.45 + 0.1 * torch.rand(2, 3, t, h, w), as_distortion("gaussian_noise"), GRID),
        budget=5,
    )
    other = VideoAttackEnv(session, lambda m: torch.rand(m, 3, t, h, w))
    out = other.rollout(2, TensorDictSequential(agents.temporal, agents.spatial), break_when_any_done=False)
    assert agents.critic(out)["state_value"].shape == (2, out.shape[1], 1, 1)
    for group in ("spatial", "temporal"):
        assert out[group, "log_prob"].isfinite().all()


def test_observations_do_not_depend_on_the_precision_of_a_run() -> None:
    env, _ = environment("gaussian_noise", budget=30)
    plain = step(env, act(env.reset(), 8, 1, EIGHT))
    env, _ = environment("gaussian_noise", budget=30)
    with torch.autocast("cpu", torch.bfloat16):
        half = step(env, act(env.reset(), 8, 1, EIGHT))
    assert torch.equal(plain["features"], half["features"])
    assert half["episode", "credit"].dtype == torch.float32
    assert torch.allclose(plain["maps"], half["maps"], atol=1e-3)


def test_a_clip_steps_alone_as_it_does_among_others() -> None:
    env, _ = environment("gaussian_noise", budget=30)
    together = step(env, act(env.reset(), 8, 1, EIGHT))
    session = Session(
        Victim(MeanBrightness(torch.ones(()))),
        Renderer(clips(3)[1:2], as_distortion("gaussian_noise"), GRID),
        budget=30,
    )
    episodes, row = Episodes(session), torch.tensor([0])
    td = act(episodes.begin(row), 8, 1, EIGHT)
    proposal = episodes.propose(td, *actions(td))
    alone = episodes.step(td, row, proposal, session.query(proposal, row))
    for key in alone.keys(include_nested=True, leaves_only=True):
        assert torch.allclose(alone[key].float(), together[key][1:2].float()), key

"""The two-agent environment: its specs, its one query a step, and what its observations may know."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.envs.utils import check_env_specs

from vidmarl.agents import Agents
from vidmarl.distortions import as_distortion
from vidmarl.env import VideoAttackEnv
from vidmarl.session import Session
from vidmarl.tubelets import Canvas, TubeletGrid
from vidmarl.victim import Victim

GRID = TubeletGrid(1, 8, 8)


class MeanBrightness(nn.Module):
    """Two classes, bright and dark, told apart by the weighted mean of the clip; counts what it is shown."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.seen = weight, 0

    def forward(self, clips):
        self.seen += len(clips)
        score = 40 * ((clips - 0.5) * self.weight).flatten(1).mean(1)
        return torch.stack([score, -score], 1)


def clips(n: int, seed: int = 0) -> torch.Tensor:
    return 0.45 + 0.2 * torch.rand(n, 3, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


def environment(distortion="brightness", budget=12, n=3, weight=None, **kwargs):
    model = MeanBrightness(torch.ones(()) if weight is None else weight)
    session = Session(Victim(model), Canvas(clips(n), as_distortion(distortion), GRID), budget=budget)
    env = VideoAttackEnv(session, supply=lambda m: clips(m, seed=7), **kwargs)
    return env, model


def team(env) -> TensorDictSequential:
    torch.manual_seed(0)
    agents = Agents(env.agents_config)
    return TensorDictSequential(agents.spatial, agents.temporal)


@pytest.mark.parametrize("distortion", ["brightness", "gaussian_noise", "gaussian_blur"])
def test_specs_hold(distortion):
    env, _ = environment(distortion)
    check_env_specs(env)


def test_one_query_per_clip_and_step():
    env, model = environment()
    assert model.seen == 3  # the clean predictions
    td = env.reset()
    assert model.seen == 3  # which the first reset takes over
    policy = team(env)
    for _ in range(4):
        running = int((~td["done"]).sum())
        before = model.seen
        td = env.step_mdp(env.step(policy(td)))
        assert model.seen - before == running


def test_ended_rows_cost_nothing_and_stay_as_they_are():
    env, model = environment(budget=3)
    rollout = env.rollout(10, team(env), break_when_any_done=False, break_when_all_done=True)
    assert rollout["next", "done"][:, -1].all()
    assert (env.session.queries <= 3).all()
    strength, seen = env.strength.clone(), model.seen
    env.step(team(env)(rollout["next"][:, -1].exclude("reward")))
    assert model.seen == seen
    assert torch.equal(env.strength, strength)


def test_a_proposal_is_kept_exactly_if_it_lowers_the_margin():
    env, _ = environment("brightness")
    td = env.reset()
    k = (td_action := env.full_action_spec["spatial", "action"].zero()).shape[-1] // 2
    for up, kept in ((1, False), (0, True)):  # brighter helps "bright", darker does not
        td_action[..., 1 + k :] = up
        td_action[..., 1 : 1 + k] = torch.arange(k)
        td["spatial", "action"] = td_action
        td["temporal", "action"] = env.full_action_spec["temporal", "action"].zero()
        out = env.step(td)["next"]
        assert (env.strength != 0).any() == kept
        assert out["state"][:, 5].bool().all() == kept


def test_add_and_take_away_are_inverse():
    env, _ = environment("brightness")
    env.reset()
    up = torch.tensor([[0, 5, *[c for c in range(16) if c != 5], *[1] * 16]]).expand(3, -1)
    down = up.clone()
    down[:, 17:] = 0
    window = torch.tensor([[1, 0]]).expand(3, -1)
    env.strength = env.propose(up, window)
    assert env.strength.count_nonzero() == 3
    assert env.propose(down, window).eq(0).all()


def test_credit_finds_the_cells_that_matter():
    weight = torch.zeros(3, 4, 32, 32)
    weight[:, 1, 8:16, 16:24] = 16 * 4  # one tubelet: frame 1, row 1, column 2
    faint = {"class_path": "Brightness", "init_args": {"shift": 0.02}}  # too faint to fool: the episode goes on
    env, _ = environment(faint, budget=200, n=1, weight=weight)
    td = env.reset()
    policy = team(env)
    for _ in range(60):
        td = env.step_mdp(env.step(policy(td)))
    assert not td["done"].any()
    credit = rearrange(env._credit[0], "t h w -> (t h w)").abs()
    assert int(credit.argmax()) == 1 * 16 + 1 * 4 + 2


def test_a_partial_reset_renews_only_its_rows():
    env, model = environment(budget=4)
    td = env.rollout(3, team(env), break_when_any_done=False)[:, -1]["next"].exclude("reward")
    strength, spent, seen = env.strength.clone(), env.session.queries.clone(), model.seen
    mask = torch.tensor([[False], [True], [False]])
    td["_reset"] = mask
    out = env.reset(td)
    assert model.seen == seen + 1
    assert env.session.queries.tolist() == [int(spent[0]), 1, int(spent[2])]
    assert torch.equal(env.strength[[0, 2]], strength[[0, 2]])
    assert out["maps"][1].eq(0).all()
    assert not out["done"][1]


def test_without_a_supply_there_is_one_episode():
    env, _ = environment()
    env.supply = None
    env.reset()
    with pytest.raises(RuntimeError, match="supply"):
        env.reset()


def test_observations_are_what_a_black_box_attacker_has():
    """Two victims with other insides and the same answers give the same observations."""
    first, _ = environment()
    second, model = environment()
    model.hidden = nn.Linear(3, 3)
    a, b = first.reset(), second.reset()
    for key in ("features", "maps", "state"):
        assert torch.equal(a[key], b[key])


@pytest.mark.parametrize("shape", [(4, 32, 32), (8, 24, 40), (2, 16, 16)])
def test_the_same_agents_work_on_any_grid(shape):
    env, _ = environment()
    agents = Agents(env.agents_config)
    t, h, w = shape
    session = Session(
        Victim(MeanBrightness(torch.ones(()))),
        Canvas(0.45 + 0.1 * torch.rand(2, 3, t, h, w), as_distortion("gaussian_noise"), GRID),
        budget=5,
    )
    other = VideoAttackEnv(session, supply=lambda m: torch.rand(m, 3, t, h, w))
    out = other.rollout(2, TensorDictSequential(agents.spatial, agents.temporal), break_when_any_done=False)
    assert agents.critic(out)["state_value"].shape == (2, out.shape[1], 1, 1)
    assert out["spatial", "log_prob"].isfinite().all()

"""The attack by the agents: a search on one clip that keeps to the rules of every attack."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch
from einops import rearrange
from test_training import OneCell, clips
from torch import Tensor, nn

from vidmarl.agents.checkpoint import fresh, list_agents, load_agents, save_agents
from vidmarl.agents.features import CHANNELS
from vidmarl.agents.networks import Agents, AgentsConfig
from vidmarl.agents.observation import STATE
from vidmarl.agents.order import Grow
from vidmarl.attacks.rl import RLAttack
from vidmarl.attacks.search.restarts import RESTART_SLACK
from vidmarl.errors import UnknownNameError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.queries.goals import Misclassify, Target
from vidmarl.queries.session import Session
from vidmarl.victims.victim import Victim

DEAD = {"class_path": "DeadPixels", "init_args": {"rate": 1.0}}  # has one direction only
FAINT = {"class_path": "Brightness", "init_args": {"shift": 0.05}}  # fools only where the signs are right


def darken(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    """Has one direction only, and each cell an effect of its own."""
    return clips * (1 - strength)


class Weighed(nn.Module):
    """Weighs the brightness of every tubelet, so that many of them matter; counts what it is
    shown."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.randn(4 * 4 * 4, generator=torch.Generator().manual_seed(0))
        self.weights, self.seen = nn.Parameter(weights), 0

    def forward(self, clips: Tensor) -> Tensor:
        self.seen += len(clips)
        cells = rearrange(clips, "b c t (gh h) (gw w) -> b (t gh gw) (c h w)", h=8, w=8).mean(-1)
        # no matrix product, whose last bits depend on how many clips there are
        score = 3 * ((cells * self.weights).sum(1) - 0.5 * self.weights.sum()) + 3
        return torch.stack([score, -score], 1)


class Unmoved(nn.Module):
    """Says the same whatever it is shown."""

    def forward(self, clips: Tensor) -> Tensor:
        return torch.tensor([[2.0, 0.0]]).expand(len(clips), -1)


def team() -> Agents:
    torch.manual_seed(0)
    agents = Agents(AgentsConfig(CHANNELS, len(STATE), width=8, depth=1, longest=16))
    with torch.no_grad():
        for parameter in agents.parameters():  # not flat, as trained agents are not
            parameter += 0.1 * torch.randn_like(parameter)
    return agents


def attack(budget: int = 25, **kwargs) -> RLAttack:
    settings = {"distortion": "brightness", "grid": TubeletGrid(1, 8, 8), "progress": False}
    return RLAttack(team(), budget=budget, **(settings | kwargs))


@pytest.fixture
def bounds(monkeypatch) -> list[float]:
    """The bounds of all rounds after the first, as they begin."""
    begun: list[float] = []
    restart = Grow.restart
    monkeypatch.setattr(Grow, "restart", lambda self, bound: (begun.append(bound), restart(self, bound))[1])
    return begun


# --- settings


def test_it_has_few_settings_and_only_the_agents_are_positional() -> None:
    parameters = inspect.signature(RLAttack).parameters
    assert len(parameters) == 12
    assert [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY] == ["agents"]
    assert {field.name for field in dataclasses.fields(RLAttack)} == set(parameters)


def test_what_the_agents_were_trained_with_holds_unless_something_else_is_given() -> None:
    trained = {"distortion": {"class_path": "DeadPixels", "init_args": {"rate": 0.3}}, "grid": [1, 4, 4]}
    agents = Agents(team().config, trained | {"search_cell": 2, "coherence": "free"})
    made = RLAttack(agents)
    assert made.agents is agents
    assert made.distortion.to_record()["init_args"] == {"rate": 0.3}
    assert (made.grid, made.search_cell, made.coherence) == (TubeletGrid(1, 4, 4), 2, "free")
    given = RLAttack(agents, distortion="glare", grid=TubeletGrid(2, 4, 4), search_cell=3, coherence="flow")
    assert type(given.distortion).__name__ == "Glare"
    assert (given.grid, given.search_cell, given.coherence) == (TubeletGrid(2, 4, 4), 3, "flow")


@pytest.mark.parametrize(("pixels", "search_cell"), [(2, 8), (4, 4), (8, 2), (16, 1), (32, 1)])
def test_on_another_grid_the_cells_keep_their_size(tmp_path, pixels: int, search_cell: int) -> None:
    path, grid = tmp_path / "agents.pt", TubeletGrid(1, pixels, pixels)
    save_agents(path, Agents(team().config, {"grid": [1, 8, 8], "search_cell": 2}))
    assert RLAttack(path, grid=grid).search_cell == search_cell
    assert RLAttack(str(path), grid=grid, search_cell=3).search_cell == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"init": "random"}, "init must be 'clean' or 'alternating'"),
        ({"budget": 0}, "budget must be at least 1"),
    ],
)
def test_settings_are_checked_before_anything_is_asked(wrong, message):
    with pytest.raises(ValueError, match=message):
        attack(**wrong)


def test_params_name_the_agents_or_tell_them_apart():
    assert RLAttack("gaussian_noise").params()["agents"] == "gaussian_noise"
    one, other = attack().params(), attack(budget=26).params()
    assert one["agents"] == other["agents"]
    assert one["agents"].startswith("sha256:")
    assert RLAttack(fresh(team(), seed=1), distortion="brightness").params()["agents"] != one["agents"]
    assert (one["init"], one["search_cell"]) == ("clean", 1)


def test_unknown_agents_are_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean gaussian_noise"):
        RLAttack("gausian_noise")


# --- queries and results


@pytest.mark.thorough
@pytest.mark.parametrize("budget", [1, 2, 25])
def test_queries_are_the_clips_that_reached_the_model(budget):
    victim = Victim(OneCell())
    result = attack(budget)(victim, clips(6))
    assert int(result.queries.sum()) == victim.model.seen
    assert (result.queries <= budget).all()
    assert not result.success.any() or budget > 1


@pytest.mark.thorough
def test_a_success_holds_for_the_clip_as_returned():
    victim = Victim(OneCell())
    result = attack()(victim, clips(6))
    assert result.success.any()
    said = victim(result.adversarial).argmax(1)
    assert torch.equal(said != result.prediction, result.success)
    assert torch.equal((result.adversarial * 255).round() / 255, result.adversarial)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"search_cell": 2, "budget": 100},
        {"distortion": DEAD, "budget": 60},
        {"init": "alternating", "max_queries_after_success": 5},
    ],
)
@pytest.mark.parametrize("model", [OneCell, Weighed])
def test_a_clip_alone_gives_what_it_gives_in_a_batch(model, settings):
    together = attack(**settings)(Victim(model()), clips(5))
    for row in (1, 3):
        alone = attack(**settings)(Victim(model()), clips(5)[row : row + 1])
        assert torch.equal(together.adversarial[row : row + 1], alone.adversarial)
        spent = int(alone.queries)
        assert int(together.queries[row]) == spent
        assert torch.equal(together.history["l2"][row, :spent], alone.history["l2"][0, :spent])


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_result():
    one, other, another = (attack(70, seed=seed)(Victim(Weighed()), clips(2)) for seed in (1, 1, 2))
    assert torch.equal(one.adversarial, other.adversarial)
    assert torch.equal(one.history["l2"].nan_to_num(-1), other.history["l2"].nan_to_num(-1))
    assert not torch.equal(one.history["l2"].nan_to_num(-1), another.history["l2"].nan_to_num(-1))


def test_clips_already_wrong_are_skipped_for_one_query():
    victim = Victim(OneCell())
    wrong = 1 - victim(clips(3)).argmax(1)
    before = victim.model.seen
    result = attack()(victim, clips(3), Misclassify(wrong))
    assert result.skipped.all()
    assert not result.success.any()
    assert victim.model.seen - before == 3
    assert torch.equal(result.adversarial, result.clean)


@pytest.mark.thorough
def test_a_target_is_reached():
    victim = Victim(OneCell())
    target = 1 - victim(clips(4)).argmax(1)
    result = attack(60)(victim, clips(4), Target(target))
    assert result.success.any()
    assert torch.equal(victim(result.adversarial).argmax(1)[result.success], target[result.success])


@pytest.mark.thorough
@pytest.mark.parametrize("limit", [0, 6])
def test_so_many_queries_are_spent_after_the_first_success(limit):
    victim = Victim(OneCell())
    result = attack(60, max_queries_after_success=limit)(victim, clips(6))
    assert int(result.queries.sum()) == victim.model.seen
    first = result.history["margin"].lt(0).int().argmax(1) + 1
    assert result.success.any()
    assert (result.queries <= first + limit)[result.success].all()
    assert (result.queries == first + limit)[result.success].any()


@pytest.mark.thorough
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("model", [OneCell, Weighed, Unmoved])
def test_it_ends_with_any_budget(budget, model):
    for settings in (
        {},
        {"search_cell": 4},
        {"init": "alternating"},
        {"distortion": DEAD},
        {"distortion": DEAD, "init": "alternating"},
    ):
        result = attack(budget, **settings)(Victim(model()), clips(2))
        assert (result.queries <= budget).all()


@pytest.mark.thorough
@pytest.mark.parametrize("init", ["clean", "alternating"])
def test_a_victim_that_is_never_fooled_is_asked_until_the_budget_is_spent(init, bounds):
    result = attack(40, init=init)(Victim(Unmoved()), clips(2))
    assert not result.success.any()
    assert result.queries.tolist() == [40, 40]
    assert all(math.isinf(bound) for bound in bounds), "before a success nothing is too large"


@pytest.mark.thorough
def test_where_there_is_one_tubelet_it_ends_too():
    result = attack(60, search_cell=4)(Victim(OneCell()), clips(2))
    assert result.success.any()
    assert (result.queries <= 60).all()
    single = attack(60, grid=TubeletGrid(4, 32, 32))(Victim(OneCell()), clips(2))
    assert single.strength[0].numel() == 1
    assert (single.queries <= 60).all()


@pytest.mark.thorough
@pytest.mark.parametrize("grey", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("distortion", ["gaussian_blur", "brightness"])
def test_where_the_full_distortion_changes_nothing_it_ends_too(distortion, grey):
    """A blurred clip of one colour stays as it is, and a white one cannot be made brighter."""
    still = torch.full((1, 3, 4, 32, 32), grey)
    result = attack(60, distortion=distortion)(Victim(Weighed()), still)
    assert (result.queries <= 60).all()


# --- from full strength


@pytest.mark.thorough
@pytest.mark.parametrize("distortion", ["brightness", DEAD])
@pytest.mark.parametrize(
    ("grid", "frames"), [(TubeletGrid(1, 8, 8), 4), (TubeletGrid(1, 4, 4), 3), (TubeletGrid(2, 8, 8), 4)]
)
def test_full_strength_that_alternates_is_the_first_thing_asked_and_comes_once(distortion, grid, frames):
    shown: list[Tensor] = []

    class Note(Unmoved):
        def forward(self, clips: Tensor) -> Tensor:
            shown.extend(clips)
            return super().forward(clips)

    clip = clips(1)[:, :, :frames]
    attack(30, distortion=distortion, grid=grid, init="alternating")(Victim(Note()), clip)
    assert len(shown) == 30
    first = shown[1] - shown[0]
    layer = torch.arange(frames) // grid.frames
    if distortion == DEAD:  # in every second layer alone
        assert torch.equal((first != 0).any(0).flatten(1).any(1), layer % 2 == 0)
    else:
        assert torch.equal(first.mean((0, 2, 3)) > 0, layer % 2 == 0)
    assert not any(torch.equal(candidate, shown[1]) for candidate in shown[2:])


@pytest.mark.thorough
@pytest.mark.parametrize(("distortion", "low"), [(FAINT, -1), (darken, 0)])
def test_agents_that_start_from_full_strength_turn_blocks_and_leave_the_rest(monkeypatch, distortion, low):
    """Until a clip is fooled each set is what was kept, with a block at the other end of the range,
    and what raises the margin is taken back."""
    asked = noted(monkeypatch)
    result = attack(40, init="alternating", distortion=distortion)(Victim(Weighed()), clips(6))
    assert result.success.any()
    turned = 0
    for row, maps in asked.items():
        margins = result.history["margin"][row, 1:]
        first = next((i for i, (_, success) in enumerate(maps) if success), len(maps) - 1)
        kept, lowest = maps[0][0], float(margins[0])
        assert kept[0].eq(1).all()
        assert kept[1].eq(low).all()
        for (strength, _), margin in zip(maps[1 : first + 1], margins[1:].tolist(), strict=False):
            block = strength != kept
            assert block.any()
            assert block.sum() < 64 / 4
            assert torch.equal(strength[block], low + 1 - kept[block])
            assert ((strength == 1) | (strength == low)).all()
            if margin <= lowest:
                kept, lowest = strength, margin
            turned += 1
    assert turned > 6, "the case is meant to have several sets"


# --- minimizing, and starting again


def noted(monkeypatch) -> dict[int, list[tuple[Tensor, bool]]]:
    """The strength maps asked about and whether each was a success, by clip."""
    asked: dict[int, list[tuple[Tensor, bool]]] = {}
    query = Session.query

    def note(session, strength, rows):
        response = query(session, strength, rows)
        for row, one, success in zip(rows.tolist(), session.renderer.upsample(strength), response.success, strict=True):
            asked.setdefault(row, []).append((one.clone(), bool(success)))
        return response

    monkeypatch.setattr(Session, "query", note)
    return asked


@pytest.mark.thorough
@pytest.mark.parametrize("distortion", ["brightness", darken])
def test_agents_work_on_search_cells_and_successes_are_minimized_to_tubelets(distortion, monkeypatch):
    asked = noted(monkeypatch)
    victim = Victim(Weighed())
    result = attack(100, search_cell=2, distortion=distortion)(victim, clips(3))
    assert int(result.queries.sum()) == victim.model.seen
    assert result.success.any()
    assert torch.equal(victim(result.adversarial).argmax(1) != result.prediction, result.success)
    for maps in asked.values():
        for strength, success in maps:
            assert constant_on_cells(strength)
            if success:
                break
    assert not all(constant_on_cells(strength) for strength in result.strength)


def constant_on_cells(strength: Tensor) -> bool:
    """Whether each 2 x 2 cell of a map has one strength."""
    cells = rearrange(strength, "t (gh y) (gw x) -> t gh gw (y x)", y=2, x=2)
    return bool((cells == cells[..., :1]).all())


@pytest.mark.thorough
@pytest.mark.parametrize("search_cell", [1, 2])
@pytest.mark.parametrize("distortion", ["brightness", darken])
def test_further_rounds_look_for_no_more_than_a_little_above_the_smallest_success(distortion, search_cell, bounds):
    rounds = []
    for clip in clips(4).split(1):
        bounds.clear()
        result = attack(150, search_cell=search_cell, distortion=distortion)(Victim(Weighed()), clip)
        assert bounds == sorted(bounds, reverse=True)
        rounds.append(1 + len(bounds))
        if bounds:
            wins = result.history["l2"][0][result.history["margin"][0] < 0]
            smallest = float((result.adversarial - result.clean).norm())
            assert bounds[0] <= RESTART_SLACK * wins[0] + 1e-4
            assert smallest == pytest.approx(float(wins.min()), abs=1e-4)
            assert smallest <= bounds[-1]
    assert max(rounds) > 2, "the case is meant to have several rounds"


@pytest.mark.thorough
def test_further_rounds_make_successes_smaller():
    short, long = (attack(budget, search_cell=2)(Victim(Weighed()), clips(6)) for budget in (40, 160))
    both = short.success & long.success
    assert both.sum() >= 4
    sizes = [(r.adversarial - r.clean).flatten(1).norm(dim=1)[both].log().mean() for r in (short, long)]
    assert sizes[1] < sizes[0]


# --- agents


@pytest.mark.thorough
def test_an_untrained_agent_makes_another_attack():
    half = fresh(team(), only=["temporal"])
    settings = {"distortion": "brightness", "grid": TubeletGrid(1, 8, 8), "progress": False, "budget": 20}
    results = [RLAttack(agents, **settings)(Victim(Weighed()), clips(4)) for agents in (team(), half)]
    one, other = (result.history["margin"] for result in results)
    assert one.shape != other.shape or not torch.equal(one.nan_to_num(), other.nan_to_num())


@pytest.mark.thorough
@pytest.mark.parametrize("name", list_agents())
def test_shipped_agents_work_out_of_the_box_on_any_victim(name):
    shipped = RLAttack(name, budget=20, progress=False)
    assert shipped.params()["distortion"]["class_path"].rpartition(".")[0].endswith(name)
    assert shipped.params()["distortion"] == load_agents(name).trained["distortion"]
    result = shipped(Victim(OneCell()), clips(2))
    assert (result.queries <= 20).all()

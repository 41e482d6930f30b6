"""The attack by the agents keeps the same books as every other attack."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from einops import rearrange
from test_training import OneCell, clips
from torch import Tensor, nn

from vidmarl.agents.checkpoint import find_agents, list_pretrained, save_agents
from vidmarl.agents.environment import MAPS, STATE, VideoAttackEnv
from vidmarl.agents.features import CHANNELS
from vidmarl.agents.networks import Agents, AgentsConfig
from vidmarl.attacks.rl import RLAttack
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import to_8bit
from vidmarl.pipeline import make_attack
from vidmarl.queries.goals import Misclassify, Target
from vidmarl.queries.session import SLACK, Session
from vidmarl.victims.victim import Victim

DEAD = {"class_path": "DeadPixels", "init_args": {"rate": 1.0}}  # has one direction only


OPENING = torch.tensor([1.0, 0, 1, 0]).view(4, 1, 1).expand(4, 4, 4)
"""The cells that an opening touches under `DEAD`: those of every second frame."""


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


class Watched(VideoAttackEnv):
    """Checks what holds between the rounds, and remembers when they began."""

    seen: list[Watched]

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.begun = [[1] for _ in range(len(self.session))]
        self.told: list[tuple[Tensor, list[int]]] = []
        self.seen.append(self)

    def again(self, rows):
        for row in rows[self.session.active[rows]].tolist():
            spent = int(self.session.queries[row])
            assert spent > self.begun[row][-1], "a round has asked something"
            self.begun[row].append(spent)
        return super().again(rows)

    def _step(self, tensordict):
        self.told.append((tensordict["state"].clone(), self.running().tolist()))
        out = super()._step(tensordict)
        assert (self.l2 <= self._room)[self.strength.flatten(1).any(1)].all()
        assert (self._room[self._smallest.isfinite()] == SLACK * self._smallest[self._smallest.isfinite()]).all()
        assert (self.session.best_l2 <= self._smallest).all()
        return out


@pytest.fixture(autouse=True)
def watched(monkeypatch) -> list[Watched]:
    """The environments of all attacks of a test."""
    monkeypatch.setattr(Watched, "seen", [], raising=False)
    monkeypatch.setattr("vidmarl.agents.environment.VideoAttackEnv", Watched)
    return Watched.seen


def attack(budget: int = 25, **kwargs) -> RLAttack:
    torch.manual_seed(0)
    agents = Agents(AgentsConfig(CHANNELS, MAPS, len(STATE), width=8, depth=1))
    with torch.no_grad():
        for parameter in agents.parameters():  # not flat, as trained agents are not
            parameter += 0.1 * torch.randn_like(parameter)
    settings = {"distortion": "brightness", "grid": TubeletGrid(1, 8, 8), "progress": False}
    return RLAttack(agents, budget=budget, **(settings | kwargs))


@pytest.mark.parametrize(("pixels", "zoom"), [(2, 8), (4, 4), (8, 2), (16, 1), (32, 1)])
def test_on_another_grid_the_cells_keep_their_size(tmp_path, pixels: int, zoom: int) -> None:
    settings = {"distortion": "brightness", "grid": [1, 8, 8], "zoom": 2}
    save_agents(tmp_path / "agents.pt", attack().agents, settings)
    assert RLAttack.from_checkpoint(tmp_path / "agents.pt", grid=TubeletGrid(1, pixels, pixels)).zoom == zoom
    assert RLAttack.from_checkpoint(tmp_path / "agents.pt", grid=TubeletGrid(1, pixels, pixels), zoom=3).zoom == 3


@pytest.mark.parametrize("budget", [1, 2, 25])
def test_queries_are_the_clips_that_reached_the_model(budget):
    victim = Victim(OneCell())
    result = attack(budget)(victim, clips(6))
    assert int(result.queries.sum()) == victim.model.seen
    assert (result.queries <= budget).all()
    assert not result.success.any() or budget > 1


def test_a_success_holds_for_the_clip_as_returned():
    victim = Victim(OneCell())
    result = attack()(victim, clips(6))
    assert result.success.any()
    said = victim(result.adversarial).argmax(1)
    assert torch.equal(said != result.prediction, result.success)
    assert torch.equal((result.adversarial * 255).round() / 255, result.adversarial)


def test_a_clip_alone_gives_what_it_gives_in_a_batch():
    together, alone = attack()(Victim(OneCell()), clips(5)), attack()(Victim(OneCell()), clips(5)[3:4])
    assert torch.equal(together.adversarial[3:4], alone.adversarial)
    assert torch.equal(together.queries[3:4], alone.queries)


def test_clips_already_wrong_are_skipped_for_one_query():
    victim = Victim(OneCell())
    wrong = 1 - victim(clips(3)).argmax(1)
    before = victim.model.seen
    result = attack()(victim, clips(3), Misclassify(wrong))
    assert result.skipped.all()
    assert not result.success.any()
    assert victim.model.seen - before == 3
    assert torch.equal(result.adversarial, result.clean)


def test_a_target_is_reached():
    victim = Victim(OneCell())
    target = 1 - victim(clips(4)).argmax(1)
    result = attack(60)(victim, clips(4), Target(target))
    assert result.success.any()
    assert torch.equal(victim(result.adversarial).argmax(1)[result.success], target[result.success])


OPENED = {"opening": 1, "step": 2.0, "level": 6}


@pytest.mark.parametrize("distortion", ["brightness", DEAD])
@pytest.mark.parametrize(
    ("grid", "frames"), [(TubeletGrid(1, 8, 8), 4), (TubeletGrid(1, 4, 4), 3), (TubeletGrid(2, 8, 8), 4)]
)
def test_an_opening_is_the_first_thing_asked_and_comes_once(distortion, grid, frames):
    shown: list[Tensor] = []

    class Note(Unmoved):
        def forward(self, clips: Tensor) -> Tensor:
            shown.extend(clips)
            return super().forward(clips)

    clip = clips(1)[:, :, :frames]
    attack(12, distortion=distortion, grid=grid, **OPENED)(Victim(Note()), clip)
    assert len(shown) == 12
    layers = (shown[1] - shown[0]).unsqueeze(0)[:, :, :: grid.frames].flatten(2).abs().amax((0, 1))
    changed = [(candidate != shown[0]).any() for candidate in shown]
    assert layers.max() > 0
    assert changed[1]
    turned = [bool((shown[1] != shown[0])[:, t].any()) for t in range(frames)]
    if distortion == DEAD:  # in every second layer alone
        assert turned == [t // grid.frames % 2 == 0 for t in range(frames)]
    else:
        up = (shown[1] - shown[0]).mean((0, 2, 3)) > 0
        assert up.tolist() == [t // grid.frames % 2 == 0 for t in range(frames)]
    assert not any(torch.equal(candidate, shown[1]) for candidate in shown[2:])


def test_an_opening_does_not_come_to_a_clip_that_is_fooled():
    late = attack(80, **(OPENED | {"opening": 40}))(Victim(OneCell()), clips(6))
    never = attack(80, **(OPENED | {"opening": None}))(Victim(OneCell()), clips(6))
    early = late.history["margin"][:, :40].lt(0).any(1)
    assert early.any()
    assert torch.equal(late.adversarial[early], never.adversarial[early])


def test_with_an_opening_a_clip_alone_gives_what_it_gives_in_a_batch():
    together, alone = (attack(**OPENED, after=5)(Victim(Weighed()), part) for part in (clips(5), clips(5)[3:4]))
    assert torch.equal(together.adversarial[3:4], alone.adversarial)
    assert torch.equal(together.queries[3:4], alone.queries)


class Whole(nn.Module):
    """Says nothing until at least so many of the 4 x 16 cells of a clip have changed; notes what it
    is shown."""

    def __init__(self, clip: Tensor, needed: int) -> None:
        super().__init__()
        self.clip, self.needed = clip, needed
        self.shown: list[Tensor] = []

    def forward(self, clips: Tensor) -> Tensor:
        changed = (clips != self.clip).any(1, keepdim=True).float()
        cells = torch.nn.functional.max_pool3d(changed, (1, 8, 8))
        self.shown += list(cells[:, 0])
        score = torch.where(cells.sum((1, 2, 3, 4)) < self.needed, 1.0, -1.0)
        return torch.stack([score, -score], 1)


def test_a_clip_that_resists_is_asked_about_with_everything_distorted():
    clip = to_8bit(clips(1))
    victim = Whole(clip, 65)  # never
    attack(30, insure=12, distortion=DEAD)(Victim(victim), clip)
    sizes = [int(cells.sum()) for cells in victim.shown]
    assert sizes[12:14] == [32, 64], "in every second layer, then everywhere"
    assert torch.equal(victim.shown[12].flatten(1).amax(1), torch.tensor([1.0, 0, 1, 0]))
    assert 16 < sizes[14] < 48, "then each cell by a coin"
    assert max(sizes[1:12] + sizes[15:]) < 32, "the agents go on with what they had"
    without = Whole(clip, 65)
    attack(30, insure=None, distortion=DEAD)(Victim(without), clip)
    assert all(torch.equal(*pair) for pair in zip(victim.shown[:12], without.shown[:12], strict=True))


def test_the_insurance_ends_with_its_first_success_and_does_not_come_to_a_clip_that_is_fooled():
    clip = to_8bit(clips(1))
    victim = Whole(clip, 33)
    result = attack(40, insure=5, give_up=None, distortion=DEAD)(Victim(victim), clip)
    assert result.success.all()
    assert [int(cells.sum()) for cells in victim.shown[5:7]] == [32, 64]
    assert result.history["margin"][0, 6] < 0
    assert int(victim.shown[7].sum()) < 32
    late = attack(80, insure=40)(Victim(OneCell()), clips(6))
    never = attack(80, insure=None)(Victim(OneCell()), clips(6))
    early = late.history["margin"][:, :40].lt(0).any(1)
    assert early.any()
    assert torch.equal(late.adversarial[early], never.adversarial[early])


def test_what_only_the_insurance_has_fooled_is_made_smaller():
    clip = to_8bit(clips(1))
    results = [
        attack(budget, insure=5, give_up=give_up, distortion=DEAD)(Victim(Whole(clip, 40)), clip)
        for budget, give_up in ((30, None), (200, 20))
    ]
    touched = [int((r.strength != 0).sum()) for r in results]
    assert all(bool(r.success) for r in results)
    assert touched[0] < 60, "beside the agents' search"
    assert touched[1] == 40, "as small as it can be"
    reduction, agents = results[0].history["l2"][0, 8:30].view(-1, 2).T
    assert agents.max() < reduction.min(), "turn and turn about"


def test_after_a_first_success_by_the_insurance_the_clean_up_comes_at_once():
    clip = to_8bit(clips(1))
    result = attack(90, insure=5, after=20, distortion=DEAD)(Victim(Whole(clip, 40)), clip)
    assert int(result.queries) == 27
    assert int((result.strength != 0).sum()) < 64


def test_with_a_small_budget_the_agents_give_up_by_half_of_it():
    clip = to_8bit(clips(1))
    result = attack(60, insure=5, distortion=DEAD)(Victim(Whole(clip, 40)), clip)
    assert int((result.strength != 0).sum()) == 40
    sizes = result.history["l2"][0]
    assert sizes[7:30].max() < sizes[6], "until then they go on by themselves"


def test_without_the_clean_up_the_agents_go_on_after_the_insurance():
    clip = to_8bit(clips(1))
    result = attack(60, insure=5, give_up=20, reduce=False, distortion=DEAD)(Victim(Whole(clip, 40)), clip)
    assert int(result.queries) == 60


def test_a_clip_that_goes_on_resisting_is_insured_again_with_other_coins():
    clip = to_8bit(clips(1))
    victim = Whole(clip, 65)  # never
    attack(50, insure=12, distortion=DEAD)(Victim(victim), clip)
    by_coins = [victim.shown[query] for query in (14, 24, 36, 48)]
    assert all(16 < int(cells.sum()) < 48 for cells in by_coins)
    assert not any(torch.equal(one, other) for one, other in combinations(by_coins, 2))
    small = [int(cells.sum()) for query, cells in enumerate(victim.shown) if query not in (12, 13, 14, 24, 36, 48)]
    assert max(small) < 32, "the agents go on with what they had"


def test_a_temperature_spreads_the_additions():
    """Agents that are sure of one cell name others too at a high temperature, until the clip is
    fooled."""
    certain = torch.zeros(1, 1, 4, 16)
    certain[..., 5] = 20
    flat = torch.zeros(1, 1, 4, 16)
    settings = {"insure": None, "level": 0, "distortion": DEAD}
    tried = {}
    for temperature in (1.0, 50.0):
        team = attack(40, **settings, temperature=temperature)
        team.agents.spatial[0].module.infer = lambda *seen: (certain.expand(len(seen[0]), -1, -1, -1), flat)
        clip = to_8bit(clips(1))
        victim = Whole(clip, 65)
        team(Victim(victim), clip)
        tried[temperature] = int(torch.stack(victim.shown[1:]).amax(0).sum())
    assert tried[50.0] > 1.5 * tried[1.0]


def test_the_insurance_asks_nothing_that_is_known():
    clip = to_8bit(clips(1))
    opened, flat = Whole(clip, 65), Whole(clip[:, :, :1], 65)
    attack(30, insure=12, opening=1, distortion=DEAD)(Victim(opened), clip)
    assert [int(cells.sum()) for cells in opened.shown[1:2] + opened.shown[12:13]] == [32, 64]
    assert sum(torch.equal(cells, opened.shown[1]) for cells in opened.shown) == 1
    attack(30, insure=12, distortion=DEAD)(Victim(flat), clip[:, :, :1])
    assert [int(cells.sum()) == 16 for cells in flat.shown].count(True) == 1


def test_an_opening_comes_even_if_the_insurance_has_fooled():
    clip = to_8bit(clips(1))
    for due in (15, 16):  # the agents have every second query, so it waits for theirs
        victim = Whole(clip, 33)
        attack(30, insure=5, opening=due, give_up=None, distortion=DEAD)(Victim(victim), clip)
        assert [q for q, cells in enumerate(victim.shown) if torch.equal(cells, OPENING)] == [16]


@pytest.mark.parametrize("due", [11, 12, 13, 14, 24])
def test_an_opening_waits_for_the_insurance(due):
    clip = to_8bit(clips(1))
    victim = Whole(clip, 65)  # never
    attack(30, insure=12, opening=due, distortion=DEAD)(Victim(victim), clip)
    asked = [q for q, cells in enumerate(victim.shown) if torch.equal(cells, OPENING)]
    insured = (12, 13, 24)
    assert asked == [min(q for q in range(due, 30) if q not in insured)]


@pytest.mark.parametrize("due", [10, 40])
def test_an_opening_never_comes_in_a_later_round(due):
    clip = to_8bit(clips(1))
    victim = Whole(clip, 6)
    result = attack(80, opening=due, insure=None, distortion=DEAD)(Victim(victim), clip)
    assert result.history["margin"][0, :10].lt(0).any()
    assert not any(torch.equal(cells, OPENING) for cells in victim.shown)


def test_with_the_insurance_a_clip_alone_gives_what_it_gives_in_a_batch():
    settings = {"insure": 4, "give_up": 9}
    together, alone = (attack(40, **settings)(Victim(Weighed()), part) for part in (clips(5), clips(5)[3:4]))
    assert torch.equal(together.adversarial[3:4], alone.adversarial)
    assert torch.equal(together.queries[3:4], alone.queries)


def test_what_the_agents_see_of_a_clip_does_not_depend_on_when_the_rounds_of_others_end(watched):
    """One clip that only the insurance fools, whose success is made smaller meanwhile, among easy
    ones."""

    class Mixed(nn.Module):
        def forward(self, shown: Tensor) -> Tensor:
            hard = shown[:, 2, :, 0, 0].amax(1) > 0.95  # marked by its corner
            cells = torch.nn.functional.max_pool3d((shown == 0).all(1, keepdim=True).float(), (1, 8, 8))
            score = torch.where(cells.sum((1, 2, 3, 4)) < torch.where(hard, 40, 6), 1.0, -1.0)
            return torch.stack([score, -score], 1)

    batch = torch.full((5, 3, 4, 32, 32), 0.5)
    batch += torch.arange(5).view(5, 1, 1, 1, 1) / 100
    batch[0, 2, :, 0, 0] = 1.0
    seen = []
    for part in (batch, batch[:1]):
        attack(60, insure=5, distortion=DEAD)(Victim(Mixed()), part)
        seen.append([state[0] for state, rows in watched[-1].told if 0 in rows])
    assert len(watched[0].begun[1]) > 1, "the rounds of others end"
    assert len(seen[0]) == len(seen[1]) > 10
    assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))


@pytest.mark.parametrize("after", [0, 6])
def test_so_many_queries_are_spent_after_the_first_success(after):
    victim = Victim(OneCell())
    result = attack(60, after=after)(victim, clips(6))
    assert int(result.queries.sum()) == victim.model.seen
    first = result.history["margin"].lt(0).int().argmax(1) + 1
    assert result.success.any()
    assert (result.queries <= first + after)[result.success].all()
    assert (result.queries == first + after)[result.success].any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": 2.5}, "step must lie"),
        ({"opening": 0}, "number of a query"),
        ({"insure": 0}, "insure is the number of a query"),
        ({"give_up": 0}, "give_up is the number of a query"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_settings_of_the_search_are_checked_before_anything_is_asked(wrong, message):
    with pytest.raises(ValueError, match=message):
        attack(**wrong)


def test_without_the_clean_up_it_stops_when_the_agents_find_no_more():
    """The agents' own removals go on after the first success, the shared clean-up is left out."""
    own, cleaned = (attack(60, reduce=reduce, insure=None)(Victim(OneCell()), clips(4)) for reduce in (False, True))
    wins = own.history["margin"] < 0
    assert own.success.any()
    assert (own.queries <= cleaned.queries).all()
    for row in own.success.nonzero().flatten().tolist():
        spent = int(own.queries[row])
        assert torch.equal(own.history["margin"][row, :spent], cleaned.history["margin"][row, :spent])
        size = (own.adversarial - own.clean)[row].norm()
        assert float(size) == pytest.approx(float(own.history["l2"][row][wins[row]].min()), abs=1e-4)
        first = int(wins[row].int().argmax())
        assert (own.history["l2"][row, first:spent] <= own.history["l2"][row, first]).all()


@pytest.mark.parametrize("zoom", [2, 3])
def test_agents_of_large_cells_work_on_a_fine_grid(zoom):
    victim = Victim(OneCell())
    result = attack(60, zoom=zoom, reduce=False)(victim, clips(4))
    assert int(result.queries.sum()) == victim.model.seen
    assert result.success.any()
    assert result.strength.shape == (4, 4, 4, 4)
    blocks = result.strength[:, :, :zoom, :zoom].flatten(2)
    assert blocks.eq(blocks[..., :1]).all()


def test_a_team_with_one_agent_afresh_is_another_attack():
    whole, half = attack(20), attack(20, untrained=["temporal"])
    assert half.describe()["untrained"] == ["temporal"]
    one, other = (a(Victim(Weighed()), clips(4)).history["margin"] for a in (whole, half))
    assert one.shape != other.shape or not torch.equal(one.nan_to_num(), other.nan_to_num())
    with pytest.raises(ValueError, match="temporal"):
        attack(untrained=["critic"])


def test_without_patience_the_agents_take_nothing_away():
    """The attack ends at the first success; what is left is the shared clean-up's."""
    result = attack(60, patience=0, reduce=False, insure=None)(Victim(OneCell()), clips(4))
    first = (result.history["margin"] < 0).int().argmax(1) + 1
    assert result.success.any()
    assert torch.equal(result.queries[result.success], first[result.success])


# --- cells


@pytest.mark.parametrize("distortion", ["brightness", DEAD])
def test_with_cells_of_several_tubelets_the_clean_up_reaches_single_ones(distortion, monkeypatch):
    asked = []
    query = Session.query

    def noted(session, strength, rows):
        response = query(session, strength, rows)
        asked.extend(zip(rows.tolist(), session.renderer.refine(strength), response.success.tolist(), strict=True))
        return response

    monkeypatch.setattr(Session, "query", noted)
    victim = Victim(Weighed())
    result = attack(100, zoom=2, distortion=distortion)(victim, clips(3))
    assert int(result.queries.sum()) == victim.model.seen
    assert result.success.any()
    assert torch.equal(victim(result.adversarial).argmax(1) != result.prediction, result.success)
    for row in range(3):
        for _, strength, success in (entry for entry in asked if entry[0] == row):
            assert constant_on_cells(strength)
            if success:
                break
    assert not all(constant_on_cells(strength) for strength in result.strength)


def constant_on_cells(strength: Tensor) -> bool:
    """Whether each 2 x 2 cell of a map has one strength."""
    cells = rearrange(strength, "t (gh y) (gw x) -> t gh gw (y x)", y=2, x=2)
    return bool((cells == cells[..., :1]).all())


# --- rounds


@pytest.mark.parametrize("zoom", [1, 2])
@pytest.mark.parametrize("distortion", ["brightness", DEAD])
def test_rounds_go_on_and_change_nothing_before_the_second(zoom, distortion, watched):
    """Up to the end of the first clean-up an attack does what it does without rounds; then it goes
    on to better."""
    settings = {"zoom": zoom, "distortion": distortion}
    rounds, one = (attack(110, rounds=on, **settings)(Victim(Weighed()), clips(3)) for on in (True, False))
    assert rounds.success.any()
    assert torch.equal(rounds.success, one.success)
    begun = watched[0].begun
    assert max(len(began) for began in begun) > 1, "the case is meant to have a second round"
    for row in one.success.nonzero().flatten().tolist():
        same = begun[row][1] if len(begun[row]) > 1 else int(rounds.queries[row])
        for key in ("score", "margin", "l2"):
            assert torch.equal(rounds.history[key][row, :same], one.history[key][row, :same]), key
        sizes = rounds.history["l2"][row].masked_fill(~(rounds.history["margin"][row] < 0), torch.inf)
        assert float((rounds.adversarial - rounds.clean)[row].norm()) == pytest.approx(float(sizes.min()), abs=1e-4)
        assert sizes.min() <= sizes[:same].min()


def test_rounds_of_a_clip_alone_are_those_in_a_batch():
    together = attack(100, zoom=2)(Victim(Weighed()), clips(5))
    for row in (1, 4):
        alone = attack(100, zoom=2)(Victim(Weighed()), clips(5)[row : row + 1])
        assert torch.equal(together.adversarial[row : row + 1], alone.adversarial)
        assert torch.equal(together.queries[row : row + 1], alone.queries)
        spent = int(alone.queries)
        assert torch.equal(together.history["l2"][row, :spent], alone.history["l2"][0, :spent])


def test_rounds_are_the_same_for_the_same_seed():
    one, other, another = (attack(70, seed=seed)(Victim(Weighed()), clips(2)) for seed in (1, 1, 2))
    assert torch.equal(one.adversarial, other.adversarial)
    assert torch.equal(one.history["l2"].nan_to_num(-1), other.history["l2"].nan_to_num(-1))
    assert not torch.equal(one.adversarial, another.adversarial)


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("model", [OneCell, Weighed, Unmoved])
def test_rounds_end_with_any_budget(budget, model):
    for settings in ({}, {"zoom": 4}, {"patience": 0}, {"distortion": DEAD}):
        result = attack(budget, **settings)(Victim(model()), clips(2))
        assert (result.queries <= budget).all()


@pytest.mark.parametrize("reduce", [True, False])
def test_a_victim_that_is_never_fooled_is_asked_until_the_budget_is_spent(reduce, watched):
    result = attack(40, reduce=reduce)(Victim(Unmoved()), clips(2))
    assert not result.success.any()
    assert result.queries.tolist() == [40, 40]
    assert watched[0].begun == [[1], [1]], "the first round never gives up"


def test_where_no_cell_could_be_spared_rounds_end_too():
    """What a clip of one tubelet was won with is all there is."""
    result = attack(60, zoom=4)(Victim(OneCell()), clips(2))
    assert result.success.any()
    assert (result.queries <= 60).all()
    single = attack(60, grid=TubeletGrid(4, 32, 32))(Victim(OneCell()), clips(2))
    assert single.strength[0].numel() == 1
    assert (single.queries <= 60).all()


@pytest.mark.parametrize("grey", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("distortion", ["gaussian_blur", "brightness"])
def test_where_the_full_distortion_is_nothing_rounds_end_too(distortion, grey):
    """A blurred clip of one colour stays as it is, and a white one cannot be made brighter."""
    still = torch.full((1, 3, 4, 32, 32), grey)
    result = attack(60, distortion=distortion)(Victim(Weighed()), still)
    assert (result.queries <= 60).all()


@pytest.mark.parametrize("name", list_pretrained())
def test_shipped_agents_work_out_of_the_box_on_any_victim(name):
    shipped = RLAttack.from_pretrained(name, budget=20, progress=False)
    assert shipped.describe()["distortion"]["class_path"].rpartition(".")[0].endswith(name)
    assert find_agents(name).stat().st_size < 1_000_000
    result = shipped(Victim(OneCell()), clips(2))
    assert (result.queries <= 20).all()


def test_shipped_agents_are_taken_for_their_distortion():
    assert {"dead_pixels", "gaussian_blur", "gaussian_noise"} <= set(list_pretrained())
    made = make_attack("rl", distortion="dead_pixels", budget=5)
    assert isinstance(made, RLAttack)
    wanted = RLAttack.from_pretrained("dead_pixels").agents.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in made.agents.state_dict().items())
    with pytest.raises(ValueError, match="none ship with vidmarl for the distortion 'glare'"):
        make_attack("rl", distortion="glare")

"""What every attack promises, then what each of them promises alone.

The tables hold no names: an attack that is added is in them, as far as what it says of itself
allows (`BallAttack`, `batch_independent`). `vidmarl.testing.check_attack` has the promises that any
user may check.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from known_victims import GREY, GRID, ONE_SIDED, SHAPE, SIGNED, Conjunction, Constant, Counted, Linear
from torch import Tensor, nn

import vidmarl.attacks
from vidmarl import Misclassify, Target, TubeletGrid, Victim, metrics
from vidmarl.attacks import Attack, AttackResult, as_attack, list_attacks
from vidmarl.attacks.greedy_sensitivity import probe_parts
from vidmarl.attacks.grow_and_reduce import GrowAndReduce, doubling
from vidmarl.attacks.search.linf_ball import BallAttack
from vidmarl.attacks.search.restarts import RESTART_SLACK, Find, RestartAttack
from vidmarl.attacks.square_tubes import SquareTubes, set_box
from vidmarl.distortions.gaussian_blur import GaussianBlur
from vidmarl.errors import ClipError, SettingsError, UnknownNameError, VictimError
from vidmarl.metrics import visible_difference
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Search
from vidmarl.queries.session import Session

MADE = {name: as_attack(name) for name in list_attacks()}
NAMES = [name for name, attack in MADE.items() if attack.batch_independent and not isinstance(attack, BallAttack)]
"""Attacks with any distortion, on one clip as on many."""

each_attack = pytest.mark.parametrize("name", NAMES)
each_control = pytest.mark.parametrize(
    "name", ["grow_and_reduce", "random_cells", "square_tubes", "signed_blocks", "greedy_sensitivity"]
)
each_restart_attack = pytest.mark.parametrize(
    "name", [name for name, attack in MADE.items() if isinstance(attack, RestartAttack)]
)
each_direction = pytest.mark.parametrize("distortion", [SIGNED, ONE_SIDED], ids=["signed", "one-sided"])


@pytest.fixture
def clips() -> Tensor:
    """Six clips of random brightness per tubelet."""
    cells = torch.rand(6, 3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    return cells.repeat_interleave(8, 3).repeat_interleave(8, 4)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor, bool]]:
    """The strength maps that victims are asked about: the clip, the map, whether it fools."""
    seen: list[tuple[int, Tensor, bool]] = []
    query = Session.query

    def noted(session: Session, strength: Tensor, rows: Tensor) -> Any:
        response = query(session, strength, rows)
        seen.extend(zip(rows.tolist(), session.renderer.upsample(strength), response.success.tolist(), strict=True))
        return response

    monkeypatch.setattr(Session, "query", noted)
    return seen


def make(name: str, distortion: Any = SIGNED, **kwargs: Any) -> Attack:
    return as_attack(name, **{"distortion": distortion, "budget": 40, "grid": GRID, "progress": False} | kwargs)


def assert_same(one: AttackResult, other: AttackResult) -> None:
    for name in ("success", "skipped", "queries", "clean", "adversarial", "strength", "classes", "prediction"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for key, values in one.history.items():
        torch.testing.assert_close(values, other.history[key], rtol=1e-5, atol=1e-5, equal_nan=True)


def uncounted(result: AttackResult) -> int:
    """The probes of a bound that say they are not in any clip's budget."""
    return len(result) * int(result.settings.get("uncounted_probes_per_clip", 0))


# Every attack


@pytest.mark.thorough
@each_attack
@each_direction
def test_every_query_is_counted_and_a_success_is_one(name: str, distortion: Any, clips: Tensor) -> None:
    counted = Counted(Linear(), batch_size=4)
    result = make(name, distortion)(counted.victim, clips)
    assert counted.seen == counted.victim.queries == result.queries.sum() + uncounted(result)
    assert (result.queries <= 40).all()
    assert torch.equal(result.success, counted.victim(result.adversarial).argmax(1) != result.classes)
    assert torch.equal(result.adversarial, (result.adversarial * 255).round() / 255)


@pytest.mark.parametrize("name", list_attacks())
def test_params_are_plain_and_hold_every_setting(name: str) -> None:
    attack = as_attack(name, budget=7, seed=5)
    params = attack.params()
    assert json.loads(json.dumps(params)) == params
    settings = {field.name for field in dataclasses.fields(attack)} - {"clips_at_once", "progress"}
    assert settings <= params.keys(), "but those that change no result"
    assert params["attack"] == type(attack).__name__
    assert (params["budget"], params["seed"], params["grid"]) == (7, 5, list(dataclasses.astuple(attack.grid)))


@pytest.mark.thorough
@each_attack
@pytest.mark.parametrize("shape", [(1, 3, 1, 8, 8), (2, 3, 5, 20, 33)], ids=["one-tubelet", "ragged"])
@each_direction
def test_any_grid(name: str, shape: tuple[int, ...], distortion: Any) -> None:
    seen = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    counted = Counted(Constant())
    result = make(name, distortion, budget=15)(counted.victim, seen)
    assert counted.seen == result.queries.sum() + uncounted(result)
    assert result.strength.shape[1:] == GRID.shape(seen)
    assert not result.success.any()


@pytest.mark.thorough
@each_attack
@each_direction
def test_a_search_works_with_cells_until_the_first_success(
    name: str, distortion: Any, clips: Tensor, asked: list[tuple[int, Tensor, bool]]
) -> None:
    result = make(name, distortion, search_cell=2, budget=60)(Victim(Linear()), clips)
    assert result.strength.shape[1:] == SHAPE, "tubelets all the same"
    assert result.settings["search_cell"] == 2
    for row in range(len(clips)):
        for _, strength, success in (entry for entry in asked if entry[0] == row):
            assert constant_on_cells(strength)
            if success:
                break


def constant_on_cells(strength: Tensor) -> bool:
    """Whether each 2 x 2 cell of a map has one strength."""
    cells = rearrange(strength, "t (gh y) (gw x) -> t gh gw (y x)", y=2, x=2)
    return bool((cells == cells[..., :1]).all())


@pytest.mark.thorough
@each_attack
def test_a_finished_session_is_not_asked_about_again(name: str, clips: Tensor) -> None:
    victim = Victim(Linear())
    attack = make(name)
    session = Session(victim, Renderer(clips, attack.distortion, GRID), budget=40)
    session.finish(torch.tensor([2]))
    for rows in attack.run(session):
        assert 2 not in rows
    assert (session.finished | (session.query_budget.left == 0)).all()
    before = victim.queries
    assert list(attack.run(session)) == []
    assert victim.queries == before


@pytest.mark.thorough
@each_control
@each_direction
def test_the_controls_fool_an_easy_victim(name: str, distortion: Any, clips: Tensor) -> None:
    victim = Victim(Linear())
    assert make(name, distortion)(victim, clips).success.float().mean() > 0.5
    wanted = victim(clips).topk(2).indices[:, 1]  # the runner-up: in reach
    result = make(name, distortion, budget=80)(victim, clips, Target(wanted))
    assert torch.equal(result.classes, wanted)
    assert torch.equal(result.success, victim(result.adversarial).argmax(1) == wanted)
    assert result.success.any()
    assert result.settings["targeted"]


@pytest.mark.thorough
@each_control
def test_the_controls_clean_up_down_to_single_tubelets(name: str, clips: Tensor) -> None:
    result = make(name, search_cell=2, budget=60)(Victim(Linear()), clips)
    assert not all(constant_on_cells(strength) for strength in result.strength[result.success])


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["grow_and_reduce", "random_cells", "square_tubes"])
def test_another_seed_another_search(name: str, clips: Tensor) -> None:
    one, other = (make(name, seed=seed)(Victim(Linear()), clips) for seed in (0, 1))
    assert not torch.equal(one.strength, other.strength)


# What an attack does with clips, goals and victims, whichever attack it is


@pytest.mark.thorough
def test_unrounded_clips_are_rounded_first(clips: Tensor) -> None:
    rounded = (clips * 255).round() / 255
    assert not torch.equal(rounded, clips)
    result = make("grow_and_reduce")(Victim(Linear()), clips)
    assert torch.equal(result.clean, rounded)
    assert_same(result, make("grow_and_reduce")(Victim(Linear()), rounded))


@pytest.mark.thorough
def test_history(clips: Tensor) -> None:
    victim = Victim(Linear())
    result = make("grow_and_reduce")(victim, clips)
    clean = victim(result.clean)
    own = clean.gather(1, result.classes[:, None]).squeeze(1)
    margin = Misclassify(result.classes).margin(clean, torch.arange(6))
    torch.testing.assert_close(result.history["score"][:, 0], own)
    torch.testing.assert_close(result.history["margin"][:, 0], margin)
    assert (result.history["l2"][:, 0] == 0).all()
    assert torch.equal(result.success, (result.history["margin"].nan_to_num(1) < 0).any(1))


def test_failure_returns_the_nearest_candidate(clips: Tensor) -> None:
    victim = Victim(Constant())
    result = make("grow_and_reduce", ONE_SIDED)(victim, clips)
    assert not result.success.any()
    margin = Misclassify(result.classes).margin(victim(result.adversarial), torch.arange(len(clips)))
    lowest = result.history["margin"].nan_to_num(torch.inf).amin(1)
    torch.testing.assert_close(margin, lowest)
    assert (lowest < result.history["margin"][:, 0]).all()


@pytest.mark.thorough
@pytest.mark.parametrize("after", [0, 3])
def test_so_many_queries_are_spent_after_the_first_success(after: int, clips: Tensor) -> None:
    whole, cut = (
        make("grow_and_reduce", max_queries_after_success=most)(Victim(Linear()), clips) for most in (None, after)
    )
    first = (cut.history["margin"] < 0).long().argmax(1) + 1
    assert cut.success.any()
    assert torch.equal(cut.success, whole.success)
    assert torch.equal(cut.queries[cut.success], whole.queries.minimum(first + after)[cut.success])
    for one, other, queries in zip(cut.history["margin"], whole.history["margin"], cut.queries, strict=True):
        torch.testing.assert_close(one[:queries], other[:queries])  # cut short, and otherwise the same


def quality(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Stands for ColorVideoVDP: the smaller, the better."""
    return 10 - metrics.l2(clean, adversarial)


@pytest.mark.thorough
def test_a_clip_is_done_once_people_hardly_see_its_success(clips: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visible_difference, "jod", quality)
    whole = make("grow_and_reduce")(Victim(Linear()), clips)
    wanted = float(quality(whole.clean, whole.adversarial)[whole.success].median())
    cut = make("grow_and_reduce", stop_at_jod=wanted)(Victim(Linear()), clips)
    good = quality(cut.clean, cut.adversarial) >= wanted
    assert torch.equal(cut.success, whole.success)
    assert 0 < (cut.queries < whole.queries).sum() < len(clips)
    assert good[cut.queries < whole.queries].all()
    for one, other, queries in zip(cut.history["margin"], whole.history["margin"], cut.queries, strict=True):
        torch.testing.assert_close(one[:queries], other[:queries])  # cut short, and otherwise the same
    assert cut.settings["stop_at_jod"] == wanted


def test_a_quality_that_cannot_be_measured_or_reached_is_refused_before_any_query(
    clips: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = Victim(Linear())
    monkeypatch.setattr(visible_difference, "jod", lambda *_: None)
    with pytest.raises(SettingsError, match=r"pip install 'vidmarl\[perceptual\]'"):
        make("grow_and_reduce", stop_at_jod=9.0)(victim, clips)
    assert victim.queries == 0
    with pytest.raises(ValueError, match=r"stop_at_jod must be at most 10, .* got 11"):
        make("grow_and_reduce", stop_at_jod=11.0)


def test_large_cells_are_a_coarse_grid_until_the_first_success(clips: Tensor) -> None:
    cells, grid = (
        make("grow_and_reduce", ONE_SIDED, max_queries_after_success=0, **settings)(Victim(Linear()), clips)
        for settings in ({"search_cell": 2}, {"grid": TubeletGrid(1, 16, 16)})
    )
    assert torch.equal(cells.adversarial, grid.adversarial)
    assert torch.equal(cells.queries, grid.queries)


def test_a_victim_that_raises_in_the_middle(clips: Tensor) -> None:
    model = Linear()
    counted = Counted(model, batch_size=4)

    def fail(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if counted.seen > 20:
            raise RuntimeError("out of memory")

    model.register_forward_pre_hook(fail)
    with pytest.raises(VictimError, match="RuntimeError: out of memory"):
        make("grow_and_reduce")(counted.victim, clips)
    assert counted.victim.queries == counted.seen > 20


@pytest.mark.parametrize("after", [0, 12])
def test_nan_scores(after: int, clips: Tensor) -> None:
    model = Linear()
    counted = Counted(model)
    model.register_forward_hook(lambda model, inputs, scores: scores * torch.nan if counted.seen > after else scores)
    with pytest.raises(VictimError, match="NaN"):
        make("grow_and_reduce")(counted.victim, clips)
    assert counted.victim.queries == counted.seen


def test_unusable_arguments(clips: Tensor) -> None:
    attack, counted = make("grow_and_reduce"), Counted(Linear())
    with pytest.raises(ClipError, match="float clips"):
        attack(counted.victim, (clips * 255).to(torch.uint8))
    with pytest.raises(ClipError, match=r"in \[0, 1\]"):
        attack(counted.victim, clips * 255)
    with pytest.raises(ValueError, match="one class for each of the 6 clips, got 2"):
        attack(counted.victim, clips, Target([0, 1]))
    with pytest.raises(TypeError, match="Wrap it"):
        attack(counted.victim.model, clips)  # type: ignore[arg-type]
    assert counted.seen == 0
    with pytest.raises(ValueError, match="classes 0 to 3"):
        attack(counted.victim, clips, Target([0, 1, 2, 3, 4, 0]))


# Settings


class Flicker(Attack):
    """An attack of one's own: every so many frames are distorted.

    Args:
        period: every how many frames.
        level: how strongly.
    """

    period: int = 2
    level: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.period < 1:
            raise ValueError(f"Flicker: period must be at least 1, got {self.period}.")

    def search(self, clip: ClipView) -> Search:
        strength = clip.zeros()
        strength[:: self.period] = self.level
        yield strength


def test_annotated_attributes_are_settings(clips: Tensor) -> None:
    attack = Flicker(ONE_SIDED, period=1, level=0.5, grid=GRID, progress=False)
    result = attack(Victim(Constant()), clips)
    assert (result.strength == 0.5).all()
    assert (result.queries == 2).all()
    assert result.settings["period"] == attack.params()["period"] == 1
    assert Flicker().period == 2
    assert dataclasses.replace(attack, period=3).params() == attack.params() | {"period": 3}
    assert attack.period == 1
    by_path = as_attack({"class_path": f"{__name__}.Flicker", "init_args": {"period": 3}}, level=0.1)
    assert by_path.params() == as_attack(Flicker, period=3, level=0.1).params()
    with pytest.raises(ValueError, match="Flicker: period must be at least 1, got 0"):
        Flicker(period=0)


def test_a_plain_attribute_is_another_default() -> None:
    class Slow(Flicker):
        period = 5
        budget = 50
        distortion = "gaussian_blur"
        batch_independent = False

    assert (Slow().period, Slow(period=4).period) == (5, 4)
    assert (Slow().budget, Slow(budget=9).budget) == (50, 9)
    assert isinstance(Slow().distortion, GaussianBlur)
    assert Slow(ONE_SIDED).distortion is ONE_SIDED, "still the first without a name"
    assert Flicker().budget == 200
    assert not Slow().batch_independent
    assert "batch_independent" not in Slow().params(), "it is no setting"


def test_settings_have_names_and_only_the_distortion_may_come_without() -> None:
    assert isinstance(Flicker("gaussian_blur").distortion, GaussianBlur)
    assert Flicker(distortion="gaussian_blur").params() == Flicker("gaussian_blur").params()
    with pytest.raises(SettingsError, match=r"at most 1 settings? without a name \(distortion\).*period"):
        Flicker("gaussian_blur", 50)  # type: ignore[misc]
    signature = inspect.signature(Flicker)
    by_name = {name for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert by_name == signature.parameters.keys() - {"distortion"}
    assert {"period", "level", "budget", "seed"} <= by_name


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("perod", "period"), ("budgte", "budget"), ("search_cells", "search_cell")]
)
def test_a_setting_that_does_not_exist_is_answered_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=f"Flicker: there is no setting '{wrong}'; did you mean {nearest}"):
        Flicker(**{wrong: 3})  # type: ignore[arg-type]


def test_an_attack_shows_its_settings() -> None:
    shown = repr(Flicker("gaussian_blur", period=7))
    assert shown.startswith("Flicker(")
    assert all(part in shown for part in ("GaussianBlur(sigma=2.0)", "period=7", "level=1.0", "budget=200", "seed=0"))


@pytest.mark.parametrize("setting", ["budget", "clips_at_once", "max_queries_after_success"])
def test_numbers_out_of_range(setting: str) -> None:
    with pytest.raises(ValueError, match=rf"GrowAndReduce: {setting} must be at least [01], got -3"):
        make("grow_and_reduce", **{setting: -3})


def test_no_budget_and_no_cell() -> None:
    with pytest.raises(ValueError, match="budget must be at least 1, got 0"):
        make("grow_and_reduce", budget=0)
    with pytest.raises(ValueError, match="search_cell=0"):
        make("grow_and_reduce", search_cell=0)


def test_a_grid_may_be_plain_data() -> None:
    assert GrowAndReduce(grid={"frames": 2, "height": 4, "width": 8}).grid == TubeletGrid(2, 4, 8)  # type: ignore[arg-type]


def test_an_attack_without_a_search_says_so(clips: Tensor) -> None:
    class Nothing(Attack):
        pass

    with pytest.raises(TypeError, match="Nothing has neither `run` nor `search`"):
        Nothing(progress=False)(Victim(Constant()), clips)


# Names


def test_names() -> None:
    assert {"random_cells", "greedy_sensitivity", "grow_and_reduce", "square_tubes"} <= set(list_attacks())
    for attack in MADE.values():
        kind = type(attack)
        assert as_attack(kind.__name__).params() == attack.params()
        assert getattr(vidmarl.attacks, kind.__name__) is kind


def test_as_attack_takes_all_kinds_of_names() -> None:
    wanted = SquareTubes(budget=9, p=0.5)
    assert as_attack(wanted) is wanted
    for thing in (SquareTubes, "square_tubes", "vidmarl.attacks.square_tubes.SquareTubes"):
        assert as_attack(thing, budget=9, p=0.5).params() == wanted.params()
    described = {"class_path": "vidmarl.attacks.SquareTubes", "init_args": {"budget": 4, "p": 0.5}}
    assert as_attack(described, budget=9).params() == wanted.params()
    assert described["init_args"] == {"budget": 4, "p": 0.5}


@pytest.mark.parametrize(
    "name", ["square_tube", "SquareTube", "base", "reduce", "no.such.Attack", "vidmarl.attacks.X", ""]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(UnknownNameError, match="attack"):
        as_attack(name)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean square_tubes"):
        as_attack("square_tube")
    with pytest.raises(AttributeError, match="SquareTube"):
        vidmarl.attacks.SquareTube  # noqa: B018


@pytest.mark.parametrize(
    "thing", [3, None, Victim, "vidmarl.victims.victim.Victim", {"init_args": {}}, {"class_path": "x", "y": 1}]
)
def test_what_is_no_attack(thing: Any) -> None:
    with pytest.raises(TypeError, match="Making an attack: expected"):
        as_attack(thing)


def test_a_made_attack_takes_no_arguments() -> None:
    with pytest.raises(TypeError, match="made already"):
        as_attack(SquareTubes(), budget=3)


@pytest.mark.parametrize(("name", "wrong"), [("random_cells", {"block": 0}), ("square_tubes", {"p": 0.0})])
def test_wrong_parameters(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"got 0"):
        as_attack(name, **wrong)


# Restarts


class Everywhere(RestartAttack):
    """Distorts everything, as strongly as a list says, and notes what it may not exceed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.strengths = [0.5, 0.9, 0.3, 0.01, 0.6]
        self.bounds: list[float] = []
        self.found: list[float] = []

    def find(self, clip: ClipView, bound: float) -> Find:
        if not self.strengths:
            return None
        self.bounds.append(bound)
        strength = torch.full(clip.shape, self.strengths.pop(0))
        response = yield strength
        self.found.append(float(response.l2) if response.success else math.inf)
        return (strength, float(response.l2)) if response.success else None


@pytest.mark.thorough
@each_restart_attack
def test_restarts_spend_the_budget(name: str, clips: Tensor) -> None:
    result = make(name, budget=150)(Victim(Linear()), clips)
    assert (result.queries == 150).all()


@pytest.mark.thorough
def test_a_restart_is_told_what_it_may_not_exceed() -> None:
    """A bit more than the smallest success that a search before it has found."""
    attack = Everywhere(ONE_SIDED, grid=GRID, budget=900, progress=False)

    def model(clips: Tensor) -> Tensor:
        mean = (GREY - clips).flatten(1).mean(1)
        return torch.stack([torch.full_like(mean, 0.05), mean], 1)

    assert attack(Victim(model), GREY).success.all()
    half, most, little, _, middle = attack.found
    assert little < half < middle < most
    assert math.inf in attack.found, "the case is meant to have a failure"
    assert attack.bounds == [math.inf, *(RESTART_SLACK * least for least in (half, half, little, little))]


def test_a_success_is_minimized_before_the_next_one_is_looked_for() -> None:
    attack = Everywhere(ONE_SIDED, grid=GRID, budget=900, progress=False)
    result = attack(Victim(Conjunction({5, 30})), GREY)
    assert result.strength.flatten().nonzero().flatten().tolist() == [5, 30]
    l2 = result.history["l2"][0]
    began = [int((l2 == found).nonzero()[0]) for found in attack.found if found < math.inf]
    assert began == sorted(began)
    assert all(later - before > 20 for before, later in pairwise(began))


def test_restarts_end_where_nothing_is_asked() -> None:
    class Silent(RestartAttack):
        def find(self, clip: ClipView, bound: float) -> Find:
            yield from ()
            return None

    assert Silent(ONE_SIDED, grid=GRID, progress=False)(Victim(Constant()), GREY).queries.tolist() == [1]


@pytest.mark.thorough
def test_a_restart_ends_where_it_would_be_larger() -> None:
    """Three certain tubelets fool. After a success with many more, no set is more than a query too
    large."""
    needed = {3, 17, 40}
    result = make("grow_and_reduce", ONE_SIDED, budget=300)(Victim(Conjunction(needed)), GREY)
    assert result.success.all()
    fooled = (result.history["margin"][0] < 0).nonzero().flatten()
    first = float(result.history["l2"][0, fooled[0]])
    later = result.history["l2"][0, int(fooled[0]) + 1 :]
    assert (later[~later.isnan()] <= 2 * RESTART_SLACK * first).all(), "a set that is too large is not doubled again"


# The attacks one by one


def candidates_of(name: str, model: nn.Module, distortion: Any, **kwargs: Any) -> list[Tensor]:
    """The strength maps that an attack asks about, in order."""
    attack = make(name, distortion, max_queries_after_success=0, **kwargs)
    asked: list[Tensor] = []

    def note(clips: Tensor) -> Tensor:
        cells = rearrange(clips - GREY, "b c t (gh h) (gw w) -> b t gh gw (c h w)", h=8, w=8)
        asked.extend(cells.mean(-1))
        return model(clips)

    attack(Victim(note), GREY)
    return asked[1:]


@given(end=st.integers(1, 5000))
def test_growing(end: int) -> None:
    counts = doubling(end)
    assert counts[0] == 1
    assert counts[-1] == end
    assert all(a < b <= 2 * a for a, b in pairwise(counts))


def test_grow_doubles_one_order_then_begins_another() -> None:
    asked = candidates_of("grow_and_reduce", Constant(), SIGNED, budget=1 + 7 + 7)
    counts = [int(a.count_nonzero()) for a in asked]
    assert counts == [1, 2, 4, 8, 16, 32, 48] * 2
    for half in (asked[:7], asked[7:]):
        for few, more in pairwise(half):
            assert torch.equal(more[few != 0], few[few != 0])
    assert not torch.equal(asked[5], asked[12])
    assert {-1, 1} == set(asked[6].sign().flatten().tolist())


def test_the_first_set_may_be_larger() -> None:
    asked = candidates_of("grow_and_reduce", Constant(), ONE_SIDED, start=3, budget=1 + 5)
    assert [int(a.count_nonzero()) for a in asked] == [3, 6, 12, 24, 48]
    with pytest.raises(ValueError, match="GrowAndReduce: start must be at least 1 search cell, got 0"):
        make("grow_and_reduce", start=0)


def test_random_cells_adds_blocks() -> None:
    asked = candidates_of("random_cells", Constant(), ONE_SIDED, block=20, budget=1 + 3 + 3)
    assert [int(a.count_nonzero()) for a in asked] == [20, 40, 48] * 2
    asked = candidates_of("random_cells", Constant(), ONE_SIDED, budget=16)
    assert [int(a.count_nonzero()) for a in asked[:8]] == [6, 12, 18, 24, 30, 36, 42, 48]


@given(t=st.integers(1, 5), gh=st.integers(1, 5), gw=st.integers(1, 5), probes=st.integers(0, 130))
@settings(max_examples=60)
def test_probes_fit_and_cover(t: int, gh: int, gw: int, probes: int) -> None:
    parts = probe_parts((t, gh, gw), probes)
    assert len(parts) <= probes
    if probes >= 2:
        covered = torch.stack(parts).sum(0)
        assert (covered == (1 if t * gh * gw <= probes else 2)).all()
    assert len(parts) <= t * gh * gw or probes < t * gh * gw


def test_greedy_probes_cells_where_they_fit_and_takes_the_best_first() -> None:
    best = {5: 0.9, 17: 0.8, 30: 0.7}

    def model(clips: Tensor) -> Tensor:
        cells = rearrange(clips - GREY, "b c t (gh h) (gw w) -> b (t gh gw) (c h w)", h=8, w=8).mean(-1)
        gain = sum(weight * -cells[:, cell] for cell, weight in best.items())
        return torch.stack([torch.full_like(gain, 0.6), gain], 1)

    asked = candidates_of("greedy_sensitivity", model, ONE_SIDED, budget=120)  # type: ignore[arg-type]
    assert [int(a.count_nonzero()) for a in asked[:48]] == [1] * 48
    assert [sorted(a.flatten().nonzero().flatten().tolist()) for a in asked[48:50]] == [[5], [5, 17]]


def test_greedy_finds_directions_and_places_from_columns_and_frames() -> None:
    """On an additive linear victim the additive estimate is exact, signs included."""
    generator = torch.Generator().manual_seed(0)
    where, when = torch.randn(4, 4, generator=generator), torch.randn(3, 1, 1, generator=generator)
    effect = where + when

    def model(clips: Tensor) -> Tensor:
        cells = rearrange(clips - GREY, "b c t (gh h) (gw w) -> b t gh gw (c h w)", h=8, w=8).mean(-1)
        gain = (cells * effect).flatten(1).sum(1)
        return torch.stack([torch.full_like(gain, 1e3), gain], 1)

    asked = candidates_of("greedy_sensitivity", model, SIGNED, budget=46)  # type: ignore[arg-type]
    assert len(asked) == 3 + 16 + len(doubling(48)), "ends where nothing is left to try"
    full = asked[-1]
    assert (full != 0).all()
    sure = effect.abs() > 0.05
    assert torch.equal(full.sign()[sure], effect.sign()[sure])
    best = asked[-len(doubling(48))].flatten().nonzero().item()
    assert effect.abs().flatten()[best] > 0.98 * effect.abs().max()


def test_square_starts_with_stripes_and_keeps_what_helps() -> None:
    asked = candidates_of("square_tubes", Constant(), SIGNED, budget=60)
    assert torch.equal(asked[0], asked[0][:1, :1].expand(SHAPE))
    margins = [float(a.sum()) for a in asked]  # the victim above falls with the brightness
    kept, lowest = asked[0], margins[0]
    for candidate, margin in zip(asked[1:], margins[1:], strict=True):
        changed = (candidate - kept).nonzero()
        assert len(changed) > 0
        box = tuple(slice(int(a), int(b) + 1) for a, b in zip(changed.amin(0), changed.amax(0), strict=True))
        assert candidate[box].unique().numel() <= 2
        if margin < lowest - 1e-4:
            kept, lowest = candidate, margin
    assert lowest < margins[0]


def test_square_boxes_shrink_by_the_schedule_of_the_paper() -> None:
    attack = SquareTubes(budget=10_000, p=0.8)
    sizes = [attack._fraction(i) for i in (1, 10, 11, 51, 201, 1001, 2001, 4001, 6001, 8001, 9999)]
    assert sizes == [0.8, 0.8, *(0.8 / 2**k for k in range(1, 9)), 0.8 / 2**8]
    assert SquareTubes(budget=100, p=0.8)._fraction(50) == attack._fraction(5000)


@given(fraction=st.floats(1e-4, 1), seed=st.integers(0, 99), level=st.sampled_from([-1.0, 1.0]))
@settings(max_examples=50)
def test_boxes_change_something_and_only_to_extremes(fraction: float, seed: int, level: float) -> None:
    before = torch.full((4, 6, 5), level)
    after = set_box(before, fraction, torch.tensor([-1.0, 1.0]), torch.Generator().manual_seed(seed))
    assert (before == level).all(), "the map itself is left alone"
    changed = after != before
    assert changed.any()
    assert (after[changed] == -level).all()
    assert changed.float().mean() <= max(fraction * 2.5, 1 / 8)


@pytest.mark.parametrize("grid", [8, (1, 8, 8), [1, 8, 8], {"height": 8, "width": 8}, TubeletGrid(1, 8, 8)])
def test_a_grid_is_given_as_one_number_as_three_or_by_name(grid: Any) -> None:
    attack = as_attack("grow_and_reduce", grid=grid)
    assert attack.grid == TubeletGrid(1, 8, 8)
    settings = attack.params()
    assert as_attack(settings.pop("attack"), **settings).params() == attack.params()


@pytest.mark.parametrize("grid", ["8", 8.0, (8, 8), None, True])
def test_anything_else_is_no_grid(grid: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="grid"):
        as_attack("grow_and_reduce", grid=grid)

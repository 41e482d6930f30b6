"""What every attack promises, driven by one table; then what each of them promises alone."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import vidmarl.attacks
from vidmarl import Misclassify, Target, TubeletGrid, Victim
from vidmarl.attacks import Attack, AttackResult, as_attack, list_attacks
from vidmarl.attacks.greedy_sensitivity import probe_parts
from vidmarl.attacks.grow_and_reduce import growing
from vidmarl.attacks.search.linf_ball import BallAttack
from vidmarl.attacks.search.minimize import reduce
from vidmarl.attacks.search.restarts import RoundsAttack
from vidmarl.attacks.square_tubes import SquareTubes, set_box
from vidmarl.distortions.base import FunctionDistortion
from vidmarl.errors import ClipError, UnknownNameError, VictimError
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.session import SLACK, Session

GRID = TubeletGrid(frames=1, height=8, width=8)
SHAPE = (3, 4, 4)  # tubelets of the clips below
CLIP = (3, 3, 32, 32)  # c t h w
ALONE = {  # with tests of their own
    "rl",  # has agents to load
    "sensitivity_order",  # a bound: its probes are not counted
    "stde",  # replaces pixels, whatever the distortion
}
NAMES = [  # attacks on pixels in a ball have theirs too
    name for name in list_attacks() if name not in ALONE and not isinstance(as_attack(name), BallAttack)
]
SIGNED = FunctionDistortion(lambda clips, strength, noise: clips + 0.2 * strength, signed=True)
ONE_SIDED = FunctionDistortion(lambda clips, strength, noise: clips - 0.3 * strength)

each_attack = pytest.mark.parametrize("name", NAMES)
each_direction = pytest.mark.parametrize("distortion", [SIGNED, ONE_SIDED], ids=["signed", "one-sided"])


class Linear(nn.Module):
    """Scores that are linear in the mean of every tubelet, so that it is known what fools it."""

    def __init__(self, classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        weights = torch.randn(classes, 3 * 4 * 4, generator=torch.Generator().manual_seed(seed))
        self.weights = nn.Parameter(weights)

    def forward(self, clips: Tensor) -> Tensor:
        cells = rearrange(clips, "b c t (gh h) (gw w) -> b (t gh gw) (c h w)", h=8, w=8).mean(-1)
        return 8 * (cells - 0.5) @ self.weights.T


class Constant(nn.Module):
    """Never impressed: class 0, a little less surely the darker the clip is."""

    def forward(self, clips: Tensor) -> Tensor:
        mean = clips.flatten(1).mean(1)
        return torch.stack([3 + mean, torch.zeros_like(mean), torch.zeros_like(mean)], 1)


class Conjunction(nn.Module):
    """Class 1 if and only if every tubelet of a known set differs from grey."""

    def __init__(self, needed: set[int]) -> None:
        super().__init__()
        self.needed = sorted(needed)

    def forward(self, clips: Tensor) -> Tensor:
        cells = rearrange(clips, "b c t (gh h) (gw w) -> b (t gh gw) (c h w)", h=8, w=8)
        touched = (cells - 128 / 255).abs().amax(-1) > 1e-4
        fooled = touched[:, self.needed].all(1).float()
        return torch.stack([1 - fooled, fooled], 1)


class Counted:
    """A model in a victim, and the clips that have reached the model as the model itself sees
    them."""

    def __init__(self, model: nn.Module, **kwargs: Any) -> None:
        self.seen = 0
        model.register_forward_pre_hook(self._count)
        self.victim = Victim(model, **kwargs)

    def _count(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen += len(inputs[0])


@pytest.fixture
def clips() -> Tensor:
    """Six clips of random brightness per tubelet."""
    cells = torch.rand(6, 3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    return cells.repeat_interleave(8, 3).repeat_interleave(8, 4)


def make(name: str, distortion: Any = SIGNED, **kwargs: Any) -> Attack:
    return as_attack(name, **{"distortion": distortion, "budget": 40, "grid": GRID, "progress": False} | kwargs)


def bytes_of(result: AttackResult) -> dict[str, Tensor]:
    """All that a result says, NaN replaced, to compare two."""
    names = ("success", "skipped", "queries", "adversarial", "strength", "classes", "prediction", "full_l2")
    history = {key: values.nan_to_num(-1e9) for key, values in result.history.items()}
    return {name: getattr(result, name) for name in names} | history


def assert_same(one: AttackResult, other: AttackResult) -> None:
    for name, value in bytes_of(one).items():
        torch.testing.assert_close(bytes_of(other)[name], value, rtol=1e-5, atol=1e-5, msg=name)


# Every attack


@each_attack
@each_direction
def test_queries_are_the_clips_that_reached_the_model(name: str, distortion: Any, clips: Tensor) -> None:
    counted = Counted(Linear(), batch_size=4)
    result = make(name, distortion)(counted.victim, clips)
    assert result.queries.sum() == counted.seen == counted.victim.queries
    assert (result.queries <= 40).all()
    assert result.success.any(), "the case is meant to be easy"


@each_attack
@each_direction
def test_success_holds_for_the_returned_clip(name: str, distortion: Any, clips: Tensor) -> None:
    victim = Victim(Linear())
    result = make(name, distortion)(victim, clips)
    fooled = victim(result.adversarial).argmax(1) != result.classes
    assert torch.equal(result.success, fooled)
    assert torch.equal(result.prediction, victim(result.clean).argmax(1))


@each_attack
@each_direction
def test_adversarial_is_8_bit_and_what_the_strength_renders(name: str, distortion: Any, clips: Tensor) -> None:
    result = make(name, distortion)(Victim(Linear()), clips)
    low, high = result.adversarial.aminmax()
    assert 0 <= low <= high <= 1
    assert torch.equal(result.adversarial, (result.adversarial * 255).round() / 255)
    again = Renderer(clips, distortion, GRID).render(result.strength)
    assert torch.equal(again, result.adversarial)


@each_attack
def test_unrounded_clips_are_rounded_first(name: str, clips: Tensor) -> None:
    rounded = (clips * 255).round() / 255
    assert not torch.equal(rounded, clips)
    result = make(name)(Victim(Linear()), clips)
    assert torch.equal(result.clean, rounded)
    assert_same(result, make(name)(Victim(Linear()), rounded))


@each_attack
def test_history(name: str, clips: Tensor) -> None:
    victim = Victim(Linear())
    result = make(name)(victim, clips)
    longest = int(result.queries.max())
    clean = victim(result.clean)
    for key, values in result.history.items():
        assert values.shape == (len(clips), longest), key
        asked = torch.arange(longest) < result.queries[:, None]
        assert torch.equal(values.isfinite(), asked), key
    own = clean.gather(1, result.classes[:, None]).squeeze(1)
    torch.testing.assert_close(result.history["score"][:, 0], own)
    torch.testing.assert_close(
        result.history["margin"][:, 0], Misclassify(result.classes).margin(clean, torch.arange(6))
    )
    assert (result.history["l2"][:, 0] == 0).all()
    assert torch.equal(result.success, (result.history["margin"].nan_to_num(1) < 0).any(1))


@each_attack
def test_the_smallest_success_is_returned(name: str, clips: Tensor) -> None:
    result = make(name)(Victim(Linear()), clips)
    size = (result.adversarial - result.clean).flatten(1).norm(dim=1)
    successes = torch.where(result.history["margin"] < 0, result.history["l2"], torch.inf).amin(1)
    torch.testing.assert_close(size[result.success], successes[result.success])


@each_attack
def test_skipped_clips_cost_one_query_and_stay(name: str, clips: Tensor) -> None:
    counted = Counted(Linear())
    prediction = counted.victim(clips).argmax(1)
    labels = prediction.clone()
    labels[[1, 4]] = (labels[[1, 4]] + 1) % 4
    counted.seen = 0
    result = make(name)(counted.victim, clips, Misclassify(labels))
    assert result.skipped.tolist() == [False, True, False, False, True, False]
    assert result.queries[result.skipped].tolist() == [1, 1]
    assert not result.success[result.skipped].any()
    assert torch.equal(result.adversarial[result.skipped], result.clean[result.skipped])
    assert (result.strength[result.skipped] == 0).all()
    assert result.queries.sum() == counted.seen


@each_attack
def test_budget_of_one_is_the_clean_prediction(name: str, clips: Tensor) -> None:
    counted = Counted(Linear())
    result = make(name, budget=1)(counted.victim, clips)
    assert counted.seen == len(clips)
    assert result.queries.tolist() == [1] * len(clips)
    assert not result.success.any()
    assert torch.equal(result.adversarial, result.clean)


@each_attack
@pytest.mark.parametrize("budget", [0, -3])
def test_no_budget_is_an_error(name: str, budget: int) -> None:
    with pytest.raises(ValueError, match="at least 1 query"):
        make(name, budget=budget)


@each_attack
@pytest.mark.parametrize("budget", [2, 3, 7, 12])
def test_no_clip_exceeds_a_small_budget(name: str, budget: int, clips: Tensor) -> None:
    counted = Counted(Constant())
    result = make(name, budget=budget)(counted.victim, clips)
    assert result.queries.tolist() == [budget] * len(clips)
    assert counted.seen == budget * len(clips)


@each_attack
@each_direction
def test_targeted(name: str, distortion: Any, clips: Tensor) -> None:
    victim = Victim(Linear())
    wanted = victim(clips).topk(2).indices[:, 1]  # the runner-up: in reach
    result = make(name, distortion, budget=80)(victim, clips, Target(wanted))
    assert torch.equal(result.classes, wanted)
    assert torch.equal(result.success, victim(result.adversarial).argmax(1) == wanted)
    assert result.success.any()
    assert result.settings["targeted"]


@each_attack
def test_same_seed_same_result(name: str, clips: Tensor) -> None:
    torch.manual_seed(0)
    one = make(name, seed=3)(Victim(Linear()), clips)
    torch.manual_seed(99)  # the global generator has no say
    assert_same(one, make(name, seed=3)(Victim(Linear()), clips))


@pytest.mark.parametrize("name", ["grow_and_reduce", "random_cells", "square_tubes"])
def test_another_seed_another_search(name: str, clips: Tensor) -> None:
    one, other = (make(name, seed=seed)(Victim(Linear()), clips) for seed in (0, 1))
    assert not torch.equal(one.strength, other.strength)


@each_attack
@pytest.mark.parametrize("at_once", [1, 4])
def test_a_clip_alone_or_in_a_batch(name: str, at_once: int, clips: Tensor) -> None:
    together = make(name)(Victim(Linear()), clips)
    assert_same(together, make(name, clips_at_once=at_once)(Victim(Linear()), clips))
    alone = make(name)(Victim(Linear()), clips[2:3])
    assert alone.queries == together.queries[2]
    assert torch.equal(alone.adversarial[0], together.adversarial[2])


@each_attack
def test_finished_clips_cost_nothing_more(name: str, clips: Tensor) -> None:
    victim = Victim(Linear())
    attack = make(name, budget=60)
    if isinstance(attack, RoundsAttack):  # with rounds it is done when the budget is
        attack.rounds = False
    session = Session(victim, Renderer(clips, attack.distortion, GRID), budget=60)
    ended: Tensor = session.finished.clone()
    for asked in attack.run(session):
        assert not ended[asked].any()
        ended = session.finished.clone()
    assert (session.finished | (session.query_budget.left == 0)).all()
    assert (session.queries < 60).any(), "the case is meant to end early for some clip"
    before = victim.queries
    assert list(attack.run(session)) == []
    assert victim.queries == before


@each_attack
def test_failure_returns_the_nearest_candidate(name: str, clips: Tensor) -> None:
    victim = Victim(Constant())
    result = make(name, ONE_SIDED)(victim, clips)
    assert not result.success.any()
    margin = Misclassify(result.classes).margin(victim(result.adversarial), torch.arange(len(clips)))
    lowest = result.history["margin"].nan_to_num(torch.inf).amin(1)
    torch.testing.assert_close(margin, lowest)
    assert (lowest < result.history["margin"][:, 0]).all()


@each_attack
def test_a_victim_that_raises_in_the_middle(name: str, clips: Tensor) -> None:
    model = Linear()
    counted = Counted(model, batch_size=4)

    def fail(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if counted.seen > 20:
            raise RuntimeError("out of memory")

    model.register_forward_pre_hook(fail)
    with pytest.raises(VictimError, match="RuntimeError: out of memory"):
        make(name)(counted.victim, clips)
    assert counted.victim.queries == counted.seen > 20


@each_attack
@pytest.mark.parametrize("after", [0, 12])
def test_nan_scores(name: str, after: int, clips: Tensor) -> None:
    model = Linear()
    counted = Counted(model)
    model.register_forward_hook(lambda model, inputs, scores: scores * torch.nan if counted.seen > after else scores)
    with pytest.raises(VictimError, match="NaN"):
        make(name)(counted.victim, clips)
    assert counted.victim.queries == counted.seen


@each_attack
def test_unusable_arguments(name: str, clips: Tensor) -> None:
    attack, counted = make(name), Counted(Linear())
    with pytest.raises(ClipError, match="float clips"):
        attack(counted.victim, (clips * 255).to(torch.uint8))
    with pytest.raises(ClipError, match=r"in \[0, 1\]"):
        attack(counted.victim, clips * 255)
    with pytest.raises(ValueError, match="6 clips: the goal has 2 classes"):
        attack(counted.victim, clips, Target([0, 1]))
    with pytest.raises(TypeError, match="Wrap it"):
        attack(counted.victim.model, clips)
    assert counted.seen == 0
    with pytest.raises(ValueError, match="classes 0 to 3"):
        attack(counted.victim, clips, Target([0, 1, 2, 3, 4, 0]))


@each_attack
@pytest.mark.parametrize("shape", [(1, 3, 1, 8, 8), (2, 3, 5, 20, 33)], ids=["one-tubelet", "ragged"])
@each_direction
def test_any_grid(name: str, shape: tuple[int, ...], distortion: Any) -> None:
    seen = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    counted = Counted(Constant())
    result = make(name, distortion, budget=15)(counted.victim, seen)
    assert result.queries.sum() == counted.seen
    assert result.strength.shape[1:] == GRID.shape(seen)


@each_attack
def test_settings_are_plain_and_complete(name: str) -> None:
    attack = make(name, budget=7, seed=5)
    described = attack.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["attack"] == type(attack).__name__
    assert (described["budget"], described["seed"], described["grid"]) == (7, 5, [1, 8, 8])
    own = {"random_cells": {"block"}, "square_tubes": {"p"}}.get(name, set()) | {"reduce"}
    assert own <= described.keys()


@each_attack
def test_without_reduction_the_first_success_is_the_end(name: str, clips: Tensor) -> None:
    plain = make(name, reduce=False)(Victim(Linear()), clips)
    reduced = make(name)(Victim(Linear()), clips)
    assert torch.equal(plain.success, reduced.success)
    assert (plain.queries <= reduced.queries).all()
    size = [(r.adversarial - r.clean).flatten(1).norm(dim=1) for r in (plain, reduced)]
    assert (size[1] <= size[0] + 1e-6).all()
    if name != "greedy_sensitivity":  # its bisection goes on after the first success
        at_end = plain.history["margin"].gather(1, plain.queries[:, None] - 1).squeeze(1)
        assert torch.equal(at_end < 0, plain.success)


@each_attack
@pytest.mark.parametrize("after", [0, 3])
def test_so_many_queries_are_spent_after_the_first_success(name: str, after: int, clips: Tensor) -> None:
    whole, cut = make(name)(Victim(Linear()), clips), make(name, after=after)(Victim(Linear()), clips)
    assert torch.equal(cut.success, whole.success)
    won = cut.history["margin"] < 0
    first = won.long().argmax(1) + 1
    assert cut.success.any()
    assert torch.equal(cut.queries[cut.success], whole.queries.minimum(first + after)[cut.success])
    for one, other, queries in zip(cut.history["margin"], whole.history["margin"], cut.queries, strict=True):
        torch.testing.assert_close(one[:queries], other[:queries])  # cut short, and otherwise the same
    assert cut.settings["after"] == after
    assert "after" not in whole.settings


def test_a_negative_number_of_queries_after_success_is_refused() -> None:
    with pytest.raises(ValueError, match="after is a number of queries"):
        make("grow_and_reduce", after=-1)


# Cells of several tubelets


@pytest.mark.parametrize("name", [*NAMES, "sensitivity_order"])
@each_direction
def test_a_search_works_with_cells_and_the_clean_up_with_tubelets(
    name: str, distortion: Any, clips: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, Tensor, bool]] = []
    query = Session.query

    def noted(session: Session, strength: Tensor, rows: Tensor) -> Any:
        response = query(session, strength, rows)
        asked.extend(zip(rows.tolist(), session.renderer.refine(strength), response.success.tolist(), strict=True))
        return response

    monkeypatch.setattr(Session, "query", noted)
    counted = Counted(Linear())
    result = make(name, distortion, zoom=2, budget=60)(counted.victim, clips)
    assert (result.queries <= 60).all()
    if name != "sensitivity_order":  # whose probes are not counted
        assert result.queries.sum() == counted.seen
    assert result.success.any()
    assert result.strength.shape[1:] == SHAPE
    assert torch.equal(counted.victim(result.adversarial).argmax(1) != result.classes, result.success)
    assert torch.equal(Renderer(clips, distortion, GRID).render(result.strength), result.adversarial)
    assert result.settings["zoom"] == 2
    for row in range(len(clips)):
        for _, strength, success in (entry for entry in asked if entry[0] == row):
            assert constant_on_cells(strength)
            if success:
                break
    assert not all(constant_on_cells(strength) for strength in result.strength[result.success])


def constant_on_cells(strength: Tensor) -> bool:
    """Whether each 2 x 2 cell of a map has one strength."""
    cells = rearrange(strength, "t (gh y) (gw x) -> t gh gw (y x)", y=2, x=2)
    return bool((cells == cells[..., :1]).all())


@each_attack
def test_without_reduction_large_cells_are_a_coarse_grid(name: str, clips: Tensor) -> None:
    fine, coarse = (
        make(name, ONE_SIDED, reduce=False, **cells)(Victim(Linear()), clips)
        for cells in ({"zoom": 2}, {"grid": TubeletGrid(1, 16, 16)})
    )
    assert torch.equal(fine.adversarial, coarse.adversarial)
    assert torch.equal(fine.queries, coarse.queries)


@each_attack
def test_a_cell_needs_a_tubelet(name: str) -> None:
    with pytest.raises(ValueError, match="zoom=0"):
        make(name, zoom=0)


# Names


def test_names() -> None:
    assert {"random_cells", "greedy_sensitivity", "grow_and_reduce", "square_tubes"} <= set(list_attacks())
    for name in NAMES:
        kind = type(as_attack(name))
        assert as_attack(kind.__name__).describe() == as_attack(name).describe()
        assert getattr(vidmarl.attacks, kind.__name__) is kind


def test_as_attack_takes_all_kinds_of_names() -> None:
    wanted = SquareTubes(budget=9, p=0.5)
    assert as_attack(wanted) is wanted
    for thing in (SquareTubes, "square_tubes", "vidmarl.attacks.square_tubes.SquareTubes"):
        assert as_attack(thing, budget=9, p=0.5).describe() == wanted.describe()
    described = {"class_path": "vidmarl.attacks.SquareTubes", "init_args": {"budget": 4, "p": 0.5}}
    assert as_attack(described, budget=9).describe() == wanted.describe()
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
    with pytest.raises(TypeError, match="as_attack"):
        as_attack(thing)


def test_a_made_attack_takes_no_arguments() -> None:
    with pytest.raises(TypeError, match="made already"):
        as_attack(SquareTubes(), budget=3)


@pytest.mark.parametrize(("name", "wrong"), [("random_cells", {"block": 0}), ("square_tubes", {"p": 0.0})])
def test_wrong_parameters(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"got 0"):
        as_attack(name, **wrong)


# Reduction

GREY = torch.full((1, *CLIP), 128 / 255)


def reduced(model: nn.Module, start: Tensor, distortion: Any, budget: int = 2000) -> Session:
    """A session whose first candidate was `start`, after reduction."""
    session = Session(Victim(model), Renderer(GREY, distortion, GRID), budget=budget)
    session.query(start[None], torch.tensor([0]))
    for _ in session.drive(lambda row: reduce(session, row)):
        pass
    return session


@given(needed=st.sets(st.integers(0, 47), min_size=1, max_size=8), extra=st.sets(st.integers(0, 47)))
@settings(max_examples=30)
def test_reduction_finds_exactly_what_is_needed(needed: set[int], extra: set[int]) -> None:
    start = torch.zeros(48)
    start[sorted(needed | extra)] = 1.0
    session = reduced(Conjunction(needed), start.view(SHAPE), ONE_SIDED)
    assert session.fooled.all()
    found = session.best_strength.flatten().nonzero().flatten().tolist()
    assert found == sorted(needed)
    assert session.finished.all(), "with budget left, nothing is left to do"


@given(needed=st.sets(st.integers(0, 47), min_size=1, max_size=4), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_reduction_weakens_to_the_last_visible_step(needed: set[int], seed: int) -> None:
    """Where any change at all is enough, no tubelet can be weakened further by a half."""
    signs = torch.where(torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < 0.5, -1.0, 1.0)
    session = reduced(Conjunction(needed), signs, SIGNED)
    steps = (session.best - GREY).abs().mul(255).round()
    assert steps.max() <= 1
    kept = session.best_strength[0]
    assert torch.equal(kept.sign()[kept != 0], signs[kept != 0]), "directions are kept"


@given(budget=st.integers(2, 40))
@settings(max_examples=15)
def test_reduction_keeps_to_the_budget_and_never_grows(budget: int) -> None:
    session = reduced(Conjunction({1, 20, 33}), torch.ones(SHAPE), ONE_SIDED, budget)
    assert session.queries[0] <= budget
    assert session.fooled.all()
    assert session.best_l2[0] <= session.history["l2"][0, 1]


def test_reduction_without_a_success_asks_nothing() -> None:
    session = Session(Victim(Constant()), Renderer(GREY, ONE_SIDED, GRID), budget=9)
    assert list(session.drive(lambda row: reduce(session, row))) == []
    assert session.queries.tolist() == [1]
    assert session.finished.all()


# The attacks one by one


def candidates_of(name: str, model: nn.Module, distortion: Any, **kwargs: Any) -> list[Tensor]:
    """The strength maps that an attack asks about, in order."""
    attack = make(name, distortion, reduce=False, **kwargs)
    asked: list[Tensor] = []

    def note(clips: Tensor) -> Tensor:
        cells = rearrange(clips - GREY, "b c t (gh h) (gw w) -> b t gh gw (c h w)", h=8, w=8)
        asked.extend(cells.mean(-1))
        return model(clips)

    attack(Victim(note), GREY)
    return asked[1:]


@given(end=st.integers(1, 5000))
def test_growing(end: int) -> None:
    counts = growing(end)
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


def test_start_and_growth_of_the_sets() -> None:
    asked = candidates_of("grow_and_reduce", Constant(), ONE_SIDED, start=3, growth=3.0, budget=1 + 4)
    assert [int(a.count_nonzero()) for a in asked] == [3, 9, 27, 48]
    assert growing(5, growth=1.01) == [1, 2, 3, 4, 5], "always at least one more"
    for wrong in ({"start": 0}, {"growth": 1.0}):
        with pytest.raises(ValueError, match="GrowAndReduce"):
            make("grow_and_reduce", **wrong)


@pytest.mark.parametrize("name", ["grow_and_reduce", "random_cells", "signed_blocks", "square_tubes"])
def test_rounds_spend_the_budget_and_never_end_larger(name: str, clips: Tensor) -> None:
    once, again = (make(name, rounds=rounds, budget=150)(Victim(Linear()), clips) for rounds in (False, True))
    assert torch.equal(once.success, again.success)
    assert (once.queries[once.success] < 150).any()
    assert (again.queries == 150).all()
    sizes = [(r.adversarial - r.clean).flatten(1).norm(dim=1)[r.success] for r in (once, again)]
    assert (sizes[1] <= sizes[0]).all()
    assert (sizes[1] < sizes[0]).any()
    for one, other, queries in zip(once.history["margin"], again.history["margin"], once.queries, strict=True):
        torch.testing.assert_close(one[:queries], other[:queries])  # the first round is the same


def test_a_later_round_ends_where_it_would_be_larger() -> None:
    """Three certain tubelets fool. After a success with many more, no set is more than a query too
    large."""
    needed = {3, 17, 40}
    attack = make("grow_and_reduce", ONE_SIDED, budget=300, grid=GRID)
    result = attack(Victim(Conjunction(needed)), GREY)
    assert result.success.all()
    won = (result.history["margin"][0] < 0).nonzero().flatten()
    first = float(result.history["l2"][0, won[0]])
    later = result.history["l2"][0, int(won[0]) + 1 :]
    assert (later[~later.isnan()] <= 2 * SLACK * first).all(), "a set that is too large is not doubled again"


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
    assert len(asked) == 3 + 16 + len(growing(48)), "ends where nothing is left to try"
    full = asked[-1]
    assert (full != 0).all()
    sure = effect.abs() > 0.05
    assert torch.equal(full.sign()[sure], effect.sign()[sure])
    best = asked[-len(growing(48))].flatten().nonzero().item()
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

"""A user's mistakes: whatever an attack, a goal, clips or a victim is given, it works, or is
refused in a line that names what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import traceback
from pathlib import Path
from typing import Any, Literal

import einops
import numpy as np
import pytest
import torch
from conftest import TYPES_ARE_CHECKED
from hypothesis import given, settings
from hypothesis import strategies as st
from known_victims import GREY, GRID, SHAPE, SIGNED, Linear
from torch import Tensor, nn

import vidmarl
from vidmarl import ClipSpec, Misclassify, Target, Victim, load_victim
from vidmarl.attacks import ATTACKS, Attack, AttackResult, as_attack
from vidmarl.errors import ClipError, SettingsError, UnknownNameError, VidmarlError
from vidmarl.queries.goals import Goal

CELLS = torch.rand(3, 3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
CLIPS = CELLS.repeat_interleave(8, 3).repeat_interleave(8, 4)
LABELS = ["Dog", "cat", "a bird", "fish"]
OURS = str(Path(vidmarl.__file__).parent)

ODD = (
    *(True, False, None, -1, 0, 1, 2, 3, 1000, 10**10, 10**30, -0.5, 0.3, 6.5, 1e-300, 1e300),
    *(math.nan, math.inf, -math.inf, "", "x", b"x", [], {}, (1, 2, 3), [8, "x", None], {"height": "x"}),
    *(np.int64(3), np.float32(0.5), np.array([1, 2]), torch.tensor(3), object(), int),
)
"""What somebody may give for a setting."""

CHECKED = {  # those that are somebody else's business, or a promise of what they say themselves
    (name, field.name)
    for name in ATTACKS.names()
    for field in dataclasses.fields(ATTACKS.find(name))
    if field.name not in ("distortion", "agents", "donors", "prior")
}


def make_victim(**options: Any) -> Victim:
    return Victim(Linear(), **{"labels": LABELS} | options)


def assert_clear(error: Exception, *names: str) -> None:
    """An error that vidmarl raises itself, in which one of some names stands."""
    assert isinstance(error, VidmarlError | ValueError | TypeError)
    assert traceback.extract_tb(error.__traceback__)[-1].filename.startswith(OURS), "raised on purpose"
    assert any(name in str(error) for name in names), f"{error} does not say what is wrong with {names}"
    assert len(str(error)) < 400


@pytest.mark.slow
@pytest.mark.skipif(TYPES_ARE_CHECKED, reason="refused by the checker of types")
@settings(max_examples=250)
@given(setting=st.sampled_from(sorted(CHECKED)), value=st.sampled_from(ODD))
def test_any_setting_of_any_attack(setting: tuple[str, str], value: Any) -> None:
    name, field = setting
    given = {"budget": 6, "progress": False} | {field: value}
    try:
        attack = as_attack(name, **given)
    except (VidmarlError, ValueError, TypeError) as error:
        assert_clear(error, field, field.replace("_", " "), "TubeletGrid")
        return
    assert json.loads(json.dumps(attack.params(), allow_nan=False)) == attack.params(), "plain, whatever it was given"
    if field == "grid" and attack.grid.height < 4:  # type: ignore[union-attr]
        return  # the oracle asks about each tubelet
    if attack.budget > 100:
        attack.max_queries_after_success = 0
        attack.budget = 100
    try:
        attack(make_victim(), CLIPS)
    except (SettingsError, ValueError) as error:
        assert_clear(error, field, "donor")


def test_a_huge_budget_takes_no_memory() -> None:
    stop = {"max_queries_after_success": 0}
    attack = as_attack("random_cells", distortion=SIGNED, budget=10**10, grid=GRID, progress=False, **stop)
    result = attack(make_victim(), CLIPS)
    assert result.success.all()
    assert result.history["score"].shape[1] == result.queries.max() < 300
    for budget in (10**17, 10**30):
        with pytest.raises((ValueError, SettingsError), match="RandomCells: budget must be"):
            as_attack("random_cells", budget=budget)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"budget": 6.5}, r"GrowAndReduce: budget must be a whole number, got 6\.5"),
        ({"budget": True}, "budget must be a whole number, got True"),
        ({"budget": 0}, "budget must be at least 1, got 0"),
        ({"clips_at_once": None}, "clips_at_once must be a whole number, got None"),
        ({"clips_at_once": -1}, "clips_at_once must be at least 1, got -1"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"progress": 1}, "progress must be True or False, got 1"),
        ({"coherence": "still"}, "coherence must be 'static', 'flow' or 'free', got 'still'"),
        ({"coherence": 3}, "coherence must be 'static' or 'flow' or 'free', got 3"),
        ({"grid": "8"}, "grid must be TubeletGrid or a dict or a list .* or a whole number, got '8'"),
        ({"grid": {"height": 0}}, "TubeletGrid: height must be a whole number from 1 to 1,000,000, got 0"),
        ({"search_cell": 1.5}, "search_cell must be a whole number, got 1.5"),
        ({"max_queries_after_success": "x"}, "max_queries_after_success must be a whole number or None, got 'x'"),
    ],
)
def test_a_wrong_setting_is_answered_in_a_line(given: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, SettingsError), match=says):
        as_attack("grow_and_reduce", **given)


class Own(Attack):
    """An attack of a user's, with settings of any kind."""

    anything: Any = None
    one_of: Literal["a", "b"] = "a"
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    where: Path | None = None
    some: tuple[int, ...] = (1, 2)
    several: list[Tensor] = dataclasses.field(default_factory=list)


def test_settings_of_ones_own_may_be_of_any_kind() -> None:
    attack = Own(anything=object(), numbers={"x": 1.0}, where=Path("x"), some=(3,), several=[torch.ones(1)])
    assert attack.where == Path("x")
    for wrong in ({"one_of": 3}, {"where": 3}, {"some": 3}, {"numbers": [1]}):
        with pytest.raises(SettingsError, match=f"Own: {next(iter(wrong))} must be"):
            Own(**wrong)  # type: ignore[arg-type]

    class Unknown(Own):
        elsewhere: OnlyForTypeCheckers = 3  # type: ignore[name-defined]

    assert Unknown().elsewhere == 3


def test_cells_larger_than_the_clip_are_one_cell() -> None:
    whole, larger = (
        as_attack("grow_and_reduce", distortion=SIGNED, budget=10, grid=grid, search_cell=cell, progress=False)(
            make_victim(), CLIPS
        )
        for grid, cell in (((3, 8, 8), 4), ((1_000_000, 8, 8), 10**10))
    )
    assert torch.equal(whole.adversarial, larger.adversarial)


# Goals


def attack(goal: Any, clips: Tensor = CLIPS, victim: Victim | None = None) -> AttackResult:
    return as_attack("random_cells", distortion=SIGNED, budget=3, grid=GRID, progress=False)(
        victim or make_victim(), clips, goal
    )


@pytest.mark.parametrize(
    "goal",
    [
        torch.tensor([1, 0, 3]),
        torch.tensor([1, 0, 3], dtype=torch.uint8),
        [1, 0, 3],
        (1, 0, 3),
        np.array([1, 0, 3]),
        np.array(["cat", "Dog", "fish"]),
        ["cat", "dog", "FISH"],
        ["cat", 0, 3],
        ["cat", np.int64(0), "3"],
        [torch.tensor(1), torch.tensor(0), torch.tensor(3)],
        Misclassify(["cat", "Dog", 3]),
    ],
    ids=repr,
)
def test_bare_labels_are_the_goal(goal: Any) -> None:
    if TYPES_ARE_CHECKED and isinstance(goal, list) and not isinstance(goal[1], int | str):
        pytest.skip("refused by the checker of types")
    result = attack(goal)
    assert result.classes.tolist() == [1, 0, 3]
    assert not result.settings["targeted"]


@pytest.mark.parametrize(
    "goal", [Target(2), Target("a bird"), Target("A BIRD"), Target(torch.tensor(2)), Target(np.int64(2))]
)
def test_one_class_is_that_of_all_clips(goal: Goal) -> None:
    for clips in (CLIPS, CLIPS[:1]):
        result = attack(goal, clips)
        assert result.classes.tolist() == [2] * len(clips)
        assert result.settings["targeted"]
    assert attack(2).classes.tolist() == attack("a bird").classes.tolist() == [2, 2, 2]


def test_a_clip_may_have_a_list_of_one() -> None:
    assert attack(["cat"], CLIPS[:1]).classes.tolist() == [1]
    with pytest.raises(ValueError, match="one class for each of the 3 clips, got 1"):
        attack(["cat"])


@pytest.mark.parametrize(
    ("goal", "kind", "says"),
    [
        ([0, 1], ValueError, "Misclassify: expected one class for each of the 3 clips, got 2"),
        ([0, 1, 9], ValueError, r"has the classes 0 to 3, but the goal names \[9\]"),
        ([0, 1, -1], ValueError, r"the goal names \[-1\]"),
        (torch.rand(3), TypeError, "expected integer class indices or class names"),
        ([0.5, 1, 2], TypeError, "expected integer class indices or class names"),
        ([True, False, True], TypeError, "expected integer class indices or class names"),
        ({"cat": 1}, TypeError, "expected integer class indices or class names"),
        ([None, None, None], TypeError, "expected integer class indices or class names"),
        ([10**30, 1, 1], TypeError, "expected integer class indices or class names"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), TypeError, "expected integer class indices"),
        (torch.eye(4, dtype=torch.int64)[:3], ValueError, "one class for each of the 3 clips, got 12"),
        (["cat", "dog", None], TypeError, "Looking up the class None: expected its name or its index"),
        (["cat", "dog", True], TypeError, "Looking up the class True"),
        ("", UnknownNameError, "class of 'Linear' ''"),
        ("bat", UnknownNameError, "did you mean cat"),
        (Target("bat"), UnknownNameError, "did you mean cat"),
        (Target(["cat", 3, 17]), ValueError, "Looking up the class 17"),
        (Misclassify, TypeError, "expected integer class indices or class names"),
        (object(), TypeError, "expected integer class indices or class names"),
    ],
)
def test_what_is_no_goal_costs_no_query(goal: Any, kind: type[Exception], says: str) -> None:
    victim = make_victim()
    with pytest.raises(kind, match=says):
        attack(goal, victim=victim)
    assert victim.queries == 0


def test_names_need_a_victim_with_names() -> None:
    with pytest.raises(ValueError, match="has no names; give the index"):
        attack("cat", victim=make_victim(labels=None))
    with pytest.raises(ValueError, match=r"Target\(\['cat', 3\]\): only a victim knows"):
        _ = Target(["cat", 3]).classes


# Clips


def test_clips_that_require_grad_are_attacked_and_saved(tmp_path: Path) -> None:
    wanted = attack(None)
    for clips in (CLIPS.clone().requires_grad_(), nn.Parameter(CLIPS), CLIPS.clone().requires_grad_() * 1):
        result = attack(None, clips)
        assert torch.equal(AttackResult.load(result.save(tmp_path / "r")).adversarial, wanted.adversarial)


@pytest.mark.parametrize(
    ("clips", "says"),
    [
        (CLIPS.to("meta"), "without values, on the device meta"),
        (CLIPS.to_sparse(), "in torch.sparse_coo"),
        (CLIPS.numpy(), "expected a tensor of clips .* got ndarray"),
        ([CLIPS[0]], "got list"),
        (CLIPS[:, :, :2].transpose(1, 2), "look like .b t c h w.: einops.rearrange"),
        (CLIPS[:, :, :2].permute(0, 2, 3, 4, 1), "look like .b t h w c.: einops.rearrange"),
        (CLIPS[:2, :, :2].transpose(0, 1), "look like .c b t h w."),
        (CLIPS[0], "A single clip needs a batch axis"),
        (CLIPS[0][:, :2].transpose(0, 1), "look like .t c h w.: einops.rearrange.clips, 't c h w -> 1 c t h w'"),
        (CLIPS[0][:, :2].permute(1, 2, 3, 0), "look like .t h w c."),
        (CLIPS * 255, "Divide 8-bit values by 255"),
        (torch.full((1, 3, 2, 8, 8), 1.0000001), r"\[1\.0000001192\d*, 1\.0000001192\d*\].*clamp"),
        (torch.full((1, 3, 2, 8, 8), 1 + 1e-12, dtype=torch.float64), r"\[1\.00000000000\d+, "),
        (torch.full((1, 3, 2, 8, 8), -1e-9), r"\[-1e-09, -1e-09\]"),
        (torch.full((1, 3, 2, 8, 8), torch.nan), r"\[nan, nan\]"),
        (CLIPS.to(torch.float8_e4m3fn), "expected float clips"),
        (CLIPS.to(torch.complex64), "expected float clips"),
        (CLIPS[:0], "at least one clip"),
    ],
)
def test_clips_that_are_none(clips: Any, says: str) -> None:
    with pytest.raises(ClipError, match=says):
        attack(None, clips)


@pytest.mark.parametrize("axes", ["t c h w", "t h w c", "b t c h w", "b t h w c", "b t h c w", "c b t h w"])
def test_the_advice_on_axes_makes_clips(axes: str) -> None:
    sizes = {"b": 2, "c": 3, "t": 4, "h": 8, "w": 9}
    clips = torch.rand([sizes[axis] for axis in axes.split()])
    with pytest.raises(ClipError) as caught:
        attack(None, clips)
    [advice] = re.findall(r"einops\.rearrange\(.*\)", str(caught.value))
    made = eval(advice, {"einops": einops, "clips": clips})
    assert made.shape[1:] == (3, 4, 8, 9)


# Victims


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"spec": "x"}, "spec must be a ClipSpec"),
        ({"spec": {"frames": 4}}, "spec must be a ClipSpec"),
        ({"device": "nope"}, "expected a device that works here, got 'nope'"),
        ({"device": "cuda:9"}, "expected a device that works here, got 'cuda:9'"),
        ({"device": 3.5}, "expected a device that works here"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"layout": 3}, "layout must order the axes"),
        ({"layout": "b t h w"}, "layout must order the axes"),
        ({"outputs": ["logits"]}, "outputs must be 'logits', 'probabilities' or 'decisions'"),
        ({"mean": 0.5}, "mean needs one value for each of R, G and B"),
        ({"mean": "abc"}, "mean needs one value"),
        ({"mean": (0.5, None, 0.5)}, "mean needs one value"),
        ({"std": (0, 1, 1)}, "std must be positive"),
        ({"labels": 5}, "labels must be a list of class names"),
        ({"labels": "run"}, "labels must be a list of class names"),
        ({"labels": {"run": 0}}, "labels as a dict"),
        ({"name": 5}, "name must be a text"),
        ({"size": 112}, "there is no setting 'size'"),
        ({"normalise": True}, "there is no setting 'normalise'"),
    ],
)
def test_a_victim_that_cannot_be_made_says_which_setting(options: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        Victim(Linear(), **options)


@pytest.mark.parametrize("model", [None, "r3d_18", GREY, {"model": 1}])
def test_a_model_that_cannot_be_called(model: Any) -> None:
    with pytest.raises(TypeError, match="expected a callable from clips to scores"):
        Victim(model)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"spec": "x"}, "spec must be a ClipSpec or a dict"),
        ({"spec": 3}, "spec must be a ClipSpec or a dict"),
        ({"spec": {"sise": 64}}, "did you mean size"),
        ({"spec": {"size": "big"}}, "size must be"),
        ({"weights": 5}, "weights must be the path of a file"),
        ({"weights": ["a.pt"]}, "weights must be the path of a file"),
        ({"device": "nope"}, "expected a device that works here, got 'nope'"),
        ({"device": "cuda:9"}, "expected a device that works here, got 'cuda:9'"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
    ],
)
def test_a_victim_that_cannot_be_loaded_says_which_setting(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        load_victim("demo", **{"weights": "random"} | arguments)


@pytest.mark.parametrize("thing", [None, 3, Linear(), Linear, ["demo"], {"weights": "random"}])
def test_what_names_no_victim(thing: Any) -> None:
    with pytest.raises(SettingsError, match="Loading a victim"):
        load_victim(thing)


@pytest.mark.parametrize("wanted", [None, 1.5, True, b"cat", [1], torch.tensor(1)])
def test_what_is_no_class(wanted: Any) -> None:
    with pytest.raises(TypeError, match="Looking up the class"):
        make_victim().class_index(wanted)


def test_an_attack_on_no_victim() -> None:
    for thing in (Linear(), "demo", None):
        with pytest.raises(TypeError, match=r"expected a vidmarl\.Victim, got"):
            as_attack("random_cells", progress=False)(thing, CLIPS)  # type: ignore[arg-type]
    assert ClipSpec(size=112).size == (112, 112)

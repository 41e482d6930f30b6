"""The victim, its query_budget and the goals: every clip that reaches the model is counted, and
nothing unfit gets past."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import json
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from conftest import TYPES_ARE_CHECKED
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vidmarl.attacks.grow_and_reduce import GrowAndReduce
from vidmarl.data.spec import ClipSpec
from vidmarl.errors import BudgetError, ClipError, SettingsError, UnknownNameError, VictimError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.queries.budget import QueryBudget
from vidmarl.queries.goals import Goal, Misclassify, Target
from vidmarl.utils.precision import default_dtype
from vidmarl.victims.victim import Victim


class Counting(nn.Module):
    """Scores from the mean of each channel; counts the clips that reach it, and the batches they
    come in."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.batches: list[int] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.batches.append(len(clips))
        return 10 * self.scale * clips.mean((2, 3, 4))


def make_clips(count: int = 4, size: int = 8) -> Tensor:
    return torch.rand(count, 3, 2, size, size, generator=torch.Generator().manual_seed(count))


def rows(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def says(*scores: float) -> Callable[[Tensor], Tensor]:
    return lambda clips: torch.tensor([scores] * len(clips))


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.thorough
@given(
    asks=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=8), max_size=8),
    budget=st.integers(1, 12),
    batch_size=st.integers(1, 5),
)
def test_the_budget_counts_what_reaches_the_model(asks: list[list[int]], budget: int, batch_size: int) -> None:
    model = Counting()
    victim = Victim(model, batch_size=batch_size)
    query_budget = QueryBudget(victim, 5, budget)
    clips = make_clips(5)
    expected = [0] * 5
    for ask in asks:
        after = [spent + ask.count(row) for row, spent in enumerate(expected)]
        if max(after) > budget:
            with pytest.raises(BudgetError):
                query_budget.query(clips[ask], torch.tensor(ask))
        else:
            answers = query_budget.query(clips[ask], torch.tensor(ask))
            assert answers.shape == (len(ask), 3)
            expected = after
        assert query_budget.count.tolist() == expected
        assert query_budget.left.tolist() == [budget - spent for spent in expected]
        assert sum(model.batches) == victim.queries == sum(expected)
    assert max(model.batches, default=0) <= batch_size


def test_a_row_that_stands_twice_in_a_batch_pays_twice() -> None:
    query_budget = QueryBudget(Victim(Counting()), 3, 5)
    query_budget.query(make_clips(4), rows(1, 1, 2, 1))
    assert query_budget.count.tolist() == [0, 3, 1]


def test_nothing_is_asked_where_one_clip_is_out_of_budget() -> None:
    model = Counting()
    query_budget = QueryBudget(Victim(model), 3, 2)
    query_budget.query(make_clips(2), rows(0, 0))
    with pytest.raises(BudgetError, match=r"Clips \[0, 2\] were to be queried with \[0, 2\] queries left"):
        query_budget.query(make_clips(5), rows(0, 1, 2, 2, 2))
    assert query_budget.count.tolist() == [2, 0, 0]
    assert model.batches == [2]


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_must_pay_for_the_clean_prediction(budget: int) -> None:
    with pytest.raises(ValueError, match=f"budget of {budget} .* at least 1"):
        QueryBudget(Victim(Counting()), 2, budget)


def test_a_model_that_raises_in_the_middle_has_been_asked_all_the_same() -> None:
    class Breaks(Counting):
        def forward(self, clips: Tensor) -> Tensor:
            scores = super().forward(clips)
            if len(self.batches) == 2:
                raise RuntimeError("out of memory")
            return scores

    victim = Victim(Breaks(), name="fragile", batch_size=2)
    query_budget = QueryBudget(victim, 5, 3)
    with pytest.raises(
        VictimError, match=r"'fragile' about 2 clips, .* \(2, 3, 2, 8, 8\) .* RuntimeError: out of memory"
    ) as e:
        query_budget.query(make_clips(5), torch.arange(5))
    assert isinstance(e.value.__cause__, RuntimeError)
    assert victim.queries == sum(victim.model.batches) == 4  # the third batch was never sent
    assert query_budget.count.tolist() == [1] * 5


class SlowlyAdded(int):
    """A number to which something is added so slowly that others can read it meanwhile."""

    def __add__(self, other: int) -> SlowlyAdded:
        total = SlowlyAdded(int(self) + other)
        time.sleep(1e-3)
        return total


def test_several_threads_are_counted_right() -> None:
    victim, clips = Victim(says(0, 1)), make_clips(1, 2)
    victim.queries = SlowlyAdded(0)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: victim(clips), range(40)))
    assert victim.queries == 40


def test_refused_clips_cost_nothing() -> None:
    victim = Victim(Counting())
    with pytest.raises(ClipError):
        victim(make_clips() + 1)
    assert victim.queries == 0


# --- answers -------------------------------------------------------------------------------------


@given(batch_size=st.integers(1, 9), count=st.integers(1, 9))
def test_answers_are_log_probabilities_whatever_the_batch_size(batch_size: int, count: int) -> None:
    clips = make_clips(count)
    answers = Victim(Counting(), batch_size=batch_size)(clips)
    torch.testing.assert_close(answers, (10 * clips.mean((2, 3, 4))).log_softmax(1))


def test_no_graph_is_built() -> None:
    clips = make_clips().requires_grad_()
    with torch.enable_grad():
        assert not Victim(Counting())(clips).requires_grad


def test_a_module_is_put_in_eval_mode_and_on_its_device() -> None:
    model = nn.Sequential(Counting(), nn.Dropout(0.5))
    victim = Victim(model, device="cpu")
    assert not model.training
    assert not model[1].training
    assert victim.device == torch.device("cpu")
    assert Victim(says(0, 1)).device is None


def test_logits_and_probabilities_are_understood() -> None:
    probabilities = torch.tensor([0.7, 0.2, 0.1])
    logits = Victim(says(*(probabilities.log() + 3).tolist()))(make_clips(2))
    direct = Victim(says(*probabilities.tolist()), outputs="probabilities")(make_clips(2))
    torch.testing.assert_close(logits, probabilities.log().expand(2, 3))
    torch.testing.assert_close(direct, probabilities.log().expand(2, 3))


def test_a_probability_of_zero_stays_finite() -> None:
    assert Victim(says(1, 0), outputs="probabilities")(make_clips(1)).isfinite().all()


def test_scores_that_are_not_tensors_are_taken_where_they_can_be() -> None:
    answers = Victim(lambda clips: clips.mean((2, 3, 4)).tolist())(make_clips())
    torch.testing.assert_close(answers, make_clips().mean((2, 3, 4)).log_softmax(1))


def test_a_class_that_is_ruled_out_is_never_said_and_leaves_margins_finite() -> None:
    victim = Victim(lambda clips: torch.cat([10 * clips.mean((2, 3, 4)), torch.full((len(clips), 1), -math.inf)], 1))
    answers = victim(make_clips())
    torch.testing.assert_close(answers[:, :3], (10 * make_clips().mean((2, 3, 4))).log_softmax(1))
    assert (answers[:, 3] == -math.inf).all()
    only = Victim(says(-math.inf, 2.0, -math.inf))(make_clips(1))
    assert only.tolist() == [[-math.inf, 0.0, -math.inf]]
    assert Misclassify([1]).margin(only, rows(0)).tolist() == [1e4]
    assert Target([0]).margin(only, rows(0)).tolist() == [1e4]
    assert Misclassify([0]).margin(only, rows(0)).tolist() == [-1e4]
    result = GrowAndReduce("gaussian_noise", budget=20, grid=TubeletGrid(1, 4, 4))(
        victim, make_clips(2), Target([3, 3])
    )
    assert not result.success.any()
    assert result.history["margin"].isfinite().all()


@dataclasses.dataclass
class ModelOutput:
    """As transformers has it."""

    logits: Tensor
    hidden: Tensor | None = None


class Named(NamedTuple):
    features: Tensor
    scores: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores: {"logits": scores, "hidden": scores[:, :2]},
        lambda scores: {"loss": None, "scores": scores},
        ModelOutput,
        lambda scores: ModelOutput(scores, scores[:, :2]),
        lambda scores: (scores,),
        lambda scores: [scores, scores + 1],  # an auxiliary head
        lambda scores: (scores[:, :, None], scores),
        lambda scores: Named(scores[:, :, None], scores),
        lambda scores: scores.numpy(),
        lambda scores: scores.double(),
        lambda scores: scores.tolist(),
    ],
)
def test_scores_are_found_in_what_is_around_them(wrap: Callable[[Tensor], Any]) -> None:
    answers = Victim(lambda clips: wrap(clips.mean((2, 3, 4))))(make_clips())
    torch.testing.assert_close(answers, make_clips().mean((2, 3, 4)).log_softmax(1))
    assert answers.dtype == torch.float32


def test_the_number_of_labels_tells_scores_from_features() -> None:
    def model(clips: Tensor) -> tuple[Tensor, Tensor]:
        return clips.mean((3, 4)).flatten(1), clips.mean((2, 3, 4))

    answers = Victim(model, labels=["r", "g", "b"])(make_clips())
    torch.testing.assert_close(answers, make_clips().mean((2, 3, 4)).log_softmax(1))
    with pytest.raises(VictimError, match=r"2 tensors, of shape \(2, 6\), \(2, 3\): expected one .* Wrap the model"):
        Victim(model)(make_clips())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_gets_clips_in_its_own_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 8 * 8, 5))
    wanted = Victim(model)(make_clips())
    victim = Victim(copy.deepcopy(model).to(dtype))
    answers = victim(make_clips())
    assert victim.dtype == dtype
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers, wanted, atol=0.02, rtol=0)


def test_a_callable_of_another_precision_is_told_how_to_cast() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 8 * 8, 5)).half()
    with pytest.raises(VictimError, match=r"given to it as torch.float32 .*nn.Module itself.*model\(clips.half\(\)\)"):
        Victim(lambda clips: model(clips))(make_clips())
    with pytest.raises(VictimError, match=r"ValueError: too dark$"):
        Victim(lambda clips: raises("too dark"))(make_clips())
    assert Victim(lambda clips: model(clips.half()))(make_clips()).dtype == torch.float32


def raises(words: str) -> Tensor:
    raise ValueError(words)


def test_everything_is_float32_whatever_the_default_precision() -> None:
    wanted = GrowAndReduce("gaussian_noise", budget=20, grid=TubeletGrid(1, 4, 4))(Victim(Counting()), make_clips())
    clips = make_clips()

    class Doubles(Counting):
        def forward(self, clips: Tensor) -> Tensor:
            assert clips.dtype == torch.ones(()).dtype == torch.float64
            return super().forward(clips)

    with default_dtype(torch.float64):
        assert Victim(Doubles())(clips).dtype == torch.float32
        got = GrowAndReduce("gaussian_noise", budget=20, grid=TubeletGrid(1, 4, 4))(Victim(Doubles()), clips)
        assert torch.get_default_dtype() == torch.float64
    assert torch.equal(got.adversarial, wanted.adversarial)
    assert torch.equal(got.queries, wanted.queries)


@pytest.mark.thorough
def test_an_exported_model_is_asked_as_it_is() -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.5))
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(model.eval(), (make_clips(2),), dynamic_shapes=(batch,)).module()
    victim = Victim(nn.Sequential(exported, nn.Dropout(0.9)), batch_size=2, device="cpu")
    torch.testing.assert_close(victim(make_clips(4)), Victim(model)(make_clips(4)))
    assert next(finding for finding in victim.check(make_clips(4)) if finding.check == "train mode").ok


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda clips: {"loss": None}, r"returned tuple: expected scores \[4, k\]. Wrap the model"),
        (lambda clips: list(clips), "returned 4 tensors, .* found 0. Wrap the model"),
        (says(-math.inf, -math.inf), "but not all classes of a clip"),
        (lambda clips: None, "returned NoneType"),
        (lambda clips: clips.mean((1, 2, 3, 4)), r"shape \(4,\) for 4 clips: expected \[4, k\]"),
        (lambda clips: clips.mean((2, 3, 4))[:1], r"shape \(1, 3\) for 4 clips"),
        (lambda clips: clips.mean((1, 2, 3, 4))[:, None], "k >= 2 classes"),
        (lambda clips: clips.mean((3, 4)), r"shape \(4, 3, 2\)"),
        (says(0.0, math.nan), "NaN or infinite scores for 4 of 4"),
        (says(0.0, math.inf), "NaN or infinite"),
    ],
)
def test_scores_that_cannot_be_used_are_refused(model: Callable[[Tensor], Tensor], words: str) -> None:
    with pytest.raises(VictimError, match=words):
        Victim(model, batch_size=16)(make_clips())


@pytest.mark.parametrize("scores", [(2.0, -1.0), (0.5, 0.1), (3.0, 4.0), (1.5, -0.5)])
def test_probabilities_must_be_probabilities(scores: tuple[float, float]) -> None:
    with pytest.raises(VictimError, match=r"declared to return probabilities.*outputs='logits'\?"):
        Victim(says(*scores), outputs="probabilities")(make_clips())


def test_the_number_of_classes_may_not_change() -> None:
    counts = iter([3, 4])
    victim = Victim(lambda clips: torch.zeros(len(clips), next(counts)), batch_size=16)
    victim(make_clips())
    with pytest.raises(VictimError, match="4 scores per clip: expected 3"):
        victim(make_clips())
    with pytest.raises(VictimError, match="3 scores per clip: expected 2"):
        Victim(says(0, 0, 0), labels=["run", "walk"])(make_clips())


def test_classes_have_names_or_numbers() -> None:
    assert Victim(says(0, 0), labels=["run", "walk"]).label(1) == "walk"
    assert Victim(says(0, 0)).label(1) == "1"


@pytest.mark.parametrize("labels", [{1: "walk", 0: "run"}, {"0": "run", "1": "walk"}, ("run", "walk")])
def test_labels_may_be_a_dict_from_index_to_name(labels: Any) -> None:
    assert Victim(says(0, 0), labels=labels).labels == ["run", "walk"]


def test_a_class_is_found_by_its_name_in_any_case_or_by_its_index() -> None:
    victim = Victim(says(0, 0), labels=["Run", "walk"])
    assert [victim.class_index(wanted) for wanted in ("run", "WALK", "1", 0)] == [0, 1, 1, 0]
    with pytest.raises(UnknownNameError, match=r"'rnu'.*did you mean Run"):
        victim.class_index("rnu")
    for beyond in (2, "2", -1):
        with pytest.raises(ValueError, match="has 2 classes"):
            victim.class_index(beyond)
    unnamed = Victim(says(0, 0), name="mine")
    assert unnamed.class_index("7") == 7  # how many there are is not known before the first query
    with pytest.raises(ValueError, match="the victim 'mine' has no names; give the index"):
        unnamed.class_index("run")


def test_its_repr_tells_what_it_is_and_where() -> None:
    told = repr(Victim(says(0, 0), labels=["run", "walk"], spec=ClipSpec(frames=4), device="cpu", name="mine"))
    assert all(word in told for word in ("'mine'", "classes=2", "'logits'", "cpu", "frames=4", "queries=0"))


def test_its_identity_changes_with_all_that_decides_what_it_says() -> None:
    def make(change: float = 0, **settings: Any) -> dict[str, Any]:
        model = Counting()
        model.scale.data += change
        return Victim(model, **{"spec": ClipSpec(2, 8), "mean": (0.5, 0.5, 0.5)} | settings).identity()

    others = [
        make(1e-6),
        *(make(**{key: value}) for key, value in {"mean": (0, 0, 0), "std": (1, 1, 1), "name": "other"}.items()),
        make(spec=ClipSpec(2, 8, fit="squash")),
        make(layout="b t c h w"),
        make(outputs="probabilities"),
    ]
    assert make() == make(batch_size=3, labels=["a", "b", "c"], device="cpu"), "these decide nothing"
    told = [json.dumps(identity, sort_keys=True) for identity in (make(), *others)]
    assert len(set(told)) == len(told)
    assert all(json.loads(one) == identity for one, identity in zip(told, (make(), *others), strict=True))
    assert Victim(says(0, 1), name="rule").identity()["network"] is None


class Quantised(nn.Linear):
    """Keeps more than tensors in its state, as quantised layers do."""

    def get_extra_state(self) -> Any:
        return {"scale": 0.5, "bits": (torch.int8, torch.ones(2).to_sparse())}


def test_a_network_may_have_any_state() -> None:
    model = Quantised(3, 2)
    first, again = (Victim(network).identity()["network"] for network in (model, copy.deepcopy(model)))
    assert first == again
    with torch.no_grad():
        model.bias += 1
    assert Victim(model).identity()["network"] != first


def test_a_misspelt_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Making Victim: there is no setting 'labls'; did you mean labels"):
        Victim(says(0, 0), labls=["run", "walk"])  # type: ignore[call-arg]


# --- preprocessing -------------------------------------------------------------------------------


def seen_by(clips: Tensor, **kwargs: object) -> Tensor:
    """What the model is given."""
    seen = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch)
        return torch.zeros(len(clips), 2)

    Victim(model, **{"batch_size": 16} | kwargs)(clips)  # type: ignore[arg-type]
    return seen[0]


def test_mean_and_std_are_applied_by_channel() -> None:
    clips = make_clips()
    seen = seen_by(clips, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    for channel, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 0.25, 0.125), strict=True)):
        torch.testing.assert_close(seen[:, channel], (clips[:, channel] - mean) / std)


@pytest.mark.parametrize("layout", ["b c t h w", "b t c h w", "b t h w c", "t b c w h", "(b t) c h w", "b (t c) h w"])
def test_the_model_gets_its_own_axis_order(layout: str) -> None:
    clips = make_clips()
    seen = seen_by(clips, layout=layout)
    assert torch.equal(seen, rearrange(clips, f"b c t h w -> {layout}"))
    assert seen.is_contiguous()


def test_clips_of_another_size_are_resized() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 2, 32, 32)
    seen = seen_by(ramp, spec=ClipSpec(size=(16, 8)))
    assert seen.shape == (1, 3, 2, 16, 8)
    torch.testing.assert_close(seen[0, 0, 0, 0, 1:-1], ramp[0, 0, 0, 0].view(8, 4).mean(1)[1:-1], atol=0.01, rtol=0)


def test_the_clips_of_the_caller_are_left_alone() -> None:
    clips = make_clips()
    before = clips.clone()
    seen_by(clips, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert torch.equal(clips, before)


class InPlace(Counting):
    """Normalises what it is given in place."""

    def forward(self, clips: Tensor) -> Tensor:
        return super().forward(clips.sub_(0.45).div_(0.225))


class OutOfPlace(Counting):
    def forward(self, clips: Tensor) -> Tensor:
        return super().forward((clips - 0.45) / 0.225)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("layout", ["b c t h w", "b t c h w"])
def test_a_model_that_normalises_in_place_changes_nothing_of_the_caller(count: int, layout: str) -> None:
    clips = make_clips(count)[:, :, :1]  # of one frame, another layout is no copy either
    before = clips.clone()
    models = (nn.Sequential(Back(), model()) if layout != "b c t h w" else model() for model in (InPlace, OutOfPlace))
    inside, outside = (Victim(model, layout=layout)(clips) for model in models)
    assert torch.equal(inside, outside)
    assert torch.equal(clips, before)


class Back(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        return clips.transpose(1, 2)


def test_an_attack_on_a_model_that_normalises_in_place_is_the_same_attack() -> None:
    attack = GrowAndReduce("gaussian_noise", budget=30, grid=TubeletGrid(1, 4, 4))
    clips = make_clips(3)
    inside, outside = (attack(Victim(model()), clips.clone()) for model in (InPlace, OutOfPlace))
    assert torch.equal(inside.clean, outside.clean)
    assert torch.equal(inside.adversarial, outside.adversarial)
    assert torch.equal(inside.queries, outside.queries)


def test_half_precision_clips_reach_the_model_as_float32() -> None:
    assert seen_by(make_clips().half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"outputs": "scores"}, "outputs must be"),
        ({"layout": "b t h w"}, "layout must order the axes"),
        ({"layout": "b c t h h"}, "layout must order the axes"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": 1.5}, "batch_size must be a whole number of at least 1, or None, got 1.5"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"batch_size": "4"}, "batch_size must be a whole number"),
        ({"mean": (0.5,)}, "mean needs one value for each"),
        ({"mean": 0.5}, "mean needs one value for each"),
        ({"mean": "rgb"}, "mean needs one value for each"),
        ({"mean": (0.5, 0.5, math.nan)}, "mean must be finite"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be positive"),
        (
            {"mean": (123.675, 116.28, 103.53)},
            r"mean must be that of values in \[0, 1\].*Divide both mean and std by 255",
        ),
        ({"mean": (0, 0, 0), "std": (58.4, 57.1, 57.4)}, r"std must be that of values in \[0, 1\].*std=\(1/255"),
        ({"labels": "run"}, "labels must be a list of class names, got 'run'"),
        ({"labels": {"run": 0, "walk": 1}}, r"id2label, not label2id.*got the keys \['run', 'walk'\]"),
        ({"labels": {1: "run", 2: "walk"}}, "every index from 0 on"),
        ({"device": "nope"}, "Making a Victim: expected a device that works here, got 'nope'"),
        ({"device": "cuda:97"}, "Making a Victim: expected a device that works here, got 'cuda:97'"),
    ],
)
def test_a_victim_that_cannot_be_made_says_why(kwargs: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Victim(says(0, 0), **kwargs)


def test_a_batch_size_that_is_set_later_must_be_one_too() -> None:
    victim = Victim(says(0, 0))
    with pytest.raises(ValueError, match=r"got 1\.5"):
        victim.batch_size = 1.5  # type: ignore[assignment]
    assert victim.batch_size is None


@pytest.mark.parametrize("spec", ["x", 16, {"frames": 8}])
def test_a_spec_must_be_one(spec: object) -> None:
    with pytest.raises(
        TypeError, match=r"Victim: spec must be a ClipSpec, such as ClipSpec\(frames=16, size=112\), got"
    ):
        Victim(says(0, 0), spec=spec)  # type: ignore[arg-type]


def test_a_model_must_be_callable() -> None:
    with pytest.raises(TypeError, match="expected a callable"):
        Victim("resnet")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        (torch.rand(3, 2, 8, 8), r"got shape \(3, 2, 8, 8\). A single clip needs a batch axis"),
        (torch.rand(1, 2, 3, 8, 8), "b t c h w -> b c t h w"),
        (torch.rand(1, 2, 8, 8, 3), "b t h w c -> b c t h w"),
        (torch.rand(1, 1, 2, 8, 8), r"expected clips \[b 3 t h w\]"),
        (torch.rand(0, 3, 2, 8, 8), "at least one clip"),
        (torch.rand(1, 3, 0, 8, 8), "at least one clip and one pixel"),
        (torch.randint(256, (1, 3, 2, 8, 8), dtype=torch.uint8), r"got torch.uint8.*clips.float\(\) / 255"),
        (torch.full((1, 3, 2, 8, 8), 255.0), r"values in \[255, 255\].*Divide 8-bit values by 255"),
        (torch.full((1, 3, 2, 8, 8), -0.1), "do not normalise"),
        (
            torch.full((1, 3, 2, 8, 8), 1.0000001),
            r"values in \[1.0000001192\d*, 1.0000001192\d*\].*clips.clamp\(0, 1\)",
        ),
        (torch.full((1, 3, 2, 8, 8), math.nan), r"expected clips in \[0, 1\]"),
        ([[0.5]], "expected a tensor of clips .* got list"),
    ],
)
def test_clips_that_cannot_be_used_are_refused_with_a_hint(clips: Tensor, words: str) -> None:
    with pytest.raises(ClipError, match=words):
        Victim(Counting())(clips)
    with pytest.raises(ClipError, match=words):
        Victim(Counting()).check(clips)


# --- check ---------------------------------------------------------------------------------------


def faults(model: Callable[[Tensor], Tensor], clips: Tensor | None = None, train: bool = False) -> set[str]:
    victim = Victim(model)
    if train:
        assert isinstance(model, nn.Module)
        model.train()
    report = victim.check(make_clips(4) if clips is None else clips)
    assert report.ok == all(finding.ok for finding in report)
    return {finding.check for finding in report if not finding.ok}


def test_a_fit_model_passes_every_check() -> None:
    assert faults(lambda clips: 100 * clips.mean((2, 3, 4))) == set()


def test_unfit_models_are_found_out() -> None:
    def sharp(clips: Tensor) -> Tensor:
        return 100 * clips.mean((2, 3, 4))

    noise = torch.Generator().manual_seed(0)
    assert faults(lambda clips: sharp(clips) + torch.randn(len(clips), 3, generator=noise)) >= {"determinism"}
    assert faults(lambda clips: sharp(clips) - 90 * clips.mean((0, 2, 3, 4)) * rows(1, 0, 1)) == {"batch independence"}
    assert faults(says(0.0, 0.0, 0.0)) == {"confidence", "dependence"}
    assert faults(lambda clips: 0.1 * clips.mean((2, 3, 4))[:, torch.arange(90) % 3]) >= {"confidence"}  # "0.01"
    assert "train mode" in faults(nn.Sequential(Counting(), nn.Identity()), train=True)
    assert "range" in faults(sharp, make_clips() / 255 / 255)


def test_clips_that_will_be_resized_are_found_out() -> None:
    victim = Victim(lambda clips: 100 * clips.mean((2, 3, 4)), spec=ClipSpec(frames=2, size=(16, 8)))
    [finding] = [finding for finding in victim.check(make_clips(4)) if not finding.ok]
    assert finding.check == "size"
    assert "resized to the (16, 8) px of the spec" in finding.detail
    assert victim.check(torch.rand(2, 3, 2, 16, 8)).ok


@pytest.mark.parametrize(("frames", "ok"), [(5, False), (16, True), (None, True)])
def test_clips_of_another_number_of_frames_are_found_out(frames: int | None, ok: bool) -> None:
    clips = torch.rand(2, 3, frames or 7, 16, 16)
    spec = ClipSpec(frames=frames and 16, size=(16, 16))
    report = Victim(lambda clips: 1000 * clips.mean((2, 3, 4)), spec=spec).check(clips)
    assert report.ok is ok
    assert [finding.check for finding in report if not finding.ok] == ([] if ok else ["frames"])
    assert ok or "clips of 5 frames, but the spec says 16" in str(report)


@pytest.mark.filterwarnings("error")
def test_probabilities_taken_for_logits_are_found_out() -> None:
    def softmax(clips: Tensor) -> Tensor:
        return (100 * clips.mean((2, 3, 4))).softmax(1)

    report = Victim(softmax).check(make_clips())
    [finding] = [finding for finding in report if finding.check == "outputs"]
    assert not finding.ok
    assert "outputs='probabilities'" in finding.detail
    assert Victim(softmax, outputs="probabilities").check(make_clips()).ok
    assert Victim(lambda clips: 100 * clips.mean((2, 3, 4))).check(make_clips()).ok


def test_probabilities_taken_for_logits_are_warned_of_at_the_first_query() -> None:
    def softmax(clips: Tensor) -> Tensor:
        return clips.mean((2, 3, 4)).softmax(1)

    victim = Victim(softmax, name="soft", batch_size=1)
    with pytest.warns(UserWarning, match=r"'soft' returned .*probabilities, taken for logits.*outputs=") as caught:
        victim(make_clips())
    assert len(caught) == 1
    assert TYPES_ARE_CHECKED or caught[0].filename == __file__  # the checker puts frames of its own in between
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        victim(make_clips())  # said once
        Victim(softmax, outputs="probabilities")(make_clips())
        Victim(lambda clips: softmax(clips).log())(make_clips())
        Victim(lambda clips: clips.mean((2, 3, 4)) / clips.mean((2, 3, 4))[:1].sum())(make_clips())  # a sum of 1, once


def test_a_model_for_values_in_0_to_255_is_found_out() -> None:
    def model(clips: Tensor) -> Tensor:
        return 100 * ((clips - 123) / 58).mean((2, 3, 4)) * torch.tensor([1.0, 2.0, 3.0]) + make_logits(clips)

    def make_logits(clips: Tensor) -> Tensor:
        return torch.tensor([9.0, 0.0, 0.0]).expand(len(clips), 3)

    four = make_clips(4) * torch.linspace(0.2, 1, 4).view(4, 1, 1, 1, 1)
    report = Victim(model).check(four)
    [finding] = [finding for finding in report if finding.check == "dependence"]
    assert not finding.ok
    assert "std=(1/255, 1/255, 1/255)" in finding.detail
    scaled = Victim(model, std=(1 / 255,) * 3).check(four)
    assert next(finding for finding in scaled if finding.check == "dependence").ok
    alone = Victim(model).check(four[:1])  # one clip is enough
    assert not next(finding for finding in alone if finding.check == "dependence").ok


class Normalises(nn.Module):
    """With mean and std of its own, as buffers or as lists."""

    def __init__(self, buffers: bool) -> None:
        super().__init__()
        if buffers:
            self.register_buffer("pixel_mean", torch.full((3, 1, 1, 1), 0.45))
            self.register_buffer("pixel_std", torch.full((3, 1, 1, 1), 0.225))
        else:
            self.mean, self.std = [0.45] * 3, [0.225] * 3

    def forward(self, clips: Tensor) -> Tensor:
        return (clips - 0.45) / 0.225


@pytest.mark.parametrize("buffers", [True, False])
def test_normalising_twice_is_found_out(buffers: bool) -> None:
    model = nn.Sequential(Normalises(buffers), nn.BatchNorm3d(3), Counting())
    twice = Victim(model, mean=(0.45,) * 3, std=(0.225,) * 3).check(make_clips())
    [finding] = [finding for finding in twice if finding.check == "normalisation"]
    assert not finding.ok
    assert "0 (Normalises): leave out mean and std of the Victim" in finding.detail
    assert "normalisation" not in {finding.check for finding in Victim(model).check(make_clips()) if not finding.ok}
    once = Victim(model[1:], mean=(0.45,) * 3, std=(0.225,) * 3).check(make_clips())
    assert next(finding for finding in once if finding.check == "normalisation").ok


def test_a_report_is_read_line_by_line_and_its_price_is_known() -> None:
    model = Counting()
    victim = Victim(model)
    report = victim.check(make_clips(3))
    assert len(str(report).splitlines()) == len(report)
    assert str(report).startswith("[ok] range")
    assert sum(model.batches) == victim.queries == 2 * 3 + 2


# --- goals ---------------------------------------------------------------------------------------

LOG_PROBS = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]).log()


def test_margins_are_differences_of_log_probabilities() -> None:
    both = rows(0, 1)
    torch.testing.assert_close(
        Misclassify([0, 2]).margin(LOG_PROBS, both), torch.tensor([math.log(0.5 / 0.3), math.log(0.2 / 0.4)])
    )
    torch.testing.assert_close(
        Target([1, 2]).margin(LOG_PROBS, both), torch.tensor([math.log(0.5 / 0.3), math.log(0.4 / 0.2)])
    )


@pytest.mark.parametrize("goal", [Misclassify([0]), Misclassify([1]), Target([0]), Target([1])])
def test_a_tie_counts_for_the_victim(goal: Goal) -> None:
    tied = LOG_PROBS[1:]
    assert goal.margin(tied, rows(0)).tolist() == [0.0]
    assert goal.success(tied, rows(0)).tolist() == [False]


@pytest.mark.thorough
@given(
    scores=st.lists(st.integers(-4, 4), min_size=2, max_size=6),
    label=st.integers(0, 5),
)
def test_a_goal_holds_exactly_where_the_prediction_is_as_wanted(scores: list[int], label: int) -> None:
    label %= len(scores)
    log_probs = torch.tensor([scores], dtype=torch.float64).log_softmax(1)
    others = max(score for index, score in enumerate(scores) if index != label)
    misclassified = Misclassify(label).success(log_probs, rows(0))
    reached = Target(label).success(log_probs, rows(0))
    margin = Misclassify(label).margin(log_probs, rows(0))
    assert misclassified.item() == (others > scores[label])
    assert reached.item() == (scores[label] > others)
    torch.testing.assert_close(margin, torch.tensor([scores[label] - others], dtype=torch.float64))
    torch.testing.assert_close(Target(label).margin(log_probs, rows(0)), -margin)


def test_rows_say_whose_goal_it_is() -> None:
    goal = Misclassify([0, 1, 2])
    assert goal.success(LOG_PROBS, rows(2, 0)).tolist() == [True, False]
    assert goal[rows(2, 0)].classes.tolist() == [2, 0]
    assert isinstance(Target([4, 5])[:1], Target)


@pytest.mark.parametrize("goal", [Misclassify, Target])
def test_goals_that_do_not_fit_are_refused(goal: type[Goal]) -> None:
    goal([0, 2]).validate(2, 3)
    with pytest.raises(ValueError, match=r"classes 0 to 2, but the goal names \[3, -1\]"):
        goal([3, 0, -1]).validate(3, 3)
    with pytest.raises(ValueError, match="one class for each of the 3 clips, got 2"):
        goal([0, 2]).validate(3, 3)
    for classes in (torch.tensor([0.5]), torch.tensor([True]), [1.0]):
        with pytest.raises(TypeError, match="expected integer class indices"):
            goal(classes)  # type: ignore[arg-type]

"""The victim, its query_budget and the goals: every clip that reaches the model is counted, and
nothing unfit gets past."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec
from vidmarl.errors import BudgetError, ClipError, SettingsError, UnknownNameError, VictimError
from vidmarl.queries.budget import QueryBudget
from vidmarl.queries.goals import Goal, Misclassify, Target
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


def test_a_reopened_clip_has_its_whole_budget_again() -> None:
    query_budget = QueryBudget(Victim(Counting()), 2, 1)
    query_budget.query(make_clips(2), rows(0, 1))
    query_budget.reopen(rows(1))
    assert query_budget.left.tolist() == [0, 1]


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


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda clips: {"logits": clips}, "returned dict"),
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


def test_half_precision_clips_reach_the_model_as_float32() -> None:
    assert seen_by(make_clips().half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"outputs": "scores"}, "outputs must be"),
        ({"layout": "b t h w"}, "layout must order the axes"),
        ({"layout": "b c t h h"}, "layout must order the axes"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"mean": (0.5,)}, "mean needs one value for each"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be positive"),
    ],
)
def test_a_victim_that_cannot_be_made_says_why(kwargs: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Victim(says(0, 0), **kwargs)


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
    assert faults(says(0.0, 0.0, 0.0)) == {"confidence"}
    assert "train mode" in faults(nn.Sequential(Counting(), nn.Identity()), train=True)
    assert "range" in faults(sharp, make_clips() / 255 / 255)


def test_clips_that_will_be_resized_are_found_out() -> None:
    victim = Victim(lambda clips: 100 * clips.mean((2, 3, 4)), spec=ClipSpec(size=(16, 8)))
    [finding] = [finding for finding in victim.check(make_clips(4)) if not finding.ok]
    assert finding.check == "size"
    assert "resized to the (16, 8) px of the spec" in finding.detail
    assert all(finding.ok for finding in victim.check(torch.rand(2, 3, 4, 16, 8)) if finding.check == "size")


def test_a_report_is_read_line_by_line_and_its_price_is_known() -> None:
    model = Counting()
    victim = Victim(model)
    report = victim.check(make_clips(3))
    assert len(str(report).splitlines()) == len(report)
    assert str(report).startswith("[ok] range")
    assert sum(model.batches) == victim.queries == 2 * 3 + 1


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

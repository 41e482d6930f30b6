"""Victims that say nothing but a class: what they may return, what check says of them, and attacks
by decisions alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from vidmarl import AttackResult, GrowAndReduce, RandomCells, RLAttack, Victim
from vidmarl.attacks import ATTACKS, STDE, Attack
from vidmarl.attacks.sensitivity.measure import sensitivity
from vidmarl.errors import SettingsError, VictimError
from vidmarl.report import write_report
from vidmarl.testing import easy_clips
from vidmarl.victims.decisions import decisions_only

NAMES = ["top left", "top right", "bottom left", "bottom right"]
CLIPS = torch.rand(4, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def brightest(clips: Tensor) -> Tensor:
    """Scores [b 4]: which quarter of the frame is the brightest."""
    return 50 * torch.nn.functional.avg_pool3d(clips.mean(1, keepdim=True), (clips.shape[2], 8, 8)).flatten(1)


SAID = brightest(CLIPS).argmax(1)


@pytest.mark.parametrize(
    "decide",
    [
        lambda clips: brightest(clips).argmax(1),
        lambda clips: brightest(clips).argmax(1, keepdim=True),
        lambda clips: brightest(clips).argmax(1).numpy().astype(np.int32),
        lambda clips: brightest(clips).argmax(1).tolist(),
        lambda clips: [NAMES[i] for i in brightest(clips).argmax(1)],
        lambda clips: np.array([NAMES[i] for i in brightest(clips).argmax(1)]),
        lambda clips: {"decisions": brightest(clips).argmax(1), "seconds": torch.tensor([len(clips)])},
        lambda clips: {"label": brightest(clips).argmax(1), "probabilities": brightest(clips)},
        lambda clips: (brightest(clips).argmax(1), "version 2"),
        lambda clips: torch.nn.functional.one_hot(brightest(clips).argmax(1), 4),
        lambda clips: brightest(clips).softmax(1),
        lambda clips: type("Output", (), {"logits": brightest(clips)})(),
    ],
)
def test_a_decision_may_be_an_index_a_name_or_the_highest_score(decide: Callable[[Tensor], Any]) -> None:
    victim = Victim(decide, outputs="decisions", labels=NAMES)
    said = victim(CLIPS)
    assert said.argmax(1).tolist() == SAID.tolist()
    assert torch.equal(said.exp(), torch.nn.functional.one_hot(SAID, 4).float())
    assert victim.queries == 4
    assert victim.decisions_only


def test_rows_of_scores_need_no_names() -> None:
    assert Victim(brightest, outputs="decisions")(CLIPS).argmax(1).tolist() == SAID.tolist()


@pytest.mark.parametrize(
    ("decide", "labels", "words"),
    [
        (lambda clips: [0] * len(clips), None, r"of how many classes\? Say Victim\(..., labels="),
        (lambda clips: [4] * len(clips), NAMES, "decided for a class that it does not have.*4 classes"),
        (lambda clips: [-1] * len(clips), NAMES, "decided for a class that it does not have"),
        (lambda clips: ["top"] * len(clips), NAMES, "decided for a class that it does not have"),
        (lambda clips: [0.5] * len(clips), NAMES, "expected"),
        (lambda clips: [0] * (len(clips) + 1), NAMES, "expected"),
        (lambda clips: torch.full((len(clips), 4), torch.nan), NAMES, "NaN or infinite"),
    ],
)
def test_what_is_no_decision_is_an_error(decide: Callable[[Tensor], Any], labels: Any, words: str) -> None:
    with pytest.raises(VictimError, match=words):
        Victim(decide, outputs="decisions", labels=labels)(CLIPS)


def test_names_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n\n", "utf-8")
    victim = Victim(lambda clips: brightest(clips).argmax(1), outputs="decisions", labels=tmp_path / "names.txt")
    assert victim.labels == NAMES
    assert victim(CLIPS).argmax(1).tolist() == SAID.tolist()


def test_check_says_that_there_are_decisions_only() -> None:
    victim = Victim(brightest, outputs="decisions", labels=NAMES)
    report = victim.check(CLIPS)
    assert report.ok, report
    assert "confidence" not in [finding.check for finding in report]
    assert "decisions only: attacks that go by scores refuse it" in str(report)
    assert "all of them alike" in str(
        Victim(lambda clips: [0] * len(clips), outputs="decisions", labels=NAMES).check(CLIPS)
    )


# --- attacks -------------------------------------------------------------------------------------

EASY = easy_clips()
BY_DECISIONS = {"GrowAndReduce", "RLAttack", "RandomCells", "STDE"}


def test_these_attacks_go_by_decisions_alone() -> None:
    assert {name for name, kind in ATTACKS.classes().items() if not kind.needs_scores} == BY_DECISIONS


@pytest.mark.parametrize("kind", [kind for kind in ATTACKS.classes().values() if kind.needs_scores])
def test_an_attack_that_needs_scores_refuses_before_the_first_query(kind: type[Attack]) -> None:
    victim = Victim(brightest, outputs="decisions")
    attack = kind(budget=5, progress=False)
    with pytest.raises(
        SettingsError, match=r"goes by scores.*By decisions alone go GrowAndReduce, RandomCells, RLAttack"
    ):
        attack(victim, CLIPS)
    assert victim.queries == 0


def test_sensitivity_needs_scores() -> None:
    with pytest.raises(SettingsError, match="goes by scores"):
        sensitivity(Victim(brightest, outputs="decisions"), CLIPS, progress=False)


def test_a_user_s_own_attack_runs_on_a_margin_of_one() -> None:
    class Everything(Attack):
        """Everything at once."""

        def search(self, clip: Any) -> Any:
            response = yield clip.zeros() + 1
            assert abs(float(response.margin)) == 1

    result = Everything("brightness", budget=3, progress=False)(Victim(brightest, outputs="decisions"), CLIPS)
    assert result.queries.tolist() == [2] * 4


def attacks() -> dict[str, Callable[[], Attack]]:
    how: dict[str, Any] = {"budget": 30, "progress": False}
    return {
        "RandomCells": lambda: RandomCells("brightness", **how),
        "GrowAndReduce": lambda: GrowAndReduce("brightness", **how),
        "STDE": lambda: STDE(donors=CLIPS, **how),
    }


@pytest.mark.parametrize("name", attacks())
def test_an_attack_by_decisions_does_the_same_with_scores_and_without(name: str) -> None:
    victim = Victim(brightest, labels=NAMES)
    with_scores = attacks()[name]()(victim, CLIPS)
    without = attacks()[name]()(decisions_only(victim), CLIPS)
    assert with_scores.success.any()
    fooled = without.success
    assert torch.equal(fooled, with_scores.success)
    assert torch.equal(without.adversarial[fooled], with_scores.adversarial[fooled])
    assert without.queries.tolist() == with_scores.queries.tolist()
    assert torch.equal(without.history["margin"].nan_to_num(9), with_scores.history["margin"].sign().nan_to_num(9))
    assert torch.equal(without.history["l2"].nan_to_num(-1), with_scores.history["l2"].nan_to_num(-1))


def test_the_result_says_that_it_came_of_decisions_only(tmp_path: Path) -> None:
    victim = Victim(brightest, labels=NAMES)
    result = attacks()["GrowAndReduce"]()(decisions_only(victim), CLIPS)
    assert result.settings["decisions_only"] is True
    assert result.provenance["victim"]["outputs"] == "decisions"
    assert "by decisions only" in repr(result)
    result.save(tmp_path / "result")
    assert AttackResult.load(tmp_path / "result").settings["decisions_only"] is True
    page = write_report(tmp_path / "report.html", result).read_text("utf-8")
    assert "said nothing but a class" in page
    with_scores = attacks()["GrowAndReduce"]()(victim, CLIPS)
    assert "decisions_only" not in with_scores.settings
    assert "decisions" not in repr(with_scores)


@pytest.mark.thorough
@pytest.mark.parametrize("init", ["clean", "alternating"])
@pytest.mark.parametrize("agents", ["gaussian_noise", "dead_pixels"])
def test_the_agents_work_on_decisions(agents: str, init: Literal["clean", "alternating"]) -> None:
    victim = decisions_only(Victim(brightest))
    result = RLAttack(agents, budget=40, init=init, progress=False)(victim, CLIPS)
    assert result.success.any()
    assert int(result.queries.sum()) == victim.queries
    again = RLAttack(agents, budget=40, init=init, progress=False)(victim, CLIPS)
    assert torch.equal(result.adversarial, again.adversarial)


def test_the_path_shows_a_decision_as_one_or_nothing() -> None:
    result = attacks()["GrowAndReduce"]()(decisions_only(Victim(brightest)), CLIPS)
    i = int(result.success.nonzero()[0])
    label, runner_up = (
        trace.y for trace in result.trajectory(i).data if trace.name in (str(int(result.classes[i])), "runner-up")
    )
    assert set(np.asarray(label) + np.asarray(runner_up)) == {1.0}

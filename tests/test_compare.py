"""`vidmarl.compare`: attacks beside each other in one line."""

from __future__ import annotations

import html
import math
import sys
from typing import Any

import pytest
import torch
from conftest import TYPES_ARE_CHECKED
from known_victims import GRID, SHAPE, SIGNED, Linear

import vidmarl
from vidmarl import AttackResult, GrowAndReduce, RandomCells, SquareTubes, Victim, metrics
from vidmarl.benchmark.compare import Comparison, compare
from vidmarl.errors import SettingsError, UnknownNameError, VictimError
from vidmarl.report import verdict

CELLS = torch.rand(7, 3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
CLIPS = CELLS.repeat_interleave(8, 3).repeat_interleave(8, 4)
HOW: dict[str, Any] = {"budget": 30, "grid": GRID, "progress": False}


@pytest.fixture(scope="module")
def found() -> Comparison:
    attacks = {"grow": GrowAndReduce(SIGNED, **HOW), "<b>random</b>": RandomCells(SIGNED, **HOW)}
    return vidmarl.compare(attacks, Victim(Linear()), CLIPS)


def test_the_results_are_those_of_the_attacks(found: Comparison) -> None:
    alone = GrowAndReduce(SIGNED, **HOW)(Victim(Linear()), CLIPS)
    assert list(found.results) == ["grow", "<b>random</b>"]
    assert torch.equal(found.results["grow"].adversarial, alone.adversarial)
    assert found.results["grow"].settings == alone.settings | {"training_queries": 0}


def test_the_table_is_that_of_a_benchmark(found: Comparison) -> None:
    table = found.table()
    assert table[["attack", "budget"]].to_numpy().tolist() == [
        [attack, budget] for attack in found.results for budget in (25, 30)
    ]
    grow, random = found.results.values()
    expected = metrics.summarise(random)
    assert table[table["attack"] == "<b>random</b>"][expected.columns].to_numpy() == pytest.approx(
        expected.to_numpy(), nan_ok=True
    )
    *_, last = table.to_dict("records")
    ratio = metrics.size_ratio(grow, random, 30)
    assert (last["L2 ratio"], last["L2 ratio low"], last["L2 p"]) == (ratio.ratio, ratio.low, ratio.p)
    assert not math.isnan(ratio.low)
    assert math.isnan(table["L2 ratio"][0]), "the first is compared with no other"


def test_a_notebook_shows_the_table(found: Comparison) -> None:
    page = found._repr_html_()
    assert "2 attacks on 7 clips, 30 queries for each" in page
    assert "&lt;b&gt;random&lt;/b&gt;" in page
    assert "<b>random" not in page
    assert "<script" not in page
    for heading in ("Fooled", "L2 at 25", "L2 at 30", "L2, grow / this"):
        assert f"<th>{heading}</th>" in page
        assert heading in repr(found)
    assert metrics.INTERVALS in page


@pytest.mark.thorough
def test_it_says_who_was_ahead_and_how_surely(found: Comparison) -> None:
    for line in verdict.ahead(found.results):
        assert line in repr(found)
        assert html.escape(line) in found._repr_html_()
    assert verdict.ahead(found.results)


def test_a_clip_is_shown_under_each_attack(found: Comparison) -> None:
    figure = found.clip(2)
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles[0] == "original"
    assert titles[1].startswith("grow: ")
    assert len(titles) == 3


def test_the_figure_has_a_curve_of_each_attack(found: Comparison) -> None:
    names = {trace.name for trace in found.plot().data}
    assert {"grow", "&lt;b&gt;random&lt;/b&gt;"} <= names


def test_a_list_of_names_at_one_budget() -> None:
    attack = RandomCells(SIGNED, **HOW)
    found = compare([attack, "square_tubes"], Victim(Linear()), CLIPS[:2], budget=4)
    assert list(found.results) == ["random_cells", "square_tubes"]
    assert {result.settings["budget"] for result in found.results.values()} == {4}
    assert attack.budget == 30, "the attack that was given stays as it was"
    assert list(compare(attack, Victim(Linear()), CLIPS[:2]).results) == ["random_cells"]


@pytest.mark.parametrize(
    ("attacks", "budget", "error", "words"),
    [
        ([], None, ValueError, "got none"),
        (["random_cells", "RandomCells"], None, ValueError, "two of them are called 'random_cells'"),
        ([RandomCells(budget=9), SquareTubes(budget=7)], None, ValueError, r"Give it: compare\(..., budget=9\)"),
        (["random_cell"], None, UnknownNameError, "did you mean random_cells"),
        (["random_cells"], 0, ValueError, "budget must be at least 1"),
        (["random_cells"], "many", SettingsError, "budget must be a whole number or None"),
    ],
)
def test_mistakes_cost_no_query(attacks: Any, budget: Any, error: type[Exception], words: str) -> None:
    victim = Victim(Linear())
    with pytest.raises(error, match=words):
        compare(attacks, victim, CLIPS, budget=budget)
    assert victim.queries == 0


class Tired(Linear):
    """Says nothing more after so many clips."""

    def __init__(self, clips: int, error: BaseException) -> None:
        super().__init__()
        self.left, self.error = clips, error

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.left -= len(clips)
        if self.left < 0:
            raise self.error
        return super().forward(clips)


def test_what_was_found_before_an_error_is_handed_over() -> None:
    attacks = {
        "random": RandomCells(SIGNED, **HOW | {"budget": 4}),
        "grow": GrowAndReduce(SIGNED, **HOW | {"budget": 4}),
    }
    with pytest.raises(VictimError) as caught:
        compare(attacks, Victim(Tired(7 * 5, ConnectionError("gone"))), CLIPS)
    found = caught.value.result  # type: ignore[attr-defined]
    assert isinstance(found, Comparison)
    assert [result.complete for result in found.results.values()] == [True, False]
    assert set(found.table()["attack"]) == {"random"}
    assert "grow was cut short and is left out" in repr(found)
    assert "grow was cut short" in found._repr_html_()
    with pytest.raises(VictimError) as caught:
        compare(attacks, Victim(Tired(9, ConnectionError("gone"))), CLIPS)
    found = caught.value.result  # type: ignore[attr-defined]
    assert found.table().empty
    assert "random was cut short" in found._repr_html_()
    with pytest.raises(VictimError) as caught:
        compare(attacks, Victim(Tired(0, ConnectionError("gone"))), CLIPS)
    assert caught.value.result is None  # type: ignore[attr-defined]


@pytest.mark.thorough
@pytest.mark.skipif(TYPES_ARE_CHECKED, reason="who calls is the checker")
def test_ctrl_c_in_a_cell_gives_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    victim = Victim(Tired(7 * 35, KeyboardInterrupt()))
    attacks = [RandomCells(SIGNED, **HOW), GrowAndReduce(SIGNED, **HOW)]
    cell = {"__name__": "__main__", "compare": compare, "attacks": attacks, "victim": victim, "clips": CLIPS}
    with pytest.warns(UserWarning, match="Interrupted: this is what has been found so far, Comparison"):
        exec("found = compare(attacks, victim, clips)", cell)
    found = cell["found"]
    assert isinstance(found, Comparison)
    assert [result.complete for result in found.results.values()] == [True, False]
    assert isinstance(found.results["grow_and_reduce"], AttackResult)

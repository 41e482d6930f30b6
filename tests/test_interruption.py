"""Attacks that are cut short, by the victim, by Ctrl-C or by anything else, wherever it comes: what
was found is handed over, and is what an undisturbed attack had found by then."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from conftest import TYPES_ARE_CHECKED
from hypothesis import given, settings
from hypothesis import strategies as st
from known_victims import GRID, SHAPE, SIGNED, Linear
from torch import Tensor, nn

import vidmarl.queries.budget
import vidmarl.queries.scheduler
import vidmarl.queries.session
import vidmarl.victims.victim
from vidmarl import Misclassify, Victim
from vidmarl.attacks import Attack, AttackResult, as_attack
from vidmarl.attacks.search.linf_ball import BallAttack
from vidmarl.errors import VictimError
from vidmarl.queries.session import Session

NAMES = ("grow_and_reduce", "greedy_sensitivity", "rl", "sparse_nes", "simba_dct", "signed_blocks")
"""Strength maps, blocks of agents, probes, pixels; one query at a time and many."""

CELLS = torch.rand(4, 3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
CLIPS = CELLS.repeat_interleave(8, 3).repeat_interleave(8, 4)


def make(name: str) -> Attack:
    attack = as_attack(name, budget=10, grid=GRID, progress=False)
    if not isinstance(attack, BallAttack):
        attack.distortion = SIGNED
    return attack


class FailsAt(nn.Module):
    """Linear, but for one call, which ends otherwise.

    Args:
        call: which one, from 1 on.
        how: an exception, or what is returned.
    """

    def __init__(self, call: int, how: BaseException | float) -> None:
        super().__init__()
        self.linear, self.call, self.how, self.calls = Linear(), call, how, 0

    def forward(self, clips: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.call:
            if isinstance(self.how, BaseException):
                raise self.how
            return torch.full((len(clips), 4), self.how)
        scores: Tensor = self.linear(clips)
        return scores


class Diary:
    """An undisturbed attack: its result, and the best of each clip after each answer."""

    def __init__(self, name: str) -> None:
        self.best: dict[tuple[int, int], tuple[Tensor, Tensor, bool]] = {}
        settle = Session.settle

        def noted(session: Session) -> None:
            settle(session)
            answered = session.history["score"].isfinite().sum(1).tolist()
            for row, count in enumerate(answered):
                entry = (session.best[row].clone(), session.best_strength[row].clone(), bool(session.fooled[row]))
                self.best.setdefault((row, count), entry)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Session, "settle", noted)
            self.model = FailsAt(0, 0.0)
            self.attack = make(name)
            self.whole = self.attack(Victim(self.model), CLIPS)
        assert self.whole.complete

    @functools.cached_property
    def lines(self) -> Counter[str]:
        """How many lines it runs of each function of the watched modules."""
        victim = Victim(Linear())
        with interrupted_at("", 0) as seen:
            self.attack(victim, CLIPS)
        return seen

    def at(self, row: int, answered: int) -> tuple[Tensor, Tensor, bool]:
        """The best after so many answers."""
        return self.best.get((row, answered)) or self.at(row, answered - 1)  # a probe changes nothing

    def assert_is_a_prefix(self, part: AttackResult) -> None:
        """Whether a result is what this attack had found at some moment."""
        assert not part.complete
        assert part.history["score"].shape[1] == part.queries.max(), "the history is as long as the queries counted"
        answered = part.history["score"].isfinite()
        counts = answered.sum(1)
        assert torch.equal(answered, torch.arange(answered.shape[1]) < counts[:, None]), "what is missing is last"
        assert (counts <= part.queries).all()
        for row, count in enumerate(counts.tolist()):
            for key, values in part.history.items():
                assert torch.equal(
                    values[row, :count].nan_to_num(-7), self.whole.history[key][row, :count].nan_to_num(-7)
                )
                assert values[row, count:].isnan().all(), "a query that was never answered"
            best, strength, fooled = self.at(row, count) if count > 1 else (CLIPS_8BIT[row], torch.zeros(SHAPE), False)
            assert torch.equal(part.adversarial[row], best)
            assert torch.equal(part.strength[row], strength)
            assert bool(part.success[row]) == fooled
            if part.finished[row]:
                assert count == part.queries[row] == self.whole.queries[row]
        for name in ("clean", "classes", "prediction", "skipped", "full_l2"):
            assert torch.equal(getattr(part, name), getattr(self.whole, name)), name


FIVE = torch.cat([CLIPS, CLIPS[:1].flip(-1)])
CLIPS_8BIT = (CLIPS * 255).round() / 255
diary = functools.cache(Diary)


@pytest.mark.slow
@settings(max_examples=25)
@given(data=st.data())
def test_a_victim_that_fails_at_any_call(data: st.DataObject) -> None:
    """A request that fails is counted for all its clips, and answered for none."""
    undisturbed = diary(data.draw(st.sampled_from(NAMES)))
    call = data.draw(st.integers(1, undisturbed.model.calls))
    how: Any = data.draw(st.sampled_from([RuntimeError("broke"), torch.nan, KeyboardInterrupt(), SystemExit(3)]))
    expected = type(how) if isinstance(how, KeyboardInterrupt | SystemExit) else VictimError
    victim = Victim(FailsAt(call, how))
    with pytest.raises(expected) as caught:
        undisturbed.attack(victim, CLIPS)
    part = caught.value.result  # type: ignore[attr-defined]
    first = -(-len(CLIPS) // 2)  # calls for the clean predictions
    if call <= first:
        assert part is None
        assert not hasattr(caught.value, "__notes__")
        return
    undisturbed.assert_is_a_prefix(part)
    assert part.missing == 0
    unanswered = part.queries.sum() - part.history["score"].isfinite().sum()
    assert unanswered >= 1
    assert 0 <= part.queries.sum() - victim.queries < unanswered, "all that was asked is counted"
    assert caught.value.__notes__ == [
        "What was found by then is this exception's `result`, at a prompt and in a notebook `sys.last_value.result`."
    ]


WATCHED = {
    module.__file__
    for module in (vidmarl.queries.session, vidmarl.queries.budget, vidmarl.queries.scheduler, vidmarl.victims.victim)
}


HOLDS_A_LOCK = {"count"}
"""Python lets no signal come between a `with` and the release of its lock. A tracer does: what then
asks for the lock waits for ever."""


@contextlib.contextmanager
def interrupted_at(function: str, n: int) -> Iterator[Counter[str]]:
    """Lets Ctrl-C come before the `n`-th line that is run of functions of that name in these
    modules; counts the lines of each function."""
    seen, before = Counter[str](), sys.gettrace()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            seen[frame.f_code.co_name] += 1
            if frame.f_code.co_name == function and seen[function] == n:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


@pytest.mark.slow
@pytest.mark.skipif(TYPES_ARE_CHECKED, reason="the lines are those of the checker")
@settings(max_examples=30)
@given(data=st.data())
def test_ctrl_c_at_any_line(data: st.DataObject) -> None:
    undisturbed = diary(data.draw(st.sampled_from(NAMES)))
    function = data.draw(st.sampled_from(sorted(set(undisturbed.lines) - HOLDS_A_LOCK)))
    assert_interrupted(undisturbed, function, data.draw(st.integers(1, undisturbed.lines[function])))


@pytest.mark.slow
@pytest.mark.skipif(TYPES_ARE_CHECKED, reason="the lines are those of the checker")
def test_ctrl_c_while_an_answer_is_written() -> None:
    undisturbed = diary("grow_and_reduce")
    for line in range(1, undisturbed.lines["settle"] + 1, 3):
        assert_interrupted(undisturbed, "settle", line)


@pytest.mark.skipif(TYPES_ARE_CHECKED, reason="the lines are those of the checker")
def test_ctrl_c_in_the_victim_leaves_gradients_on() -> None:
    undisturbed = diary("random_cells")
    for line in range(1, 40):
        assert_interrupted(undisturbed, "_forward", line)


def assert_interrupted(undisturbed: Diary, function: str, line: int) -> None:
    victim = Victim(Linear())
    with pytest.raises(KeyboardInterrupt) as caught, interrupted_at(function, line):
        undisturbed.attack(victim, CLIPS)
    assert torch.is_grad_enabled(), "a training that comes after it in a notebook needs gradients"
    part = caught.value.result  # type: ignore[attr-defined]
    if part is not None and not part.complete:  # it may come when all is done
        undisturbed.assert_is_a_prefix(part)


@pytest.mark.thorough
def test_clips_not_come_to_are_missing(tmp_path: Path) -> None:
    attack = as_attack("random_cells", distortion=SIGNED, budget=6, grid=GRID, progress=False, clips_at_once=2)
    goal = Misclassify(Victim(Linear())(FIVE).argmax(1))
    goal.classes[0] = (goal.classes[0] + 1) % 4  # skipped
    whole = attack(Victim(Linear()), FIVE, goal)
    assert whole.complete
    assert "incomplete" not in repr(whole)
    with pytest.raises(VictimError) as caught:
        attack(Victim(FailsAt(9, RuntimeError("broke"))), FIVE, goal)  # in the second batch
    part = caught.value.result  # type: ignore[attr-defined]
    assert isinstance(part, AttackResult)
    assert (len(part), part.missing, part.complete) == (4, 1, False)
    assert part.finished.tolist() == [True, True, False, False]
    for name in ("queries", "adversarial", "success", "finished"):
        assert torch.equal(getattr(part, name)[:2], getattr(whole, name)[:2])
    assert part[:2].complete, "of these clips"
    assert not AttackResult.cat([part, part[:1]]).complete
    assert "incomplete: 2 of 5 clips finished" in repr(part)
    assert "incomplete" in part._repr_html_()
    assert "<th>finished</th>" in part._repr_html_()
    assert "<th>finished</th>" not in whole._repr_html_()
    assert part.metrics()["finished"].tolist() == [True, True, False, False]
    loaded = AttackResult.load(part.save(tmp_path / "part"))
    assert (loaded.missing, loaded.complete, repr(loaded)) == (1, False, repr(part))


def test_what_is_raised_in_a_search_carries_the_result_too() -> None:
    class Broken(Attack):
        def search(self, clip: Any) -> Any:
            yield clip.zeros()
            raise ZeroDivisionError("in the search")

    with pytest.raises(ZeroDivisionError) as caught:
        Broken(SIGNED, grid=GRID, progress=False)(Victim(Linear()), CLIPS)
    part = caught.value.result  # type: ignore[attr-defined]
    assert part.queries.tolist() == [2] * 4
    assert not part.finished.any()


def test_an_exception_that_takes_no_attributes_stays_what_it_is() -> None:
    class Full(BaseException):
        result = property(lambda self: "its own")

    with pytest.raises(Full) as caught:
        make("grow_and_reduce")(Victim(FailsAt(7, Full())), CLIPS)
    assert caught.value.result == "its own"


def test_a_distortion_that_fails_costs_nothing() -> None:
    def broken(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
        raise ZeroDivisionError

    victim = Victim(Linear())
    with pytest.raises(Exception) as caught:  # noqa: PT011
        as_attack("random_cells", distortion=broken, grid=GRID, progress=False)(victim, CLIPS)
    assert caught.value.result is None  # type: ignore[attr-defined]
    assert victim.queries == 0


def test_mistakes_carry_no_result() -> None:
    with pytest.raises(ValueError, match="one class for each of the 4 clips") as caught:
        make("grow_and_reduce")(Victim(Linear()), CLIPS, Misclassify([0, 1]))
    assert caught.value.result is None  # type: ignore[attr-defined]


# At a prompt


@pytest.mark.skipif(TYPES_ARE_CHECKED, reason="who calls is the checker")
def test_ctrl_c_in_a_cell_gives_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    cell = {"__name__": "__main__", "attack": make("grow_and_reduce"), "clips": CLIPS}
    with pytest.warns(UserWarning, match="Interrupted: this is what has been found so far, AttackResult"):
        exec("result = attack(victim, clips)", cell | {"victim": Victim(FailsAt(12, KeyboardInterrupt()))}, cell)
    assert isinstance(cell["result"], AttackResult)
    assert not cell["result"].complete
    with pytest.raises(KeyboardInterrupt) as caught:
        exec("result = attack(victim, clips)", cell | {"victim": Victim(FailsAt(1, KeyboardInterrupt()))})
    assert caught.value.result is None, "nothing to give"  # type: ignore[attr-defined]


def test_ctrl_c_in_a_script_and_in_a_library_is_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, prompt in (("__main__", False), ("benchmark", True)):
        if prompt:
            monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
        else:
            monkeypatch.delattr(sys, "ps1", raising=False)
        scope = {"__name__": name, "attack": make("grow_and_reduce"), "clips": CLIPS}
        scope["victim"] = Victim(FailsAt(12, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt) as caught:
            exec("attack(victim, clips)", scope)
        assert isinstance(caught.value.result, AttackResult)  # type: ignore[attr-defined]


# Batches


def test_batches_are_attacked_when_their_result_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    attack = as_attack("random_cells", distortion=SIGNED, budget=6, grid=GRID)
    victim = Victim(Linear())
    whole = attack(victim, FIVE)
    seen = victim.queries
    capsys.readouterr()
    results = attack.batches(victim, ((clips, None) for clips in FIVE.split(2)), len(FIVE))
    parts = [next(results)]
    assert victim.queries - seen == parts[0].queries.sum()
    parts += results
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.equal(AttackResult.cat(parts).adversarial, whole.adversarial)
    assert AttackResult.cat(parts).complete
    bar = capsys.readouterr().err
    assert "30/30" in bar
    assert bar.count("\n") == 1, "one progress bar"


def test_no_results_cannot_be_put_together() -> None:
    with pytest.raises(ValueError, match="got none"):
        AttackResult.cat([])

"""What is seen of an attack while it runs: progress bars, and `on_query`."""

from __future__ import annotations

import re
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import IPython
import pytest
import torch
from known_victims import GRID, SHAPE, SIGNED, Linear

from vidmarl import AttackResult, Misclassify, Victim
from vidmarl.attacks import as_attack
from vidmarl.benchmark import Benchmark, run_benchmark
from vidmarl.data.synthetic import Synthetic
from vidmarl.errors import SettingsError
from vidmarl.queries.progress import Progress
from vidmarl.utils import progress
from vidmarl.utils.progress import progress_bar

CELLS = torch.rand(5, 3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
CLIPS = CELLS.repeat_interleave(8, 3).repeat_interleave(8, 4)


def make(name: str = "random_cells", **settings: Any) -> Any:
    return as_attack(name, **{"distortion": SIGNED, "budget": 8, "grid": GRID, "progress": False} | settings)


@pytest.mark.parametrize("wrong", [-1.0, "f", CLIPS])
def test_on_query_has_to_be_a_function(wrong: Any) -> None:
    victim = Victim(Linear())
    with pytest.raises(SettingsError, match="on_query must be a function"):
        make()(victim, CLIPS, on_query=wrong)
    assert victim.queries == 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["random_cells", "rl", "sparse_nes"])
def test_on_query_is_told_of_every_query(name: str) -> None:
    seen: list[Progress] = []
    settings = {"distortion": "sign_noise"} if name == "sparse_nes" else {}
    attack = make(name, clips_at_once=2, **settings)
    result = attack(Victim(Linear()), CLIPS, on_query=seen.append)
    for clip in range(5):
        margins = torch.cat([one.margin[one.rows == clip] for one in seen])
        assert torch.equal(
            margins.nan_to_num(-7), result.history["margin"][clip, : result.queries[clip]].nan_to_num(-7)
        )
    last = seen[-1]
    assert torch.equal(last.queries, result.queries)
    assert torch.equal(last.fooled, result.success)
    assert torch.equal(last.skipped, result.skipped)
    assert [len(one.queries) for one in (seen[0], last)] == [2, 5], "of the clips that it has begun"
    assert [one.queries.sum().item() for one in seen] == list(torch.tensor([len(one.rows) for one in seen]).cumsum(0))
    fooled = result.success
    l2 = (result.clean - result.adversarial).flatten(1).norm(dim=1)
    torch.testing.assert_close(last.best_l2[fooled], l2[fooled])
    assert torch.equal(attack(Victim(Linear()), CLIPS).adversarial, result.adversarial), "watching changes nothing"


def test_what_on_query_raises_ends_the_attack_and_loses_nothing() -> None:
    victim = Victim(Linear())

    def enough(state: Progress) -> None:
        if state.queries.sum() >= 20:
            raise TimeoutError("enough")

    with pytest.raises(TimeoutError) as caught:
        make()(victim, CLIPS, on_query=enough)
    part = caught.value.result  # type: ignore[attr-defined]
    assert isinstance(part, AttackResult)
    assert not part.complete
    assert part.queries.sum() == victim.queries == 20
    assert part.history["score"].isfinite().sum() == 20, "all of them were answered"


def test_progress_is_said_in_words() -> None:
    goal = Misclassify(Victim(Linear())(CLIPS).argmax(1))
    goal.classes[0] = (goal.classes[0] + 1) % 4  # skipped
    seen: list[Progress] = []
    result = make()(Victim(Linear()), CLIPS, goal, on_query=seen.append)
    assert str(seen[0]) == "fooled 0 of 4"
    l2 = result.metrics()["l2"][result.success.numpy()].median()
    assert result.success.sum() > 0
    assert str(seen[-1]) == f"fooled {result.success.sum()} of 4, median L2 {l2:.3g}"


def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")


def test_the_bar_of_an_attack_says_how_it_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_terminal(monkeypatch)
    seen: list[Progress] = []
    make(progress=True, clips_at_once=2)(Victim(Linear()), CLIPS, on_query=seen.append)
    last = capsys.readouterr().err.rpartition("\r")[2]
    assert "40/40" in last, "queries that were not needed are counted in the end"
    assert str(seen[-1]) in last
    assert "fooled" in str(seen[-1])


def test_a_short_attack_leaves_nothing_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))  # as where widgets are imported
    make(progress=True)(Victim(Linear()), CLIPS)
    assert capsys.readouterr().err == ""


def test_a_notebook_shows_a_bar_in_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress_bar(), progress.Lines)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=None))
    assert not isinstance(progress_bar(), progress.Lines)
    monkeypatch.setattr(IPython, "get_ipython", SimpleNamespace)  # IPython at a pipe
    assert isinstance(progress_bar(), progress.Lines)


@pytest.mark.thorough
def test_a_long_job_leaves_a_line_now_and_then_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_A_LINE", 0.05)
    with progress_bar(total=50, desc="Work", unit="step") as bar:
        for _ in range(50):
            time.sleep(0.005)
            bar.set_postfix_str("fooled 1 of 2", refresh=False)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 8
    assert lines[-1].startswith("Work: 100 %, 50 of 50, 00:00 gone, ")
    assert lines[-1].endswith(", fooled 1 of 2")
    assert not any("\r" in line for line in lines)
    list(progress_bar(range(50), leave=False))
    list(progress_bar(range(50), show=False))
    assert capsys.readouterr().err == ""


@pytest.mark.thorough
def test_the_bar_of_a_benchmark_moves_with_every_query(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_a_terminal(monkeypatch)
    monkeypatch.setattr(progress.auto, "tqdm", partial(progress.auto.tqdm, mininterval=0))
    benchmark = Benchmark(
        victims=[Victim(Linear(), name="linear")],
        attacks={"random_cells": {}, "grow_and_reduce": {}},
        data=Synthetic(3, frames=SHAPE[0], size=8 * SHAPE[1], seed=0),
        distortions=["brightness"],
        grid=GRID,
        budget=6,
        clips_at_once=2,
        out=tmp_path / "out",
    )
    run_benchmark(benchmark)
    counts = [int(n) for n in re.findall(r"linear: .*? (\d+)/36 ", capsys.readouterr().err)]
    assert counts == sorted(counts)
    assert counts[-1] == 36
    assert len(set(counts)) > 12, "more often than for each attack on each batch of clips"
    run_benchmark(benchmark)
    counts = [int(n) for n in re.findall(r"linear: .*? (\d+)/36 ", capsys.readouterr().err)]
    assert set(counts) == {36}, "done before"

"""A metric in one new file is in every table, and nothing else has to be touched."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import MakeVideo
from test_report import Page

import vidmarl
from vidmarl import metrics
from vidmarl.benchmark import Benchmark, VictimChoice, run_benchmark
from vidmarl.cli import main
from vidmarl.data.synthetic import Synthetic, make_clips
from vidmarl.metrics import column
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.report import write_report

FILE = """
from vidmarl.metrics.column import Column, metric


@metric(Column("redness", "Redness", "mean change of red", "8-bit steps", format=".5f", better="lower"))
def redness(clean, adversarial):
    return 255 * (adversarial - clean)[:, 0].abs().flatten(1).mean(1)
"""


@pytest.fixture
def new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file among those of `vidmarl.metrics`, for one test."""
    folder = tmp_path / "more_metrics"
    folder.mkdir()
    (folder / "redness.py").write_text(FILE)
    metrics.columns()
    monkeypatch.setattr(column, "_METRICS", dict(column._METRICS))
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(folder)])
    yield
    sys.modules.pop("vidmarl.metrics.redness", None)
    vars(metrics).pop("redness", None)


@pytest.fixture
def result(new_file: None) -> vidmarl.AttackResult:
    victim = vidmarl.load_victim("demo", "random", spec={"frames": 4, "size": 32}, device="cpu")
    attack = vidmarl.RandomCells(budget=6, grid=TubeletGrid(1, 8, 8), progress=False)
    return attack(victim, make_clips(3, 1, 4, 32)[0])


def test_in_the_table_of_a_result_and_in_a_notebook(result: vidmarl.AttackResult) -> None:
    change = 255 * (result.adversarial - result.clean)[:, 0].abs().mean((1, 2, 3))
    assert result.metrics()["redness"].to_numpy() == pytest.approx(change.double().numpy(), rel=1e-5)
    assert "<th>Redness</th>" in result._repr_html_()
    assert result.records()[0]["redness"] == pytest.approx(float(change[0]), rel=1e-5)


@pytest.mark.thorough
def test_in_the_report_of_a_result(result: vidmarl.AttackResult, tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", result))
    assert "Redness ↓: mean change of red, in 8-bit steps" in page.text
    assert all(f"{value:.5f}" in page.text for value in result.metrics()["redness"])


@pytest.mark.thorough
def test_in_the_tables_and_the_report_of_a_benchmark(new_file: None, tmp_path: Path) -> None:
    benchmark = Benchmark(
        victims=[VictimChoice("demo", "random", {"frames": 4, "size": 32})],
        attacks={"random_cells": {}},
        data=Synthetic(3, seed=1, frames=4, size=32),
        grid=TubeletGrid(1, 8, 8),
        distortions=[{"class_path": "gaussian_noise", "init_args": {"std": 0.5}}],
        budget=12,
        out=str(tmp_path),
        device="cpu",
    )
    done = run_benchmark(benchmark, progress=False)
    assert done is not None
    rows, summary = pd.read_csv(tmp_path / "rows.csv"), pd.read_csv(tmp_path / "summary.csv")
    mean = rows["redness"][rows["success"]].mean()
    assert mean > 0
    assert summary["redness"].iloc[-1] == pytest.approx(mean)
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "Redness ↓" in text
    assert f"{mean:.5f}" in text
    page = Page(done.report)
    assert "Redness ↓: mean change of red" in page.text
    assert f"{mean:.5f}" in page.text


@pytest.mark.thorough
def test_in_the_terminal_of_vidmarl_attack(
    new_file: None,
    make_video: MakeVideo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        main(
            [
                *("attack", str(make_video()), "--victim", "demo", "--weights", "random", "--budget", "4"),
                *("--spec", '{"frames": 4, "size": 32}', "--attack", "random_cells", "--device", "cpu"),
                *("--out", str(tmp_path / "out"), "--no-progress"),
            ]
        )
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = capsys.readouterr().out
    assert "Redness" in said.splitlines()[0]
    [value] = vidmarl.AttackResult.load(tmp_path / "out" / "result").metrics()["redness"]
    assert f"{value:.5f}" in said.splitlines()[1]


def test_without_the_file_there_is_no_such_column() -> None:
    assert "redness" not in [each.name for each in metrics.columns(slow=True)]


def test_a_metric_of_ones_own_module_needs_no_file_here(result: vidmarl.AttackResult) -> None:
    @metrics.metric(metrics.Column("own", "Own", "of a notebook"))
    def own(clean, adversarial):
        return adversarial.flatten(1).amax(1)

    assert result.metrics()["own"].tolist() == result.adversarial.flatten(1).amax(1).double().tolist()

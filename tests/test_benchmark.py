"""The benchmark: whole, cut short, widened, shared out, and what its tables say."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Brightness
from test_report import Page

import vidmarl.benchmark.runner
from vidmarl import ClipSpec, GrowAndReduce, Victim, load_victim, metrics
from vidmarl.agents import checkpoint
from vidmarl.agents.checkpoint import save_agents
from vidmarl.agents.features import CHANNELS
from vidmarl.agents.networks import Agents, AgentsConfig
from vidmarl.agents.observation import STATE
from vidmarl.attacks.identity import identity
from vidmarl.benchmark import Benchmark, BenchmarkResult, VictimChoice, run_benchmark
from vidmarl.benchmark.clips import find_clips
from vidmarl.benchmark.config import read_shard
from vidmarl.benchmark.entries import make_entries
from vidmarl.benchmark.tables import pays_after
from vidmarl.benchmark.trials import Trials, Wanted, is_done
from vidmarl.cli import main
from vidmarl.data.encode import write_mp4
from vidmarl.data.folder import Folder
from vidmarl.data.synthetic import CLASSES, Synthetic, make_clips
from vidmarl.data.video import decode
from vidmarl.distortions import FunctionDistortion
from vidmarl.errors import CheckpointError, ClipError, UnknownNameError, VidmarlError
from vidmarl.metrics import column as column_module
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.utils.fingerprints import fingerprint
from vidmarl.victims.attempts import Attempts

CONFIG = Path(__file__).resolve().parent.parent / "conf" / "benchmark"
MISSING = {"vbad_image_prior", "probes", "probes_and_play", "play"}
"""Attacks of the configurations that need a package or agents that one has to install or train."""
CLIPS = 4


def tiny(out: Path, **changes: object) -> Benchmark:
    """Two attacks on four clips."""
    usual = Benchmark(
        victims=[VictimChoice("demo", "random", {"frames": 4, "size": [32, 32]})],
        distortions=[{"class_path": "gaussian_noise", "init_args": {"std": 0.3}}],
        attacks={"grow_and_reduce": {}, "random_cells": {"init_args": {"block": 2}}},
        data=Synthetic(CLIPS, seed=1, frames=4, size=32),
        grid=TubeletGrid(1, 8, 8),
        budget=10,
        budgets=[5, 10],
        clips_at_once=2,
        device="cpu",
        out=str(out),
    )
    return dataclasses.replace(usual, **changes)  # type: ignore[arg-type]


def run(benchmark: Benchmark, **how: object) -> pd.DataFrame:
    """Runs a benchmark; its rows."""
    run_benchmark(benchmark, progress=False, **how)  # type: ignore[arg-type]
    return pd.read_csv(Path(benchmark.out) / "rows.csv")


def texts(folder: Path) -> dict[str, str]:
    """The tables of a benchmark, and what trials it holds."""
    files = {name: (folder / name).read_text("utf-8") for name in ("rows.csv", "summary.csv", "summary.md")}
    return files | {"trials": "\n".join(sorted(str(p.relative_to(folder)) for p in folder.rglob("*.safetensors")))}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips each call has sent to a victim."""
    calls: list[int] = []
    plain = Victim.ask

    def counting(self: Victim, clips: torch.Tensor, attempts: Attempts) -> torch.Tensor:
        calls.append(len(clips))
        return plain(self, clips, attempts)

    monkeypatch.setattr(Victim, "ask", counting)
    return calls


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark run at once."""
    out = tmp_path_factory.mktemp("whole")
    run(tiny(out))
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the test's own for commands in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIDMARL_DEBUG", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.thorough
def test_the_small_configuration_through_the_command_line(
    here: Path, capsys: pytest.CaptureFixture[str], asked: list[int]
) -> None:
    words = ["benchmark", "-c", str(CONFIG / "small.yaml"), "--max_clips", "3", "--out", "out", "--no-progress"]
    main(words)
    said = capsys.readouterr()
    assert said.err == ""
    assert "## demo, gaussian_blur" in said.out
    rows = pd.read_csv(here / "out" / "rows.csv")
    assert len(rows) == 3 * 3 * 2
    assert sum(asked) == rows["queries"].sum()
    summary = pd.read_csv(here / "out" / "summary.csv")
    assert len(summary) == 3 * 3 * 2
    assert set(summary["budget"]) == {5, 10, 20}

    before = texts(here / "out")
    asked.clear()
    main(words)
    assert asked == []
    assert texts(here / "out") == before

    main(
        [*words, "--attacks", '{"square_tubes": {}}', "--reference", "square_tubes", "--distortions", "[gaussian_blur]"]
    )
    assert asked == []
    assert set(pd.read_csv(here / "out" / "summary.csv")["attack"]) == {"square_tubes"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "on_top", ["", "bounded", "bounded earlier_variants", "unseen", "ablations training", "visibility"]
)
def test_the_configurations_of_the_tracks_can_be_read(on_top: str) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("-c", action="config")
    parser.add_class_arguments(Benchmark)
    read = parser.parse_args(
        [word for name in ("natural", *on_top.split()) for word in ("-c", str(CONFIG / f"{name}.yaml"))]
    )
    assert next(iter(read.attacks)) == "rl"
    assert read.budget == max(read.budgets)
    attacks = {name: how for name, how in read.attacks.items() if name not in MISSING}
    benchmark = tiny(Path(), attacks=attacks, distortions=read.distortions, reference=read.reference)
    assert len(make_entries(benchmark)) == len(attacks) * len(read.distortions)


def test_a_row_says_what_happened_to_a_clip(whole: Path) -> None:
    rows = pd.read_csv(whole / "rows.csv")
    assert rows["clip"].tolist() == 2 * [f"clip-{i:05d}" for i in range(CLIPS)]
    assert rows["label"].tolist() == 2 * list(CLASSES[:CLIPS])
    assert (rows["goal"] == rows["prediction"]).all()
    assert (rows["success@10"] == rows["success"]).all()
    failed = ~rows["success@5"]
    assert rows["l2@5"][failed].to_numpy() == pytest.approx(rows["full_l2"][failed].to_numpy())
    assert rows["l2@10"][rows["success"]].to_numpy() == pytest.approx(rows["l2"][rows["success"]].to_numpy(), rel=1e-4)
    assert rows["first_success"].isna().tolist() == (~rows["success"]).tolist()


@pytest.mark.thorough
def test_the_summary_is_that_of_the_attack_itself(whole: Path) -> None:
    benchmark = tiny(whole)
    attack = GrowAndReduce(
        benchmark.named_distortions()[0][1], budget=10, grid=TubeletGrid(1, 8, 8), seed=0, progress=False
    )
    victim = load_victim("demo", "random", spec={"frames": 4, "size": 32}, device="cpu")
    result = attack(victim, make_clips(CLIPS, 1, 4, 32)[0])
    expected = metrics.summarise(result, [5, 10])
    summary = pd.read_csv(whole / "summary.csv").query("attack == 'grow_and_reduce'")
    for column in expected:
        assert summary[column].to_numpy() == pytest.approx(expected[column].to_numpy(), rel=1e-4, nan_ok=True), column


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_tables_and_another_one_others(whole: Path, tmp_path: Path) -> None:
    run(tiny(tmp_path / "again"))
    assert texts(tmp_path / "again") == texts(whole)
    assert texts(whole)["rows.csv"] != run(tiny(tmp_path / "other", seed=1)).to_csv(index=False)


@pytest.mark.thorough
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_cut_short_goes_on_where_it_was(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int], stop: int
) -> None:
    calls = 0
    plain = vidmarl.attacks.Attack.__call__

    def interrupted(self: object, *args: object, **settings: object) -> object:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise KeyboardInterrupt
        return plain(self, *args, **settings)  # type: ignore[arg-type]

    benchmark = tiny(tmp_path)
    monkeypatch.setattr(vidmarl.attacks.Attack, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(benchmark, progress=False)
    monkeypatch.setattr(vidmarl.attacks.Attack, "__call__", plain)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2 * stop
    rows = run(benchmark)
    assert texts(tmp_path) == texts(whole)
    assert sum(asked) == rows["queries"].sum()


@pytest.mark.thorough
def test_a_trial_that_is_damaged_is_made_again_and_no_other(whole: Path, tmp_path: Path, asked: list[int]) -> None:
    benchmark = tiny(tmp_path)
    run(benchmark)
    trial = min(tmp_path.rglob("*.safetensors"))
    trial.write_bytes(trial.read_bytes()[:-9])
    asked.clear()
    run(benchmark)
    assert 0 < sum(asked) <= benchmark.budget
    assert texts(tmp_path) == texts(whole)


@pytest.mark.thorough
def test_a_flipped_bit_is_noticed_wherever_it_is(whole: Path, tmp_path: Path) -> None:
    """Or else what is read is the same: a space of JSON, say, has become another one."""
    done = run_benchmark(tiny(whole), progress=False)
    assert done is not None
    trials = done.trials["demo", "gaussian_noise"]["random_cells"]
    content = trials.paths[0].read_bytes()
    sound = content_of(Trials.load(trials.paths[:1], {}))
    damaged = tmp_path / "damaged.safetensors"
    random = np.random.default_rng(0)
    refused = 0
    for bit in random.choice(8 * len(content), 500, replace=False).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(flipped)
        try:
            read = Trials.load([damaged], {})
        except CheckpointError:
            assert not is_done(damaged)
            refused += 1
        else:
            assert content_of(read) == sound
    assert refused > 490


def content_of(trials: Trials) -> str:
    """All that trials hold, but for where they lie."""
    of_clips = {name: getattr(trials, name) for name in ("success", "skipped", "queries", "full_l2")}
    tensors = fingerprint({**of_clips, **trials.history, **trials.measured})
    return f"{tensors} {trials.facts} {sorted(trials.columns)} {trials.has_clips}"


@pytest.mark.thorough
def test_a_damaged_trial_is_named_where_nothing_is_to_be_attacked(tmp_path: Path) -> None:
    benchmark = tiny(tmp_path, max_clips=1)
    run(benchmark)
    trial = min(tmp_path.rglob("*.safetensors"))
    content = bytearray(trial.read_bytes())
    content[-1] ^= 1
    trial.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(trial))}: it is damaged.*checksum"):
        run(benchmark, summarise_only=True)


@pytest.mark.thorough
def test_two_shards_come_to_the_table_of_one_run(whole: Path, tmp_path: Path) -> None:
    benchmark = tiny(tmp_path)
    assert run_benchmark(benchmark, shard=(0, 2), progress=False) is None
    assert not (tmp_path / "rows.csv").exists()
    with pytest.warns(UserWarning, match="4 trials are missing"):
        half = run(benchmark, summarise_only=True)
    assert set(half["clip"]) == {"clip-00000", "clip-00002"}
    run(benchmark, shard=(1, 2))
    assert texts(tmp_path) == texts(whole)


@pytest.mark.thorough
def test_more_attacks_and_clips_only_add_work(tmp_path: Path, asked: list[int]) -> None:
    benchmark = tiny(tmp_path, max_clips=2)
    few = run(benchmark)
    asked.clear()
    more = run(dataclasses.replace(benchmark, max_clips=4, attacks=benchmark.attacks | {"square_tubes": {}}))
    new = more[~(more["clip"].isin(few["clip"]) & more["attack"].isin(few["attack"]))]
    assert len(more) == 12
    assert sum(asked) == new["queries"].sum()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change",
    [
        {"budget": 9},
        {"seed": 3},
        {"coherence": "free"},
        {"distortions": [{"name": "gaussian_noise", "class_path": "gaussian_noise", "init_args": {"std": 0.2}}]},
        {"attacks": {"grow_and_reduce": {"init_args": {"start": 2}}, "random_cells": {}}},
        {"victims": [VictimChoice("demo", "random", {"frames": 4, "size": [32, 32]}, precision="bf16-mixed")]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_never_mixes_with_what_was_made_before(
    whole: Path, tmp_path: Path, asked: list[int], change: dict[str, object]
) -> None:
    run(tiny(tmp_path))
    asked.clear()
    rows = run(tiny(tmp_path, **change))
    assert sum(asked) == rows["queries"].sum()
    asked.clear()
    run(tiny(tmp_path))
    assert asked == []
    assert {k: v for k, v in texts(tmp_path).items() if k != "trials"} == {
        k: v for k, v in texts(whole).items() if k != "trials"
    }


@pytest.mark.thorough
def test_targets_are_the_same_for_all_attacks_and_none_is_the_prediction(tmp_path: Path) -> None:
    rows = run(tiny(tmp_path, goal="targeted"))
    assert (rows["goal"] != rows["prediction"]).all()
    assert not rows["skipped"].any()
    by_clip = rows.groupby("clip")["goal"].nunique()
    assert (by_clip == 1).all()
    assert rows["goal"].nunique() > 1


@pytest.mark.thorough
def test_the_runner_up_is_the_second_class_of_the_clean_prediction(tmp_path: Path) -> None:
    benchmark = tiny(tmp_path, goal="runner_up")
    rows = run(benchmark)
    victim = load_victim("demo", "random", spec={"frames": 4, "size": 32}, device="cpu")
    seconds = victim(make_clips(CLIPS, seed=1, frames=4, size=32)[0]).topk(2).indices[:, 1].tolist()
    assert victim.labels is not None
    assert sorted(rows["goal"].unique()) == sorted({victim.labels[second] for second in seconds})
    assert (rows["goal"] != rows["prediction"]).all()
    assert (rows.groupby("clip")["goal"].nunique() == 1).all()


@pytest.mark.thorough
def test_labels_of_the_dataset_and_clips_that_were_wrong_from_the_start(tmp_path: Path) -> None:
    rows = run(tiny(tmp_path, labels="dataset"))
    assert (rows["goal"] == rows["label"]).all()
    assert (rows["skipped"] == (rows["goal"] != rows["prediction"])).all()
    assert rows["skipped"].any()
    assert rows["l2@10"].isna().tolist() == rows["skipped"].tolist()


@pytest.mark.thorough
def test_videos_of_a_folder(tmp_path: Path) -> None:
    clips, _ = make_clips(3, seed=0, frames=8, size=32)
    for i, clip in enumerate(clips):
        (tmp_path / "videos" / CLASSES[i % 2]).mkdir(parents=True, exist_ok=True)
        write_mp4(tmp_path / "videos" / CLASSES[i % 2] / f"clip {i}.mp4", clip, fps=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = run(tiny(tmp_path / "out", data=Folder(tmp_path / "videos"), labels="dataset", keep_clips=True))
    assert len(rows) == 6
    assert all(Path(path).is_file() for path in rows["path"])
    assert set(rows["label"]) == set(CLASSES[:2])


@pytest.mark.thorough
def test_no_more_clips_are_in_memory_than_are_attacked_side_by_side(tmp_path: Path) -> None:
    alive: set[int] = set()
    most = 0

    class Watched(Synthetic):
        """Knows how many of its clips are still there."""

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            nonlocal most
            pixels, label = super().__getitem__(index)
            alive.add(id(pixels))
            most = max(most, len(alive))
            weakref.finalize(pixels, alive.discard, id(pixels))
            return pixels, label

    run(tiny(tmp_path, data=Watched(9, seed=1, frames=4, size=32), attacks={"random_cells": {}}, budget=2))
    assert 2 <= most <= 3  # a batch of two, or one of them and the next
    assert not alive


def test_a_video_that_changes_while_a_benchmark_runs_is_noticed(tmp_path: Path) -> None:
    first, other = make_clips(2, seed=0, frames=8, size=32)[0]
    path = tmp_path / "videos" / "a" / "clip.mp4"
    path.parent.mkdir(parents=True)
    write_mp4(path, first, fps=8)
    spec = ClipSpec(frames=4, size=32)
    [clip] = find_clips(tiny(tmp_path, data=Folder(tmp_path / "videos")), spec, progress=False)
    assert torch.equal(clip.pixels(), decode(path, spec))
    write_mp4(path, other, fps=8)
    with pytest.raises(ClipError, match=rf"{re.escape(str(path))} has changed since this run began"):
        clip.pixels()
    path.unlink()
    with pytest.raises(ClipError, match=re.escape(str(path))):
        clip.pixels()


@pytest.mark.thorough
def test_what_is_wanted_besides_is_made_later(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    benchmark = tiny(tmp_path, attacks={"random_cells": {}}, max_clips=1)
    run(benchmark)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ST-LPIPS|JOD")
        rows = run(dataclasses.replace(benchmark, slow_metrics=True, keep_clips=True))
    assert rows["warping"].notna().all()
    [trial] = tmp_path.rglob("*.safetensors")
    assert is_done(trial, Wanted(slow_metrics=True, keep_clips=True))


def test_the_report_is_one_page_that_loads_nothing(whole: Path) -> None:
    page = Page(whole / "report.html")
    assert not [a for _, a in page.elements if a.get("src") or (a.get("href") or "#").startswith("http")]
    assert not re.search(r"@import|url\(", "".join(page.styles))
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    data = json.loads(page.scripts[0])
    assert len(data["curves"]) == 1
    names = {trace["name"] for trace in data["curves"][0]["data"] if trace.get("name")}
    assert names == {"grow_and_reduce", "random_cells"}
    assert "L2, grow_and_reduce / this" in page.text
    shares = pd.read_csv(whole / "summary.csv")["flicker_share"].dropna()
    assert len(shares) == 2  # of two attacks at their whole budget, of which some clip was fooled
    assert all(f"{share:.2f}" in page.text for share in shares)


def test_the_tables_for_people_are_those_of_the_summary(whole: Path) -> None:
    summary = pd.read_csv(whole / "summary.csv")
    lines = [line.strip("| ").split(" | ") for line in (whole / "summary.md").read_text("utf-8").splitlines()]
    of = {column.name: column for column in (*metrics.FIGURES, *metrics.columns())}
    for name, rows in summary.groupby("attack"):
        sizes, shares, *others, end = ([cell.strip("*") for cell in line[1:]] for line in lines if line[0] == name)
        assert sizes == [f"{of['L2'].text(row['L2'])} ({of['FR'].text(row['FR'])})" for row in rows.to_dict("records")]
        assert shares == [of["FR"].cell(row) for row in rows.to_dict("records")]
        assert others[-1] == [of["AQ first"].cell(row) for row in rows.to_dict("records")]
        assert len(others) == (1 if name == "grow_and_reduce" else 2)  # the reference is compared with nothing
        if len(others) == 2:
            assert [float(cell.split()[0]) for cell in others[0]] == pytest.approx(rows["L2 ratio"].tolist(), abs=6e-3)
        heads = next(line for line in lines if line[0] == "At 10 queries")
        assert end[heads.index(of["ssim"].heading) - 1] == of["ssim"].text(rows["ssim"].iloc[-1])
    assert lines[-1] == [f"Clips attacked: {CLIPS}; skipped: 0. {metrics.INTERVALS}."]


@pytest.mark.thorough
def test_names_run_no_formula_and_break_no_table(tmp_path: Path) -> None:
    evil = "=1+1|\r\n| \\| <b>"
    benchmark = tiny(
        tmp_path,
        victims=[Victim(Brightness(), labels=["@dark", "-grey", "+bright"], name=evil)],
        attacks={evil: {"class_path": "random_cells"}, "b": {"class_path": "random_cells"}},
        distortions=[{"name": evil, "class_path": "gaussian_noise"}],
        max_clips=2,
    )
    done = run_benchmark(benchmark, progress=False)
    assert done is not None
    for name in ("rows.csv", "summary.csv"):
        table = pd.read_csv(tmp_path / name)
        texts = table.select_dtypes(["object", "string"]).stack().map(str)
        assert texts.str.contains("1+1", regex=False).any()
        assert not texts.str.match(r"[=+\-@\t\r]").any()
    assert len(pd.read_csv(tmp_path / "rows.csv")) == 4
    lines = (tmp_path / "summary.md").read_text("utf-8").splitlines()
    assert lines[0] == r"## =1+1\| \| \\\| \<b>, =1+1\| \| \\\| \<b>"
    cells = [len(re.sub(r"\\.", "", line).split("|")) - 2 for line in lines if line.startswith("|")]
    assert set(cells[:-4]) == {3}  # a name and two budgets
    assert len(set(cells[-4:])) == 1


@pytest.mark.thorough
def test_the_best_control_is_marked_and_agents_are_none(tmp_path: Path, whole: Path) -> None:
    summary = pd.read_csv(whole / "summary.csv")
    for _, rows in summary.groupby("budget"):
        assert (rows["L2"][rows["best control"]] == rows["L2"].min()).all()
        assert rows["best control"].any()
    assert summary["L2 ratio"].isna().tolist() == (summary["attack"] == "grow_and_reduce").tolist()
    run(tiny(tmp_path, controls=["random_cells"]))
    marked = pd.read_csv(tmp_path / "summary.csv").query("`best control`")["attack"]
    assert set(marked) == {"random_cells"}


@pytest.mark.thorough
def test_a_bound_is_no_control(tmp_path: Path) -> None:
    run(tiny(tmp_path, attacks={"random_cells": {}, "sensitivity_order": {}}))
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert set(summary.query("`best control`")["attack"]) == {"random_cells"}
    assert set(summary["attack"]) == {"random_cells", "sensitivity_order"}


@pytest.mark.thorough
def test_tables_of_several_devices_and_versions_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tiny(tmp_path, max_clips=1))
    assert not {"torch", "threads"} & set(pd.read_csv(tmp_path / "rows.csv"))
    save = vidmarl.benchmark.runner.save_trials

    def elsewhere(paths, result, facts, wanted):
        other = result.provenance | {"device": "NVIDIA H100", "torch": "3.0"}
        save(paths, dataclasses.replace(result, provenance=other), facts, wanted)

    monkeypatch.setattr(vidmarl.benchmark.runner, "save_trials", elsewhere)
    with (
        pytest.warns(UserWarning, match=r"made with device NVIDIA H100 and cpu \("),
        pytest.warns(UserWarning, match=r"made with torch .* and 3\.0, which may round differently"),
    ):
        rows = run(tiny(tmp_path, max_clips=2))
    assert rows["device"].str[:3].tolist() == ["cpu", "NVI", "cpu", "NVI"]
    assert (rows["torch"].astype(str) == "3.0").tolist() == [False, True, False, True]


@pytest.mark.thorough
def test_a_trial_and_the_report_say_where_they_come_from(whole: Path) -> None:
    done = run_benchmark(tiny(whole), progress=False)
    assert done is not None
    trials = done.trials["demo", "gaussian_noise"]["random_cells"]
    told = trials.provenance
    assert told == trials.provenances[0]
    assert set(told) >= {"vidmarl", "torch", "python", "device", "threads", "command", "victim", "networks"}
    assert told["victim"]["spec"]["frames"] == 4
    assert told["victim"]["network"] in Page(whole / "report.html").text
    assert told["torch"] == torch.__version__


@pytest.mark.thorough
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_clips_that_are_finished_when_their_batch_fails_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    at_once = {"grow_and_reduce": {"init_args": {"max_queries_after_success": 0}}}
    benchmark = tiny(tmp_path / "cut", clips_at_once=CLIPS, attacks=at_once, budget=30)
    spent = sorted(run(dataclasses.replace(benchmark, out=tmp_path / "whole"))["queries"])
    assert spent[0] < spent[-1]
    left = CLIPS * spent[0] + 1  # by then, some clip is done and another is not
    plain = Victim._forward

    def failing(self: Victim, clips: torch.Tensor, attempts: Attempts, first: bool) -> torch.Tensor:
        nonlocal left
        left -= len(clips)
        if left < 0:
            raise stop(143)
        return plain(self, clips, attempts, first)

    monkeypatch.setattr(Victim, "_forward", failing)
    with pytest.raises(stop) as caught:
        run_benchmark(benchmark, progress=False)
    assert any(note.startswith(f"Kept in {benchmark.out}: every trial") for note in caught.value.__notes__)
    assert 0 < len(list(tmp_path.rglob("cut/**/*.safetensors"))) < CLIPS
    monkeypatch.setattr(Victim, "_forward", plain)
    run(benchmark)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_benchmark_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path: Path) -> None:
    """Byte for byte: trials, tables, report. Killed at drawn moments, also while the tables are
    written; Ctrl-C and SIGTERM say how to go on."""
    command = [sys.executable, "-m", "vidmarl", "benchmark", "-c", str(CONFIG / "small.yaml")]
    command += ["--out", "out", "--no-progress", "--max_clips", "4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    subprocess.run(command, cwd=whole, check=True, capture_output=True, timeout=300)
    expected = contents(whole / "out")
    trials = sum(name.endswith(".safetensors") for name in expected)

    seed = int(os.environ.get("VIDMARL_SEED", "0"))
    random = np.random.default_rng(seed)
    moments = [*sorted(random.integers(1, trials, 4).tolist()), trials]
    signals = random.permutation([signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    told = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
    for moment, number in zip(moments, signals.tolist(), strict=True):
        before = len(list(killed.rglob("*.safetensors")))
        process = subprocess.Popen(
            command,
            cwd=killed,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which shells take from background jobs
        )
        moment = max(moment, min(before + 1, trials))  # it is at work, and no longer starting
        while process.poll() is None and len(list(killed.rglob("*.safetensors"))) < moment:
            time.sleep(0.01)
        time.sleep(0.3 * random.random())
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
        if number in told and before < len(list(killed.rglob("*.safetensors"))) < trials:
            code, word = told[number]
            kept = "Kept in out: every trial that is finished. The same command goes on."
            assert process.returncode == code, said
            assert said == f"vidmarl: {word}. {kept}\n", said
    subprocess.run(command, cwd=killed, check=True, capture_output=True, timeout=300)
    assert contents(killed / "out") == expected


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a benchmark, by their place."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.thorough
def test_an_attack_may_have_tubelets_of_its_own(tmp_path: Path) -> None:
    coarse = {"class_path": "grow_and_reduce", "init_args": {"grid": {"frames": 2, "height": 16}}}
    run(tiny(tmp_path, attacks={"fine": {"class_path": "grow_and_reduce"}, "coarse": coarse}, max_clips=1))
    grids = {
        path.parent.name.split("-")[0]: json.loads(path.read_text("utf-8"))["attack"]["settings"]["grid"]
        for path in tmp_path.rglob("settings.json")
    }
    assert grids == {"fine": [1, 8, 8], "coarse": [2, 16, 8]}
    wrong = {"class_path": "grow_and_reduce", "init_args": {"grid": {"frame": 2}}}
    with pytest.raises(ValueError, match=r"'coarse'.*a grid may have"):
        run(tiny(tmp_path, attacks={"coarse": wrong}))


def small_agents(training_queries: int) -> Agents:
    """A small team whose choices are not those of its beginning."""
    agents = Agents(AgentsConfig(CHANNELS, len(STATE), 8, 1))
    with torch.no_grad():
        for parameter in agents.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    agents.trained = {"grid": [1, 8, 8], "training_queries": training_queries}
    return agents


@pytest.mark.thorough
def test_agents_by_file_or_name_trained_and_untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = small_agents(training_queries=123)
    save_agents(tmp_path / "gaussian_noise.pt", agents)
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path)
    by_file = {"agents": str(tmp_path / "{distortion}.pt")}
    attacks = {
        "rl": {},
        "name": {"class_path": "rl", "init_args": {"agents": "{distortion}"}},
        "file": {"class_path": "rl", "init_args": by_file},
        "object": {"class_path": "rl", "init_args": {"agents": agents}},
        "one": {"class_path": "rl", "init_args": by_file, "untrained": ["spatial"]},
        "fresh": {"class_path": "rl", "init_args": by_file, "untrained": True},
        "random_cells": {},
    }
    rows = run(tiny(tmp_path / "out", attacks=attacks, max_clips=2, budget=40, grid=None))
    of = {name: part.drop(columns="attack").reset_index(drop=True) for name, part in rows.groupby("attack")}
    for name in ("name", "file", "object"):
        pd.testing.assert_frame_equal(of["rl"], of[name])
    assert not of["rl"].equals(of["fresh"])
    assert not of["rl"].equals(of["one"])
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("attack")
    spent = summary["training queries"].groupby(level=0).max()
    assert spent[["rl", "one", "fresh", "random_cells"]].tolist() == [123, 123, 0, 0]
    assert not summary["best control"][["rl", "name", "file", "object", "one"]].any()
    with pytest.raises(UnknownNameError, match="gaussian_noise"):
        run(tiny(tmp_path / "out", attacks={"rl": {"init_args": {"agents": "gausian_noise"}}}))


def test_the_identity_of_an_attack_is_every_setting_that_could_change_its_results(asked: list[int]) -> None:
    def of(**settings: object) -> str:
        return json.dumps(identity(Tuned(**settings)), sort_keys=True)  # type: ignore[arg-type]

    network = torch.nn.Linear(2, 1)
    plain = of()
    assert of(clips_at_once=3, progress=False) == plain
    changes: list[dict[str, object]] = [
        {"seed": 1},
        {"table": {"a": [1, {"b": 2}]}},
        {"table": {"a": [1, {"b": 3}]}},
        {"values": torch.zeros(3)},
        {"values": torch.ones(3)},
        {"network": network},
        {"path": Path("a")},
        {"grid": TubeletGrid(1, 2, 3)},
        {"distortion": {"class_path": "gaussian_noise", "init_args": {"std": 0.5}}},
    ]
    seen = {plain, *(of(**change) for change in changes)}
    assert len(seen) == len(changes) + 1
    with torch.no_grad():
        network.weight += 1
    assert of(network=network) not in seen
    with pytest.raises(ValueError, match=r"expected Tuned\.table\['x'\] to be plain data"):
        of(table={"x": object()})


class Tuned(GrowAndReduce):
    """An attack with settings of every kind."""

    table: dict[str, object] = dataclasses.field(default_factory=dict)
    values: torch.Tensor | None = None
    network: torch.nn.Module | None = None
    path: Path | None = None


def test_trials_of_an_earlier_version_are_told_apart(tmp_path: Path, asked: list[int]) -> None:
    folder = tmp_path / "trials" / "demo" / "gaussian_noise" / "grow_and_reduce-0123456789ab"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"attack": {"zoom": 4}, "victim": {"name": "demo"}}))
    with pytest.raises(
        CheckpointError, match=r"another version of vidmarl.*format 1, expected 3.*Choose another folder"
    ):
        run(tiny(tmp_path))
    assert asked == []


@pytest.mark.thorough
def test_settings_that_are_damaged_are_named_and_written_again(tmp_path: Path, asked: list[int]) -> None:
    benchmark = tiny(tmp_path, max_clips=1)
    run(benchmark)
    path = min(tmp_path.rglob("settings.json"))
    whole = path.read_bytes()
    asked.clear()
    for damaged in (b"{", whole.replace(b'"seed": 0', b'"seed": 1'), whole[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"settings\.json is damaged.*Delete the file"):
            run(benchmark)
    path.unlink()
    run(benchmark)
    assert path.read_bytes() == whole
    assert asked == []


@pytest.mark.thorough
def test_victims_distortions_and_clips_of_ones_own(tmp_path: Path) -> None:
    """What has no name in YAML: a model, a function, a folder of videos."""
    clips, _ = make_clips(2, seed=0, frames=8, size=32)
    for i, clip in enumerate(clips):
        (tmp_path / "videos" / "a").mkdir(parents=True, exist_ok=True)
        write_mp4(tmp_path / "videos" / "a" / f"{i}.mp4", clip, fps=8)
    own = {"victims": [Victim(Brightness(), labels=["dark", "grey", "bright"], name="mine")], "distortions": [DARKER]}
    drawn = run(tiny(tmp_path / "drawn", **own))
    assert set(drawn["victim"]) == {"mine"}
    assert set(drawn["distortion"]) == {"darker"}
    with pytest.raises(ValueError, match=r"the victim has no spec.*Victim\(\.\.\., spec="):
        run(tiny(tmp_path / "out", **own, data=Folder(tmp_path / "videos")))
    own["victims"][0].spec = ClipSpec(frames=4, size=32)  # type: ignore[attr-defined]
    assert len(run(tiny(tmp_path / "out", **own, data=Folder(tmp_path / "videos")))) == 2 * 2


def darker(clips: torch.Tensor, strength: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return clips - 0.3 * strength


DARKER = FunctionDistortion(darker)


@pytest.mark.thorough
def test_clips_that_are_kept_come_back_and_are_in_the_report(tmp_path: Path, whole: Path) -> None:
    done = run_benchmark(tiny(tmp_path, keep_clips=True), progress=False)
    assert isinstance(done, BenchmarkResult)
    [attacks] = done.trials.values()
    result = attacks["grow_and_reduce"].to_result()
    rows = pd.read_csv(done.report.with_name("rows.csv")).query("attack == 'grow_and_reduce'")
    again = result.metrics()
    for name in ("prediction", "adversarial_prediction", "goal", "success", "queries"):
        assert again[name].tolist() == rows[name].tolist(), name
    assert again["l2"].to_numpy() == pytest.approx(rows["l2"].to_numpy(), rel=1e-6)
    assert torch.equal(result.clean, make_clips(CLIPS, 1, 4, 32)[0])
    assert attacks["random_cells"].to_result([2]).queries.tolist() == [int(attacks["random_cells"].queries[2])]
    page = Page(done.report)
    assert len([a for a in page.all("article")]) == CLIPS
    data = json.loads(page.scripts[0])
    assert sorted(data["clips"]) == [f"1-{i}" for i in range(CLIPS)]
    assert len(data["clips"]["1-0"]["runs"]) == 2
    assert Page(whole / "report.html").all("article") == []
    plain = run_benchmark(tiny(whole), progress=False)
    assert plain is not None
    with pytest.raises(ValueError, match="keep_clips"):
        next(iter(plain.trials.values()))["random_cells"].to_result()


def test_the_report_shows_how_the_agents_learnt(tmp_path: Path, whole: Path) -> None:
    log, out = tmp_path / "metrics.csv", shutil.copytree(whole, tmp_path / "out")
    log.write_text("charts/queries,step,val/l2\n,0,9\n60,3,\n,3,4\n", "utf-8")
    done = run_benchmark(tiny(out, training=log), progress=False)
    assert done is not None
    page = Page(done.report)
    [curve] = json.loads(page.scripts[0])["sizes"][-1]["data"]
    x, y = (np.frombuffer(base64.b64decode(curve[axis]["bdata"]), curve[axis]["dtype"]) for axis in "xy")
    assert (x.tolist(), y.tolist()) == ([0, 60], [9, 4])  # before any training, and after 60 queries
    assert "How the agents learnt" in page.text
    assert "How the agents learnt" not in Page(whole / "report.html").text


@pytest.mark.thorough
def test_trials_from_before_there_was_a_metric_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    run(tiny(tmp_path))
    monkeypatch.setattr(column_module, "_METRICS", dict(column_module._METRICS))

    @metrics.metric(metrics.Column("mean_red", "Mean red", "of the attacked clip"))
    def mean_red(clean: torch.Tensor, adversarial: torch.Tensor) -> torch.Tensor:
        return adversarial[:, 0].flatten(1).mean(1)

    asked.clear()
    with pytest.warns(UserWarning, match="before there was a metric mean_red"):
        rows = run(tiny(tmp_path))
    assert asked == []
    assert "mean_red" not in rows
    with warnings.catch_warnings(action="error"):
        assert run(tiny(tmp_path / "new"))["mean_red"].notna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": {"grow_and_redcue": {}}}, "did you mean grow_and_reduce"),
        ({"attacks": {"rl": {}}, "distortions": ["glare"]}, "trained agents 'glare'"),
        ({"attacks": {"rl": {"init_args": {"agents": "missing.ckpt"}}}}, "missing.ckpt"),
        ({"attacks": {"rl": {"untrained": ["spacial"]}}}, "'rl' under 'gaussian_noise'.*spacial"),
        ({"attacks": {"random_cells": {"untrained": True}}}, "it has no agents"),
        ({"attacks": {"random_cells": {"init_args": {"agents": "gaussian_noise"}}}}, "it has no agents"),
        ({"attacks": {"random_cells": {"init_arg": {}}}}, "class_path, init_args and untrained"),
        ({"attacks": {"random_cells": {"init_args": {"budget": 2}}}}, ".'budget'. are the benchmark's settings"),
        ({"attacks": {"stde": {}}}, "depends on the clips beside it"),
        ({"attacks": {"random_cells": {"init_args": {"blok": 2}}}}, "'random_cells' under 'gaussian_noise'.*blok"),
        ({"distortions": ["gaussian_nose"]}, "did you mean gaussian_noise"),
        ({"distortions": ["gaussian_blur", "gaussian_blur"]}, "two of the distortions are called 'gaussian_blur'"),
        ({"victims": [VictimChoice("demo", "random"), VictimChoice("demo", "random")]}, "two of the victims"),
        ({"victims": [VictimChoice("demo", "random", {"frams": 4})]}, "no setting .frams.; did you mean frames"),
        ({"reference": "rl"}, "attack of the benchmark 'rl'"),
        ({"max_clips": 0}, "max_clips must be at least 1"),
        ({"budgets": []}, "budgets must be at least one"),
        ({"goal": "targeted", "labels": "dataset"}, "labels must be 'prediction'"),
        ({"goal": "runner_up", "labels": "dataset"}, "labels must be 'prediction'"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(
    tmp_path: Path, asked: list[int], change: dict[str, object], message: str
) -> None:
    with pytest.raises((ValueError, VidmarlError, OSError), match=message):
        run(tiny(tmp_path, **change))
    assert asked == []


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b", "1/0"])
def test_a_shard_that_makes_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="such as 0/2"):
        read_shard(text)
    assert read_shard("1/2") == (1, 2)


@pytest.mark.parametrize(
    ("trained", "fr", "asked", "after"),
    [(0, 0.5, 5.0, math.nan), (100, 0.5, 5.0, 20.0), (100, 0.5, 10.0, math.inf), (100, 0.8, 5.0, 100 / 15)],
)
def test_training_pays_off_against_the_quickest_control_that_fools_no_fewer(trained, fr, asked, after) -> None:
    row = pd.Series({"budget": 50, "FR": fr, "AQ first": asked, "training queries": trained})
    controls = pd.DataFrame(
        {"budget": [50, 50, 50, 25], "FR": [0.5, 0.4, 0.9, 1.0], "AQ first": [10.0, 1.0, 20.0, 2.0]}
    )
    assert pays_after(row, controls) == pytest.approx(after, nan_ok=True)


def test_without_a_control_that_fools_as_many_nothing_can_be_said() -> None:
    row = pd.Series({"budget": 50, "FR": 1.0, "AQ first": 5.0, "training queries": 100})
    assert math.isnan(pays_after(row, pd.DataFrame({"budget": [50], "FR": [0.5], "AQ first": [10.0]})))


def test_nothing_to_summarise(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="Run it first"):
        run_benchmark(tiny(tmp_path), summarise_only=True, progress=False)


def test_a_mistake_on_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "benchmark",
                "-c",
                str(CONFIG / "small.yaml"),
                "--attacks.rl.init_args",
                "{agents: missing.ckpt}",
                "--no-progress",
            ]
        )
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "missing.ckpt" in said
    assert "Traceback" not in said


def test_data_that_is_not_there_is_looked_for_and_no_dump_of_settings_follows(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDMARL_DATA", str(here))
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "-c", str(CONFIG / "natural.yaml")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"Looked for 'clips/ucf101' in {here}" in said
    assert "Namespace" not in said


def test_what_is_no_trial_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "no.safetensors"
    file.write_bytes(b"nothing of the kind")
    assert not is_done(file)
    with pytest.raises(CheckpointError, match="Delete it"):
        Trials.load([file], {})

"""`vidmarl fit`, `validate`, `test`, `predict` and `attack --attack rl`, one after the other as a
user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vidmarl.benchmark.config import CONTROLS

CONFIG = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_epochs: 1
  num_sanity_val_steps: 0
  enable_progress_bar: false
  log_every_n_steps: 1
  default_root_dir: {root}/out
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {{save_dir: {root}/out, name: log, version: 0}}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: {root}/out, save_last: true}}
model:
  victim: demo
  weights: random
  spec: {{frames: 4, size: [32, 32], sampling: uniform}}
  grid: {{frames: 1, height: 8, width: 8}}
  distortion:
    class_path: vidmarl.distortions.gaussian_noise.GaussianNoise
    init_args: {{std: 0.3}}
  budget: 8
  steps: 4
  width: 8
  depth: 1
  ppo: {{epochs: 1, minibatch: 8}}
  eval_budget: 6
data:
  batch_size: 2
  eval_batch_size: 2
  train: {{class_path: vidmarl.data.folder.Folder, init_args: {{root: {root}/train}}}}
  val: {{class_path: vidmarl.data.folder.Folder, init_args: {{root: {root}/val}}}}
  test: {{class_path: vidmarl.data.folder.Folder, init_args: {{root: {root}/test}}}}
"""


def run(*words: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "vidmarl", *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture
def folders(make_video, tmp_path) -> Path:
    for part, lengths in (("train", range(8, 12)), ("val", range(12, 14)), ("test", range(14, 17))):
        for length in lengths:
            make_video(f"{part}/clip{length}.mp4", frames=length)
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(root=tmp_path))
    return tmp_path


@pytest.mark.slow
def test_train_validate_test_predict_attack(folders):
    run("fit", "-c", "tiny.yaml", cwd=folders)
    rows = (folders / "out" / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    for name in ("losses/approx_kl", "losses/clipfrac", "losses/explained_variance", "charts/frames", "charts/queries"):
        assert name in rows[0]
    assert "val/fooling_rate" in rows[0]
    ckpt = str(folders / "out" / "last.ckpt")

    validated = run("validate", "-c", "tiny.yaml", "--ckpt_path", ckpt, cwd=folders)
    assert "val/fooling_rate" in validated.stdout
    assert "Restoring states" in validated.stderr  # Lightning's notes stay, its advertisements go
    assert "Tip:" not in validated.stderr
    assert "LeafSpec" not in validated.stderr

    words = ("test", "-c", "tiny.yaml", "--ckpt_path", ckpt, "--budget", "6", "--budgets", "[3, 6]")
    said = run(*words, cwd=folders).stdout
    assert "grow_and_reduce" in said
    summary = pd.read_csv(folders / "out" / "test" / "summary.csv")
    assert set(summary["attack"]) == {"rl", "rl_untrained", *CONTROLS}
    assert set(summary["budget"]) == {3, 6}
    assert set(summary["clips"] + summary["skipped"]) == {3}
    assert (summary["training queries"] > 0).tolist() == (summary["attack"] == "rl").tolist()
    assert (folders / "out" / "test" / "report.html").exists()
    made = {path: path.stat().st_mtime_ns for path in (folders / "out" / "test").rglob("*.safetensors")}
    assert run(*words, cwd=folders).stdout == said
    assert {path: path.stat().st_mtime_ns for path in (folders / "out" / "test").rglob("*.safetensors")} == made
    fitted = str(folders / "out" / "log" / "version_0" / "config.yaml")
    assert "--ckpt_path" in run("test", "-c", fitted, cwd=folders, expect=2).stderr

    run("predict", "-c", "tiny.yaml", "--ckpt_path", ckpt, cwd=folders)
    import vidmarl

    results = [vidmarl.AttackResult.load(path) for path in sorted((folders / "out" / "predict").iterdir())]
    assert sum(len(result) for result in results) == 3

    run("fit", "-c", "tiny.yaml", "--ckpt_path", ckpt, "--trainer.max_epochs", "2", cwd=folders)

    said = run(
        *("attack", "test/clip14.mp4", "--victim", "demo", "--weights", "random", "--attack", "rl", "--agents", ckpt),
        *("--spec", '{"frames": 4, "size": [32, 32]}', "--budget", "6", "--out", "attacked", "--no-progress"),
        cwd=folders,
    ).stdout
    assert "report.html" in said
    assert "bytes" in run("export", ckpt, "new/agents.pt", cwd=folders).stdout
    assert (folders / "new" / "agents.pt").stat().st_size < Path(ckpt).stat().st_size / 2
    record = json.loads((folders / "attacked" / "results.json").read_text())
    assert record["clips"][0]["queries"] <= 6


@pytest.mark.slow
def test_a_video_in_training_and_test_is_refused(folders):
    (folders / "test" / "again.mp4").write_bytes((folders / "train" / "clip8.mp4").read_bytes())
    done = run("fit", "-c", "tiny.yaml", cwd=folders, expect=2)
    assert "stand in both train and test" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_from_the_same_command_line(folders):
    """An epoch of cloning, then one of play: both have to wait for each other's gradients."""
    cloning = ("epochs", "1"), ("probes", "3"), ("updates", "2"), ("minibatch", "2")
    run(
        *("fit", "-c", "tiny.yaml", "--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.max_epochs", "2"),
        *(word for name, value in cloning for word in (f"--model.cloning.{name}", value)),
        cwd=folders,
    )
    rows = (folders / "out" / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    frames, queries = (rows[0].split(",").index(f"charts/{name}") for name in ("frames", "queries"))
    logged = [row.split(",") for row in rows[1:] if row.split(",")[frames]]
    assert [float(row[frames]) for row in logged] == [0, 16]  # 2 x 2 clips, 4 steps
    assert float(logged[0][queries]) == 16  # of each clip the clean prediction and three probes

"""`vidmarl fit`, `validate`, `test`, `predict` and `attack --attack rl`, one after the other as a
user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from vidmarl.agents.checkpoint import load_agents
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
      init_args: {{dirpath: {root}/out}}
model:
  victim: demo
  weights: random
  spec: {{frames: 4, size: [32, 32], sampling: uniform}}
  grid: {{frames: 1, height: 8, width: 8}}
  distortion:
    class_path: vidmarl.distortions.gaussian_noise.GaussianNoise
    init_args: {{std: 0.3}}
  width: 8
  depth: 1
  ppo: {{epochs: 1, minibatch: 8}}
  probing: {{epochs: 0}}
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
    (tmp_path / "train" / "damaged.mp4").write_bytes((tmp_path / "train" / "clip8.mp4").read_bytes()[:500])
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(root=tmp_path))
    return tmp_path


@pytest.mark.slow
def test_train_validate_test_predict_attack(folders):
    fitted = run("fit", "-c", "tiny.yaml", cwd=folders)
    assert "damaged.mp4" in fitted.stderr  # it is left out
    rows = (folders / "out" / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    for name in ("losses/approx_kl", "losses/clipfrac", "losses/first_ratio", "charts/orders", "charts/queries"):
        assert name in rows[0]
    assert "val/fooling_rate" in rows[0]
    ckpt = str(folders / "out" / "last.ckpt")
    own_settings = (folders / "out" / "log" / "version_0" / "config.yaml").rename(folders / "fitted.yaml")

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
    assert "--ckpt_path" in run("test", "-c", str(own_settings), cwd=folders, expect=2).stderr

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
    """An epoch of probing, then one of play: both have to wait for each other's gradients."""
    probing = ("epochs", "1"), ("probes", "3"), ("updates", "2"), ("minibatch", "2")
    run(
        *("fit", "-c", "tiny.yaml", "--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.max_epochs", "2"),
        *(word for name, value in probing for word in (f"--model.probing.{name}", value)),
        cwd=folders,
    )
    rows = (folders / "out" / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    orders, queries = (rows[0].split(",").index(f"charts/{name}") for name in ("orders", "queries"))
    logged = [row.split(",") for row in rows[1:] if row.split(",")[orders]]
    assert [float(row[orders]) for row in logged] == [0, 16]  # of 2 x 2 clips, 4 each
    assert float(logged[0][queries]) == 16  # of each clip the clean prediction and three probes


# -- training that is stopped

EPOCHS, KILLS = 4, 4

KILLED = """
import os, random, signal, sys
from pathlib import Path
import vidmarl.cli
import vidmarl.training.command_line

def fit(folder, *words, after=None):
    \"\"\"Trains in a process of its own, which is killed after some seconds of computing; tells those.\"\"\"
    child = os.fork()
    if not child:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        if after:
            os.dup2(quiet, 2)
            signal.setitimer(signal.ITIMER_PROF, after)
        own = ["--trainer.default_root_dir", folder, "--trainer.logger", "false", "--trainer.callbacks", "[]"]
        vidmarl.cli.main(["fit", "-c", "tiny.yaml", "--trainer.max_epochs", str(EPOCHS), *own, *words])
        os._exit(0)
    _, ended, used = os.wait4(child, 0)
    assert not ended or after and os.WTERMSIG(ended) == signal.SIGPROF, ended
    return ended, used.ru_utime + used.ru_stime

EPOCHS, KILLS = map(int, sys.argv[1:])
_, took = fit("whole")
draw = random.Random(0)
for i in range(KILLS):
    ended, _ = fit(f"killed{i}", after=draw.uniform(0.2, 0.8) * took)
    last = Path(f"killed{i}/checkpoints/last.ckpt")
    print("killed" if ended else "ended", last.exists(), flush=True)
    fit(f"killed{i}", *(["--ckpt_path", str(last)] if last.exists() else []))
"""


def bits(content: object) -> object:
    """Tensors as bytes, so that everything can be compared with `==`."""
    if isinstance(content, dict):
        return {key: bits(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [bits(value) for value in content]
    return content.numpy().tobytes() if isinstance(content, torch.Tensor) else content


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_as_if_nothing_had_happened(folders):
    (folders / "kill.py").write_text(KILLED)
    done = subprocess.run(
        [sys.executable, "kill.py", str(EPOCHS), str(KILLS)],
        cwd=folders,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("killed") > KILLS / 2, done.stdout
    whole = torch.load(folders / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    for i in range(KILLS):
        folder = folders / f"killed{i}" / "checkpoints"
        assert os.listdir(folder) == ["last.ckpt"], "what the killed one was at is swept"
        again = torch.load(folder / "last.ckpt", weights_only=True)
        for part in ("state_dict", "optimizer_states", "vidmarl", "vidmarl_settings", "epoch", "global_step"):
            assert bits(again[part]) == bits(whole[part]), part


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_is_stopped_says_so_and_how_to_go_on(folders, number, code):
    words = [sys.executable, "-m", "vidmarl", "fit", "-c", "tiny.yaml", "--trainer.max_epochs", "4000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(words, cwd=folders, env=environment, stderr=subprocess.PIPE, text=True)
    last = folders / "out" / "last.ckpt"
    while not last.exists() and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(number)
    _, said = run.communicate(timeout=120)
    assert run.returncode == code, said
    assert "Traceback" not in said
    assert f"Kept in {last}: " in said.splitlines()[-1]
    assert f"--ckpt_path {last}" in said.splitlines()[-1]
    assert load_agents(last).trained["training_orders"] > 0

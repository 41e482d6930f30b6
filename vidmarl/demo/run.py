"""The whole story on clips that the program makes itself, every step of it real.

A victim is trained to tell motions apart, two agents are trained against it, and unseen clips are
attacked by them and by the attacks without learning, with equally many queries, if the victim is
right about them. What an earlier run has left is used again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from vidmarl.agents.checkpoint import load_agents, save_agents
from vidmarl.agents.networks import Agents
from vidmarl.attacks.result import AttackResult
from vidmarl.benchmark import Benchmark, agents_and_controls, run_benchmark
from vidmarl.data.encode import side_by_side, write_mp4
from vidmarl.data.synthetic import CLASSES, Synthetic, split_seed
from vidmarl.data.video import as_floats
from vidmarl.demo import victim_training
from vidmarl.errors import CheckpointError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.training.ppo import TwoAgentPPO
from vidmarl.training.probing import Probing
from vidmarl.utils.files import write_atomically
from vidmarl.utils.quiet import quiet
from vidmarl.victims import load_victim
from vidmarl.victims.demo import default_path

DISTORTION = {"class_path": "GaussianNoise", "init_args": {"std": 0.2}}
GRID = TubeletGrid(1, 8, 8)
LONGEST = 16
"""Frames: unlike real clips, these are fooled with less by what lasts (docs/experiments.md)."""
TRAIN_CLIPS, VAL_CLIPS, TEST_CLIPS, EPOCHS, BATCH = 1536, 16, 52, 1, 32
LEARNING = Probing(epochs=1, probes=16, updates=8, minibatch=32, lr=3e-3, beta=14.0)
BUDGETS = [25, 50, 100]
VALIDATIONS = 8
"""How often the agents in training attack the validation clips; once more before it begins."""
SHOWN = 4
WRITTEN = ("victim.pt", "agents.pt", "training", "test", "videos")
"""What a demo leaves in its folder."""
FRAMES_PER_SECOND = 4


def main(out: str | Path = "outputs/demo", *, seed: int = 0, fresh: bool = False, progress: bool = True) -> Path:
    """Runs the demo and says what it does and where its results are.

    Args:
        out: the folder to write to.
        seed: of everything that is random.
        fresh: whether to start over.
        progress: whether to show progress bars.

    Returns:
        The path of the HTML report.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if fresh:
        for name in WRITTEN:  # and nothing else that may lie there
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    _say("1/3 The victim: a small 3-D network learns to tell eight motions apart.")
    accuracy = victim_training.train(out / "victim.pt", seed=seed, progress=progress)
    _publish(out / "victim.pt")
    _say(f"    It names {accuracy:.1%} of unseen clips correctly.")
    _say("2/3 The agents: two of them learn where and when to put noise so that the victim fails.")
    agents = _train_agents(out, seed, progress)
    _say(
        f"3/3 The attack: {TEST_CLIPS} unseen clips, {max(BUDGETS)} queries each, beside the attacks without learning."
    )
    done = run_benchmark(
        Benchmark(
            victims=[load_victim("demo", out / "victim.pt")],
            attacks=agents_and_controls(agents),
            data=Synthetic(TEST_CLIPS, split_seed(seed, "test")),
            distortions=[DISTORTION],
            labels="dataset",  # what the victim gets wrong without an attack says nothing about one
            budget=max(BUDGETS),
            budgets=BUDGETS,
            grid=GRID,
            seed=seed,
            keep_clips=True,
            training=log if (log := out / "training").is_dir() else None,  # an older demo has left none
            out=str(out / "test"),
        ),
        progress=progress,
    )
    assert done is not None  # nobody else has a share of the clips
    [trials] = done.trials.values()
    result = trials["rl"].to_result()
    videos = _write_videos(out / "videos", result)
    confidence = result.history["score"][~result.skipped, 0].exp()
    _say(
        f"    The victim names {len(confidence)} of the clips correctly, with a median confidence of"
        f" {confidence.median():.2f}; the figures are of these.\n"
    )
    _say((out / "test" / "summary.md").read_text("utf-8"))
    _say(f"results: {out / 'test' / 'summary.csv'}\nvideos:  {videos}\nreport:  {done.report}")
    return done.report


def _say(text: str) -> None:
    print(text, flush=True)


def _publish(victim: Path) -> None:
    """Puts the trained victim where `load_victim("demo")` looks for it."""
    content = victim.read_bytes()
    default_path().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(default_path(), content)


def _train_agents(out: Path, seed: int, progress: bool) -> Agents:
    """The agents trained against the victim in `out`, or those that are there if they were trained
    alike."""
    module = TwoAgentPPO(
        load_victim("demo", out / "victim.pt"),
        distortion=DISTORTION,
        grid=GRID,
        classes=len(CLASSES),
        longest=LONGEST,
        probing=LEARNING,
        eval_budget=BUDGETS[1],
        seed=seed,
        out=str(out),
    )
    settings = {"seed": seed, "clips": TRAIN_CLIPS, "epochs": EPOCHS, "learning": dataclasses.asdict(LEARNING)}
    settings |= {key: value for key, value in module.agents.trained.items() if not key.startswith("training_")}
    path = out / "agents.pt"
    with contextlib.suppress(FileNotFoundError, CheckpointError):  # none yet, or of another version
        agents = load_agents(path)
        if {key: agents.trained.get(key) for key in settings} == settings:
            _say(f"    Trained before, with {agents.trained['training_queries']} queries.")
            return agents
    with quiet():
        trainer = lightning.Trainer(
            accelerator="gpu" if torch.cuda.is_available() else "cpu",  # other accelerators lack 3-D convolutions
            devices=1,
            max_epochs=EPOCHS,
            logger=CSVLogger(out, name="training", version=""),
            log_every_n_steps=1,
            val_check_interval=1 / VALIDATIONS,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            default_root_dir=out,
        )
        held_out = _validation_clips(seed)
        trainer.validate(module, held_out, verbose=False)  # where the learning curve begins
        clips, begun = _training_clips(seed), time.perf_counter()
        trainer.fit(module, clips, held_out)
        minutes = (time.perf_counter() - begun) / 60
    agents = module.agents.cpu()
    agents.trained |= settings
    save_agents(path, agents)
    _say(f"    They spent {agents.trained['training_queries']} queries on training clips, in {minutes:.1f} minutes.")
    return agents


def _training_clips(seed: int) -> DataLoader[Tensor]:
    """Batches float32[b 3 t h w] of synthetic clips, drawn once."""
    return DataLoader(_drawn(TRAIN_CLIPS, seed, "train"), BATCH, collate_fn=lambda batch: as_floats(torch.stack(batch)))  # type: ignore[arg-type]


def _validation_clips(seed: int) -> DataLoader[Any]:
    """One batch (float32[b 3 t h w], indices) of synthetic clips."""
    clips, numbers = _drawn(VAL_CLIPS, seed, "val"), torch.arange(VAL_CLIPS)
    return DataLoader(clips, VAL_CLIPS, collate_fn=lambda batch: (as_floats(torch.stack(batch)), numbers))  # type: ignore[arg-type]


def _drawn(count: int, seed: int, split: Literal["train", "val"]) -> Tensor:
    """Synthetic clips uint8[count 3 t h w], drawn once."""
    source = Synthetic(count, split_seed(seed, split))
    return torch.stack([source[i][0] for i in range(count)])


def _write_videos(folder: Path, result: AttackResult) -> Path:
    """The first fooled clips as mp4: clean, attacked, and the amplified difference side by side."""
    folder.mkdir(exist_ok=True)
    for i in result.success.nonzero().flatten().tolist()[:SHOWN]:
        picture = side_by_side(result.clean[i], result.adversarial[i])
        write_mp4(folder / f"clip{i:02d}.mp4", picture, fps=FRAMES_PER_SECOND)
    return folder

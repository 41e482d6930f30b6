"""`vidmarl demo`: the whole story on clips that the program makes itself, every step of it real.

A victim is trained to tell motions apart, two agents are trained against it, and unseen clips are
attacked by them and by the attacks without learning, at equal queries. What an earlier run has left
is used again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vidmarl.agents.checkpoint import load_agents, save_agents
from vidmarl.attacks.result import AttackResult
from vidmarl.data.encode import side_by_side, write_mp4
from vidmarl.data.synthetic import Synthetic, split_seed
from vidmarl.data.video import as_floats
from vidmarl.errors import CheckpointError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.training.ppo import PPO, TwoAgentPPO
from vidmarl.utils.quiet import quiet
from vidmarl.victims import demo as demo_victim
from vidmarl.victims import load_victim

DISTORTION = {"class_path": "GaussianNoise", "init_args": {"std": 0.2}}
GRID = TubeletGrid(1, 8, 8)
TRAIN_CLIPS, TEST_CLIPS, EPOCHS = 256, 24, 1
BATCH, STEPS, BUDGET = 32, 16, 24
BUDGETS = (25, 50, 100)
SHOWN = 4
FRAMES_PER_SECOND = 4


def main(out: str | Path = "outputs/demo", *, seed: int = 0, fresh: bool = False, progress: bool = True) -> Path:
    """Runs the demo and says where its report is.

    Args:
        out: the folder to write to.
        seed: of everything that is random.
        fresh: whether to start over.
        progress: whether to show progress bars.

    Returns:
        The path of the HTML report.
    """
    out = Path(out)
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    print("1/3 The victim: a small 3-D network learns to tell eight motions apart.", flush=True)
    accuracy = demo_victim.train(out / "victim.pt", seed=seed, progress=progress)
    print(f"    It names {accuracy:.1%} of unseen clips correctly.", flush=True)
    module = TwoAgentPPO(
        load_victim("demo", out / "victim.pt"),
        distortion=DISTORTION,
        grid=GRID,
        budget=BUDGET,
        steps=STEPS,
        width=16,
        depth=1,
        ppo=PPO(epochs=2, minibatch=256, lr=1e-3),
        eval_budgets=BUDGETS,
        seed=seed,
        out=str(out),
    )
    print("2/3 The agents: two of them learn where and when to put noise so that the victim fails.", flush=True)
    _train(module, out / "agents.ckpt", seed, progress)
    print(
        f"3/3 The attack: {TEST_CLIPS} unseen clips, {max(BUDGETS)} queries each, beside the attacks without learning."
    )
    with quiet():
        _trainer(out, progress).test(module, _clips(TEST_CLIPS, split_seed(seed, "test"), indexed=True), verbose=False)
    videos = _write_videos(out)
    print(f"results: {out / 'test' / 'summary.csv'}\nvideos:  {videos}", flush=True)
    return out / "test" / "report.html"


def _train(module: TwoAgentPPO, path: Path, seed: int, progress: bool) -> None:
    """Trains the agents and keeps them at `path`, or takes those that are there if they were
    trained alike."""
    wanted = {"seed": seed, "clips": TRAIN_CLIPS, "epochs": EPOCHS, "steps": STEPS} | {
        key: value for key, value in module.settings().items() if not key.startswith("training_")
    }
    try:
        agents, settings = load_agents(path)
        if {key: settings.get(key) for key in wanted} == wanted:
            module.agents.load_state_dict(agents.state_dict())
            module.counts[1:] = torch.tensor([settings["training_frames"], settings["training_queries"]])
            print(f"    Trained before, with {settings['training_queries']} queries.", flush=True)
            return
    except (FileNotFoundError, CheckpointError):
        pass
    loader = _clips(TRAIN_CLIPS, split_seed(seed, "train"), indexed=False)
    with quiet():
        _trainer(path.parent, progress, max_epochs=EPOCHS).fit(module, loader)
    save_agents(path, module.agents, module.settings() | wanted)
    print(f"    They spent {int(module.counts[2])} queries on training clips.", flush=True)


def _trainer(out: Path, progress: bool, **kwargs: int) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        default_root_dir=out,
        **kwargs,  # type: ignore[arg-type]
    )


def _clips(n: int, seed: int, *, indexed: bool) -> DataLoader:
    """Batches of synthetic clips, with their indices for an evaluation."""
    clips = torch.stack([clip for clip, _ in (Synthetic(n, seed)[i] for i in range(n))])

    def batch(rows: list[int]) -> Tensor | tuple[Tensor, Tensor]:
        floats = as_floats(clips[rows])
        return (floats, torch.tensor(rows)) if indexed else floats

    return DataLoader(range(n), BATCH if not indexed else 8, collate_fn=batch)  # type: ignore[arg-type]


def _write_videos(out: Path) -> Path:
    """The first fooled clips as mp4: clean, attacked, and the amplified difference side by side."""
    result = AttackResult.load(out / "test" / "rl")
    folder = out / "videos"
    folder.mkdir(exist_ok=True)
    for i in result.success.nonzero().flatten().tolist()[:SHOWN]:
        picture = side_by_side(result.clean[i], result.adversarial[i])
        write_mp4(folder / f"clip{i:02d}.mp4", picture, fps=FRAMES_PER_SECOND)
    return folder

"""How the victim of `vidmarl demo` is trained: plain supervised learning by Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

from vidmarl.data.synthetic import CLASSES, Synthetic, split_seed, transform
from vidmarl.utils.files import load_tensors, save_tensors
from vidmarl.utils.progress import progress_bar
from vidmarl.utils.quiet import quiet
from vidmarl.victims.demo import MEAN, STD, default_path, make_network

BATCH = 32
TEST_CLIPS = 512
PEAK_LR = 1e-2
RECIPE = 1
"""Raised whenever clips, network or training change, so that an older victim is not taken for a
newer one."""
LABEL_SMOOTHING = 0.1  # keeps the scores from saturating, so that small changes of a clip show in them


class TransformedClips(Dataset[tuple[Tensor, int]]):
    """Clips drawn once and kept, each time seen under another symmetry of their world.

    Args:
        source: the clips.
        seed: of the symmetries.
        progress: whether to show a progress bar while they are drawn.
    """

    def __init__(self, source: Synthetic, seed: int, progress: bool = False) -> None:
        order = progress_bar(range(len(source)), desc="Drawing training clips", unit="clip", show=progress)
        self._clips = [source[i] for i in order]
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 t h w"], int]:
        clip, label = self._clips[index]
        return transform(clip, label, self._rng)


class DemoTraining(lightning.LightningModule):
    """Cross-entropy with AdamW, its rate rising and falling once (Smith and Topin 2018,
    "Super-convergence").

    Args:
        network: from normalised clips float[b 3 t h w] to logits float[b k].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train_accuracy = MulticlassAccuracy(len(CLASSES), average="micro")
        self.test_accuracy = MulticlassAccuracy(len(CLASSES), average="micro")
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1, 1))

    def forward(self, clips: UInt8[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        logits: Tensor = self.network((clips / 255 - self.mean) / self.std)
        return logits

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        clips, labels = batch
        logits = self(clips)
        self.train_accuracy(logits, labels)
        self.log("accuracy", self.train_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return F.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)

    def test_step(self, batch: Sequence[Tensor], index: int) -> None:
        clips, labels = batch
        self.test_accuracy(self(clips), labels)
        self.log("accuracy", self.test_accuracy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=PEAK_LR)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(
    path: str | Path | None = None,
    *,
    seed: int = 0,
    epochs: int = 5,
    clips: int = 2048,
    progress: bool = True,
) -> float:
    """Trains the victim, or finds it already trained with the same settings.

    Args:
        path: where it is written, and looked for; None: where `load_victim("demo")` finds it.
        seed: of clips, weights and order.
        epochs: passes over the training clips.
        clips: number of training clips, at least one batch.
        progress: whether to show progress bars.

    Returns:
        Its accuracy on clips that it was not trained on, in [0, 1].

    Raises:
        ValueError: there are fewer clips than a batch holds.
    """
    path = default_path() if path is None else Path(path)
    settings = {"recipe": RECIPE, "seed": seed, "epochs": epochs, "clips": clips, "classes": list(CLASSES)}
    if (known := _accuracy_of(path, settings)) is not None:
        return known
    network, accuracy = _fit(seed, epochs, clips, progress)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": state, "class_names": list(CLASSES), "settings": settings, "accuracy": accuracy}
    save_tensors(path, content)
    return accuracy


def _accuracy_of(path: Path, settings: dict[str, Any]) -> float | None:
    """The accuracy of a victim already trained with these settings, or None."""
    try:
        found = load_tensors(path, "Looking for a trained victim")
        return float(found["accuracy"]) if found["settings"] == settings else None
    except Exception:  # not there, cut short, or another program's: whatever it is, training replaces it
        return None


def _fit(seed: int, epochs: int, clips: int, progress: bool) -> tuple[nn.Module, float]:
    """The trained network on the CPU, and its accuracy on clips of another seed, in [0, 1]."""
    if clips < BATCH:
        raise ValueError(f"Training the victim of the demo: expected at least one batch of {BATCH} clips, got {clips}.")
    train_set = TransformedClips(Synthetic(clips, split_seed(seed, "train")), seed, progress)
    test_set = Synthetic(TEST_CLIPS, split_seed(seed, "test"))
    with torch.random.fork_rng(range(torch.cuda.device_count())), quiet():
        torch.manual_seed(seed)
        module = DemoTraining(make_network())
        trainer = lightning.Trainer(
            accelerator="gpu" if torch.cuda.is_available() else "cpu",  # other accelerators lack 3-D convolutions
            devices=1,
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
        )
        trainer.fit(module, DataLoader(train_set, BATCH, shuffle=True, drop_last=True))
        [tested] = trainer.test(module, DataLoader(test_set, BATCH), verbose=False)
    return module.network.cpu(), float(tested["accuracy"])

"""The whole of a victim's training: it is trained, tested on other clips, and written to a file
that `load_victim` takes.

    OUT/victim.pt      the victim of the best epoch where there are validation clips, else the last
    OUT/test.csv       what it says of each test video
    OUT/results.json   its accuracy, and what it was trained on and how
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from lightning.pytorch.callbacks import ModelCheckpoint

from vidmarl._version import __version__
from vidmarl.data.base import ClipSource
from vidmarl.errors import DataError
from vidmarl.metrics.statistics import wilson
from vidmarl.training.victim import Tested, VictimTraining
from vidmarl.training.victim_data import LabelledClips
from vidmarl.utils.files import load_tensors, write_atomically
from vidmarl.victims.saved import save_victim

FILE, TABLE, RECORD = "victim.pt", "test.csv", "results.json"


def fine_tune(
    training: VictimTraining, data: LabelledClips, trainer: L.Trainer, *, ckpt_path: str | Path | None = None
) -> Path:
    """Trains a victim, tests it if there are test clips, and writes what came of it to
    `training.out`.

    Args:
        training: the victim, and how it is trained. Afterwards `training.victim` is the trained
            one, and `training.tested` the test.
        data: the clips.
        trainer: of Lightning, with its callbacks and its loggers.
        ckpt_path: of an earlier training that broke off, to go on from there.

    Returns:
        The path of the victim.

    Raises:
        DataError: there are no training clips, or clips without a class.
        SettingsError: the parts have other classes, a pattern of `freeze` freezes nothing, or the
            victim is no network that can be trained.
        CheckpointError: `ckpt_path` is not there, damaged, or of another network.
        OSError: the folder cannot be written.
    """
    if "train" not in data.sources:
        raise DataError("Training a victim: no clips to train on were given. Set data.train.")
    trainer.fit(training, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    if best := _best_epoch(trainer):
        training.load_state_dict(load_tensors(best, "Loading the best epoch")["state_dict"])
    if "test" in data.sources:
        trainer.test(training, datamodule=data, verbose=False)
    training.eval()
    out = Path(training.out)
    if trainer.is_global_zero:
        _write(out, training, data, trainer)
    trainer.strategy.barrier()
    return out / FILE


def _best_epoch(trainer: L.Trainer) -> str:
    """The checkpoint of the best epoch; "" where nothing says which one that is."""
    kept = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return next((callback.best_model_path for callback in kept if callback.monitor), "")


def _write(out: Path, training: VictimTraining, data: LabelledClips, trainer: L.Trainer) -> None:
    victim, tested = training.victim, training.tested
    victim.name = out.resolve().name
    record: dict[str, Any] = {
        "vidmarl": __version__,
        "network": training.network_name,
        "epochs": trainer.current_epoch,
        "train": repr(data.sources["train"]),
        "test": None if tested is None else summary(tested) | {"clips": repr(data.sources["test"])},
        "views": list(data.views),
        "settings": {
            name: getattr(training, name)
            for name in ("freeze_patterns", "lr", "weight_decay", "warm_up", "zoom", "seed")
        },
        "spec": None if victim.spec is None else dataclasses.asdict(victim.spec),
    }
    save_victim(out / FILE, victim, training.network_name, record)
    if tested is not None:
        write_atomically(out / TABLE, table(tested, data.sources["test"]).to_csv(index=False))
    write_atomically(out / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def summary(tested: Tested) -> dict[str, Any]:
    """The accuracy of a test, with Wilson's 95 % interval, as plain data."""
    found = tested.accuracy
    low, high = wilson(np.array(int((found.ranks < 1).sum())), len(found))
    return {"videos": len(found), "top1": found.top1, "interval": [float(low), float(high)], "top5": found.top5}


def told(tested: Tested) -> str:
    """The accuracy of a test, as a line for a person."""
    found = summary(tested)
    low, high = found["interval"]
    return (
        f"right about {found['top1']:.1%} of {found['videos']} test videos (95 % interval {low:.1%} to {high:.1%}),"
        f" top-5 {found['top5']:.1%}"
    )


def table(tested: Tested, source: Any) -> pd.DataFrame:
    """A row for each test video: its name and class, what the victim says of it, and how sure it
    is."""
    sure, said = tested.probabilities.max(1)
    known, positions = list(source.classes), tested.positions.tolist()
    return pd.DataFrame(
        {
            "clip": [source[i].name if isinstance(source, ClipSource) else f"clip-{i:05d}" for i in positions],
            "class": [known[i] for i in tested.labels.tolist()],
            "prediction": [known[i] for i in said.tolist()],
            "probability": sure.round(decimals=4).tolist(),
            "right": (said == tested.labels).tolist(),
        }
    )

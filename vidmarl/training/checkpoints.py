"""Checkpoints of training: whole or not there, verified when they are read, and never older than
the last epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from vidmarl.agents.checkpoint import unpack_agents
from vidmarl.errors import CheckpointError
from vidmarl.utils.files import PathLike, load_tensors, readable, save_tensors, sweep

SETTINGS = "vidmarl_settings"
"""The key of what `vidmarl.training.settings.settings_of` gives."""


def read_checkpoint(path: PathLike) -> dict[str, Any]:
    """The content of a training checkpoint, as plain data and tensors on the CPU.

    Raises:
        FileNotFoundError: there is no file at the path.
        CheckpointError: the file is damaged, holds something else, or is of another version.
    """
    content = load_tensors(path, "Loading a checkpoint")
    doing = f"Loading the checkpoint {readable(path)}"
    unpack_agents(content, doing)
    if missing := [key for key in (SETTINGS, "state_dict") if not isinstance(content.get(key), dict)]:
        raise CheckpointError(
            f"{doing}: it holds agents, but no {missing[0]} to go on with. Give a checkpoint of `vidmarl fit`."
        )
    return content  # type: ignore[no-any-return]


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints to this machine's disks whole or not at all, and verifies them when they
    are read. Lightning's own way, which serves other places, copies where the folder for temporary
    files is on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: PathLike, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, str(path), storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        sweep(Path(path).parent)
        save_tensors(path, checkpoint)

    def load_checkpoint(
        self, path: PathLike, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        if "://" in str(path):
            return super().load_checkpoint(str(path), map_location, weights_only=True)
        return read_checkpoint(path)


class LastState(ModelCheckpoint):
    """Keeps the state at the end of every epoch as `last.ckpt`, beside the checkpoints of other
    callbacks, and says how to go on when training breaks off.

    Lightning's `save_last` would keep the last of those that were the best.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", save_on_train_epoch_end=True)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for other in trainer.checkpoint_callbacks:
            if isinstance(other, ModelCheckpoint) and other is not self:
                self.dirpath = self.dirpath or other.dirpath
                other.save_last = False
        super().setup(trainer, pl_module, stage)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        path = self._last_checkpoint_saved or trainer.ckpt_path
        if trainer.state.fn == "fit" and path:
            exception.add_note(
                f"Kept in {readable(path)}: the state at the end of the last whole epoch. The same command with"
                f" --ckpt_path {readable(path)} goes on from there."
            )

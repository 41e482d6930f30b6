"""Victims that are programs of PyTorch: files of `torch.export` (.pt2) and of TorchScript.

Such a file is code as a file of Python is, and is opened because the user names it. One for a GPU
may need that GPU.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from vidmarl.errors import CheckpointError, SettingsError


def open_exported(path: str) -> nn.Module:
    """The network in a file of `torch.export.save`.

    Raises:
        CheckpointError: the file is not there, or is none.
        SettingsError: it was exported for a fixed number of clips above 1.
    """
    try:
        program = torch.export.load(_there(path))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"Opening {path!r}: expected a file of torch.export.save. {error}") from error
    inputs = {name for name in program.graph_signature.user_inputs if isinstance(name, str)}
    [clips, *_] = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    model: nn.Module = program.module()
    return _of_batch(model, clips.shape[0], path)


def open_torchscript(path: str) -> nn.Module:
    """The network in a file of `torch.jit.save`.

    Raises:
        CheckpointError: the file is not there, or is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that torch.export is newer
            model: nn.Module = torch.jit.load(_there(path), map_location="cpu")
    except RuntimeError as error:
        raise CheckpointError(f"Opening {path!r}: expected a file of torch.jit.save. {error}") from error
    return model


def _of_batch(model: nn.Module, clips: int | torch.SymInt, path: str) -> nn.Module:
    """A network that says how many clips it takes at once, where that is 1."""
    if isinstance(clips, int):
        if clips != 1:
            raise SettingsError(
                f"Opening {path!r}: it was exported for {clips} clips at once, no more and no fewer. Export it with a"
                " dynamic batch, dynamic_shapes=({0: torch.export.Dim('b')},), or with a single clip."
            )
        model.clips_at_once = 1  # type: ignore[assignment]
    return model


def _there(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"Opening {path!r}: there is no such file.")
    return file

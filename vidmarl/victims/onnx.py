"""Victims that are files of ONNX, run by onnxruntime: `pip install "vidmarl[onnx]"`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidmarl.errors import CheckpointError, SettingsError

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class OnnxModel:
    """The scores of a network in a file of ONNX, by the names of its outputs.

    Args:
        path: the file.
        providers: of onnxruntime, those that are tried first; None: all that it has.

    Attributes:
        sha256: of the file.
        clips_at_once: 1 where it takes a single clip; None: any number.

    Raises:
        CheckpointError: the file is not there, or is none.
        SettingsError: onnxruntime is not installed, or the network has more than one input, or
            takes a fixed number of clips above 1.
    """

    def __init__(self, path: str, providers: Sequence[str] | None = None) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"Opening {path!r}: onnxruntime is not installed. pip install 'vidmarl[onnx]'."
            ) from error
        file = Path(path).expanduser()
        if not file.is_file():
            raise CheckpointError(f"Opening {path!r}: there is no such file.")
        with file.open("rb") as stream:
            self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        try:
            # by its path, for what it may have beside it
            self._session = onnxruntime.InferenceSession(file, providers=providers or _available(onnxruntime))
        except Exception as error:  # of types of its own
            raise CheckpointError(f"Opening {path!r}: expected a file of ONNX. {error}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs)
            raise SettingsError(f"Opening {path!r}: expected one input, the clips, got {len(inputs)}: {names}.")
        batch = inputs[0].shape[0] if inputs[0].shape else None
        if isinstance(batch, int) and batch != 1:
            raise SettingsError(
                f"Opening {path!r}: it takes {batch} clips at once, no more and no fewer. Export it with a dynamic"
                " batch, or with a single clip."
            )
        self.clips_at_once = batch if isinstance(batch, int) else None
        self._input = inputs[0].name
        self._type = TYPES.get(inputs[0].type)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, clips: Tensor) -> dict[str, Tensor]:
        """The outputs for clips, by name."""
        values = np.ascontiguousarray(clips.cpu().numpy())
        if self._type is not None and values.dtype.kind == "f":
            values = values.astype(self._type, copy=False)
        found = self._session.run(self._outputs, {self._input: values})
        arrays = {n: v for n, v in zip(self._outputs, found, strict=True) if isinstance(v, np.ndarray)}
        return {name: torch.from_numpy(value) for name, value in arrays.items() if value.dtype.kind in "fiu"}


def _available(onnxruntime: Any) -> list[str]:
    providers: list[str] = onnxruntime.get_available_providers()
    return [name for name in providers if not name.startswith("Azure")]  # which sends to a server

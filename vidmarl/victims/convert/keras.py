"""LRCN and ConvLSTM from the file of a Keras model (`model.save("model.h5")`): the recipe of
`vidmarl.victims.ucf50`.

Keras writes a group for each layer, with the names of its arrays in the order in which the layer
made them: kernel (and recurrent kernel), then bias. The architecture is JSON beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vidmarl.errors import SettingsError
from vidmarl.victims.convert import Converted, wrong

USUAL = {"lrcn": "lrcn_ucf50_50", "convlstm": "convlstm_ucf50_31"}
"""The victims that read such files, whatever their number of classes and size of frames."""
RECURRENT = {"lrcn": "LSTM", "convlstm": "ConvLSTM2D"}


def convert(name: str, path: Path) -> Converted:
    """See `vidmarl.victims.convert.convert`."""
    try:
        import h5py
    except ImportError:
        raise SettingsError("Reading a file of Keras: h5py is not installed. pip install 'vidmarl[convert]'.") from None
    try:
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs or "model_weights" not in file:
                raise wrong(path, 'a whole model of Keras, of model.save("model.h5")', "a file without an architecture")
            layers = list(_layers(json.loads(_text(file.attrs["model_config"]))))
            arrays = [found for found in _arrays(file["model_weights"]) if found]
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:  # of a damaged file
        raise wrong(path, "an HDF5 file of Keras", "another file, or a damaged one") from error
    kinds = [kind for kind, _ in layers]
    if RECURRENT[name] not in kinds:
        raise wrong(path, f"a model with layers of the kind {RECURRENT[name]}", f"{', '.join(kinds)}")
    try:
        state = _lrcn(arrays) if name == "lrcn" else _convlstm(arrays)
        facts = _facts(layers, RECURRENT[name])
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        raise wrong(path, f"the layers of the recipe's {name.upper()}", f"{', '.join(kinds)}") from error
    return Converted(USUAL[name], state, {"arch": name, **facts})


def _layers(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and settings of each layer; those around another one are looked into."""
    for layer in config["config"]["layers"] if isinstance(config["config"], dict) else config["config"]:
        inner = layer["config"].get("layer")
        settings = layer["config"] if inner is None else inner["config"]
        shape = layer["config"].get("batch_input_shape") or layer["config"].get("batch_shape")
        yield (layer if inner is None else inner)["class_name"], {**settings, "clip_shape": shape}


def _arrays(weights: Any) -> Iterator[list[np.ndarray]]:
    """The arrays of each layer, in order."""
    for layer in weights.attrs["layer_names"]:
        group = weights[_text(layer)]
        yield [np.asarray(group[_text(name)], dtype=np.float32) for name in group.attrs["weight_names"]]


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _facts(layers: list[tuple[str, dict[str, Any]]], recurrent: str) -> dict[str, Any]:
    """What the arrays do not say: frames and size of the clips, windows of the pooling, gates."""
    shape = next(settings["clip_shape"] for _, settings in layers if settings["clip_shape"])
    facts: dict[str, Any] = {"frames": int(shape[1]), "size": int(shape[2])}
    if recurrent == "LSTM":
        facts["pools"] = [int(settings["pool_size"][-1]) for kind, settings in layers if kind == "MaxPooling2D"]
    else:
        gates = {str(settings.get("recurrent_activation")) for kind, settings in layers if kind == recurrent}
        (facts["recurrent_activation"],) = gates
    return facts


def _lrcn(layers: list[list[np.ndarray]]) -> dict[str, Tensor]:
    *convolutions, (kernel, recurrent, gates), (weight, bias) = layers
    state = {}
    for number, (filters, offset) in enumerate(convolutions, start=1):
        state[f"conv{number}.weight"], state[f"conv{number}.bias"] = _filters(filters), torch.from_numpy(offset)
    state |= {"lstm.weight_ih": _transposed(kernel), "lstm.weight_hh": _transposed(recurrent)}
    return state | {"lstm.bias": torch.from_numpy(gates), **_classifier(weight, bias)}


def _convlstm(layers: list[list[np.ndarray]]) -> dict[str, Tensor]:
    *cells, (weight, bias) = layers
    state = {}
    for number, (kernel, recurrent, gates) in enumerate(cells, start=1):
        state[f"cell{number}.input.weight"] = _filters(kernel)
        state[f"cell{number}.hidden.weight"] = _filters(recurrent)
        state[f"cell{number}.bias"] = torch.from_numpy(gates)
    return state | _classifier(weight, bias)


def _filters(kernel: np.ndarray) -> Tensor:
    return rearrange(torch.from_numpy(kernel), "h w i o -> o i h w").contiguous()


def _transposed(kernel: np.ndarray) -> Tensor:
    return rearrange(torch.from_numpy(kernel), "i o -> o i").contiguous()


def _classifier(weight: np.ndarray, bias: np.ndarray) -> dict[str, Tensor]:
    return {"fc.weight": _transposed(weight), "fc.bias": torch.from_numpy(bias)}

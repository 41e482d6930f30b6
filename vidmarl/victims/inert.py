"""Files of `torch.save` that hold Python objects beside their tensors, as those of MMAction2 do:
the tensors are read, and nothing is made of the rest."""

from __future__ import annotations

import io
import pickle
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

TENSORS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
"""All that a pickle of tensors needs."""


class Nothing:
    """What stands for every other object of a pickle: it does nothing, whatever it is given."""

    def __new__(cls, *given: Any, **named: Any) -> Nothing:
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None:
        """Forgets it."""

    def extend(self, items: Any) -> None:
        """Forgets them."""


class TensorUnpickler(pickle.Unpickler):
    """Reads tensors and plain data; every class and function but theirs becomes `Nothing`."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return TENSORS.get((module_name, global_name), Nothing)


def read_tensors(path: Path) -> Any:
    """What a file of `torch.save` holds, on the CPU; its Python objects are `Nothing`.

    Raises:
        Exception: of many types, where it is damaged or no such file.
    """
    pickles = types.SimpleNamespace(
        Unpickler=TensorUnpickler,
        load=lambda file, **options: TensorUnpickler(file, **options).load(),
        __name__="tensors alone",
    )
    return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=False, pickle_module=pickles)

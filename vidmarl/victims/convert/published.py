"""The state dicts of PyTorch that MMAction2, and the authors of TSM, publish.

The victims read them as they are. A file made here is smaller, has the names of this package, and
is without the Python objects that some of the published ones hold.
"""

from __future__ import annotations

import io
import pickle
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidmarl.victims import c3d, tpn, tsn
from vidmarl.victims.convert import Converted, wrong
from vidmarl.victims.names import renamer
from vidmarl.victims.weights import STATE_KEYS

Renamer = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
KINDS: dict[str, tuple[str, Renamer]] = {
    "c3d": ("c3d", renamer(c3d.RULES)),
    "tsn": ("tsn_r50", tsn.renamed),
    "tsm": ("tsm_r50", tsn.renamed),
    "tpn": ("tpn_r50", renamer(tpn.RULES)),
}
"""The victim of each conversion, and what gives its tensors their names."""
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


def convert(name: str, path: Path) -> Converted:
    """See `vidmarl.victims.convert.convert`."""
    victim, renamed = KINDS[name]
    content = _read(path)
    held = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    state = {str(key): value.detach().clone() for key, value in held.items() if isinstance(value, Tensor)}
    if not state:
        raise wrong(path, "a state dict of PyTorch", f"a file without tensors (keys {list(content)[:5]})")
    return Converted(victim, renamed(state))


def _read(path: Path) -> Mapping[str, Any]:
    pickles = types.SimpleNamespace(
        Unpickler=TensorUnpickler,
        load=lambda file, **options: TensorUnpickler(file, **options).load(),
        __name__="tensors alone",
    )
    try:
        content = torch.load(
            io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=False, pickle_module=pickles
        )
    except Exception as error:  # of many types: a damaged file can lead torch anywhere
        raise wrong(path, "a file of torch.save", f"one that cannot be read ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise wrong(path, "a state dict of PyTorch", f"one {type(content).__name__}")
    return content

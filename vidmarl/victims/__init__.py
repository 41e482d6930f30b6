"""Victims by name. Each family of networks is one module here with two functions, `names` and
`load`."""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from vidmarl.data.spec import ClipSpec
from vidmarl.errors import UnknownNameError
from vidmarl.victims.victim import Victim


def load_victim(
    name: str,
    weights: str | Path | None = None,
    *,
    spec: ClipSpec | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> Victim:
    """Makes a known network into a victim, with its preprocessing and its labels.

    Args:
        name: one of `list_victims()`, or "family/name", such as "torchvision/r3d_18".
        weights: path of a state dict (`.pt`, `.pth`, `.pyth`, `.safetensors`); "random" for an
            untrained network, for tests; None for the file that belongs to the name, under
            `VIDMARL_DATA/weights`. The networks of torchvision and pytorchvideo have none of their
            own: they take `<name>.pt` from there, or warn and stay random.
        spec: how clips shall be made for it, instead of its own convention, such as fewer or
            smaller frames.
        device: where it runs.
        batch_size: clips per forward pass; None: what suits the device, see `Victim`.

    Returns:
        The victim, in eval mode.

    Raises:
        UnknownNameError: there is no victim of that name; the message offers the nearest.
        CheckpointError: the weight file is missing, damaged, or belongs to another network.
    """
    family_name, _, short = name.rpartition("/")
    for family in _families():
        if family_name in ("", _short_name(family)) and short in family.names():
            return family.load(short, weights, spec=spec, device=device, batch_size=batch_size)
    raise UnknownNameError("victim", name, list_victims())


def list_victims(pattern: str = "*") -> list[str]:
    """The names that `load_victim` knows, sorted, such as `list_victims("*x3d*")`.

    A name that two families share is that of the first; the other one is listed as "family/name".
    """
    owners: dict[str, ModuleType] = {}
    for family in _families():
        for name in family.names():
            owners[name if name not in owners else f"{_short_name(family)}/{name}"] = family
    return sorted(fnmatch.filter(owners, pattern))


def _families() -> Iterator[ModuleType]:
    """The modules of this package that know victims, in alphabetical order, each imported only when
    it is its turn."""
    for found in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{found.name}")
        if hasattr(module, "names") and hasattr(module, "load"):
            yield module


def _short_name(family: ModuleType) -> str:
    return family.__name__.rpartition(".")[2]

"""What tells attacks apart whose results may differ: only the attack that began some work may go on
with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vidmarl.attacks.base import Attack
from vidmarl.distortions import Distortion
from vidmarl.utils.fingerprints import fingerprint


def identity(attack: Attack) -> dict[str, Any]:
    """All that decides what an attack does to a clip, as plain data: its class, every setting, and
    the weights of its networks.

    Raises:
        ValueError: a setting cannot be told as plain data.
    """
    told = attack.params()
    settings = {
        field.name: plain(told.get(field.name, getattr(attack, field.name)), f"{type(attack).__name__}.{field.name}")
        for field in dataclasses.fields(attack)
        if field.name not in ("clips_at_once", "progress")  # these change no result
    }
    networks = {key: _network(network) for key, network in attack.networks().items()}
    kind = type(attack)
    return {"attack": f"{kind.__module__}.{kind.__qualname__}", "settings": settings, "networks": networks}


def _network(network: nn.Module) -> dict[str, Any]:
    """The weights of a network; of agents also what they were trained for, but for what it cost."""
    trained = getattr(network, "trained", {})
    kept = {key: value for key, value in trained.items() if not key.startswith("training_")}
    return {"weights": fingerprint(network), "trained": plain(kept, "trained")}


def plain(value: Any, what: str) -> Any:
    """A setting as plain data, whatever it is made of; networks and tensors as a hash of their
    content.

    Args:
        value: the setting.
        what: its name, for the message of an error.

    Raises:
        ValueError: it is made of something else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Distortion):
        return value.to_record()
    if isinstance(value, nn.Module | Tensor):
        return fingerprint(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{what}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(item, f"{what}[{i}]") for i, item in enumerate(items)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{what}.{f.name}") for f in dataclasses.fields(value)}
    raise ValueError(
        f"Telling attacks apart by their settings: expected {what} to be plain data, tensors, networks or dataclasses,"
        f" got {value!r}."
    )

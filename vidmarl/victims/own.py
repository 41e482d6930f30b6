"""Victims of the user's own: a class, a function or an object that a path leads to, or a file or an
address of a model.

Whatever leads here was named by the user; nothing that a checkpoint names does.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from vidmarl.data.spec import ClipSpec
from vidmarl.errors import SettingsError
from vidmarl.registry import call, object_at, read_description, settings_of
from vidmarl.utils.randomness import seeded
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import RANDOM, fill, find_given, read

OPENERS = {
    "http://": "endpoint.Endpoint",
    "https://": "endpoint.Endpoint",
    ".onnx": "onnx.OnnxModel",
    ".pt": "saved.open_saved",
    ".pt2": "exported.open_exported",
    ".torchscript": "exported.open_torchscript",
}
"""How a name begins or ends that is the address or the file of a model, and what opens it."""

LATER = ("spec", "device", "batch_size")
"""What is changed after a victim is made."""


def opener(name: str) -> Callable[..., Any] | None:
    """What makes a model of the file or the address `name`; None where it is neither."""
    for mark, path in OPENERS.items():
        if name.startswith(mark) if mark.endswith("://") else name.endswith(mark):
            module, _, made = path.rpartition(".")
            return partial(getattr(importlib.import_module(f"vidmarl.victims.{module}"), made), name)
    return None


def make_own(path: str, thing: Any, given: Mapping[str, Any]) -> Victim:
    """The victim that a thing of the user's is, or makes.

    Args:
        path: what the user calls it.
        thing: a `Victim`, a model, or a class or a function that makes one. A model is an
            `nn.Module` or, if a class or a function has made it, any other callable. It is wrapped
            in a `Victim`, with its `clips_at_once` as batch size if it has that.
        given: settings. Those that the class or function names are its own, or all of them if it
            takes any; of the others, those of `Victim` are given to the `Victim` around the model.
            `spec`, `device` and `batch_size` are changed after it is made. `weights` of a class of
            networks is the file of its state dict.

    Raises:
        SettingsError: nothing takes a setting, or no model comes of it.
        CheckpointError: see `vidmarl.victims.weights`.
    """
    doing = f"Loading the victim {path!r}"
    later = {name: given[name] for name in LATER if name in given}
    settings = {name: value for name, value in given.items() if name not in later}
    around: dict[str, Any] = {}
    made = thing
    if isinstance(thing, nn.Module):
        settings, around = {}, settings
    elif not isinstance(thing, Victim):
        settings, around = _shared_out(thing, settings)
        network = isinstance(thing, type) and issubclass(thing, nn.Module)
        weights = settings.pop("weights", None) if network and "weights" not in settings_of(thing) else None
        if isinstance(thing, type) and issubclass(thing, Victim) and isinstance(settings.get("model"), str | Mapping):
            settings["model"] = _model(settings["model"], doing)
        with seeded(0):  # an untrained network is the same each time
            made = call(thing, doing, **settings)
        settings = {}
        if weights not in (None, RANDOM):
            fill(made, read(find_given(path, weights)), path)
    if isinstance(made, Victim):
        if surplus := [*settings, *around]:
            raise SettingsError(
                f"{doing}: it is a Victim already when it is made, so it cannot get {surplus}. Let the function that"
                " makes it take them."
            )
    elif callable(made):
        of_a_class = isinstance(made, nn.Module) and not isinstance(thing, partial)  # and no file's
        name = type(made).__name__ if of_a_class else last_name(path)
        usual = {"name": name, "batch_size": getattr(made, "clips_at_once", None)}
        made = call(partial(Victim, made), doing, **usual | around)
    else:
        raise SettingsError(
            f"{doing}: expected a Victim, an nn.Module or another callable from clips to scores, got"
            f" {type(made).__name__}."
        )
    if "spec" in later:
        made.spec = (made.spec or ClipSpec()).changed(later["spec"])
    if "batch_size" in later:
        made.batch_size = later["batch_size"]
    if "device" in later or isinstance(made.model, nn.Module):
        made.to(later.get("device", "auto"))
    return made  # type: ignore[no-any-return]


def _shared_out(thing: Any, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of what makes a model, and those of the `Victim` around the model."""
    if not callable(thing):
        return dict(settings), {}
    parameters = inspect.signature(thing).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(settings), {}
    own = {parameter.name for parameter in parameters}
    around = {name for name in settings_of(Victim) if name in settings and name not in own}
    return {n: v for n, v in settings.items() if n not in around}, {n: v for n, v in settings.items() if n in around}


def _model(described: str | Mapping[str, Any], doing: str) -> Any:
    """The model that `{"class_path", "init_args"}` stands for."""
    path, arguments = read_description({"class_path": described} if isinstance(described, str) else described, doing)
    return call(opener(path) or object_at(path, "model"), doing, **arguments)


def last_name(path: str) -> str:
    """What a victim is called in tables: an address without what may be secret in it, the stem of a
    file (of `NAME/victim.pt`, as training writes it, NAME), the name of a folder, or the last of a
    path."""
    if "://" in path:
        return path.partition("://")[2].partition("?")[0].rpartition("@")[2].rstrip("/")
    if path.startswith("hf:") or Path(path).is_dir():
        return Path(path.removeprefix("hf:")).name
    if any(path.endswith(mark) for mark in OPENERS):
        return Path(path).stem if Path(path).name != "victim.pt" else Path(path).absolute().parent.name
    return path.rpartition(":")[2].rpartition(".")[2]

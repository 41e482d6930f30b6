"""From a name, a path or a description to a victim, and what there is by name."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vidmarl.data.spec import ClipSpec
from vidmarl.errors import CheckpointError, SettingsError, UnknownNameError, nearest
from vidmarl.registry import first_sentence, is_file_path, object_at, package_of, plugins, read_description
from vidmarl.utils.devices import usable_device
from vidmarl.victims import transformers
from vidmarl.victims.cards import Card, input_of
from vidmarl.victims.own import make_own, opener
from vidmarl.victims.victim import Victim

GROUP = "vidmarl.victims"
"""The package of the families of victims, and the group of entry points of other packages."""
OPTIONS = ("weights", "spec", "device", "batch_size")
"""What `load_victim` takes for every victim that has a name."""


def load_victim(
    thing: Victim | str | Mapping[str, Any],
    weights: str | Path | None = None,
    *,
    spec: ClipSpec | Mapping[str, Any] | None = None,
    device: torch.device | str = "auto",
    batch_size: int | None = None,
) -> Victim:
    """Makes a victim of whatever names one, with its preprocessing and its labels.

    Args:
        thing: one of
            - a name of `list_victims()`, or "family/name", such as "torchvision/r3d_18";
            - "hf:ORG/NAME", a video classifier at Hugging Face, or the path of a folder that
              `save_pretrained` has written;
            - a class path, "package.module.name", or "folder/file.py:name", of an `nn.Module`, of a
              class of these, of a function that returns one or another callable from clips to
              scores, or of a `Victim`, its class, or a function that returns it;
            - `{"class_path": any of these (or "name": ...), "init_args": {...}}`, as in YAML;
            - a `Victim`, which is returned as it is.

            Settings in `init_args` that such a class or function does not name are those of the
            `Victim` around its model: `mean`, `std`, `layout`, `labels`, ...
        weights: path of a state dict (`.pt`, `.pth`, `.pyth`, `.safetensors`); "random" for an
            untrained network, for tests; None for those that belong to the name: `<name>.pt` or
            their file in `VIDMARL_DATA/weights`, or in the caches, or else downloaded from their
            published address, see `victim_card`. A name without published weights stays random,
            with a warning.
        spec: how clips are made for it. A dict changes single fields of its own spec, such as
            `{"frames": 8, "size": 112}`; a `ClipSpec` takes its place.
        device: where it runs; "auto" is a GPU where there is one. A `Victim` stays where it is.
        batch_size: clips per forward pass; None: what suits the device, see `Victim`.

    Returns:
        The victim, in eval mode.

    Raises:
        UnknownNameError: there is no victim of that name; the message offers the nearest.
        SettingsError: the victim or its spec has no such setting; the message offers the nearest.
        CheckpointError: the weights are missing and cannot be downloaded, are damaged, or belong to
            another network; the message says which file to put where.
        ValueError: there is no such device, or the victim cannot take such clips.
    """
    options = {
        "weights": weights,
        "spec": spec,
        "device": None if device == "auto" else device,
        "batch_size": batch_size,
    }
    if not isinstance(spec, ClipSpec | Mapping | None):
        raise SettingsError(f"Loading a victim: spec must be a ClipSpec or a dict of some of its fields, got {spec!r}.")
    if not isinstance(weights, str | os.PathLike | None):
        raise SettingsError(f"Loading a victim: weights must be the path of a file, 'random' or None, got {weights!r}.")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if isinstance(thing, Victim):
        if surplus := sorted(given.keys() - {"device"}):
            raise SettingsError(f"Loading a victim: {thing!r} is made already, so it cannot get {surplus}.")
        return thing.to(device) if "device" in given else thing
    if isinstance(thing, Mapping):
        if "name" in thing:
            thing = {"class_path": thing["name"], **{key: value for key, value in thing.items() if key != "name"}}
        path, arguments = read_description(thing, "Loading a victim")
        given = arguments | given
    elif isinstance(thing, str):
        path = thing
    else:
        raise SettingsError(
            "Loading a victim: expected a Victim, its name, its class path or {'class_path', 'init_args'}, got"
            f" {thing!r}. Wrap a model first: Victim(model)."
        )
    family, doing = _family_of(path), f"Loading the victim {path!r}"
    if family is None and not transformers.is_checkpoint(path):
        return make_own(path, _own(path), given)
    if unknown := [name for name in given if name not in OPTIONS]:
        raise SettingsError(f"{doing}: there is no setting {unknown[0]!r}; {nearest(unknown[0], OPTIONS)}")
    where: dict[str, Any] = {
        "device": usable_device(given.get("device", "auto"), doing),
        "batch_size": given.get("batch_size"),
    }
    if family is None:
        return transformers.load(path, given.get("weights"), spec=given.get("spec"), **where)
    short = path.rpartition("/")[2]
    usual = family.default_spec(short)
    return family.load(short, given.get("weights"), spec=usual.changed(given.get("spec")), **where)  # type: ignore[no-any-return]


def list_victims(pattern: str = "*") -> list[str]:
    """The names that `load_victim` knows, sorted, such as `list_victims("*x3d*")`.

    A name that two families share is that of the first; the other one is listed as "family/name".
    """
    owners: dict[str, ModuleType] = {}
    for family in _families():
        for name in family.names():
            owners[name if name not in owners else f"{_short_name(family)}/{name}"] = family
    return sorted(fnmatch.filter({*owners, *plugins(GROUP)}, pattern))


def victim_card(name: str) -> Card:
    """What is known of a victim that has a name, without making it.

    `pandas.DataFrame([vidmarl.victim_card(name).row() for name in vidmarl.list_victims()])` is a
    table of all of them.

    Raises:
        UnknownNameError: there is no victim of that name; the message offers the nearest.
    """
    family, short = _family_of(name), name.rpartition("/")[2]
    if family is not None:
        about = getattr(family, "card", _first_words_of(family))(short)
        return dataclasses.replace(about, name=name, input=about.input or input_of(family.default_spec(short)))
    if found := plugins(GROUP).get(name):
        return Card(name=name, description=package_of(found))
    raise UnknownNameError("victim", name, list_victims())


def _first_words_of(family: ModuleType) -> Callable[[str], Card]:
    """A card for a family that has none of its own."""
    return lambda name: Card(description=first_sentence(family.__doc__))


def ships(thing: Any) -> bool:
    """Whether a victim is one of vidmarl's own, by name: nothing else is imported to make it."""
    return isinstance(thing, str) and _family_of(thing) is not None


def _own(path: str) -> Any:
    """What a path of the user's, a file, an address or the name of an entry point leads to.

    Raises:
        UnknownNameError: nothing.
    """
    if opened := opener(path):
        return opened
    if path and Path(path).is_dir():
        raise CheckpointError(
            f"Loading the victim {path!r}: expected a folder of transformers, with config.json and model.safetensors,"
            " or a file, got a folder without config.json."
        )
    if is_file_path(path) or ("." in path and "/" not in path):
        return object_at(path, "victim", list_victims)
    if found := plugins(GROUP).get(path):
        return found.load()
    raise UnknownNameError("victim", path, list_victims())


def _family_of(name: str) -> ModuleType | None:
    """The module here that knows a victim; None where none does."""
    if "." in name:  # a path, for which no family need be imported
        return None
    family_name, _, short = name.rpartition("/")
    for family in _families():
        if family_name in ("", _short_name(family)) and short in family.names():
            return family
    return None


def _families() -> Iterator[ModuleType]:
    """The modules of this package that know victims, in alphabetical order, each imported only when
    it is its turn."""
    for found in pkgutil.iter_modules(importlib.import_module(GROUP).__path__):
        module = importlib.import_module(f"{GROUP}.{found.name}")
        if hasattr(module, "names") and hasattr(module, "load"):
            yield module


def _short_name(family: ModuleType) -> str:
    return family.__name__.rpartition(".")[2]

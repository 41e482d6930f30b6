"""Trained victims as files: `load_victim("runs/x/victim.pt")`, or `--victim runs/x/victim.pt`.

A file holds a state dict and plain data: which network it is of ("network"), its classes
("class_names"), how clips are cut for it ("spec") and what else its `Victim` is told ("around").
Nothing in it is executed, and no class that it names is imported but vidmarl's own. So it is also a
weight file of that network, as any other.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidmarl.data.spec import ClipSpec
from vidmarl.errors import CheckpointError, SettingsError
from vidmarl.utils.files import PathLike, readable, save_tensors
from vidmarl.victims.loading import load_victim, ships
from vidmarl.victims.victim import Victim
from vidmarl.victims.weights import RANDOM, fill, find_given, read

FORMAT = 1
"""Version of the file; a change that older readers cannot read raises it."""

AROUND = ("mean", "std", "channels", "input", "layout", "outputs", "deterministic")
"""The settings of a `Victim` that belong to its network."""

CLASSIFIERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""What the last layer of a network may be."""


def network_of(victim: Victim) -> nn.Module:
    """The network of a victim that can be trained, and saved.

    Raises:
        SettingsError: it has none, or a defence stands before it.
    """
    if type(victim) is not Victim:
        raise SettingsError(
            f"Training the victim {victim.name!r}: it is a {type(victim).__name__} around another victim. Train that"
            " one, and put the defence before it afterwards."
        )
    if not isinstance(victim.model, nn.Module) or victim.numpy:
        raise SettingsError(
            f"Training the victim {victim.name!r}: expected an nn.Module that takes tensors, got"
            f" {type(victim.model).__name__}. A server, an exported file or a plain function cannot be trained."
        )
    return victim.model


def classifier(network: nn.Module) -> tuple[str, nn.Module]:
    """The layer of a network that gives its scores, and its name: the last one that is linear or a
    convolution.

    Raises:
        SettingsError: there is none.
    """
    found = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, CLASSIFIERS)]
    if not found:
        raise SettingsError(
            f"Looking for the last layer of {type(network).__name__}: expected an nn.Linear or a convolution among its"
            " modules, found none."
        )
    return found[-1]


def width(layer: nn.Module) -> int:
    """How many scores a classifier gives."""
    return int(layer.weight.shape[0])  # type: ignore[index]


def with_classes(victim: Victim, classes: Sequence[str]) -> Victim:
    """The victim for other classes: a new last layer, drawn from torch's default generator, in
    place of its own; the rest of its network is shared. It is the victim itself if it has these
    classes, in this order.

    Args:
        victim: whose network is to be trained.
        classes: their names, at least two.

    Raises:
        SettingsError: see `network_of` and `classifier`; or there are fewer than two classes.
    """
    network = network_of(victim)
    if len(classes) < 2:
        raise SettingsError(f"Training the victim {victim.name!r}: expected at least two classes, got {len(classes)}.")
    if victim.labels is not None and [name.casefold() for name in victim.labels] == [c.casefold() for c in classes]:
        return victim
    _replace_classifier(network, len(classes))
    return _around(network, victim, classes)


def _replace_classifier(network: nn.Module, classes: int) -> None:
    name, old = classifier(network)
    new = copy.deepcopy(old)
    kept = "out_features" if isinstance(old, nn.Linear) else "out_channels"
    setattr(new, kept, classes)
    weight, bias = old.weight, old.bias
    assert isinstance(weight, torch.Tensor)
    inputs = math.prod(weight.shape[1:])
    new.weight = nn.Parameter(torch.randn(classes, *weight.shape[1:], dtype=weight.dtype).to(weight.device))
    with torch.no_grad():
        new.weight.mul_(0.1 / math.sqrt(inputs))  # near uniform scores, so that the first steps leave the rest alone
    if bias is not None:
        new.bias = nn.Parameter(torch.zeros(classes, dtype=weight.dtype, device=weight.device))
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, new)


def _around(network: nn.Module, like: Victim, labels: Sequence[str]) -> Victim:
    """A victim around a network, told what another one is told."""
    told: dict[str, Any] = {setting: getattr(like, setting) for setting in (*AROUND, "spec", "name", "batch_size")}
    return Victim(network, labels=labels, **told)


def save_victim(path: PathLike, victim: Victim, network: str, facts: Mapping[str, Any] | None = None) -> Path:
    """Writes a trained victim, whole or not at all.

    Args:
        path: of the file, which ends in `.pt`; its folder is made if need be.
        victim: with its network, its labels and its spec.
        network: what `load_victim` makes a victim with this network of: a name, or a path of the
            user's own.
        facts: plain data on where it comes from, kept beside it.

    Returns:
        The path.

    Raises:
        SettingsError: it has no network, or no names of its classes; or the path has another end.
        OSError: it cannot be written.
    """
    path, model = Path(path), network_of(victim)
    if path.suffix != ".pt":
        raise SettingsError(f"Saving a victim: expected a path that ends in .pt, got {readable(path)}.")
    if victim.labels is None:
        raise SettingsError(f"Saving the victim {victim.name!r}: the names of its classes are not known (labels).")
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = None if victim.spec is None else dataclasses.asdict(victim.spec) | {"size": list(victim.spec.size)}
    content = {
        "format": FORMAT,
        "network": network,
        "name": victim.name,
        "class_names": list(victim.labels),
        "spec": spec,
        "around": {setting: _plain(getattr(victim, setting)) for setting in AROUND},
        "facts": dict(facts or {}),
        "state_dict": {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()},
    }
    return save_tensors(path, content)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def open_saved(path: str, network: str | Mapping[str, Any] | None = None) -> Victim:
    """A trained victim from its file, on the CPU; `load_victim` does this with a path that ends in
    `.pt`.

    Args:
        path: of the file.
        network: what names its network, where that is the user's own; see `load_victim`.

    Raises:
        CheckpointError: there is no such file; it is damaged; it is no trained victim, is of
            another version, or of another network than is named; or its network is the user's own,
            and not named.
    """
    doing = f"Loading the victim {readable(path)}"
    found = read(find_given(path, path))
    facts = found.facts
    if not isinstance(named := facts.get("network"), str):
        raise CheckpointError(
            f"{doing}: the file holds weights, and does not say of which network. Name it, and give the file as its"
            f" weights: --victim NAME --weights {readable(path)}."
        )
    if facts.get("format") != FORMAT:
        raise CheckpointError(f"{doing}: expected a file of format {FORMAT}, got {facts.get('format')!r}.")
    if network is None and not ships(named):
        raise CheckpointError(
            f"{doing}: its network {named!r} is none of vidmarl's own, and nothing that a file names is imported. Name"
            f" it yourself: {{'class_path': {readable(path)!r}, 'init_args': {{'network': {named!r}}}}}."
        )
    try:
        spec = None if facts["spec"] is None else ClipSpec(**facts["spec"])
        like = load_victim(named, RANDOM, spec=spec, device="cpu") if network is None else load_victim(network)
        labels, model = found.class_names or [], network_of(like)
        if width(classifier(model)[1]) != len(labels):
            _replace_classifier(model, len(labels))
        fill(model, found, readable(path))
        return Victim(model, labels=labels, spec=spec, name=facts["name"], **facts["around"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{doing}: what it says of its network does not fit together ({error}).") from error


def network_name(named: Victim | str | Mapping[str, Any]) -> str:
    """What leads to the network of a victim, which is given as for `load_victim`: a name or a path
    of Python, also where it is named by its file. A `Victim` is known by its own name alone.

    Raises:
        CheckpointError: there is no such file, or it is no trained victim.
    """
    if isinstance(named, Victim):
        return str(named.name).removesuffix(" (random weights)")
    name = named if isinstance(named, str) else str(named.get("class_path", named.get("name")))
    return str(_facts(name)["network"]) if name.endswith(".pt") else name


def facts_of(path: PathLike) -> dict[str, Any]:
    """What a file says of where its victim comes from, see `save_victim`.

    Raises:
        CheckpointError: there is no such file, or it is no trained victim.
    """
    return dict(_facts(path)["facts"])


def _facts(path: PathLike) -> Mapping[str, Any]:
    facts = read(find_given(str(path), Path(path))).facts
    if not isinstance(facts.get("network"), str) or not isinstance(facts.get("facts"), Mapping):
        raise CheckpointError(f"Reading {readable(path)}: expected a trained victim, got a file that is none.")
    return facts

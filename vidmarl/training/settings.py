"""The settings of training as plain data, in its checkpoints: told, compared and made again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from vidmarl.data.spec import ClipSpec
from vidmarl.distortions import DISTORTIONS
from vidmarl.errors import CheckpointError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.training.pairs import listed, one_or_all
from vidmarl.training.probing import Probing
from vidmarl.utils.fingerprints import fingerprint
from vidmarl.utils.kinds import check_least, check_positive
from vidmarl.victims import ships
from vidmarl.victims.victim import Victim

if TYPE_CHECKING:
    from vidmarl.training.ppo import TwoAgentPPO

NETS = ("width", "depth", "classes", "longest", "apart")
"""The settings of the nets."""

ATTACKED_WITH = ("victim", "distortion", "grid", "search_cell", "coherence", *NETS)
"""The settings of training that decide what an attack with the agents is."""

TRAINED_WITH = (*ATTACKED_WITH, "ppo", "probing", "seed")
"""The settings that decide the course of training."""

PLAIN = ("search_cell", "coherence", "eval_budget", "seed")
"""The settings of training that are plain data as they are."""


@dataclasses.dataclass(frozen=True)
class PPO:
    """The settings of play.

    Attributes:
        orders: drawn of each clip, at least 2.
        epochs: passes over what was played on a batch of clips.
        minibatch: orders per gradient step.
        lr: learning rate of Adam.
        clip: of the probability ratio.
        max_grad_norm: of the gradient, both nets together; in probing, too.
        target_kl: the passes end when the approximate KL, on the last minibatch of one, exceeds
            this; None: never.

    Raises:
        ValueError: a setting is out of its range.
    """

    orders: int = 4
    epochs: int = 2
    minibatch: int = 256
    lr: float = 1e-3
    clip: float = 0.2
    max_grad_norm: float = 0.5
    target_kl: float | None = 0.03

    def __post_init__(self) -> None:
        check_least("PPO", orders=(self.orders, 2))  # one has no others to be compared with
        check_least("PPO", epochs=(self.epochs, 1), minibatch=(self.minibatch, 1))
        check_positive("PPO", lr=self.lr, clip=self.clip, max_grad_norm=self.max_grad_norm)


PARTS = {"grid": TubeletGrid, "ppo": PPO, "probing": Probing}


def settings_of(module: TwoAgentPPO) -> dict[str, Any]:
    """What the agents are trained against, with and how, as plain data."""
    settings = {name: getattr(module, name) for name in PLAIN}
    settings |= {name: dataclasses.asdict(getattr(module, name)) for name in PARTS}
    settings["victim"] = one_or_all([_victim_record(victim) for victim in module.victims])
    settings["named"] = module.named
    settings["distortion"] = one_or_all([distortion.to_record() for distortion in module.distortions])
    settings |= {name: getattr(module.agents.config, name) for name in NETS}
    return {name: _plain(value) for name, value in settings.items()}


def _victim_record(victim: Victim) -> dict[str, Any]:
    """Who a victim is, and how its clips are made."""
    return {
        "name": victim.name,
        "sha256": fingerprint(victim.model) if isinstance(victim.model, nn.Module) else None,
        "spec": None if victim.spec is None else dataclasses.asdict(victim.spec),
    }


def arguments_from(settings: Mapping[str, Any], given: Mapping[str, Any], doing: str) -> dict[str, Any]:
    """The arguments of `TwoAgentPPO` that a checkpoint tells, under those that are given.

    Args:
        settings: what `settings_of` has told.
        given: arguments that take the place of the checkpoint's.
        doing: opens the message of an error, and says which file.

    Raises:
        CheckpointError: the victim or the distortion is the user's own and not given, or the
            settings do not fit.
    """
    try:
        told = {name: settings[name] for name in (*PLAIN, *NETS)}
        told |= {name: make(**settings[name]) for name, make in PARTS.items()}
        if "distortion" not in given:
            records = listed("distortion", settings["distortion"])
            told["distortion"] = one_or_all([DISTORTIONS.restore(record, doing) for record in records])
        if "victim" not in given:
            told |= _victims_from(settings, doing)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{doing}: its settings do not fit together ({error}).") from error
    return told | dict(given)


def _victims_from(settings: Mapping[str, Any], doing: str) -> dict[str, Any]:
    """The arguments that make the victims of a checkpoint."""
    found = []
    for named, victim in zip(listed("victim", settings["named"]), listed("victim", settings["victim"]), strict=True):
        if named is None or not ships(named["victim"]):
            raise CheckpointError(
                f"{doing}: the victim {victim['name']!r} is not one of vidmarl's own, and nothing that a file names is"
                " imported. Give it yourself: victim=..."
            )
        found.append(named | {"spec": victim["spec"] and ClipSpec(**victim["spec"])})
    if len(found) == 1:
        return dict(found[0])
    own = [{name: value for name, value in each.items() if name != "victim"} for each in found]
    described = zip(found, own, strict=True)
    return {"victim": [{"class_path": each["victim"], "init_args": init_args} for each, init_args in described]}


def differences(one: Mapping[str, Any], other: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Where settings differ, those within others by dotted names, as "name: this and not that". Of
    several victims or distortions each has its number, from 1.

    Args:
        one: plain data.
        other: the same of something else.
        names: of the settings that are compared.
    """
    ours, theirs = ({name: _plain(settings.get(name)) for name in names} for settings in (one, other))
    for name in ours:
        if _count(ours[name]) != _count(theirs[name]):  # there is not one for each: the names are enough
            ours[name], theirs[name] = _names(ours[name]), _names(theirs[name])
    ours, theirs = dict(_flat(ours)), dict(_flat(theirs))
    return [
        f"{name}: {ours.get(name)!r} and not {theirs.get(name)!r}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _plain(settings: Any) -> Any:
    """Settings as JSON would give them back."""
    return json.loads(json.dumps(settings, default=repr))


def _count(setting: Any) -> int:
    return len(setting) if isinstance(setting, list) else 1


def _names(setting: Any) -> Any:
    """The names of victims or of distortions; anything else as it is."""
    if isinstance(setting, list):
        return [_names(each) for each in setting]
    return (setting.get("name") or setting.get("class_path")) if isinstance(setting, Mapping) else setting


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            value = {str(number): each for number, each in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

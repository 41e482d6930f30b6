"""The settings of training as plain data, in its checkpoints: told, compared and made again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from vidmarl.agents.reward import Reward
from vidmarl.data.spec import ClipSpec
from vidmarl.distortions import DISTORTIONS
from vidmarl.errors import CheckpointError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.training.behaviour_cloning import Cloning
from vidmarl.utils.fingerprints import fingerprint
from vidmarl.victims import ships

if TYPE_CHECKING:
    from vidmarl.training.ppo import TwoAgentPPO

NETS = ("width", "depth", "classes")
"""The settings of the nets."""

ATTACKED_WITH = ("victim", "distortion", "grid", "search_cell", "coherence", "acts", "proposal_size", *NETS)
"""The settings of training that decide what an attack with the agents is."""

TRAINED_WITH = (*ATTACKED_WITH, "budget", "steps", "reward", "ppo", "cloning", "seed")
"""The settings that decide the course of training."""

NUMBERS = ("search_cell", "coherence", "acts", "proposal_size", "budget", "steps", "eval_budget", "seed")


@dataclasses.dataclass(frozen=True)
class PPO:
    """The settings of PPO. Orders have no critic: for them there are only `epochs`, `minibatch`,
    `lr`, `clip`, `max_grad_norm`, `target_kl` and `orders`.

    Attributes:
        epochs: passes over a rollout.
        minibatch: frames, or orders, per gradient step.
        lr: learning rate of Adam.
        gamma: discount.
        lmbda: lambda of GAE.
        clip: of the probability ratio.
        entropy: weight of the entropy bonus.
        critic: weight of the critic's loss.
        max_grad_norm: of the gradient, all nets together.
        target_kl: a rollout's passes end when the approximate KL exceeds this; None: never.
        orders: drawn of each clip by agents that rank tubelets, at least 2.
    """

    epochs: int = 3
    minibatch: int = 256
    lr: float = 5e-4
    gamma: float = 0.98
    lmbda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    critic: float = 1.0
    max_grad_norm: float = 1.0
    target_kl: float | None = 0.03
    orders: int = 4

    def __post_init__(self) -> None:
        if self.orders < 2:  # one has no others to be compared with
            raise ValueError(f"PPO: orders must be at least 2, got {self.orders}.")


PARTS = {"grid": TubeletGrid, "reward": Reward, "ppo": PPO, "cloning": Cloning}


def settings_of(module: TwoAgentPPO) -> dict[str, Any]:
    """What the agents are trained against, with and how, as plain data."""
    model, spec, config = module.victim.model, module.victim.spec, module.agents.config
    victim = {
        "name": module.victim.name,
        "sha256": fingerprint(model) if isinstance(model, nn.Module) else None,
        "spec": None if spec is None else dataclasses.asdict(spec),
    }
    settings = {name: getattr(module, name) for name in NUMBERS}
    settings |= {name: dataclasses.asdict(getattr(module, name)) for name in PARTS}
    settings |= {"victim": victim, "named": module.named, "distortion": module.distortion.to_record()}
    settings |= {name: getattr(config, name) for name in NETS}
    return {name: _plain(value) for name, value in settings.items()}


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
        told = {name: settings[name] for name in (*NUMBERS, *NETS)}
        told |= {name: make(**settings[name]) for name, make in PARTS.items()}
        if "distortion" not in given:
            told["distortion"] = DISTORTIONS.restore(settings["distortion"], doing)
        if "victim" not in given:
            named, victim = settings["named"], settings["victim"]
            if named is None or not ships(named["victim"]):
                raise CheckpointError(
                    f"{doing}: the victim {victim['name']!r} is not one of vidmarl's own, and nothing that a file names"
                    " is imported. Give it yourself: victim=..."
                )
            told |= named | {"spec": victim["spec"] and ClipSpec(**victim["spec"])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{doing}: its settings do not fit together ({error}).") from error
    return told | dict(given)


def differences(one: Mapping[str, Any], other: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Where settings differ, those within others by dotted names, as "name: this and not that".

    Args:
        one: plain data.
        other: the same of something else.
        names: of the settings that are compared.
    """
    ours, theirs = ({name: _plain(settings.get(name)) for name in names} for settings in (one, other))
    ours, theirs = dict(_flat(ours)), dict(_flat(theirs))
    return [
        f"{name}: {ours.get(name)!r} and not {theirs.get(name)!r}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _plain(settings: Any) -> Any:
    """Settings as JSON would give them back."""
    return json.loads(json.dumps(settings, default=repr))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

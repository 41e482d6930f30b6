"""Who agents are trained against, and with what: pairs of a victim and a distortion, in turn.

Each training step plays one pair, that of its number: all combinations come one after the other.
All ranks play the same one, so that none waits for another whose victim is slower.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.data.resize import resize_clips
from vidmarl.data.spec import ClipSpec
from vidmarl.distortions import DISTORTIONS
from vidmarl.distortions.base import Distortion, FunctionDistortion
from vidmarl.errors import SettingsError
from vidmarl.perturbations.renderer import to_8bit
from vidmarl.victims import victim_card
from vidmarl.victims.victim import Victim

T = TypeVar("T")

VictimLike = str | dict[str, Any] | Victim
DistortionLike = Distortion | str | dict[str, Any]


class VictimArguments(NamedTuple):
    """What `load_victim` makes a victim of."""

    victim: VictimLike
    weights: str | None
    spec: ClipSpec | Mapping[str, Any] | None

    @property
    def named(self) -> dict[str, Any] | None:
        """What a checkpoint keeps of it; None of a `Victim`, which no file can name."""
        return None if isinstance(self.victim, Victim) else {"victim": self.victim, "weights": self.weights}


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """A victim and a distortion.

    Attributes:
        name: what tells it from the others, such as "lrcn_ucf50_50/gaussian_blur"; "" of the only
            one.
        victim: who is attacked.
        distortion: what is done to the clips.
        spec: the frames and the size that clips are brought to; None: they stay as they are.
    """

    name: str
    victim: Victim
    distortion: Distortion
    spec: ClipSpec | None = None

    def to(self, device: torch.device) -> None:
        """Moves both to a device."""
        self.victim.to(device)
        self.distortion.to(device)

    def fit(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b 3 T H W"]:
        """Clips as the victim wants them: evenly spaced frames of its size, in 8-bit values."""
        if self.spec is None:
            return clips
        given, wanted = clips.shape[2], self.spec.frames or clips.shape[2]
        if wanted != given:
            clips = clips[:, :, torch.linspace(0, given - 1, wanted).round().long().to(clips.device)]
        return to_8bit(resize_clips(clips, self.spec))

    def labelled(self, figures: Mapping[str, T]) -> dict[str, T]:
        """Figures of this pair, called by its name too where there are others."""
        return {**figures, **({f"{key}/{self.name}": value for key, value in figures.items()} if self.name else {})}


def make_pairs(victims: Sequence[Victim], distortions: Sequence[Distortion]) -> list[Pair]:
    """All pairs of some victims and distortions, the distortions of the first victim first."""
    who = zip(_told_apart([str(victim.name) for victim in victims]), victims, strict=True)
    what = zip(_told_apart([_name_of(distortion) for distortion in distortions]), distortions, strict=True)
    pairs = []
    for (who_name, victim), (what_name, distortion) in itertools.product(who, what):
        telling = [name for name, among in ((who_name, victims), (what_name, distortions)) if len(among) > 1]
        pairs.append(Pair("/".join(telling), victim, distortion, victim.spec if len(victims) > 1 else None))
    return pairs


def victim_arguments(
    victim: VictimLike | list[VictimLike], weights: str | None, spec: ClipSpec | None
) -> list[VictimArguments]:
    """What each victim is made of.

    Args:
        victim: a victim, or several.
        weights: of a single one; each of several has its own, in its description.
        spec: likewise.

    Raises:
        SettingsError: there is none, or `weights` or `spec` are given for several.
        UnknownNameError: one of several has a name that nothing has; the message offers the
            nearest.
    """
    wanted = listed("victim", victim)
    if len(wanted) == 1:
        return [VictimArguments(wanted[0], weights, spec)]
    if given := [name for name, value in (("weights", weights), ("spec", spec)) if value is not None]:
        raise SettingsError(
            f"Training against {len(wanted)} victims: expected weights and spec in the description of each, got"
            f" {' and '.join(given)} for all of them. Describe a victim as {{'class_path': NAME, 'init_args':"
            " {'weights': ..., 'spec': ...}}, and set these to null."
        )
    arguments = [_taken_apart(one) for one in wanted]
    for name, *_ in arguments:
        if isinstance(name, str) and name.isidentifier() and not Path(name).exists():
            victim_card(name)  # finds a misspelling before the weights of others are downloaded
    return arguments


def _taken_apart(victim: VictimLike) -> VictimArguments:
    """The name, weights and spec of a description that holds nothing else: a checkpoint can tell
    these."""
    if isinstance(victim, Mapping) and victim.keys() <= {"class_path", "init_args"} and "class_path" in victim:
        arguments = victim.get("init_args") or {}
        if isinstance(arguments, Mapping) and arguments.keys() <= {"weights", "spec"}:
            return VictimArguments(victim["class_path"], arguments.get("weights"), arguments.get("spec"))
    return VictimArguments(victim, None, None)


def listed(kind: str, thing: Any) -> list[Any]:
    """One thing or several, as a list.

    Raises:
        SettingsError: there is none.
    """
    found = list(thing) if isinstance(thing, list | tuple) else [thing]
    if not found:
        raise SettingsError(
            f"Training agents: expected a {kind} or a list of at least one, got an empty list. Name one, or leave"
            f" {kind} out for its default."
        )
    return found


def one_or_all(found: Sequence[T]) -> T | list[T]:
    """The only one of some, or a list of all."""
    return found[0] if len(found) == 1 else list(found)


def _name_of(distortion: Distortion) -> str:
    """The name of its file, or of the function or class of a user's own."""
    own = isinstance(distortion, FunctionDistortion)
    path = distortion.title if own else DISTORTIONS.name_of(distortion)
    return path.rpartition(".")[2]


def _told_apart(names: Sequence[str]) -> Iterator[str]:
    """Names that are fit for logs and folders; one that comes again has a number."""
    seen: Counter[str] = Counter()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.") or "_"
        seen[plain] += 1
        yield plain if seen[plain] == 1 else f"{plain}_{seen[plain]}"

"""What an attack is after: any wrong label, or one chosen label.

A goal turns the victim's log-probabilities into a margin: how far the victim still is from failing
as wanted. The goal holds where the margin is below zero; a tie counts for the victim.
"""

from __future__ import annotations

import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl.registry import explain_settings
from vidmarl.victims.victim import Victim

Classes = Tensor | npt.NDArray[Any] | np.integer[Any] | Sequence[int | str] | int | str
"""Classes of a victim by index or name: one for each clip, or one for all of them."""

RULED_OUT = -1e4
"""Log-probability that a class with a score of -inf counts with: margins and their differences
stay finite."""


@explain_settings
class Goal(ABC):
    """One class per clip, and the side of it on which the victim should end up.

    Args:
        classes: a class for each clip, or a single one (no list) for all of them; by index, or by
            name, which the victim must know (see `Victim.class_index`).

    Attributes:
        classes: int64[b].
        targeted: whether `classes` are wanted rather than to be left.

    Raises:
        TypeError: these are no classes.
    """

    targeted: bool

    def __init__(self, classes: Classes) -> None:
        given = classes.tolist() if isinstance(classes, np.ndarray | np.generic) else classes
        listed = given if isinstance(given, list | tuple) else [given]
        self._named = any(isinstance(one, str) for one in listed)
        self._given: Any = given if self._named else self._indices(given)

    def _indices(self, given: Any) -> Tensor:
        """Class indices as a tensor."""
        try:
            indices = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):  # what PyTorch makes of anything else, and of huge numbers
            indices = torch.zeros(0)
        if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex() or indices.is_meta:
            raise TypeError(
                f"{type(self).__name__}: expected integer class indices or class names, one for each clip or one"
                f" for all, got {reprlib.repr(given)}."
            )
        return indices.to(torch.int64)

    @property
    def classes(self) -> Int64[Tensor, " b"]:
        """A class index per clip.

        Raises:
            ValueError: names were given, whose indices only a victim knows, see `resolve`.
        """
        if self._named:
            raise ValueError(f"{self}: only a victim knows the indices of names: goal.resolve(victim, clips).")
        indices: Tensor = self._given.reshape(-1)
        return indices

    def resolve(self, victim: Victim, clips: int) -> Goal:
        """The same goal with an index for each of `clips` clips.

        Raises:
            UnknownNameError: the victim has no class of a name.
            ValueError: the victim has no class of an index, or no names, or there are not as many
                classes as clips.
            TypeError: something between the names is neither a name nor an index.
        """
        indices = self._given
        if self._named:
            names = [self._given] if isinstance(self._given, str) else self._given
            indices = torch.tensor([victim.class_index(one) for one in names]).reshape(
                () if isinstance(self._given, str) else -1
            )
        goal = type(self)(indices.expand(clips).clone() if indices.ndim == 0 else indices)
        goal.validate(clips, victim.n_classes)
        return goal

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._given if self._named else self._given.tolist()})"

    def validate(self, clips: int, n_classes: int | None) -> None:
        """Raises a ValueError unless there is one class in [0, n_classes) for each of `clips`
        clips; None: the number of classes is not known yet."""
        name = type(self).__name__
        if self.classes.numel() != clips:
            raise ValueError(f"{name}: expected one class for each of the {clips} clips, got {self.classes.numel()}.")
        outside = (self.classes < 0) | (self.classes >= (math.inf if n_classes is None else n_classes))
        there = "counts its classes from 0 on" if n_classes is None else f"has the classes 0 to {n_classes - 1}"
        if outside.any():
            raise ValueError(
                f"{name}: the victim {there}, but the goal names {self.classes[outside].tolist()}."
                " Give the indices of the victim's own label list."
            )

    def __getitem__(self, rows: Tensor | slice | list[int]) -> Goal:
        """The goal of some of the clips."""
        return type(self)(self.classes[rows])

    @staticmethod
    def label_and_runner_up(
        log_probs: Float[Tensor, "n k"], classes: Int64[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Log-probability of each clip's class, and of the strongest other class; at least
        `RULED_OUT` where the victim rules a class out."""
        label = log_probs.gather(1, classes[:, None]).squeeze(1)
        runner_up = log_probs.scatter(1, classes[:, None], -torch.inf).amax(1)
        return label.where(~label.isneginf(), RULED_OUT), runner_up.where(~runner_up.isneginf(), RULED_OUT)

    @abstractmethod
    def margin(self, log_probs: Float[Tensor, "n k"], rows: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """How far each clip in `rows` is from the goal, in nats of log-probability; below 0 the
        goal holds."""

    def success(self, log_probs: Float[Tensor, "n k"], rows: Int64[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether the goal holds."""
        return self.margin(log_probs, rows) < 0


def as_goal(thing: Goal | Classes, victim: Victim, clips: int) -> Goal:
    """A goal with a class index for each of `clips` clips, of a goal or of bare labels, which the
    victim shall not say.

    Raises:
        UnknownNameError, ValueError, TypeError: see `Goal` and `Goal.resolve`.
    """
    goal = thing if isinstance(thing, Goal) else Misclassify(thing)
    return goal.resolve(victim, clips)


class Misclassify(Goal):
    """The victim shall say anything but the label: `margin = log p(label) - max log p(other)`."""

    targeted = False

    def margin(self, log_probs: Tensor, rows: Tensor) -> Tensor:
        label, runner_up = self.label_and_runner_up(log_probs, self.classes.to(log_probs.device)[rows])
        return label - runner_up


class Target(Goal):
    """The victim shall say the class: `margin = max log p(other) - log p(class)`."""

    targeted = True

    def margin(self, log_probs: Tensor, rows: Tensor) -> Tensor:
        label, runner_up = self.label_and_runner_up(log_probs, self.classes.to(log_probs.device)[rows])
        return runner_up - label

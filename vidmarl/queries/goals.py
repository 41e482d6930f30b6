"""What an attack is after: any wrong label, or one chosen label.

A goal turns the victim's log-probabilities into a margin: how far the victim still is from failing
as wanted. The goal holds where the margin is below zero; a tie counts for the victim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl.registry import explain_settings

RULED_OUT = -1e4
"""Log-probability that a class with a score of -inf counts with: margins and their differences
stay finite."""


@explain_settings
class Goal(ABC):
    """One class per clip, and the side of it on which the victim should end up.

    Args:
        classes: int64[b], a class index per clip.

    Attributes:
        classes: int64[b].
        targeted: whether `classes` are wanted rather than to be left.
    """

    targeted: bool

    def __init__(self, classes: Int64[Tensor, " b"] | list[int] | int) -> None:
        classes = torch.as_tensor(classes)
        if classes.dtype == torch.bool or classes.is_floating_point() or classes.is_complex():
            raise TypeError(f"{type(self).__name__}: expected integer class indices, got {classes.dtype}.")
        self.classes = classes.reshape(-1).to(torch.int64)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.classes.tolist()})"

    def validate(self, clips: int, n_classes: int) -> None:
        """Raises a ValueError unless there is one class in [0, n_classes) for each of `clips`
        clips."""
        name = type(self).__name__
        if self.classes.numel() != clips:
            raise ValueError(f"{name}: expected one class for each of the {clips} clips, got {self.classes.numel()}.")
        outside = (self.classes < 0) | (self.classes >= n_classes)
        if outside.any():
            raise ValueError(
                f"{name}: the victim has the classes 0 to {n_classes - 1}, but the goal names"
                f" {self.classes[outside].tolist()}. Give the indices of the victim's own label list."
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

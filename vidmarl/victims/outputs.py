"""The scores or the decisions in what a model returns: a tensor or a NumPy array, or a tuple, dict
or `ModelOutput` around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vidmarl.errors import UnknownNameError, VictimError

Outputs = Literal["logits", "probabilities", "decisions"]
"""What a model returns of each clip, and the name of it where it has one."""

SCORES = ("logits", "probabilities")
SUM_TOLERANCE = 5e-3
"""Most by which the sum of probabilities in half precision misses 1."""
ADVICE = (
    "Wrap the model so that it returns its scores alone: model.eval() and Victim(lambda clips: model(clips)[0], ...),"
    " with what leads to them in the place of [0]."
)


def find_scores(returned: Any, clips: int, outputs: Outputs, n_classes: int | None, who: str) -> Tensor:
    """The scores [clips, k] in what a model has returned.

    In a dict, or an object with attributes, they are what is named "logits" or "probabilities", as
    `outputs` says (either, for decisions). Otherwise they are the only tensor of the shape
    [clips, k]; of several of one shape (as with auxiliary heads) the first.

    Args:
        returned: by the model.
        clips: number of clips that it was asked about.
        outputs: what the scores are, and their name where they have one.
        n_classes: k, where it is known.
        who: opens the message of an error.

    Raises:
        VictimError: there are none, or it is not clear which tensor they are.
    """
    for name in SCORES if outputs == "decisions" else (outputs,):
        named = _tensor(returned.get(name) if isinstance(returned, Mapping) else getattr(returned, name, None))
        if isinstance(named, Tensor):
            returned = named
            break
    if isinstance(returned, Mapping):
        returned = tuple(returned.values())
    if isinstance(returned, tuple):
        returned = tuple(map(_tensor, returned))
    if isinstance(returned, Sequence) and any(isinstance(part, Tensor) and part.ndim > 0 for part in returned):
        returned = _only_scores([part for part in returned if isinstance(part, Tensor)], clips, n_classes, who)
    if isinstance(returned, Tensor):
        scores = returned
    else:
        try:
            scores = torch.as_tensor(returned)
        except Exception as error:
            raise VictimError(
                f"{who} returned {type(returned).__name__}: expected scores [{clips}, k]. {ADVICE}"
            ) from error
    if scores.ndim != 2 or len(scores) != clips or scores.shape[1] < 2:
        raise VictimError(
            f"{who} returned scores of shape {tuple(scores.shape)} for {clips} clips: expected [{clips}, k] with"
            f" k >= 2 classes, one row for each clip. {ADVICE}"
        )
    if n_classes is not None and scores.shape[1] != n_classes:
        raise VictimError(
            f"{who} returned {scores.shape[1]} scores per clip: expected {n_classes}, as many as there are labels"
            " or as it returned before."
        )
    return scores


def find_decisions(
    returned: Any, clips: int, class_index: Callable[[int | str], int], n_classes: int | None, who: str
) -> Tensor:
    """Scores [clips, k] of which only the highest means anything, in what a model has returned.

    Decisions are an index or a name for each clip: what is named "decisions" or, in a tuple or a
    dict, the only part that is either. A model without any has scores, and decides for the highest.

    Args:
        returned: by the model.
        clips: number of clips that it was asked about.
        class_index: the index of a class by its index or its name.
        n_classes: k, where it is known. Of an index alone it is not.
        who: opens the message of an error.

    Raises:
        VictimError: there are none, or of no class.
    """
    if isinstance(returned, Mapping):
        named = returned.get("decisions")
        parts = list(returned.values()) if named is None else [named]
    else:
        named = getattr(returned, "decisions", None)
        parts = [named] if named is not None else [*(returned if isinstance(returned, tuple) else ()), returned]
    found = [said for part in parts if (said := _listed(part, clips)) is not None]
    if len(found) != 1:
        return find_scores(returned, clips, "decisions", n_classes, who)
    try:
        indices = [class_index(one) for one in found[0]]
    except (UnknownNameError, ValueError, TypeError) as error:
        raise VictimError(f"{who} decided for a class that it does not have. {error}") from error
    if n_classes is None:
        raise VictimError(
            f"{who} returned the index of a class for each clip, but of how many classes? Say Victim(...,"
            " labels=[...]), the name of each, or labels='names.txt', a file with a name a line."
        )
    return torch.nn.functional.one_hot(torch.tensor(indices), n_classes)


def _listed(part: Any, clips: int) -> list[int | str] | None:
    """An index or a name for each clip; None if this is something else."""
    part = _tensor(part)
    if isinstance(part, Tensor):
        whole = not (part.is_floating_point() or part.is_complex() or part.dtype == torch.bool)
        part = part.flatten().tolist() if whole and part.shape in ((clips,), (clips, 1)) else None
    elif isinstance(part, np.ndarray):
        part = part.flatten().tolist()
    if not isinstance(part, list | tuple) or len(part) != clips:
        return None
    plain = [int(one) if isinstance(one, Integral) and not isinstance(one, bool) else one for one in part]
    return plain if all(type(one) in (int, str) for one in plain) else None


def _tensor(value: Any) -> Any:
    """A NumPy array as a tensor; anything else as it is."""
    return torch.as_tensor(value.copy()) if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" else value


def _only_scores(parts: list[Tensor], clips: int, n_classes: int | None, who: str) -> Tensor:
    fit = [part for part in parts if part.ndim == 2 and len(part) == clips and part.shape[1] > 1]
    if n_classes is not None:
        fit = [part for part in fit if part.shape[1] == n_classes]
    if len({part.shape for part in fit}) != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        wanted = f"[{clips}, {'k' if n_classes is None else n_classes}]"
        raise VictimError(
            f"{who} returned {len(parts)} tensors, of shape {shapes}: expected one of scores {wanted}, found"
            f" {len(fit)}. {ADVICE}"
        )
    return fit[0]


def are_probabilities(scores: Tensor) -> bool:
    """Whether every row [b, k] is a distribution: nothing below 0, and a sum of 1."""
    return bool((scores >= 0).all() & ((scores.sum(1) - 1).abs() < SUM_TOLERANCE).all())

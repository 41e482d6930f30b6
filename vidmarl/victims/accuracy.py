"""How often a victim is right about clean clips: the first thing to know of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import einops
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vidmarl.data.base import ClipSource, evenly
from vidmarl.data.synthetic import Synthetic
from vidmarl.data.video import as_batch, decode_views
from vidmarl.errors import DataError, SettingsError
from vidmarl.utils.progress import progress_bar

if TYPE_CHECKING:
    from vidmarl.victims.victim import Victim

Labelled = tuple[Float[Tensor, "b 3 t h w"], Sequence[int | str] | Int64[Tensor, " b"]]
AT_ONCE = 8
"""Clips that are decoded together."""


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How often a victim was right.

    Attributes:
        labels: int64[n], the true classes.
        ranks: int64[n], how many classes the victim held for likelier than the true one; a tie
            counts against it.
    """

    labels: Tensor
    ranks: Tensor

    @property
    def top1(self) -> float:
        """Share of the clips whose class the victim held for the likeliest."""
        return float((self.ranks < 1).float().mean())

    @property
    def top5(self) -> float:
        """Share of the clips whose class is among the five likeliest."""
        return float((self.ranks < 5).float().mean())

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        return f"top-1 {self.top1:.1%}, top-5 {self.top5:.1%} of {len(self)} clips"

    __repr__ = __str__


def accuracy(
    victim: Victim,
    data: ClipSource | Synthetic | Labelled,
    *,
    views: tuple[int, int] = (1, 1),
    max_clips: int | None = None,
    progress: bool = False,
) -> Accuracy:
    """Asks a victim about labelled clips: a query for each view of each.

    Args:
        victim: who is asked.
        data: a dataset, whose classes the victim must know by name if it has names; or clips, as
            for any query, and the class of each, by index or name. Files without a label are left
            out.
        views: windows in time and crops of each video of a dataset, over which the probabilities
            are averaged, see `vidmarl.data.Views`. (10, 3) is usual in papers about Kinetics.
        max_clips: at most so many, spread evenly over the dataset.
        progress: show a progress bar.

    Raises:
        UnknownNameError: the victim has no class of a name.
        DataError: no clip has a label.
        SettingsError: the victim has no spec, by which clips could be cut from files; or there is
            another number of labels than of clips; or views are asked for of what is no dataset of
            videos.
        ClipError, VictimError: see `Victim.__call__` and `vidmarl.load_clips`.
    """
    if tuple(views) != (1, 1) and not isinstance(data, ClipSource):
        raise SettingsError(f"Measuring accuracy: views={views} are cut from videos, so give a dataset of files.")
    if isinstance(data, tuple):
        clips, given = data
        known = class_indices(victim, clips, given)
        return Accuracy(known, ranks(victim(clips).cpu(), known))
    if victim.spec is None and isinstance(data, ClipSource):
        raise SettingsError("Measuring accuracy: the victim has no spec, which says how clips are cut from files.")
    labelled = [i for i in range(len(data)) if _label(data, i) is not None]
    if not labelled:
        raise DataError(f"Measuring accuracy: no clip of {data!r} has a label.")
    chosen = evenly(labelled, max_clips)
    at_once = AT_ONCE if isinstance(data, Synthetic) or victim.spec is None or victim.spec.frames is not None else 1
    labels, places = [], []
    for start in progress_bar(range(0, len(chosen), at_once), show=progress, unit="batch", desc="Accuracy"):
        some = chosen[start : start + at_once]
        known = torch.tensor([_class(victim, data, i) for i in some])
        seen = [_views(victim, data, i, views) for i in some]
        clips = as_batch([view for video in seen for view in video])
        log_probs = einops.rearrange(victim(clips), "(b v) k -> b v k", b=len(seen))
        labels.append(known)
        places.append(ranks(log_probs.logsumexp(1).cpu(), known))  # of the sum: the order is that of the mean
    return Accuracy(torch.cat(labels), torch.cat(places))


def class_indices(
    victim: Victim, clips: Float[Tensor, "b 3 t h w"], labels: Sequence[int | str] | Int64[Tensor, " b"]
) -> Int64[Tensor, " b"]:
    """The classes of clips by index.

    Raises:
        UnknownNameError, ValueError: the victim has no such class.
        SettingsError: there is another number of labels than of clips, or they are none.
    """
    plain = labels.tolist() if isinstance(labels, Tensor) else labels
    if isinstance(plain, str) or not isinstance(plain, Sequence | np.ndarray):
        raise SettingsError(
            f"Expected a label for each of {len(clips)} clips, a list or a tensor [b], got {type(labels).__name__}."
        )
    if len(plain) != len(clips):
        raise SettingsError(f"Expected a label for each of {len(clips)} clips, got {len(plain)}.")
    return torch.tensor([victim.class_index(label) for label in plain])


def ranks(log_probs: Float[Tensor, "b k"], labels: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
    """How many other classes are at least as likely as the true one."""
    own = log_probs.gather(1, labels[:, None])
    return (log_probs >= own).sum(1) - 1


def _label(data: ClipSource | Synthetic, index: int) -> int | None:
    return index % len(data.classes) if isinstance(data, Synthetic) else data[index].label


def _class(victim: Victim, data: ClipSource | Synthetic, index: int) -> int:
    """The victim's class of a clip."""
    label = _label(data, index)
    assert label is not None
    return label if victim.labels is None else victim.class_index(data.classes[label])


def _views(
    victim: Victim, data: ClipSource | Synthetic, index: int, views: tuple[int, int]
) -> UInt8[Tensor, "v 3 t h w"]:
    if isinstance(data, Synthetic):
        return data[index][0][None]
    assert victim.spec is not None
    return decode_views(data[index].path, victim.spec, views)

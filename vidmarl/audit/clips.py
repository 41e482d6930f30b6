"""The clips of an audit, from whatever they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.benchmark.clips import Clip, find_clips, short_hash
from vidmarl.benchmark.config import Benchmark
from vidmarl.data.base import ClipSource, evenly
from vidmarl.data.spec import validate_clips
from vidmarl.data.synthetic import Synthetic
from vidmarl.errors import DataError
from vidmarl.victims.accuracy import class_indices
from vidmarl.victims.victim import Victim

Labelled = tuple[Float[Tensor, "b 3 t h w"], Sequence[int | str] | Int64[Tensor, " b"]]
"""Clips and the class of each, by index or name."""


def clips_of(
    data: ClipSource | Synthetic | Labelled, victim: Victim, max_clips: int | None, *, labelled: bool, progress: bool
) -> list[Clip]:
    """The clips of an audit, each once, as the victim wants them.

    Args:
        data: see `vidmarl.audit`.
        victim: whose spec cuts clips from files.
        max_clips: at most so many, spread evenly over the data; None: all.
        labelled: whether clips without a label are left out.
        progress: whether to show a progress bar.

    Raises:
        DataError: no clip has a label.
        ClipError: none can be used.
        ValueError: videos need a spec, and the victim has none.
        UnknownNameError, SettingsError: labels that the victim does not know, or too few of them.
    """
    if isinstance(data, tuple):
        clips, given = data
        validate_clips(clips, "auditing a victim")
        labels = class_indices(victim, clips, given)
        return evenly(
            [
                _in_memory(clip, int(label), victim, i)
                for i, (clip, label) in enumerate(zip(clips, labels, strict=True))
            ],
            max_clips,
        )
    if labelled and isinstance(data, ClipSource):
        files = [file for file in data if file.label is not None]
        if not files:
            raise DataError(
                f"Auditing a victim: no clip of {data!r} has a label, so there is no accuracy. With labels='prediction'"
                " what the victim says of the clean clip is what it has to keep saying."
            )
        data = ClipSource(files, data.classes)
    asked = Benchmark(victims=[victim], attacks={"random_cells": {}}, data=data, max_clips=max_clips)
    return find_clips(asked, victim.spec, progress)


def _in_memory(clip: Float[Tensor, "3 t h w"], label: int, victim: Victim, number: int) -> Clip:
    pixels = (clip.detach().cpu() * 255).round().to(torch.uint8)
    return Clip(
        f"clip-{number:05d}", "", label, victim.label(label), short_hash(pixels.numpy().tobytes()), lambda: pixels
    )

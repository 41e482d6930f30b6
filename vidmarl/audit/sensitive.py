"""Where and when an audit's victim is sensitive, measured on a few clips, each kept as a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl.attacks.sensitivity.measure import sensitivity
from vidmarl.audit.answers import safe
from vidmarl.benchmark.clips import Clip, pixels_of, short_hash
from vidmarl.data.video import as_floats
from vidmarl.distortions import Distortion
from vidmarl.errors import CheckpointError
from vidmarl.queries.goals import Misclassify
from vidmarl.utils.files import load_tensors, save_tensors, sweep
from vidmarl.utils.progress import progress_bar
from vidmarl.victims.victim import Victim

CELLS = 8
"""Cells of a side of the frame."""


@dataclasses.dataclass(frozen=True)
class ClipSensitivity:
    """What `vidmarl.sensitivity` says of one clip.

    Attributes:
        name: of the clip.
        file: in which this is kept.
        pixels: uint8[3 t h w].
        spatial: float32[gh gw], where, in nats of the margin.
        temporal: float32[gt], when.
        temporal_std: float32[gt], how far off that may be.
    """

    name: str
    file: str
    pixels: UInt8[Tensor, "3 t h w"]
    spatial: Float[Tensor, "gh gw"]
    temporal: Float[Tensor, " gt"]
    temporal_std: Float[Tensor, " gt"]

    @property
    def clip(self) -> Float[Tensor, "3 t h w"]:
        """The clip in [0, 1]."""
        return as_floats(self.pixels[None])[0]


def measure(
    victim: Victim,
    clips: Sequence[tuple[Clip, int]],
    folder: Path,
    *,
    distortion: Distortion,
    budget: int,
    seed: int,
    progress: bool,
) -> list[ClipSensitivity]:
    """Measures clips that the victim is right about; those that are there are read.

    Args:
        victim: who is asked.
        clips: the clips and their true classes.
        folder: for the files.
        distortion: what is done to the cells.
        budget: queries per clip.
        seed: of the distortion and of the choice of the queries.
        progress: whether to show a progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    found = []
    for clip, label in progress_bar(clips, desc="where and when", unit="clip", show=progress):
        settings: dict[str, Any] = {
            "distortion": distortion.to_record(),
            "budget": budget,
            "seed": seed,
            "cells": CELLS,
        }
        text = json.dumps(settings | {"victim": victim.identity(), "class": label, "clip": clip.key}, sort_keys=True)
        path = folder / f"{safe(clip.name)}-{short_hash(text.encode())}.pt"
        if (known := read(path, clip.name)) is None:
            save_tensors(path, _ask(victim, clip, label, distortion, budget, seed))
            known = read(path, clip.name)
            assert known is not None  # it has just been written
        found.append(known)
    return found


def _ask(victim: Victim, clip: Clip, label: int, distortion: Distortion, budget: int, seed: int) -> dict[str, Tensor]:
    pixels = pixels_of([clip])
    t, h, w = pixels.shape[2:]
    found = sensitivity(
        victim,
        pixels,
        distortion,
        budget,
        goal=Misclassify(torch.tensor([label])),
        grid=(max(1, t // CELLS), -(-h // CELLS), -(-w // CELLS)),
        seed=seed,
        progress=False,
    )
    maps = {"spatial": found.spatial, "temporal": found.temporal, "temporal_std": found.temporal_std}
    pixels = (found.clips * 255).round().to(torch.uint8)
    return {name: of[0].cpu() for name, of in ({"pixels": pixels} | maps).items()}


def read(path: Path, name: str) -> ClipSensitivity | None:
    """What a file holds; None where there is none, or it is damaged."""
    if not path.exists():
        return None
    try:
        return ClipSensitivity(name, path.name, **load_tensors(path, "Reading an audit"))
    except (CheckpointError, TypeError, OSError):
        return None  # measured again

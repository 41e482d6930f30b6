"""What a corruption is: something that happens to whole clips, at five severities."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)

UCF101_P = "UCF101-P (Schiappa et al., CVPR 2023)"
KINETICS_C = "Kinetics-C (Yi et al., NeurIPS Datasets and Benchmarks 2021)"

SIDE = 256
"""Px of the short side at which the papers state their lengths; here these grow and shrink with the
clip."""

Corrupt = Callable[[Float[Tensor, "3 t h w"], Any, torch.Generator], Float[Tensor, "3 t h w"]]
"""`f(clip, setting, rng) -> clip`: float32 in [0, 1]; what it returns is clamped and rounded to 8
bits. All randomness comes from `rng`, which lives on the CPU."""


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A corruption at five severities.

    Attributes:
        name: such as "shot_noise".
        family: such as "noise".
        source: where its severities come from.
        setting: what grows or falls from one severity to the next, in words, with its unit.
        settings: its values at the five severities.
        function: what is done.
    """

    name: str
    family: str
    source: str
    setting: str
    settings: tuple[Any, ...]
    function: Corrupt

    @property
    def title(self) -> str:
        """The name for people."""
        return self.name.replace("_", " ").replace("jpeg", "JPEG").replace("mpeg", "MPEG-").replace("h26", "H.26")

    def __call__(self, clip: Float[Tensor, "3 t h w"], severity: int, seed: int = 0) -> Float[Tensor, "3 t h w"]:
        """The clip corrupted; the same each time, whatever else is corrupted.

        The same numbers are drawn at all severities of a corruption, so that these differ in
        nothing else.

        Args:
            clip: float32[3 t h w] in [0, 1].
            severity: 1 to 5.
            seed: of what is drawn at random; what is drawn also follows from the clip's content.

        Raises:
            ValueError: there is no such severity.
        """
        if severity not in SEVERITIES:
            raise ValueError(f"Corrupting a clip: severity must be one of {list(SEVERITIES)}, got {severity!r}.")
        content = (clip.detach().cpu() * 255).round().to(torch.uint8).numpy().tobytes()
        drawn = zlib.crc32(content, zlib.crc32(f"{self.name} {seed}".encode()))
        out = self.function(clip, self.settings[severity - 1], torch.Generator().manual_seed(drawn))
        return (out.clamp(0, 1) * 255).round() / 255


FOUND: list[Corruption] = []
"""All corruptions, as they are met; see `vidmarl.audit.corruptions.CORRUPTIONS`."""


def corruption(family: str, source: str, setting: str, settings: tuple[Any, ...]) -> Callable[[Corrupt], Corrupt]:
    """Registers a function as a corruption of its name.

    Args:
        family: such as "noise".
        source: where its severities come from.
        setting: what grows or falls from one severity to the next, with its unit.
        settings: its values at the five severities.
    """

    def register(function: Corrupt) -> Corrupt:
        FOUND.append(Corruption(getattr(function, "__name__", ""), family, source, setting, settings, function))
        return function

    return register


def scaled(length: float, clip: Float[Tensor, "3 t h w"]) -> float:
    """A length in px at a short side of `SIDE`, in px of the clip."""
    return length * min(clip.shape[-2:]) / SIDE


def uniform(shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) on the device of `like`."""
    return torch.rand(shape, generator=rng).to(like.device)

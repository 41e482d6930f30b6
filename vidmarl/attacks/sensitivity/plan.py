"""What a way to measure sensitivity consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is known of a clip, on the CPU, in nats.

    Attributes:
        map: what the margin falls by when a cell alone is distorted.
        std: how far off the map may be, as a standard deviation.
        spatial_std: the same of the mean over time.
        temporal_std: the same of the mean over the frame.
    """

    map: Float[Tensor, "t y x"]
    std: Float[Tensor, "t y x"]
    spatial_std: Float[Tensor, "y x"]
    temporal_std: Float[Tensor, " t"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The queries about a clip, which are all settled before the first is asked.

    Attributes:
        masks: what to ask about, maps of search cells, strengths in [0, 1].
        read: what follows from the falls of the margin, float[n] nats, and from the margin of the
            clean clip.
    """

    masks: Float[Tensor, "n t y x"]
    read: Callable[[Float[Tensor, " n"], float], Estimate]

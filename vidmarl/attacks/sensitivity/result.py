"""Sensitivity maps as a result."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sensitivity:
    """Where and when a distortion hurts a victim, clip by clip, in nats of the goal's margin.

    All is NaN of a clip whose goal holds without any distortion: there is no margin that could
    fall.

    Attributes:
        map: float32[b gt gh gw], what the margin falls by when a search cell alone is distorted at
            full strength; below 0 where that helps the victim.
        std: float32[b gt gh gw], how far off the map may be, as a standard deviation: 0 for a cell
            that was asked about. NaN for the methods that do not know.
        spatial: float32[b gh gw], where: the mean of the map over time.
        spatial_std: float32[b gh gw], how far off it may be.
        temporal: float32[b gt], when: the mean of the map over the frame.
        temporal_std: float32[b gt], how far off it may be.
        queries: int64[b], clips sent to the victim, the clean prediction included.
        clips: float32[b 3 t h w] in [0, 1], 8-bit values: the clips as measured.
        margin: float32[b], the margin of the clean clip, nats: a cell whose effect is larger than
            that fools the victim alone.
        settings: method, distortion, budget, grid, search cell, coherence, seed, victim: plain
            data.
    """

    map: Float[Tensor, "b gt gh gw"]
    std: Float[Tensor, "b gt gh gw"]
    spatial: Float[Tensor, "b gh gw"]
    spatial_std: Float[Tensor, "b gh gw"]
    temporal: Float[Tensor, "b gt"]
    temporal_std: Float[Tensor, "b gt"]
    queries: Int64[Tensor, " b"]
    clips: Float[Tensor, "b 3 t h w"]
    margin: Float[Tensor, " b"]
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.map)

    def __repr__(self) -> str:
        cells = " x ".join(map(str, self.map.shape[1:]))
        return (
            f"Sensitivity({self.settings['method']}: {len(self)} clips of {cells} cells,"
            f" {int(self.queries.sum())} queries)"
        )

    def plot(self, i: int = 0) -> go.Figure:
        """Clip `i`: its sensitivity over the frame, and over time with two standard deviations.

        Raises:
            IndexError: there is no such clip.
        """
        from vidmarl.report.sensitivity import sensitivity

        if not -len(self) <= i < len(self):
            raise IndexError(f"Drawing a sensitivity map: there are {len(self)} clips, and none of the index {i}.")
        return sensitivity(self.clips[i], self.spatial[i], self.temporal[i], self.temporal_std[i])

"""The renderer: how strength maps become clips.

The whole state of a perturbation is its strength map, float[b gt gh gw]: one number per tubelet. A
`Renderer` holds what is fixed for each clip (the clip, the distortion's randomness) and turns
strength maps into clips. So the same map always gives the same clip, 0 leaves a tubelet's pixels
bit-identical, and adding and removing are exact inverses.
"""

from __future__ import annotations

import torch
from einops import repeat
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.distortions.base import Distortion, check_range, distorted, prepared
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.noise import Coherence, clip_seeds, draw_noise


def to_8bit(clips: Float[Tensor, "*shape"], out: Tensor | None = None) -> Float[Tensor, "*shape"]:
    """Clamped to [0, 1] and rounded to k/255, as a video file holds it; rounding twice changes
    nothing.

    Args:
        clips: any values.
        out: where to write the result, `clips` itself included; None: to a new tensor.
    """
    # by a tensor: CUDA multiplies by the reciprocal of a plain number, one bit away from what a CPU
    # or a file gives
    return torch.clamp(clips, 0, 1, out=out).mul_(255).round_().div_(clips.new_full((), 255))


class Renderer:
    """Clips, and all that is fixed about distorting them.

    Args:
        clips: float[b 3 t h w] in [0, 1]; rounded to 8 bits.
        distortion: what is done to them.
        grid: the tubelets.
        coherence: how random patterns go on in time, see `draw_noise`.
        seed: of the distortion's randomness, which also depends on each clip's content.
        search_cell: the width and height of a search cell in tubelets: what a search works with,
            before the minimization goes down to tubelets.

    Raises:
        DistortionError: the distortion raises, or gives no clips; it is tried once.

    Attributes:
        clips: float32[b 3 t h w], 8-bit values.
        shape: `(gt, gh, gw)`, of a strength map.
        coarse: the grid of the search cells.
        coarse_shape: `(gt, gh / search_cell, gw / search_cell)`, rounded up, of a map of search
            cells.
        min_strength: the smallest strength: -1 for a distortion of two directions, else 0. The
            largest is 1.
    """

    def __init__(
        self,
        clips: Float[Tensor, "b 3 t h w"],
        distortion: Distortion,
        grid: TubeletGrid | None = None,
        coherence: Coherence = "static",
        seed: int = 0,
        search_cell: int = 1,
    ) -> None:
        self.distortion = distortion
        self.grid = grid or TubeletGrid()
        self.search_cell = search_cell
        self.coarse = self.grid.coarser(search_cell)
        self.coherence: Coherence = coherence
        self.clips = to_8bit(clips.float())
        self.shape = self.grid.shape(clips)
        self.coarse_shape = self.coarse.shape(clips)
        self.min_strength = -1.0 if distortion.signed else 0.0
        self.seeds = clip_seeds(self.clips, seed)
        with torch.autocast(self.clips.device.type, enabled=False):  # pixels keep their precision in any run
            self._state = prepared(distortion, self.clips, draw_noise(self.clips, coherence, self.seeds))
        first = slice(0, 1)
        check_range(distortion, self._distort(first, torch.ones_like(self.clips[first, :1])))  # before a query is spent

    def zeros(self) -> Float[Tensor, "b gt gh gw"]:
        """The strength map of no distortion."""
        return self.clips.new_zeros(len(self.clips), *self.shape)

    def energy(self, row: int) -> Float[Tensor, "gt gh gw"]:
        """What each tubelet of a clip adds to the squared L2 norm at full strength.

        In the direction in which it adds more. It is 0 where the distortion leaves the tubelet
        as it is. Costs no query.
        """
        return self._energy(torch.tensor([row], device=self.clips.device), self.grid)[0]

    def cell_energy(self, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n t y x"]:
        """The same of the search cells of some clips."""
        return self._energy(rows, self.coarse)

    def _energy(self, rows: Int64[Tensor, " n"], grid: TubeletGrid) -> Float[Tensor, "n t y x"]:
        added = []
        for end in {1.0, self.min_strength or 1.0}:
            full = self.render(self.clips.new_full((len(rows), *self.shape), end), rows)
            added.append(grid.total((full - self.clips[rows]).square().sum(1, keepdim=True))[:, 0])
        return torch.stack(added).amax(0)

    def upsample(self, strength: Float[Tensor, "n gt y x"]) -> Float[Tensor, "n gt gh gw"]:
        """The strength map of a map of search cells; a strength map stays itself.

        Raises:
            ValueError: it is neither.
        """
        if tuple(strength.shape[1:]) == self.shape:
            return strength
        if tuple(strength.shape[1:]) != self.coarse_shape:
            raise ValueError(
                f"Upsampling a map: expected {self.shape} tubelets or {self.coarse_shape} search cells, got"
                f" {tuple(strength.shape[1:])}."
            )
        dy, dx = (min(self.search_cell, tubelets) for tubelets in self.shape[1:])  # a cell may be larger than the clip
        fine = repeat(strength, "n t y x -> n t (y dy) (x dx)", dy=dy, dx=dx)
        return fine[..., : self.shape[1], : self.shape[2]]

    @torch.no_grad()
    def render(
        self, strength: Float[Tensor, "n gt gh gw"], rows: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n 3 t h w"]:
        """The clips of `rows` (default: all) with these strength maps put on, as 8-bit values.

        Args:
            strength: in [min_strength, 1]; maps of search cells will do.
            rows: the clip of each map; a clip may stand there several times.

        Raises:
            ValueError: a strength lies outside [min_strength, 1].
            DistortionError: the distortion raised, or gave no clips.
        """
        strength = self.upsample(strength)
        low, high = strength.aminmax()
        if not (low >= self.min_strength and high <= 1):  # also catches NaN
            raise ValueError(
                f"Rendering {self.distortion.title}: expected strengths in [{self.min_strength:g}, 1], got values in"
                f" [{low:.3g}, {high:.3g}]."
            )
        rows = torch.arange(len(strength), device=self.clips.device) if rows is None else rows
        out = self.clips.new_empty(len(rows), *self.clips.shape[1:])
        # On a CPU one clip after the other: nothing is gathered, the buffers fit the caches and are
        # used again.
        alone = out.device.type == "cpu"
        parts: list[slice | Tensor] = [slice(row, row + 1) for row in rows.tolist()] if alone else [rows]
        for part, cells, target in zip(parts, strength.chunk(len(parts)), out.chunk(len(parts)), strict=True):
            clips = self.clips[part]
            per_pixel = self.grid.expand(cells.to(clips), *clips.shape[-3:])
            changed = self._distort(part, per_pixel)
            to_8bit(torch.where(per_pixel == 0, clips, changed, out=target), out=target)
        return out

    @torch.no_grad()
    def _distort(
        self, rows: slice | Int64[Tensor, " n"], strength: Float[Tensor, "n 1 t h w"]
    ) -> Float[Tensor, "n 3 t h w"]:
        """What the distortion makes of some clips, by the strength of every pixel."""
        state = {key: _take(value, rows) for key, value in self._state.items()}
        with torch.autocast(self.clips.device.type, enabled=False):
            return distorted(self.distortion, self.clips[rows], strength, state)


def _take(value: Tensor, rows: slice | Tensor) -> Tensor:
    """`value[rows]`, which copies what is stored and leaves expanded what was: a still pattern
    stays one frame."""
    stored = value
    for axis in range(1, value.ndim):
        if value.stride(axis) == 0:
            stored = stored.narrow(axis, 0, 1)
    return stored[rows].expand(-1, *value.shape[1:])

"""Tubelets: the cells of space and time that a perturbation is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.registry import explain_settings
from vidmarl.utils.kinds import fits

MOST = 1_000_000
"""Frames or pixels of a tubelet."""


@explain_settings
@dataclasses.dataclass(frozen=True)
class TubeletGrid:
    """The division of a clip into tubelets; the last ones are smaller where the cell does not
    divide the clip.

    Attributes:
        frames: frames per tubelet.
        height: px per tubelet.
        width: px per tubelet.
    """

    frames: int = 1
    height: int = 16
    width: int = 16

    def __post_init__(self) -> None:
        for name, size in vars(self).copy().items():
            if not fits(size, int) or not 1 <= size <= MOST:
                raise ValueError(f"TubeletGrid: {name} must be a whole number from 1 to {MOST:,}, got {size!r}.")
            object.__setattr__(self, name, int(size))

    def coarser(self, search_cell: int) -> TubeletGrid:
        """The grid of cells of `search_cell` x `search_cell` tubelets, of as many frames each.

        Raises:
            ValueError: `search_cell` is below 1.
        """
        if search_cell < 1:
            raise ValueError(f"TubeletGrid: a cell is at least one tubelet wide, got search_cell={search_cell}.")
        height, width = (min(search_cell * side, MOST) for side in (self.height, self.width))
        return TubeletGrid(self.frames, height, width)

    def shape(self, clips: Float[Tensor, "b 3 t h w"]) -> tuple[int, int, int]:
        """`(gt, gh, gw)`, the number of tubelets over the time, height and width of such clips."""
        t, h, w = clips.shape[-3:]
        return -(-t // self.frames), -(-h // self.height), -(-w // self.width)

    def expand(self, strength: Float[Tensor, "n gt gh gw"], t: int, h: int, w: int) -> Float[Tensor, "n 1 t h w"]:
        """The strength of every pixel: that of its tubelet."""
        frames, height, width = self._cell(t, h, w)
        per_pixel = strength.repeat_interleave(frames, 1)[:, :t]
        per_pixel = per_pixel.repeat_interleave(height, 2)[:, :, :h]
        return per_pixel.repeat_interleave(width, 3)[:, :, :, :w][:, None]

    def pool(self, pixels: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c gt gh gw"]:
        """The mean of every tubelet's pixels, ragged ones included."""
        cell = self._cell(*pixels.shape[-3:])
        return torch.nn.functional.avg_pool3d(pixels, cell, cell, ceil_mode=True, count_include_pad=False)

    def total(self, pixels: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c gt gh gw"]:
        """The sum of every tubelet's pixels, ragged ones included."""
        cell = self._cell(*pixels.shape[-3:])
        return torch.nn.functional.avg_pool3d(pixels, cell, cell, ceil_mode=True, divisor_override=1)

    def _cell(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """The sides of a tubelet, which may be larger than the clip."""
        return min(self.frames, t), min(self.height, h), min(self.width, w)


GridLike = TubeletGrid | Mapping[str, int] | Sequence[int] | int
"""A grid, or what stands for one, see `as_grid`."""


def as_grid(thing: GridLike) -> TubeletGrid:
    """Makes a grid of whatever stands for one.

    Args:
        thing: a `TubeletGrid`; its settings by name, as in YAML; frames, height and width; or one
            number, the height and the width in px of tubelets of one frame.

    Raises:
        TypeError: it is something else.
        ValueError: a size is below 1.
    """
    if isinstance(thing, TubeletGrid):
        return thing
    if isinstance(thing, Mapping):
        return TubeletGrid(**thing)
    sizes = [1, thing, thing] if type(thing) is int else thing
    if isinstance(sizes, Sequence) and len(sizes) == 3 and all(type(size) is int for size in sizes):
        return TubeletGrid(*sizes)
    raise TypeError(
        f"Making a grid of tubelets: expected a TubeletGrid, {{frames, height, width}}, three whole numbers or one, got"
        f" {thing!r}."
    )

"""The effects of cells as a Gaussian process: a few cells tell of all others, and how surely.

A cell's effect is shared with its neighbours, with its place in all frames and with its frame at
all places, and is in part its own. From that prior follow in closed form which cells tell the most,
what they tell of the others, and how far off that may be. Single cells are asked about because they
tell more of single cells than sets do, whose effects do not add up (docs/sensitivity.md).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.attacks.sensitivity.plan import Estimate, Plan
from vidmarl.queries.clip import ClipView

REACH = 1.5
"""How far what one cell shows holds for its neighbours, in cells and in frames: the length of a
Gaussian kernel."""

NEAR, PLACE, FRAME, OWN = 0.35, 0.25, 0.1, 0.3
"""What a cell's effect is made of: what it shares with its neighbours in space and time, with the
same place in all frames, with the same frame at all places, and what is its own. With these shares
the effects of single cells are predicted best from each other (docs/experiments.md)."""

MOST_CELLS = 8192
"""Search cells of a clip; the covariance of so many takes 256 MB."""

ENERGY_EXPONENT = 0.25
"""The effects of cells differ by this power of what the distortion adds to the squared norm there:
fitted to the effects of every cell of ten clips, under noise and blur."""

EXPECTED_EFFECT = 0.35
"""The standard deviation of the cells' effects before the first answer, as a fraction of the clean
margin: the median of the same clips. It counts as one answer."""

_TIE = 1e-3
"""Cells that promise the same but for this share are drawn among at random."""


def posterior(clip: ClipView, most: int) -> Plan:
    """Asks about single cells: those that leave the least unknown of all cells together.

    No cell is asked about twice, and none that the distortion leaves as it is: its effect is 0.

    Args:
        clip: the clip.
        most: queries at most.
    """
    covariance = prior(clip.cell_energy())
    cells, columns = choose(covariance, most, clip.rng)
    known = covariance[:, cells].double()
    t, y, x = clip.shape
    told, by_cell = columns.view(t, y * x, -1), covariance.view(t, y * x, t, y * x)
    spatial = by_cell.diagonal(dim1=1, dim2=3).mean((0, 1), dtype=torch.float64) - told.mean(0).square().sum(1)
    temporal = by_cell.diagonal(dim1=0, dim2=2).mean((0, 1), dtype=torch.float64) - told.mean(1).square().sum(1)
    variance = covariance.diagonal().double() - columns.square().sum(1)
    variance[cells] = 0  # not what rounding has left

    def read(drops: Float[Tensor, " n"], margin: float) -> Estimate:
        weights = torch.linalg.solve(known[cells], drops.double())
        effects = (known @ weights).float()
        effects[cells] = drops  # not rounded
        size = ((drops.double() @ weights).item() + (EXPECTED_EFFECT * margin) ** 2) / (len(cells) + 1)
        std, spatial_std, temporal_std = ((size * v.clamp_min(0)).sqrt().float() for v in (variance, spatial, temporal))
        return Estimate(effects.view(t, y, x), std.view(t, y, x), spatial_std.view(y, x), temporal_std)

    masks = torch.zeros(len(cells), covariance.shape[0])
    masks[torch.arange(len(cells)), cells] = 1
    return Plan(masks.view(-1, *clip.shape), read)


def prior(energy: Float[Tensor, "t y x"]) -> Float[Tensor, "n n"]:
    """The covariance of the effects of all cells before the first answer, of mean variance 1.

    Raises:
        ValueError: there are more than `MOST_CELLS`.
    """
    if energy.numel() > MOST_CELLS:
        raise ValueError(
            f"Measuring sensitivity: expected at most {MOST_CELLS:,} search cells a clip, got {energy.numel():,}"
            f" {tuple(energy.shape)}. Choose larger ones (grid=32, or search_cell=2), or method='rise'."
        )
    size = energy.flatten() ** ENERGY_EXPONENT
    size = size / size.square().mean().sqrt().clamp_min(1e-12)
    return alike(*energy.shape) * size[:, None] * size


def alike(t: int, y: int, x: int) -> Float[Tensor, "n n"]:
    """The correlation of the effects of all cells of a map."""
    time, height, width = (_kernel(count) for count in (t, y, x))
    place = torch.kron(height, width)
    near, same_place = torch.kron(time, place), torch.kron(torch.ones_like(time), place)
    same_frame = torch.kron(time, torch.ones_like(place))
    return NEAR * near + PLACE * same_place + FRAME * same_frame + OWN * torch.eye(len(near))


def _kernel(count: int) -> Float[Tensor, "c c"]:
    place = torch.arange(count, dtype=torch.float32)
    return (-0.5 * ((place[:, None] - place) / REACH) ** 2).exp()


def choose(
    covariance: Float[Tensor, "n n"], most: int, rng: torch.Generator
) -> tuple[Int64[Tensor, " k"], Float[Tensor, "n k"]]:
    """The cells to ask about, one after the other that after which the variances of all cells add
    up to the least.

    Args:
        covariance: of the effects of the cells.
        most: cells at most; those without variance are none.
        rng: the clip's source of randomness.

    Returns:
        The cells, and `columns`: when their effects are known, the covariance that is left is
        `covariance - columns @ columns.T`.
    """
    variance, squares = covariance.diagonal().double(), covariance.square().sum(0).double()
    barred = variance == 0
    count = min(most, int((~barred).sum()))
    cells, columns = torch.zeros(count, dtype=torch.int64), torch.zeros(len(covariance), count, dtype=torch.float64)
    for k in range(count):
        gain = (squares / variance.clamp_min(1e-12)).masked_fill(barred, -torch.inf)  # squares: of what is left
        cell = int((gain * (1 + _TIE * torch.rand(len(gain), generator=rng))).argmax())
        before = columns[:, :k]
        column = (covariance[cell].double() - before @ before[cell]) / variance[cell].sqrt()
        across = (covariance @ column.float()).double() - before @ (column @ before)
        squares += column.square() * (column @ column) - 2 * column * across
        variance = variance - column.square()
        barred[cell], cells[k], columns[:, k] = True, cell, column
    return cells, columns

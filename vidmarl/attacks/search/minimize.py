"""The clean-up that every attack ends with: a success is made smaller until nothing of it can be
spared."""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from vidmarl.queries.session import Response, Search, Session

FACTORS = (0.0, 0.5, 0.75)
"""What a group of tubelets is multiplied by, one after another: first taken away, then made
weaker."""

TURNED = 0.15
"""The share of the tubelets whose direction is turned at a time."""

NEAR = (1, 3, 3)
"""How far a tubelet may be moved, in tubelets over time, height and width."""

IDLE = 100
"""Changes in a row that are not worth a query, after which a polish ends."""

ROUNDING = 1.01
"""How much the norm may grow in a turn, by pixels that are cut or rounded another way."""

PATIENCE = 6
"""Groups that may fail before smaller ones are tried."""


def reduce(
    session: Session,
    row: int,
    strength: Tensor | None = None,
    l2: float | None = None,
    *,
    factors: tuple[float, ...] = FACTORS,
    groups: int | None = None,
) -> Search:
    """Makes the best success of a clip smaller, for as long as it stays a success and there is
    budget.

    Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
    2002) over the touched
    tubelets: take half of them away, if the goal still holds go on with the rest; once nothing of
    this size can be spared, try groups of half the size, down to single tubelets. Groups are random
    cells; groups smaller than a cell are neighbouring tubelets of one. Then the same again with
    groups halved in strength, and with groups at three quarters, each starting with the whole map.
    Without a success there is nothing to do.

    Args:
        session: the books.
        row: the clip.
        strength: the success, float[gt gh gw] or a map of cells; None: the best of the session.
        l2: its norm.
        factors: what a group is multiplied by, one after another.
        groups: no smaller groups than that so many make up what is left; None: down to single
            tubelets.
    """
    if strength is None or l2 is None:
        if not session.fooled[row]:
            return
        strength, l2 = session.best_strength[row].cpu(), float(session.best_l2[row])
    strength = session.renderer.refine(strength[None])[0] * (session.renderer.energy(row).cpu() > 0)
    for factor in factors:
        strength, l2 = yield from _weaken(session, row, strength, l2, factor, groups)


def _weaken(
    session: Session, row: int, strength: Tensor, l2: float, factor: float, groups: int | None
) -> Generator[Tensor, Response, tuple[Tensor, float]]:
    """Multiplies groups of tubelets by `factor` while the goal holds; returns the last success and
    its norm."""
    size = int(strength.count_nonzero())
    while size:
        spared = False
        for group in in_cells(strength, session.renderer.zoom, session.generator(row)).split(size):
            candidate = strength.clone()
            candidate.view(-1)[group] *= factor
            if not candidate.any():  # the clean clip
                continue
            response = yield candidate
            smaller = response.l2 < l2 or (factor == 0 and response.l2 == l2)
            if response.success and smaller:
                strength, l2, spared = candidate, float(response.l2), True
        if not spared:
            size //= 2
        if factor == 0:  # at most half of what is left can be tried: all of it leaves the clean clip
            size = min(size, -(-int(strength.count_nonzero()) // 2))
        if groups is not None and size * groups < int(strength.count_nonzero()):
            break
    return strength, l2


def in_cells(strength: Tensor, zoom: int, generator: torch.Generator) -> Tensor:
    """The flat indices of the touched tubelets of a map float[gt gh gw], int64[n]: cell after cell
    in random order, and within a cell along a Z-order curve, so that a run of them is a part of the
    cell that hangs together."""
    t, y, x = strength.nonzero().unbind(1)
    _, gh, gw = strength.shape
    cells = (t * (gh // zoom + 1) + y // zoom) * (gw // zoom + 1) + x // zoom
    _, cells = cells.unique(return_inverse=True)
    shuffled = torch.randperm(int(cells.max()) + 1, generator=generator)[cells]
    within = torch.zeros_like(t)
    for bit in range((zoom - 1).bit_length()):
        within |= ((y % zoom >> bit & 1) << (2 * bit + 1)) | ((x % zoom >> bit & 1) << (2 * bit))
    order = (shuffled << (2 * (zoom - 1).bit_length()) | within).argsort()
    return ((t * gh + y) * gw + x)[order]


def polish(session: Session, row: int, queries: int) -> Search:
    """Makes the best success of a clip smaller by changes that keep its size, and removals in
    between.

    Where the distortion has two directions, some tubelets are turned round: a pattern of noise and
    its negative look alike, but the victim minds the difference. Where it has one, some are moved
    to a place near by. Either is kept where the margin falls; the slack so won is spent on taking
    neighbouring tubelets away. Both take turns; the groups taken away are halved when six have
    failed in a row.

    Args:
        session: the books.
        row: the clip.
        queries: at most so many.
    """
    if not session.fooled[row]:
        return
    energy = session.renderer.energy(row).cpu() if session.renderer.low == 0 else None  # of the places to move to
    generator = session.generator(row)
    strength, margin = session.best_strength[row].cpu(), float(session.best_margin[row])
    l2 = float(session.best_l2[row])
    size, failures = session.renderer.zoom**2, 0
    asked, idle, turn = 0, 0, -1
    while asked < queries and idle < IDLE:
        turn, idle = turn + 1, idle + 1
        touched = in_cells(strength, session.renderer.zoom, generator)
        if len(touched) < 2:
            return
        size = min(size, len(touched) // 2)
        candidate, removing = strength.clone(), turn % 2 == 1
        if removing:
            begin = int(torch.randint(len(touched), (), generator=generator))
            candidate.view(-1)[touched[begin : begin + size]] = 0
        else:
            some = touched[torch.rand(len(touched), generator=generator) < max(TURNED, 1 / len(touched))]
            if energy is None:
                candidate.view(-1)[some] *= -1
            else:
                candidate = moved(strength, some, energy, generator)
                if (candidate.square() * energy).sum() > ROUNDING * (strength.square() * energy).sum():
                    continue  # no query is needed to see that it is larger
        if torch.equal(candidate, strength):
            continue
        response = yield candidate
        asked, idle = asked + 1, 0
        # Turning keeps the norm but where pixels meet the end of their range.
        better = response.l2 <= l2 if removing else response.l2 <= ROUNDING * l2 and response.margin < margin
        if response.success and better:
            strength, margin, l2 = candidate, float(response.margin), float(response.l2)
            failures = 0 if removing else failures
        elif removing:
            failures += 1
            if failures == PATIENCE:
                size, failures = max(1, size // 2), 0


def moved(strength: Tensor, some: Tensor, energy: Tensor, generator: torch.Generator) -> Tensor:
    """A copy of a map float[gt gh gw] with some of its touched tubelets (flat indices) each moved
    to a place near by, which is untouched and is not one that the distortion leaves alone; those
    without such a place stay."""
    candidate, shape = strength.clone(), torch.tensor(strength.shape)
    reach = torch.tensor(NEAR)
    for index in some.tolist():
        at = torch.stack(torch.unravel_index(torch.tensor(index), strength.shape))
        step = (torch.rand(8, 3, generator=generator) * (2 * reach + 1)).long() - reach
        for t, y, x in (at + step).tolist():
            inside = 0 <= t < shape[0] and 0 <= y < shape[1] and 0 <= x < shape[2]
            if inside and candidate[t, y, x] == 0 and energy[t, y, x] > 0:
                candidate[t, y, x] = strength.view(-1)[index]
                candidate.view(-1)[index] = 0
                break
    return candidate

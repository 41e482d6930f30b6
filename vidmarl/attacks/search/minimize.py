"""The clean-up that every attack ends with: a success is made smaller."""

from __future__ import annotations

from collections.abc import Generator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Request, Search
from vidmarl.queries.session import Response
from vidmarl.utils.randomness import gumbel

FACTORS = (0.0, 0.5, 0.75)
"""What groups of tubelets are multiplied by, one factor after another: removed, then weakened."""

FLIPPED = 0.15
"""The share of the touched tubelets that one step of `refine` changes."""

NEIGHBOURHOOD = (1, 3, 3)
"""How far `refine` may move a tubelet, in tubelets over time, height and width."""

MAX_IDLE = 100
"""`refine` ends after so many changes in a row that are not worth a query."""

NORM_TOLERANCE = 1.01
"""How much the norm may grow when tubelets change sign or place, since pixels are clamped and
rounded in another way."""

MAX_FAILED_REMOVALS = 6
"""`refine` halves the groups that it removes after so many failures in a row."""


def minimize(
    clip: ClipView,
    strength: Float[Tensor, "t y x"] | None = None,
    l2: float | None = None,
    *,
    factors: tuple[float, ...] = FACTORS,
    groups: int | None = None,
    ranking: Float[Tensor, "t y x"] | None = None,
) -> Search:
    """Makes a success smaller, for as long as it stays a success and there is budget.

    Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
    2002) over the touched tubelets: remove half of them; if the goal still holds, go on with the
    rest. Once no group of this size can be spared, try groups of half the size, down to single
    tubelets. Groups are random search cells; groups smaller than a search cell are neighbouring
    tubelets of one. Then the same with groups at half of their strength, and at three quarters,
    each time from the whole map on. Without a success there is nothing to do.

    Args:
        clip: the clip.
        strength: the success, float[gt gh gw] or a map of search cells; None: the best of the clip.
        l2: its L2 norm.
        factors: what a group is multiplied by, one factor after another.
        groups: the smallest groups are this fraction, 1 / groups, of what is left; None: down to
            single tubelets.
        ranking: logits of the search cells; groups are made, and tried, from the low to the high
            ones, as drawn by chance. None: all alike.
    """
    if strength is None or l2 is None:
        if not clip.fooled:
            return
        strength, l2 = clip.best.strength, clip.best.l2
    strength = clip.upsample(strength) * (clip.energy() > 0)
    with clip.phase("minimize"):
        for factor in factors:
            strength, l2 = yield from _weaken(clip, strength, l2, factor, groups, ranking)


def _weaken(
    clip: ClipView, strength: Tensor, l2: float, factor: float, groups: int | None, ranking: Tensor | None
) -> Generator[Tensor | Request, Response, tuple[Tensor, float]]:
    """Multiplies groups of tubelets by `factor` while the goal holds; the success and its norm."""
    size = int(strength.count_nonzero())
    while size:
        spared = False
        for group in by_search_cell(strength, clip.search_cell, clip.rng, ranking).split(size):
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


def by_search_cell(
    strength: Float[Tensor, "gt gh gw"],
    search_cell: int,
    rng: torch.Generator,
    ranking: Float[Tensor, "t y x"] | None = None,
) -> Int64[Tensor, " n"]:
    """The flat indices of the touched tubelets, search cell after search cell in random order.

    Within a search cell they follow a Z-order curve, so that a run of them is a connected part of
    the cell.

    Args:
        strength: a strength map.
        search_cell: width and height of a search cell, in tubelets.
        rng: the clip's source of randomness.
        ranking: logits of the search cells, by which high ones come late; None: all alike.
    """
    t, y, x = strength.nonzero().unbind(1)
    _, gh, gw = strength.shape
    cells = (t * (gh // search_cell + 1) + y // search_cell) * (gw // search_cell + 1) + x // search_cell
    present, cells = cells.unique(return_inverse=True)
    if ranking is None:
        shuffled = torch.randperm(len(present), generator=rng)[cells]
    else:
        first = torch.zeros(len(present)).scatter(0, cells, ranking[t, y // search_cell, x // search_cell])
        shuffled = (first + gumbel(torch.rand(len(present), generator=rng))).argsort().argsort()[cells]
    within = torch.zeros_like(t)
    bits = (search_cell - 1).bit_length()
    for bit in range(bits):
        within |= ((y % search_cell >> bit & 1) << (2 * bit + 1)) | ((x % search_cell >> bit & 1) << (2 * bit))
    order = (shuffled << (2 * bits) | within).argsort()
    return ((t * gh + y) * gw + x)[order]


def refine(clip: ClipView, queries: int) -> Search:
    """Makes the best success of a clip smaller by changes that keep its size, and by removals.

    Where the distortion has two directions, some tubelets change sign: a pattern of noise and its
    negative look alike, but not to the victim. Where it has one, some move to a place near by. A
    change is accepted where the margin falls. The margin gained this way is spent on removing
    neighbouring tubelets. Changes and removals take turns; the groups removed are halved after six
    failures in a row.

    Args:
        clip: the clip.
        queries: at most so many.
    """
    if not clip.fooled:
        return
    energy = clip.energy() if clip.min_strength == 0 else None  # of the places to move to
    strength, l2, margin = clip.best.strength, clip.best.l2, clip.best.margin
    size, failures = clip.search_cell**2, 0
    asked, idle, turn = 0, 0, -1
    while asked < queries and idle < MAX_IDLE:
        turn, idle = turn + 1, idle + 1
        touched = by_search_cell(strength, clip.search_cell, clip.rng)
        if len(touched) < 2:
            return
        size = min(size, len(touched) // 2)
        candidate, removing = strength.clone(), turn % 2 == 1
        if removing:
            begin = int(torch.randint(len(touched), (), generator=clip.rng))
            candidate.view(-1)[touched[begin : begin + size]] = 0
        else:
            some = touched[torch.rand(len(touched), generator=clip.rng) < max(FLIPPED, 1 / len(touched))]
            if energy is None:
                candidate.view(-1)[some] *= -1
            else:
                candidate = moved(strength, some, energy, clip.rng)
                if (candidate.square() * energy).sum() > NORM_TOLERANCE * (strength.square() * energy).sum():
                    continue  # larger, which is known without a query
        if torch.equal(candidate, strength):
            continue
        with clip.phase("refine"):
            response = yield candidate
        asked, idle = asked + 1, 0
        kept_size = response.l2 <= NORM_TOLERANCE * l2 and response.margin < margin
        if response.success and (response.l2 <= l2 if removing else kept_size):
            strength, margin, l2 = candidate, float(response.margin), float(response.l2)
            failures = 0 if removing else failures
        elif removing:
            failures += 1
            if failures == MAX_FAILED_REMOVALS:
                size, failures = max(1, size // 2), 0


def moved(
    strength: Float[Tensor, "gt gh gw"],
    some: Int64[Tensor, " n"],
    energy: Float[Tensor, "gt gh gw"],
    rng: torch.Generator,
) -> Float[Tensor, "gt gh gw"]:
    """A copy of a strength map with some of its touched tubelets each moved to a place near by.

    The new place is untouched and one that the distortion changes. A tubelet without such a place
    stays.

    Args:
        strength: the map.
        some: flat indices of the tubelets.
        energy: what each tubelet adds to the squared norm, see `ClipView.energy`.
        rng: the clip's source of randomness.
    """
    candidate, shape = strength.clone(), torch.tensor(strength.shape)
    reach = torch.tensor(NEIGHBOURHOOD)
    for index in some.tolist():
        at = torch.stack(torch.unravel_index(torch.tensor(index), strength.shape))
        step = (torch.rand(8, 3, generator=rng) * (2 * reach + 1)).long() - reach
        for t, y, x in (at + step).tolist():
            inside = 0 <= t < shape[0] and 0 <= y < shape[1] and 0 <= x < shape[2]
            if inside and candidate[t, y, x] == 0 and energy[t, y, x] > 0:
                candidate[t, y, x] = strength.view(-1)[index]
                candidate.view(-1)[index] = 0
                break
    return candidate

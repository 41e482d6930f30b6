"""Spatial-temporal differential evolution: patches cut from another clip, found by the victim's
labels alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.attacks.base import Attack
from vidmarl.data.spec import validate_clips
from vidmarl.data.video import load_clips
from vidmarl.perturbations.renderer import to_8bit
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Pixels, Search, run_searches
from vidmarl.queries.session import Session
from vidmarl.utils.fingerprints import fingerprint

REDRAWS = 20
"""Offspring that are thrown away unasked, being no smaller than their parent, before the best patch
is just shrunk."""


@dataclasses.dataclass(frozen=True)
class Patch:
    """A rectangle in some of the frames.

    Attributes:
        sides: float[4], top, bottom, left and right as fractions of the height and the width.
        frames: bool[t], where the rectangle is put.
    """

    sides: Tensor
    frames: Tensor

    def mask(self, height: int, width: int) -> Tensor:
        """The pixels it covers, bool[t h w]; at least one in each of its frames."""
        rows, columns = _span(self.sides[:2], height), _span(self.sides[2:], width)
        covered = torch.zeros(len(self.frames), height, width, dtype=torch.bool)
        covered[:, rows, columns] = self.frames[:, None, None]
        return covered


class STDE(Attack):
    """Puts a rectangle of another clip into some frames and makes it smaller (Jiang et al.,
    "Efficient Decision-based Black-box Patch Attacks on Video Recognition", ICCV 2023).

    Differential evolution with 15 patches. The first covers everything: the clip is replaced by a
    donor clip, on which the goal holds. The others are random rectangles in random frames, frames
    of much change more often. An offspring is the best patch plus half of the difference of two
    others (of their sides; of their frames, where they disagree), crossed with its parent side by
    side and frame by frame. It takes its parent's place if the goal holds and it covers fewer
    pixels. One query per candidate; of the victim's answer only whether the goal holds is used.

    The perturbation is as strong as a replaced picture: no Linf ball is kept, and what is small is
    its area.

    What differs from the paper: the details above that its abstract leaves open are choices made
    here; an offspring no smaller than its parent could not win, so it is not asked about, and after
    20 of them the best patch loses a frame or a strip. The result is the success of the smallest
    L2, not of the smallest area. If no candidate succeeds, the session, not the search,
    returns the one of the lowest margin.

    The donors are by default the clips attacked side by side (`clips_at_once`), so here, and here
    alone, a clip's result depends on what it shares a batch with (though not on the order). Give
    `donors` to make it independent.

    Args:
        distortion: only gives the norm that a failure counts with.
        donors: float[n 3 t h w] in [0, 1], of the frames and size of the clips, or video files,
            which are cut as the victim's spec says. They are tried in a random order, a query each,
            until the goal holds on one. None: the clips of the batch with a fitting clean
            prediction, which is known already: the target, or any other label than the one to
            leave.
        population: number of patches.
        factor: how much of the difference of two patches is added (F), in (0, 2].
        crossover: how likely each side and each frame comes from the offspring rather than from its
            parent (CR).

    The grid and the coherence only shape the strength map of the result.
    """

    donors: Float[Tensor, "n 3 t h w"] | Sequence[str | Path] | None = dataclasses.field(default=None, repr=False)
    population: int = 15
    factor: float = 0.5
    crossover: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.donors, Tensor):
            validate_clips(self.donors, "giving STDE its donors")
            self.donors = to_8bit(self.donors.float())
        if self.population < 4:
            raise ValueError(
                f"STDE: differential evolution needs a population of at least 4 patches, got {self.population}."
            )
        if not 0 < self.factor <= 2 or not 0 < self.crossover <= 1:
            raise ValueError(
                f"STDE: expected 0 < factor <= 2 and 0 < crossover <= 1, got {self.factor} and {self.crossover}."
            )

    @property
    def batch_independent(self) -> bool:  # type: ignore[override]
        """Only with donors of its own."""
        return self.donors is not None

    def params(self) -> dict[str, Any]:
        if isinstance(self.donors, Tensor):
            return super().params() | {"donors": f"sha256:{fingerprint(self.donors)[:16]}"}
        return super().params() | {"donors": "batch" if self.donors is None else [str(path) for path in self.donors]}

    def run(self, session: Session) -> Iterator[Tensor]:
        """Runs the searches side by side.

        Raises:
            ValueError: there is no donor for a clip, or the donors have another shape than the
                clips.
        """
        given = self._given(session)
        donors = {row: self._donors_of(session, row, given) for row in session.rows.tolist()}
        yield from run_searches(session, lambda clip: self._search(clip, donors[clip.row]))

    def _given(self, session: Session) -> Tensor | None:
        """The donors of its own, beside the clips."""
        if self.donors is None:
            return None
        clips = session.renderer.clips
        donors = self.donors if isinstance(self.donors, Tensor) else load_clips(self.donors, session.victim)
        if donors.shape[1:] != clips.shape[1:]:
            raise ValueError(
                f"STDE: donors must have the shape of the clips {tuple(clips.shape[1:])}, got"
                f" {tuple(donors.shape[1:])}. Load them with the same spec."
            )
        return donors.to(clips)

    def _donors_of(self, session: Session, row: int, donors: Tensor | None) -> Tensor:
        """The clips that the patches of a clip can be cut from, in random order, float[n 3 t h
        w]."""
        clips, goal = session.renderer.clips, session.goal
        if donors is None:
            labels, wanted = session.clean.argmax(1).cpu(), int(goal.classes[row])
            fitting = (labels == wanted) if goal.targeted else (labels != wanted)
            by_content = torch.tensor(session.renderer.seeds).argsort()  # whatever their order in the batch
            donors = clips[by_content[fitting[by_content]].to(clips.device)]
            if not len(donors):
                need = f"of class {wanted}" if goal.targeted else f"of another class than {wanted}"
                raise ValueError(
                    f"STDE: clip {row} needs a donor {need}, and none of the {len(clips)} clips attacked with it has"
                    " such a clean prediction. Give clips of other classes: STDE(donors=...)."
                )
        return donors[torch.randperm(len(donors), generator=session.generator(row)).to(donors.device)]

    def _search(self, clip: ClipView, donors: Float[Tensor, "n 3 t h w"]) -> Search:
        pixels, rng = clip.pixels, clip.rng
        size = tuple(pixels.shape[-2:])
        everything = Patch(torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.ones(pixels.shape[1], dtype=torch.bool))
        for donor in donors:
            if (yield Pixels(donor[None])).success:
                break
        else:
            return

        def put(patch: Patch) -> Pixels:
            return Pixels(torch.where(patch.mask(*size).to(pixels.device), donor, pixels)[None])

        change = pixels.diff(dim=1).abs().mean((0, 2, 3)).cpu()
        change = torch.cat([change[:1], change]) + 1e-6 if len(change) else torch.ones(1)
        population = min(self.population, clip.budget)  # the others would never be asked about
        patches = [everything, *(random_patch(change, rng) for _ in range(population - 1))]
        areas = [float(everything.mask(*size).sum())] + [math.inf] * (population - 1)
        for i, patch in enumerate(patches[1:], 1):
            if (yield put(patch)).success:
                areas[i] = float(patch.mask(*size).sum())
        while True:
            for i in range(population):
                offspring = self._offspring(patches, areas, i, size, rng)
                if offspring is None:
                    return
                if (yield put(offspring)).success:
                    patches[i], areas[i] = offspring, float(offspring.mask(*size).sum())

    def _offspring(
        self, patches: list[Patch], areas: list[float], i: int, size: tuple[int, ...], rng: torch.Generator
    ) -> Patch | None:
        """A patch smaller than the `i`-th; None where the best is a single pixel."""
        best = patches[areas.index(min(areas))]
        parent = patches[i] if areas[i] < math.inf else best

        def chance(p: float, *shape: int) -> Tensor:
            return torch.rand(shape, generator=rng) < p

        for _ in range(REDRAWS):
            first, second = (patches[int(k)] for k in torch.randperm(len(patches), generator=rng)[:2])
            sides = best.sides + self.factor * (first.sides - second.sides)
            frames = best.frames ^ ((first.frames ^ second.frames) & chance(self.factor, len(best.frames)))
            sides = torch.where(chance(self.crossover, 4), sides, parent.sides).clamp(0, 1)
            frames = torch.where(chance(self.crossover, len(frames)), frames, parent.frames)
            offspring = Patch(torch.cat([sides[:2].sort().values, sides[2:].sort().values]), frames)
            covered = offspring.mask(*size)
            if 0 < covered.sum() < min(areas[i], covered.numel()):
                return offspring
        for _ in range(REDRAWS):
            offspring = shrink(best, rng)
            if 0 < offspring.mask(*size).sum() < min(areas):
                return offspring
        return None


def random_patch(change: Tensor, rng: torch.Generator) -> Patch:
    """A random rectangle in random frames, those of much change, float[t], more often."""
    sides = torch.rand(2, 2, generator=rng).sort(1).values.flatten()
    count = int(torch.randint(1, len(change) + 1, (), generator=rng))
    frames = torch.zeros(len(change), dtype=torch.bool)
    frames[torch.multinomial(change, count, generator=rng)] = True
    return Patch(sides, frames)


def shrink(patch: Patch, rng: torch.Generator) -> Patch:
    """The patch without one of its frames, or without a strip of up to half of it along one side,
    at random."""
    which = int(torch.randint(5, (), generator=rng))
    sides, frames = patch.sides.clone(), patch.frames.clone()
    if which == 4 and frames.sum() > 1:
        there = frames.nonzero().flatten()
        frames[there[torch.randint(len(there), (), generator=rng)]] = False
    elif which < 4:
        opposite = which ^ 1  # top and bottom, left and right
        sides[which] += float(torch.rand((), generator=rng)) / 2 * (sides[opposite] - sides[which])
    return Patch(sides, frames)


def _span(ends: Tensor, length: int) -> slice:
    """From and to, as fractions, in px: at least one."""
    start = min(int(ends[0] * length), length - 1)
    return slice(start, max(start + 1, math.ceil(float(ends[1]) * length)))

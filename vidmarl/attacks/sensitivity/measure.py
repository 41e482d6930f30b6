"""Measuring sensitivity: a plan for each clip, its queries, and what they tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.attacks.base import Attack, DistortionLike
from vidmarl.attacks.sensitivity.masks import occlusion, rise
from vidmarl.attacks.sensitivity.plan import Estimate, Plan
from vidmarl.attacks.sensitivity.posterior import posterior
from vidmarl.attacks.sensitivity.result import Sensitivity
from vidmarl.errors import VictimError
from vidmarl.perturbations.grid import GridLike, TubeletGrid, as_grid
from vidmarl.perturbations.noise import Coherence
from vidmarl.queries.clip import ClipView
from vidmarl.queries.goals import Classes, Goal
from vidmarl.queries.scheduler import Search
from vidmarl.utils.kinds import check_least
from vidmarl.victims.victim import Victim

Method = Literal["posterior", "rise", "occlusion"]

METHODS: dict[str, Callable[[ClipView, int], Plan]] = {"posterior": posterior, "rise": rise, "occlusion": occlusion}

_OF_ATTACKS = ("attack", "labels", "max_queries_after_success")


def sensitivity(
    victim: Victim,
    clips: Float[Tensor, "b 3 t h w"],
    distortion: DistortionLike = "gaussian_noise",
    budget: int = 50,
    *,
    goal: Goal | Classes | None = None,
    grid: GridLike = TubeletGrid(),  # noqa: B008
    search_cell: int = 1,
    coherence: Coherence = "static",
    method: Method = "posterior",
    seed: int = 0,
    progress: bool = True,
) -> Sensitivity:
    """Where and when a distortion hurts a victim, measured with few queries.

    The default, "posterior", asks about single cells and tells from them of all others, with how
    far off that may be. Once it has asked about every cell it is exact. A distortion of two
    directions is measured in the positive one.

    Args:
        victim: who is asked.
        clips: float[b 3 t h w] in [0, 1]; rounded to 8 bits.
        distortion: what is done to the cells, as for every `Attack`.
        budget: queries per clip, the clean prediction included.
        goal: whose margin is meant: `Misclassify(labels)`, for which the bare labels will do, or
            `Target(classes)`. None: away from the clean prediction.
        grid: the tubelets, see `as_grid`.
        search_cell: width and height, in tubelets, of the cells of the map.
        coherence: how random patterns go on in time: "static", "flow" or "free".
        method: "posterior"; or, to compare with, "rise" (random masks) or "occlusion" (a box that
            slides), whose maps are mean answers and have no uncertainty.
        seed: of the distortion's randomness and of the choice of the queries. The same seed gives
            the same result for a clip, whichever clips share its batch.
        progress: whether to show a progress bar.

    Returns:
        A map for each clip, its means over time and over the frame, and how far off they may be.

    Raises:
        ClipError: the clips have another shape, dtype or range.
        UnknownNameError: the victim has no class of a name.
        SettingsError, ValueError, TypeError: a setting is of another type or out of its range, or
            the goal does not fit.
        VictimError: the victim raised or gave unusable scores.
    """
    probes = SensitivityProbes(
        distortion=distortion,
        budget=budget,
        grid=grid,
        search_cell=search_cell,
        coherence=coherence,
        seed=seed,
        method=method,
        progress=progress,
    )
    result = probes(victim, clips, goal)
    cells = as_grid(grid).coarser(search_cell).shape(result.clean)
    margins, plans = result.history["margin"], iter(probes.plans)
    estimates = [
        _nothing(cells) if skipped else _read(next(plans), margins[row])
        for row, skipped in enumerate(result.skipped.tolist())
    ]
    maps = torch.stack([one.map for one in estimates])
    return Sensitivity(
        map=maps,
        std=torch.stack([one.std for one in estimates]),
        spatial=maps.mean(1),
        spatial_std=torch.stack([one.spatial_std for one in estimates]),
        temporal=maps.mean((2, 3)),
        temporal_std=torch.stack([one.temporal_std for one in estimates]),
        queries=result.queries,
        clips=result.clean,
        margin=margins[:, 0],
        settings={key: value for key, value in result.settings.items() if key not in _OF_ATTACKS},
    )


class SensitivityProbes(Attack):
    """The queries, as the search of an attack that is after no success.

    Args:
        method: how a clip is measured.
    """

    method: Method = "posterior"
    needs_scores = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(type(self).__name__, budget=(self.budget, 2))
        if self.method not in METHODS:
            raise ValueError(f"{type(self).__name__}: method must be one of {', '.join(METHODS)}, got {self.method!r}.")
        self.plans: list[Plan] = []  # of the clips that are not skipped, in order

    def search(self, clip: ClipView) -> Search:
        plan = METHODS[self.method](clip, self.budget - 1)
        self.plans.append(plan)
        for mask in plan.masks:  # noqa: UP028  (`yield from` would send the responses to the tensor)
            yield mask


def _read(plan: Plan, margins: Float[Tensor, " q"]) -> Estimate:
    """What the answers to a plan tell; the first margin is that of the clean clip.

    Raises:
        VictimError: failed attempts have eaten up the budget.
    """
    margins = margins[~margins.isnan()]
    if len(margins) < 1 + len(plan.masks):
        raise VictimError(
            f"Measuring sensitivity: {1 + len(plan.masks) - len(margins)} of {len(plan.masks)} probes of a clip were"
            " never answered: attempts that failed have spent its budget. Give a larger one, or mend the connection."
        )
    clean = float(margins[0])
    return plan.read(clean - margins[1 : 1 + len(plan.masks)], clean)


def _nothing(shape: tuple[int, int, int]) -> Estimate:
    """Of a clip whose goal holds from the start."""
    unknown = torch.full(shape, torch.nan)
    return Estimate(unknown, unknown, unknown[0], unknown[:, 0, 0])

"""Making a success smaller: `minimize` goes down from search cells to tubelets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_victims import GREY, GRID, ONE_SIDED, SHAPE, SIGNED, Conjunction, Constant
from torch import Tensor, nn

from vidmarl import Victim
from vidmarl.attacks.search.minimize import by_search_cell, minimize
from vidmarl.distortions.dead_pixels import DeadPixels
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Search, run_searches
from vidmarl.queries.session import Session


def random_map(shape: tuple[int, ...], density: float, seed: int) -> Tensor:
    """Some tubelets at 1 or -1, at least one."""
    generator = torch.Generator().manual_seed(seed)
    strength = 2.0 * torch.randint(2, shape, generator=generator) - 1
    strength *= torch.rand(shape, generator=generator) < density
    strength.view(-1)[int(torch.randint(strength.numel(), (), generator=generator))] = 1
    return strength


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class AnyChange(nn.Module):
    """Fooled where any pixel at all has changed; notes how many have."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, clips: Tensor) -> Tensor:
        changed = (clips != GREY).any(1).flatten(1).sum(1)
        self.asked += changed.tolist()
        score = torch.where(changed > 0, -1.0, 1.0)
        return torch.stack([score, -score], 1)


# by_search_cell


@pytest.mark.thorough
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    search_cell=st.integers(1, 5),
    density=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_all_touched_tubelets_are_there_cell_by_cell(
    shape: tuple[int, int, int], search_cell: int, density: float, seed: int
) -> None:
    strength = random_map(shape, density, seed)
    order = by_search_cell(strength, search_cell, generator(seed))
    assert sorted(order.tolist()) == strength.flatten().nonzero().flatten().tolist()
    t, y, x = torch.unravel_index(order, shape)
    cells = list(zip(t.tolist(), (y // search_cell).tolist(), (x // search_cell).tolist(), strict=True))
    changes = sum(one != other for one, other in pairwise(cells))
    assert changes == len(set(cells)) - 1, "the tubelets of a cell are one run"
    assert torch.equal(order, by_search_cell(strength, search_cell, generator(seed)))


@pytest.mark.parametrize("search_cell", [2, 4, 8])
def test_aligned_runs_of_a_whole_cell_are_squares(search_cell: int) -> None:
    order = by_search_cell(torch.ones(2, 2 * search_cell, 3 * search_cell), search_cell, generator())
    t, y, x = torch.unravel_index(order, (2, 2 * search_cell, 3 * search_cell))
    side = search_cell
    while side := side // 2:
        for run in torch.arange(len(order)).split(side**2):
            assert t[run].unique().numel() == 1
            for place in (y[run], x[run]):
                assert place.unique().numel() == side
                assert place.max() - place.min() == side - 1
                assert place.min() % side == 0


def test_cells_come_in_random_order() -> None:
    strength = torch.ones(2, 8, 8)
    one, other = (by_search_cell(strength, 4, generator(seed)) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert len({tuple(by_search_cell(strength, 1, generator(seed)).tolist()) for seed in range(5)}) == 5


# minimize


def started(
    model: nn.Module, start: Tensor, distortion=SIGNED, search_cell: int = 1, budget: int = 2000, clip: Tensor = GREY
) -> Session:
    """A session whose first candidate was `start`."""
    session = Session(Victim(model), Renderer(clip, distortion, GRID, search_cell=search_cell), budget=budget)
    session.query(start[None], torch.tensor([0]))
    return session


def asked_by(session: Session, search: Callable[[ClipView], Search]) -> list[Tensor]:
    """Runs a search on the only clip; the maps that it has asked about."""
    asked: list[Tensor] = []

    def noted(clip: ClipView) -> Search:
        inner, response = search(clip), None
        while True:
            try:
                request = next(inner) if response is None else inner.send(response)
            except StopIteration:
                return
            assert isinstance(request, Tensor)
            asked.append(request.clone())
            response = yield request

    session.finished[:] = False  # it may have been searched before
    for _ in run_searches(session, noted):
        pass
    return asked


@pytest.mark.thorough
@given(needed=st.sets(st.integers(0, 47), min_size=1, max_size=8), extra=st.sets(st.integers(0, 47)))
@settings(max_examples=30)
def test_minimizing_finds_exactly_what_is_needed(needed: set[int], extra: set[int]) -> None:
    start = torch.zeros(48)
    start[sorted(needed | extra)] = 1.0
    session = started(Conjunction(needed), start.view(SHAPE), ONE_SIDED)
    asked_by(session, minimize)
    assert session.fooled.all()
    assert session.best_strength.flatten().nonzero().flatten().tolist() == sorted(needed)
    assert int(session.query_budget.left) > 0, "nothing is left to do"


@pytest.mark.thorough
@given(needed=st.sets(st.integers(0, 47), min_size=1, max_size=4), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_minimizing_weakens_to_the_last_visible_step(needed: set[int], seed: int) -> None:
    """Where any change at all is enough, no tubelet can be weakened further by a half."""
    signs = torch.where(torch.rand(SHAPE, generator=generator(seed)) < 0.5, -1.0, 1.0)
    session = started(Conjunction(needed), signs)
    asked_by(session, minimize)
    steps = (session.best - GREY).abs().mul(255).round()
    assert steps.max() <= 1
    kept = session.best_strength[0]
    assert torch.equal(kept.sign()[kept != 0], signs[kept != 0]), "directions are kept"


@pytest.mark.thorough
@given(budget=st.integers(2, 40))
@settings(max_examples=15)
def test_minimizing_keeps_to_the_budget_and_never_grows(budget: int) -> None:
    session = started(Conjunction({1, 20, 33}), torch.ones(SHAPE), ONE_SIDED, budget=budget)
    asked_by(session, minimize)
    assert session.queries[0] <= budget
    assert session.fooled.all()
    assert session.best_l2[0] <= session.history["l2"][0, 1]


@pytest.mark.thorough
@given(needed=st.sets(st.integers(0, 47), min_size=1, max_size=6), search_cell=st.integers(1, 5))
@settings(max_examples=15)
def test_minimizing_goes_down_from_cells_to_single_tubelets(needed: set[int], search_cell: int) -> None:
    session = started(Conjunction(needed), torch.ones(SHAPE), ONE_SIDED, search_cell)
    asked_by(session, minimize)
    assert session.best_strength.flatten().nonzero().flatten().tolist() == sorted(needed)


def test_a_given_success_is_minimized() -> None:
    session = started(Conjunction({5, 30}), torch.ones(SHAPE), ONE_SIDED)
    l2 = float(session.best_l2[0])
    asked = asked_by(session, lambda clip: minimize(clip, torch.ones(SHAPE), l2))
    removing = [set(strength.unique().tolist()) <= {0.0, 1.0} for strength in asked]
    assert removing[0]
    assert removing == sorted(removing, reverse=True), "first tubelets are removed, then weakened"
    assert session.best_strength[0].flatten().nonzero().flatten().tolist() == [5, 30]


def test_without_a_success_nothing_is_asked() -> None:
    session = started(Constant(), torch.ones(SHAPE), ONE_SIDED)
    assert not session.fooled.any()
    assert asked_by(session, minimize) == []


def test_what_the_distortion_leaves_alone_is_not_asked_about() -> None:
    victim = AnyChange()
    session = Session(Victim(victim), Renderer(GREY, DeadPixels(rate=0.01), GRID), budget=500)
    full = torch.ones(SHAPE)
    alive = int((session.renderer.energy(0) > 0).sum())
    assert 1 < alive < full.numel() // 2, "the case is meant to be one where little changes"
    session.query(full[None], torch.tensor([0]))
    asked = asked_by(session, minimize)
    assert all(int(strength.count_nonzero()) < alive for strength in asked)
    assert 0 not in victim.asked[1:], "never the clean clip"
    assert int(session.best_strength.count_nonzero()) == 1

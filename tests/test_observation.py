"""What the agents see: what a black-box attacker can know of a clip, and what the victim's answers
add to it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_probing import session
from torch import Tensor, nn

from vidmarl.agents.credit import learn as explain
from vidmarl.agents.credit import scaled
from vidmarl.agents.features import extract
from vidmarl.agents.observation import MAPS, OBSERVATION, SMALLEST_MARGIN, as_share, learn, look
from vidmarl.distortions import as_distortion
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.goals import Misclassify, Target
from vidmarl.queries.session import Session
from vidmarl.victims.victim import Victim

SCORES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.15, 0.75]])


class Says(nn.Module):
    """Gives these probabilities of the clips, whatever they show; counts what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, clips: Tensor) -> Tensor:
        self.seen += len(clips)
        return SCORES.log()


def asked(goal=None, search_cell: int = 1) -> Session:
    clips = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    renderer = Renderer(clips, as_distortion("gaussian_blur"), TubeletGrid(1, 8, 8), search_cell=search_cell)
    return Session(Victim(Says()), renderer, goal, budget=9)


BOTH = torch.arange(2)


# --- before anything is asked


@pytest.mark.parametrize("search_cell", [1, 2])
def test_a_look_costs_nothing_and_shows_what_the_clean_prediction_says(search_cell: int) -> None:
    books = asked(search_cell=search_cell)
    td = look(books, BOTH)
    assert books.victim.model.seen == 2
    assert books.queries.tolist() == [1, 1]
    assert td["state"].flatten().tolist() == pytest.approx([0.5, 0.3, 0.75, 0.15])
    margins = [math.log(0.5 / 0.3), math.log(0.75 / 0.15)]
    assert td["known", "clean_margin"].tolist() == pytest.approx(margins, abs=1e-5)
    energy = books.renderer.cell_energy(BOTH)
    assert torch.equal(td["known", "energy"], energy)
    assert torch.equal(td["features"], extract(books.renderer.clips, books.renderer.coarse, energy))
    assert td["maps"].shape == (2, len(MAPS), *books.renderer.coarse_shape)
    assert not td["maps"].any()


def test_a_target_is_the_class_that_the_state_is_about() -> None:
    td = look(asked(Target([1, 0])), BOTH, classes=3)
    assert td["state"].tolist() == [
        pytest.approx([0.3, 0.5, 0, 1, 0]),
        pytest.approx([0.1, 0.75, 1, 0, 0]),
    ]


@pytest.mark.parametrize(("classes", "expected"), [(0, [[], []]), (3, [[1, 0, 0], [0, 0, 1]]), (4, [[0] * 4] * 2)])
def test_the_class_is_told_where_the_victim_has_as_many(classes: int, expected: list[list[int]]) -> None:
    assert look(asked(), BOTH, classes)["state"][:, 2:].tolist() == expected


def test_a_clip_looks_alone_as_it_does_among_others() -> None:
    books = asked(Misclassify([2, 1]))
    both, alone = look(books, BOTH, 3), look(books, BOTH[1:], 3)
    for key in both.keys(include_nested=True, leaves_only=True):
        assert torch.equal(both[key][1:], alone[key]), key


# --- what answers add


def changed(cells: dict[int, float]) -> Tensor:
    """A change of some of the 4 x 4 x 4 cells, float[1 4 4 4]."""
    change = torch.zeros(64)
    for cell, value in cells.items():
        change[cell] = value
    return change.view(1, 4, 4, 4)


@pytest.mark.parametrize(("strength", "drop"), [(1.0, 0.05), (-1.0, 0.05), (-0.5, 0.02), (1.0, -0.3)])
def test_one_answer_about_one_cell_is_explained_by_that_cell(strength: float, drop: float) -> None:
    before = look(session(n=1), torch.arange(1))
    kept, cell = before.clone(), 27
    after = learn(before, changed({cell: strength}), torch.tensor([drop]))
    known = {name: after["known", name].flatten() for name in MAPS}
    # the drop for each unit of strength, without and with regard to its sign
    assert known["credit"][cell] == pytest.approx(drop / abs(strength), abs=1e-6)
    assert known["signed_credit"][cell] == pytest.approx(drop / strength, abs=1e-6)
    assert known["trials"].nonzero().tolist() == [[cell]]
    seen = after["maps"][0].flatten(1)
    assert seen[0, cell] == pytest.approx(math.tanh(10 * drop / abs(strength)), abs=1e-5)
    assert seen[1, cell] == pytest.approx(math.tanh(10 * drop / strength), abs=1e-5)
    assert seen[2, cell] == pytest.approx(math.log(2))
    for key in kept.keys(include_nested=True, leaves_only=True):
        assert torch.equal(before[key], kept[key]), key
    for name in ("features", "state", ("known", "clean_margin"), ("known", "energy")):
        assert torch.equal(after[name], before[name]), name


def test_trials_count_the_changes_that_a_cell_was_part_of() -> None:
    td = look(session(n=1), torch.arange(1))
    for cells in ({3: 1.0, 40: -1.0}, {3: -0.25}, {3: 1.0, 41: 0.5}):
        td = learn(td, changed(cells), torch.zeros(1))
    assert {int(cell): int(td["known", "trials"].flatten()[cell]) for cell in (3, 40, 41)} == {3: 3, 40: 1, 41: 1}
    assert td["known", "trials"].sum() == 5
    assert not td["known", "credit"].any(), "nothing has fallen"


def test_each_answer_is_one_step_on_both_credit_maps() -> None:
    td = look(session(n=3), torch.arange(3))
    draw = torch.Generator().manual_seed(1)
    credit, signed = torch.zeros(3, 4, 4, 4), torch.zeros(3, 4, 4, 4)
    for _ in range(5):
        change, drop = torch.randn(3, 4, 4, 4, generator=draw).round(), torch.randn(3, generator=draw)
        td = learn(td, change, drop)
        credit, signed = explain(credit, change.abs(), drop), explain(signed, change, drop)
    assert torch.equal(td["known", "credit"], credit)
    assert torch.equal(td["maps"][:, 1], scaled(signed))


@pytest.mark.thorough
@given(st.integers(0, 63), st.booleans())
def test_the_cell_that_matters_is_found(cell: int, lowers: bool) -> None:
    td, draw = look(session(n=1), torch.arange(1)), torch.Generator().manual_seed(cell)
    pairs = torch.cat([torch.randperm(64, generator=draw) for _ in range(5)]).view(-1, 2)
    for some in pairs.tolist():
        change = changed(dict(zip(some, torch.randn(2, generator=draw).sign().tolist(), strict=True)))
        td = learn(td, change, 0.1 * change.flatten(1)[:, cell] * (1 if lowers else -1))
    signed = td["maps"][0, 1].flatten()
    assert int(signed.abs().argmax()) == cell
    assert (signed[cell] > 0) == lowers


@pytest.mark.parametrize(("margin", "over"), [(2.0, 2.0), (1e-3, SMALLEST_MARGIN), (-1.0, SMALLEST_MARGIN)])
def test_drops_are_shares_of_the_clean_margin_unless_that_is_tiny(margin: float, over: float) -> None:
    td = look(session(n=2), torch.arange(2))
    td["known", "clean_margin"] = torch.tensor([margin, 4.0])
    assert as_share(torch.tensor([1.0, 1.0]), td).tolist() == pytest.approx([1 / over, 0.25])
    assert as_share(torch.ones(2, 3), td)[0].tolist() == pytest.approx([1 / over] * 3)


def test_the_nets_are_shown_nothing_else() -> None:
    """What is known holds what an observation does not tell, such as the clean margin in nats."""
    assert set(look(asked(), BOTH).keys()) - {"known"} == set(OBSERVATION)

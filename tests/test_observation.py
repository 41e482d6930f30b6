"""What the agents see: what a black-box attacker can know of a clip before it is distorted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vidmarl.agents.features import extract
from vidmarl.agents.observation import OBSERVATION, look
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


def test_the_nets_are_shown_nothing_else() -> None:
    """What is known holds what an observation does not tell, such as the clean margin in nats."""
    assert set(look(asked(), BOTH).keys()) - {"known"} == set(OBSERVATION)

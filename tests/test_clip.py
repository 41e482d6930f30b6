"""A clip as its search sees it: what a `ClipView` says of the session, at any time."""

from __future__ import annotations

import pytest
import torch
from test_session import DARKER, GRID, brightness, open_session
from torch import Tensor

from vidmarl import Misclassify, Target, Victim
from vidmarl.distortions.base import FunctionDistortion
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.clip import ClipView
from vidmarl.queries.session import Session

SIGNED = FunctionDistortion(lambda clips, strength, noise: clips + 0.2 * strength, signed=True)
FEW = FunctionDistortion(lambda clips, strength, noise: torch.where(clips > 0.55, 0.5, clips))


@pytest.fixture
def clips() -> Tensor:
    """Three clips of 2 x 3 x 4 tubelets, from grey to bright."""
    levels = torch.tensor([0.5, 0.6, 0.7])
    return levels.view(3, 1, 1, 1, 1).expand(3, 3, 2, 24, 32).clone()


def test_what_does_not_change(clips: Tensor) -> None:
    session = Session(Victim(brightness), Renderer(clips, DARKER, GRID, search_cell=2), Target([1, 1, 2]), budget=7)
    clip = ClipView(session, 2)
    assert (clip.row, clip.budget, clip.search_cell) == (2, 7, 2)
    assert clip.shape == (2, 2, 2), "search cells, rounded up"
    assert clip.min_strength == 0
    assert torch.equal(clip.pixels, session.renderer.clips[2])
    assert torch.equal(clip.clean_log_probs, session.clean[2])
    assert clip.clean_margin == pytest.approx(float(session.clean[2].amax() - session.clean[2, 2]))
    assert clip.goal.targeted
    assert clip.goal.classes.tolist() == [2], "of this clip alone"
    assert clip.victim is session.victim
    assert ClipView(Session(Victim(brightness), Renderer(clips, SIGNED, GRID), budget=7), 0).min_strength == -1


def test_the_goal_and_the_margin_of_the_clip_belong_together(clips: Tensor) -> None:
    session = open_session(clips, goal=Misclassify([0, 0, 1]))
    for row in range(3):
        clip = ClipView(session, row)
        assert float(clip.goal.margin(clip.clean_log_probs[None], torch.tensor([0]))) == clip.clean_margin


def test_it_follows_the_books(clips: Tensor) -> None:
    """Before a success the best is what came nearest, and then the smallest success."""
    session = open_session(clips)
    clip, row = ClipView(session, 0), torch.tensor([0])
    assert clip.queries == 1
    assert not clip.fooled
    assert clip.best.l2 == 0
    assert clip.best.margin == clip.clean_margin
    assert not clip.best.strength.any()
    for i, (value, fooled, best) in enumerate(
        [(0.1, False, 0.1), (0.05, False, 0.1), (0.9, True, 0.9), (1.0, True, 0.9), (0.6, True, 0.6), (0.1, True, 0.6)]
    ):
        session.query(torch.full((1, *session.renderer.shape), value), row)
        assert clip.queries == 2 + i
        assert clip.fooled == fooled
        torch.testing.assert_close(clip.best.strength, torch.full(session.renderer.shape, best))
        assert (clip.best.l2, clip.best.margin) == (float(session.best_l2[0]), float(session.best_margin[0]))
        assert (clip.best.margin < 0) == fooled
    assert ClipView(session, 1).queries == 1


def test_the_best_is_no_view_of_the_books(clips: Tensor) -> None:
    session = open_session(clips)
    clip = ClipView(session, 0)
    before = clip.best.strength
    before += 1
    assert not session.best_strength.any()
    assert not clip.best.strength.any()


def test_randomness_is_that_of_the_clip_whatever_stands_beside_it(clips: Tensor) -> None:
    together, alone = ClipView(open_session(clips), 2), ClipView(open_session(clips[2:]), 0)
    other = ClipView(open_session(clips), 1)
    one, again, else_ = (torch.rand(9, generator=clip.rng) for clip in (together, alone, other))
    assert torch.equal(one, again)
    assert not torch.equal(one, else_)
    assert together.rng.device.type == "cpu"


def test_maps_to_begin_with(clips: Tensor) -> None:
    one_sided = ClipView(Session(Victim(brightness), Renderer(clips, DARKER, GRID, search_cell=2), budget=7), 0)
    signed = ClipView(Session(Victim(brightness), Renderer(clips, SIGNED, GRID), budget=7), 0)
    for clip in (one_sided, signed):
        assert clip.zeros().shape == clip.random_signs().shape == clip.shape
        assert not clip.zeros().any()
    assert (one_sided.random_signs() == 1).all(), "there is one direction"
    drawn = torch.stack([signed.random_signs() for _ in range(40)])
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(drawn.mean())) < 0.2


def test_rendering_costs_nothing_and_is_what_the_victim_would_see(clips: Tensor) -> None:
    session = Session(Victim(brightness), Renderer(clips, DARKER, GRID, search_cell=2), budget=7)
    clip = ClipView(session, 1)
    cells = torch.rand(3, *clip.shape)
    seen = clip.render(cells)
    assert seen.shape == (3, *clips.shape[1:])
    assert torch.equal(seen, clip.render(torch.stack([clip.upsample(one) for one in cells])))
    assert clip.upsample(cells[0]).shape == session.renderer.shape
    assert session.victim.queries == 3, "the clean predictions"
    session.query(cells[:1], torch.tensor([1]))
    assert torch.equal(session.best[1], seen[0])


def test_energy_says_what_each_tubelet_adds_to_the_squared_norm(clips: Tensor) -> None:
    clips[0, :, :, :8, :16] = 0.7  # the rest of it is left alone
    session = Session(Victim(brightness), Renderer(clips, FEW, GRID), budget=7)
    energy = ClipView(session, 0).energy()
    assert energy.shape == session.renderer.shape
    touched = torch.zeros(session.renderer.shape, dtype=torch.bool)
    touched[:, 0, :2] = True
    assert torch.equal(energy > 0, touched)
    full = ClipView(session, 0).render(torch.ones(1, *session.renderer.shape))[0]
    assert float(energy.sum()) == pytest.approx(float((full - session.renderer.clips[0]).square().sum()), rel=1e-5)
    assert session.victim.queries == 3

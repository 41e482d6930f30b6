"""The scheduler: the searches of all clips go in step, and share the batches that they ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_session import DARKER, GRID, brightness, everywhere, open_session
from torch import Tensor

from vidmarl import Victim
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import CANDIDATES_AT_ONCE, Pixels, Request, Search, Strength, run_searches
from vidmarl.queries.session import Response, Session


@pytest.fixture
def clips() -> Tensor:
    """Four clips of class 0, each a little brighter than the one before."""
    return grey_clips(4)


def grey_clips(count: int) -> Tensor:
    levels = torch.linspace(0.5, 0.8, count)
    return levels.view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 16, 16).clone()


def asked_by(session: Session, search: Callable[[ClipView], Search]) -> list[list[int]]:
    """Runs the searches to their end; the rows of each batch."""
    return [rows.tolist() for rows in run_searches(session, search)]


def steps(clip: ClipView, count: int, heard: list[int]) -> Search:
    """Asks `count` times about stronger and stronger maps, and notes whose answers came when."""
    for i in range(count):
        response = yield torch.full(clip.shape, (i + 1) / 10)
        assert response.margin.shape == response.success.shape == response.l2.shape == ()
        assert response.log_probs.shape == (3,)
        assert clip.queries == i + 2, "the clean prediction is the first"
        heard.append(clip.row)


def test_searches_go_in_step_and_a_clip_is_finished_with_its_search(clips: Tensor) -> None:
    session = open_session(clips)
    heard: list[int] = []
    lengths = [2, 0, 3, 1]
    batches = asked_by(session, lambda clip: steps(clip, lengths[clip.row], heard))
    assert batches == [[0, 2, 3], [0, 2], [2]]
    assert heard == [0, 2, 3, 0, 2, 2]
    assert session.queries.tolist() == [3, 1, 4, 2]
    assert session.finished.all()


def test_each_search_is_sent_the_response_to_its_own_request(clips: Tensor) -> None:
    session = open_session(clips)
    sent: dict[int, list[float]] = {}

    def search(clip: ClipView) -> Search:
        response = yield torch.full(clip.shape, 0.2 * (clip.row + 1))
        sent[clip.row] = [float(response.margin), float(response.l2), float(response.log_probs[0])]

    asked_by(session, search)
    booked = torch.stack([session.history[key][:, 1] for key in ("margin", "l2", "score")], 1)
    assert torch.equal(torch.tensor([sent[row] for row in range(4)]), booked)
    assert booked.unique(dim=0).shape == booked.shape, "the case is meant to have four answers"


def test_maps_of_search_cells_and_of_tubelets_share_a_batch(clips: Tensor) -> None:
    session = Session(Victim(brightness), Renderer(clips, DARKER, GRID, search_cell=2), budget=10)

    def search(clip: ClipView) -> Search:
        strength = torch.full(clip.shape if clip.row % 2 else session.renderer.shape, 0.1 * (clip.row + 1))
        yield strength if clip.row < 2 else Strength(strength)  # the same request, in two ways

    assert asked_by(session, search) == [[0, 1, 2, 3]]
    expected = 0.1 * torch.arange(1.0, 5).view(4, 1, 1, 1).expand_as(session.best_strength)
    torch.testing.assert_close(session.best_strength, expected)


def test_a_batch_holds_requests_of_one_kind(clips: Tensor) -> None:
    session = open_session(clips)
    requests: list[Callable[[ClipView], Tensor | Request]] = [
        lambda clip: clip.zeros() + 1,
        lambda clip: Pixels(clip.pixels[None]),
        lambda clip: clip.zeros() + 0.5,
        lambda clip: Pixels(clip.pixels[None].expand(3, -1, -1, -1, -1), probe=True),
    ]

    def search(clip: ClipView) -> Search:
        response = yield requests[clip.row](clip)
        assert response.margin.shape == ([(), (1,), (), (3,)][clip.row])

    assert asked_by(session, search) == [[0, 2], [1], [3, 3, 3]]
    assert session.queries.tolist() == [2, 2, 2, 4]
    assert session.history["margin"][:, 1].isfinite().tolist() == [True, True, True, False], "the last is a probe"


def test_nothing_is_asked_beyond_the_budget(clips: Tensor) -> None:
    session = open_session(clips, budget=3)
    session.query(*everywhere(session, 0.1, [2]))
    ended: list[int] = []

    def endless(clip: ClipView) -> Search:
        try:
            while True:
                yield clip.zeros() + 0.1
        finally:
            ended.append(clip.row)

    assert asked_by(session, endless) == [[0, 1, 2, 3], [0, 1, 3]]
    assert session.queries.tolist() == [3, 3, 3, 3]
    assert sorted(ended) == [0, 1, 2, 3], "searches that are cut short are closed"


def test_a_request_that_costs_more_than_is_left_ends_the_search(clips: Tensor) -> None:
    session = open_session(clips[:2], budget=6)

    def search(clip: ClipView) -> Search:
        yield Pixels(clip.pixels.repeat(2 + clip.row, 1, 1, 1, 1))
        yield Pixels(clip.pixels.repeat(3, 1, 1, 1, 1))  # 3 of 3 queries, or of 2
        raise AssertionError("neither clip has a query left")

    assert asked_by(session, search) == [[0, 0, 1, 1, 1], [0, 0, 0]]
    assert session.queries.tolist() == [6, 4]
    assert session.finished.all()


def test_finished_and_skipped_clips_are_left_alone(clips: Tensor) -> None:
    clips[2] = 0.1  # of class 1
    session = open_session(clips, goal=None)
    session.finish(torch.tensor([0]))
    started: list[int] = []

    def search(clip: ClipView) -> Search:
        started.append(clip.row)
        yield clip.zeros()

    assert asked_by(session, search) == [[1, 2, 3]]
    assert started == [1, 2, 3]
    assert session.finished.all()
    assert asked_by(session, search) == []
    assert session.queries.tolist() == [1, 2, 2, 2]


def test_a_clip_finished_between_two_batches_is_not_asked_about_again(clips: Tensor) -> None:
    session = open_session(clips)
    batches = []
    for rows in run_searches(session, lambda clip: steps(clip, 3, [])):
        batches.append(rows.tolist())
        session.finish(torch.tensor([len(batches)]))
    assert batches == [[0, 1, 2, 3], [0, 2, 3], [0, 3]]


def test_an_error_of_a_search_passes_on(clips: Tensor) -> None:
    session = open_session(clips)

    def search(clip: ClipView) -> Search:
        yield clip.zeros()
        raise KeyError(clip.row)

    with pytest.raises(KeyError, match="0"):
        asked_by(session, search)
    assert session.queries.tolist() == [2, 2, 2, 2]


def test_a_map_of_another_shape_is_an_error(clips: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected \(2, 2, 2\) tubelets"):
        asked_by(open_session(clips), lambda clip: iter([torch.zeros(1, 2, 3)]))  # type: ignore[arg-type,return-value]


@pytest.mark.thorough
@given(
    sizes=st.lists(st.lists(st.integers(1, 40), max_size=4), min_size=1, max_size=6),
    probe=st.booleans(),
)
def test_candidates_are_bounded_and_made_when_they_are_asked_about(sizes: list[list[int]], probe: bool) -> None:
    """Whatever is asked, no more than a batch of candidates and one more request wait at a time."""
    session = open_session(grey_clips(len(sizes)), budget=200)
    most = CANDIDATES_AT_ONCE + max((size for some in sizes for size in some), default=0)
    waiting = 0

    class Noted(Pixels):
        def answer(self, session: Session, batch: Mapping[int, Request]) -> dict[int, Response]:
            nonlocal waiting
            waiting -= sum(request.cost for request in batch.values())
            return super().answer(session, batch)

    def search(clip: ClipView) -> Search:
        nonlocal waiting
        for size in sizes[clip.row]:
            waiting += size
            assert waiting <= most
            response = yield Noted(clip.pixels.repeat(size, 1, 1, 1, 1), probe)
            assert response.margin.shape == (size,)

    batches = asked_by(session, search)
    assert all(0 < len(rows) <= CANDIDATES_AT_ONCE for rows in batches)
    assert session.queries.tolist() == [1 + sum(some) for some in sizes]


def test_a_single_request_may_be_larger_than_a_batch(clips: Tensor) -> None:
    size = CANDIDATES_AT_ONCE + 1
    session = open_session(clips[:2], budget=size + 1)

    def search(clip: ClipView) -> Search:
        response = yield Pixels(clip.pixels.repeat(size, 1, 1, 1, 1))
        assert response.margin.shape == (size,)

    assert asked_by(session, search) == [[0] * size, [1] * size]


@dataclasses.dataclass(frozen=True, eq=False)
class Brighten(Request):
    """A request of one's own: how bright the clip may become, at most two clips a batch."""

    amounts: tuple[float, ...]
    at_once = 2

    @property
    def cost(self) -> int:
        return len(self.amounts)

    @property
    def kind(self) -> Hashable:
        return type(self), len(self.amounts)

    def answer(self, session: Session, batch: Mapping[int, Request]) -> dict[int, Response]:
        answers = {}
        for row, request in batch.items():
            assert isinstance(request, Brighten)
            assert request.kind == self.kind
            rows = torch.full((request.cost,), row)
            amounts = torch.tensor(request.amounts).view(-1, 1, 1, 1, 1)
            answers[row] = session.query_clips(session.renderer.clips[rows] + amounts, rows)
        return answers


def test_a_request_of_one_s_own(clips: Tensor) -> None:
    session = open_session(clips)

    def search(clip: ClipView) -> Search:
        amounts = (-0.2, -0.1) if clip.row == 1 else (-0.2,)
        response = yield Brighten(amounts)
        assert response.success.tolist() == [float(clip.pixels.mean()) + amount < 0.41 for amount in amounts]

    assert asked_by(session, search) == [[0, 2], [3], [1, 1]]
    assert session.queries.tolist() == [2, 3, 2, 2]
    assert session.fooled.tolist() == [True, True, False, False]

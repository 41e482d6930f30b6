"""The one scheduler: the searches of many clips go in step, and what they ask goes out in batches.

A search works on one clip, as in a textbook: a generator that yields what it wants to know and is
sent the victim's response. The scheduler runs one search for each clip of a session. In each round
it collects a request from each of them and answers all requests of one kind together.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.queries.clip import ClipView
from vidmarl.queries.session import Response, Session

CANDIDATES_AT_ONCE = 64
"""Candidate clips that are held and asked about at once; bounds the memory."""


class Request(ABC):
    """What a search wants to know. Requests that share a `kind` are answered together."""

    at_once: int | None = None
    """The cost of a batch is at most this, unless a single request costs more; None: no bound."""

    @property
    def cost(self) -> int:
        """Queries that answering it takes. A search that asks for more than it has left ends."""
        return 1

    @property
    def kind(self) -> Hashable:
        """Only requests of equal kind share a batch."""
        return type(self)

    @abstractmethod
    def answer(self, session: Session, batch: Mapping[int, Request]) -> dict[int, Response]:
        """Answers a batch of requests of this kind.

        Args:
            session: the attack on a batch of clips.
            batch: by row of the session; this request is one of them.

        Returns:
            A response on the CPU for each row.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Strength(Request):
    """Asks about one strength map; a search may yield the bare map in its place.

    Attributes:
        values: float[gt gh gw], or a map of search cells.
    """

    values: Float[Tensor, "t y x"]

    def answer(self, session: Session, batch: Mapping[int, Request]) -> dict[int, Response]:
        maps = [request.values[None] for request in batch.values() if isinstance(request, Strength)]
        rows = torch.tensor(list(batch), device=session.renderer.clips.device)
        strength = torch.cat([session.renderer.upsample(values) for values in maps])
        response = session.query(strength.to(rows.device), rows).cpu()
        return {row: response[i] for i, row in enumerate(batch)}


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels(Request):
    """Asks about candidates made by the search itself, a query each.

    Attributes:
        candidates: float[n 3 t h w] in [0, 1].
        probe: whether they are asked as they are, not rounded to 8 bits. A probe is never a
            success.
    """

    candidates: Float[Tensor, "n 3 t h w"]
    probe: bool = False
    at_once = CANDIDATES_AT_ONCE

    @property
    def cost(self) -> int:
        return len(self.candidates)

    @property
    def kind(self) -> Hashable:
        return type(self), self.probe

    def answer(self, session: Session, batch: Mapping[int, Request]) -> dict[int, Response]:
        parts = {row: r.candidates for row, r in batch.items() if isinstance(r, Pixels)}
        candidates = torch.cat(list(parts.values()))
        rows = torch.tensor([row for row, part in parts.items() for _ in part])
        ask = session.probe_clips if self.probe else session.query_clips
        response = ask(candidates, rows.to(candidates.device)).cpu()
        return {row: response[rows == row] for row in parts}


Search = Generator[Tensor | Request, Response, None]
"""A search on one clip: yields a strength map or another `Request`, is sent the `Response`, and
ends when it has nothing more to ask.

About one strength map the response is a scalar. It is on the CPU, so that the search's `if`s do not
wait for a GPU: one transfer a round serves all clips.
"""


def run_searches(session: Session, search: Callable[[ClipView], Search]) -> Iterator[Tensor]:
    """Runs one search for each active clip, in step.

    A search is resumed only while its clip is active, and only when its next request is about to
    join a batch, so that few candidates exist at a time. The clip of a search that ends is
    finished.

    Args:
        session: the attack on a batch of clips.
        search: makes the search of a clip.

    Yields:
        The rows just asked, int64[n], once a batch. A row stands there once for each query.
    """
    searches = {row: search(ClipView(session, row)) for row in session.rows.tolist()}
    responses: dict[int, Response | None] = dict.fromkeys(searches)
    while searches:
        active = session.active.tolist()
        batches: dict[Hashable, dict[int, Request]] = {}
        for row in list(searches):
            request = _advance(searches[row], responses.pop(row)) if active[row] else None
            if request is None or request.cost > session.query_budget.left[row]:
                session.finish(torch.tensor([row]))
                del searches[row]
                continue
            batch = batches.setdefault(request.kind, {})
            if batch and not _fits(request, batch):
                responses |= request.answer(session, batch)
                yield _asked(batch)
                batch.clear()
            batch[row] = request
        for batch in batches.values():
            responses |= next(iter(batch.values())).answer(session, batch)
            yield _asked(batch)


def _advance(search: Search, response: Response | None) -> Request | None:
    """The next request of a search; None where it has ended."""
    try:
        request = next(search) if response is None else search.send(response)
    except StopIteration:
        return None
    return Strength(request) if isinstance(request, Tensor) else request


def _fits(request: Request, batch: Mapping[int, Request]) -> bool:
    """Whether a batch has room for one more request."""
    cost = request.cost + sum(other.cost for other in batch.values())
    return request.at_once is None or cost <= request.at_once


def _asked(batch: Mapping[int, Request]) -> Tensor:
    return torch.tensor([row for row, request in batch.items() for _ in range(request.cost)])

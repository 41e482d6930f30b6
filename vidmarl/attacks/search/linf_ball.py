"""Attacks on pixels inside an Linf ball, where most earlier work on video lives: the bounded track.

They share the ball, the stop at the first success, and the order of asking; each attack is a file
of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.attacks.base import Attack
from vidmarl.distortions import as_distortion
from vidmarl.distortions.sign_noise import SignNoise, whole_levels
from vidmarl.queries.session import Response, Session

TOGETHER = 64
"""Candidates that are asked about at once; bounds the memory."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """What a search wants to know: the victim's answers about some candidates, a query each.

    Attributes:
        candidates: float[n 3 t h w] in [0, 1].
        probe: whether they are asked as they are, not rounded to 8 bits; a probe is never a
            success.
    """

    candidates: Float[Tensor, "n 3 t h w"]
    probe: bool = False


PixelSearch = Generator[Ask, Response, None]
"""A search on one clip: yields an `Ask`, is sent the `Response` about its `n` candidates, ends when
done."""


class BallAttack(Attack):
    """An attack on pixels in an Linf ball; it stops at the first success.

    Args:
        distortion: `SignNoise` or `SignBands`, whose epsilon is the ball's radius; the pattern is
            of no use here. A failure has the norm of a corner of the ball.
        **common: see `Attack`. The grid and the coherence only shape the strength map of the
            result.

    Attributes:
        epsilon: the radius that 8 bits leave of it: 12/255 for 12.75/255.

    Raises:
        TypeError: the distortion is another one: these attacks choose the pixels by themselves.
    """

    def __init__(self, distortion: SignNoise | str | dict[str, Any] = "sign_noise", **common: Any) -> None:
        made = as_distortion(distortion)
        if not isinstance(made, SignNoise):
            raise TypeError(
                f"{type(self).__name__} chooses every pixel inside an Linf ball, so its distortion must be"
                f" 'sign_noise' or 'sign_bands', whose epsilon is the ball's radius; got {type(made).__name__}."
            )
        super().__init__(made, **common)
        self.epsilon = whole_levels(made.epsilon)

    def search_pixels(self, session: Session, row: int) -> PixelSearch:
        """The search on one clip.

        It runs on the device of the clips, and ends at the first success that it is told of. Its
        random numbers come from `session.generator(row)`, so that they do not depend on the rest of
        the batch.
        """
        raise NotImplementedError

    def project(self, candidates: Float[Tensor, "*n 3 t h w"], clip: Float[Tensor, "3 t h w"]) -> Tensor:
        """The nearest clips that lie in the ball around `clip` and in [0, 1]."""
        return candidates.clamp(clip - self.epsilon, clip + self.epsilon).clamp(0, 1)

    def run(self, session: Session) -> Iterator[Tensor]:
        """Runs the searches side by side; one that asks for more than is left of its budget ends.

        A search goes on only when its next candidates are about to be asked about, so no more of
        them exist at a time than one group holds.
        """
        searches = {row: self.search_pixels(session, row) for row in session.rows.tolist()}
        responses: dict[int, Response | None] = dict.fromkeys(searches)
        while searches:
            group: dict[int, Ask] = {}
            for row in list(searches):
                ask = _advance(searches[row], responses.pop(row))
                if ask is None or len(ask.candidates) > int(session.query_budget.left[row]):
                    session.finished[row] = True
                    del searches[row]
                    continue
                if group and not _fits(ask, group):
                    yield _ask(session, group, responses)
                    group = {}
                group[row] = ask
            if group:
                yield _ask(session, group, responses)


def _advance(search: PixelSearch, response: Response | None) -> Ask | None:
    try:
        return next(search) if response is None else search.send(response)
    except StopIteration:
        return None


def _fits(ask: Ask, group: dict[int, Ask]) -> bool:
    """Whether an ask can go to the victim together with those of a group: of the same kind, and not
    too many."""
    size = sum(len(other.candidates) for other in group.values())
    return all(ask.probe is other.probe for other in group.values()) and size + len(ask.candidates) <= TOGETHER


def _ask(session: Session, group: dict[int, Ask], responses: dict[int, Response | None]) -> Tensor:
    """Asks about all candidates of a group, and hands each clip its response; returns the rows
    asked."""
    probe = next(iter(group.values())).probe
    candidates = torch.cat([ask.candidates for ask in group.values()])
    rows = torch.tensor([row for row, ask in group.items() for _ in ask.candidates], device=candidates.device)
    response = (session.probe_clips if probe else session.query_clips)(candidates, rows)
    responses |= {row: response[(rows == row).nonzero().flatten()] for row in group}
    return rows

"""Attacks on pixels inside an Linf ball, where most earlier work on video lives: the bounded track.

They share the ball, the stop at the first success, and the order of asking; each attack is a file of its own.
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
from vidmarl.session import Reply, Session

TOGETHER = 64
"""Candidates that are made and asked about at once; bounds the memory."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """What a search wants to know: the victim's answers about some candidates, a query each.

    Attributes:
        candidates: float[n 3 t h w] in [0, 1].
        probe: whether they are asked as they are, not rounded to 8 bits; a probe is never a success.
    """

    candidates: Float[Tensor, "n 3 t h w"]
    probe: bool = False


PixelSearch = Generator[Ask, Reply, None]
"""A search on one clip: yields an `Ask`, is sent the `Reply` about its `n` candidates, ends when done."""


class BallAttack(Attack):
    """An attack on pixels in an Linf ball; it stops at the first success.

    Args:
        distortion: `SignNoise`, which gives the ball its radius, and a failure its norm: that of a corner of the ball.
        **common: see `Attack`. The grid and the coherence only shape the strength map of the result.

    Attributes:
        epsilon: the radius that 8 bits leave of it: 12/255 for 12.75/255.

    Raises:
        TypeError: the distortion is another one: these attacks choose the pixels by themselves.
    """

    def __init__(self, distortion: SignNoise | str | dict[str, Any] = "sign_noise", **common: Any) -> None:
        made = as_distortion(distortion)
        if not isinstance(made, SignNoise):
            raise TypeError(
                f"{type(self).__name__} chooses every pixel inside an Linf ball, so its distortion must be 'sign_noise',"
                f" whose epsilon is the ball's radius; got {type(made).__name__}."
            )
        super().__init__(made, **common)
        self.epsilon = whole_levels(made.epsilon)

    def search_pixels(self, session: Session, row: int) -> PixelSearch:
        """The search on one clip. It runs where the clips are; its random numbers come from `session.generator(row)`."""
        raise NotImplementedError

    def project(self, candidates: Float[Tensor, "n 3 t h w"], clip: Float[Tensor, "3 t h w"]) -> Tensor:
        """The nearest clips that lie in the ball around `clip` and in [0, 1]."""
        return candidates.clamp(clip - self.epsilon, clip + self.epsilon).clamp(0, 1)

    def run(self, session: Session) -> Iterator[Tensor]:
        """Runs the searches side by side; one that asks for more than is left of its budget ends."""
        searches = {row: self.search_pixels(session, row) for row in session.rows.tolist()}
        asks = {row: _advance(search, None) for row, search in searches.items()}
        while asks:
            for row, ask in list(asks.items()):
                if ask is None or len(ask.candidates) > int(session.ledger.left[row]):
                    session.finished[row] = True
                    del asks[row]
            for group in _groups(asks):
                rows = torch.tensor([row for row in group for _ in asks[row].candidates])
                rows = rows.to(session.canvas.clips.device)
                candidates = torch.cat([asks[row].candidates for row in group])
                ask_about = session.probe_clips if asks[group[0]].probe else session.query_clips
                reply = ask_about(candidates, rows)
                for row in group:
                    asks[row] = _advance(searches[row], reply[(rows == row).nonzero().flatten()])
                yield rows


def _advance(search: PixelSearch, reply: Reply | None) -> Any:
    try:
        return next(search) if reply is None else search.send(reply)
    except StopIteration:
        return None


def _groups(asks: dict[int, Any]) -> Iterator[list[int]]:
    """The clips whose asks go to the victim together: of one kind, and not too many candidates."""
    for probe in (True, False):
        group: list[int] = []
        size = 0
        for row in [row for row, ask in asks.items() if ask.probe is probe]:
            if group and size + len(asks[row].candidates) > TOGETHER:
                yield group
                group, size = [], 0
            group.append(row)
            size += len(asks[row].candidates)
        if group:
            yield group

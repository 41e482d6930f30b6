"""Where an attack stands, for whoever watches it."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl.queries.session import Session, turns


@dataclasses.dataclass(frozen=True, eq=False)
class Progress:
    """Where an attack stands after a batch of queries.

    It tells of all clips that the attack has begun, numbered as they were given. As text it is
    "fooled 3 of 8, median L2 5.2". The tensors are copies, on the CPU.

    Attributes:
        rows: int64[n], the clips just asked about. One that was asked about several times stands
            there as often.
        margin: float32[n], the margin of each of these queries, nats: below 0 the goal holds; NaN
            of a probe (see `Session.probe_clips`).
        queries: int64[b], spent on each clip, the clean prediction included.
        skipped: bool[b], the goal held before the attack.
        fooled: bool[b], a success has been seen.
        best_margin: float32[b], the margin of the best candidate: the smallest success, or, before
            one, what came nearest to the goal.
        best_l2: float32[b], the L2 norm of the best candidate.
        session: the books of the clips that are attacked side by side at the moment, which have the
            last numbers; None when they are done. They are no copies: what is wanted of them is
            read before the attack goes on.
    """

    rows: Int64[Tensor, " n"]
    margin: Float[Tensor, " n"]
    queries: Int64[Tensor, " b"]
    skipped: Bool[Tensor, " b"]
    fooled: Bool[Tensor, " b"]
    best_margin: Float[Tensor, " b"]
    best_l2: Float[Tensor, " b"]
    session: Session | None = None

    @classmethod
    def of(cls, session: Session, rows: Int64[Tensor, " n"], before: Progress | None = None) -> Progress:
        """Where a session stands.

        Args:
            session: the attack on a batch of clips.
            rows: of the session, those just asked about.
            before: where the batches before it have ended.
        """
        rows = rows.cpu()
        last, column = session.last
        if not torch.equal(rows, last):  # those of several batches
            column = (session.queries - torch.bincount(rows, minlength=len(session)))[rows] + turns(rows)
        state = {
            "queries": session.queries,
            "skipped": session.skipped,
            "fooled": session.fooled,
            "best_margin": session.best_margin,
            "best_l2": session.best_l2,
        }
        state = {name: values.to("cpu", copy=True) for name, values in state.items()}
        if before is not None:
            state = {name: torch.cat([getattr(before, name), values]) for name, values in state.items()}
        margins = session.history["margin"]
        margin = margins[rows.to(margins.device), column.to(margins.device)].cpu()
        return cls(rows + len(state["queries"]) - len(session), margin, **state, session=session)

    def __str__(self) -> str:
        text = f"fooled {int(self.fooled.sum())} of {int((~self.skipped).sum())}"
        return f"{text}, median L2 {self.best_l2[self.fooled].quantile(0.5):.3g}" if self.fooled.any() else text

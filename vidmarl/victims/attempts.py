"""What asking about clips costs where one answer may take several attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


class Attempts:
    """The queries of clips that are asked together: one each, and one more for every attempt that
    may have reached the model and has brought no answer.

    The first query of a clip is paid for; further ones come out of the account that it belongs to.
    A clip whose account is empty is given up: it gets no answer.

    Args:
        accounts: int64[n], the account of each clip; several clips may share one.
        spare: int64[accounts], what is in each, beside the first queries; None: no end of it.
        counted: is told of each attempt, how many clips were in it.

    Attributes:
        spent: int64[n], the queries of each clip.
        given_up: bool[n].
    """

    def __init__(
        self,
        accounts: Int64[Tensor, " n"],
        spare: Int64[Tensor, " accounts"] | None,
        counted: Callable[[int], None],
    ) -> None:
        self.spent: Int64[Tensor, " n"] = torch.zeros_like(accounts)
        self.given_up: Bool[Tensor, " n"] = torch.zeros_like(accounts, dtype=torch.bool)
        self._accounts = accounts
        self._spare = spare
        self._counted = counted

    def __len__(self) -> int:
        return len(self.spent)

    def part(self, rows: slice) -> Attempts:
        """Those of some of the clips, in the same books."""
        part = Attempts(self._accounts[rows], self._spare, self._counted)
        part.spent, part.given_up = self.spent[rows], self.given_up[rows]  # views of the same memory
        return part

    def affordable(self, clips: Sequence[int]) -> list[int]:
        """Those of some clips that can pay for one more attempt; the others are given up."""
        if self._spare is None:
            return list(clips)
        left, can = self._spare.clone(), []
        for clip in clips:
            account = int(self._accounts[clip])
            if self.spent[clip] == 0:
                can.append(clip)
            elif left[account] > 0:
                left[account] -= 1
                can.append(clip)
            else:
                self.given_up[clip] = True
        return can

    def count(self, clips: Sequence[int]) -> None:
        """An attempt about some clips may have reached the model."""
        self._pay(clips)
        self._counted(len(clips))

    def replay(self, spent: Int64[Tensor, " n"], given_up: Bool[Tensor, " n"]) -> None:
        """What an earlier run has paid for the same clips, and no model is asked for now."""
        for clip, queries in enumerate(spent.tolist()):
            for _ in range(queries):
                self._pay([clip])
        self.given_up[:] = given_up

    def _pay(self, clips: Sequence[int]) -> None:
        for clip in clips:
            if self._spare is not None and self.spent[clip] > 0:
                self._spare[self._accounts[clip]] -= 1
            self.spent[clip] += 1

"""The query budget of an attack: an account per clip."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.errors import BudgetError
from vidmarl.victims.attempts import Attempts
from vidmarl.victims.victim import Victim


class QueryBudget:
    """The queries of one attack: an account per clip.

    Args:
        victim: who is asked.
        clips: number of clips under attack.
        budget: queries allowed for each of them, at least 1.

    Attributes:
        count: int64[clips], queries spent: every clip that the model has seen, and every attempt
            that may have reached it without an answer.
        at: int64[n], of each candidate of the last batch, which query of its clip, from 1 on, has
            brought the answer, or was the last one in vain.
    """

    def __init__(self, victim: Victim, clips: int, budget: int) -> None:
        if budget < 1:
            raise ValueError(
                f"Opening a budget of {budget} queries per clip: at least 1 is needed, for the clean prediction."
            )
        self.victim = victim
        self.budget = budget
        self.count = torch.zeros(clips, dtype=torch.int64)
        self.at = torch.zeros(0, dtype=torch.int64)

    @property
    def left(self) -> Int64[Tensor, " clips"]:
        """Queries left to each clip."""
        return self.budget - self.count

    def query(self, candidates: Float[Tensor, "n 3 t h w"], rows: Int64[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """Asks about one candidate for each of `rows`; a row may stand there several times, and
        pays each time.

        A model at the end of a line that fails may have to be asked more than once. Every attempt
        costs a query, and what a row has not left is not attempted.

        Returns:
            Log-probabilities; NaN for a candidate without an answer, whose row has nothing left.

        Raises:
            BudgetError: a row has too little left; nothing was asked.
            VictimError: see `Victim.__call__`; the queries count as spent.
        """
        rows = rows.cpu()
        cost = torch.bincount(rows, minlength=len(self.count))
        if (cost > self.left).any():
            short = (cost > self.left).nonzero().flatten().tolist()
            raise BudgetError(f"Clips {short} were to be queried with {self.left[short].tolist()} queries left.")
        before = self.count.clone()
        attempts = Attempts(rows, self.left - cost, self.victim.count)
        self.count += cost
        try:
            return self.victim.ask(candidates, attempts)
        finally:
            spent = attempts.spent.clamp_min(1)
            self.count = before.index_add(0, rows, spent)
            same = rows[:, None] == rows[None, :]
            self.at = before[rows] + (same.tril() * spent).sum(1)

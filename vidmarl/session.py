"""A session: one attack on one batch of clips, from the clean prediction to the last query.

The session keeps the books that every attack needs and none may keep for itself: the ledger of queries, the goal, the
best perturbation found, the history. Every candidate is rendered, clamped and rounded to 8 bits before the victim
sees it, so a success is always the success of the clip as it is returned, seen by a query that was counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl.goals import Goal, Misclassify
from vidmarl.tubelets import Canvas, to_8bit
from vidmarl.victim import Victim


@dataclasses.dataclass(frozen=True)
class Reply:
    """What one query says, for `n` candidates, or for one (scalars) inside a `Search`.

    Attributes:
        margin: float[n], nats; below 0 the goal holds (see `vidmarl.goals`).
        success: bool[n], whether the goal holds.
        l2: float[n], norm of candidate minus clip in [0, 1] pixels.
        log_probs: float[n k].
    """

    margin: Tensor
    success: Tensor
    l2: Tensor
    log_probs: Tensor

    def __getitem__(self, index: int | Tensor) -> Reply:
        return Reply(self.margin[index], self.success[index], self.l2[index], self.log_probs[index])


Search = Generator[Tensor, Reply, None]
"""A search on one clip: yields strength maps float[t' gh gw], is sent a scalar `Reply` for each, ends when done."""


class Session:
    """The books of one attack on one batch.

    Opening it asks for the clean predictions: one counted query per clip.

    Args:
        victim: who is attacked.
        canvas: the clips, and how they are distorted.
        goal: what is wanted; None: anything but the victim's own clean prediction.
        budget: queries per clip, at least 1, the clean prediction included.
        seed: of the attack's own randomness (`rand`), which also depends on each clip's content.

    Attributes:
        goal: the goal, filled in from the clean prediction where it was None.
        clean: float[b k], log-probabilities of the clean clips.
        skipped: bool[b], the goal held before the attack: nothing to attack.
        finished: bool[b], the attack has declared the clip done (`finish`).
        fooled: bool[b], a success has been seen.
        best: float[b 3 t h w], the smallest success seen; before one, the candidate of the lowest margin.
        best_strength: float[b t' gh gw], its strength map.
        best_l2: float[b], its L2 norm; before a success, that of the candidate of the lowest margin.
        best_margin: float[b], its margin.
        history: of each query, float[b budget] with NaN beyond the last: "score" (log-probability of the goal's
            class), "margin", "l2". Column 0 is the clean prediction.
    """

    def __init__(
        self, victim: Victim, canvas: Canvas, goal: Goal | None = None, budget: int = 200, seed: int = 0
    ) -> None:
        b = len(canvas.clips)
        self.victim = victim
        self.canvas = canvas
        self.ledger = victim.ledger(b, budget)
        self.budget = budget
        self._seed = seed
        rows = torch.arange(b, device=canvas.clips.device)
        self.clean = self.ledger.query(canvas.clips, rows)
        self._own_goal = goal is None
        self.goal = Misclassify(self.clean.argmax(1).cpu()) if goal is None else goal
        self.goal.validate(b, self.clean.shape[1])
        new = canvas.clips.new_zeros
        self.skipped = new(b, dtype=torch.bool)
        self.finished = new(b, dtype=torch.bool)
        self.fooled = new(b, dtype=torch.bool)
        self.best = canvas.clips.clone()
        self.best_strength = canvas.zeros()
        self.best_l2 = new(b)
        self.best_margin = new(b)
        self.history = {key: new(b, budget) for key in ("score", "margin", "l2")}
        self._generators: list[torch.Generator] = [torch.Generator() for _ in range(b)]
        self._begin(rows)

    def __len__(self) -> int:
        return len(self.canvas.clips)

    def _begin(self, rows: Tensor) -> None:
        """Sets the books of `rows` to the state after their clean prediction."""
        own_class = self.goal.classes.to(rows.device)[rows]
        margin = self.goal.margin(self.clean[rows], rows)
        self.skipped[rows] = margin < 0
        self.finished[rows] = margin < 0
        self.fooled[rows] = False
        self.best[rows] = self.canvas.clips[rows]
        self.best_strength[rows] = 0
        self.best_l2[rows] = 0
        self.best_margin[rows] = margin
        for values in self.history.values():
            values[rows] = torch.nan
        self.history["score"][rows, 0] = self.clean[rows].gather(1, own_class[:, None]).squeeze(1)
        self.history["margin"][rows, 0] = margin
        self.history["l2"][rows, 0] = 0
        for row in rows.tolist():
            self._generators[row].manual_seed(self.canvas.seeds[row] ^ (self._seed * 0x9E3779B1 & 0xFFFFFFFF))

    def renew(self, rows: Int64[Tensor, " n"], clips: Float[Tensor, "n 3 t h w"], seed: int) -> None:
        """Puts fresh clips in the place of `rows`, with a fresh budget: `n` queries. Only for sessions without labels."""
        if not self._own_goal:
            raise ValueError("Renewing clips: the goal was given for the old clips; open a new session instead.")
        self.canvas.replace(rows, clips, seed)
        self.ledger.reopen(rows)
        self.clean[rows] = self.ledger.query(self.canvas.clips[rows], rows)
        self.goal.classes[rows.cpu()] = self.clean[rows].argmax(1).cpu()
        self._begin(rows)

    @property
    def queries(self) -> Int64[Tensor, " b"]:
        """Queries spent on each clip."""
        return self.ledger.count

    @property
    def active(self) -> Bool[Tensor, " b"]:
        """Clips that may still be queried: neither skipped nor finished, and with budget left."""
        return ~self.finished & (self.ledger.left > 0).to(self.finished.device)

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Indices of the active clips."""
        return self.active.nonzero().flatten()

    def finish(self, rows: Int64[Tensor, " n"]) -> None:
        """Declares clips done: nothing more is asked about them."""
        self.finished[rows] = True

    def full_l2(self) -> Float[Tensor, " b"]:
        """Norm of the full distortion (strength 1 everywhere), the size that a failure counts with. Costs no query."""
        full = self.canvas.render(torch.ones_like(self.best_strength))
        return (full - self.canvas.clips).flatten(1).norm(dim=1)

    def rand(self, rows: Int64[Tensor, " n"], *shape: int) -> Float[Tensor, "n ..."]:
        """Uniform numbers in [0, 1) from each clip's own generator: independent of the rest of the batch."""
        numbers = [torch.rand(*shape, generator=self._generators[row]) for row in rows.tolist()]
        return torch.stack(numbers).to(self.canvas.clips.device)

    def query(self, strength: Float[Tensor, "n t' gh gw"], rows: Int64[Tensor, " n"]) -> Reply:
        """Asks about the clips of `rows` with these strength maps: one query each."""
        return self.query_clips(self.canvas.render(strength, rows), rows, strength)

    def query_clips(
        self,
        candidates: Float[Tensor, "n 3 t h w"],
        rows: Int64[Tensor, " n"],
        strength: Float[Tensor, "n t' gh gw"] | None = None,
    ) -> Reply:
        """Asks about candidates made by the attack itself; they are clamped and rounded to 8 bits first.

        Args:
            candidates: float[n 3 t h w].
            rows: which clip each candidate belongs to. A clip may stand there several times.
            strength: the maps they come from; by default the root mean square of each tubelet's perturbation, as a
                fraction of the largest perturbation of a pixel in the candidate.
        """
        candidates = to_8bit(candidates)
        before = self.ledger.count[rows.cpu()].to(rows.device)
        log_probs = self.ledger.query(candidates, rows)
        delta = candidates - self.canvas.clips[rows]
        reply = Reply(
            margin=self.goal.margin(log_probs, rows),
            success=self.goal.success(log_probs, rows),
            l2=delta.flatten(1).norm(dim=1),
            log_probs=log_probs,
        )
        if strength is None:
            rms = self.canvas.grid.pool(delta.square()).mean(1).sqrt()
            strength = rms / delta.abs().flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
        score = log_probs.gather(1, self.goal.classes.to(rows.device)[rows][:, None]).squeeze(1)
        turn = _turns(rows)
        for this in range(int(turn.max()) + 1):  # a clip asked twice in one batch is booked twice, in order
            asked = (turn == this).nonzero().flatten()
            self._book(rows[asked], before[asked] + this, score[asked], reply[asked], candidates[asked], strength[asked])
        return reply

    def _book(
        self, rows: Tensor, column: Tensor, score: Tensor, reply: Reply, candidates: Tensor, strength: Tensor
    ) -> None:
        """Writes the history of one query of each of `rows` (no row twice) and keeps what is better than before."""
        self.history["score"][rows, column] = score
        self.history["margin"][rows, column] = reply.margin
        self.history["l2"][rows, column] = reply.l2
        fooled = self.fooled[rows]
        smaller = reply.success & (~fooled | (reply.l2 < self.best_l2[rows]))
        nearer = ~fooled & (reply.margin < self.best_margin[rows])
        better = smaller | nearer
        kept = rows[better]
        self.fooled[kept] = fooled[better] | reply.success[better]
        self.best[kept] = candidates[better]
        self.best_strength[kept] = strength[better]
        self.best_l2[kept] = reply.l2[better]
        self.best_margin[kept] = reply.margin[better]

    def drive(
        self, search: Callable[[int], Search], rows: Tensor | None = None, finish: bool = True
    ) -> Iterator[Int64[Tensor, " n"]]:
        """Runs one search per clip, in step: each round asks all of them at once, in one batch.

        Args:
            search: makes the search of a clip from its row.
            rows: the clips, default all active ones.
            finish: whether a clip whose search has ended is finished.

        Yields:
            The rows just asked, once a round (for progress bars).
        """
        rows = self.rows if rows is None else rows
        searches = {row: search(row) for row in rows.tolist()}
        proposals: dict[int, Tensor] = {}

        def advance(row: int, reply: Reply | None) -> None:
            try:
                proposals[row] = searches[row].send(reply) if reply is not None else next(searches[row])  # type: ignore[arg-type]
            except StopIteration:
                proposals.pop(row, None)
                if finish:
                    self.finished[row] = True

        for row in searches:
            advance(row, None)
        while live := [row for row in proposals if self.active[row]]:
            asked = torch.tensor(live, device=self.canvas.clips.device)
            reply = self.query(torch.stack([proposals[row] for row in live]), asked)
            for i, row in enumerate(live):
                advance(row, reply[i])
            yield asked


def _turns(rows: Tensor) -> Tensor:
    """For each entry, how many earlier entries name the same row."""
    same = rows[:, None] == rows[None, :]
    return same.tril(-1).sum(1)

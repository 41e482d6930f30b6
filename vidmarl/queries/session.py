"""A session: one attack on one batch of clips, from the clean prediction to the last query.

The session records what every attack needs and none may record for itself: the budget of queries,
the goal, the best perturbation found, the history. Every candidate is rendered, clamped
and rounded to 8 bits before the victim sees it, so a success is always the success of the clip as
it is returned, seen by a query that was counted.

The books hold wherever an exception or Ctrl-C ends the attack. A query is counted before the victim
is asked, and has NaN in the history until it is answered; what an answer changes is written as a
whole (`Session.settle`).
"""

from __future__ import annotations

import dataclasses
import zlib

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl.errors import VictimError
from vidmarl.perturbations.renderer import Renderer, to_8bit
from vidmarl.queries.budget import QueryBudget
from vidmarl.queries.goals import Goal, Misclassify
from vidmarl.victims.victim import Victim

PHASES = ("clean", "search", "agents", "fallback", "minimize", "refine")
"""What a query was asked for, by its number in the history: the clean prediction, a search without
learning, a set of tubelets that the agents build, or making a success smaller. Agents of earlier
versions had two more, which saved results tell by their numbers: full strength where nothing else
had fooled the clip, and changes that keep the size."""

FIRST_COLUMNS = 256
"""Queries that a history has room for at first; it grows with those that are asked."""


@dataclasses.dataclass(frozen=True)
class Response:
    """What one query says, for `n` candidates, or for one (scalars) inside a `Search`.

    Attributes:
        margin: float[n], nats; below 0 the goal holds (see `vidmarl.queries.goals`).
        success: bool[n], whether the goal holds.
        l2: float[n], norm of candidate minus clip in [0, 1] pixels.
        log_probs: float[n k].
    """

    margin: Tensor
    success: Tensor
    l2: Tensor
    log_probs: Tensor

    def __getitem__(self, index: int | Tensor) -> Response:
        return Response(self.margin[index], self.success[index], self.l2[index], self.log_probs[index])

    def cpu(self) -> Response:
        """The same on the CPU."""
        return Response(self.margin.cpu(), self.success.cpu(), self.l2.cpu(), self.log_probs.cpu())


class Session:
    """One attack on one batch of clips, and the record of it.

    Opening it asks for the clean predictions: one counted query per clip.

    Args:
        victim: who is attacked.
        renderer: the clips, and how they are distorted.
        goal: what is wanted; None: anything but the victim's own clean prediction.
        budget: queries per clip, at least 1, the clean prediction included.
        seed: of the attack's own randomness (`rand`), which also depends on each clip's content.

    Attributes:
        goal: the goal, filled in from the clean prediction where it was None.
        clean: float[b k], log-probabilities of the clean clips.
        skipped: bool[b], the goal held before the attack: nothing to attack.
        finished: bool[b], the attack has declared the clip done (`finish`).
        fooled: bool[b], a success has been seen.
        first_success: int64[b], the query of the first success, the clean prediction being query 1;
            0: none yet.
        best: float[b 3 t h w], the smallest success seen; before one, the candidate of the lowest
            margin.
        best_strength: float[b gt gh gw], its strength map.
        best_l2: float[b], its L2 norm; before a success, that of the candidate of the lowest
            margin.
        best_margin: float[b], its margin.
        best_prediction: int64[b], what the victim says of it.
        full_l2: float[b], norm of the full distortion (strength 1 everywhere), the size that a
            failure counts with.
        history: of each query, float[b q] with NaN beyond the last: "score" (log-probability of the
            goal's class), "margin", "l2" (both NaN for a probe, see `probe_clips`), and "phase", a
            number of `PHASES`. Column 0 is the clean prediction. All are NaN for an attempt that
            brought no answer.
        phase: int64[b], what the next query of each clip is asked for.
        last: of the last batch of queries, the rows and the columns in the history, int64[n] each.
    """

    def __init__(
        self, victim: Victim, renderer: Renderer, goal: Goal | None = None, budget: int = 200, seed: int = 0
    ) -> None:
        b = len(renderer.clips)
        self.victim = victim
        self.renderer = renderer
        self.query_budget = QueryBudget(victim, b, budget)
        self.budget = budget
        self.full_l2 = self._full_l2()  # before anything is asked: a distortion that fails costs no query
        self.clean = self._ask_clean()
        self.goal = Misclassify(self.clean.argmax(1).cpu()) if goal is None else goal
        self.goal.validate(b, self.clean.shape[1])
        new, rows = renderer.clips.new_zeros, torch.arange(b, device=renderer.clips.device)
        margin = self.margin(self.clean, rows)
        self.skipped = margin < 0
        self.finished = self.skipped.clone()
        self.fooled = new(b, dtype=torch.bool)
        self.first_success = new(b, dtype=torch.int64)
        self.best = renderer.clips.clone()
        self.best_strength = renderer.zeros()
        self.best_l2 = new(b)
        self.best_margin = margin.clone()
        self.best_prediction = self.clean.argmax(1)
        score = self.clean.gather(1, self.goal.classes.to(rows.device)[:, None])
        first = {"score": score, "margin": margin[:, None], "l2": new(b, 1), "phase": new(b, 1)}
        more = min(budget, FIRST_COLUMNS) - 1
        self.history = {key: F.pad(values, (0, more), value=torch.nan) for key, values in first.items()}
        self.phase = torch.full((b,), PHASES.index("search"))
        self._due: list[tuple[Tensor, Tensor | tuple[Tensor, Tensor], Tensor]] = []
        # hashed: the clip's own seed has already drawn the distortion's noise, and must not draw
        # the search too
        seeds = [zlib.crc32(f"search {its_seed} {seed}".encode()) for its_seed in renderer.seeds]
        self._generators = [torch.Generator().manual_seed(its_seed) for its_seed in seeds]

    def __len__(self) -> int:
        return len(self.renderer.clips)

    def _ask_clean(self) -> Tensor:
        """The clean predictions.

        Raises:
            VictimError: within the budget of a clip there was no answer.
        """
        rows = torch.arange(len(self))
        clean = self.query_budget.query(self.renderer.clips, rows)
        if len(silent := clean.isnan().any(1).nonzero().flatten()):
            raise VictimError(
                f"The victim {self.victim.name!r} gave no clean prediction of {len(silent)} clips within their budget"
                f" of {self.budget} queries: every attempt counts as one."
            )
        self.last = rows, torch.zeros_like(rows)
        return clean

    @property
    def queries(self) -> Int64[Tensor, " b"]:
        """Queries spent on each clip."""
        return self.query_budget.count

    @property
    def active(self) -> Bool[Tensor, " b"]:
        """Clips that may still be queried: neither skipped nor finished, and with budget left."""
        return ~self.finished & (self.query_budget.left > 0).to(self.finished.device)

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Indices of the active clips."""
        return self.active.nonzero().flatten()

    def margin(self, log_probs: Float[Tensor, "n k"], rows: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """How far each clip in `rows` is from its goal, in nats; below 0 the goal holds.

        Of a victim that says nothing but a class it is 1, or -1 where the goal holds.
        """
        margin = self.goal.margin(log_probs, rows)
        return margin.sign() if self.victim.decisions_only else margin

    def finish(self, rows: Int64[Tensor, " n"]) -> None:
        """Declares clips done: nothing more is asked about them."""
        self.finished[rows] = True

    def finish_after_success(self, queries: int) -> None:
        """Finishes the clips that have spent so many queries since their first success.

        Args:
            queries: at least 0; the first success itself is not counted.
        """
        spent = self.queries.to(self.first_success.device) - self.first_success
        self.finished |= (self.first_success > 0) & (spent >= queries)

    def _full_l2(self) -> Tensor:
        """The norm of the full distortion. Costs no query."""
        full, clips = self.renderer.render(self.renderer.zeros() + 1), self.renderer.clips
        return _distance(full, clips, torch.arange(len(clips), device=clips.device))

    def rand(self, rows: Int64[Tensor, " n"], *shape: int) -> Float[Tensor, "n ..."]:
        """Uniform numbers in [0, 1) from each clip's own generator: independent of the rest of the
        batch."""
        numbers = [torch.rand(*shape, generator=self.generator(row)) for row in rows.tolist()]
        return torch.stack(numbers).to(self.renderer.clips.device)

    def generator(self, row: int) -> torch.Generator:
        """A clip's own source of randomness, on the CPU."""
        return self._generators[row]

    def query(self, strength: Float[Tensor, "n gt gh gw"], rows: Int64[Tensor, " n"]) -> Response:
        """Asks about the clips of `rows` with these strength maps, or maps of cells: one query
        each."""
        strength = self.renderer.upsample(strength)
        return self._ask(self.renderer.render(strength, rows), rows, strength)

    def query_clips(
        self,
        candidates: Float[Tensor, "n 3 t h w"],
        rows: Int64[Tensor, " n"],
        strength: Float[Tensor, "n gt gh gw"] | None = None,
    ) -> Response:
        """Asks about candidates made by the attack itself; they are clamped and rounded to 8 bits
        first.

        Args:
            candidates: float[n 3 t h w].
            rows: which clip each candidate belongs to. A clip may stand there several times.
            strength: the maps they come from; by default the root mean square of each tubelet's
                perturbation, as a fraction of the largest perturbation of a pixel in the candidate.
        """
        candidates = to_8bit(candidates)
        if strength is None:
            delta = candidates - self.renderer.clips[rows]
            rms = self.renderer.grid.pool(delta.square()).mean(1).sqrt()
            strength = rms / delta.abs().flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
        return self._ask(candidates, rows, strength)

    def probe_clips(self, candidates: Float[Tensor, "n 3 t h w"], rows: Int64[Tensor, " n"]) -> Response:
        """Asks about candidates as they are, clamped to [0, 1] but not rounded: for estimates of
        gradients.

        Steps of 1e-3 vanish in 8 bits. What is asked here could not be returned as a file, so it
        never counts as a success: the query is counted, and the history holds its score, and NaN
        for its margin and its norm.

        Args:
            candidates: float[n 3 t h w].
            rows: which clip each candidate belongs to. A clip may stand there several times.
        """
        candidates = candidates.clamp(0, 1)
        response, column, score = self._answer(candidates, rows)
        self._due = [(self.history["score"], (rows, column), score), self._acting(rows, column, score)]
        self.settle()
        return response

    def _answer(self, candidates: Tensor, rows: Tensor) -> tuple[Response, Tensor, Tensor]:
        """Asks the victim: its response, the column of each query in the history, and the score of
        the goal's class."""
        on_cpu = rows.cpu()
        self._make_room(int((self.query_budget.count[on_cpu] + turns(on_cpu)).max()) + 1)
        log_probs = self.query_budget.query(candidates, on_cpu)
        column = self.query_budget.at - 1
        self.last = on_cpu, column
        self._make_room(int(column.max()) + 1)  # more, where attempts have failed
        silent = log_probs.isnan().any(1)
        log_probs = torch.where(silent[:, None], self.clean[rows], log_probs)  # nothing new, and the budget is spent
        response = Response(
            margin=self.margin(log_probs, rows),
            success=self.goal.success(log_probs, rows),
            l2=_distance(candidates, self.renderer.clips, rows),
            log_probs=log_probs,
        )
        score = log_probs.gather(1, self.goal.classes.to(rows.device)[rows][:, None]).squeeze(1)
        return response, column.to(rows.device), score.masked_fill(silent, torch.nan)

    def _acting(self, rows: Tensor, column: Tensor, score: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Who has asked, as an entry of the history."""
        acting = self.phase[rows.cpu()].to(score)
        return self.history["phase"], (rows, column), acting.masked_fill(score.isnan(), torch.nan)

    def _make_room(self, columns: int) -> None:
        """Lets the history have so many columns, within the budget."""
        there = self.history["score"].shape[1]
        if columns > there:
            more = min(max(columns, 2 * there), self.budget) - there
            self.history = {key: F.pad(values, (0, more), value=torch.nan) for key, values in self.history.items()}

    def _ask(self, candidates: Tensor, rows: Tensor, strength: Tensor) -> Response:
        """Asks about 8-bit candidates and books the answers."""
        response, column, score = self._answer(candidates, rows)
        turn = turns(rows.cpu())
        if not turn.any():
            self._book(rows, column, score, response, candidates, strength)
            return response
        for this in range(int(turn.max()) + 1):  # a clip asked twice in one batch is booked twice, in order
            at = (turn == this).nonzero().flatten().to(rows.device)
            self._book(rows[at], column[at], score[at], response[at], candidates[at], strength[at])
        return response

    def _book(
        self, rows: Tensor, column: Tensor, score: Tensor, response: Response, candidates: Tensor, strength: Tensor
    ) -> None:
        """Writes the history of one query of each of `rows` (no row twice) and keeps what is better
        than before."""
        fooled = self.fooled[rows]
        smaller = response.success & (~fooled | (response.l2 <= self.best_l2[rows]))
        nearer = ~fooled & (response.margin < self.best_margin[rows])
        first = response.success & ~fooled
        better = (smaller | nearer).nonzero().flatten()
        kept = rows[better]
        self._due = [
            (self.history["score"], (rows, column), score),
            (self.history["margin"], (rows, column), response.margin.where(~score.isnan(), torch.nan)),
            (self.history["l2"], (rows, column), response.l2.where(~score.isnan(), torch.nan)),
            self._acting(rows, column, score),
            (self.first_success, rows[first], column[first] + 1),
            (self.fooled, kept, fooled[better] | response.success[better]),
            (self.best, kept, candidates[better]),
            (self.best_strength, kept, strength[better]),
            (self.best_l2, kept, response.l2[better]),
            (self.best_margin, kept, response.margin[better]),
            (self.best_prediction, kept, response.log_probs[better].argmax(1)),
        ]
        self.settle()

    def settle(self) -> None:
        """Writes what the last answer changes. Ctrl-C may come in the middle of it: then it is done
        again, which changes nothing that was written."""
        for values, at, new in self._due:
            values[at] = new
        self._due = []
        self._make_room(int(self.queries.max()))  # for attempts without an answer


@torch.no_grad()
def _distance(
    candidates: Float[Tensor, "n c t h w"], clips: Float[Tensor, "b c t h w"], rows: Int64[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The norm of what each candidate changes of its clip."""
    if candidates.device.type != "cpu" or not len(rows):
        return _l2(candidates - clips[rows])
    # One after the other, in the same memory: of a whole batch each difference is new memory, and
    # takes four times as long.
    delta = torch.empty_like(clips[:1])
    each = zip(candidates.split(1), rows.tolist(), strict=True)
    return torch.cat([_l2(torch.sub(candidate, clips[row : row + 1], out=delta)) for candidate, row in each])


def _l2(delta: Float[Tensor, "n c t h w"]) -> Float[Tensor, " n"]:
    """The norm of each clip, as the norm of its lines' norms in double precision.

    One long float32 sum is split among threads by the size of the batch, and a clip's norm must not
    depend on the clips beside it; one in double precision is many times slower. Devices without
    double precision (Apple's MPS) leave the last sum, of few numbers, to the CPU.
    """
    lines = torch.linalg.vector_norm(delta, dim=-1)
    try:
        exact = lines.flatten(1).double()
    except (TypeError, RuntimeError):  # what MPS raises, and what other accelerators raise
        exact = lines.flatten(1).cpu().double()
    norm: Tensor = torch.linalg.vector_norm(exact, dim=1)
    return norm.float().to(delta.device)


def turns(rows: Tensor) -> Tensor:
    """For each entry, how many earlier entries name the same row."""
    same = rows[:, None] == rows[None, :]
    return same.tril(-1).sum(1)

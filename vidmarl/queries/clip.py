"""One clip of a session, as its search sees it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.queries.goals import Goal
from vidmarl.queries.session import PHASES, Session
from vidmarl.victims.victim import Victim


@dataclasses.dataclass(frozen=True)
class Candidate:
    """The best perturbation of a clip so far.

    Attributes:
        strength: float[gt gh gw] on the CPU.
        l2: its L2 norm in [0, 1] pixels.
        margin: the margin of the goal with it, nats.
    """

    strength: Float[Tensor, "gt gh gw"]
    l2: float
    margin: float


class ClipView:
    """What a search knows of its clip. A view reads the session and changes nothing in it.

    Args:
        session: the attack on a batch of clips.
        row: which clip.

    Attributes:
        row: which clip of the session.
        shape: `(gt, gh, gw)`, the search cells over time, height and width.
        search_cell: a search cell is so many tubelets wide and high.
        min_strength: the smallest strength: -1 for a distortion of two directions, else 0. The
            largest is 1.
        budget: queries for the clip, the clean prediction included.
        rng: the clip's own source of randomness, on the CPU. Only with it does the result of a clip
            not depend on the rest of the batch.
    """

    def __init__(self, session: Session, row: int) -> None:
        self._session = session
        self.row = row
        self.shape = session.renderer.coarse_shape
        self.search_cell = session.renderer.search_cell
        self.min_strength = session.renderer.min_strength
        self.budget = session.budget
        self.rng = session.generator(row)

    @property
    def pixels(self) -> Float[Tensor, "3 t h w"]:
        """The clean clip in [0, 1], on the device of the session."""
        return self._session.renderer.clips[self.row]

    @property
    def victim(self) -> Victim:
        """Who is attacked. A search does not ask it: it yields requests, which are counted."""
        return self._session.victim

    @property
    def goal(self) -> Goal:
        """What is wanted of this clip: a goal of one class."""
        return self._session.goal[[self.row]]

    @property
    def clean_log_probs(self) -> Float[Tensor, " k"]:
        """What the victim says of the clean clip."""
        return self._session.clean[self.row]

    @property
    def clean_margin(self) -> float:
        """The margin of the clean clip, nats."""
        return float(self._session.history["margin"][self.row, 0])

    @property
    def queries(self) -> int:
        """Queries spent so far."""
        return int(self._session.queries[self.row])

    @property
    def fooled(self) -> bool:
        """Whether a success has been seen."""
        return bool(self._session.fooled[self.row])

    @property
    def best(self) -> Candidate:
        """The smallest success; before one, the candidate of the lowest margin."""
        session, row = self._session, self.row
        strength = session.best_strength[row].to("cpu", copy=True)  # the session writes in place
        return Candidate(strength, float(session.best_l2[row]), float(session.best_margin[row]))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Has the history say of the queries within what they are asked for: one of `PHASES`."""
        phases, before = self._session.phase, int(self._session.phase[self.row])
        phases[self.row] = PHASES.index(name)
        try:
            yield
        finally:
            phases[self.row] = before

    def zeros(self) -> Float[Tensor, "t y x"]:
        """A map of search cells without distortion."""
        return torch.zeros(self.shape)

    def random_signs(self) -> Float[Tensor, "t y x"]:
        """Full strength everywhere, each search cell in a random direction.

        All ones where the distortion has one direction.
        """
        full = torch.ones(self.shape)
        if self.min_strength < 0:
            full = torch.where(torch.rand(self.shape, generator=self.rng) < 0.5, -full, full)
        return full

    def upsample(self, strength: Float[Tensor, "t y x"]) -> Float[Tensor, "gt gh gw"]:
        """The strength map of a map of search cells; a strength map stays itself."""
        return self._session.renderer.upsample(strength[None])[0]

    def render(self, strengths: Float[Tensor, "n t y x"]) -> Float[Tensor, "n 3 t h w"]:
        """The clip with some strength maps put on, as 8-bit values. Costs no query."""
        rows = torch.full((len(strengths),), self.row, device=self.pixels.device)
        return self._session.renderer.render(strengths.to(rows.device), rows)

    def energy(self) -> Float[Tensor, "gt gh gw"]:
        """What each tubelet adds to the squared L2 norm at full strength; 0 where the distortion
        leaves it alone. On the CPU; costs no query."""
        return self._session.renderer.energy(self.row).cpu()

    def cell_energy(self) -> Float[Tensor, "t y x"]:
        """The same of the search cells."""
        rows = torch.tensor([self.row], device=self.pixels.device)
        return self._session.renderer.cell_energy(rows)[0].cpu()

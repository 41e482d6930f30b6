"""Every attack, learned or not: `attack(victim, clips, goal) -> AttackResult`.

Adding one: a new file with a subclass that writes `search` (one clip, as in a textbook) or `run`
(the whole batch).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from vidmarl.attacks.result import AttackResult
from vidmarl.data.spec import validate_clips
from vidmarl.distortions import as_distortion
from vidmarl.distortions.base import Distortion
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.noise import Coherence
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.goals import Goal
from vidmarl.queries.session import Search, Session
from vidmarl.victims.victim import Victim


class Attack:
    """An attack: its settings in `__init__`, the data in the call.

    Args:
        distortion: what is done to the clip: a `Distortion`, its name ("gaussian_noise"), or a
            function `f(clips, strength, noise) -> clips`.
        budget: queries per clip, the clean prediction included.
        grid: the tubelets.
        zoom: the search works with cells of `zoom` x `zoom` tubelets; the clean-up goes on down to
            single tubelets.
        coherence: how random patterns go on in time: "static", "flow" or "free".
        after: queries that may be spent on a clip after its first success, on making it smaller;
            None: as many as the attack itself would spend. 0: it stops at the first success,
            whatever it does then (`reduce` of some attacks says what they do).
        seed: of the distortion's and the attack's randomness. The same seed gives the same result
            for a clip, whichever clips share its batch.
        clips_at_once: clips that are attacked side by side; bounds the memory.
        progress: whether to show a progress bar.
    """

    def __init__(
        self,
        distortion: Distortion | str | Any = "gaussian_noise",
        *,
        budget: int = 200,
        grid: TubeletGrid | None = None,
        zoom: int = 1,
        coherence: Coherence = "static",
        after: int | None = None,
        seed: int = 0,
        clips_at_once: int = 64,
        progress: bool = True,
    ) -> None:
        if budget < 1:
            raise ValueError(f"{type(self).__name__}: the budget must be at least 1 query per clip, got {budget}.")
        if after is not None and after < 0:
            raise ValueError(f"{type(self).__name__}: after is a number of queries, at least 0, got {after}.")
        self.distortion = as_distortion(distortion)
        self.budget = budget
        self.after = after
        self.grid = grid or TubeletGrid()
        self.zoom = zoom
        self.grid.coarser(zoom)  # checks it
        self.coherence: Coherence = coherence
        self.seed = seed
        self.clips_at_once = clips_at_once
        self.progress = progress

    def __call__(self, victim: Victim, clips: Float[Tensor, "b 3 t h w"], goal: Goal | None = None) -> AttackResult:
        """Attacks every clip.

        Args:
            victim: who is attacked.
            clips: float[b 3 t h w] in [0, 1]; rounded to 8 bits before anything else.
            goal: `Misclassify(labels)` or `Target(classes)`; None: away from the clean prediction.

        Raises:
            ClipError: the clips have another shape, dtype or range.
            ValueError: the goal does not fit the clips or the victim.
            VictimError: the victim raised or gave unusable scores.
        """
        if not isinstance(victim, Victim):
            raise TypeError(
                f"Attacking: expected a vidmarl.Victim, got {type(victim).__name__}. Wrap it: Victim(model)."
            )
        validate_clips(clips, f"attacking with {type(self).__name__}")
        if goal is not None and goal.classes.numel() != len(clips):
            raise ValueError(f"Attacking {len(clips)} clips: the goal has {goal.classes.numel()} classes.")
        parts = []
        with tqdm(
            total=len(clips) * self.budget, unit="query", desc=type(self).__name__, disable=not self.progress
        ) as bar:
            for rows in torch.arange(len(clips)).split(self.clips_at_once):
                batch = clips[rows].to(victim.device or clips.device)  # candidates are made where they are looked at
                renderer = Renderer(batch, self.distortion, self.grid, self.coherence, self.seed, self.zoom)
                session = Session(victim, renderer, None if goal is None else goal[rows], self.budget, self.seed)
                bar.update(len(rows))
                for asked in self.run(session):
                    bar.update(len(asked))
                    if self.after is not None:
                        session.finish(session.beyond(self.after))
                bar.update(int(session.query_budget.left.sum()))  # finished early: what was not needed
                parts.append(AttackResult.from_session(session, self.describe()))
        return AttackResult.cat(parts)

    @property
    def alone(self) -> bool:
        """Whether what is done to a clip depends on nothing but that clip, whatever is attacked
        beside it."""
        return True

    def run(self, session: Session) -> Iterator[Tensor]:
        """Attacks the active clips of a session; yields the rows asked, once a round, for the
        progress bar.

        Clips may cease to be active between two rounds (`after`): nothing more is to be asked about
        those.
        """
        yield from session.drive(lambda row: self.search(session, row))

    def search(self, session: Session, row: int) -> Search:
        """The search on one clip: yields strength maps float[gt gh gw], receives a `Response` for
        each."""
        raise TypeError(f"{type(self).__name__} has neither `run` nor `search`.")

    def describe(self) -> dict[str, Any]:
        """The settings as plain data: the common ones, then the attack's own plain attributes."""
        common = {
            "attack": type(self).__name__,
            "distortion": self.distortion.describe(),
            "budget": self.budget,
            "grid": [self.grid.frames, self.grid.height, self.grid.width],
            "zoom": self.zoom,
            "coherence": self.coherence,
            "seed": self.seed,
        }
        skip = {*common, "clips_at_once", "progress"}  # the last two change no result
        if self.after is None:  # no cut, no setting: results from before there was one stay comparable
            skip.add("after")
        plain = (bool, int, float, str, list, tuple, type(None))
        own = {k: v for k, v in vars(self).items() if k not in skip and k[0] != "_" and isinstance(v, plain)}
        return common | own

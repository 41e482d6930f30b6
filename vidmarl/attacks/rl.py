"""The attack by the two trained agents (arXiv 2506.05431; the mechanism is our reconstruction, see
the README)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.agents.checkpoint import load_agents
from vidmarl.agents.networks import Agents
from vidmarl.agents.order import Grow
from vidmarl.agents.propose import Propose
from vidmarl.attacks.base import Attack, DistortionLike
from vidmarl.attacks.search.minimize import minimize, refine
from vidmarl.attacks.search.restarts import RESTART_SLACK
from vidmarl.distortions import DISTORTIONS
from vidmarl.errors import SettingsError
from vidmarl.perturbations.grid import GridLike, TubeletGrid, as_grid
from vidmarl.perturbations.noise import Coherence
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Search
from vidmarl.queries.session import Session
from vidmarl.utils.fingerprints import fingerprint

REFINEMENT = 30
"""Queries of refinement between two rounds of the agents."""

SMALLEST_GROUPS = 16
"""Between two rounds a success is minimized by removals of at least this fraction of it, 1 / 16."""

FROM_ALTERNATING: dict[str, Any] = {"step_size": 2.0, "proposal_size": 8, "max_failed_removals": 0}
"""The agents' rules where the search starts from full strength, see `Episodes`."""


class RLAttack(Attack):
    """Lets two agents propose where and when to distort, then removes what is not needed.

    Agents act in one of two ways, as they were trained. Either each query is one joint proposal
    (`vidmarl.agents.episodes`): what to add until the goal is reached, then what to remove. Or they
    rank all tubelets, and blocks of an order are tried and kept where they help, until the goal is
    reached (`vidmarl.agents.order`). When they find no more, their success is minimized, and the
    rest of the budget goes into further rounds of both.

    Args:
        agents: the trained team: the name of one that ships with vidmarl (`vidmarl.list_agents()`),
            the path of a training checkpoint or of a file of `vidmarl export`, or `Agents`.
        distortion: see `Attack`; None: what the agents were trained with, if it is one of vidmarl's
            own. Any other is to be given here: nothing that a file names is imported. So is one of
            several that they were trained with.
        grid, coherence: see `Attack`; None: what the agents were trained with.
        search_cell: see `Attack`; None: what the agents were trained with. On another grid their
            cells keep their size in pixels, as nearly as the grid allows.
        fallback_after: a clip that is not fooled after so many queries is asked about at full
            strength, in up to three ways, and once more with other random signs whenever as many
            queries have passed again: most clips that resist are fooled by that. The agents do not
            build on it. None: never. Agents that rank tubelets do without.
        init: what the search starts from. "alternating": full strength everywhere, its sign
            alternating from frame to frame, where the fewest queries matter and not the size. The
            agents then flip tubelets, many at a time, and remove nothing.
        budget, max_queries_after_success, seed, clips_at_once, progress: see `Attack`.

    Raises:
        UnknownNameError: no agents of that name ship with vidmarl.
        FileNotFoundError: there is no file at the path.
        CheckpointError: the file holds no agents that this version can read.
        SettingsError: they were trained with several distortions, and none is given.
        ValueError: a setting is out of its range.
    """

    agents: Agents | str | os.PathLike[str] = dataclasses.field(default="gaussian_noise", kw_only=False)
    distortion: DistortionLike | None = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]
    grid: GridLike | None = None  # type: ignore[assignment]  # the agents' own, like the others with None
    search_cell: int | None = None  # type: ignore[assignment]
    coherence: Coherence | None = None  # type: ignore[assignment]
    fallback_after: int | None = 20
    init: Literal["clean", "alternating"] = "clean"

    def __post_init__(self) -> None:
        self.check_kinds()
        self._name = self.agents if isinstance(self.agents, str) else None
        self.agents = load_agents(self.agents)
        trained = self.agents.trained
        own = as_grid(trained.get("grid") or self.grid or TubeletGrid())
        grid = self.grid = as_grid(self.grid or own)
        if self.search_cell is None:
            self.search_cell = max(1, round(trained.get("search_cell", 1) * own.height / grid.height))
        self.coherence = self.coherence or trained.get("coherence", "static")
        if self.distortion is None:
            what = "its agents" if self._name is None else f"the agents {self._name!r}"
            doing = f"RLAttack, taking over what {what} were trained with"
            if len(several := self.agents.names_of("distortion")) > 1:
                raise SettingsError(
                    f"{doing}: expected one distortion, got {len(several)}: {', '.join(several)}. Give one,"
                    f" distortion={several[0]!r}, or with its settings, distortion=agents.trained['distortion'][0]."
                )
            self.distortion = DISTORTIONS.restore(trained.get("distortion", "gaussian_noise"), doing)
        super().__post_init__()
        if self.fallback_after is not None and self.fallback_after < 1:
            raise ValueError(f"RLAttack: fallback_after must be at least 1, or None, got {self.fallback_after}.")
        if self.init not in ("clean", "alternating"):
            raise ValueError(f"RLAttack: init must be 'clean' or 'alternating', got {self.init!r}.")

    def run(self, session: Session) -> Iterator[Tensor]:
        self._team.to(session.renderer.clips.device).eval()
        yield from super().run(session)

    def search(self, clip: ClipView) -> Search:
        ranks = self.init == "clean" and self._team.trained.get("acts") == "order"
        yield from self._by_order(clip) if ranks else self._by_proposals(clip)

    def _by_order(self, clip: ClipView) -> Search:
        """Builds successes from the tubelets that the agents rank first, and minimizes each."""
        grow, smallest = Grow(self._team), math.inf
        while True:
            before = clip.queries
            while not grow.over:
                with clip.phase("agents"):
                    yield grow
            if grow.fooled:
                smallest = min(smallest, grow.l2)
                yield from minimize(clip, grow.strength, grow.l2, ranking=grow.ranking)
            if clip.queries == before:
                return
            grow.restart(RESTART_SLACK * smallest)

    def _by_proposals(self, clip: ClipView) -> Search:
        """Has the agents propose changes query by query, and minimizes what they have found."""
        propose, smallest = self._begin(clip), math.inf
        while True:
            before = clip.best.l2 if clip.fooled else math.inf
            while not propose.over:
                if (full := self._fallback(clip)) is not None:
                    with clip.phase("fallback"):
                        yield full
                elif clip.fooled and not propose.fooled and math.isinf(smallest) and self._late(clip):
                    break  # nothing but the fallback has fooled the clip: minimize that
                else:
                    with clip.phase("agents"):
                        yield propose
            if propose.fooled or math.isinf(smallest):
                found = propose if propose.fooled else clip.best
                smallest = min(smallest, found.l2)
                yield from minimize(clip, found.strength, found.l2, factors=(0.0,), groups=SMALLEST_GROUPS)
            if RESTART_SLACK * smallest < propose.cell_l2:
                break
            if clip.min_strength < 0 and clip.best.l2 < before:
                yield from refine(clip, REFINEMENT)
            propose.restart(RESTART_SLACK * smallest)
        yield from refine(clip, clip.budget)
        yield from minimize(clip)

    def params(self) -> dict[str, Any]:
        return super().params() | {"agents": self._name or f"sha256:{fingerprint(self._team)[:16]}"}

    @property
    def _team(self) -> Agents:
        return load_agents(self.agents)  # which are loaded: this is for type checkers

    def _begin(self, clip: ClipView) -> Propose:
        """An episode of the agents on a clip."""
        rules = {"classes": self._team.config.classes}
        if self.init == "alternating":
            return Propose(self._team, rules | FROM_ALTERNATING, alternating(clip))
        size = self._team.trained.get("proposal_size")
        return Propose(self._team, rules if size is None else rules | {"proposal_size": size})

    def _fallback(self, clip: ClipView) -> Float[Tensor, "t y x"] | None:
        """Full strength in the way that is due; None where none is."""
        if self.fallback_after is None or clip.fooled or clip.queries < self.fallback_after:
            return None
        turn = clip.queries - self.fallback_after
        fixed = [alternating(clip), torch.ones(clip.shape)]
        if self.init == "alternating" or clip.shape[0] == 1:
            fixed = fixed[1:]  # the first has been asked about, or is the same as the other
        if turn < len(fixed):
            return fixed[turn]
        if turn == len(fixed) or turn % self.fallback_after == 0:
            return torch.where(torch.rand(clip.shape, generator=clip.rng) < 0.5, clip.min_strength, 1.0)
        return None

    def _late(self, clip: ClipView) -> bool:
        """Whether the agents have had their share of queries of a clip that the fallback fooled."""
        return self.max_queries_after_success is not None or 2 * clip.queries >= clip.budget


def alternating(clip: ClipView) -> Float[Tensor, "t y x"]:
    """Full strength everywhere, its sign alternating from layer to layer in time; every second
    layer is 0 where the distortion has one direction."""
    full = torch.ones(clip.shape)
    full[1::2] = clip.min_strength
    return full

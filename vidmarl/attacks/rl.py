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
from vidmarl.attacks.base import Attack, DistortionLike
from vidmarl.attacks.search.minimize import minimize
from vidmarl.attacks.search.restarts import RESTART_SLACK
from vidmarl.distortions import DISTORTIONS
from vidmarl.errors import SettingsError
from vidmarl.perturbations.grid import GridLike, TubeletGrid, as_grid
from vidmarl.perturbations.noise import Coherence
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Search
from vidmarl.queries.session import Session
from vidmarl.utils.fingerprints import fingerprint


class RLAttack(Attack):
    """Has two agents rank where and when to distort, builds on what they rank first, then removes
    what is not needed.

    Blocks of an order of tubelets, drawn by the ranking, are tried and kept unless they raise the
    margin, until the goal is reached (`vidmarl.agents.order`). The success is minimized, what ranks
    low first, and the rest of the budget goes into further rounds of both.

    Args:
        agents: the trained team: the name of one that ships with vidmarl (`vidmarl.list_agents()`),
            the path of a training checkpoint or of a file of `vidmarl export`, or `Agents`.
        distortion: see `Attack`; None: what the agents were trained with, if it is one of vidmarl's
            own. Any other is to be given here: nothing that a file names is imported. So is one of
            several that they were trained with.
        grid, coherence: see `Attack`; None: what the agents were trained with.
        search_cell: see `Attack`; None: what the agents were trained with. On another grid their
            cells keep their size in pixels, as nearly as the grid allows.
        init: what the search starts from. "alternating": full strength everywhere, its sign
            alternating from frame to frame, where the fewest queries matter and not the size.
            Blocks of the agents' order then turn the sign of what is there.
        budget, max_queries_after_success, stop_at_jod, seed, clips_at_once, progress: see `Attack`.

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
        if self.init not in ("clean", "alternating"):
            raise ValueError(f"RLAttack: init must be 'clean' or 'alternating', got {self.init!r}.")

    def run(self, session: Session) -> Iterator[Tensor]:
        self._team.to(session.renderer.clips.device)
        yield from super().run(session)

    def search(self, clip: ClipView) -> Search:
        grow, smallest = Grow(self._team, alternating(clip) if self.init == "alternating" else None), math.inf
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

    def params(self) -> dict[str, Any]:
        return super().params() | {"agents": self._name or f"sha256:{fingerprint(self._team)[:16]}"}

    @property
    def _team(self) -> Agents:
        return load_agents(self.agents)  # which are loaded: this is for type checkers


def alternating(clip: ClipView) -> Float[Tensor, "t y x"]:
    """Full strength everywhere, its sign alternating from layer to layer in time; every second
    layer is 0 where the distortion has one direction."""
    full = torch.ones(clip.shape)
    full[1::2] = clip.min_strength
    return full

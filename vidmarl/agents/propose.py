"""What a search asks for to get one proposal of the agents.

The scheduler answers the requests of all clips together, so that both nets and the victim work on
batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from tensordict import TensorDict
from torch import Tensor

from vidmarl.agents.episodes import Episodes, mean_cell_energy
from vidmarl.agents.networks import Agents
from vidmarl.queries.scheduler import Request
from vidmarl.queries.session import Response, Session


class Propose(Request):
    """A request for one proposal of the agents; in between it says where their episode stands.

    Args:
        agents: the team.
        rules: see `Episodes`.
        first: a map of search cells that stands in for the first proposal; None: there is none.

    Attributes:
        over: whether the episode has ended.
        fooled: whether the agents have fooled the clip in it.
        l2: the norm of the accepted strength map.
        cell_l2: the mean norm of a search cell at full strength; 0 before the first proposal.
    """

    def __init__(self, agents: Agents, rules: dict[str, Any], first: Float[Tensor, "t y x"] | None = None) -> None:
        self._agents, self._rules, self._first = agents, rules, first
        self._td: TensorDict | None = None
        self._bound: float | None = None
        self.over, self.fooled, self.l2, self.cell_l2 = False, False, 0.0, 0.0

    @property
    def strength(self) -> Float[Tensor, "t y x"]:
        """The accepted map of search cells, on the CPU."""
        if self._td is None:
            raise RuntimeError("Reading the agents' strength map: they have proposed nothing yet.")
        strength: Tensor = self._td["episode", "strength"][0]
        return strength.to("cpu", copy=True)

    def restart(self, bound: float) -> None:
        """Starts another episode from the clean clip, with all credit kept.

        Args:
            bound: the L2 norm that its strength map stays below.
        """
        self._bound, self.over, self.fooled = bound, False, False

    def answer(self, session: Session, batch: Mapping[int, Request]) -> dict[int, Response]:
        rows = torch.tensor(list(batch), device=session.renderer.clips.device)
        asking = [request for request in batch.values() if isinstance(request, Propose)]
        episodes = Episodes(session, **self._rules)
        td = torch.cat(
            [request._observation(episodes, row) for request, row in zip(asking, rows.split(1), strict=True)]
        )
        with torch.no_grad():
            proposal = episodes.propose(td, *self._act(session, rows, td))
        for i, request in enumerate(asking):
            if request._first is not None:
                proposal[i], request._first = request._first, None
        response = session.query(proposal, rows)
        td = episodes.step(td, rows, proposal, response)
        told = torch.stack([td["episode", "l2"], mean_cell_energy(td["episode"]).sqrt()], 1).tolist()
        flags = torch.stack([td["done"][:, 0], td["episode", "fooled"]], 1).tolist()
        for request, one, numbers, truths in zip(asking, td.split(1), told, flags, strict=True):
            request._td = one
            request.l2, request.cell_l2 = numbers
            request.over, request.fooled = truths
        response = response.cpu()
        return {row: response[i] for i, row in enumerate(batch)}

    def _observation(self, episodes: Episodes, row: Tensor) -> TensorDict:
        """What the agents see of the clip now."""
        td = episodes.begin(row) if self._td is None else self._td
        if self._bound is not None:
            td, self._bound = episodes.restart(td, row, self._bound), None
        return td

    def _act(self, session: Session, rows: Tensor, td: TensorDict) -> list[Tensor]:
        """Both agents' actions, drawn from each clip's own source of randomness."""
        for group in ("temporal", "spatial"):  # the spatial agent sees what the temporal one has drawn
            actor = getattr(self._agents, group)
            dist = actor.get_dist(td)
            td[group, "action"] = dist.draw(session.rand(rows, 1, dist.uniforms_needed))
        return [td[group, "action"].squeeze(1) for group in ("temporal", "spatial")]

"""The attack by the two trained agents (arXiv 2506.05431; the mechanism is our reconstruction, see
the README)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.agents.checkpoint import find_agents, fresh_agents, load_agents
from vidmarl.attacks.base import Attack
from vidmarl.attacks.search.minimize import polish, reduce
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.session import Search, Searches, Session

if TYPE_CHECKING:
    from tensordict import TensorDictBase

    from vidmarl.agents.environment import VideoAttackEnv
    from vidmarl.agents.networks import Agents


POLISH = 30
"""Queries of polishing between two rounds."""


class RLAttack(Attack):
    """Lets two agents propose where and when to distort, then removes what is not needed.

    Each query is one joint proposal of the agents (`vidmarl.agents.environment`): what to add until
    the goal is reached, then what to take away. When they find no more, it is cleaned up
    (`vidmarl.attacks.search.minimize`), and the rest of the budget goes into further rounds of
    both.

    Args:
        agents: the trained team, see `from_checkpoint`; an untrained one is a control.
        step, opening: see `VideoAttackEnv`.
        insure: a clip that is not fooled after so many queries is asked about with everything
            distorted, in up to three ways (`everything`), because most clips that resist are fooled
            by that; and once more, with other coins, whenever as many queries have passed again.
            The agents' search does not build on it. None: never.
        give_up: where the insurance alone has fooled a clip, every second query makes that success
            smaller, until the agents have found one themselves. After so many queries, or half of
            the budget if that is less, their first round ends, and the next ones look for something
            smaller than that. With a limit `after` the first success the clean-up has all queries,
            and at once. Without the clean-up the agents go on. None: they always go on.
        reduce: whether to clean up after success.
        rounds: whether to go on after the first clean-up, with another search from the clean clip.
        level, spread, patience, credit: see `VideoAttackEnv`; with a patience of 0 the agents take
            nothing away.
        temperature: of the agents' choice of frames and cells until the clip is fooled; above 1
            they spread more. The warm start teaches them where a clean clip gives way, which says
            less about one that is distorted already (`opening`).
        untrained: the groups, of "spatial" and "temporal", whose agent starts afresh: what is the
            other worth alone?
        **kwargs: see `Attack`.
    """

    def __init__(
        self,
        agents: Agents,
        *,
        step: float = 1.0,
        opening: int | None = None,
        insure: int | None = 20,
        give_up: int | None = 100,
        reduce: bool = True,
        rounds: bool = True,
        level: int = 3,
        spread: int | None = None,
        patience: int = 2,
        credit: bool = True,
        temperature: float = 1.0,
        untrained: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if unknown := set(untrained) - {"spatial", "temporal"}:
            raise ValueError(f"RLAttack: untrained names agents, 'spatial' and 'temporal', got {sorted(unknown)}.")
        for name, query in (("insure", insure), ("give_up", give_up)):
            if query is not None and query < 1:
                raise ValueError(f"RLAttack: {name} is the number of a query, at least 1, or None; got {query}.")
        if temperature <= 0:
            raise ValueError(f"RLAttack: the temperature must be above 0, got {temperature}.")
        from vidmarl.agents.environment import check_step_and_opening

        check_step_and_opening(step, opening)  # before anything is asked
        self.agents = agents
        self.step = step
        self.opening = opening
        self.insure = insure
        self.give_up = give_up
        self.reduce = reduce
        self.rounds = rounds
        self.level = level
        self.spread = spread
        self.patience = patience
        self.credit = credit
        self.temperature = temperature
        self.untrained = list(untrained)

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str], **kwargs: Any) -> RLAttack:
        """Loads a trained team from a training checkpoint or from a file of `save_agents`.

        Distortion, grid, zoom, coherence, step, level and spread are those that it was trained
        with, unless given. On another grid the agents' cells keep the size that they were trained
        with, as nearly as the grid allows.

        Args:
            path: the file; nothing in it is executed (`weights_only=True`).
            **kwargs: see `RLAttack` and `Attack`.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, holds something else, or is of another version.
        """
        agents, settings = load_agents(path)
        trained: dict[str, Any] = {
            key: settings[key]
            for key in ("distortion", "coherence", "step", "level", "spread", "zoom")
            if key in settings
        }
        trained["grid"] = TubeletGrid(*settings["grid"])
        if grid := kwargs.get("grid"):
            trained["zoom"] = max(1, round(trained.get("zoom", 1) * trained["grid"].height / grid.height))
        if kwargs.get("distortion", "") is None:
            kwargs.pop("distortion")
        return cls(agents, **(trained | kwargs))

    @classmethod
    def from_pretrained(cls, name: str = "gaussian_noise", **kwargs: Any) -> RLAttack:
        """Loads a team that ships with vidmarl; `vidmarl.list_pretrained()` names them.

        Args:
            name: of the distortion it was trained with. Its training is described in
                docs/results.md.
            **kwargs: see `RLAttack` and `Attack`.

        Raises:
            UnknownNameError: no team of that name ships with vidmarl.
        """
        return cls.from_checkpoint(find_agents(name), **kwargs)

    def run(self, session: Session) -> Iterator[Tensor]:
        """Rounds of the agents' search and the clean-up of what they have found, until the budget
        is spent."""
        from vidmarl.agents.environment import VideoAttackEnv

        device = session.renderer.clips.device
        agents = self.agents.to(device).eval()
        settings = {key: getattr(self, key) for key in ("step", "opening", "level", "spread", "patience", "credit")}
        env = VideoAttackEnv(session, **settings)
        actors = {"temporal": agents.temporal, "spatial": agents.spatial}
        if self.untrained:
            fresh = fresh_agents(agents).to(device).eval()
            actors |= {group: getattr(fresh, group) for group in self.untrained}
        td, actions = env.reset(), env.full_action_spec.zero()
        in_clean_up, insured, agents_won = (torch.zeros_like(session.finished) for _ in range(3))
        cleaning = Searches(session, lambda row: self._clean_up(env, row))
        beside = Searches(session, lambda row: reduce(session, row))
        while session.active.any():
            if len(rows := self._due(env)):
                session.query(self._everything(session, rows), rows)
                yield rows
                continue
            env.end_round(self._hopeless(env))
            if len(rows := env.running()):
                with torch.no_grad():
                    seen = td[rows]
                    for group, actor in actors.items():
                        dist = actor[-1].get_dist(self._tempered(group, actor[0](seen), ~env.won[rows]))
                        seen[group, "action"] = dist.draw(session.rand(rows, 1, dist.uniforms_needed))
                        actions[group, "action"][rows] = seen[group, "action"]
                    td = env.step_mdp(env.step(td.update(actions)))
                yield rows
            ended = session.active & ~in_clean_up
            ended[env.running()] = False
            agents_won |= env.won
            if self.reduce and self.after is None:
                beside.drop((insured & agents_won).nonzero().flatten())
                beside.start((session.fooled & ~agents_won & ~insured).nonzero().flatten())
                insured = session.fooled & ~agents_won
                if beside:
                    yield beside.ask()
            if ended.any():
                rows = ended.nonzero().flatten()
                in_clean_up[rows] = True
                cleaning.start(rows)
            if cleaning:
                yield cleaning.ask()
            if len(rows := cleaning.pop_ended()):
                in_clean_up[rows] = False
                td[rows] = td[rows].update(env.again(rows)[rows])  # the other clips have seen what they would alone

    def _tempered(self, group: str, seen: TensorDictBase, adding: Tensor) -> TensorDictBase:
        """The actor's outputs with the logits of frames and cells divided by the temperature, where
        it adds."""
        if self.temperature != 1:
            key = (group, {"temporal": "frame_logits", "spatial": "cell_logits"}[group])
            logits = seen[key]
            over = torch.where(adding, 1 / self.temperature, 1.0)
            seen[key] = logits * over.view(-1, *[1] * (logits.ndim - 1))
        return seen

    def _due(self, env: VideoAttackEnv) -> Tensor:
        """The clips that are now to be asked about with everything distorted."""
        session, rows = env.session, env.running()
        if self.insure is None:
            return rows[:0]
        queries = session.queries.to(rows.device)
        turn = queries - self.insure
        due = (turn < len(self._ways(session.renderer))) | (turn % self.insure == 0)
        return rows[(due & (turn >= 0) & ~session.fooled)[rows]]

    def _ways(self, renderer: Renderer) -> tuple[str, ...]:
        """The ways to distort everything, but for one that an opening has tried and those that are
        the same."""
        turning = renderer.cells[0] > 1 and self.opening is None
        return ("turning", "everywhere", "mixed") if turning else ("everywhere", "mixed")

    def _everything(self, session: Session, rows: Tensor) -> Tensor:
        """Maps of cells of the full distortion, each clip's in the way that is its turn."""
        ways, begin = self._ways(session.renderer), self.insure or 0
        asked = [(row, int(session.queries[row]) - begin) for row in rows.tolist()]
        return torch.stack([everything(session, row, ways[min(turn, len(ways) - 1)]) for row, turn in asked])

    def _hopeless(self, env: VideoAttackEnv) -> Tensor:
        """The clips that only the insurance has fooled, and that the agents have tried long
        enough."""
        session = env.session
        rows = (session.fooled & ~env.won & env.first & session.active).nonzero().flatten()
        if self.give_up is None or not self.reduce:
            return rows[:0]
        enough = 0 if self.after is not None else min(self.give_up, session.budget // 2)
        return rows[(session.queries.to(rows.device) >= enough)[rows]]

    def _clean_up(self, env: VideoAttackEnv, row: int) -> Search:
        """What comes between two rounds."""
        session = env.session
        if not self.reduce:
            session.finish(torch.tensor([row]))
            return
        before = float(session.best_l2[row])
        if env.won[row] and not (env.first[row] and before < float(env.l2[row])):
            yield from reduce(session, row, env.strength[row].cpu(), float(env.l2[row]), factors=(0.0,), groups=16)
        elif env.won[row] or self.after is not None:  # the insurance's success is the smaller one
            yield from reduce(session, row)
        if not self.rounds or not env.has_room(row):
            yield from polish(session, row, session.budget)
            yield from reduce(session, row)
            session.finish(torch.tensor([row]))
        elif session.renderer.low < 0 and (float(session.best_l2[row]) < before or env.first[row]):
            yield from polish(session, row, POLISH)


def everything(session: Session, row: int, way: str) -> Float[Tensor, "gt y x"]:
    """A map of cells that distorts a whole clip, as far as its distortion has directions.

    Args:
        session: the books.
        row: the clip.
        way: "turning" with every layer of cells (`Renderer.turning`), the same "everywhere", or
            "mixed": each cell up, or by a coin down, which is nothing where the distortion has one
            direction.
    """
    renderer = session.renderer
    if way == "turning":
        return renderer.turning()
    if way == "everywhere":
        return renderer.clips.new_ones(renderer.cells)
    coins = torch.rand(renderer.cells, generator=session.generator(row))
    return torch.where(coins < 0.5, renderer.low, 1.0).to(renderer.clips)

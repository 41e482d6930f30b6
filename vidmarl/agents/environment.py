"""The two agents' environment for training: one row per clip under attack, one query a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Composite, MultiCategorical, Unbounded
from torchrl.envs import EnvBase

from vidmarl.agents.actions import COUNTS, DRAWS, WIDTHS
from vidmarl.agents.episodes import LEARNT, MAPS, STATE, Episodes
from vidmarl.agents.features import CHANNELS
from vidmarl.agents.reward import Reward
from vidmarl.queries.session import Session

NextClips = Callable[[int], Tensor]
"""Gives n fresh clips, float[n 3 t h w], for the rows whose episodes have ended."""


class VideoAttackEnv(EnvBase):  # type: ignore[misc]  # torchrl has no types
    """Episodes on the clips of a session, as a TorchRL environment with two groups of agents.

    At each step the temporal agent says how many tubelets shall change, for how long and in which
    frames, and the spatial agent where in each of these frames. What comes of it is told in
    `vidmarl.agents.episodes`. The environment is stateless: an episode is in its TensorDict.

    Observations (all that a black-box attacker knows):

    - "features" float[b c t gh gw]: what each search cell looks like, and what it costs
      (`vidmarl.agents.features`).
    - "maps" float[b 4 t gh gw]: the strength map; two credit maps (`vidmarl.agents.credit`), what
      this episode's queries say about the drop of the margin per unit of strength, without and with
      regard to its sign; how often each cell was tried.
    - "state" float[b 11 + classes]: margin over the clean margin, probabilities of the goal's class
      and of the runner-up, fraction of the budget used, log of L2 over the full distortion's,
      whether the last proposal was accepted, its drop of the margin, whether the clip is fooled,
      the log of the cells touched, the size of proposal, proposals taken back since one was
      accepted, and which class the goal is about.
    - ("temporal", "proposal_size") int64[b 1]: the size of proposal that the last responses
      suggest.
    - ("temporal", "count_mask" | "frame_mask"), ("spatial", "up_mask" | "down_mask"): what would
      change anything.
    - "episode": the state, which the nets do not see (`vidmarl.agents.episodes.Episodes`).

    Reward and done are the team's, at the root. Rows that have ended cost nothing more.

    Args:
        session: the attack on a batch of clips; it answers the queries and counts them.
        next_clips: where fresh clips come from at a reset. A row that has been asked about nothing
            but the clean clip keeps its clip. Without it every clip has one episode.
        reward: the weights of the reward's terms.
        step_size, proposal_size, max_failed_removals, classes: see `Episodes`.
    """

    batch_locked = True
    group_map = {"spatial": ["spatial"], "temporal": ["temporal"]}  # noqa: RUF012 (torchrl's name for it)

    def __init__(
        self,
        session: Session,
        next_clips: NextClips | None = None,
        *,
        reward: Reward | None = None,
        step_size: float = 1.0,
        proposal_size: int = 3,
        max_failed_removals: int = 2,
        classes: int = 0,
    ) -> None:
        super().__init__(
            device=session.renderer.clips.device,
            batch_size=torch.Size([len(session)]),
            allow_done_after_reset=True,  # clips that are skipped, or have a budget of one query, end where they begin
        )
        self.episodes = Episodes(session, step_size, proposal_size, max_failed_removals, classes)
        self.next_clips = next_clips
        self.reward = reward or Reward()
        self.seeds: Iterator[int] = itertools.count(1)
        self._make_specs()

    @property
    def session(self) -> Session:
        """Answers the queries and counts them."""
        return self.episodes.session

    def _make_specs(self) -> None:
        b, (t, gh, gw), device = len(self.session), self.session.renderer.coarse_shape, self.device

        def real(*shape: int) -> Unbounded:
            return Unbounded((b, *shape), device=device)

        def whole(*shape: int) -> Unbounded:
            return Unbounded((b, *shape), device=device, dtype=torch.int64)

        def flag(*shape: int) -> Binary:
            return Binary(shape=(b, *shape), device=device, dtype=torch.bool)

        numbers = ("margin", "label", "runner_up", "l2", "accepted", "margin_drop", "bound", "full_l2")
        clean = ("clean_margin", "clean_label", "clean_runner_up")
        episode: dict[str, Unbounded | Binary] = {key: real(t, gh, gw) for key in ("strength", "energy", *LEARNT)}
        episode |= {key: real() for key in (*numbers, *clean)}
        episode |= {key: whole() for key in ("proposal_size", "failures", "queries")} | {"fooled": flag()}
        self.observation_spec = Composite(
            features=real(CHANNELS, t, gh, gw),
            maps=real(MAPS, t, gh, gw),
            state=real(len(STATE) + self.episodes.classes),
            spatial=Composite(up_mask=flag(1, t, gh * gw), down_mask=flag(1, t, gh * gw), shape=(b, 1)),
            temporal=Composite(
                count_mask=flag(1, len(COUNTS)), frame_mask=flag(1, t), proposal_size=whole(1), shape=(b, 1)
            ),
            episode=Composite(episode, shape=(b,)),
            shape=(b,),
        )
        sizes = {
            "temporal": torch.tensor([len(COUNTS), len(WIDTHS)] + [t] * DRAWS),
            "spatial": torch.tensor([gh * gw] * DRAWS + [2] * DRAWS),
        }
        actions = {key: MultiCategorical(n, shape=(b, 1, len(n)), device=device) for key, n in sizes.items()}
        self.full_action_spec = Composite(
            {key: Composite(action=action, shape=(b, 1)) for key, action in actions.items()}, shape=(b,)
        )
        self.full_reward_spec = Composite(reward=real(1), shape=(b,))
        self.full_done_spec = Composite(done=flag(1), terminated=flag(1), shape=(b,))

    def _set_seed(self, seed: int | None) -> None:
        self.seeds = itertools.count(int(seed or 0) + 1)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        every = torch.arange(len(self.session), device=self.device)
        mask = None if tensordict is None else tensordict.get("_reset", None)
        rows = every if mask is None else every[mask.reshape(-1)]
        self._renew(rows[(self.session.queries > 1).to(rows.device)[rows]])
        with torch.autocast(rows.device.type, enabled=False):  # observations do not depend on the precision
            begun = self.episodes.begin(rows)
        if len(rows) == len(every):
            return begun
        out = begun.new_zeros(len(every))  # torchrl takes only the rows of the mask
        out[rows] = begun
        return out

    def _renew(self, rows: Tensor) -> None:
        """Puts fresh clips in the place of those of `rows`."""
        if not len(rows):
            return
        if self.next_clips is None:
            raise RuntimeError(
                f"Resetting the environment: {len(rows)} clips have had their episode, and there are no others. Give"
                " it `next_clips`, or a new session."
            )
        with torch.autocast(rows.device.type, enabled=False):
            clips = self.next_clips(len(rows)).to(rows.device)
        self.session.renew(rows, clips, next(self.seeds))

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        before = tensordict.select(*self.observation_spec.keys(True, True))
        rows = (~self.episodes.over(before["episode"])).nonzero().flatten()
        after, reward = before.clone(), torch.zeros(len(before), 1, device=self.device)
        if len(rows):
            when, where = (tensordict[group, "action"][rows].squeeze(1) for group in ("temporal", "spatial"))
            proposal = self.episodes.propose(before[rows], when, where)
            response = self.session.query(proposal, rows)
            with torch.autocast(rows.device.type, enabled=False):
                stepped = self.episodes.step(before[rows], rows, proposal, response)
            after[rows] = stepped.select(*before.keys())
            reward[rows, 0] = self.reward(before["episode"][rows], stepped["episode"])
        done = self.episodes.over(after["episode"])[:, None]
        return after.update({"reward": reward, "done": done, "terminated": done.clone()})

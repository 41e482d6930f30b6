"""The two-agent environment: one row per clip under attack, one query per clip and step.

At each step the temporal agent says how many tubelets shall change, for how long and in which
frames, and the spatial agent where in each of these frames. Until the clip is fooled a proposal
adds distortion and is kept if the margin falls; after that a proposal takes distortion away and is
kept if the clip stays fooled. What is not kept is taken back. So the untrained team is a
signed-block search with random reduction, and learning is learning to propose.

Where the fewest queries matter and not the size, an attack may open with distortion everywhere that
turns with every frame (`opening`). With a step of 2 the agents then turn tubelets round.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Composite, MultiCategorical, Unbounded
from torchrl.envs import EnvBase

from vidmarl.agents.actions import COUNTS, DRAWS, WIDTHS, directions
from vidmarl.agents.credit import learn, scaled
from vidmarl.agents.features import CHANNELS, describe
from vidmarl.agents.networks import AgentsConfig
from vidmarl.agents.reward import Reward, strength_flicker
from vidmarl.queries.session import SLACK, Session

MAPS = 4
STATE = ("margin", "own", "rival", "spent", "size", "kept", "fall", "won", "touched", "level", "failures")
"""The numbers that describe an episode, see `VideoAttackEnv`."""

LEVELS = len(COUNTS) + len(WIDTHS) - 1
"""Sizes of a proposal, each twice the one before: first in tubelets, then in frames that each of
them lasts."""

GIVE_UP = 12
"""Additions that may fail in a row in a later round."""

Supply = Callable[[int], Tensor]
"""Gives n fresh clips, float[n 3 t h w], for the rows whose episodes have ended."""


def check_step_and_opening(step: float, opening: int | None) -> None:
    """Raises a ValueError where one of these settings is out of its range."""
    if not 0 < step <= 2:
        raise ValueError(f"Setting up the agents' search: the step must lie in (0, 2], got {step}.")
    if opening is not None and opening < 1:
        raise ValueError(
            f"Setting up the agents' search: the opening is the number of a query, at least 1, or None; got {opening}."
        )


class VideoAttackEnv(EnvBase):
    """A session as a batched TorchRL environment with the groups "spatial" and "temporal".

    Observations (all that a black-box attacker knows):

    - "features" float[b c t gh gw]: what each cell of the agents looks like
      (`vidmarl.agents.features`).
    - "maps" float[b 4 t gh gw]: the strength map; two credit maps (`vidmarl.agents.credit`), what
      this episode's queries say about the fall of the margin per unit of strength, without and with
      regard to its sign; how often each cell was tried.
    - "state" float[b 11]: margin over the clean margin, probabilities of the goal's class and of
      its rival, fraction of the budget used, log of L2 over the full distortion's, whether the last
      proposal was kept, its fall of the margin, whether the clip is fooled, the log of the cells
      touched, the level, and proposals taken back since one was kept.
    - ("temporal", "level") int64[b 1]: the size of proposal that the last responses suggest:
      doubled after one that was kept, halved after one that was not, the step-size rule of
      evolution strategies (Rechenberg 1973).
    - ("temporal", "can_count"), ("temporal", "can_frame"), ("spatial", "can_up"), ("spatial",
      "can_down"): what would change anything.

    Reward and done are the team's, at the root. An episode ends with the budget, or when the clip
    is fooled and `patience` removals in a row have failed. Rows that have ended cost nothing more;
    `("next", "fooled" / "l2" / "flicker" / "queries")` tell how they ended.

    Args:
        session: the books. `reset` starts on its clips without asking anything, as its clean
            predictions are known.
        supply: where fresh clips come from at later resets; without it only the first reset is
            possible.
        reward: the weights of the reward's terms.
        step: how far a kept addition moves the strength; up to 2, which turns a tubelet round at
            once.
        opening: the query, counted after the clean prediction, from which on the next proposal is
            full strength everywhere whatever the agents say, once, unless they have fooled the clip
            by then: up in every second layer of tubelets, and in the others down, or not at all
            where the distortion has one direction. It is kept like any proposal. None: none is. Not
            for training, which would credit the agents with what they did not say.
        level: the first proposal's.
        spread: how far from it the level may go in the first round until the clip is fooled; 0: it
            stays, for distortions of which small sets say nothing. None: as far as it gets.
        patience: removals that may fail in a row.
        credit: whether the agents see the credit maps; without, they look untouched.
    """

    batch_locked = True

    def __init__(
        self,
        session: Session,
        supply: Supply | None = None,
        *,
        reward: Reward | None = None,
        step: float = 1.0,
        opening: int | None = None,
        level: int = 3,
        spread: int | None = None,
        patience: int = 2,
        credit: bool = True,
    ) -> None:
        super().__init__(
            device=session.renderer.clips.device,
            batch_size=torch.Size([len(session)]),
            allow_done_after_reset=True,  # clips that are skipped, or have a budget of one query, end where they begin
        )
        check_step_and_opening(step, opening)
        self.session = session
        self.supply = supply
        self.reward = reward or Reward()
        self.step_size = step
        self.opening = opening
        self.level = level
        self.spread = LEVELS if spread is None else spread
        self.patience = patience
        self.credit = credit
        self.shape_of_cells = session.renderer.cells
        self.group_map = {"spatial": ["spatial"], "temporal": ["temporal"]}
        self._fresh = True
        self._episodes = 0
        self._seed = 0
        self._make_specs()
        self._allocate()

    @property
    def agents_config(self) -> AgentsConfig:
        """The smallest description of nets that fit these observations."""
        return AgentsConfig(CHANNELS, MAPS, len(STATE))

    def _make_specs(self) -> None:
        b, (t, gh, gw), device = len(self.session), self.shape_of_cells, self.device
        g = gh * gw
        lead = torch.Size([b])

        def flags(*shape: int) -> Binary:
            return Binary(shape[-1], shape=(b, 1, *shape), dtype=torch.bool, device=device)

        self.observation_spec = Composite(
            features=Unbounded((b, CHANNELS, t, gh, gw), device=device),
            maps=Unbounded((b, MAPS, t, gh, gw), device=device),
            state=Unbounded((b, len(STATE)), device=device),
            fooled=Binary(1, shape=(b, 1), dtype=torch.bool, device=device),
            l2=Unbounded((b, 1), device=device),
            flicker=Unbounded((b, 1), device=device),
            queries=Unbounded((b, 1), dtype=torch.int64, device=device),
            spatial=Composite(can_up=flags(t, g), can_down=flags(t, g), shape=(b, 1)),
            temporal=Composite(
                can_count=flags(len(COUNTS)),
                can_frame=flags(t),
                level=Unbounded((b, 1), dtype=torch.int64, device=device),
                shape=(b, 1),
            ),
            shape=lead,
        )
        when = torch.tensor([len(COUNTS), len(WIDTHS)] + [t] * DRAWS)
        where = torch.tensor([g] * DRAWS + [2] * DRAWS)
        self.full_action_spec = Composite(
            {
                group: Composite(action=MultiCategorical(sizes, shape=(b, 1, len(sizes)), device=device), shape=(b, 1))
                for group, sizes in (("temporal", when), ("spatial", where))
            },
            shape=lead,
        )
        self.full_reward_spec = Composite(reward=Unbounded((b, 1), device=device), shape=lead)
        self.full_done_spec = Composite(
            done=Binary(1, shape=(b, 1), dtype=torch.bool, device=device),
            terminated=Binary(1, shape=(b, 1), dtype=torch.bool, device=device),
            shape=lead,
        )

    def _allocate(self) -> None:
        b = len(self.session)
        new = self.session.renderer.clips.new_zeros
        self._features = new(b, CHANNELS, *self.shape_of_cells)
        self.strength, self._credit, self._signed_credit, self._trials = (
            new(b, *self.shape_of_cells) for _ in range(4)
        )
        self.margin, self.l2, self._full_l2, self._kept, self._fall = (new(b) for _ in range(5))
        self._clean_margin, self._own, self._rival = (new(b) for _ in range(3))
        self._level, self._failures = (new(b, dtype=torch.int64) for _ in range(2))
        self.won, self.first, self._stopped, self._opened = (new(b, dtype=torch.bool) for _ in range(4))
        self._smallest = new(b) + torch.inf

    def _set_seed(self, seed: int | None) -> None:
        self._seed = int(seed or 0)
        self._episodes = 0

    # -- episodes

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: object) -> TensorDict:
        every = torch.arange(len(self.session), device=self.device)
        mask = None if tensordict is None else tensordict.get("_reset", None)
        rows = every if mask is None else every[mask.reshape(-1)]
        if not self._fresh:
            if self.supply is None:
                raise RuntimeError("Resetting the environment: it has no supply of clips, so an attack runs only once.")
            self._episodes += 1
            with torch.autocast(self.device.type, enabled=False):
                clips = self.supply(len(rows)).to(self.device)
            self.session.renew(rows, clips, self._seed + self._episodes)
        self._fresh = False
        self._begin(rows)
        return self._observe()

    def _begin(self, rows: Int64[Tensor, " n"]) -> None:
        session = self.session
        for values in (self._credit, self._signed_credit, self._trials):
            values[rows] = 0
        self._level[rows], self.first[rows], self._opened[rows] = self.level, True, False
        self._clean_margin[rows] = session.goal.margin(session.clean[rows], rows)
        self._start_clean(rows)
        self._features[rows] = describe(session.renderer.clips[rows], session.renderer.coarse)
        self._full_l2[rows] = session.full_l2(rows)
        self._smallest[rows] = torch.inf

    def again(self, rows: Int64[Tensor, " n"]) -> TensorDict:
        """Begins another round on clips whose round is over: from the clean clip, with all that was
        learnt about it.

        Where a round has won, or something else has fooled the clip, the new one has room for no
        more than that.
        """
        self._level[rows] = torch.where(self.won[rows], self._half(rows).clamp_max(LEVELS - 1), self.level)
        self.first[rows] = False
        # What others than the agents have found bounds the first round that comes after it.
        found = self._smallest[rows].isinf() & self.session.fooled[rows]
        self._smallest[rows] = torch.where(found, self.session.best_l2[rows], self._smallest[rows])
        self._start_clean(rows)
        return self._observe()

    def end_round(self, rows: Int64[Tensor, " n"]) -> None:
        """Ends the round of some clips."""
        self._stopped[rows] = True

    def _start_clean(self, rows: Tensor) -> None:
        """Sets what the agents know of the perturbation and of the victim's answer to that of the
        clean clip."""
        for values in (self.strength, self.l2, self._kept, self._fall, self._failures, self.won, self._stopped):
            values[rows] = 0
        classes = self.session.goal.classes.to(self.device)[rows]
        own, rival = self.session.goal.own_and_rival(self.session.clean[rows], classes)
        self._own[rows], self._rival[rows] = own.exp(), rival.exp()
        self.margin[rows] = self._clean_margin[rows]

    def propose(self, when: Int64[Tensor, "b a"], where: Int64[Tensor, "b c"]) -> Float[Tensor, "b t gh gw"]:
        """The strength maps that the agents' actions ask for: more of it, or after success less; or
        the opening's."""
        t, gh, gw = self.shape_of_cells
        named = directions(when, where, (t, gh * gw)).view(-1, t, gh, gw)
        added = (self.strength + self.step_size * named).clamp(self.session.renderer.low, 1)
        left = torch.where(named == 0, self.strength, 0)
        proposal = torch.where(self.won.view(-1, 1, 1, 1), left, added)
        if self.opening is not None:
            opens = self._opening_due & ~self._opened & self.first & ~self.won
            proposal = torch.where(opens.view(-1, 1, 1, 1), self.session.renderer.turning(), proposal)
        return proposal

    @property
    def _opening_due(self) -> Tensor:
        """The clips that have spent as many queries as the opening waits for."""
        if self.opening is None:
            return torch.zeros_like(self.won)
        return (self.session.queries >= self.opening).to(self.device)

    def running(self) -> Int64[Tensor, " n"]:
        """The rows whose episodes go on."""
        return (~self._over()).nonzero().flatten()

    def _over(self) -> Tensor:
        spare = (self.strength != 0).flatten(1).sum(1) > 1
        won = self.won & ~(spare & (self._failures < self.patience))
        lost = ~self.won & ((self._left() < 1) | (self._room.isfinite() & (self._failures >= GIVE_UP)))
        return won | lost | self._stopped | ~self.session.active

    def has_room(self, row: int) -> bool:
        """Whether a further round of a clip could find anything smaller than what was won with,
        with these cells."""
        return bool(self._room[row].square() >= self._cell[row])

    @property
    def _room(self) -> Float[Tensor, " b"]:
        """The norm below which a round has to stay: infinite in the first round until it has
        won."""
        return SLACK * self._smallest

    @property
    def _cell(self) -> Float[Tensor, " b"]:
        """The mean squared norm of a cell at full strength."""
        return (self._full_l2.square() / self.strength[0].numel()).clamp_min(1e-12)

    def _left(self) -> Float[Tensor, " b"]:
        """How many more cells of average size there is room for."""
        return (self._room.square() - self.l2.square()) / self._cell

    def _half(self, rows: Tensor) -> Int64[Tensor, " n"]:
        """The level of half of the touched cells."""
        touched = (self.strength[rows] != 0).flatten(1).sum(1)
        return (touched.clamp_min(2).float().log2() - 1).floor().long()

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        session = self.session
        rows = self.running()
        reward = torch.zeros(len(session), device=self.device)
        if len(rows):
            when, where = (tensordict[group, "action"].squeeze(1) for group in ("temporal", "spatial"))
            proposal = self.propose(when, where)[rows]
            self._opened[rows] |= self._opening_due[rows]
            was_fooled = self.won[rows]
            response = session.query(proposal, rows)
            fall = self.margin[rows] - response.margin
            self._learn_credit(rows, proposal, fall)
            keep = torch.where(
                was_fooled, response.success & (response.l2 < self.l2[rows]), response.success | (fall > 0)
            )
            keep &= response.l2 < self._room[rows]
            kept = torch.where(keep, response.margin, self.margin[rows])
            l2 = torch.where(keep, response.l2, self.l2[rows])
            strength = torch.where(keep.view(-1, 1, 1, 1), proposal, self.strength[rows])
            reward[rows] = self.reward(
                margin_fall=self.margin[rows].clamp_min(0) - kept.clamp_min(0),
                clean_margin=self._clean_margin[rows],
                l2_before=torch.where(was_fooled, self.l2[rows], self._full_l2[rows]),
                l2=torch.where(was_fooled | (keep & response.success), l2, self._full_l2[rows]),
                added_flicker=strength_flicker(strength) - strength_flicker(self.strength[rows]),
                first_success=keep & response.success & ~was_fooled,
                budget_left=self._budget_left()[rows],
            )
            own, rival = session.goal.own_and_rival(response.log_probs, session.goal.classes.to(self.device)[rows])
            self._own[rows] = torch.where(keep, own.exp(), self._own[rows])
            self._rival[rows] = torch.where(keep, rival.exp(), self._rival[rows])
            self.strength[rows], self.margin[rows], self.l2[rows] = strength, kept, l2
            self._kept[rows] = keep.float()
            self._fall[rows] = fall / self._clean_margin[rows].clamp_min(1e-2)
            self._failures[rows] = torch.where(keep, 0, self._failures[rows] + 1)
            self.won[rows] |= keep & response.success
            won = torch.where(self.won[rows], l2, torch.inf)
            self._smallest[rows] = torch.minimum(self._smallest[rows], won)
            self._suggest(rows, keep)
        out = self._observe()
        out["reward"] = reward[:, None]
        return out

    def _suggest(self, rows: Tensor, keep: Tensor) -> None:
        """The next level: one up after a proposal that was kept, else one down; half of what is
        there to remove."""
        level = self._level[rows] + torch.where(keep, 1, -1)
        within = level.clamp(self.level - self.spread, self.level + self.spread)
        level = torch.where(self.first[rows], within, level)
        half = self._half(rows)
        removal = torch.minimum(torch.where(keep, half, self._level[rows] - 1), half)
        level = torch.where(self.won[rows], removal, level)
        self._level[rows] = level.clamp(0, LEVELS - 1)

    def _learn_credit(self, rows: Tensor, proposal: Tensor, fall: Tensor) -> None:
        fall = fall / self._clean_margin[rows].clamp_min(1e-2)
        old = self.strength[rows]
        self._trials[rows] += (proposal != old).float()
        if not self.credit:
            return
        self._credit[rows] = learn(self._credit[rows], proposal.abs() - old.abs(), fall)
        self._signed_credit[rows] = learn(self._signed_credit[rows], proposal - old, fall)

    def _budget_left(self) -> Float[Tensor, " b"]:
        return (self.session.query_budget.left / self.session.budget).to(self.device, torch.float32)

    def _observe(self) -> TensorDict:
        session, b = self.session, len(self.session)
        cells = rearrange(self.strength, "b t h w -> b 1 t (h w)")
        fooled = self.won.view(-1, 1, 1, 1)
        up, down = (
            torch.where(fooled, cells != 0, can) for can in (cells < 1, cells > session.renderer.low)
        )  # after success either direction means: away with it
        touched = (self.strength != 0).flatten(1).sum(1)
        counts = torch.tensor(COUNTS, device=self.device)
        can_count = torch.where(self.won[:, None], 2 * counts <= touched[:, None], counts <= self._left()[:, None])
        can_count &= counts <= cells[0].numel()
        can_count[:, 0] = True
        over = self._over()[:, None]
        ratio = (self.margin / self._clean_margin.clamp_min(1e-2)).clamp(-1, 2)
        size = (self.l2.clamp_min(1e-2) / self._full_l2.clamp_min(1e-2)).log() / 4
        state = {
            "margin": ratio,
            "own": self._own,
            "rival": self._rival,
            "spent": 1 - self._budget_left(),
            "size": size,
            "kept": self._kept,
            "fall": self._fall.clamp(-1, 1),
            "won": self.won.float(),
            "touched": touched.float().log1p() / 4,
            "level": self._level / LEVELS,
            "failures": self._failures / 8,
        }
        lead = {"batch_size": (b, 1), "device": self.device}
        return TensorDict(
            features=self._features.clone(),
            maps=torch.stack(
                [self.strength, scaled(self._credit), scaled(self._signed_credit), self._trials.log1p()], 1
            ),
            state=torch.stack([state[name] for name in STATE], 1),
            fooled=self.won[:, None].clone(),
            l2=self.l2[:, None].clone(),
            flicker=strength_flicker(self.strength)[:, None],
            queries=session.queries[:, None].to(self.device),
            spatial=TensorDict(can_up=up, can_down=down, **lead),
            temporal=TensorDict(
                can_count=can_count[:, None], can_frame=(up | down).any(3), level=self._level[:, None].clone(), **lead
            ),
            done=over,
            terminated=over.clone(),
            batch_size=(b,),
            device=self.device,
        )

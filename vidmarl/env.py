"""The two-agent environment: one row per clip under attack, one query per clip and step.

At each step the spatial agent names cells and directions and the temporal agent a soft window of frames; their product
is a proposal: an addition to, or a removal from, the strength map. The victim is asked about it once. A proposal that
lowers the margin is kept, any other is taken back, so that the untrained team is the signed-block search it has to
beat, and learning is learning to propose.
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

from vidmarl.agents import AgentsConfig
from vidmarl.features import CHANNELS, describe
from vidmarl.proposals import BLOCK_SIZES, WINDOW_WIDTHS, BlockDistribution, WindowDistribution
from vidmarl.reward import Reward, strength_flicker
from vidmarl.session import Session

MAPS = 3
STATE = 7
Supply = Callable[[int], Tensor]
"""Gives n fresh clips, float[n 3 t h w], for the rows whose episodes have ended."""


class VideoAttackEnv(EnvBase):
    """A session as a batched TorchRL environment with the groups "spatial" and "temporal".

    Observations (all that a black-box attacker knows):

    - "features" float[b c t' gh gw]: what each tubelet looks like (`vidmarl.features`).
    - "maps" float[b 3 t' gh gw]: the strength map; the credit map, an online least-squares estimate (Kaczmarz) of the
      fall of the margin per unit of strength from this episode's own queries; how often each tubelet was tried.
    - "state" float[b 7]: margin over the clean margin, probabilities of the goal's class and of its rival, fraction of
      the budget used, L2 over the full distortion's, whether the last proposal was kept, its fall of the margin.
    - ("spatial", "can_up" / "can_down") bool[b 1 cells]: where a move would change anything.

    Reward and done are the team's, at the root. An episode ends at success or with the budget. Rows that have ended
    cost nothing more; `("next", "fooled" / "l2" / "flicker" / "queries")` tell how they ended.

    Args:
        session: the books. `reset` starts on its clips without asking anything, as its clean predictions are known.
        supply: where fresh clips come from at later resets; without it only the first reset is possible.
        reward: the weights of the reward's terms.
        step: how far a kept proposal moves the strength at the window's centre.
    """

    batch_locked = True

    def __init__(
        self, session: Session, supply: Supply | None = None, *, reward: Reward | None = None, step: float = 1.0
    ) -> None:
        super().__init__(
            device=session.canvas.clips.device,
            batch_size=torch.Size([len(session)]),
            allow_done_after_reset=True,  # clips that are skipped, or have a budget of one query, end where they begin
        )
        if not 0 < step <= 1:
            raise ValueError(f"VideoAttackEnv: the step must lie in (0, 1], got {step}.")
        self.session = session
        self.supply = supply
        self.reward = reward or Reward()
        self.step_size = step
        self.group_map = {"spatial": ["spatial"], "temporal": ["temporal"]}
        self._fresh = True
        self._episodes = 0
        self._seed = 0
        self._make_specs()
        self._allocate()

    @property
    def agents_config(self) -> AgentsConfig:
        """The smallest description of nets that fit these observations."""
        return AgentsConfig(CHANNELS, MAPS, STATE)

    def _make_specs(self) -> None:
        b, (t, gh, gw), device = len(self.session), self.session.canvas.shape, self.device
        g = gh * gw
        k = min(BLOCK_SIZES[-1], g)
        lead = torch.Size([b])
        self.observation_spec = Composite(
            features=Unbounded((b, CHANNELS, t, gh, gw), device=device),
            maps=Unbounded((b, MAPS, t, gh, gw), device=device),
            state=Unbounded((b, STATE), device=device),
            fooled=Binary(1, shape=(b, 1), dtype=torch.bool, device=device),
            l2=Unbounded((b, 1), device=device),
            flicker=Unbounded((b, 1), device=device),
            queries=Unbounded((b, 1), dtype=torch.int64, device=device),
            spatial=Composite(
                can_up=Binary(g, shape=(b, 1, g), dtype=torch.bool, device=device),
                can_down=Binary(g, shape=(b, 1, g), dtype=torch.bool, device=device),
                shape=(b, 1),
            ),
            shape=lead,
        )
        sizes = sum(size <= g for size in BLOCK_SIZES)
        widths = max(1, sum(width <= t for width in WINDOW_WIDTHS))
        block = torch.tensor([sizes] + [g] * k + [2] * k)
        self.full_action_spec = Composite(
            spatial=Composite(action=MultiCategorical(block, shape=(b, 1, 1 + 2 * k), device=device), shape=(b, 1)),
            temporal=Composite(
                action=MultiCategorical(torch.tensor([t, widths]), shape=(b, 1, 2), device=device), shape=(b, 1)
            ),
            shape=lead,
        )
        self.full_reward_spec = Composite(reward=Unbounded((b, 1), device=device), shape=lead)
        self.full_done_spec = Composite(
            done=Binary(1, shape=(b, 1), dtype=torch.bool, device=device),
            terminated=Binary(1, shape=(b, 1), dtype=torch.bool, device=device),
            shape=lead,
        )

    def _allocate(self) -> None:
        canvas, b = self.session.canvas, len(self.session)
        new = canvas.clips.new_zeros
        self._features = new(b, CHANNELS, *canvas.shape)
        self.strength = canvas.zeros()
        self._credit = canvas.zeros()
        self._trials = canvas.zeros()
        self.margin, self._l2, self._full_l2, self._kept, self._fall = (new(b) for _ in range(5))
        self._clean_margin, self._own, self._rival = (new(b) for _ in range(3))

    def _set_seed(self, seed: int | None) -> None:
        self._seed = int(seed or 0)
        self._episodes = 0

    # -- episodes ------------------------------------------------------------------------------------------------

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
        for zeroed in (self.strength, self._credit, self._trials, self._l2, self._kept, self._fall):
            zeroed[rows] = 0
        classes = session.goal.classes.to(self.device)[rows]
        own, rival = session.goal.own_and_rival(session.clean[rows], classes)
        margin = session.goal.margin(session.clean[rows], rows)
        self._own[rows], self._rival[rows] = own.exp(), rival.exp()
        self.margin[rows] = margin
        self._clean_margin[rows] = margin
        self._features[rows] = describe(session.canvas.clips[rows], session.canvas.grid)
        self._full_l2[rows] = session.full_l2(rows)

    def propose(self, block: Int64[Tensor, "b a"], window: Int64[Tensor, "b 2"]) -> Float[Tensor, "b t' gh gw"]:
        """The strength maps that the agents' actions ask for."""
        t, gh, gw = self.session.canvas.shape
        where = rearrange(BlockDistribution.block(block, gh * gw), "b (h w) -> b 1 h w", h=gh)
        when = rearrange(WindowDistribution.window(window, t), "b t -> b t 1 1")
        return (self.strength + self.step_size * where * when).clamp(self.session.canvas.low, 1)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        session = self.session
        rows = (session.active & ~session.fooled).nonzero().flatten()
        reward = torch.zeros(len(session), device=self.device)
        if len(rows):
            block = tensordict["spatial", "action"].squeeze(1)
            window = tensordict["temporal", "action"].squeeze(1)
            proposal = self.propose(block, window)[rows]
            reply = session.query(proposal, rows)
            change = proposal - self.strength[rows]
            fall = self.margin[rows] - reply.margin
            self._learn_credit(rows, change, fall)
            keep = reply.success | (fall > 0)
            kept = torch.where(keep, reply.margin, self.margin[rows])
            l2 = torch.where(keep, reply.l2, self._l2[rows])
            strength = torch.where(keep.view(-1, 1, 1, 1), proposal, self.strength[rows])
            reward[rows] = self.reward(
                margin_fall=self.margin[rows].clamp_min(0) - kept.clamp_min(0),
                clean_margin=self._clean_margin[rows],
                added_l2=l2 - self._l2[rows],
                l2=l2,
                full_l2=self._full_l2[rows],
                added_flicker=strength_flicker(strength) - strength_flicker(self.strength[rows]),
                success=reply.success,
                budget_left=self._budget_left()[rows],
            )
            own, rival = session.goal.own_and_rival(reply.log_probs, session.goal.classes.to(self.device)[rows])
            self._own[rows] = torch.where(keep, own.exp(), self._own[rows])
            self._rival[rows] = torch.where(keep, rival.exp(), self._rival[rows])
            self.strength[rows], self.margin[rows], self._l2[rows] = strength, kept, l2
            self._kept[rows] = keep.float()
            self._fall[rows] = fall / self._clean_margin[rows].clamp_min(1e-2)
        out = self._observe()
        out["reward"] = reward[:, None]
        return out

    def _learn_credit(self, rows: Tensor, change: Tensor, fall: Tensor) -> None:
        """One Kaczmarz step: the smallest change of the credit map that explains this reply (Strohmer and Vershynin
        2009), the margin taken as linear in the strengths."""
        fall = fall / self._clean_margin[rows].clamp_min(1e-2)
        credit = self._credit[rows]
        flat = change.flatten(1)
        error = fall - (credit.flatten(1) * flat).sum(1)
        step = error / flat.square().sum(1).clamp_min(1e-6)
        self._credit[rows] = credit + step.view(-1, 1, 1, 1) * change
        self._trials[rows] += (change != 0).float()

    def _budget_left(self) -> Float[Tensor, " b"]:
        return (self.session.ledger.left / self.session.budget).to(self.device, torch.float32)

    def _observe(self) -> TensorDict:
        session, b = self.session, len(self.session)
        low, cells = session.canvas.low, rearrange(self.strength, "b t h w -> b 1 t (h w)")
        over = (session.fooled | ~session.active)[:, None]
        ratio = (self.margin / self._clean_margin.clamp_min(1e-2)).clamp(-1, 2)
        state = [ratio, self._own, self._rival, 1 - self._budget_left(), self._l2 / self._full_l2.clamp_min(1e-6)]
        spatial = TensorDict(
            can_up=(cells < 1).any(2), can_down=(cells > low).any(2), batch_size=(b, 1), device=self.device
        )
        return TensorDict(
            features=self._features.clone(),
            maps=torch.stack([self.strength, (10 * self._credit).tanh(), self._trials.log1p()], 1),
            state=torch.stack([*state, self._kept, self._fall.clamp(-1, 1)], 1),
            fooled=session.fooled[:, None].clone(),
            l2=self._l2[:, None].clone(),
            flicker=strength_flicker(self.strength)[:, None],
            queries=session.queries[:, None].to(self.device),
            spatial=spatial,
            done=over,
            terminated=over.clone(),
            batch_size=(b,),
            device=self.device,
        )

"""Training of the two agents: a LightningModule fed by TorchRL collectors.

A training step takes a batch of clips from the data module, rolls both agents out on it (the
collector), and makes some epochs of PPO over the rollout: one `MAPPOLoss` per agent, one
centralised critic (Yu et al. 2022). Agents that rank tubelets play whole orders instead
(`vidmarl.training.orders`). Against several victims and with several distortions each step plays
another pair (`vidmarl.training.pairs`). Lightning shares the clips out between ranks and resumes
the epoch; every rollout starts from fresh episodes and from a seed of its own, so nothing outside
the checkpoint is needed to go on exactly.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.modules import PopArtValueNorm
from torchrl.objectives import ClipPPOLoss, MAPPOLoss
from torchrl.objectives.value import MultiAgentGAE

from vidmarl import metrics
from vidmarl.agents.actions import WIDTHS
from vidmarl.agents.checkpoint import ACTORS, pack_agents
from vidmarl.agents.environment import VideoAttackEnv
from vidmarl.agents.episodes import MAPS, STATE
from vidmarl.agents.features import CHANNELS
from vidmarl.agents.networks import OBSERVATION, Acts, Agents, AgentsConfig
from vidmarl.agents.reward import Reward
from vidmarl.attacks.result import AttackResult
from vidmarl.attacks.rl import RLAttack
from vidmarl.data.spec import ClipSpec
from vidmarl.distortions import as_distortion
from vidmarl.distortions.base import Distortion
from vidmarl.errors import CheckpointError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.noise import Coherence
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.session import Session
from vidmarl.training.behaviour_cloning import Cloning, Probes, cloning_loss, probe
from vidmarl.training.checkpoints import SETTINGS, CheckpointFiles, read_checkpoint
from vidmarl.training.orders import MOST_SETS, order_loss, play
from vidmarl.training.pairs import DistortionLike, Pair, VictimLike, listed, make_pairs, one_or_all, victim_arguments
from vidmarl.training.settings import ATTACKED_WITH, TRAINED_WITH, arguments_from, differences, settings_of
from vidmarl.training.settings import PPO as PPO
from vidmarl.utils.files import PathLike, readable
from vidmarl.utils.randomness import seeded
from vidmarl.victims import load_victim
from vidmarl.victims.victim import Victim

HELD_OUT_PROBES = 4
"""How many times as many probes a held-out clip gets: there are few of these, and they are asked
once."""

HELD_OUT_DRAWS = 7
"""How many numbers of known probes, from none to `Cloning.n_known`, the correlation on held-out
clips is a mean of."""


@dataclasses.dataclass(frozen=True)
class Learner:
    """The losses and the advantage estimator of a rank.

    A plain object: as submodules of the LightningModule they would put every parameter into its
    state dict again.
    """

    losses: dict[str, MAPPOLoss]
    gae: MultiAgentGAE
    orders: ClipPPOLoss


class TwoAgentPPO(L.LightningModule):
    """The trainer of the team.

    Args:
        victim: a name, a path or a description for `vidmarl.load_victim`, or a `Victim`; or a list
            of these, to train against all of them in turn. Clips are made as the first one wants
            them, and brought to the frames and the size of the one that is asked.
        weights: of a named victim: a file, "random", or None for its default. Several have their
            own in their descriptions.
        spec: how clips are made for a named victim; None: its default. Several have their own in
            their descriptions.
        distortion: a `Distortion`, its name, or class_path and init_args; or a list of these.
        grid: the tubelets.
        search_cell: width and height of the agents' cells, in tubelets.
        coherence: how random patterns go on in time.
        acts: how the agents act, see `vidmarl.RLAttack`. For "order" the settings of episodes
            (`budget`, `steps`, `proposal_size`, `reward`) are of no account.
        budget: queries per clip in training episodes; the agents see the fraction that is left.
        steps: steps per rollout, at most `budget - 1` of one episode; rows that end sooner take the
            next clip.
        proposal_size: of the first proposal of an episode, see `vidmarl.agents.episodes.Episodes`.
        width: hidden channels of the nets.
        depth: residual blocks of the nets.
        classes: classes of the victim that the nets tell apart; 0: they do not see which class the
            goal is about. Worth having where training clips are many and classes few.
        longest: frames that a tubelet lasts at most, of agents that rank tubelets: 1 where noise in
            one frame has the most effect for its size.
        reward: the weights of the reward's terms.
        ppo: the settings of PPO.
        cloning: the settings of behaviour cloning, which comes before PPO.
        eval_budget: queries per clip in validation and prediction.
        seed: of the nets, of the distortion and of the rollouts.
        out: where predictions are written; None: the trainer's root directory.
    """

    counts: Tensor

    def __init__(
        self,
        victim: VictimLike | list[VictimLike] = "movinet_a0",
        weights: str | None = None,
        spec: ClipSpec | None = None,
        distortion: DistortionLike | list[DistortionLike] = "gaussian_noise",
        grid: TubeletGrid = TubeletGrid(),  # noqa: B008 (frozen)
        search_cell: int = 1,
        coherence: Coherence = "static",
        acts: Acts = "proposals",
        budget: int = 50,
        steps: int = 32,
        proposal_size: int = 3,
        width: int = 32,
        depth: int = 2,
        classes: int = 0,
        longest: int = WIDTHS[-1],
        reward: Reward = Reward(),  # noqa: B008 (frozen)
        ppo: PPO = PPO(),  # noqa: B008 (frozen)
        cloning: Cloning = Cloning(),  # noqa: B008 (frozen)
        eval_budget: int = 200,
        seed: int = 0,
        out: str | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.distortions = [as_distortion(one) for one in listed("distortion", distortion)]
        wanted = victim_arguments(victim, weights, spec)
        self.named = one_or_all([arguments.named for arguments in wanted])
        # on the CPU, until the Trainer has said where the training is
        self.victims = [
            one if isinstance(one, Victim) else load_victim(one, weights, spec=spec, device="cpu")
            for one, weights, spec in wanted
        ]
        self.pairs = make_pairs(self.victims, self.distortions)
        self.victim = self.victims[0]  # says how clips are made
        self.distortion = self.distortions[0]
        self.grid = grid
        self.search_cell = search_cell
        self.coherence: Coherence = coherence
        self.acts: Acts = acts
        for name, value in (("budget", budget), ("steps", steps), ("eval_budget", eval_budget)):
            if value < 1:
                raise ValueError(f"TwoAgentPPO: {name} must be at least 1, got {value}.")
        self.budget = budget
        self.steps = steps
        self.proposal_size = proposal_size
        self.reward = reward
        self.ppo = ppo
        self.cloning = cloning
        self.eval_budget = eval_budget
        self.seed = seed
        self.out = out
        with seeded(seed):
            self.agents = Agents(AgentsConfig(CHANNELS, MAPS, len(STATE), width, depth, classes, longest))
        self.value_norm = PopArtValueNorm(shape=1, beta=0.999)
        # of all ranks: rollouts; frames, or orders; queries
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64))
        self._note(self.counts)
        self._learner: Learner
        self._probes: list[Probes] = []
        self._held_out: dict[tuple[str, int], Probes] = {}
        self._held_out_queries = 0

    def _note(self, counts: Tensor) -> None:
        """Keeps with the agents what they are trained for, as plain data."""
        _, frames, queries = counts.tolist()
        self.agents.trained = {
            "victim": one_or_all([victim.name for victim in self.victims]),
            "distortion": one_or_all([distortion.to_record() for distortion in self.distortions]),
            "grid": [self.grid.frames, self.grid.height, self.grid.width],
            "search_cell": self.search_cell,
            "coherence": self.coherence,
            "acts": self.acts,
            "proposal_size": self.proposal_size,
            "budget": self.budget,
            "training_frames": frames,
            "training_queries": queries,
        }

    def setup(self, stage: str) -> None:
        """Has checkpoints written whole and verified, unless the Trainer was given another way."""
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vidmarl"] = pack_agents(self.agents)
        checkpoint[SETTINGS] = settings_of(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another training.

        Raises:
            CheckpointError: it was trained against, with or (to train on) in another way than this
                module is set to.
        """
        fitting = self.trainer.state.fn == "fit"
        if other := differences(checkpoint[SETTINGS], settings_of(self), TRAINED_WITH if fitting else ATTACKED_WITH):
            way_out = (
                "train its agents on in another way from TwoAgentPPO.load_from_checkpoint(PATH, NAME=VALUE)"
                if fitting
                else "attack something else with its agents by `vidmarl benchmark` or RLAttack(PATH, NAME=VALUE)"
            )
            raise CheckpointError(
                f"Loading the checkpoint {readable(self.trainer.ckpt_path or '')}: it was trained with"
                f" {'; '.join(other)}. Give the settings that it was trained with, or {way_out}."
            )
        self._note(checkpoint["state_dict"]["counts"])

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: PathLike, **settings: Any) -> TwoAgentPPO:  # type: ignore[override]
        """The module as a checkpoint has it: its agents, what they were trained with, and how.

        Args:
            checkpoint_path: a checkpoint of `vidmarl fit`, of which nothing is executed.
            **settings: of `TwoAgentPPO`; they take the place of the checkpoint's. Needed are
                `victim` and `distortion` where it was trained with the user's own.

        Raises:
            FileNotFoundError: there is no file at the path.
            CheckpointError: the file is damaged, holds something else, is of another version, or
                the victim is not what it was.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        doing = f"Loading the checkpoint {readable(checkpoint_path)}"
        arguments = arguments_from(checkpoint[SETTINGS], settings, doing)
        try:
            module = cls(**arguments)
            module.load_state_dict(checkpoint["state_dict"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{doing}: no TwoAgentPPO can be made with these settings. {error}") from error
        if "victim" not in settings and (other := differences(checkpoint[SETTINGS], settings_of(module), ["victim"])):
            raise CheckpointError(f"{doing}: it was trained with {'; '.join(other)}. Give the victim: victim=...")
        module._note(module.counts)
        return module

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # One optimiser over three disjoint nets: one summed loss, one backward, one step, which is
        # what DDP wants.
        return torch.optim.Adam(self.agents.parameters(), lr=self.ppo.lr, eps=1e-5)

    # -- training

    def on_fit_start(self) -> None:
        """Forgets what an earlier fit has asked about other validation clips."""
        self._held_out = {}

    def on_train_start(self) -> None:
        """Builds what lives on this rank's device: the losses and the advantage estimator."""
        common: dict[str, Any] = {
            "clip_epsilon": self.ppo.clip,
            "entropy_coeff": self.ppo.entropy,
            "normalize_advantage": False,  # once per rollout instead, see _advantages
        }
        agents = self.agents
        spatial = MAPPOLoss(
            agents.spatial,
            agents.critic,
            critic_coeff=self.ppo.critic,
            value_norm=self.value_norm,
            **common,
        )
        temporal = MAPPOLoss(agents.temporal, None, **common)
        for group, loss in zip(ACTORS, (spatial, temporal), strict=True):
            loss.set_keys(action=(group, "action"), sample_log_prob=(group, "log_prob"), value="state_value")
        gae = MultiAgentGAE(gamma=self.ppo.gamma, lmbda=self.ppo.lmbda, value_network=None, device=self.device)
        orders = order_loss(agents, self.ppo.clip)
        self._learner = Learner({"spatial": spatial, "temporal": temporal}, gae, orders)

    def on_train_epoch_start(self) -> None:
        """Where play begins, forgets the moments of cloning's gradients: these are larger, and
        would hold back Adam's steps for a thousand updates."""
        if self.current_epoch == self.cloning.epochs:
            cast("torch.optim.Optimizer", self.optimizers(use_pl_optimizer=False)).state.clear()

    def training_step(self, clips: Tensor, batch_idx: int) -> None:
        """Rolls out on `clips`, float32[b 3 t h w], with the pair whose turn it is, and learns from
        it."""
        number = int(self.counts[0]) % len(self.pairs)
        pair = self.pairs[number]
        clips, before = pair.fit(clips), pair.victim.queries
        if self.current_epoch < self.cloning.epochs:
            frames, log = 0, self._clone(pair, clips)
        else:
            self._probes = []
            frames, log = self._play_orders(pair, clips) if self.acts == "order" else self._play(pair, clips)
        spent = torch.tensor([1, frames, pair.victim.queries - before], device=self.device)
        world = self.trainer.world_size
        self.counts += self.trainer.strategy.reduce(spent, reduce_op="sum") // torch.tensor([world, 1, 1]).to(spent)
        self._note(self.counts)
        if len(self.pairs) > 1:
            log["charts/pair"] = torch.tensor(float(number))
        self._log_step(log)

    def _rank_seed(self) -> int:
        return hash((self.seed, int(self.counts[0]), self.global_rank)) & 0x7FFFFFFF

    def _session(self, pair: Pair, clips: Tensor, budget: int, seed: int) -> Session:
        """A session on some clips; opening it asks for their clean predictions."""
        pair.to(self.device)
        renderer = Renderer(clips, pair.distortion, self.grid, self.coherence, seed, self.search_cell)
        return Session(pair.victim, renderer, budget=budget, seed=seed)

    def _clone(self, pair: Pair, clips: Tensor) -> dict[str, Tensor]:
        """Probes the clips and clones the attacker who knows what the probes of all clips so far
        have shown, those of one shape after those of another.

        An epoch that is cut off starts again when the run is resumed, so the probes need not be in
        the checkpoint.
        """
        settings, seed = self.cloning, self._rank_seed()
        generator = torch.Generator().manual_seed(seed)
        log = {}
        with torch.autocast(self.device.type, enabled=False):
            fresh = self._ask_probes(pair, clips, settings.probes, seed, generator)
            with torch.no_grad():  # on clips that no update has seen yet
                log["cloning/correlation_before"] = cloning_loss(self.agents, fresh, settings, generator)[1]
            self._probes.append(fresh)
            pools = Probes.pools(self._probes)
            optimizer = cast("torch.optim.Optimizer", self.optimizers())
            for group in optimizer.param_groups:
                group["lr"] = settings.lr
            for known in itertools.islice(itertools.cycle(pools), settings.updates):
                index = torch.randint(len(known), (settings.minibatch,), generator=generator).to(self.device)
                loss, correlation = cloning_loss(self.agents, known[index], settings, generator)
                self._descend(optimizer, loss)
            for group in optimizer.param_groups:
                group["lr"] = self.ppo.lr
        return log | {"cloning/loss": loss.detach(), "cloning/correlation": correlation.detach()}

    def _ask_probes(self, pair: Pair, clips: Tensor, count: int, seed: int, generator: torch.Generator) -> Probes:
        """Opens a session on the clips for nothing but probes."""
        session, config = self._session(pair, clips, count + 1, seed), self.agents.config
        return probe(session, count, generator, config.classes, config.longest)

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """One gradient step."""
        optimizer.zero_grad()
        # DDP waits for a gradient of every parameter, where the critic has no part in the loss too
        self.manual_backward(loss + 0 * sum(p.sum() for p in self.agents.parameters()))
        self.clip_gradients(optimizer, gradient_clip_val=self.ppo.max_grad_norm, gradient_clip_algorithm="norm")
        optimizer.step()

    def _play(self, pair: Pair, clips: Tensor) -> tuple[int, dict[str, Tensor]]:
        """Rolls out on the clips, and learns from it; how many frames it was, and what to log."""
        rollout = self._roll_out(pair, clips)
        with torch.autocast(self.device.type, enabled=False):
            rollout = self._advantages(rollout)
        losses = self._learn(rollout.reshape(-1))
        return rollout.numel(), losses | self._outcome(rollout)

    def _play_orders(self, pair: Pair, clips: Tensor) -> tuple[int, dict[str, Tensor]]:
        """Plays some orders of each clip, and learns from what they have led to; how many they
        were, and what to log."""
        seed, count = self._rank_seed(), self.ppo.orders
        generator = torch.Generator().manual_seed(seed)
        with torch.autocast(self.device.type, enabled=False):  # or the first ratio would not be 1
            played = play(self._session(pair, clips, 1 + count * MOST_SETS, seed), self.agents, count, generator)
            log = self._learn_orders(played, generator)
        log["train/fooling_rate"] = played["fooled"].float().mean()
        if played["fooled"].any():
            log["train/l2"] = played["size"][played["fooled"]].mean()
        return played["size"].numel(), log

    def _learn_orders(self, played: TensorDict, generator: torch.Generator) -> dict[str, Tensor]:
        """Some epochs of PPO over the orders of some clips; the mean of every logged value."""
        optimizer = cast("torch.optim.Optimizer", self.optimizers())
        logged: list[dict[str, Tensor]] = []
        for _ in range(self.ppo.epochs):
            shuffled = torch.randperm(len(played), generator=generator).to(self.device)
            for index in shuffled.split(max(1, self.ppo.minibatch // self.ppo.orders)):
                said = self._learner.orders(played[index])
                self._descend(optimizer, said["loss_objective"])
                keys = {"approx_kl": "kl_approx", "clipfrac": "clip_fraction", "ratio": "mean_ratio"}
                keys |= {"policy_loss": "loss_objective"}
                logged.append({f"losses/{name}": said[key].detach() for name, key in keys.items()})
            if self._strayed(logged[-1]["losses/approx_kl"]):
                break
        return self._summary(logged)

    def _strayed(self, kl: Tensor) -> bool:
        """Whether the agents are too far from those that have played: on the value that all ranks
        agree on, because a rank that stopped alone would hang the others."""
        return self.ppo.target_kl is not None and bool(self.trainer.strategy.reduce(kl) > self.ppo.target_kl)

    @staticmethod
    def _summary(logged: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The mean of every logged value, and the first probability ratio, which has to be 1."""
        mean = {key: torch.stack([entry[key] for entry in logged]).mean() for key in logged[0]}
        return mean | {"losses/first_ratio": logged[0]["losses/ratio"]}

    @torch.no_grad()
    def _roll_out(self, pair: Pair, clips: Tensor) -> TensorDict:
        """One rollout [b steps] on a batch of clips, under the Trainer's autocast like everything
        in a step."""
        seed, following = self._rank_seed(), itertools.cycle(clips)
        env = VideoAttackEnv(
            self._session(pair, clips, self.budget, seed),
            lambda n: torch.stack(list(itertools.islice(following, n))),
            reward=self.reward,
            proposal_size=self.proposal_size,
            classes=self.agents.config.classes,
        )
        env.set_seed(seed)
        torch.manual_seed(seed)
        frames = len(clips) * self.steps
        collector = Collector(
            env,
            TensorDictSequential(self.agents.temporal, self.agents.spatial),
            frames_per_batch=frames,
            total_frames=frames,
            device=self.device,
            storing_device=self.device,
            trust_policy=True,
            auto_register_policy_transforms=False,
            use_buffers=False,  # preallocated ones disagree with the policy about the groups' batch sizes
        )
        rollout: TensorDict = next(iter(collector))
        collector.shutdown()
        return rollout

    def _advantages(self, rollout: TensorDict) -> TensorDict:
        """Adds "advantage" (standardised over the rollout) and "value_target", both [b steps 1
        1]."""
        with torch.no_grad():
            for part in (rollout, rollout["next"]):
                seen = part.select(*OBSERVATION).reshape(-1).split(self.ppo.minibatch)  # bounds the memory
                values = torch.cat([self.agents.critic(chunk)["state_value"] for chunk in seen])
                part["state_value"] = values.unflatten(0, part.batch_size)
            self._learner.gae(rollout)
            advantage = rollout["advantage"]
            rollout["advantage"] = (advantage - advantage.mean()) / advantage.std().clamp_min(1e-4)
        return rollout

    def _learn(self, frames: TensorDict) -> dict[str, Tensor]:
        """Some epochs of PPO over the frames of a rollout; the mean of every logged value."""
        optimizer = cast("torch.optim.Optimizer", self.optimizers())
        logged: list[dict[str, Tensor]] = []
        for _ in range(self.ppo.epochs):
            for index in torch.randperm(len(frames), device=frames.device).split(self.ppo.minibatch):
                batch = frames[index]
                said = {group: self._learner.losses[group](batch) for group in ACTORS}
                loss = sum(v for values in said.values() for k, v in values.items() if k.startswith("loss_"))
                self._descend(optimizer, loss)
                logged.append(self._logged(said))
            if self._strayed(logged[-1]["losses/approx_kl"]):
                break
        return self._summary(logged)

    @staticmethod
    def _logged(said: dict[str, TensorDict]) -> dict[str, Tensor]:
        mean = {
            f"losses/{name}": torch.stack([said[group][key].detach().mean() for group in ACTORS]).mean()
            for name, key in (("approx_kl", "kl_approx"), ("clipfrac", "clip_fraction"), ("ratio", "mean_ratio"))
        }
        each = {f"losses/entropy_{group}": said[group]["entropy"].detach().mean() for group in ACTORS}
        policy = sum(said[group]["loss_objective"].detach() for group in ACTORS)
        value, explained = said["spatial"]["loss_critic"].detach(), said["spatial"]["explained_variance"].detach()
        return (
            mean
            | each
            | {
                "losses/policy_loss": policy,
                "losses/value_loss": value.mean(),
                "losses/explained_variance": explained.mean(),
            }
        )

    @staticmethod
    def _outcome(rollout: TensorDict) -> dict[str, Tensor]:
        """How the episodes of a rollout have ended."""
        end, done = rollout["next", "episode"], rollout["next", "done"].squeeze(-1)
        fooled = end["fooled"][done].float()
        log = {"train/reward": rollout["next", "reward"].mean()}
        if len(fooled):
            log["train/fooling_rate"] = fooled.mean()
            log["train/queries"] = end["queries"][done].float().mean()
        if fooled.any():
            log["train/l2"] = end["l2"][done][fooled.bool()].mean()
        return log

    def _log_step(self, log: dict[str, Tensor]) -> None:
        log["charts/frames"] = self.counts[1].float()
        log["charts/queries"] = self.counts[2].float()
        self.log_dict(log, prog_bar=False, on_step=True, on_epoch=False)
        for key in ("train/fooling_rate", "train/reward", "cloning/correlation_before"):
            if key in log:
                self.log(key.split("/")[1], log[key], prog_bar=True, logger=False)

    # -- evaluation

    def attack(self, budget: int | None = None, distortion: Distortion | None = None) -> RLAttack:
        """The attack with the agents as they are now.

        Args:
            budget: queries per clip; None: `eval_budget`.
            distortion: what is done to the clips; None: the first that they are trained with.
        """
        return RLAttack(
            self.agents,
            distortion=distortion or self.distortion,
            budget=budget or self.eval_budget,
            seed=self.seed,
            progress=False,
        )

    def _evaluate(self, pair: Pair, clips: Tensor) -> AttackResult:
        pair.to(self.device)
        with torch.autocast(self.device.type, enabled=False):  # figures that are reported do not depend on precision
            return self.attack(distortion=pair.distortion)(pair.victim, clips)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Attacks held-out clips with the agents as they are: `val/fooling_rate`, `val/queries`,
        `val/l2`.

        With behaviour cloning also `val/correlation`, of the agents' logits with what probes of
        these clips have shown. Where there are several pairs of a victim and a distortion, each
        has its own, such as `val/l2/lrcn_ucf50_50/gaussian_blur`, and these are the means of all.
        """
        clips, _ = batch
        for pair in self.pairs:
            self._validate(pair, pair.fit(clips), batch_idx)

    def _validate(self, pair: Pair, clips: Tensor, batch_idx: int) -> None:
        result = self._evaluate(pair, clips)
        tried = ~result.skipped
        size = torch.where(result.success, metrics.l2(result.clean, result.adversarial), result.full_l2)
        log = {
            "val/fooling_rate": result.success[tried].float().mean(),
            "val/queries": result.queries[tried].float().mean(),
            "val/l2": size[tried].mean(),
        }
        if self.cloning.epochs and self.trainer.state.fn == "fit":
            log["val/correlation"] = self._held_out_correlation(pair, clips, batch_idx)
        for name, value in pair.labelled(log).items():  # what is logged again by one name becomes part of its mean
            self.log(name, value, on_epoch=True, sync_dist=True, batch_size=int(tried.sum()), prog_bar=name in log)

    def _held_out_correlation(self, pair: Pair, clips: Tensor, batch_idx: int) -> Tensor:
        """How well the agents foretell what probes of held-out clips have shown, given none to many
        of them.

        The probes are asked once, and again when a run is resumed. They count as training queries,
        because they may choose the checkpoint.
        """
        settings = self.cloning
        with torch.autocast(self.device.type, enabled=False):
            asked = pair.name, batch_idx
            if asked not in self._held_out:
                before = pair.victim.queries
                count, generator = HELD_OUT_PROBES * settings.probes, torch.Generator().manual_seed(self.seed)
                self._held_out[asked] = self._ask_probes(pair, clips, count, self.seed, generator)
                self._held_out_queries += pair.victim.queries - before
            found = []
            for share in torch.linspace(0, 1, HELD_OUT_DRAWS).tolist():
                generator = torch.Generator().manual_seed(self.seed)
                known = round(share * settings.n_known)
                found.append(cloning_loss(self.agents, self._held_out[asked], settings, generator, known)[1])
        return torch.stack(found).mean()

    def on_validation_epoch_end(self) -> None:
        """Counts the probes of held-out clips, those of all ranks."""
        spent = torch.tensor(self._held_out_queries, device=self.device)
        self.counts[2] += self.trainer.strategy.reduce(spent, reduce_op="sum")
        self._held_out_queries = 0
        self._note(self.counts)

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> str | list[str]:
        """Attacks a batch; gives the folder that its `AttackResult` is saved in, or of several
        pairs all folders."""
        clips, index = batch
        root, saved = Path(self.out or self.trainer.default_root_dir) / "predict", []
        for pair in self.pairs:
            name = "_".join(filter(None, [f"{int(index[0]):06d}", *pair.name.split("/")]))
            saved.append(str(self._evaluate(pair, pair.fit(clips)).save(root / name, overwrite=True)))
        return one_or_all(saved)

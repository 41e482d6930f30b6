"""Training of the two agents: a LightningModule fed by TorchRL's replay buffer and collector.

In the first epochs a training step asks about single tubelets of a batch of clips, and learns what
they are worth from all that was asked so far (`vidmarl.training.probing`). In epochs after these it
plays whole orders and makes some epochs of PPO over them (`vidmarl.training.orders`). Against
several victims and with several distortions each step has another pair (`vidmarl.training.pairs`).
Lightning shares the clips out between ranks and goes on after the last whole epoch. Every step has
a seed of its own, so nothing outside the checkpoint is needed to go on exactly, but for the probes
of several epochs of probing, which are kept in memory alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyStackStorage, ReplayBuffer
from torchrl.objectives import ClipPPOLoss

from vidmarl import metrics
from vidmarl.agents.checkpoint import pack_agents
from vidmarl.agents.environment import MOST_SETS, OrderEnv
from vidmarl.agents.features import CHANNELS
from vidmarl.agents.networks import Agents, AgentsConfig
from vidmarl.agents.observation import STATE
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
from vidmarl.training.checkpoints import SETTINGS, CheckpointFiles, read_checkpoint
from vidmarl.training.orders import order_loss, play
from vidmarl.training.pairs import DistortionLike, Pair, VictimLike, listed, make_pairs, one_or_all, victim_arguments
from vidmarl.training.probing import Probing, probe, probing_loss
from vidmarl.training.settings import ATTACKED_WITH, TRAINED_WITH, arguments_from, differences, settings_of
from vidmarl.training.settings import PPO as PPO
from vidmarl.utils.files import PathLike, readable
from vidmarl.utils.randomness import seeded
from vidmarl.victims import load_victim
from vidmarl.victims.victim import Victim

HELD_OUT_PROBES = 4
"""How many times as many probes a held-out clip gets: there are few of these, and they are asked
once."""


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
        width: hidden channels of the nets.
        depth: residual blocks of the nets.
        classes: classes of the victim that the nets tell apart; 0: they do not see which class the
            goal is about. Worth having where training clips are many and classes few.
        longest: frames that a tubelet lasts at most. One is best for MoViNet-A0 on real clips, 16
            for the small victim of the demo (docs/experiments.md).
        apart: whether neighbours keep apart in the orders (`vidmarl.agents.order_distribution`).
            Worth having for noise, and not for blur.
        ppo: the settings of play.
        probing: the settings of probing, which comes before play.
        eval_budget: queries per clip in validation and prediction.
        seed: of the nets, of the distortion and of what is asked.
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
        width: int = 32,
        depth: int = 2,
        classes: int = 0,
        longest: int = 1,
        apart: bool = True,
        ppo: PPO = PPO(),  # noqa: B008 (frozen)
        probing: Probing = Probing(),  # noqa: B008 (frozen)
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
        if eval_budget < 1:
            raise ValueError(f"TwoAgentPPO: eval_budget must be at least 1, got {eval_budget}.")
        self.ppo = ppo
        self.probing = probing
        self.eval_budget = eval_budget
        self.seed = seed
        self.out = out
        with seeded(seed):
            self.agents = Agents(AgentsConfig(CHANNELS, len(STATE), width, depth, classes, longest, apart))
        # of all ranks: steps; orders; queries
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64))
        self._note(self.counts)
        self._loss: ClipPPOLoss
        self._replay: dict[torch.Size, ReplayBuffer] = {}
        self._held_out: dict[tuple[str, int], TensorDict] = {}
        self._held_out_queries = 0

    def _note(self, counts: Tensor) -> None:
        """Keeps with the agents what they are trained for, as plain data."""
        _, orders, queries = counts.tolist()
        self.agents.trained = {
            "victim": one_or_all([victim.name for victim in self.victims]),
            "distortion": one_or_all([distortion.to_record() for distortion in self.distortions]),
            "grid": [self.grid.frames, self.grid.height, self.grid.width],
            "search_cell": self.search_cell,
            "coherence": self.coherence,
            "training_orders": orders,
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
        # one optimiser over both nets: one loss, one backward, one step, which is what DDP wants
        return torch.optim.Adam(self.agents.parameters(), lr=self.ppo.lr, eps=1e-5)

    # -- training

    def on_fit_start(self) -> None:
        """Forgets what an earlier fit has asked."""
        self._held_out, self._replay = {}, {}

    def on_train_start(self) -> None:
        """Builds what lives on this rank's device. As a submodule it would put every parameter into
        the state dict again."""
        object.__setattr__(self, "_loss", order_loss(self.agents, self.ppo.orders, self.ppo.clip))

    def on_train_epoch_start(self) -> None:
        """Where play begins, forgets the moments of probing's gradients: these are larger, and
        would hold back Adam's steps for a thousand updates."""
        if self.current_epoch == self.probing.epochs:
            cast("torch.optim.Optimizer", self.optimizers(use_pl_optimizer=False)).state.clear()

    def training_step(self, clips: Tensor, batch_idx: int) -> None:
        """Asks about `clips`, float32[b 3 t h w], with the pair whose turn it is, and learns from
        it."""
        number = int(self.counts[0]) % len(self.pairs)
        pair = self.pairs[number]
        clips, before = pair.fit(clips), pair.victim.queries
        if self.current_epoch < self.probing.epochs:
            orders, log = 0, self._learn_from_probes(pair, clips)
        else:
            self._replay = {}
            orders, log = self._play(pair, clips)
        spent = torch.tensor([1, orders, pair.victim.queries - before], device=self.device)
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

    def _learn_from_probes(self, pair: Pair, clips: Tensor) -> dict[str, Tensor]:
        """Probes the clips, and learns what tubelets are worth from the probes of all clips so far,
        those of one shape after those of another.

        The probes are not in checkpoints: a run that is resumed within several epochs of probing
        goes on with those of its own epochs alone.
        """
        settings, seed = self.probing, self._rank_seed()
        generator = torch.Generator().manual_seed(seed)
        fresh = self._ask_probes(pair, clips, settings.probes, seed, generator)
        log = {}
        with torch.no_grad():  # before any update has seen these probes
            log["probing/correlation_before"] = probing_loss(self.agents, fresh, settings)[1]
        self._remember(fresh)
        optimizer = cast("torch.optim.Optimizer", self.optimizers())
        for group in optimizer.param_groups:
            group["lr"] = settings.lr
        for known in itertools.islice(itertools.cycle(self._replay.values()), settings.updates):
            known.set_rng(generator)
            batch = known.sample().contiguous()  # one stack of tensors, not a list of clips: much faster
            loss, correlation = probing_loss(self.agents, batch, settings)
            self._descend(optimizer, loss)
        for group in optimizer.param_groups:
            group["lr"] = self.ppo.lr
        return log | {"probing/loss": loss.detach(), "probing/correlation": correlation.detach()}

    def _ask_probes(self, pair: Pair, clips: Tensor, count: int, seed: int, generator: torch.Generator) -> TensorDict:
        """Opens a session on the clips for nothing but probes."""
        config = self.agents.config
        with torch.autocast(self.device.type, enabled=False):  # what the victim says does not depend on precision
            session = self._session(pair, clips, count + 1, seed)
            return probe(session, count, generator, config.classes, config.longest)

    def _remember(self, probes: TensorDict) -> None:
        """Keeps probes of clips of one shape with those of others of that shape."""
        shape = probes["seen", "features"].shape[1:]  # also says how many cells were probed
        if shape not in self._replay:
            self._replay[shape] = ReplayBuffer(storage=LazyStackStorage(), batch_size=self.probing.minibatch)
        self._replay[shape].extend(probes)

    def _play(self, pair: Pair, clips: Tensor) -> tuple[int, dict[str, Tensor]]:
        """Plays some orders of each clip, and learns from what they have led to; how many they
        were, and what to log."""
        seed, count, config = self._rank_seed(), self.ppo.orders, self.agents.config
        with torch.autocast(self.device.type, enabled=False):
            session = self._session(pair, clips, 1 + count * MOST_SETS, seed)
        env = OrderEnv(session, count, config.classes, config.longest)
        played = play(env, self.agents, count, seed)
        log = self._learn(played, torch.Generator().manual_seed(seed))
        log["train/fooling_rate"] = played["fooled"].float().mean()
        if played["fooled"].any():
            log["train/l2"] = played["size"][played["fooled"]].mean()
        return played["size"].numel(), log

    def _learn(self, played: TensorDict, generator: torch.Generator) -> dict[str, Tensor]:
        """Some epochs of PPO over the orders of some clips; the mean of every logged value, and the
        first probability ratio, which has to be 1."""
        optimizer = cast("torch.optim.Optimizer", self.optimizers())
        logged: list[dict[str, Tensor]] = []
        for _ in range(self.ppo.epochs):
            shuffled = torch.randperm(len(played), generator=generator).to(self.device)
            for index in shuffled.split(max(1, self.ppo.minibatch // self.ppo.orders)):
                said = self._loss(played[index])
                self._descend(optimizer, said["loss_objective"])
                keys = {"approx_kl": "kl_approx", "clipfrac": "clip_fraction", "ratio": "mean_ratio"}
                keys |= {"policy_loss": "loss_objective"}
                logged.append({f"losses/{name}": said[key].detach() for name, key in keys.items()})
            if self._strayed(logged[-1]["losses/approx_kl"]):
                break
        mean = {key: torch.stack([entry[key] for entry in logged]).mean() for key in logged[0]}
        return mean | {"losses/first_ratio": logged[0]["losses/ratio"]}

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """One gradient step."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=self.ppo.max_grad_norm, gradient_clip_algorithm="norm")
        optimizer.step()

    def _strayed(self, kl: Tensor) -> bool:
        """Whether the agents are too far from those that have played: on the value that all ranks
        agree on, because a rank that stopped alone would hang the others."""
        return self.ppo.target_kl is not None and bool(self.trainer.strategy.reduce(kl) > self.ppo.target_kl)

    def _log_step(self, log: dict[str, Tensor]) -> None:
        log["charts/orders"] = self.counts[1].float()
        log["charts/queries"] = self.counts[2].float()
        self.log_dict(log, prog_bar=False, on_step=True, on_epoch=False)
        for key in ("train/fooling_rate", "probing/correlation_before"):
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

        With probing also `val/correlation`, of the agents' logits with what probes of
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
        if self.probing.epochs and self.trainer.state.fn == "fit":
            log["val/correlation"] = self._held_out_correlation(pair, clips, batch_idx)
        for name, value in pair.labelled(log).items():  # what is logged again by one name becomes part of its mean
            self.log(name, value, on_epoch=True, sync_dist=True, batch_size=int(tried.sum()), prog_bar=name in log)

    def _held_out_correlation(self, pair: Pair, clips: Tensor, batch_idx: int) -> Tensor:
        """How well the agents predict what probes of held-out clips have shown.

        The probes are asked once, and again when a run is resumed. They count as training queries,
        because they may choose the checkpoint.
        """
        asked = pair.name, batch_idx
        if asked not in self._held_out:
            before = pair.victim.queries
            count, generator = HELD_OUT_PROBES * self.probing.probes, torch.Generator().manual_seed(self.seed)
            self._held_out[asked] = self._ask_probes(pair, clips, count, self.seed, generator)
            self._held_out_queries += pair.victim.queries - before
        with torch.autocast(self.device.type, enabled=False):
            return probing_loss(self.agents, self._held_out[asked], self.probing)[1]

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

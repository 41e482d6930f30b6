"""Training of victims: a LightningModule that tunes any network on any labelled clips.

The network gets a new last layer where the classes are not its own. It learns by cross entropy,
AdamW (Loshchilov and Hutter 2019) and a rate that rises and then falls as a cosine (Loshchilov and
Hutter 2017).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from vidmarl.data.module import Batch
from vidmarl.data.spec import ClipSpec
from vidmarl.errors import CheckpointError, SettingsError, nearest
from vidmarl.training.checkpoints import CheckpointFiles
from vidmarl.training.victim_data import LabelledClips
from vidmarl.utils.files import PathLike, load_tensors
from vidmarl.utils.kinds import check_least, checked
from vidmarl.utils.randomness import seeded
from vidmarl.victims.accuracy import Accuracy, ranks
from vidmarl.victims.loading import load_victim
from vidmarl.victims.outputs import find_scores
from vidmarl.victims.saved import classifier, network_name, network_of, with_classes
from vidmarl.victims.victim import Victim


@dataclasses.dataclass(frozen=True)
class Tested:
    """What a test has found.

    Attributes:
        labels: int64[n], the classes of the videos.
        probabilities: float32[n k], of each class, the mean over a video's views.
        positions: int64[n], of the videos in their source.
    """

    labels: Int64[Tensor, " n"]
    probabilities: Float[Tensor, "n k"]
    positions: Int64[Tensor, " n"]

    @property
    def accuracy(self) -> Accuracy:
        """How often it was right."""
        return Accuracy(self.labels, ranks(self.probabilities.log(), self.labels))


class VictimTraining(L.LightningModule):
    """The trainer of a victim.

    Args:
        victim: a name, a path or a description for `vidmarl.load_victim`, or a `Victim`. What it
            has learnt is what training goes on from.
        weights: of a named victim: a file, "random", or None for its default.
        spec: how clips are made for it; None: its own way.
        freeze: the parameters that keep their values, as patterns of their names, such as
            ["stem.*", "blocks.[0-3].*"]; ["*"] trains a new last layer alone, which no pattern
            freezes. Layers whose parameters are all frozen stay in eval mode.
        lr: the highest learning rate.
        weight_decay: of AdamW; for weights, not for biases and scales.
        warm_up: share of the steps in which the rate rises.
        zoom: the least share of a training clip's height and width that is cut out at random, and
            scaled up; 1: none is.
        seed: of the last layer and the zoom.
        out: the folder that `vidmarl victims fit` writes.

    Attributes:
        victim: who is trained.
        network_name: what leads to its network, see `vidmarl.victims.saved`.
        tested: what the last test has found.
    """

    @checked
    def __init__(
        self,
        victim: str | dict[str, Any] | Victim = "movinet_a0",
        weights: str | None = None,
        spec: ClipSpec | None = None,
        freeze: list[str] | None = None,
        lr: float = 3e-4,
        weight_decay: float = 0.05,
        warm_up: float = 0.1,
        zoom: float = 1.0,
        seed: int = 0,
        out: str = "outputs/victim",
    ) -> None:
        super().__init__()
        check_least("VictimTraining", lr=(lr, 0), weight_decay=(weight_decay, 0), seed=(seed, 0))
        for name, share in (("warm_up", warm_up), ("zoom", zoom)):
            if not 0 <= share <= 1 or (name == "zoom" and share == 0):
                raise ValueError(
                    f"VictimTraining: {name} must be in {'(' if name == 'zoom' else '['}0, 1], got {share}."
                )
        self.victim = victim if isinstance(victim, Victim) else load_victim(victim, weights, spec=spec, device="cpu")
        self.network_name = network_name(victim)
        self.network = network_of(self.victim)
        self.freeze_patterns = list(freeze or ())
        self.lr = lr
        self.weight_decay = weight_decay
        self.warm_up = warm_up
        self.zoom = zoom
        self.seed = seed
        self.out = out
        self.tested: Tested | None = None
        self._labels: dict[str, Tensor] = {}
        self._answers: list[tuple[Tensor, Tensor]] = []

    @property
    def data(self) -> LabelledClips:
        """The clips of the Trainer.

        Raises:
            SettingsError: they are no `LabelledClips`.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, LabelledClips):
            raise SettingsError(f"Training a victim: expected LabelledClips as datamodule, got {type(data).__name__}.")
        return data

    def setup(self, stage: str) -> None:
        """Gives the network a last layer for the classes of the clips, and freezes what is to
        be."""
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = VictimCheckpoints()
        self._labels = {part: self.data.labels(part) for part in self.data.sources}
        with seeded(self.seed):
            self.victim = with_classes(self.victim, self.data.classes)
        last, _ = classifier(self.network)
        own = [name for name, _ in self.network.named_parameters() if not name.startswith(f"{last}.")]
        for pattern in self.freeze_patterns:
            if not fnmatch.filter(own, pattern):
                raise SettingsError(
                    f"Training a victim: no parameter before the last layer matches the pattern {pattern!r} of"
                    f" freeze; {nearest(pattern, own)}"
                )
        for name, parameter in self.network.named_parameters():
            frozen = name in own and any(fnmatch.fnmatch(name, pattern) for pattern in self.freeze_patterns)
            parameter.requires_grad_(not frozen)
        if stage == "fit":
            self.train()

    def train(self, mode: bool = True) -> VictimTraining:
        """As of every module; but what is frozen stays in eval mode, so that its statistics stay
        too."""
        super().train(mode)
        for layer in self.network.modules():
            own = list(layer.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                layer.eval()
        return self

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        rising = round(self.warm_up * steps)

        def rate(step: int) -> float:
            if step < rising:
                return (step + 1) / (rising + 1)
            return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        """Log-probabilities of clips in [0, 1], with their gradients; no query of the victim's."""
        victim = self.victim
        prepared = victim._preprocess(clips)
        scores = find_scores(self.network(prepared), len(clips), victim.outputs, victim.n_classes, repr(victim.name))
        return scores.float().log_softmax(1) if victim.outputs == "logits" else scores.float().clamp_min(1e-12).log()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The cross entropy of a batch, each clip zoomed into."""
        clips, positions = batch
        labels = self._labels["train"].to(self.device)[positions]
        log_probs = self(self._zoomed(clips, batch_idx))
        loss = F.nll_loss(log_probs, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/top1", (log_probs.argmax(1) == labels).float().mean(), on_step=False, on_epoch=True)
        return loss

    def _zoomed(self, clips: Tensor, batch_idx: int) -> Tensor:
        """A window of each clip, the same in all of its frames, at the size of the whole."""
        if self.zoom == 1:
            return clips
        from kornia.augmentation import RandomResizedCrop, VideoSequential

        height, width = clips.shape[-2:]
        crop = RandomResizedCrop(
            (height, width), scale=(self.zoom**2, 1.0), ratio=(width / height, width / height), p=1.0
        )
        step = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        with seeded(hash(step) & 0x7FFFFFFF):
            zoomed: Tensor = VideoSequential(crop, data_format="BCTHW", same_on_frame=True)(clips)
        return zoomed.clamp(0, 1)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keeps what the network says of a batch."""
        self._ask(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keeps what the network says of a batch."""
        self._ask(batch)

    def _ask(self, batch: Batch) -> None:
        clips, positions = batch
        self._answers.append((self(clips).exp(), positions))

    def on_validation_epoch_end(self) -> None:
        """Logs "val/loss", "val/top1" and "val/top5"."""
        self._measure("val", 1)

    def on_test_epoch_end(self) -> None:
        """Logs "test/loss", "test/top1" and "test/top5", and keeps what was found."""
        self.tested = self._measure("test", self.data.views_per_video)

    def _measure(self, part: str, views: int) -> Tested:
        """What all ranks have been told, each view once: a rank may have been given one twice, to
        be even with the others."""
        probabilities, numbers = (torch.cat(each) for each in zip(*self._answers, strict=True))
        self._answers.clear()
        if self.trainer.world_size > 1:
            every: list[Any] = [self.all_gather(each) for each in (probabilities, numbers)]
            probabilities, numbers = (each.flatten(0, 1) for each in every)
        by_view = dict(zip(numbers.tolist(), probabilities.cpu(), strict=True))
        by_video: dict[int, list[Tensor]] = {}
        for number in sorted(by_view):
            by_video.setdefault(number // views, []).append(by_view[number])
        positions = torch.tensor(list(by_video))
        mean = torch.stack([torch.stack(each).mean(0) for each in by_video.values()])
        tested = Tested(self._labels[part][positions], mean, positions)
        classes = mean.shape[1]
        figures = {"loss": F.nll_loss(mean.clamp_min(1e-12).log(), tested.labels)}
        for top in (1, 5):
            figures[f"top{top}"] = multiclass_accuracy(
                mean, tested.labels, classes, average="micro", top_k=min(top, classes)
            )
        self.log_dict({f"{part}/{name}": figure for name, figure in figures.items()}, prog_bar=True)
        return tested


class VictimCheckpoints(CheckpointFiles):
    """Checkpoints of victims, written and read as those of agents."""

    def load_checkpoint(
        self, path: PathLike, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """A checkpoint of a victim's training.

        Raises:
            FileNotFoundError: there is no file at the path.
            CheckpointError: it is damaged, or holds something else.
        """
        content = load_tensors(path, "Loading a checkpoint")
        if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
            raise CheckpointError(f"Loading the checkpoint {path}: expected one of `vidmarl victims fit`.")
        return content

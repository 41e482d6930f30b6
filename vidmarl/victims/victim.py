"""The victim: the only door to the classifier under test, and the only place where queries are
counted.

A query is one clip through the model, whoever asks and why. Sixteen clips in one batch are sixteen
queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import ClipSpec, validate_clips
from vidmarl.errors import UnknownNameError, VictimError
from vidmarl.registry import explain_settings
from vidmarl.utils.devices import usable_device
from vidmarl.victims.check import CheckReport, check

CLIP_AXES = "b c t h w"

PIXELS_AT_ONCE = 2**25
"""Pixels of a forward pass on an accelerator, all clips and frames together: 64 clips of 16 frames
of 181 px."""


@explain_settings
class Victim:
    """Any callable from clips to scores, with its preprocessing, behind a query counter.

    Clips come in as float32[b 3 t h w], RGB in [0, 1], not normalised; what the model wants (mean
    and std, size, axis order, device, batch size) happens in here and nowhere else.

    Args:
        model: callable from a batch of clips to scores [b, k]. An `nn.Module` is moved to `device`
            and put in eval mode.
        mean: per-channel mean that is subtracted, or None.
        std: per-channel std by which it is divided, or None.
        spec: how `load_clips` makes clips for this victim. Its size is also enforced here:
            clips of another size are resized (bilinear) before they reach the model.
        layout: axis order that the model wants, a permutation of "b c t h w", such as "b t c h w"
            or "b t h w c". "(b t) c h w" gives frame-wise models one long batch.
        outputs: what the scores are: "logits" or "probabilities".
        labels: class names in the order of the scores.
        name: how the victim is called in results.
        device: where the model runs; "auto" is a GPU where there is one. None: where its parameters
            are, or else the clips.
        batch_size: clips per forward pass; None: 2 on a CPU, whose caches hold no more; on an
            accelerator as many as have `PIXELS_AT_ONCE` pixels.

    Attributes:
        queries: clips that have gone through the model since this victim was made, all askers
            together.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        spec: ClipSpec | None = None,
        layout: str = CLIP_AXES,
        outputs: Literal["logits", "probabilities"] = "logits",
        labels: Sequence[str] | None = None,
        name: str | None = None,
        device: torch.device | str | None = None,
        batch_size: int | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"Victim: expected a callable from clips to scores, got {type(model).__name__}.")
        if outputs not in ("logits", "probabilities"):
            raise ValueError(f"Victim: outputs must be 'logits' or 'probabilities', got {outputs!r}.")
        axes = layout.replace("(", " ").replace(")", " ").split()
        if sorted(axes) != sorted(CLIP_AXES.split()):
            raise ValueError(f"Victim: layout must order the axes of {CLIP_AXES!r}, got {layout!r}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"Victim: batch_size must be at least 1, got {batch_size}.")
        for what, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != 3:
                raise ValueError(f"Victim: {what} needs one value for each of R, G and B, got {list(values)}.")
        if std is not None and min(std) <= 0:
            raise ValueError(f"Victim: std must be positive, got {list(std)}.")
        self.model = model
        self.mean = None if mean is None else tuple(mean)
        self.std = None if std is None else tuple(std)
        self.spec = spec
        self.layout = layout
        self.outputs = outputs
        self.labels = None if labels is None else list(labels)
        self.name = name or getattr(model, "__name__", type(model).__name__)
        self.batch_size = batch_size
        self.queries = 0
        self.n_classes: int | None = None if labels is None else len(self.labels or ())
        self._device = None if device is None else usable_device(device, "Making a Victim")
        if isinstance(model, nn.Module):
            model.eval()
            if self._device is not None:
                model.to(self._device)

    def __repr__(self) -> str:
        device = "that of the clips" if self.device is None else str(self.device)
        return (
            f"{type(self).__name__}({self.name!r}, classes={self.n_classes}, outputs={self.outputs!r},"
            f" device={device!r}, spec={self.spec}, queries={self.queries})"
        )

    def to(self, device: torch.device | str) -> Victim:
        """Moves the model, and with it every later query, to a device.

        Raises:
            ValueError: there is no such device.
        """
        self._device = usable_device(device, f"Moving the victim {self.name!r}")
        if isinstance(self.model, nn.Module):
            self.model.to(self._device)
        return self

    @property
    def device(self) -> torch.device | None:
        """Where the model runs; None: wherever the clips are."""
        if self._device is not None:
            return self._device
        if isinstance(self.model, nn.Module):
            return next((p.device for p in self.model.parameters()), None)
        return None

    def label(self, index: int) -> str:
        """The name of a class, or its number where the victim has no names."""
        return str(int(index)) if self.labels is None else self.labels[int(index)]

    def class_index(self, wanted: str | int) -> int:
        """The index of a class that is given by its name (upper and lower case alike) or its index.

        Raises:
            UnknownNameError: no class has that name.
            ValueError: the victim has no names, or no class of that index.
        """
        if isinstance(wanted, int) or wanted.isdecimal():
            index = int(wanted)
            if index < 0 or (self.n_classes is not None and index >= self.n_classes):
                raise ValueError(
                    f"Looking up the class {index}: the victim {self.name!r} has {self.n_classes} classes."
                )
            return index
        if self.labels is None:
            raise ValueError(f"Looking up the class {wanted!r}: the victim {self.name!r} has no names; give the index.")
        folded = [label.casefold() for label in self.labels]
        if wanted.casefold() not in folded:
            raise UnknownNameError(f"class of {self.name!r}", wanted, self.labels)
        return folded.index(wanted.casefold())

    def __call__(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b k"]:
        """Asks the model: `b` queries.

        Args:
            clips: float[b 3 t h w] in [0, 1].

        Returns:
            Log-probabilities, float32[b k], on the clips' device.

        Raises:
            ClipError: the clips have another shape, dtype or range.
            VictimError: the model raised, or its scores have the wrong shape or are not finite.
        """
        validate_clips(clips, "asking the victim")
        on_cpu = (self.device or clips.device).type == "cpu"
        height, width = self.spec.size if self.spec is not None else clips.shape[-2:]
        size = self.batch_size or (2 if on_cpu else max(1, PIXELS_AT_ONCE // (clips.shape[2] * height * width)))
        answers = [self._forward(chunk) for chunk in clips.split(size)]
        return torch.cat(answers).to(clips.device)

    def _forward(self, clips: Tensor) -> Tensor:
        device = self.device or clips.device
        with torch.no_grad():
            batch = self._preprocess(clips.to(device, torch.float32))
            self.queries += len(clips)  # before the call: a model that raises has been asked all the same
            try:
                scores = self.model(batch)
            except Exception as error:
                raise VictimError(
                    f"Asked the victim {self.name!r} about {len(clips)} clips, given to it as"
                    f" {tuple(batch.shape)} ({self.layout}): it raised {type(error).__name__}: {error}"
                ) from error
        return self._log_probs(scores, len(clips))

    def _preprocess(self, clips: Tensor) -> Tensor:
        if self.spec is not None and tuple(clips.shape[-2:]) != self.spec.size:
            frames = rearrange(clips, "b c t h w -> (b t) c h w")
            frames = F.interpolate(
                frames, self.spec.size, mode="bilinear", align_corners=False, antialias=self.spec.antialias
            )
            clips = rearrange(frames, "(b t) c h w -> b c t h w", b=len(clips))
        if self.mean is not None:
            clips = clips - clips.new_tensor(self.mean).view(3, 1, 1, 1)
        if self.std is not None:
            clips = clips / clips.new_tensor(self.std).view(3, 1, 1, 1)
        return clips if self.layout == CLIP_AXES else rearrange(clips, f"{CLIP_AXES} -> {self.layout}").contiguous()

    def _log_probs(self, scores: Any, clips: int) -> Tensor:
        who = f"The victim {self.name!r}"
        if not isinstance(scores, Tensor):
            try:
                scores = torch.as_tensor(scores)
            except Exception as error:
                raise VictimError(f"{who} returned {type(scores).__name__}: expected scores [b, k].") from error
        if scores.ndim != 2 or len(scores) != clips or scores.shape[1] < 2:
            raise VictimError(
                f"{who} returned scores of shape {tuple(scores.shape)} for {clips} clips: expected [{clips}, k] with"
                " k >= 2 classes. Wrap the model so that it returns one row of class scores per clip."
            )
        if self.n_classes is None:
            self.n_classes = scores.shape[1]
        elif scores.shape[1] != self.n_classes:
            raise VictimError(f"{who} returned {scores.shape[1]} scores per clip: expected {self.n_classes}.")
        answers: Tensor = scores.detach().float()
        bad = ~answers.isfinite().all(1)
        if bad.any():
            raise VictimError(
                f"{who} returned NaN or infinite scores for {int(bad.sum())} of {clips} clips. Check its weights, its"
                " precision (half precision overflows) and its normalisation."
            )
        if self.outputs == "logits":
            return answers.log_softmax(1)
        if answers.amin() < -1e-4 or (answers.sum(1) - 1).abs().amax() > 1e-2:
            raise VictimError(
                f"{who} was declared to return probabilities, but its scores span [{answers.amin():.3g},"
                f" {answers.amax():.3g}] and rows sum to {answers.sum(1).mean():.3g}: use outputs='logits'?"
            )
        return answers.clamp_min(1e-12).log()

    def check(self, clips: Float[Tensor, "b 3 t h w"]) -> CheckReport:
        """Looks whether the model is fit for a black-box attack. Costs `2 b + 1` queries.

        Args:
            clips: a few clips as the attack will get them, float[b 3 t h w] in [0, 1].

        Returns:
            Findings on range, size, train mode, shape, determinism, independence of the batch and
            confidence.

        Raises:
            ClipError: the clips are unusable for any victim.
            VictimError: the model cannot be asked at all.
        """
        return check(self, clips)

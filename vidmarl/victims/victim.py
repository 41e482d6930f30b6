"""The victim: the only door to the classifier under test, and the only place where queries are
counted.

A query is one clip through the model, whoever asks and why. Sixteen clips in one batch are sixteen
queries.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vidmarl.data.resize import resize_clips
from vidmarl.data.spec import ClipSpec, validate_clips
from vidmarl.errors import UnknownNameError, VictimError
from vidmarl.registry import explain_settings
from vidmarl.utils import markup
from vidmarl.utils.devices import usable_device
from vidmarl.utils.fingerprints import fingerprint
from vidmarl.utils.precision import default_dtype
from vidmarl.victims.attempts import Attempts
from vidmarl.victims.check import PROBABILITIES_AS_LOGITS, CheckReport, check
from vidmarl.victims.outputs import Outputs, are_probabilities, find_decisions, find_scores

if TYPE_CHECKING:
    from vidmarl.victims.journal import Journal

CLIP_AXES = "b c t h w"

PIXELS_AT_ONCE = 2**25
"""Pixels of a forward pass on an accelerator, all clips and frames together: 64 clips of 16 frames
of 181 px."""

_COUNTING = threading.Lock()
"""Held where a query is counted: several threads may ask one victim."""


@runtime_checkable
class CountsAttempts(Protocol):
    """A model that may be asked more than once to answer once, as one at the end of a line that
    fails."""

    def ask_counted(self, clips: Any, attempts: Attempts) -> Any:
        """The scores of clips, in their order, but for those that are given up on the way; counts
        every attempt that may have reached the model, before its answer is there."""


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What a model may compute in; one with parameters in anything else (8 bits) gets float32."""


@explain_settings
class Victim:
    """Any callable from clips to scores, with its preprocessing, behind a query counter.

    Clips come in as float32[b 3 t h w], RGB in [0, 1], not normalised; what the model wants (mean
    and std, size, axis order, device, batch size) happens in here and nowhere else.

    Args:
        model: callable from a batch of clips to scores [b, k], or to a tuple, dict or `ModelOutput`
            of tensors or arrays with such scores in it (see `vidmarl.victims.outputs`). An
            `nn.Module` is moved to `device`, put in eval mode, and given clips in the precision of
            its parameters; any other callable gets float32.
        mean: per-channel mean that is subtracted, for values in [0, 1], or None.
        std: per-channel std by which it is divided, for values in [0, 1], or None.
        spec: how `load_clips` makes clips for this victim. Its size is also enforced here:
            clips of another size are resized (bilinear) before they reach the model.
        channels: the order of the colours that the model wants, "rgb" or "bgr". `mean` and `std`
            are those of R, G and B all the same.
        input: the values that the model wants: "float", in [0, 1] before `mean` and `std`, or
            "uint8", from 0 to 255.
        numpy: whether the model takes NumPy arrays; else tensors.
        layout: axis order that the model wants, a permutation of "b c t h w", such as "b t c h w"
            or "b t h w c". "(b t) c h w" gives frame-wise models one long batch.
        outputs: what the model returns: "logits", "probabilities", or "decisions" where it says
            nothing but a class: the index or the name of one for each clip, or a row of scores of
            which only the highest counts. Attacks that go by scores refuse such a victim.
        deterministic: whether the same clips get the same scores; False for a model that draws at
            random, as some defences do, so that `check` expects it.
        labels: class names in the order of the scores, or a dict from each index to its name, such
            as `model.config.id2label`, or the path of a text file with a name a line.
        name: how the victim is called in results.
        device: where the model runs; "auto" is a GPU where there is one. None: where its parameters
            are, or else the clips.
        batch_size: clips per forward pass; None: 2 on a CPU, whose caches hold no more; on an
            accelerator as many as have `PIXELS_AT_ONCE` pixels.

    Attributes:
        queries: clips that have gone through the model since this victim was made, all askers
            together.
        scores_are_distributions: whether the first scores had nothing below 0 and rows that sum to
            1, as probabilities do; None before the first query.
        journal: what answers what was asked before, see `vidmarl.victims.journal`; None: nothing.
    """

    def __init__(
        self,
        model: Callable[[Any], Any],
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        spec: ClipSpec | None = None,
        channels: Literal["rgb", "bgr"] = "rgb",
        input: Literal["float", "uint8"] = "float",
        numpy: bool = False,
        layout: str = CLIP_AXES,
        outputs: Outputs = "logits",
        deterministic: bool = True,
        labels: Sequence[str] | Mapping[Any, str] | str | Path | None = None,
        name: str | None = None,
        device: torch.device | str | None = None,
        batch_size: int | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"Victim: expected a callable from clips to scores, got {type(model).__name__}.")
        for setting, value, allowed in (
            ("outputs", outputs, get_args(Outputs)),
            ("channels", channels, ("rgb", "bgr")),
            ("input", input, ("float", "uint8")),
        ):
            if value not in allowed:
                told = f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"
                raise ValueError(f"Victim: {setting} must be {told}, got {value!r}.")
        if input == "uint8" and (mean is not None or std is not None):
            raise ValueError("Victim: a model that takes uint8 normalises by itself; leave out mean and std.")
        axes = layout.replace("(", " ").replace(")", " ").split() if isinstance(layout, str) else []
        if sorted(axes) != sorted(CLIP_AXES.split()):
            raise ValueError(f"Victim: layout must order the axes of {CLIP_AXES!r}, got {layout!r}.")
        if spec is not None and not isinstance(spec, ClipSpec):
            raise TypeError(f"Victim: spec must be a ClipSpec, such as ClipSpec(frames=16, size=112), got {spec!r}.")
        self.model = model
        self.mean = None if mean is None else _per_channel("mean", mean)
        self.std = None if std is None else _per_channel("std", std)
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"Victim: std must be positive, got {list(self.std)}.")
        self.spec = spec
        self.channels = channels
        self.input = input
        self.numpy = numpy
        self.layout = layout
        self.outputs = outputs
        self.deterministic = deterministic
        self.labels = None if labels is None else _in_order(labels)
        if not isinstance(name, str | None):
            raise TypeError(f"Victim: name must be a text, or None, got {name!r}.")
        self.name = name or getattr(model, "__name__", type(model).__name__)
        self.batch_size = batch_size
        self.queries = 0
        self.journal: Journal | None = None
        self.scores_are_distributions: bool | None = None
        self.n_classes: int | None = None if self.labels is None else len(self.labels)
        self._default_dtype = torch.get_default_dtype()  # the model's own tensors go with it; an attack has float32
        self._device = None if device is None else usable_device(device, "Making a Victim")
        if isinstance(model, nn.Module):
            _put_in_eval_mode(model)
            if self._device is not None:
                model.to(self._device)

    def __repr__(self) -> str:
        device = "that of the clips" if self.device is None else str(self.device)
        return (
            f"{type(self).__name__}({self.name!r}, classes={self.n_classes}, outputs={self.outputs!r},"
            f" device={device!r}, spec={self.spec}, queries={self.queries})"
        )

    def _repr_html_(self) -> str:
        """What it is, for notebooks."""
        known = ", ".join(itertools.islice(self.labels or (), 5))
        values = {
            "classes": self.n_classes,
            "labels": known + ", …" if self.labels is not None and len(self.labels) > 5 else known or None,
            "clips": self.spec,
            "outputs": self.outputs,
            "runs on": self.device or "the device of the clips",
            "queries so far": f"{self.queries:,}",
        }
        return markup.facts(f"{type(self).__name__}: {self.name}", values)

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
    def batch_size(self) -> int | None:
        """Clips per forward pass; None: what suits the device.

        Raises:
            ValueError: it is set to anything but None or a whole number of at least 1.
        """
        return self._batch_size

    @batch_size.setter
    def batch_size(self, value: int | None) -> None:
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < 1):
            raise ValueError(f"Victim: batch_size must be a whole number of at least 1, or None, got {value!r}.")
        self._batch_size = None if value is None else int(value)

    @property
    def device(self) -> torch.device | None:
        """Where the model runs; None: wherever the clips are."""
        if self._device is not None:
            return self._device
        if isinstance(self.model, nn.Module):
            return next((p.device for p in self.model.parameters()), None)
        return None

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the model gets its clips: that of its parameters."""
        if isinstance(self.model, nn.Module):
            kept = itertools.chain(self.model.parameters(), self.model.buffers())
            return next((tensor.dtype for tensor in kept if tensor.dtype in DTYPES), torch.float32)
        return torch.float32

    @property
    def decisions_only(self) -> bool:
        """Whether it says nothing but a class: of an answer, only which class it is means
        anything."""
        return self.outputs == "decisions"

    def identity(self) -> dict[str, Any]:
        """All that decides what it says, as plain data; of a network the sha256 of its weights.

        A callable that is no `nn.Module` is known by its name alone, or has its own `sha256`.
        """
        network = fingerprint(self.model) if isinstance(self.model, nn.Module) else getattr(self.model, "sha256", None)
        unusual = {"channels": "rgb", "input": "float", "numpy": False, "deterministic": True}
        return {
            **{name: value for name, usual in unusual.items() if (value := getattr(self, name)) != usual},
            "name": self.name,
            "network": network,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "layout": self.layout,
            "outputs": self.outputs,
            "spec": None if self.spec is None else dataclasses.asdict(self.spec) | {"size": list(self.spec.size)},
        }

    def label(self, index: int) -> str:
        """The name of a class, or its number where the victim has no names."""
        return str(int(index)) if self.labels is None else self.labels[int(index)]

    def class_index(self, wanted: str | int) -> int:
        """The index of a class that is given by its name (upper and lower case alike) or its index.

        Raises:
            UnknownNameError: no class has that name.
            ValueError: the victim has no names, or no class of that index.
            TypeError: it is neither a name nor an index.
        """
        if isinstance(wanted, bool) or not isinstance(wanted, str | Integral):
            raise TypeError(f"Looking up the class {wanted!r}: expected its name or its index.")
        if isinstance(wanted, Integral) or wanted.isdecimal():
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
            Log-probabilities, float32[b k], on the clips' device; -inf for a class that the model
            rules out with a score of -inf. Of decisions, 0 for the class and -inf for all others.

        Raises:
            ClipError: the clips have another shape, dtype or range.
            VictimError: the model raised, or its scores have the wrong shape, or are NaN or +inf.

        Warns:
            UserWarning: at the first query, if scores that are said to be logits are probabilities.
        """
        every = torch.arange(len(clips)) if isinstance(clips, Tensor) else torch.arange(0)
        return self.ask(clips, Attempts(every, None, self.count))

    def ask(self, clips: Float[Tensor, "b 3 t h w"], attempts: Attempts) -> Float[Tensor, "b k"]:
        """As a call, with the books of what it costs: a model at the end of a line may be asked
        more than once, as far as every clip can pay for it.

        Returns:
            As a call; NaN for the clips that were given up.
        """
        validate_clips(clips, "asking the victim")
        on_cpu = (self.device or clips.device).type == "cpu"
        height, width = self.spec.size if self.spec is not None else clips.shape[-2:]
        size = self.batch_size or (2 if on_cpu else max(1, PIXELS_AT_ONCE // (clips.shape[2] * height * width)))
        first = self.scores_are_distributions is None
        answers = []
        for start in range(0, len(clips), size):
            chunk, part = clips[start : start + size], attempts.part(slice(start, start + size))
            ask = functools.partial(self._forward, chunk, part, first)
            journal = self.journal
            answers.append(ask() if journal is None else journal.answer(ask, chunk, part, self._replayed))
        if first and self.scores_are_distributions and self.outputs == "logits":
            warnings.warn(f"The victim {self.name!r} returned {PROBABILITIES_AS_LOGITS}", UserWarning, stacklevel=3)
        return torch.cat(answers).to(clips.device)

    def _forward(self, clips: Tensor, attempts: Attempts, first: bool) -> Tensor:
        """Asks about one chunk; `first`: looks at what kind of scores come back."""
        device = self.device or clips.device
        with torch.no_grad():
            batch = self._preprocess(clips.to(device, torch.float32))
            if self.input == "float":
                batch = batch.to(self.dtype)
            if batch.untyped_storage().data_ptr() == clips.untyped_storage().data_ptr():
                batch = batch.clone()  # models may normalise in place
            ask: Callable[[Any], Any] = self.model
            if isinstance(self.model, CountsAttempts):
                ask = functools.partial(self.model.ask_counted, attempts=attempts)
            else:
                attempts.count(range(len(clips)))  # before the call: a model that raises has been asked all the same
            try:
                with default_dtype(self._default_dtype):
                    returned = ask(batch.cpu().numpy() if self.numpy else batch)
            except Exception as error:
                raise VictimError(
                    f"Asked the victim {self.name!r} about {len(clips)} clips, given to it as {batch.dtype} of shape"
                    f" {tuple(batch.shape)} ({self.layout}): it raised {type(error).__name__}: {error}"
                    f"{self._advice_on(error)}"
                ) from error
            who = f"The victim {self.name!r}"
            answered = (~attempts.given_up).nonzero().flatten()
            if not len(answered):
                if self.n_classes is None:
                    raise VictimError(
                        f"{who} did not answer its first question within the budget of {len(clips)} clips."
                    )
                return torch.full((len(clips), self.n_classes), torch.nan, device=device)
            if self.decisions_only:
                scores = find_decisions(returned, len(answered), self.class_index, self.n_classes, who)
            else:
                scores = find_scores(returned, len(answered), self.outputs, self.n_classes, who)
            scores = scores.detach().float()
            self.n_classes = scores.shape[1]
            if first:
                self.scores_are_distributions = self.scores_are_distributions is not False and are_probabilities(scores)
            log_probs = self._log_probs(scores)
            if len(answered) < len(clips):
                every = log_probs.new_full((len(clips), self.n_classes), torch.nan)
                log_probs = every.index_copy(0, answered.to(log_probs.device), log_probs)
            return log_probs

    def count(self, clips: int) -> None:
        """So many clips have gone through the model."""
        with _COUNTING:
            self.queries += clips

    def _replayed(self, clips: Tensor) -> None:
        """A journal has answered in place of the model: what a query leaves behind is left."""

    def _preprocess(self, clips: Tensor) -> Tensor:
        if self.spec is not None:
            clips = resize_clips(clips, self.spec)
        if self.mean is not None:
            clips = clips - clips.new_tensor(self.mean).view(3, 1, 1, 1)
        if self.std is not None:
            clips = clips / clips.new_tensor(self.std).view(3, 1, 1, 1)
        if self.input == "uint8":
            clips = (clips * 255).round().clamp(0, 255).to(torch.uint8)
        if self.channels == "bgr":
            clips = clips.flip(1)
        return clips if self.layout == CLIP_AXES else rearrange(clips, f"{CLIP_AXES} -> {self.layout}").contiguous()

    def _advice_on(self, error: Exception) -> str:
        """What to write where a callable has not got its precision, which only a module shows."""
        if isinstance(self.model, nn.Module) or not re.search(
            r"dtype|scalar type|\b(Half|BFloat16|Double)\b", str(error)
        ):
            return ""
        return (
            " If the model computes in another precision, give the nn.Module itself to Victim, which then casts, or"
            " cast in the callable: Victim(lambda clips: model(clips.half()), ...)."
        )

    def _log_probs(self, answers: Tensor) -> Tensor:
        who = f"The victim {self.name!r}"
        bad = ~(answers < torch.inf).all(1) | (answers == -torch.inf).all(1)  # NaN is not below anything
        if bad.any():
            raise VictimError(
                f"{who} returned NaN or infinite scores for {int(bad.sum())} of {len(answers)} clips. Check its"
                " weights, its precision (half precision overflows) and its normalisation. A class that is ruled out"
                " may have -inf, but not all classes of a clip."
            )
        if self.decisions_only:
            return torch.full_like(answers, -torch.inf).scatter(1, answers.argmax(1, keepdim=True), 0.0)
        if self.outputs == "logits":
            return answers.log_softmax(1)
        if answers.amin() < -1e-4 or (answers.sum(1) - 1).abs().amax() > 1e-2:
            raise VictimError(
                f"{who} was declared to return probabilities, but its scores span [{answers.amin():.3g},"
                f" {answers.amax():.3g}] and rows sum to {answers.sum(1).mean():.3g}: use outputs='logits'?"
            )
        return answers.clamp_min(1e-12).log()

    def check(
        self, clips: Float[Tensor, "b 3 t h w"], labels: Sequence[int | str] | Int64[Tensor, " b"] | None = None
    ) -> CheckReport:
        """Looks whether the model is fit for a black-box attack. Costs `2 b + 2` queries, and with
        labels `b` more, or up to `5 b` where it is not right about all clips.

        Args:
            clips: a few clips as the attack will get them, float[b 3 t h w] in [0, 1].
            labels: their true classes, by index or name, where they are known.

        Returns:
            Findings on range, size, number of frames, train mode, shape, kind of scores,
            determinism, independence of the batch, confidence, whether the scores depend on the
            clips at all, and with labels on accuracy: whether it would be more often right with
            other colours, another range or another order of labels.

        Raises:
            ClipError: the clips are unusable for any victim.
            VictimError: the model cannot be asked at all.
            UnknownNameError: it has no class of such a name.
        """
        return check(self, clips, labels)


def _per_channel(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    """A mean or std, one number for each of R, G and B.

    Raises:
        ValueError: they are not three finite numbers, or belong to pixels in 0..255.
    """
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Victim: {name} needs one value for each of R, G and B, got {values!r}.") from error
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"Victim: {name} must be finite, got {[red, green, blue]}.")
    if max(red, green, blue) > 1:
        raise ValueError(
            f"Victim: {name} must be that of values in [0, 1], as clips hold them, got {[red, green, blue]}, which is"
            " that of values in 0..255. Divide both mean and std by 255: a model that wants values in 0..255 as they"
            " are has mean=(0, 0, 0), std=(1/255, 1/255, 1/255)."
        )
    return red, green, blue


def _in_order(labels: Sequence[str] | Mapping[Any, str] | str | Path) -> list[str]:
    """Class names as a list.

    Raises:
        ValueError: they are no list and no file, or a dict whose keys are not the indices from 0
            on.
    """
    if isinstance(labels, str | Path):
        try:
            lines = Path(labels).expanduser().read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Victim: labels must be a list of class names, got {str(labels)!r}, which is no text file with a name"
                f" a line either: {error}"
            ) from error
        return [line.strip() for line in lines if line.strip()]
    if not isinstance(labels, Iterable):
        raise ValueError(f"Victim: labels must be a list of class names, got {labels!r}.")
    if not isinstance(labels, Mapping):
        return [str(label) for label in labels]
    try:
        by_index = {int(index): str(label) for index, label in labels.items()}
    except (TypeError, ValueError):
        by_index = {}
    if sorted(by_index) != list(range(len(labels))):
        raise ValueError(
            "Victim: labels as a dict must give the name of every index from 0 on, such as {0: 'run', 1: 'walk'}"
            f" (id2label, not label2id), got the keys {list(labels)[:5]}."
        )
    return [by_index[index] for index in range(len(labels))]


def _put_in_eval_mode(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError:  # by torch.export: a part whose mode is that of its export, and stays it
        for module in model.modules():
            module.training = False

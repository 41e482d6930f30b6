"""Whether a victim is fit for a black-box attack, and what to do where it is not."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vidmarl.data.spec import validate_clips
from vidmarl.errors import VictimError
from vidmarl.utils import markup
from vidmarl.victims.accuracy import Accuracy, class_indices, ranks

if TYPE_CHECKING:
    from vidmarl.victims.victim import Victim

DARKEST = 2 / 255
"""Clips without a brighter value are taken for clips that were divided by 255 twice."""
SAME_CLIPS = 1e-3
"""Most nats by which the scores of the same batch may differ from one query to the next."""
SAME_CLIP_ALONE = 1e-2
"""Most nats by which the scores of a clip may differ in another batch; more than `SAME_CLIPS`,
because batches of another size are computed by other kernels."""
LEAST_CONFIDENCE = 0.05
"""Mean top probability below which a victim of many classes as good as guesses."""
SAME_ANSWER = 0.3
"""Answers whose probabilities differ by less, all classes together (2 at most), say the same. A
network for values in 0..255 answers clips in [0, 1] about as it answers a black one: 0.0003 to 0.3
were seen, and 1.8 to 2 of networks for [0, 1]."""

LEAST_GAIN = 0.1
"""Share of the clips that another way to give them must win before it is spoken of."""
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "channels='bgr'": {"channels": "bgr"},
    "channels='rgb'": {"channels": "rgb"},
    "neither mean nor std": {"mean": None, "std": None},
    "values in 0..255, std=(1/255, 1/255, 1/255)": {"mean": None, "std": (1 / 255,) * 3},
}
"""Ways to give a model its clips that are often mixed up."""
USUAL: dict[str, dict[str, Any]] = {
    "mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225), or those of its training": {
        "mean": (0.45,) * 3,
        "std": (0.225,) * 3,
    },
    "mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)": {"mean": (0.5,) * 3, "std": (0.5,) * 3},
}
"""The usual ways to normalise, for a victim that has none."""

PROBABILITIES_AS_LOGITS = (
    "scores with nothing below 0 that sum to 1 for each clip: probabilities, taken for logits. Its confidence and all"
    " margins are wrong, and attacks that go by them spend other queries. Say Victim(..., outputs='probabilities')."
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at.
        ok: whether it is fit for an attack.
        detail: what was seen, and what to do where it is not fit.
    """

    check: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        return f"[{'ok' if self.ok else 'NOT OK'}] {self.check}: {self.detail}"


class CheckReport(list[Finding]):
    """The findings of `Victim.check`, printed a line each, in a notebook as a table; `ok` sums them
    up."""

    @property
    def ok(self) -> bool:
        """Whether nothing stands against an attack."""
        return all(finding.ok for finding in self)

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        title = "Fit for an attack" if self.ok else "Not fit for an attack: see what is not ok"
        rows = [("✓ ok" if finding.ok else "✗ NOT OK", finding.check, finding.detail) for finding in self]
        return markup.table(title, rows, head=("", "looked at", "seen, and what to do"))


def check(
    victim: Victim, clips: Float[Tensor, "b 3 t h w"], labels: Sequence[int | str] | Int64[Tensor, " b"] | None = None
) -> CheckReport:
    """See `Victim.check`."""
    validate_clips(clips, "checking the victim")
    known = None if labels is None else class_indices(victim, clips, labels)
    return CheckReport(
        [
            *_look_at_clips(victim, clips),
            _look_at_mode(victim),
            *_look_at_normalisation(victim),
            *_ask(victim, clips),
            *([] if known is None else [_look_at_accuracy(victim, clips, known)]),
        ]
    )


def _look_at_clips(victim: Victim, clips: Tensor) -> Iterator[Finding]:
    low, high = float(clips.amin()), float(clips.amax())
    bright = high > DARKEST
    advice = "" if bright else ": almost black; were 8-bit values divided by 255 twice?"
    yield Finding("range", bright, f"clips span [{low:.3g}, {high:.3g}]{advice}")
    if victim.spec is not None:
        size = tuple(clips.shape[-2:])
        same = size == victim.spec.size
        advice = (
            f" are resized to the {victim.spec.size} px of the spec before the model sees them, and with them the"
            " perturbation: load them with vidmarl.load_clips, or set ClipSpec(size=...)"
        )
        yield Finding("size", same, f"clips of {size} px{'' if same else advice}")
        frames = clips.shape[2]
        if victim.spec.frames is not None:
            same = frames == victim.spec.frames
            advice = (
                f", but the spec says {victim.spec.frames}: load them with vidmarl.load_clips, or set"
                f" ClipSpec(frames={frames}) if the model is made for that"
            )
            yield Finding("frames", same, f"clips of {frames} frames{'' if same else advice}")


def _look_at_mode(victim: Victim) -> Finding:
    training = isinstance(victim.model, nn.Module) and any(module.training for module in victim.model.modules())
    advice = "the model, or a part of it, is in train mode: call model.eval()"
    return Finding("train mode", not training, advice if training else "eval")


def _look_at_normalisation(victim: Victim) -> Iterator[Finding]:
    """Whether both the victim and a layer of its model subtract a mean and divide by a std."""
    if not isinstance(victim.model, nn.Module) or (victim.mean is None and victim.std is None):
        return
    layers = [
        f"{path or 'the model itself'} ({type(module).__name__})"
        for path, module in victim.model.named_modules()
        if _has_channels(module, "mean") and _has_channels(module, "std")
    ]
    advice = f"once by Victim and once more by {', '.join(layers)}: leave out mean and std of the Victim"
    yield Finding("normalisation", not layers, advice if layers else "once, by Victim")


def _has_channels(module: nn.Module, name: str) -> bool:
    """Whether a module has three numbers by such a name (`mean`, `pixel_mean`)."""
    own = {**vars(module), **dict(module.named_buffers(recurse=False)), **dict(module.named_parameters(recurse=False))}
    values = [value for key, value in own.items() if key.endswith(name)]
    return any(value.numel() == 3 if isinstance(value, Tensor) else _length(value) == 3 for value in values)


def _length(value: object) -> int | None:
    return len(value) if isinstance(value, Sized) else None


def _ask(victim: Victim, clips: Tensor) -> Iterator[Finding]:
    """What only answers tell; `2 b + 2` queries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is reported here
        first = victim(clips)
    yield Finding("shape", True, f"{len(clips)} clips give {tuple(first.shape)} scores")

    wrong = victim.outputs == "logits" and bool(victim.scores_are_distributions)
    advice = " only: attacks that go by scores refuse it, others take them" if victim.decisions_only else ""
    yield Finding("outputs", not wrong, f"it returns {PROBABILITIES_AS_LOGITS}" if wrong else victim.outputs + advice)

    drift = _drift(victim(clips), first)
    same = drift < SAME_CLIPS
    if not victim.deterministic:
        same, advice = True, ", as it says it does (deterministic=False)"
    else:
        advice = "" if same else ": random layers or sampling inside; an attack would chase noise"
    yield Finding("determinism", same, f"the same clips asked twice differ by {drift:.2g} nats{advice}")

    drift = _drift(victim(clips[:1]), first[:1])
    same = drift < SAME_CLIP_ALONE or not victim.deterministic
    advice = "" if same else ": scores depend on the other clips (batch statistics?)"
    yield Finding("batch independence", same, f"a clip asked alone differs by {drift:.2g} nats{advice}")

    if not victim.decisions_only:
        top = float(first.exp().amax(1).mean())
        clear = top > max(1.5 / first.shape[1], LEAST_CONFIDENCE)
        advice = "" if clear else ": near uniform; wrong normalisation, no weights, or probabilities taken for logits?"
        yield Finding("confidence", clear, f"mean top probability {top:.2g}{advice}")

    black = victim(torch.zeros_like(clips[:1]))
    farthest = float((first.exp() - black.exp()).abs().sum(1).amax())
    sees = farthest > SAME_ANSWER
    advice = (
        ": it does not see them; are mean and std those of values in 0..255, or does the model normalise by itself?"
        " One that wants values in 0..255 needs std=(1/255, 1/255, 1/255)"
    )
    if victim.decisions_only:
        advice = ": it decides all of them alike; where that is right, try clips of several classes"
    yield Finding(
        "dependence",
        sees,
        f"probabilities differ by up to {farthest:.2g} from those of a black clip{'' if sees else advice}",
    )


def _drift(one: Tensor, other: Tensor) -> float:
    """The most by which log-probabilities differ; classes that are ruled out twice do not."""
    return float((one - other).nan_to_num(nan=0.0).abs().amax())


def _look_at_accuracy(victim: Victim, clips: Tensor, labels: Tensor) -> Finding:
    """Whether it is right about clips whose classes are known and, where it is not, whether it
    would be if it were given them in another way; `b` queries, or up to `5 b`."""
    answers = victim(clips).cpu()
    found = Accuracy(labels, ranks(answers, labels))
    if found.top1 == 1:
        return Finding("accuracy", True, str(found))
    plain = victim.mean is None and victim.std is None and victim.input == "float"
    better = {}
    for told, settings in (OTHER_WAYS | (USUAL if plain else {})).items():
        if all(getattr(victim, name) == value for name, value in settings.items()):
            continue  # that is how it is given them
        other = copy.copy(victim)
        for name, value in settings.items():
            setattr(other, name, value)
        other.queries = 0
        with contextlib.suppress(VictimError):
            better[told] = Accuracy(labels, ranks(other(clips).cpu(), labels)).top1
        victim.queries += other.queries
    best = max(better, key=lambda told: better[told], default="")
    gain = better.get(best, 0.0) - found.top1
    explained, told = _label_order(answers.argmax(1), labels)
    if told and explained > better.get(best, 0.0):
        return Finding("accuracy", False, f"{found}, {told}")
    if gain > LEAST_GAIN and gain * len(found) > 1.5:  # two clips at least
        return Finding("accuracy", False, f"{found}, but {better[best]:.1%} with {best}: is that what it wants?")
    fit = found.top1 > 1.5 / answers.shape[1]
    advice = "" if fit else ": no better than chance; are its weights, its input and its labels these?"
    return Finding("accuracy", fit, f"{found}{advice}")


def _label_order(said: Tensor, labels: Tensor) -> tuple[float, str]:
    """The share of clips whose answers go with another class than the true one, always the same,
    or with the true one; and words for it, if that tells of labels in another order."""
    pairs = list(zip(said.tolist(), labels.tolist(), strict=True))
    by_answer = {answer: [label for other, label in pairs if other == answer] for answer, _ in pairs}
    usual = {answer: max(set(those), key=those.count) for answer, those in by_answer.items()}
    explained = sum(usual[answer] == label for answer, label in pairs)
    repeated = len(pairs) >= 2 * len(usual) > 2  # else every answer goes with its one clip
    wrong = {answer: label for answer, label in usual.items() if answer != label}
    one_to_one = len(set(usual.values())) == len(usual)
    if not repeated or not one_to_one or explained < 0.8 * len(pairs) or len(wrong) < 0.5 * len(usual):
        return 0.0, ""
    return explained / len(pairs), (
        f"but {explained} of {len(pairs)} answers go with one class each, though with another one: are the labels in"
        f" another order? It says {', '.join(f'{a} where {b} is meant' for a, b in sorted(wrong.items())[:3])}"
    )

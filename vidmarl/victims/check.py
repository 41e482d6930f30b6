"""Whether a victim is fit for a black-box attack, and what to do where it is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.data.spec import validate_clips

if TYPE_CHECKING:
    from vidmarl.victims.victim import Victim

DARKEST = 2 / 255
"""Clips without a brighter value are taken for clips that were divided by 255 twice."""
SAME_CLIPS = 1e-3
"""Most nats by which the scores of the same batch may differ from one query to the next."""
SAME_CLIP_ALONE = 1e-2
"""Most nats by which the scores of a clip may differ in another batch; more than `SAME_CLIPS`,
because batches of another size are computed by other kernels."""


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
    """The findings of `Victim.check`, printed a line each; `ok` sums them up."""

    @property
    def ok(self) -> bool:
        """Whether nothing stands against an attack."""
        return all(finding.ok for finding in self)

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__


def check(victim: Victim, clips: Float[Tensor, "b 3 t h w"]) -> CheckReport:
    """See `Victim.check`."""
    validate_clips(clips, "checking the victim")
    return CheckReport([*_look_at_clips(victim, clips), _look_at_mode(victim), *_ask(victim, clips)])


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


def _look_at_mode(victim: Victim) -> Finding:
    training = isinstance(victim.model, nn.Module) and any(module.training for module in victim.model.modules())
    advice = "the model, or a part of it, is in train mode: call model.eval()"
    return Finding("train mode", not training, advice if training else "eval")


def _ask(victim: Victim, clips: Tensor) -> Iterator[Finding]:
    """What only answers tell; `2 b + 1` queries."""
    first = victim(clips)
    yield Finding("shape", True, f"{len(clips)} clips give {tuple(first.shape)} scores")

    drift = float((victim(clips) - first).abs().amax())
    same = drift < SAME_CLIPS
    advice = "" if same else ": random layers or sampling inside; an attack would chase noise"
    yield Finding("determinism", same, f"the same clips asked twice differ by {drift:.2g} nats{advice}")

    drift = float((victim(clips[:1]) - first[:1]).abs().amax())
    same = drift < SAME_CLIP_ALONE
    advice = "" if same else ": scores depend on the other clips (batch statistics?)"
    yield Finding("batch independence", same, f"a clip asked alone differs by {drift:.2g} nats{advice}")

    top = float(first.exp().amax(1).mean())
    clear = top > 1.5 / first.shape[1]
    advice = "" if clear else ": near uniform; wrong normalisation or no weights?"
    yield Finding("confidence", clear, f"mean top probability {top:.2f}{advice}")

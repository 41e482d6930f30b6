"""What an attack returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl.session import Session


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """An attack's outcome, clip by clip.

    Attributes:
        success: bool[b], the goal holds for `adversarial`, as a counted query has shown.
        skipped: bool[b], the goal held before the attack: not attacked, and no success.
        queries: int64[b], clips sent to the victim, the clean prediction included.
        clean: float32[b 3 t h w] in [0, 1], 8-bit values: the clips as attacked.
        adversarial: float32[b 3 t h w] in [0, 1], 8-bit values: the smallest success; without one, the candidate that
            came nearest to the goal.
        strength: float32[b t' gh gw], the strength map of `adversarial`.
        classes: int64[b], the classes of the goal: labels under attack, or targets.
        prediction: int64[b], the victim's prediction on the clean clip.
        full_l2: float32[b], norm of the full distortion, with which a failure counts.
        history: "score", "margin" and "l2" after each query, float32[b q], NaN beyond a clip's last query;
            column 0 is the clean prediction. A query is a success where its margin is below 0.
        settings: attack, distortion, budget, grid, coherence, seed, victim, labels: plain data.
    """

    success: Bool[Tensor, " b"]
    skipped: Bool[Tensor, " b"]
    queries: Int64[Tensor, " b"]
    clean: Float[Tensor, "b 3 t h w"]
    adversarial: Float[Tensor, "b 3 t h w"]
    strength: Float[Tensor, "b t' gh gw"]
    classes: Int64[Tensor, " b"]
    prediction: Int64[Tensor, " b"]
    full_l2: Float[Tensor, " b"]
    history: dict[str, Float[Tensor, "b q"]]
    settings: dict[str, Any]

    @classmethod
    def from_session(cls, session: Session, settings: dict[str, Any]) -> AttackResult:
        """The outcome of a session that has ended."""
        last = int(session.queries.max())
        return cls(
            success=session.fooled.cpu(),
            skipped=session.skipped.cpu(),
            queries=session.queries.clone(),
            clean=session.canvas.clips.cpu(),
            adversarial=session.best.cpu(),
            strength=session.best_strength.cpu(),
            classes=session.goal.classes.cpu(),
            prediction=session.clean.argmax(1).cpu(),
            full_l2=session.full_l2().cpu(),
            history={key: values[:, :last].cpu() for key, values in session.history.items()},
            settings=settings
            | {
                "victim": session.victim.name,
                "labels": session.victim.labels,
                "targeted": session.goal.targeted,
            },
        )

    @classmethod
    def cat(cls, parts: list[AttackResult]) -> AttackResult:
        """Puts the results of several batches of one attack together."""
        if len(parts) == 1:
            return parts[0]
        longest = max(part.history["margin"].shape[1] for part in parts)

        def pad(values: Tensor) -> Tensor:
            return torch.nn.functional.pad(values, (0, longest - values.shape[1]), value=torch.nan)

        fields = [f.name for f in dataclasses.fields(cls) if f.name not in ("history", "settings")]
        return cls(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in fields},
            history={key: torch.cat([pad(part.history[key]) for part in parts]) for key in parts[0].history},
            settings=parts[0].settings,
        )

    def __len__(self) -> int:
        return len(self.success)

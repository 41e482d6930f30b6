"""What a benchmark keeps of an attack on one clip: a trial, one small file, there whole or not at
all.

A file of safetensors: the history and the strength map as tensors (and the adversarial clip as
bytes, where it is to be kept), the rest as JSON in its header. Clips are left out because a
benchmark has thousands; all that the tables need is measured before.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl import metrics
from vidmarl.attacks.result import AttackResult
from vidmarl.errors import CheckpointError
from vidmarl.utils.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
"""Version of the file; a change that older readers cannot read raises it."""

SUFFIX = ".safetensors"

_HISTORY = ("score", "margin", "l2")
_SAID = ("prediction", "adversarial_prediction", "goal")
_OUTCOME = ("clip", *_SAID, "success", "skipped", "queries", "first_success")
"""Columns of `AttackResult.metrics` that are no measure of the perturbation."""


def save_trials(
    paths: Sequence[Path],
    result: AttackResult,
    facts: Sequence[Mapping[str, Any]],
    *,
    perceptual: bool = False,
    keep_clips: bool = False,
) -> None:
    """Writes a file for each clip of a result.

    Args:
        paths: of the files, one for each clip; their folder must be there.
        result: of the attack.
        facts: what else is to be known of each clip, plain data.
        perceptual: whether to measure what costs seconds a clip, see
            `vidmarl.metrics.perturbation_metrics`.
        keep_clips: whether to keep the adversarial clips.
    """
    from safetensors.torch import save

    rows = result.metrics(perceptual=perceptual).to_dict("records")
    for i, (path, row, known) in enumerate(zip(paths, rows, facts, strict=True)):
        asked = int(result.queries[i])
        tensors = {key: result.history[key][i, :asked].clone() for key in _HISTORY}
        tensors["strength"] = result.strength[i].clone()
        if keep_clips:
            tensors["adversarial"] = (result.adversarial[i] * 255).round().to(torch.uint8)
        measured = {key: float(value) for key, value in row.items() if key not in _OUTCOME}
        record = {
            "format": FORMAT,
            "success": bool(result.success[i]),
            "skipped": bool(result.skipped[i]),
            "full_l2": float(result.full_l2[i]),
            "facts": {**known, **{name: row[name] for name in _SAID}},
            "measured": {key: value if math.isfinite(value) else str(value) for key, value in measured.items()},
        }
        header = {"trial": json.dumps(record, ensure_ascii=False, allow_nan=False)}
        write_atomically(path, save({key: value.contiguous() for key, value in tensors.items()}, header))


def is_done(path: Path, *, perceptual: bool = False, keep_clips: bool = False) -> bool:
    """Whether a trial is there with all that is wanted of it."""
    if not path.exists():
        return False
    try:
        record, tensors = _read(path, only_header=True)
    except CheckpointError:
        return False  # a damaged file is as good as none: the trial is made again
    return (not perceptual or "warping" in record["measured"]) and (not keep_clips or "adversarial" in tensors)


def _read(path: Path, only_header: bool = False) -> tuple[dict[str, Any], dict[str, Tensor | None]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {})["trial"])
            wanted = {key: None if only_header or key == "adversarial" else file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if record["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {record['format']!r}")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"Reading the trial {path}: it is damaged, or no trial ({error}). Delete it.") from error
    return record, wanted


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """One attack's trials on some clips: an `vidmarl.metrics.Outcome`.

    Attributes:
        success: bool[b], as in `AttackResult`.
        skipped: bool[b], as in `AttackResult`.
        queries: int64[b], as in `AttackResult`.
        full_l2: float32[b], as in `AttackResult`.
        history: as in `AttackResult`.
        settings: of the attack: plain data.
        facts: of each clip: plain data.
        measured: `vidmarl.metrics.perturbation_metrics`, float64[b]; NaN where the clip was
            skipped.
    """

    success: Bool[Tensor, " b"]
    skipped: Bool[Tensor, " b"]
    queries: Int64[Tensor, " b"]
    full_l2: Float[Tensor, " b"]
    history: dict[str, Float[Tensor, "b q"]]
    settings: dict[str, Any]
    facts: list[dict[str, Any]]
    measured: dict[str, Float[Tensor, " b"]]

    @classmethod
    def load(cls, paths: Sequence[Path], settings: dict[str, Any]) -> Trials:
        """Reads trials, of one attack with these settings.

        Raises:
            CheckpointError: a file is missing, damaged, or no trial.
        """
        records, tensors = zip(*[_read(path) for path in paths], strict=True)
        names = list(dict.fromkeys(name for record in records for name in record["measured"]))
        queries = torch.tensor([len(t["margin"]) for t in tensors])
        pad = torch.nn.utils.rnn.pad_sequence
        return cls(
            success=torch.tensor([record["success"] for record in records]),
            skipped=torch.tensor([record["skipped"] for record in records]),
            queries=queries,
            full_l2=torch.tensor([record["full_l2"] for record in records]),
            history={
                key: pad([t[key] for t in tensors], batch_first=True, padding_value=torch.nan) for key in _HISTORY
            },
            settings=settings,
            facts=[record["facts"] for record in records],
            measured={
                name: torch.tensor([float(r["measured"].get(name, "nan")) for r in records], dtype=torch.float64)
                for name in names
            },
        )

    def __len__(self) -> int:
        return len(self.success)

    def table(self, budgets: Sequence[int]) -> pd.DataFrame:
        """A row for each clip: its facts, what happened, at each budget the success and the L2, and
        all measures."""
        import pandas as pd

        table = pd.DataFrame(self.facts)
        for name in ("success", "skipped", "queries"):
            table[name] = getattr(self, name).numpy()
        table["first_success"] = pd.array([int(f) or None for f in metrics.first_success(self)], dtype="Int64")
        table["full_l2"] = self.full_l2.double().numpy()
        wins, sizes = metrics.success_at(self, budgets).numpy(), metrics.best_l2_at(self, budgets).double().numpy()
        for column, budget in enumerate(budgets):
            table[f"success@{budget}"], table[f"l2@{budget}"] = wins[:, column], sizes[:, column]
        return table.assign(**{name: values.numpy() for name, values in self.measured.items()})

    def pictures(self) -> dict[str, Float[Tensor, " n"]]:
        """What was measured of the fooled clips."""
        fooled = self.success & ~self.skipped
        return {name: values[fooled] for name, values in self.measured.items()}

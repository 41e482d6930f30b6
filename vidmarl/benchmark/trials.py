"""What a benchmark keeps of an attack on one clip: a trial, one small file, there whole or not at
all.

A file of safetensors: the history and the strength map as tensors (and the clips as bytes, where
they are to be kept), the rest as JSON in its header, and a checksum over all of it. Clips are left
out by default because a benchmark has thousands; all that the tables need is measured before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl import metrics
from vidmarl.attacks.result import AttackResult
from vidmarl.errors import CheckpointError
from vidmarl.utils.files import write_atomically
from vidmarl.utils.fingerprints import fingerprint

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 3
"""Version of the file, and of the folder around it; a change that older readers cannot read raises
it."""

SUFFIX = ".safetensors"

_HISTORY = ("score", "margin", "l2")
_CLIPS = ("clean", "adversarial")
_CLASSES = ("classes", "prediction", "adversarial_prediction")
_SAID = ("prediction", "adversarial_prediction", "goal")
"""Columns of `AttackResult.metrics` that name classes."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a trial holds besides the history.

    Attributes:
        slow_metrics: the metrics that cost seconds a clip.
        keep_clips: the clips, clean and adversarial.
    """

    slow_metrics: bool = False
    keep_clips: bool = False


def save_trials(
    paths: Sequence[Path],
    result: AttackResult,
    facts: Sequence[Mapping[str, Any]],
    wanted: Wanted = Wanted(),
) -> None:
    """Writes a file for each clip of a result.

    Args:
        paths: of the files, one for each clip; their folder must be there.
        result: of the attack.
        facts: what else is to be known of each clip, plain data.
        wanted: what else the trials hold.
    """
    from safetensors.torch import save

    rows = result.metrics(slow=wanted.slow_metrics).to_dict("records")
    columns = [column.name for column in metrics.columns(wanted.slow_metrics)]
    for i, (path, row, known) in enumerate(zip(paths, rows, facts, strict=True)):
        asked = int(result.queries[i])
        tensors = {key: result.history[key][i, :asked].clone() for key in _HISTORY}
        tensors["strength"] = result.strength[i].clone()
        if wanted.keep_clips:
            tensors |= {name: (getattr(result, name)[i] * 255).round().to(torch.uint8) for name in _CLIPS}
        measured = {name: float(row[name]) for name in columns if name in row}
        record = {
            "format": FORMAT,
            "success": bool(result.success[i]),
            "skipped": bool(result.skipped[i]),
            "full_l2": float(result.full_l2[i]),
            "facts": {**known, **{name: row[name] for name in _SAID}},
            "classes": {name: int(getattr(result, name)[i]) for name in _CLASSES},
            "slow_metrics": wanted.slow_metrics,
            "columns": columns,
            "provenance": {key: value for key, value in result.provenance.items() if key != "time"},
            "measured": {key: value if math.isfinite(value) else str(value) for key, value in measured.items()},
        }
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        header = {
            "trial": f"{_checksum(path.name + text, tensors)} {text}"
        }  # one entry: several are written in any order
        write_atomically(path, save({key: value.contiguous() for key, value in tensors.items()}, header))


def is_done(path: Path, wanted: Wanted = Wanted(), *, strict: bool = False) -> bool:
    """Whether a trial is there with all that is wanted of it.

    Args:
        path: of the file.
        wanted: what it has to hold.
        strict: refuse a damaged file, rather than take it for none, so that the trial is made
            again.

    Raises:
        CheckpointError: with `strict`, the file is damaged, or no trial.
    """
    if not path.exists():
        return False
    try:
        record, tensors = _read(path)
    except CheckpointError:
        if strict:
            raise
        return False
    return record["slow_metrics"] >= wanted.slow_metrics and (not wanted.keep_clips or "adversarial" in tensors)


def _read(path: Path, *names: str) -> tuple[dict[str, Any], dict[str, Tensor | None]]:
    """The record of a trial, and its tensors: those of `names`, and None for the others.

    Raises:
        CheckpointError: the file is missing, is no trial, or is not as it was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            checksum, _, text = (file.metadata() or {})["trial"].partition(" ")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if checksum != _checksum(path.name + text, tensors):  # it cannot stand for another trial
            raise ValueError("its content is not that of its checksum")
        record = json.loads(text)
        if record["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {record['format']!r}")
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"Reading the trial {path}: it is damaged, or no trial ({error}). Delete it.") from error
    return record, {key: value if key in names else None for key, value in tensors.items()}


def _checksum(record: str, tensors: Mapping[str, Tensor]) -> str:
    """A sha256 over all that a trial holds."""
    return hashlib.sha256(f"{fingerprint(tensors)} {record}".encode()).hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """One attack's trials on some clips: an `vidmarl.metrics.Outcome`.

    Attributes:
        paths: of the files.
        success: bool[b], as in `AttackResult`.
        skipped: bool[b], as in `AttackResult`.
        queries: int64[b], as in `AttackResult`.
        full_l2: float32[b], as in `AttackResult`.
        history: as in `AttackResult`.
        settings: of the attack: plain data.
        facts: of each clip: plain data.
        measured: `vidmarl.metrics.perturbation_metrics`, float64[b]; NaN where the clip was
            skipped, or the trial was made before there was such a metric.
        columns: the metrics that were asked for when the trials were made, in all of them.
        provenances: of each clip, as in `AttackResult`, but for the time: what a run that was cut
            short makes is the same to the byte.
        has_clips: whether all of them have kept their clips.
    """

    paths: list[Path]
    success: Bool[Tensor, " b"]
    skipped: Bool[Tensor, " b"]
    queries: Int64[Tensor, " b"]
    full_l2: Float[Tensor, " b"]
    history: dict[str, Float[Tensor, "b q"]]
    settings: dict[str, Any]
    facts: list[dict[str, Any]]
    measured: dict[str, Float[Tensor, " b"]]
    columns: frozenset[str]
    provenances: list[dict[str, Any]]
    has_clips: bool

    @classmethod
    def load(cls, paths: Sequence[Path], settings: dict[str, Any]) -> Trials:
        """Reads trials, of one attack with these settings.

        Raises:
            CheckpointError: a file is missing, damaged, or no trial.
        """
        records, tensors = zip(*[_read(path, *_HISTORY) for path in paths], strict=True)
        names = list(dict.fromkeys(name for record in records for name in record["measured"]))
        pad = torch.nn.utils.rnn.pad_sequence
        return cls(
            paths=list(paths),
            success=torch.tensor([record["success"] for record in records]),
            skipped=torch.tensor([record["skipped"] for record in records]),
            queries=torch.tensor([len(t["margin"]) for t in tensors]),
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
            columns=frozenset.intersection(*[frozenset(record["columns"]) for record in records]),
            provenances=[record["provenance"] for record in records],
            has_clips=all("adversarial" in t for t in tensors),
        )

    def __len__(self) -> int:
        return len(self.success)

    def to_result(self, clips: Sequence[int] | None = None) -> AttackResult:
        """The result of the attack with its clips, where the trials have kept them (`keep_clips`).

        Args:
            clips: which of them; None: all.

        Raises:
            ValueError: the clips were not kept.
            CheckpointError: a file is missing, damaged, or no trial.
        """
        if not self.has_clips:
            raise ValueError("Reading the clips of a benchmark: its trials have kept none. Run it with keep_clips.")
        rows = list(range(len(self)) if clips is None else clips)
        records, tensors = zip(*[_read(self.paths[i], "strength", *_CLIPS) for i in rows], strict=True)
        return AttackResult(
            success=self.success[rows],
            skipped=self.skipped[rows],
            finished=torch.ones(len(rows), dtype=torch.bool),
            queries=self.queries[rows],
            full_l2=self.full_l2[rows],
            history={key: values[rows] for key, values in self.history.items()},
            settings=self.settings,
            missing=0,
            provenance=self.provenances[rows[0]] if rows else {},
            strength=torch.stack([t["strength"] for t in tensors]),
            **{name: torch.stack([t[name] for t in tensors]).float() / 255 for name in _CLIPS},
            **{name: torch.tensor([record["classes"][name] for record in records]) for name in _CLASSES},
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """What is true of all clips; a list of all that is true of some where they differ."""
        return {key: found[0] if len(found) == 1 else found for key, found in origins([self]).items()}

    def table(self, budgets: Sequence[int]) -> pd.DataFrame:
        """A row for each clip: its facts, what happened, at each budget the success and the L2, and
        all metrics."""
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

    def measured_of_fooled(self) -> dict[str, Float[Tensor, " n"]]:
        """What was measured of the fooled clips."""
        fooled = self.success & ~self.skipped
        return {name: values[fooled] for name, values in self.measured.items()}


def origins(trials: Iterable[Trials]) -> dict[str, list[Any]]:
    """All values of each part of the provenance of trials, in the order in which they are met."""
    found: dict[str, dict[str, Any]] = {}
    for of_attack in trials:
        for provenance in of_attack.provenances:
            for key, value in provenance.items():
                found.setdefault(key, {}).setdefault(json.dumps(value), value)
    return {key: list(values.values()) for key, values in found.items()}

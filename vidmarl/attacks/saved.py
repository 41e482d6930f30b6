"""A saved result that is read as it is needed, because its clips may be more than the memory
holds."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl import metrics
from vidmarl.attacks.parts import RECORD, find_parts
from vidmarl.attacks.plots import Plots
from vidmarl.attacks.result import AttackResult, load_outcome
from vidmarl.registry import explain_settings

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 5
"""Clips that a notebook shows."""


@explain_settings
class SavedResult(Plots):
    """A saved result whose clips stay on the disk until they are asked for.

    `saved[3]`, `saved[10:20]` and `saved[[0, 7]]` read the clips of some rows, `saved[:]` of all,
    as an `AttackResult`. Everything else is in the memory: this is a `vidmarl.metrics.Outcome`, as
    figures and reports take it.

    Args:
        path: the folder that `AttackResult.save` or `vidmarl.attack_files` has written.

    Attributes:
        success, skipped, finished, queries, strength, classes, prediction: as in `AttackResult`.
        adversarial_prediction, full_l2, history, settings: likewise.
        provenance: that of the first part, which was made when the attack began.

    Raises:
        FileNotFoundError, CheckpointError: see `AttackResult.load`.
    """

    success: Bool[Tensor, " b"]
    skipped: Bool[Tensor, " b"]
    finished: Bool[Tensor, " b"]
    queries: Int64[Tensor, " b"]
    strength: Float[Tensor, "b gt gh gw"]
    classes: Int64[Tensor, " b"]
    prediction: Int64[Tensor, " b"]
    adversarial_prediction: Int64[Tensor, " b"]
    full_l2: Float[Tensor, " b"]
    history: dict[str, Float[Tensor, "b q"]]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        without_clips, rows = [], []
        self._parts: list[tuple[Path, int]] = []
        for folder in find_parts(self.path):
            outcome = load_outcome(folder)
            without_clips.append(outcome)
            rows += json.loads((folder / RECORD).read_text(encoding="utf-8"))["clips"]
            self._parts.append((folder, len(outcome)))
        self._rows = [row | {"clip": i} for i, row in enumerate(rows)]
        every = AttackResult.cat(without_clips)
        for name in SavedResult.__annotations__:
            setattr(self, name, getattr(every, name))

    def __len__(self) -> int:
        return len(self.success)

    def __getitem__(self, rows: int | slice | Sequence[int]) -> AttackResult:
        """The result of some clips with their pixels; the parts that hold them are read one by one.

        Raises:
            FileNotFoundError, CheckpointError: see `AttackResult.load`.
            IndexError: there is no such clip, or none is asked for.
        """
        every = range(len(self))
        chosen = [every[rows]] if isinstance(rows, int) else every[rows] if isinstance(rows, slice) else rows
        wanted = [every[row] for row in chosen]
        if not wanted:
            raise IndexError(f"Reading clips of {self.path}: none was asked for.")
        found: dict[int, AttackResult] = {}
        start = 0
        for folder, clips in self._parts:
            own = sorted({row for row in wanted if start <= row < start + clips})
            if own:
                part = AttackResult.load(folder)[[row - start for row in own]]
                found |= {row: part[i] for i, row in enumerate(own)}
            start += clips
        return AttackResult.cat([found[row] for row in wanted])

    def __repr__(self) -> str:
        attacked = ~self.skipped
        return (
            f"SavedResult({str(self.path)!r}, {self.settings.get('attack', 'attack')}:"
            f" {int((self.success & attacked).sum())} of {int(attacked.sum())} clips fooled,"
            f" {int(self.queries.sum())} queries)"
        )

    def _repr_html_(self) -> str:
        """What it is, and its first clips, for notebooks; no others are read."""
        said = f"<p><b>{html.escape(repr(self))}</b></p>"
        if len(self) == 0:
            return said
        return f"<div>{said}<p>The first clips; `saved[3]` reads another one.</p>{self[:SHOWN]._repr_html_()}</div>"

    def metrics(self) -> pd.DataFrame:
        """A row for each clip, see `AttackResult.metrics`; what is infinite there is missing."""
        import pandas as pd

        table = pd.DataFrame(self._rows)
        numbers = [column.name for column in metrics.columns(slow=True) if column.name in table]
        return table.astype({"first_success": "Int64"} | dict.fromkeys(numbers, float))

    def records(self) -> list[dict[str, Any]]:
        """The rows of `metrics` as plain data for JSON, see `AttackResult.records`."""
        return [dict(row) for row in self._rows]

"""What an attack returns, and how it is kept.

A saved result is a folder: `result.safetensors` (every tensor; clips as bytes, which loses nothing
because they hold 8-bit values), `result.json` (settings, provenance, the table of
`AttackResult.metrics` for readers without Python, and the checksums of both files) and, where asked
for, `clip-0000.webm` and so on, the adversarial clips as lossless video.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vidmarl import metrics
from vidmarl.attacks.parts import RECORD, find_parts
from vidmarl.attacks.plots import Plots
from vidmarl.errors import CheckpointError
from vidmarl.queries.session import Session
from vidmarl.utils.files import PathLike, new_directory, write_atomically
from vidmarl.utils.kinds import checked

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 3
"""Version of the saved form; a change that older readers cannot read raises it."""
_WHOLE_ONLY = 2
"""The version before it, of results that are complete."""

_TENSORS = "result.safetensors"
_CLIPS = ("clean", "adversarial")
_OF_ALL = ("history", "settings", "missing", "provenance")
"""Fields that are no tensor with a row for each clip."""
_HISTORY = "history."
_SHOWN = 10
"""Clips in the table of a notebook."""
_SMALLEST_PANEL = 160
"""Width in px that a smaller clip is shown at in a notebook."""


@dataclasses.dataclass(frozen=True, eq=False)
class AttackResult(Plots):
    """An attack's outcome, clip by clip.

    One that an exception has cut short holds what was found until then, see `complete`.

    Attributes:
        success: bool[b], the goal holds for `adversarial`, as a counted query has shown.
        skipped: bool[b], the goal held before the attack: not attacked, and no success.
        finished: bool[b], the attack on the clip has come to its own end: the budget is spent, the
            search over, or the clip skipped.
        queries: int64[b], clips sent to the victim, the clean prediction included.
        clean: float32[b 3 t h w] in [0, 1], 8-bit values: the clips as attacked.
        adversarial: float32[b 3 t h w] in [0, 1], 8-bit values: the smallest success; without one,
            the candidate that came nearest to the goal.
        strength: float32[b gt gh gw], the strength map of `adversarial`.
        classes: int64[b], the classes of the goal: labels under attack, or targets.
        prediction: int64[b], the victim's prediction on the clean clip.
        adversarial_prediction: int64[b], the victim's prediction on `adversarial`, from the query
            that asked about it.
        full_l2: float32[b], norm of the full distortion, with which a failure counts.
        history: "score", "margin" and "l2" after each query, and "phase", what it was asked for (a
            number of `vidmarl.queries.session.PHASES`), float32[b q], NaN beyond a clip's last
            query; column 0 is the clean prediction. A query is a success where its margin is below
            0. The score of a query that was never answered, because the victim raised, is NaN too.
        settings: attack, distortion, budget, grid, coherence, seed, victim, labels: plain data.
            "decisions_only" where the victim said nothing but a class: then a margin is 1 or -1,
            and a score 0 or -inf.
        missing: clips that the attack was given and has not come to; they follow after the last
            row.
        provenance: where it comes from, plain data: "vidmarl", "torch" and "python" (versions),
            "device", "threads", "command", "time" (of the beginning, UTC), "victim" (see
            `Victim.identity`) and "networks" (the sha256 of each network of the attack, such as
            "agents").
    """

    success: Bool[Tensor, " b"]
    skipped: Bool[Tensor, " b"]
    finished: Bool[Tensor, " b"]
    queries: Int64[Tensor, " b"]
    clean: Float[Tensor, "b 3 t h w"]
    adversarial: Float[Tensor, "b 3 t h w"]
    strength: Float[Tensor, "b gt gh gw"]
    classes: Int64[Tensor, " b"]
    prediction: Int64[Tensor, " b"]
    adversarial_prediction: Int64[Tensor, " b"]
    full_l2: Float[Tensor, " b"]
    history: dict[str, Float[Tensor, "b q"]]
    settings: dict[str, Any]
    missing: int = 0
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the attack has come to its end on every clip that it was given."""
        return self.missing == 0 and bool(self.finished.all())

    @classmethod
    def from_session(cls, session: Session, settings: dict[str, Any], provenance: dict[str, Any]) -> AttackResult:
        """The outcome of a session, wherever it stands."""
        session.settle()
        last = int(session.queries.max())
        answer = session.history["score"].cpu().gather(1, session.queries[:, None] - 1).squeeze(1)
        spent = (session.query_budget.left == 0) & ~answer.isnan()
        return cls(
            success=session.fooled.cpu(),
            skipped=session.skipped.cpu(),
            finished=session.finished.cpu() | spent,
            queries=session.queries.clone(),
            clean=session.renderer.clips.cpu(),
            adversarial=session.best.cpu(),
            strength=session.best_strength.cpu(),
            classes=session.goal.classes.cpu(),
            prediction=session.clean.argmax(1).cpu(),
            adversarial_prediction=session.best_prediction.cpu(),
            full_l2=session.full_l2.cpu(),
            history={key: values[:, :last].cpu() for key, values in session.history.items()},
            settings=settings
            | {
                "victim": session.victim.name,
                "labels": session.victim.labels,
                "targeted": session.goal.targeted,
            }
            | ({"decisions_only": True} if session.victim.decisions_only else {}),
            provenance=provenance,
        )

    @classmethod
    def cat(cls, parts: list[AttackResult]) -> AttackResult:
        """Puts the results of several batches of one attack together, in order.

        Raises:
            ValueError: there are none.
        """
        if not parts:
            raise ValueError("Putting results together: expected at least one, got none.")
        if len(parts) == 1:
            return parts[0]
        longest = max(part.history["margin"].shape[1] for part in parts)

        def pad(values: Tensor) -> Tensor:
            return torch.nn.functional.pad(values, (0, longest - values.shape[1]), value=torch.nan)

        fields = [f.name for f in dataclasses.fields(cls) if f.name not in _OF_ALL]
        return cls(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in fields},
            history={key: torch.cat([pad(part.history[key]) for part in parts]) for key in parts[0].history},
            settings=parts[0].settings,
            missing=sum(part.missing for part in parts),
            provenance=parts[0].provenance,
        )

    def __len__(self) -> int:
        return len(self.success)

    def __getitem__(
        self, rows: SupportsIndex | slice | Sequence[int] | Sequence[bool] | npt.NDArray[Any] | Tensor
    ) -> AttackResult:
        """The result of some of the clips; one index gives a result of one clip.

        Args:
            rows: an index, a slice, or a list, an array or a tensor of indices or of bools.

        Raises:
            IndexError: there is no such clip, or not a bool for each of them.
            TypeError: this is no index.
        """
        at = _rows(rows, len(self))
        fields = {f.name: getattr(self, f.name)[at] for f in dataclasses.fields(self) if f.name not in _OF_ALL}
        history = {key: values[at] for key, values in self.history.items()}
        return dataclasses.replace(self, **fields, history=history, missing=0)

    def __repr__(self) -> str:
        attacked = len(self) - int(self.skipped.sum())
        fooled = self.success & ~self.skipped
        line = f"AttackResult({self.settings.get('attack', 'attack')}: {int(fooled.sum())} of {attacked} clips fooled"
        if attacked < len(self):
            line += f", {len(self) - attacked} skipped"
        line += f", {int(self.queries.sum())} queries"
        if self.settings.get("decisions_only"):
            line += " by decisions only"
        if fooled.any():
            norms = metrics.l2(self.clean[fooled], self.adversarial[fooled])
            line += f", median L2 of the fooled {norms.quantile(0.5):.3g}"
        if not self.complete:
            line += f", incomplete: {int(self.finished.sum())} of {len(self) + self.missing} clips finished"
        return line + ")"

    def _repr_html_(self) -> str:
        """The table of the first clips, and one attacked clip in motion, for notebooks."""
        from vidmarl.report.pictures import animation

        if len(self) == 0:
            return f"<p>{html.escape(repr(self))}</p>"
        table = self[:_SHOWN]._brief().to_html(index=False, border=0)
        more = f"<p>and {len(self) - _SHOWN} more clips</p>" if len(self) > _SHOWN else ""
        shown = int(self.success.int().argmax())
        width = 3 * max(self.clean.shape[-1], _SMALLEST_PANEL)
        return (
            f"<div><p><b>{html.escape(repr(self))}</b></p>{table}{more}"
            f'<figure style="margin:1em 0"><img style="width:{width}px;max-width:100%" alt="clip {shown}: original,'
            f' attacked, amplified difference" src="{animation(self.clean[shown], self.adversarial[shown])}">'
            f"<figcaption>clip {shown}: original, attacked, amplified difference</figcaption></figure></div>"
        )

    def _brief(self) -> pd.DataFrame:
        """The columns of `metrics` that fit on a screen, as text."""
        table = self.metrics()
        table.insert(0, "outcome", self.outcomes)
        goal = ["goal"] if self.settings.get("targeted") else []  # else the prediction itself, but for skipped clips
        said = table[["clip", "prediction", *goal, "outcome", "adversarial_prediction"]]
        said = said.rename(columns={"goal": "target", "adversarial_prediction": "now"})
        if not self.complete:
            said = said.assign(finished=table["finished"])
        numbers = [*metrics.SUCCESS_COLUMNS, *metrics.shown_metrics(table)]
        return said.assign(**{column.label: column.texts(table) for column in numbers})

    @property
    def outcomes(self) -> list[str]:
        """What came of each clip: "fooled", "not fooled" or "skipped"."""
        return metrics.outcomes(self)

    @checked
    def label(self, index: int) -> str:
        """The name of a class, or its number where the victim has no names.

        Raises:
            IndexError: the victim has names, and none of that index.
        """
        names = self.settings.get("labels")
        if names is not None and not 0 <= index < len(names):
            raise IndexError(f"The name of class {index}: the victim has the classes 0 to {len(names) - 1}.")
        return metrics.class_names(self, torch.tensor([index]))[0]

    def metrics(self, *, slow: bool = False) -> pd.DataFrame:
        """A row for each clip: what happened, and how large the perturbation of `adversarial` is.

        Args:
            slow: whether to add the metrics that cost seconds a clip, see
                `vidmarl.metrics.perturbation_metrics`.

        Returns:
            See `vidmarl.metrics.clip_table`; and "finished".
        """
        table = metrics.clip_table(self, slow=slow)
        table.insert(table.columns.get_loc("skipped") + 1, "finished", self.finished.numpy())
        return table

    def records(self) -> list[dict[str, Any]]:
        """The rows of `metrics` as plain data for JSON: no NumPy types, None for NaN and
        infinity."""
        return [{key: _plain(value) for key, value in row.items()} for row in self.metrics().to_dict("records")]

    @checked
    def save(self, path: PathLike, *, videos: bool = False, fps: float = 5.0, overwrite: bool = False) -> Path:
        """Writes the result to a folder, which is there complete or not at all.

        A result that was saved there before is replaced.

        Args:
            path: the folder.
            videos: whether to add the adversarial clips as lossless video.
            fps: frames a second of these videos.
            overwrite: whether `path` may also be replaced, with all that is in it, where it is no
                saved result.

        Returns:
            The folder.

        Raises:
            FileExistsError: `path` is there, is not empty and is no saved result, and `overwrite`
                is False.
            OSError: it cannot be written (a full disk); what was there before stays.
            TypeError: the settings are no plain data.
        """
        from safetensors.torch import save

        path = Path(path).expanduser().absolute()
        tensors = {name: value for name, value in vars(self).items() if name not in (*_CLIPS, *_OF_ALL)}
        tensors |= {name: (getattr(self, name) * 255).round().to(torch.uint8) for name in _CLIPS}
        tensors |= {_HISTORY + key: values for key, values in self.history.items()}
        with new_directory(path, overwrite or _is_result(path)) as folder:
            content = save({name: value.contiguous() for name, value in tensors.items()})
            write_atomically(folder / _TENSORS, content)
            write_atomically(folder / RECORD, self._record(hashlib.sha256(content).hexdigest()))
            if videos:
                self._write_videos(folder, fps)
        return path

    def _write_videos(self, folder: Path, fps: float) -> None:
        from vidmarl.data.encode import write_lossless

        for i, clip in enumerate(self.adversarial):
            write_lossless(folder / f"clip-{i:04d}.webm", clip, fps)

    def _record(self, checksum: str) -> str:
        """`result.json`."""
        from vidmarl._version import __version__

        record = {
            "format": FORMAT,
            "vidmarl": __version__,
            "sha256": checksum,
            "settings": self.settings,
            "provenance": self.provenance,
            "complete": self.complete,
            "missing": self.missing,
            "clips": self.records(),
        }
        try:
            record["record_sha256"] = _checksum(record)
            text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"Saving a result: its settings must be plain data (text, numbers, lists, dicts), but {error}."
            ) from error
        return text + "\n"

    @classmethod
    @checked
    def load(cls, path: PathLike) -> AttackResult:
        """Reads a result that `save` or `vidmarl.attack_files` wrote, with all its clips.

        Raises:
            FileNotFoundError: there is no such folder.
            CheckpointError: it is damaged, or of another version, or no saved result.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"Loading a result from {path}: there is nothing of that name.")
        return cls.cat([_load(part, clips=True) for part in find_parts(path)])


def load_outcome(folder: Path) -> AttackResult:
    """A saved result without its pixels: clips of no frames. Only what is given back is in the
    memory, however many clips there are.

    Raises:
        CheckpointError: see `AttackResult.load`.
    """
    return _load(folder, clips=False)


def _load(folder: Path, *, clips: bool) -> AttackResult:
    """What was saved in one part."""
    from safetensors import SafetensorError, safe_open

    doing = f"Loading a result from {folder}"
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        with (folder / _TENSORS).open("rb") as content:
            checksum = hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{doing}: expected a folder with {RECORD} and {_TENSORS} ({error}).") from error
    version = record.get("format") if isinstance(record, dict) else None
    if version not in (FORMAT, _WHOLE_ONLY):
        raise CheckpointError(
            f"{doing}: expected format {FORMAT}, got {version!r}. It is of another version of vidmarl, or no saved"
            " result."
        )
    if version == FORMAT and record.get("record_sha256") != _checksum(record):
        raise CheckpointError(f"{doing}: {RECORD} is damaged, or was changed: save the result again.")
    if checksum != record.get("sha256"):
        raise CheckpointError(f"{doing}: {_TENSORS} is damaged, or belongs to another {RECORD}: save it again.")
    try:
        with safe_open(folder / _TENSORS, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys() if name not in _CLIPS}  # noqa: SIM118
            for name in _CLIPS:
                pixels = file.get_slice(name)
                tensors[name] = (pixels[:] if clips else pixels[:, :, :0]).float() / 255
        history = {key.removeprefix(_HISTORY): tensors.pop(key) for key in sorted(tensors) if key.startswith(_HISTORY)}
        if version == _WHOLE_ONLY:
            tensors["finished"] = torch.ones_like(tensors["success"])
            record |= {"missing": 0, "provenance": {}}
        return AttackResult(
            **tensors,
            history=history,
            settings=record["settings"],
            missing=record["missing"],
            provenance=record["provenance"],
        )
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{doing}: its parts are not those of a result ({error}).") from error


def _rows(rows: Any, count: int) -> Tensor | slice:
    """Rows of a result as PyTorch takes them, without the axis that a single index takes away."""
    if isinstance(rows, slice) and (rows.step is None or rows.step > 0):
        return rows
    every = range(count)
    try:
        if isinstance(rows, slice):
            return torch.tensor(every[rows], dtype=torch.int64)
        at = rows.cpu() if isinstance(rows, Tensor) else torch.as_tensor(np.array(rows))
    except (TypeError, ValueError):
        at = torch.zeros(())
    if at.dtype == torch.bool and at.ndim == 1:
        if len(at) != count:
            raise IndexError(f"Taking clips of a result: expected a bool for each of the {count} clips, got {len(at)}.")
        return at
    if at.numel() and (at.dtype == torch.bool or at.is_floating_point() or at.is_complex() or at.ndim > 1):
        raise TypeError(
            f"Taking clips of a result: expected an index, a slice, or a list of indices or bools, got {rows!r}."
        )
    beyond = [row for row in at.flatten().tolist() if not -count <= row < count]
    if beyond:
        raise IndexError(f"Taking clips of a result: it has {count} clips, and none of the index {beyond[0]}.")
    return at.reshape(-1).to(torch.int64)


def _checksum(record: Mapping[str, Any]) -> str:
    """Of all that `result.json` says, but for this checksum itself; it does not depend on how it is
    written."""
    told = json.loads(json.dumps({key: value for key, value in record.items() if key != "record_sha256"}))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _is_result(path: Path) -> bool:
    """Whether a folder holds a saved result and nothing else; an empty one counts, since nothing in
    it can be lost."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return not names or (
        {RECORD, _TENSORS} <= names
        and all(n in (RECORD, _TENSORS) or (n.startswith("clip-") and n.endswith(".webm")) for n in names)
    )


def _plain(value: Any) -> Any:
    """A table's value for JSON, which knows neither NumPy's types nor NaN nor infinity."""
    import pandas as pd

    if pd.isna(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value

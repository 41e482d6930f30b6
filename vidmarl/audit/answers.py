"""What a victim says of clean and of corrupted clips: asked once, and written as it comes.

A file for each clip below `OUT/answers/VICTIM-HASH`, whose name has the hash of the clip's pixels.
The first hash is of all that decides what the victim says, and of the seed; each answer is kept
under the corruption, the severity and its setting. So an audit that was stopped goes on, another
corruption or clip only adds questions, and a changed setting never mixes with what was there.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.audit.corruptions import SEVERITIES, Corruption
from vidmarl.benchmark.clips import Clip, pixels_of, short_hash
from vidmarl.utils.files import sweep, write_atomically
from vidmarl.utils.progress import progress_bar
from vidmarl.victims.victim import Victim

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
CLEAN = "clean"
COLUMNS = (
    "clip",
    "path",
    "key",
    "label",
    "corruption",
    "family",
    "severity",
    "rank",
    "answer",
    "confidence",
    "probability",
)
"""Of a table of answers: `rank` is how many classes the victim holds for likelier than the true one
(0: it is right), `confidence` the probability of its answer, `probability` that of the true
class."""


@dataclasses.dataclass(frozen=True)
class Questionnaire:
    """What is asked about every clip.

    Args:
        victim: who is asked.
        corruptions: what happens to the clips.
        seed: of the corruptions.
        folder: for the answers.
    """

    victim: Victim
    corruptions: Sequence[Corruption]
    seed: int
    folder: Path

    def ask(self, clips: Sequence[Clip], classes: Sequence[int | None], *, progress: bool) -> pd.DataFrame:
        """The answers about all clips, those that are there and those that are missing.

        Args:
            clips: the clips.
            classes: the true class of each, as the victim counts; None: its clean answer.
            progress: whether to show a progress bar.

        Returns:
            A row for each clip, corruption and severity, and one for each clean clip, with severity
            0; see `COLUMNS`.
        """
        import pandas as pd

        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        each = 1 + len(SEVERITIES) * len(self.corruptions)
        rows: list[dict[str, Any]] = []
        with progress_bar(total=each * len(clips), unit="query", desc="corrupted clips", show=progress) as bar:
            for done, (clip, label) in enumerate(zip(clips, classes, strict=True), start=1):
                rows += self._rows(clip, label, self._answers(clip, label))
                bar.update(each)
                if done % 10 == 0 or done == len(clips):
                    right = [row["rank"] == 0 for row in rows if row["corruption"] != CLEAN]
                    bar.set_postfix_str(f"right about {sum(right) / max(1, len(right)):.0%}", refresh=False)
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _answers(self, clip: Clip, label: int | None) -> dict[str, list[float]]:
        """The answers about one clip: rank, class, confidence and probability of the true class, by
        what was done to the clip."""
        path = self.folder / f"{safe(clip.name)}-{clip.key}-{label}.json"
        known = _read(path)
        found = dict(known)
        try:
            if not {CLEAN, *(key for one in self.corruptions for key in _keys(one))} <= found.keys():
                pixels = pixels_of([clip])
                if CLEAN not in found:
                    [found[CLEAN]] = _told(self.victim(pixels), label)
                own = int(found[CLEAN][1]) if label is None else label
                for one in [c for c in self.corruptions if not _keys(c) <= found.keys()]:
                    changed = torch.stack([one(pixels[0], severity, self.seed) for severity in SEVERITIES])
                    told = _told(self.victim(changed), own)
                    found |= {_key(one, severity): of for severity, of in zip(SEVERITIES, told, strict=True)}
        finally:
            if found.keys() != known.keys():
                text = json.dumps(found, separators=(",", ":"))
                write_atomically(
                    path, json.dumps({"format": FORMAT, "sha": short_hash(text.encode()), "answers": text})
                )
        return found

    def _rows(self, clip: Clip, label: int | None, found: dict[str, list[float]]) -> list[dict[str, Any]]:
        own = int(found[CLEAN][1]) if label is None else label
        facts = {"clip": clip.name, "path": clip.path, "key": clip.key, "label": self.victim.label(own)}
        asked = [(CLEAN, "", 0, CLEAN)]
        asked += [(one.name, one.family, s, _key(one, s)) for one in self.corruptions for s in SEVERITIES]
        rows = []
        for name, family, severity, key in asked:
            rank, answer, confidence, probability = found[key]
            rows.append(
                facts
                | {"corruption": name, "family": family, "severity": severity, "rank": int(rank)}
                | {"answer": self.victim.label(int(answer)), "confidence": confidence, "probability": probability}
            )
        return rows


def _told(log_probs: Float[Tensor, "b k"], label: int | None) -> list[list[float]]:
    """Rank of the true class, answer, its probability and that of the true class."""
    told = []
    for of in log_probs.double().cpu():
        own = int(of.argmax()) if label is None else label
        rank = int((of >= of[own]).sum()) - 1 if label is not None else 0
        told.append([rank, int(of.argmax()), round(float(of.max().exp()), 6), round(float(of[own].exp()), 6)])
    return told


def _key(one: Corruption, severity: int) -> str:
    return f"{one.name} {severity} {one.settings[severity - 1]}"


def _keys(one: Corruption) -> set[str]:
    return {_key(one, severity) for severity in SEVERITIES}


def _read(path: Path) -> dict[str, list[float]]:
    """The answers of a file; none where there is no such file, or it is not as it was written."""
    try:
        record = json.loads(path.read_text("utf-8"))
        if record["format"] == FORMAT and short_hash(record["answers"].encode()) == record["sha"]:
            answers: dict[str, list[float]] = json.loads(record["answers"])
            return answers
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # asked again
    return {}


def safe(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80].lstrip(".") or "_"

"""What an audit has found: a folder of plain files, and an object over it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vidmarl.audit import tables
from vidmarl.audit.sensitive import ClipSensitivity, read
from vidmarl.benchmark.trials import Trials
from vidmarl.errors import CheckpointError
from vidmarl.utils.files import PathLike, new_directory, readable, write_atomically
from vidmarl.utils.tables import to_csv

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMAT = 1
RECORD, CLIPS, CORRUPTED, REPORT = "audit.json", "clips.csv", "corruptions.csv", "report.html"
ATTACKS, SENSITIVITY, PICTURES, ANSWERS = "attacks", "sensitivity", "pictures", "answers"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AuditResult:
    """What `vidmarl.audit` has found.

    Attributes:
        folder: where all of it lies.
        record: what audit.json holds: the victim, the settings, the figures, the verdict and where
            all of it comes from.
        answers: a row for each clip, corruption and severity, and one for each clean clip (severity
            0): "rank" is how many classes the victim holds for likelier than the true one.
        attacks: a row for each clip and attack, as in a benchmark's rows.csv; None: not attacked.
        sensitivity: of the clips on which it was measured.
    """

    folder: Path
    record: dict[str, Any]
    answers: pd.DataFrame
    attacks: pd.DataFrame | None
    sensitivity: list[ClipSensitivity]

    @classmethod
    def load(cls, folder: PathLike) -> AuditResult:
        """Opens the folder of an audit.

        Raises:
            CheckpointError: it is not the folder of an audit, or of another version's.
        """
        root = Path(folder)
        try:
            record = json.loads((root / RECORD).read_text("utf-8"))
            if record["format"] != FORMAT:
                raise ValueError(f"expected format {FORMAT}, got {record['format']!r}")
            answers = read_csv(root / CLIPS)
            attacks = read_csv(root / ATTACKS / "rows.csv") if record["attacks"] else None
            measured = [read(root / SENSITIVITY / of["file"], of["clip"]) for of in record["sensitivity"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"Opening the audit {readable(folder)}: expected the folder that `vidmarl audit --out` has written"
                f" ({error})."
            ) from error
        return cls(root, record, answers, attacks, [one for one in measured if one is not None])

    @property
    def victim(self) -> str:
        """The victim's name."""
        return str(self.record["victim"]["name"])

    @property
    def clean(self) -> dict[str, Any]:
        """Accuracy and calibration on clean clips; see `vidmarl.audit.tables.clean_figures`."""
        return tables.clean_figures(self.answers)

    @property
    def corruptions(self) -> pd.DataFrame:
        """A row for each corruption and severity; see `vidmarl.audit.tables.corruption_table`."""
        return tables.corruption_table(self.answers)

    @property
    def verdict(self) -> list[str]:
        """What came of it, in words."""
        from vidmarl.audit import verdict

        return verdict.verdict(self)

    def trials(self) -> dict[str, Trials]:
        """The trials of each attack, with their clips.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        return {
            name: Trials.load([self.folder / ATTACKS / path for path in of["trials"]], of["settings"])
            for name, of in (self.record["attacks"] or {}).get("by", {}).items()
        }

    def plot(self) -> go.Figure:
        """Accuracy under each corruption at each severity, as a heat map."""
        from vidmarl.audit import figures

        return figures.heat_map(self.corruptions, self.clean["top1"]["share"])

    def report(self, path: PathLike | None = None) -> Path:
        """Writes the page: the verdict, pictures, the heat map, curves and tables.

        Args:
            path: the file; None: report.html in the folder.
        """
        from vidmarl.audit.report import write_audit_report

        return write_audit_report(self.folder / REPORT if path is None else Path(path), self)

    def save(self, path: PathLike, overwrite: bool = False) -> Path:
        """Copies the folder, the trials and answers included, so that the copy can go on.

        Args:
            path: of the copy; it appears whole or not at all.
            overwrite: replace an earlier copy.

        Raises:
            FileExistsError: something is there already.
        """
        with new_directory(path, overwrite) as new:
            shutil.copytree(self.folder, new, dirs_exist_ok=True)
        return Path(path)

    def write(self) -> None:
        """Writes the tables, the record with its verdict, and the page."""
        write_atomically(self.folder / CLIPS, to_csv(self.answers))
        write_atomically(self.folder / CORRUPTED, to_csv(self.corruptions))
        self.record["verdict"] = self.verdict
        text = json.dumps(finite(self.record), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(self.folder / RECORD, text + "\n")
        self.report()

    def __repr__(self) -> str:
        return "\n".join([f"AuditResult({self.victim!r}, {self.clean['clips']} clips)", *self.verdict])

    def _repr_html_(self) -> str:
        """The verdict and the accuracy by severity, for notebooks."""
        from vidmarl.metrics.column import percent
        from vidmarl.utils import markup

        table = self.corruptions
        rows = []
        if len(table):
            wide = table.pivot_table(index="family", columns="severity", values="top1", sort=False)
            rows = [[family, *map(percent, of)] for family, of in zip(wide.index, wide.to_numpy(), strict=True)]
        head = ["right, by severity", *map(str, range(1, 6))] if rows else ()
        return markup.table(f"Audit of {self.victim}", rows, head, " ".join(self.verdict))


def finite(value: Any) -> Any:
    """Plain data without numbers that JSON does not have: None in their place."""
    if isinstance(value, dict):
        return {key: finite(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [finite(of) for of in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_csv(path: Path) -> pd.DataFrame:
    """A table whose empty texts are empty."""
    table = pd.read_csv(path)
    texts = [name for name in ("clip", "path", "key", "label", "family", "answer") if name in table]
    return table.assign(**{name: table[name].fillna("").astype(str) for name in texts})

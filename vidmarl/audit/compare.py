"""Two audits on the same clips: which victim is more robust, and how surely."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vidmarl import metrics
from vidmarl.audit import tables
from vidmarl.audit.answers import CLEAN
from vidmarl.audit.result import AuditResult, finite
from vidmarl.audit.verdict import points, title_of
from vidmarl.errors import ClipError
from vidmarl.metrics.column import number, percent
from vidmarl.report.verdict import SURELY
from vidmarl.utils.files import write_atomically
from vidmarl.utils.tables import to_csv

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclasses.dataclass(frozen=True)
class Paired:
    """How two victims compare on the same clips.

    Attributes:
        first: the first victim's mean.
        second: the second's.
        low: lower end of the 95 % interval of `second - first`, by bootstrap over the clips; NaN
            where the clips are too few or too alike.
        high: its upper end.
        p: of the two-sided Wilcoxon signed-rank test on the clips' differences; NaN where none
            differs.
        clips: how many.
    """

    first: float
    second: float
    low: float
    high: float
    p: float
    clips: int

    @property
    def difference(self) -> float:
        """`second - first`."""
        return self.second - self.first

    def sure(self, comparisons: int = 1) -> bool:
        """Whether the difference is sure, where so many comparisons are made (Bonferroni)."""
        return self.p < SURELY / comparisons  # False where it is NaN


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    """Compares what is known of the same clips.

    Args:
        first: of each clip, float[n].
        second: the same of the other victim.
    """
    differences = np.asarray(second, float) - np.asarray(first, float)
    low, high = (math.nan, math.nan) if len(differences) == 0 else metrics.bootstrap(differences, np.mean)
    p = metrics.wilcoxon(differences.round(9))
    one, other = (float(np.mean(of)) if len(of) else math.nan for of in (first, second))
    return Paired(one, other, float(low), float(high), p, len(differences))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AuditComparison:
    """Two audits on the clips that both have, see `compare_audits`.

    Attributes:
        results: the audits by the victim's name, the first and the second.
        clean: on clean clips.
        corrupted: of each clip the share of corruptions and severities withstood; None: there are
            none that both have.
        table: a row for each corruption that both have: "corruption", "family", "first", "second",
            "difference", "low", "high", "p".
        held: of the clips attacked in both, whether the victim was right and held; None: none.
        sizes: for the clips attacked in both that both are right about: the ratio, second to first,
            of the smallest perturbation that fooled (root mean square; infinite where none did),
            its median and interval, and the p; None: none.
    """

    results: dict[str, AuditResult]
    clean: Paired
    corrupted: Paired | None
    table: pd.DataFrame
    held: Paired | None
    sizes: metrics.PairedRatio | None

    @property
    def names(self) -> tuple[str, str]:
        """The victims' names."""
        first, second = self.results
        return first, second

    @property
    def verdict(self) -> list[str]:
        """Who is more robust, and how surely, in words."""
        first, second = self.names
        said = []
        if (of := self.corrupted) is not None:
            better, worse = (second, first) if of.difference > 0 else (first, second)
            sure = of.sure()
            head = f"{better} is {'surely ' if sure else ''}more robust against corruptions than {worse}"
            if of.difference == 0:
                head = f"{first} and {second} are equally robust against corruptions"
            doubt = "" if sure or of.difference == 0 else ", but not surely"
            said.append(f"{head}{doubt}: {_told(of, first, second)}.")
        said.append(f"Clean clips: {_told(self.clean, first, second)}.")
        if (of := self.held) is not None:
            said.append(f"Under attack, held of all clips attacked: {_told(of, first, second)}.")
        if self.sizes is not None and self.sizes.clips:
            said.append(self._size())
        changes = self.table[self.table["p"] < SURELY / max(1, len(self.table))]
        if len(changes):
            parts = [
                f"{title_of(row['corruption'])} ({percent(row['first'])} to {percent(row['second'])})"
                for row in changes.sort_values("difference", key=abs, ascending=False).head(5).to_dict("records")
            ]
            said.append(f"Surely different, from {first} to {second}: {', '.join(parts)}.")
        elif self.table["difference"].any():
            most = self.table.loc[self.table["difference"].abs().idxmax()]
            said.append(
                f"Under no single corruption are they surely apart; {title_of(most['corruption'])} differs the most"
                f" ({percent(most['first'])} to {percent(most['second'])})."
            )
        return said

    def _size(self) -> str:
        assert self.sizes is not None
        first, second = self.names
        of = self.sizes
        interval = "" if math.isnan(of.low) else f", 95 % interval {_times(of.low)} to {_times(of.high)}"
        sure = "surely another size" if of.p < SURELY else "no sure difference"
        return (
            f"What fools {second} is {_times(of.ratio)} times as large (root mean square, median over {of.clips} clips"
            f" that both are right about{interval}) as what fools {first}: {sure}."
        )

    def plot(self) -> go.Figure:
        """The difference under each corruption, with its 95 % interval."""
        from vidmarl.audit import figures

        return figures.differences(self.table, *self.names)

    def save(self, folder: Path) -> list[Path]:
        """Writes compare.html, compare.csv and compare.json to a folder.

        Returns:
            The files.
        """
        from vidmarl.audit.compare_report import write_comparison_report

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "audits": {name: str(result.folder) for name, result in self.results.items()},
            "verdict": self.verdict,
            "clean": dataclasses.asdict(self.clean),
            "corrupted": None if self.corrupted is None else dataclasses.asdict(self.corrupted),
            "held under attack": None if self.held is None else dataclasses.asdict(self.held),
            "size ratio": None if self.sizes is None else dataclasses.asdict(self.sizes),
        }
        return [
            write_comparison_report(folder / "compare.html", self),
            write_atomically(folder / "compare.csv", to_csv(self.table)),
            write_atomically(
                folder / "compare.json",
                json.dumps(finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            ),
        ]

    def __repr__(self) -> str:
        return "\n".join([f"AuditComparison({', '.join(self.names)})", *self.verdict])

    def _repr_html_(self) -> str:
        """The verdict, for notebooks."""
        from vidmarl.utils import markup

        rows = [
            (title_of(row["corruption"]), percent(row["first"]), percent(row["second"]))
            for row in self.table.to_dict("records")
        ]
        return markup.table("Two audits", rows, ("right under", *self.names), " ".join(self.verdict))


def compare_audits(first: AuditResult, second: AuditResult) -> AuditComparison:
    """Compares two victims on the clips that both audits have; a clip is known by its file, or its
    name where it has none.

    Args:
        first: an audit.
        second: another one.

    Raises:
        ClipError: they have no clip in common.
    """
    names = [first.victim, second.victim]
    if names[0] == names[1]:
        names = [f"{name} ({which})" for name, which in zip(names, (first.folder, second.folder), strict=True)]
        if names[0] == names[1]:
            names = [f"{first.victim} ({which})" for which in ("first", "second")]
    one, other = (_named(result.answers) for result in (first, second))
    common = [name for name in dict.fromkeys(one["name"]) if name in set(other["name"])]
    if not common:
        raise ClipError(
            f"Comparing the audits {first.folder} and {second.folder}: they have no clip in common. Audit both victims"
            " on the same data with the same max_clips."
        )
    one, other = (of[of["name"].isin(common)] for of in (one, other))
    clean = paired(*(_right(of[of["corruption"] == CLEAN], common) for of in (one, other)))
    rows, per_clip = [], []
    for name in [n for n in dict.fromkeys(one["corruption"]) if n != CLEAN and n in set(other["corruption"])]:
        shares = [_right(of[of["corruption"] == name], common) for of in (one, other)]
        per_clip.append(shares)
        of = paired(*shares)
        family = one.loc[one["corruption"] == name, "family"].iloc[0]
        rows.append({"corruption": name, "family": family} | {key: getattr(of, key) for key in KEYS})
    corrupted = paired(*(np.mean([pair[i] for pair in per_clip], axis=0) for i in (0, 1))) if per_clip else None
    table = pd.DataFrame(rows, columns=["corruption", "family", *KEYS])
    held, sizes = _attacks(first, second)
    return AuditComparison(dict(zip(names, (first, second), strict=True)), clean, corrupted, table, held, sizes)


KEYS = ("first", "second", "difference", "low", "high", "p", "clips")


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With a column "name", by which the clips of two audits are told to be the same."""
    return table.assign(name=table["path"].where(table["path"] != "", table["clip"]))


def _right(answers: pd.DataFrame, clips: list[str]) -> np.ndarray:
    """Of each clip the share of the answers that are right."""
    shares: np.ndarray = (answers["rank"] == 0).groupby(answers["name"]).mean().loc[clips].to_numpy(float)
    return shares


def _attacks(first: AuditResult, second: AuditResult) -> tuple[Paired | None, metrics.PairedRatio | None]:
    """Who held, and what it took, on the clips that both audits have attacked."""
    if first.attacks is None or second.attacks is None:
        return None, None
    found: list[tuple[pd.Series, pd.Series]] = []
    for result, rows in ((first, first.attacks), (second, second.attacks)):
        named = _named(tables.smallest(rows, int(result.record["attacks"]["budget"]))).set_index("name")
        tried = list(dict.fromkeys(_named(rows)["name"]))
        found.append(((~named["fooled"]).reindex(tried, fill_value=False), named["rms"]))
    (held, sizes), (other_held, other_sizes) = found
    common = [name for name in held.index if name in other_held.index]
    if not common:
        return None, None
    both = [name for name in common if name in sizes.index and name in other_sizes.index]
    a, b = sizes[both].to_numpy(float), other_sizes[both].to_numpy(float)
    ratios = np.where(a == b, 1.0, b / np.where(a == b, 1.0, a))
    ratio = None
    if len(ratios):
        with np.errstate(divide="ignore"):
            logs = np.log(ratios)
        low, high = metrics.median_interval(ratios)
        middle, p = float(np.median(ratios)), metrics.wilcoxon(logs)
        ratio = metrics.PairedRatio(middle, float(low), float(high), p, len(ratios))
    return paired(held[common].to_numpy(float), other_held[common].to_numpy(float)), ratio


def _told(of: Paired, first: str, second: str) -> str:
    """Two shares, and how far and how surely they are apart."""
    text = f"{second} {percent(of.second)}, {first} {percent(of.first)} of {of.clips} clips"
    if math.isnan(of.low):
        return text + (", the same" if of.difference == 0 else ", too few clips to tell")
    chance = f", p = {number(of.p)}" if not math.isnan(of.p) else ""
    interval = f"95 % interval {points(of.low)} to {points(of.high)}"
    return f"{text} (difference {points(of.difference)}, {interval}{chance})"


def _times(ratio: float) -> str:
    return "infinitely many" if math.isinf(ratio) else number(ratio)

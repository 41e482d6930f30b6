"""Makes the trials of a benchmark, those that are missing and no other.

The smallest piece of work is a trial, one attack on one clip, and each is a file of its own
(`vidmarl.benchmark.trials`) below

    OUT/trials/VICTIM/DISTORTION/ATTACK-HASH/CLIP-HASH.safetensors

The first hash is of every setting that could change the result, the victim's weights and the
agents' included; the second one is of the clip's pixels and its goal. So what is done is done: a
changed setting never mixes with what was made before, and another attack, clip or victim only adds
work. Tables and the report are made of the trials alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.std import tqdm

from vidmarl import metrics
from vidmarl.attacks.identity import identity
from vidmarl.attacks.result import AttackResult
from vidmarl.benchmark.clips import Clip, find_clips, pixels_of, short_hash
from vidmarl.benchmark.config import Benchmark, VictimChoice, label_of
from vidmarl.benchmark.entries import Entry, make_entries
from vidmarl.benchmark.report import write_benchmark_report
from vidmarl.benchmark.tables import ORIGINS, Key, summarise, write_tables
from vidmarl.benchmark.trials import FORMAT, SUFFIX, Trials, Wanted, is_done, origins, save_trials
from vidmarl.data.spec import ClipSpec
from vidmarl.errors import CheckpointError, ClipError
from vidmarl.queries.goals import Goal, Misclassify, Target
from vidmarl.queries.progress import Progress
from vidmarl.utils.files import readable, sweep, write_atomically
from vidmarl.utils.progress import progress_bar
from vidmarl.victims.victim import Victim

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class TrialSet:
    """The trials of one attack on one victim under one distortion, in the order of the clips.

    Attributes:
        entry: the attack and the distortion.
        victim: name in the tables.
        labels: the victim's class names, or None.
        paths: of the trials, made or not.
    """

    entry: Entry
    victim: str
    labels: list[str] | None
    paths: list[Path]

    @property
    def settings(self) -> dict[str, Any]:
        """Of the attack, as its result has them, and what its training has cost."""
        return self.entry.attack.params() | {
            "victim": self.victim,
            "labels": self.labels,
            "training_queries": self.entry.training_queries,
        }


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """What has come of a benchmark.

    Attributes:
        report: the HTML file.
        trials: by (victim, distortion) and attack, each on the same clips.
        summary: a row for each victim, distortion, attack and query budget, as in summary.csv.
    """

    report: Path
    trials: dict[Key, dict[str, Trials]]
    summary: pd.DataFrame


def run_benchmark(
    benchmark: Benchmark,
    *,
    clips: Sequence[Clip] | None = None,
    shard: tuple[int, int] = (0, 1),
    summarise_only: bool = False,
    progress: bool = True,
) -> BenchmarkResult | None:
    """Makes the trials that are missing, and the tables and the report when none is.

    Writes rows.csv, summary.csv, summary.md and report.html to `benchmark.out`.

    Args:
        benchmark: what to do.
        clips: the clips, where they have been found already, each as all of the victims want it;
            None: those of `benchmark.data`.
        shard: `(k, n)`: of every n clips this process attacks the k-th only, from 0, so that n
            processes share the work on one folder.
        summarise_only: attack nothing; make the tables of the clips that every attack has been
            tried on.
        progress: whether to show a progress bar.

    Returns:
        The results; None where trials are missing that are other processes' to make.

    Raises:
        ValueError, UnknownNameError, SettingsError, CheckpointError, DataError: the settings cannot
            be used. No query has been spent.
        CheckpointError: the folder holds trials of another version of vidmarl, or the settings of
            some are damaged; with `summarise_only`, a trial is.
        ClipError: no clip can be used; with `summarise_only`, there is none that every attack has
            been tried on.
    """
    _check_settings(Path(benchmark.out))
    sweep(benchmark.out)  # what a killed run has left of the tables, half written
    entries = make_entries(benchmark)
    wanted = Wanted(benchmark.slow_metrics, benchmark.keep_clips)
    found: dict[ClipSpec | None, list[Clip]] = {}
    sets: list[TrialSet] = []
    for choice in benchmark.choices:
        victim = choice.load(benchmark.device) if isinstance(choice, VictimChoice) else choice
        for entry in entries:
            entry.attack.check_victim(victim)
        if victim.spec not in found:
            found[victim.spec] = find_clips(benchmark, victim.spec, progress) if clips is None else list(clips)
        runner = VictimRunner(benchmark, choice, victim, found[victim.spec])
        of_victim = [runner.trial_set(entry) for entry in entries]
        if not summarise_only:
            try:
                runner.run(of_victim, wanted, shard, progress)
            except BaseException as error:
                error.add_note(
                    f"Kept in {readable(benchmark.out)}: every trial that is finished. The same command goes on."
                )
                raise
        sets += of_victim
    paths = [path for one in sets for path in one.paths]
    done = {path for path in paths if is_done(path, wanted, strict=summarise_only)}
    missing = len(paths) - len(done)
    if missing and not summarise_only:
        return None
    trials = finished(sets, done)
    if missing:
        warnings.warn(
            f"Benchmark: {missing} trials are missing; the tables hold the clips that all attacks have tried.",
            stacklevel=2,
        )
    _warn_of_differences(trials, benchmark.slow_metrics)
    out, points, reference = Path(benchmark.out), benchmark.points, benchmark.reference_attack
    controls = benchmark.controls
    if controls is None:
        controls = [entry.label for entry in entries if not entry.trained]
    summaries = {}
    for key, attacks in trials.items():
        figures = {name: metrics.summary_table(of, of.measured_of_fooled(), points) for name, of in attacks.items()}
        summaries[key] = summarise(attacks, figures, reference, controls)
    summary = write_tables(out, trials, summaries, budgets=points, reference=reference)
    report = write_benchmark_report(
        out / "report.html", trials, summaries, reference=reference, training=benchmark.training
    )
    return BenchmarkResult(report, trials, summary)


def _check_settings(out: Path) -> None:
    """Raises a CheckpointError where a folder holds trials of another version of vidmarl, or the
    settings of trials are not as they were written."""
    for path in sorted(out.glob("trials/*/*/*/settings.json")):
        content = path.read_bytes()
        try:
            version = json.loads(content).get("format", 1)
        except (ValueError, AttributeError):
            version = FORMAT  # which its checksum, in the folder's name, belies
        if version != FORMAT:
            raise CheckpointError(
                f"Benchmark: {out} holds trials of another version of vidmarl ({path}: format {version}, expected"
                f" {FORMAT}), which cannot be compared with new ones. Choose another folder (out), or delete"
                f" {out / 'trials'}."
            )
        if not path.parent.name.endswith(short_hash(content.removesuffix(b"\n"))):
            raise CheckpointError(
                f"Benchmark: {path} is damaged: its content is not that of the checksum in the name of its folder."
                " Delete the file: the next run with these settings writes it again."
            )


def _warn_of_differences(trials: Mapping[Key, Mapping[str, Trials]], slow_metrics: bool) -> None:
    """Warns of tables whose trials were made on different devices or by different versions, or
    before a metric was added."""
    for (victim, distortion), attacks in trials.items():
        found = origins(attacks.values())
        for what in ORIGINS:
            if len(values := found.get(what, ())) > 1:
                warnings.warn(
                    f"Benchmark: the trials of {victim} under {distortion} were made with {what}"
                    f" {' and '.join(sorted(map(str, values)))}, which may round differently: see the column {what} of"
                    " rows.csv.",
                    stacklevel=3,
                )
        measured = frozenset.intersection(*[of_attack.columns for of_attack in attacks.values()])
        if unknown := [c.name for c in metrics.columns(slow_metrics) if c.name not in measured]:
            warnings.warn(
                f"Benchmark: trials of {victim} under {distortion} were made before there was a metric"
                f" {', '.join(unknown)}, which they lack. To measure it, choose another folder (out), or delete these"
                " trials.",
                stacklevel=3,
            )


class VictimRunner:
    """One victim of a benchmark with its clips and its goals.

    Args:
        benchmark: the settings.
        choice: the victim's.
        victim: the victim.
        clips: the clips as it wants them.

    Raises:
        ValueError, UnknownNameError: `labels: dataset` asks for labels that a clip lacks or that
            the victim does not know.
    """

    def __init__(self, benchmark: Benchmark, choice: VictimChoice | Victim, victim: Victim, clips: list[Clip]) -> None:
        self.benchmark = benchmark
        self.victim = victim
        self.clips = clips
        self.label = label_of(choice)
        self.precision = choice.precision if isinstance(choice, VictimChoice) else "32-true"
        self.classes = self._classes()
        self.identity = victim.identity() | {"precision": self.precision}

    def _classes(self) -> list[int | None]:
        """The class of each clip's goal; None: the victim's clean prediction."""
        if self.benchmark.goal != "untargeted":
            # one query of each clip, outside of every attack's budget: each attack asks for its
            # own clean prediction; clip by clip, so that no rounding depends on the clips beside it
            with self._autocast():
                said = [self.victim(pixels_of([clip]))[0].topk(2).indices.tolist() for clip in self.clips]
            if self.benchmark.goal == "runner_up":
                return [second for _, second in said]
            return [self._target(clip, own) for clip, (own, _) in zip(self.clips, said, strict=True)]
        if self.benchmark.labels == "dataset":
            return [self._known(clip) for clip in self.clips]
        return [None] * len(self.clips)

    def _known(self, clip: Clip) -> int:
        if clip.label is None or clip.label_name is None:
            raise ValueError(f"Benchmark with `labels: dataset`: {clip.path or clip.name} has no label.")
        return clip.label if self.victim.labels is None else self.victim.class_index(clip.label_name)

    def _target(self, clip: Clip, own: int) -> int:
        """A class other than the clip's own, drawn by its content and the seed alone."""
        seed = zlib.crc32(f"target {self.benchmark.seed} {clip.key}".encode())
        classes = int(self.victim.n_classes or 0)
        drawn = int(torch.randint(classes - 1, (), generator=torch.Generator().manual_seed(seed)))
        return drawn + (drawn >= own)

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            yield

    @property
    def _device(self) -> torch.device:
        return self.victim.device or torch.device("cpu")

    def trial_set(self, entry: Entry) -> TrialSet:
        """The trials of an attack on this victim; makes their folder, with all settings in it."""
        settings = {"format": FORMAT, "victim": self.identity, "attack": identity(entry.attack)}
        text = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False)
        name = f"{_safe(entry.label)}-{short_hash(text.encode())}"
        folder = Path(self.benchmark.out) / "trials" / _safe(self.label) / _safe(entry.distortion) / name
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        if not (folder / "settings.json").exists():
            write_atomically(folder / "settings.json", text + "\n")
        paths = [folder / self._file(clip, goal) for clip, goal in zip(self.clips, self.classes, strict=True)]
        return TrialSet(entry, self.label, self.victim.labels, paths)

    def _file(self, clip: Clip, goal: int | None) -> str:
        """A trial's file: clip and goal."""
        return f"{_safe(clip.name)}-{short_hash(f'{clip.key} {self.benchmark.goal} {goal}'.encode())}{SUFFIX}"

    def run(self, sets: list[TrialSet], wanted: Wanted, shard: tuple[int, int], progress: bool) -> None:
        """Makes what is missing, clips in the outer loop: a run cut short has tried all attacks on
        the same clips."""
        own = range(shard[0], len(self.clips), shard[1])
        todo = [{i for i in own if not is_done(one.paths[i], wanted)} for one in sets]
        budget, trials, left = self.benchmark.budget, len(own) * len(sets), sum(map(len, todo))
        done = (trials - left) * budget
        with progress_bar(total=trials * budget, initial=done, unit="query", desc=self.label, show=progress) as bar:
            for start in range(0, len(own), self.benchmark.clips_at_once):
                some = own[start : start + self.benchmark.clips_at_once]
                if not (batch := [i for i in some if any(i in missing for missing in todo)]):
                    continue
                pixels = pixels_of([self.clips[i] for i in batch])
                for one, missing in zip(sets, todo, strict=True):
                    if rows := [row for row, i in enumerate(batch) if i in missing]:
                        before = bar.n
                        self._try(one, [batch[row] for row in rows], pixels[rows], wanted, bar)
                        bar.update(before + len(rows) * budget - bar.n)  # with the queries that were not needed

    def _try(
        self, trials: TrialSet, clips: list[int], pixels: Float[Tensor, "b 3 t h w"], wanted: Wanted, bar: tqdm
    ) -> None:
        entry = trials.entry

        def show(state: Progress) -> None:
            bar.set_postfix_str(f"{entry.distortion}, {entry.label}: {state}", refresh=False)
            bar.update(len(state.rows))

        try:
            with self._autocast():
                result = entry.attack(self.victim, pixels, self._goal(clips), on_query=show)
        except BaseException as error:
            if isinstance(found := getattr(error, "result", None), AttackResult):
                ended = found.finished.nonzero().flatten().tolist()
                self._save(trials, [clips[row] for row in ended], found[ended], wanted)
            raise
        self._save(trials, clips, result, wanted)

    def _save(self, trials: TrialSet, clips: list[int], result: AttackResult, wanted: Wanted) -> None:
        facts = [
            {
                "clip": self.clips[i].name,
                "path": self.clips[i].path,
                "label": self.clips[i].label_name,
                "seed": self.benchmark.seed,
            }
            for i in clips
        ]
        save_trials([trials.paths[i] for i in clips], result, facts, wanted)

    def _goal(self, clips: list[int]) -> Goal | None:
        classes = [self.classes[i] for i in clips]
        if None in classes:
            return None
        return (Misclassify if self.benchmark.goal == "untargeted" else Target)(torch.tensor(classes))


def finished(sets: Sequence[TrialSet], done: Collection[Path]) -> dict[Key, dict[str, Trials]]:
    """The trials by (victim, distortion) and attack, of the clips that every attack there has been
    tried on.

    Args:
        sets: of all victims, distortions and attacks.
        done: the trials that are there with all that is wanted of them.

    Raises:
        ClipError: there is no such clip.
    """
    groups: dict[Key, list[TrialSet]] = {}
    for one in sets:
        groups.setdefault((one.victim, one.entry.distortion), []).append(one)
    found: dict[Key, dict[str, Trials]] = {}
    for key, rivals in groups.items():
        by_clip = zip(*[one.paths for one in rivals], strict=True)
        tried = [i for i, paths in enumerate(by_clip) if all(path in done for path in paths)]
        if tried:
            found[key] = {one.entry.label: Trials.load([one.paths[i] for i in tried], one.settings) for one in rivals}
    if not found:
        raise ClipError("Summarising a benchmark: no clip has been tried by every attack yet. Run it first.")
    return found


def _safe(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80].lstrip(".") or "_"

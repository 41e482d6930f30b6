"""Whole jobs on files, for the command line and for scripts: what `vidmarl attack` does, as a
function.

The clips are attacked batch by batch, and each batch is on the disk before the next one is loaded.
Until all is done it lies in `OUT.unfinished`:

    job.json        what decides the results: the attack, the victim, the clips, their goals
    answers-0003    what the victim has answered in the batch at work, see `vidmarl.victims.journal`
    new/            what becomes OUT: `clips/`, and a part of `result/` for each batch that is done
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl._version import __version__
from vidmarl.attacks import Attack, AttackResult, as_attack
from vidmarl.attacks.identity import identity
from vidmarl.attacks.parts import join_parts, part
from vidmarl.attacks.saved import SavedResult
from vidmarl.data.encode import side_by_side, write_lossless, write_mp4
from vidmarl.data.video import load_clips
from vidmarl.errors import ClipError, SettingsError
from vidmarl.metrics.statistics import wilson
from vidmarl.queries.goals import Goal, Misclassify, Target
from vidmarl.report.html import write_report
from vidmarl.utils.files import readable, resumable_directory, sweep, write_atomically
from vidmarl.utils.fingerprints import fingerprint
from vidmarl.utils.kinds import checked
from vidmarl.utils.progress import progress_bar
from vidmarl.victims import Victim, load_victim
from vidmarl.victims.journal import Journal, journaled
from vidmarl.victims.victim import PIXELS_AT_ONCE

RESULTS = "results.json"


@checked
def attack_files(
    paths: Iterable[str | Path],
    victim: Victim | str | Mapping[str, Any],
    attack: Attack | str | Mapping[str, Any],
    out: str | Path,
    *,
    target: str | int | None = None,
    labels: Sequence[str | int] | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> SavedResult:
    """Attacks video files and writes what came of it to a folder, which appears complete or not at
    all.

    The folder holds `results.json`, `report.html`, `result/` (for `SavedResult`, or for
    `AttackResult.load`, which reads all clips at once), and for each clip `clips/NAME.webm` (the
    adversarial clip, lossless) and `clips/NAME.mp4` (clean, adversarial and amplified difference
    side by side).

    Nothing that the victim has answered is lost. Until all is done, it is kept in the folder
    `OUT.unfinished`; the same call goes on from there after an error, Ctrl-C or a kill, and comes
    to the same results. The memory holds `attack.clips_at_once` clips at a time, or fewer large
    ones.

    Args:
        paths: video files.
        victim: who is attacked; a `Victim`, or what names one for `load_victim`.
        attack: how; an `Attack`, or what names one for `vidmarl.attacks.as_attack`.
        out: the folder.
        target: the class that the victim is to say, by name or index. None: anything but the label.
        labels: the class under attack of each file, or one for all of them, by name or index. None:
            the victim's own clean prediction.
        skip_bad: go on without the files that cannot be used, and name them in `results.json`.
        overwrite: replace the folder of an earlier job, and drop what an unfinished one with other
            settings has left.

    Returns:
        The result, a row for each usable file, in the order given; its clips stay on the disk until
        they are asked for.

    Raises:
        ClipError: a file cannot be used (with `skip_bad`: none can). No query has been spent.
        FileExistsError: `out` is there already and not empty; with `overwrite`, no earlier job
            wrote it.
        SettingsError: an unfinished job with other settings is there, without `overwrite`; or the
            attack needs scores, and the victim says nothing but a class.
        BlockingIOError: another process is at work there.
        UnknownNameError: the victim has no class of that name.
        VictimError, OSError: the victim cannot be asked, or the disk is full. A note on the error
            says what is kept.
    """
    files = [Path(path) for path in paths]
    victim, attack = load_victim(victim), as_attack(attack)
    attack.check_victim(victim)
    with resumable_directory(out, _may_replace(Path(out), overwrite)) as folder:
        classes = _classes(victim, len(files), target, labels)
        usable, hashes, bad, pixels = _inspect(files, victim, skip_bad, attack.progress)
        goal = None if classes is None else (Misclassify if target is None else Target)(classes[usable])
        at_once = min(attack.clips_at_once, max(1, PIXELS_AT_ONCE // pixels))
        job = _Job(folder, victim, attack, [files[i] for i in usable], hashes, goal, at_once)
        job.begin(overwrite)
        try:
            job.run()
            job.finish(bad)
        except BaseException as error:
            mistaken = isinstance(error, ValueError) and job.has_only_begun  # such as a target that is no class
            if (told := job.kept()) and not mistaken:
                error.add_note(f"Kept in {_near(folder)}: {told}. The same command goes on from there.")
            else:
                shutil.rmtree(folder / "new", ignore_errors=True)
            raise
    return SavedResult(Path(out) / "result")


@dataclasses.dataclass(frozen=True)
class _Job:
    """An attack on files: what there is to do, and what of it is done.

    Attributes:
        folder: of the unfinished job.
        victim: who is attacked.
        attack: how.
        files: whose clips are attacked.
        hashes: of the clips, one for each file.
        goal: of the attack.
        at_once: clips that are attacked side by side.
    """

    folder: Path
    victim: Victim
    attack: Attack
    files: list[Path]
    hashes: list[str]
    goal: Goal | None
    at_once: int

    @property
    def batches(self) -> list[slice]:
        """The clips that are attacked side by side."""
        return [slice(start, start + self.at_once) for start in range(0, len(self.files), self.at_once)]

    @property
    def done(self) -> int:
        """How many batches are done; they are done in order."""
        return len(list((self.folder / "new").glob("result/part-*")))

    def begin(self, overwrite: bool) -> None:
        """Writes down what the job is, or says how far it is if it is there.

        Raises:
            SettingsError: another job is there, without `overwrite`.
        """
        for place in (self.folder, *(self.folder / "new").glob("**/")):
            sweep(place)  # what a killed run has left half written
        place = self.folder / "job.json"
        own = json.dumps(self._identity(), indent=1, ensure_ascii=False)
        try:
            there = place.read_bytes().decode("utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            there = ""
        if there.strip() == own:
            if told := self.kept():
                print(f"vidmarl: going on in {_near(self.folder)}: {told}", file=sys.stderr)
            return
        if self.kept() and not overwrite:
            raise SettingsError(
                f"Attacking video files: {_near(self.folder)} holds an unfinished job of other settings"
                f" ({_difference(there, own)}). Finish it by its own command, choose another folder, or drop it"
                " (overwrite=True)."
            )
        for left in self.folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        (self.folder / "new").mkdir()
        write_atomically(place, own + "\n")

    def _identity(self) -> dict[str, Any]:
        """All that decides the results."""
        return {
            "vidmarl": __version__,
            "attack": identity(self.attack),
            "clips_at_once": self.at_once,
            "victim": self.victim.identity(),
            "device": (self.victim.device or torch.device("cpu")).type,
            "goal": None if self.goal is None else [type(self.goal).__name__, self.goal.classes.tolist()],
            "clips": [list(pair) for pair in zip(map(readable, self.files), self.hashes, strict=True)],
        }

    @property
    def has_only_begun(self) -> bool:
        """Whether the victim has said no more than what it makes of the clean clips."""
        return self.done == 0 and self._recorded() <= len(self.files)

    def kept(self) -> str:
        """What is done, in words; "" for nothing."""
        done, recorded = self.done, self._recorded()
        answers = f"{recorded:,} answer{'' if recorded == 1 else 's'} of the victim recorded"
        return f"{done} of {len(self.batches)} batches done, {answers}" if done or recorded else ""

    def _recorded(self) -> int:
        """Answers in the batch at work."""
        recorded = 0
        for path in self.folder.glob("answers-*"):
            with contextlib.closing(Journal(path)) as journal:
                recorded += journal.recorded
        return recorded

    def run(self) -> None:
        """Attacks the batches that are not done."""
        (self.folder / "new" / "clips").mkdir(exist_ok=True)
        left = range(self.done, len(self.batches))
        clips = sum(len(self.files[self.batches[i]]) for i in left)
        with contextlib.closing(self._clips(left)) as batches:
            for i, result in zip(left, self.attack.batches(self.victim, batches, clips), strict=True):
                self._write(i, result)

    def _clips(self, numbers: Iterable[int]) -> Generator[tuple[Float[Tensor, "b 3 t h w"], Goal | None], None, None]:
        """The clips of some batches and their goals; while a batch is attacked, its answers are
        recorded."""
        for number in numbers:
            rows = self.batches[number]
            with journaled(self.victim, self.folder / f"answers-{number:04d}"):
                yield self._load(rows), None if self.goal is None else self.goal[rows]
            (self.folder / f"answers-{number:04d}").unlink()

    def _load(self, rows: slice) -> Float[Tensor, "b 3 t h w"]:
        clips = load_clips(self.files[rows], self.victim)
        for file, clip, known in zip(self.files[rows], clips, self.hashes[rows], strict=True):
            if _hash(clip) != known:
                raise ClipError(f"Attacking {readable(file)}: the file has changed since the attack began.")
        return clips

    def _write(self, number: int, result: AttackResult) -> None:
        """Writes what came of a batch; it is done when its part of the result is there."""
        names = _clip_names(self.files)[self.batches[number]]
        bar = progress_bar(names, unit="clip", desc="Writing clips", leave=False, show=self.attack.progress)
        for i, name in enumerate(bar):
            clean, adversarial = result.clean[i], result.adversarial[i]
            place, rate = self.folder / "new" / "clips", _frame_rate(self.victim)
            write_lossless(place / f"{name}.webm", adversarial, rate)
            write_mp4(place / f"{name}.mp4", side_by_side(clean, adversarial), rate)
        result.save(self._part(number))

    def _part(self, number: int) -> Path:
        return part(self.folder / "new" / "result", number)

    def finish(self, bad: dict[Path, str]) -> None:
        """Writes what says something of all clips; `bad`: the files that were left out, and why."""
        new = self.folder / "new"
        join_parts(new / "result", len(self.batches))
        result = SavedResult(new / "result")
        record = to_record(result, self.files) | {"left_out": {readable(path): why for path, why in bad.items()}}
        write_atomically(new / RESULTS, json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
        title = f"{result.settings['attack']} against {result.settings['victim']}"
        names = [readable(file.name) for file in self.files]
        write_report(new / "report.html", result, title=title, names=names, fps=_frame_rate(self.victim))


def to_record(result: AttackResult | SavedResult, files: Sequence[Path]) -> dict[str, Any]:
    """A result as plain data for JSON: settings, where it comes from, a summary (with a 95 % Wilson
    interval of the fooling rate), and a record per clip."""
    records = []
    for file, clip, row in zip(files, _clip_names(files), result.records(), strict=True):
        row["goal"] = ("say " if result.settings["targeted"] else "not ") + row["goal"]
        of_clip = {"file": readable(file), "lossless": f"clips/{clip}.webm", "side_by_side": f"clips/{clip}.mp4"}
        records.append(of_clip | {key: value for key, value in row.items() if key != "clip"})
    attacked, fooled = int((~result.skipped).sum()), int(result.success.sum())
    interval = [float(end) for end in wilson(np.array(fooled), attacked)] if attacked else None
    return {
        "vidmarl": __version__,
        "settings": {key: value for key, value in result.settings.items() if key != "labels"},
        "provenance": result.provenance,
        "summary": {
            "clips": len(result),
            "attacked": attacked,
            "skipped": len(result) - attacked,
            "fooled": fooled,
            "fooling_rate": fooled / attacked if attacked else None,
            "fooling_rate_interval": interval,
            "queries": int(result.queries.sum()),
        },
        "clips": records,
    }


def _may_replace(out: Path, overwrite: bool) -> bool:
    """Whether what is at `out` may be replaced: only the folder of an earlier job, and only on
    request."""
    if overwrite and out.exists() and not (out / RESULTS).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(
            f"Overwriting {out}: it holds no {RESULTS}, so no earlier job wrote it, and it is left alone."
        )
    return overwrite


def _inspect(
    files: list[Path], victim: Victim, skip_bad: bool, progress: bool
) -> tuple[list[int], list[str], dict[Path, str], int]:
    """Decodes every file once, and keeps none: which of them can be used, the hashes of their
    clips, what is wrong with the others, and the pixels of a clip, all frames together."""
    usable, hashes, bad, lengths = [], [], {}, set()
    bar = progress_bar(files, unit="clip", desc="Looking at the files", leave=False, delay=1, show=progress)
    for i, file in enumerate(bar):
        try:
            clip = load_clips([file], victim)[0]
        except (ClipError, OSError) as error:
            bad[file] = str(error)
        else:
            usable.append(i)
            hashes.append(_hash(clip))
            lengths.add(clip.shape[1])
    if not files:
        raise ClipError("Attacking video files: none were given.")
    if bad and (not skip_bad or not usable):
        advice = "No query was spent. Leave them out, or go on without them (skip_bad=True)." if usable else ""
        raise ClipError("\n".join([f"{len(bad)} of {len(files)} files cannot be used:", *bad.values(), advice]).strip())
    if len(lengths) > 1:
        raise ClipError(
            f"Attacking {len(usable)} video files: their clips have {min(lengths)} to {max(lengths)} frames, because"
            " the spec asks for whole videos (frames=None). Attack them one by one, or set ClipSpec(frames=...)."
        )
    return usable, hashes, bad, clip[0].numel()


def _near(path: Path) -> str:
    """A path for people, from the working folder on if it lies there."""
    here = Path.cwd()
    return readable(path.relative_to(here) if path.is_relative_to(here) else path)


def _hash(clip: Float[Tensor, "3 t h w"]) -> str:
    return fingerprint(clip.mul(255).round().to(torch.uint8))


def _difference(one: str, other: str) -> str:
    """Where two jobs differ first, for people."""
    before, now = (_leaves(json.loads(text or "{}")) for text in (one, other))
    for name in before | now:
        if before.get(name) != now.get(name):
            told = f"{name} was {before.get(name)!r}, and is {now.get(name)!r}"
            return "other clips" if name.startswith("clips.") else told
    return "other clips"


def _leaves(record: Any, name: str = "") -> dict[str, Any]:
    """The values in nested data, by the names that lead there."""
    if not isinstance(record, dict | list):
        return {name: record}
    items = record.items() if isinstance(record, dict) else enumerate(record)
    return {path: leaf for key, value in items for path, leaf in _leaves(value, f"{name}.{key}".strip(".")).items()}


def _classes(
    victim: Victim, clips: int, target: str | int | None, labels: Sequence[str | int] | None
) -> Int64[Tensor, " b"] | None:
    """The class of the goal for each clip, or None where no class is given."""
    if target is not None and labels is not None:
        raise ValueError("Attacking video files: give a target class or labels to lead away from, not both.")
    if target is not None:
        labels = [target]
    if labels is None:
        return None
    if len(labels) not in (1, clips):
        raise ValueError(
            f"Attacking {clips} video files: expected one label for each, or one for all, got {len(labels)}."
        )
    indices = torch.tensor([victim.class_index(label) for label in labels])
    return indices.expand(clips) if len(indices) == 1 else indices


def _frame_rate(victim: Victim) -> float:
    """Frames a second at which the victim's clips play at about the pace of the video."""
    return victim.spec.fps if victim.spec is not None and victim.spec.sampling == "fps" else 8.0


def _clip_names(files: Sequence[Path]) -> list[str]:
    """A name for each clip that is safe in a path and unique."""
    return [f"{i:04d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', file.stem)[:80]}" for i, file in enumerate(files)]

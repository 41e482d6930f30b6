"""Whole jobs on files, for the command line and for scripts: what `vidmarl attack` does, as a
function."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm.auto import tqdm

from vidmarl._version import __version__
from vidmarl.attacks import Attack, AttackResult, as_attack
from vidmarl.data.encode import side_by_side, write_lossless, write_mp4
from vidmarl.data.video import load_clips
from vidmarl.errors import ClipError
from vidmarl.queries.goals import Misclassify, Target
from vidmarl.report.html import write_report
from vidmarl.utils.files import new_directory, readable, write_atomically
from vidmarl.victims import Victim, load_victim

RESULTS = "results.json"


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
) -> AttackResult:
    """Attacks video files and writes what came of it to a folder, which appears complete or not at
    all.

    The folder holds `results.json`, `report.html`, `result/` (for `AttackResult.load`), and for
    each clip `clips/NAME.webm` (the adversarial clip, lossless) and `clips/NAME.mp4` (clean,
    adversarial and amplified difference side by side).

    Args:
        paths: video files.
        victim: who is attacked; a `Victim`, or what names one for `load_victim`.
        attack: how; an `Attack`, or what names one for `vidmarl.attacks.as_attack`.
        out: the folder.
        target: the class that the victim is to say, by name or index. None: anything but the label.
        labels: the class under attack of each file, or one for all of them, by name or index. None:
            the victim's own clean prediction.
        skip_bad: go on without the files that cannot be used, and name them in `results.json`.
        overwrite: replace the folder of an earlier job.

    Returns:
        The result, a row for each usable file, in the order given.

    Raises:
        ClipError: a file cannot be used (with `skip_bad`: none can). No query has been spent.
        FileExistsError: `out` is there already and not empty; with `overwrite`, no earlier job
            wrote it.
        UnknownNameError: the victim has no class of that name.
    """
    files = [Path(path) for path in paths]
    victim, attack = load_victim(victim), as_attack(attack)
    with new_directory(out, _may_replace(Path(out), overwrite)) as folder:
        classes = _classes(victim, len(files), target, labels)
        usable, clips, bad = _load(files, victim, skip_bad)
        goal = None if classes is None else (Misclassify if target is None else Target)(classes[usable])
        result = attack(victim, clips, goal)
        named = [files[i] for i in usable]
        write_result(folder, result, named, rate=_frame_rate(victim), bad=bad, progress=attack.progress)
    return result


def write_result(
    folder: Path,
    result: AttackResult,
    files: Sequence[Path],
    *,
    rate: float = 5.0,
    bad: dict[Path, str] | None = None,
    progress: bool = True,
) -> None:
    """Writes a result, its clips and its report into a folder that exists.

    Args:
        folder: where to.
        result: what to write.
        files: the file that each clip came from.
        rate: frames a second of the written videos.
        bad: files that were left out, and why.
        progress: whether to show a progress bar.
    """
    names = _clip_names(files)
    result.save(folder / "result")
    (folder / "clips").mkdir()
    for i, name in enumerate(tqdm(names, unit="clip", desc="Writing clips", disable=not progress)):
        write_lossless(folder / "clips" / f"{name}.webm", result.adversarial[i], rate)
        write_mp4(folder / "clips" / f"{name}.mp4", side_by_side(result.clean[i], result.adversarial[i]), rate)
    record = to_record(result, files) | {"left_out": {readable(path): why for path, why in (bad or {}).items()}}
    write_atomically(folder / RESULTS, json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    title = f"{result.settings['attack']} against {result.settings['victim']}"
    write_report(folder / "report.html", result, title=title, names=[readable(file.name) for file in files], fps=rate)


def to_record(result: AttackResult, files: Sequence[Path]) -> dict[str, Any]:
    """A result as plain data for JSON: settings, a summary, and a record per clip."""

    records = []
    for file, clip, row in zip(files, _clip_names(files), result.records(), strict=True):
        row["goal"] = ("say " if result.settings["targeted"] else "not ") + row["goal"]
        of_clip = {"file": readable(file), "lossless": f"clips/{clip}.webm", "side_by_side": f"clips/{clip}.mp4"}
        records.append(of_clip | {key: value for key, value in row.items() if key != "clip"})
    attacked = int((~result.skipped).sum())
    return {
        "vidmarl": __version__,
        "settings": {key: value for key, value in result.settings.items() if key != "labels"},
        "summary": {
            "clips": len(result),
            "attacked": attacked,
            "skipped": len(result) - attacked,
            "fooled": int(result.success.sum()),
            "fooling_rate": int(result.success.sum()) / attacked if attacked else None,
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


def _load(
    files: list[Path], victim: Victim, skip_bad: bool
) -> tuple[list[int], Float[Tensor, "b 3 t h w"], dict[Path, str]]:
    """Which files can be used, their clips float32[b 3 t h w], and what is wrong with the
    others."""
    clips, usable, bad = [], [], {}
    for i, file in enumerate(files):
        try:
            clips.append(load_clips([file], victim))
            usable.append(i)
        except (ClipError, OSError) as error:
            bad[file] = str(error)
    if not files:
        raise ClipError("Attacking video files: none were given.")
    if bad and (not skip_bad or not usable):
        advice = "No query was spent. Leave them out, or go on without them (skip_bad=True)." if usable else ""
        raise ClipError("\n".join([f"{len(bad)} of {len(files)} files cannot be used:", *bad.values(), advice]).strip())
    return usable, torch.cat(clips), bad


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

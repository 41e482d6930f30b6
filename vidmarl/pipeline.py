"""Whole jobs on files, for the command line and for scripts: what `vidmarl attack` does, as a
function."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vidmarl.agents.checkpoint import find_agents, list_pretrained
from vidmarl.data.spec import ClipSpec
from vidmarl.distortions import as_distortion
from vidmarl.errors import ClipError, UnknownNameError
from vidmarl.queries.goals import Misclassify, Target
from vidmarl.utils.files import new_directory
from vidmarl.victims.victim import Victim

if TYPE_CHECKING:
    from vidmarl.attacks import Attack, AttackResult

RESULTS = "results.json"


def attack_files(
    paths: Iterable[str | Path],
    victim: Victim,
    attack: Attack,
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
        victim: who is attacked.
        attack: how.
        out: the folder.
        target: the class that the victim shall say, by name or index. None: anything but the label.
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
    with new_directory(out, _may_replace(Path(out), overwrite)) as folder:
        classes = _classes(victim, len(files), target, labels)
        usable, clips, bad = _load(files, victim, skip_bad)
        goal = None if classes is None else (Misclassify if target is None else Target)(classes[usable])
        result = attack(victim, clips, goal)
        named = [files[i] for i in usable]
        write_result(folder, result, named, rate=_frame_rate(victim), bad=bad, progress=attack.progress)
    return result


def load_victim_as(name: str, weights: str | None, device: str | None, spec: dict[str, Any]) -> Victim:
    """Loads a victim, its spec changed in parts.

    Args:
        name: see `vidmarl.load_victim`.
        weights: see `vidmarl.load_victim`.
        device: where it runs; None: a GPU where there is one.
        spec: fields of `ClipSpec` that shall differ from the victim's own.

    Raises:
        ValueError: a spec has no such field.
    """
    from vidmarl.victims import load_victim

    victim = load_victim(name, weights, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if "size" in spec:
        spec = spec | {"size": tuple(spec["size"])}
    try:
        victim.spec = dataclasses.replace(victim.spec or ClipSpec(), **spec)
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(ClipSpec))
        raise ValueError(f"Reading the clip spec {spec}: {error}. A spec may have: {known}.") from error
    return victim


def make_attack(thing: str | dict[str, Any], ckpt: str | Path | None = None, **settings: Any) -> Attack:
    """Makes an attack by name, like `attacks.as_attack`, the learned one included, which comes from
    a checkpoint.

    Args:
        thing: a name ("grow_and_reduce"), a class path, or `{"class_path": ..., "init_args":
            {...}}`.
        ckpt: the trained agents, for "rl": a file, or the name of agents that ship with vidmarl;
            None: those that ship for the distortion.
        **settings: arguments of `Attack`; those that are None are left to the attack, which for
            "rl" means to what its agents were trained with.

    Raises:
        UnknownNameError: there is no attack, no distortion, or no shipped agents of that name.
        ValueError: the settings do not fit, "rl" came without a checkpoint and no agents ship for
            the distortion, or another attack came with one.
        CheckpointError: the checkpoint cannot be used.
    """
    from vidmarl.attacks import as_attack

    if isinstance(thing, str):
        thing = {"class_path": thing}
    settings = {
        **(thing.get("init_args") or {}),
        **{key: value for key, value in settings.items() if value is not None},
    }
    name = str(thing.get("class_path"))
    if is_learned(name) and ckpt is None:
        ckpt = shipped_for(settings.get("distortion", "gaussian_noise"))
    if ckpt is not None and not is_learned(name):
        raise ValueError(f"The attack {name!r} has nothing to learn, so a checkpoint ({ckpt}) is of no use to it.")
    try:
        if ckpt is None:
            return as_attack({**thing, "init_args": settings})
        from vidmarl.attacks.rl import RLAttack

        return RLAttack.from_checkpoint(find_agents(ckpt), **settings)
    except TypeError as error:  # a misspelt or missing argument
        raise ValueError(f"Making the attack {name!r}: {error}") from error


def is_learned(attack: str) -> bool:
    """Whether a name or class path is that of the attack by trained agents."""
    return attack.rpartition(".")[2] in ("rl", "RLAttack")


def shipped_for(distortion: Any) -> str:
    """The name of the agents that ship with vidmarl for a distortion.

    Raises:
        ValueError: there are none.
    """
    name = type(as_distortion(distortion)).__module__.rpartition(".")[2]
    if name not in list_pretrained():
        raise ValueError(
            f"The attack 'rl' needs trained agents, and none ship with vidmarl for the distortion {name!r}, only for"
            f" {list_pretrained()}. Give a checkpoint of `vidmarl fit` or `vidmarl demo`, or one of these names (ckpt),"
            " or choose an attack that has nothing to learn, such as 'grow_and_reduce'."
        )
    return name


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
    from vidmarl.data.encode import side_by_side, write_lossless, write_mp4
    from vidmarl.report.html import write_report

    names = _clip_names(files)
    result.save(folder / "result")
    (folder / "clips").mkdir()
    for i, name in enumerate(tqdm(names, unit="clip", desc="Writing clips", disable=not progress)):
        write_lossless(folder / "clips" / f"{name}.webm", result.adversarial[i], rate)
        write_mp4(folder / "clips" / f"{name}.mp4", side_by_side(result.clean[i], result.adversarial[i]), rate)
    record = describe(result, files) | {"left_out": {str(path): why for path, why in (bad or {}).items()}}
    (folder / RESULTS).write_text(json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")
    title = f"{result.settings['attack']} against {result.settings['victim']}"
    write_report(folder / "report.html", result, title=title, names=[file.name for file in files], fps=rate)


def describe(result: AttackResult, files: Sequence[Path]) -> dict[str, Any]:
    """A result as plain data for JSON: settings, a summary, and a record per clip."""
    from vidmarl._version import __version__

    records = []
    for file, clip, row in zip(files, _clip_names(files), result.records(), strict=True):
        row["goal"] = ("say " if result.settings["targeted"] else "not ") + row["goal"]
        of_clip = {"file": str(file), "lossless": f"clips/{clip}.webm", "side_by_side": f"clips/{clip}.mp4"}
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


def class_index(victim: Victim, wanted: str | int) -> int:
    """The index of a class that is given by its name (upper and lower case alike) or its index.

    Raises:
        UnknownNameError: no class has that name.
        ValueError: the victim has no names.
    """
    if isinstance(wanted, int) or wanted.isdigit():
        return int(wanted)
    if victim.labels is None:
        raise ValueError(f"Looking up the class {wanted!r}: the victim {victim.name!r} has no names; give the index.")
    folded = [label.casefold() for label in victim.labels]
    if wanted.casefold() not in folded:
        raise UnknownNameError(f"class of {victim.name!r}", wanted.casefold(), folded)
    return folded.index(wanted.casefold())


def _may_replace(out: Path, overwrite: bool) -> bool:
    """Whether what is at `out` may be replaced: only the folder of an earlier job, and only on
    request."""
    if overwrite and out.exists() and not (out / RESULTS).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(
            f"Overwriting {out}: it holds no {RESULTS}, so no earlier job wrote it, and it is left alone."
        )
    return overwrite


def _load(files: list[Path], victim: Victim, skip_bad: bool) -> tuple[list[int], Tensor, dict[Path, str]]:
    """Which files can be used, their clips float32[b 3 t h w], and what is wrong with the
    others."""
    from vidmarl.data.video import load_clips

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
        advice = "No query was spent. Leave them out, or go on without them (skip_bad)." if usable else ""
        raise ClipError("\n".join([f"{len(bad)} of {len(files)} files cannot be used:", *bad.values(), advice]).strip())
    return usable, torch.cat(clips), bad


def _classes(victim: Victim, clips: int, target: str | int | None, labels: Sequence[str | int] | None) -> Tensor | None:
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
    indices = torch.tensor([class_index(victim, label) for label in labels])
    return indices.expand(clips) if len(indices) == 1 else indices


def _frame_rate(victim: Victim) -> float:
    """Frames a second at which the victim's clips play at about the pace of the video."""
    return victim.spec.fps if victim.spec is not None and victim.spec.sampling == "fps" else 8.0


def _clip_names(files: Sequence[Path]) -> list[str]:
    """A name for each clip that is safe in a path and unique."""
    return [f"{i:04d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', file.stem)[:80]}" for i, file in enumerate(files)]

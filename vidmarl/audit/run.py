"""The audit of a victim: everything is asked once, written as it comes, and put on one page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from vidmarl.attacks.provenance import provenance
from vidmarl.audit.answers import CLEAN, Questionnaire
from vidmarl.audit.attacks import attack, attack_record
from vidmarl.audit.clips import Labelled, clips_of
from vidmarl.audit.corruptions import choose
from vidmarl.audit.pictures import draw_pictures
from vidmarl.audit.result import ANSWERS, ATTACKS, FORMAT, PICTURES, SENSITIVITY, AuditResult, read_csv
from vidmarl.audit.sensitive import measure
from vidmarl.audit.tables import clean_figures, corruption_table
from vidmarl.benchmark.clips import Clip, short_hash
from vidmarl.data.base import ClipSource, evenly
from vidmarl.data.synthetic import Synthetic
from vidmarl.distortions import Distortion, as_distortion
from vidmarl.utils.files import PathLike, readable
from vidmarl.utils.kinds import check_least, checked
from vidmarl.victims import load_victim
from vidmarl.victims.victim import Victim

if TYPE_CHECKING:
    import pandas as pd


@checked
def audit(
    victim: Victim | str | Mapping[str, Any],
    data: ClipSource | Synthetic | Labelled,
    out: PathLike = "outputs/audit",
    *,
    labels: Literal["dataset", "prediction"] = "dataset",
    max_clips: int | None = 100,
    corruptions: Iterable[str] | None = None,
    attacks: Mapping[str, dict[str, Any]] | None = None,
    distortion: Distortion | str | dict[str, Any] = "gaussian_noise",
    budget: int = 200,
    attack_clips: int = 20,
    sensitivity_clips: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> AuditResult:
    """The whole picture of a victim, in one folder and on one page.

    - Clean accuracy (top-1 and top-5) and calibration.
    - Accuracy under each corruption at five severities, after UCF101-P and Kinetics-C: a query for
      each clip, corruption and severity.
    - Robust accuracy under attack, at query budgets and at sizes of the perturbation, by the agents
      that ship and a strong control, through a benchmark; every query is counted.
    - Where and when it is sensitive, on a few clips (`vidmarl.sensitivity`).

    All of it is written as it comes: the same call goes on where it was stopped, and more clips or
    corruptions only add to it.

    Args:
        victim: who is audited, or what names a victim for `vidmarl.load_victim`.
        data: a dataset, whose classes the victim must know by name; or clips, float[b 3 t h w] in
            [0, 1], and the class of each.
        out: the folder: audit.json, report.html, clips.csv, corruptions.csv, the attacks' benchmark
            and what is needed to go on.
        labels: what counts as right: the class by the dataset, or what the victim says of the
            clean clip ("prediction"), for clips without a label; then "accuracy" is the share of
            answers that stay.
        max_clips: at most so many, spread evenly over the data; None: all.
        corruptions: by name or family, see `vidmarl.audit.corruptions.list_corruptions`; None: all.
        attacks: as for a benchmark: settings by name; None: the agents that ship for the
            distortion, and grow_and_reduce.
        distortion: of the attacks and of the sensitivity.
        budget: queries per clip and attack.
        attack_clips: how many of the clips are attacked; 0: none.
        sensitivity_clips: on how many sensitivity is measured; 0: none.
        seed: of all that is drawn at random.
        progress: whether to show progress bars.

    Returns:
        All that was found, with `.report()`, `.plot()`, `.corruptions` and `.verdict`.

    Raises:
        UnknownNameError: there is no victim, corruption, attack or distortion of a name, or the
            victim does not know a class of the data.
        DataError, ClipError: no clip has a label, or none can be used.
        SettingsError, ValueError: a setting is out of its range.
        VictimError: the victim raised, or gave unusable scores.
    """
    check_least(
        "Auditing a victim",
        budget=(budget, 2),
        attack_clips=(attack_clips, 0),
        sensitivity_clips=(sensitivity_clips, 0),
        seed=(seed, 0),
        **({} if max_clips is None else {"max_clips": (max_clips, 1)}),
    )
    asked, made, chosen = load_victim(victim), as_distortion(distortion), choose(corruptions)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    before, origin = asked.queries, provenance(asked, {}, torch.device("cpu"))
    how: dict[str, Any] = {"seed": seed, "progress": progress}
    try:
        clips = clips_of(data, asked, max_clips, labelled=labels == "dataset", progress=progress)
        classes = [_class(asked, clip) if labels == "dataset" else None for clip in clips]
        who = short_hash(json.dumps([asked.identity(), seed], sort_keys=True).encode())
        answers = Questionnaire(asked, chosen, seed, folder / ANSWERS / who).ask(clips, classes, progress=progress)
        good = _right(asked, clips, answers)
        pictured = draw_pictures(good[0][0], chosen, seed, folder / PICTURES) if good else None
        rows, attacked = None, None
        if attack_clips:
            done = attack(
                asked,
                clips,
                folder / ATTACKS,
                attacks=attacks,
                distortion=made,
                count=attack_clips,
                budget=budget,
                labels=labels,
                **how,
            )
            rows = read_csv(folder / ATTACKS / "rows.csv")
            attacked = attack_record(done, folder / ATTACKS, rows, budget)
        some = [] if asked.decisions_only else evenly(good, sensitivity_clips)  # there are no margins
        measured = measure(asked, some, folder / SENSITIVITY, distortion=made, budget=budget, **how)
    except BaseException as error:
        error.add_note(f"Kept in {readable(folder)}: everything that was answered. The same command goes on.")
        raise
    record = {
        "format": FORMAT,
        "victim": asked.identity(),
        "classes": asked.n_classes,
        "decisions only": asked.decisions_only,
        "data": f"{len(clips)} clips in memory" if isinstance(data, tuple) else repr(data),
        "settings": {
            "labels": labels,
            "max_clips": max_clips,
            "corruptions": [one.name for one in chosen],
            "distortion": made.to_record(),
            "budget": budget,
            "attack_clips": attack_clips,
            "sensitivity_clips": sensitivity_clips,
            "seed": seed,
        },
        "severities": {
            one.name: {"setting": one.setting, "values": list(one.settings), "source": one.source} for one in chosen
        },
        "queries of this run": asked.queries - before,
        "provenance": origin,
        "clean": clean_figures(answers),
        "corruptions": corruption_table(answers).to_dict("records"),
        "pictures": pictured,
        "attacks": attacked,
        "sensitivity": [{"clip": one.name, "file": one.file} for one in measured],
    }
    result = AuditResult(folder, record, answers, rows, measured)
    result.write()
    return result


def _class(victim: Victim, clip: Clip) -> int:
    """The victim's index of a clip's class.

    Raises:
        UnknownNameError: it has no such class.
    """
    assert clip.label is not None
    assert clip.label_name is not None
    return clip.label if victim.labels is None else victim.class_index(clip.label_name)


def _right(victim: Victim, clips: Sequence[Clip], answers: pd.DataFrame) -> list[tuple[Clip, int]]:
    """The clips that the victim is right about, and their classes."""
    clean = answers[answers["corruption"] == CLEAN]
    rows = zip(clips, clean["rank"], clean["label"], strict=True)
    return [(clip, victim.class_index(label)) for clip, rank, label in rows if rank == 0]

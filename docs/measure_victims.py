"""Measures the victims that have a name, for docs/results.md:

    VIDMARL_DATA=... python docs/measure_victims.py [--every] [--only 'movinet*']

Written are docs/results/victims_accuracy.csv: top-1 and top-5 of those whose weights are in the
data folder, on its UCF-101 clips; and with --every docs/results/victims.csv: a forward pass of
every name at its native input and an attack of ten queries, with the weights that are there and
else random ones. Rows that are there already are kept, so that a run that was cut short goes on.

Victims with the classes of Kinetics are right about a clip where predictions.json of the data
folder counts their answer as right; "reference" is the top-1 of the same clips that is told there.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import vidmarl
from vidmarl.attacks import as_attack
from vidmarl.data import Folder, load_clips
from vidmarl.data.paths import data_root
from vidmarl.victims.accuracy import Accuracy, ranks
from vidmarl.victims.loading import _family_of

RESULTS = Path(__file__).resolve().parent / "results"
CLIPS = "clips/ucf101"
WHOLE = {"frames": None, "size": 172}
"""MoViNet's reference saw the whole video."""
KINETICS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "movinet_a0": ("movinet_a0", {}, "k600_labels", "correct_movinet_k600"),
    "movinet_a0, whole video at 172 px": ("movinet_a0", WHOLE, "k600_labels", "correct_movinet_k600"),
    "i3d": ("i3d", {}, "k400_labels", "correct_i3d_k400"),
}
"""What is measured: the victim, its spec, and where predictions.json has the labels and which
clips are right."""
OWN = ("r2plus1d_light", "lrcn_ucf50_5", "lrcn_ucf50_50", "convlstm_ucf50_5", "convlstm_ucf50_31")
"""Victims whose classes are UCF-101's, or some of them."""
BUDGET = 10


def main() -> None:
    """Measures what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", action="store_true", help="ask and attack every name as well")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names that match this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure("victims_accuracy", [*KINETICS, *OWN], right_answers, args.only)
    if args.every:
        measure("victims", sorted(vidmarl.list_victims(), key=work), asked_and_attacked, args.only)


def measure(table: str, names: list[str], row: Any, only: str) -> None:
    """Adds the rows of a table that are missing, each as soon as it is known."""
    path = RESULTS / f"{table}.csv"
    for name in fnmatch.filter(names, only):
        if any(known["victim"] == name for known in rows_of(path)):
            continue
        new = {"victim": name, **row(name)}
        print(new, flush=True)
        rows = [*rows_of(path), new]  # another process may have added some
        order = sorted(names) if table == "victims" else names
        rows.sort(key=lambda known: order.index(known["victim"]) if known["victim"] in order else -1)
        pd.DataFrame(rows).to_csv(path, index=False)
        gc.collect()


def work(name: str) -> int:
    """Roughly what a victim costs, so that a run that is cut short has measured most of them."""
    spec = load_spec(name)
    return (vidmarl.victim_card(name).parameters or 0) * (spec.frames or 16) * spec.size[0] * spec.size[1]


def load_spec(name: str) -> vidmarl.ClipSpec:
    """How the clips of a victim are made, without making it."""
    family = _family_of(name)
    assert family is not None
    spec: vidmarl.ClipSpec = family.default_spec(name)
    return spec


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What is measured already."""
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records") if path.is_file() else []


def right_answers(name: str) -> dict[str, Any]:
    """How often a victim is right about the UCF-101 clips of its classes."""
    reference = ""
    if name in KINETICS:
        victim_name, spec, labels, correct = KINETICS[name]
        victim = vidmarl.load_victim(victim_name, spec=spec)
        entries = [entry for entry in json.loads((data_root() / "predictions.json").read_text()) if labels in entry]
        reference = f"{sum(entry[correct] for entry in entries) / len(entries):.3f}"
        found = by_any_label(victim, entries, labels)
        classes = len({entry["label"] for entry in entries})
    else:
        victim = vidmarl.load_victim(name)
        here = {folder.name for folder in (data_root() / CLIPS).iterdir()}
        known = [label for label in victim.labels or [] if label in here]
        found, classes = vidmarl.accuracy(victim, Folder(data_root() / CLIPS, classes=known)), len(known)
        if name == "r2plus1d_light":
            entries = [e for e in json.loads((data_root() / "predictions.json").read_text()) if e["label"] in known]
            reference = f"{sum(entry['correct_r2plus1d_ucf101'] for entry in entries) / len(entries):.3f}"
    scores = {"top1": f"{found.top1:.3f}", "top5": f"{found.top5:.3f}"}
    return {"clips": len(found), "classes": classes, **scores, "reference": reference}


def by_any_label(victim: vidmarl.Victim, entries: list[dict[str, Any]], labels: str) -> Accuracy:
    """Where several of the victim's classes are right for a clip, the likeliest of them counts."""
    places = []
    for entry in entries:
        scores = victim(load_clips(data_root() / entry["file"], victim))
        known = torch.tensor([victim.class_index(label) for label in entry[labels]])
        places.append(int(ranks(scores.expand(len(known), -1), known).min()))
    return Accuracy(torch.zeros(len(places), dtype=torch.int64), torch.tensor(places))


def asked_and_attacked(name: str) -> dict[str, Any]:
    """A forward pass at native input, and an attack of ten queries."""
    card = vidmarl.victim_card(name)
    here = card.state in ("here", "in the package")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        victim = vidmarl.load_victim(name, None if here else "random", batch_size=1, device="cpu")
    assert isinstance(victim.model, torch.nn.Module)
    assert victim.spec is not None
    spec = victim.spec
    clips = torch.rand(1, 3, spec.frames or 16, *spec.size, generator=torch.Generator().manual_seed(0))
    scores = victim(clips)
    result = as_attack("random_cells", budget=BUDGET, progress=False)(victim, clips)
    return {
        "weights": "here" if here else "random",
        "parameters": sum(parameter.numel() for parameter in victim.model.parameters()),
        "clips": card.input,
        "classes": scores.shape[1],
        "queries": int(result.queries[0]),
    }


if __name__ == "__main__":
    main()

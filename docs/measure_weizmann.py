"""MoViNet-A0 on the Weizmann actions, persons apart: three trainings, each tested on three persons
of whom it has seen nothing.

    python docs/measure_weizmann.py --out outputs/weizmann

runs `vidmarl victims fit -c victims/movinet_weizmann` for every fold that is not done, and writes
docs/results/weizmann.csv, a row for each fold and one for all of them. A fold takes about ten
minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from vidmarl.cli import main
from vidmarl.data.weizmann import PERSONS
from vidmarl.metrics.statistics import wilson

FOLDS = (("eli", "ira", "lena"), ("daria", "denis", "ido"), ("lyova", "moshe", "shahar"))
assert sorted(person for fold in FOLDS for person in fold) == sorted(PERSONS)


def words(persons: tuple[str, ...], out: Path) -> list[str]:
    """The command of a fold."""
    left_out = json.dumps(list(persons))
    return [
        *("victims", "fit", "-c", "victims/movinet_weizmann", "--model.out", str(out)),
        *("--data.train.init_args.exclude_persons", left_out, "--data.test.init_args.persons", left_out),
        *("--trainer.enable_progress_bar", "false", "--trainer.logger.init_args.save_dir", str(out)),
    ]


def row(left_out: str, clips: pd.DataFrame) -> dict[str, object]:
    """How often the victim is right about some clips, and which ones it is wrong about."""
    right, n = int(clips["right"].sum()), len(clips)
    low, high = wilson(np.array(right), n)
    wrong = [f"{clip} ({said})" for clip, said in clips.loc[~clips["right"], ["clip", "prediction"]].to_numpy()]
    figures = {"top-1": right / n, "low": float(low), "high": float(high)}
    return {"left out": left_out, "clips": n, "right": right, **figures, "wrong": "; ".join(wrong)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/weizmann"))
    parser.add_argument("--folds", type=int, nargs="+", default=range(len(FOLDS)), help="train these alone")
    args = parser.parse_args()
    tested = {}
    for number, persons in enumerate(FOLDS):
        place = args.out / f"fold-{number}"
        if number in args.folds and not (place / "results.json").exists():
            main(words(persons, place))
        if (place / "results.json").exists():
            tested[" ".join(persons)] = pd.read_csv(place / "test.csv")
    rows = [row(left_out, clips) for left_out, clips in tested.items()]
    rows.append(row("each of these in turn", pd.concat(tested.values())))
    pd.DataFrame(rows).to_csv(Path(__file__).parent / "results" / "weizmann.csv", index=False, float_format="%.4f")
    print(pd.DataFrame(rows).to_string(index=False))

"""Keeps the demo's figures: docs/results/demo.csv, and geometric means in demo_ratios.csv.

    vidmarl demo
    python docs/measure_demo.py

The demo's own tables have medians, of the sizes and of the paired ratios. Here are the geometric
means of the paired ratios, by which the aims of docs/results.md are set: the L2 of the agents over
that of the other attack on the same clip, a failure with the full distortion, with 95 % intervals
(bootstrap over the clips) and the p of Wilcoxon's signed-rank test. They are about the clips that
the victim gets right; its confidence is the median over these.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from measure_order import RESULTS, geometric_mean

import vidmarl
from vidmarl.data.synthetic import make_clips, split_seed
from vidmarl.demo.run import BUDGETS, TEST_CLIPS
from vidmarl.utils.files import write_atomically


def main() -> None:
    """Reads what the demo has left, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", default="outputs/demo", metavar="DIR", help="the demo's folder")
    demo = Path(parser.parse_args().demo)
    clips, labels = make_clips(TEST_CLIPS, split_seed(0, "test"))
    said, classes = vidmarl.load_victim("demo", demo / "victim.pt")(clips).softmax(1).max(1)
    confidence = float(said[classes == labels].median())
    test = demo / "test"
    write_atomically(RESULTS / "demo.csv", (test / "summary.csv").read_text())
    rows = pd.read_csv(test / "rows.csv")
    sizes = {name: of[~of["skipped"]].reset_index() for name, of in rows.groupby("attack", sort=False)}
    found = []
    for name, other in sizes.items():
        for budget in BUDGETS if name != "rl" else []:
            ratios = np.log(sizes["rl"][f"l2@{budget}"] / other[f"l2@{budget}"]).to_numpy()
            about = {"attack": name, "budget": budget, "clips": len(ratios), "confidence": confidence}
            found.append(about | geometric_mean(ratios))
    write_atomically(RESULTS / "demo_ratios.csv", pd.DataFrame(found).to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()

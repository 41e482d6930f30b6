"""Makes the tables and figures of the pages of results and of the README from docs/results/*.csv.

    python docs/make_results.py            # the tables and the figures
    python docs/make_results.py --tables   # the tables alone, without matplotlib

A table stands on its page between `<!-- table: NAME -->` and `<!-- /table -->`. What stands there
is replaced; everything else on the pages is written by hand. The figures need matplotlib, which the
extra `vidmarl[docs]` installs.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vidmarl import metrics

DOCS = Path(__file__).resolve().parent
PAGES = DOCS / "results.md", DOCS / "results_first_version.md", DOCS / "sensitivity.md", DOCS.parent / "README.md"
FIGURES = DOCS / "figures"

NATURAL = {"gaussian_noise": "Gaussian noise", "dead_pixels": "Dead pixels", "gaussian_blur": "Blur"}
VICTIMS = {
    "lrcn_ucf50_50": "LRCN",
    "convlstm_ucf50_31": "ConvLSTM",
    "r2plus1d_light": "R(2+1)D-light",
    "i3d": "I3D",
}

ORDER_TEAMS = ("agents", "untrained", "spatial untrained", "temporal untrained", "usual training", "by cost")
"""What searches as the agents do in `measure_order.py`; its other attacks are controls."""

SHORT = {"grow_and_reduce": "GR", "signed_blocks": "SB"}
"""Controls in the cells of a table."""

SEEN = ("JOD", "flicker, 1e-6", "warping error, 1e-3")
"""How visible successes are, in the heads of tables."""

LABELS = {
    "rl": "agents",
    "rl_untrained": "untrained agents",
    "rl_smaller": "agents, 8 more queries",
    "rl_smallest": "agents, 60 more queries",
    "rl_without_opening": "agents, from the clean clip",
    "rl_coherent": "agents, 4 frames",
    "grow_and_reduce": "GrowAndReduce",
    "signed_blocks": "SignedBlocks, 8 px",
    "signed_blocks_16px": "SignedBlocks, 16 px",
    "signed_blocks_coherent": "SignedBlocks, 4 frames",
    "square_tubes": "SquareTubes",
    "greedy_sensitivity": "GreedySensitivity",
    "random_cells": "RandomCells",
    "sensitivity_order": "SensitivityOrder (bound)",
    "stde": "STDE",
    "vbad": "VBAD",
    "vbad_image_prior": "VBAD, image model",
    "sparse_nes": "SparseNES",
    "sva": "SparseNES, key frames (SVA)",
    "motion_sampler": "MotionSampler",
    "geo_trap": "GeoTrap",
    "ast_focus": "AstFocus",
    "simba_dct": "SimbaDCT",
    "no_spatial_agent": "spatial agent untrained",
    "no_temporal_agent": "temporal agent untrained",
    "no_agent": "both agents untrained",
    "no_removal": "no removal by the agents",
    "no_rounds": "no restarts",
    "no_credit_map": "no credit maps",
    "no_clean_up": "no minimization",
    "ppo_only": "PPO from scratch",
    "ppo_without_size": "PPO, no reward for size",
    "ppo_without_progress": "PPO, no reward for margin",
    "warm_start_and_ppo": "cloning, then PPO",
}


def read(name: str) -> pd.DataFrame:
    """A table of docs/results/, by attack and budget."""
    return pd.read_csv(DOCS / "results" / f"{name}.csv").set_index(["attack", "budget"])


def label(attack: str) -> str:
    """The attack's name on the page."""
    return LABELS[attack]


def short_label(attack: str) -> str:
    """The same where all search cells have one size, and of the teams of `measure_order.py`."""
    return LABELS.get(attack, attack).removesuffix(", 8 px")


# -- the cells of the tables


def l2(row: pd.Series) -> str:
    """Median L2, and the share of clips fooled."""
    return f"{row['L2']:.2f} ({row['FR']:.0%})"


def interval(row: pd.Series, key: str, digits: str) -> str:
    """A figure with its 95 % interval; a dash where the clips are too few or too alike for one."""
    low, high = (row[f"{key} {end}"] for end in ("low", "high"))
    known = "—" if math.isnan(low) else f"{low:{digits}}, {high:{digits}}"
    return f"{row[key]:{digits}} [{known}]"


def ratio(row: pd.Series, key: str) -> str:
    """A ratio with its interval and its p-value, which is missing where all pairs are ties."""
    if math.isnan(row[key]):
        return ""
    p = row[f"{key.split()[0]} p"]
    text = interval(row, key, ".2f")
    return text if math.isnan(p) else f"{text}, {p:.2g}"


def l2_ratio(row: pd.Series) -> str:
    """L2 of the reference over that of this attack on the same clip."""
    return ratio(row, "L2 ratio")


def first(row: pd.Series) -> str:
    """Mean queries until the first success, with their interval."""
    return interval(row, "AQ first", ".0f")


def fooled(row: pd.Series) -> str:
    """The share of clips fooled, with its interval."""
    return interval(row, "FR", ".0%")


def best_control(table: pd.DataFrame, budget: int) -> pd.Series:
    """The control of the smallest median L2, the untrained agents aside."""
    rows = table.xs(budget, level="budget")
    return rows.loc[rows.loc[[name for name in rows.index if not name.startswith("rl")], "L2"].idxmin()]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


# -- the tables

TABLES: dict[str, Callable[[], str]] = {}


def table(make: Callable[[], str]) -> Callable[[], str]:
    """Registers a table of the page under the name of its function."""
    TABLES[make.__name__] = make
    return make


def by_budget(name: str) -> str:
    """One row for each attack of a file, one column for each budget."""
    data = read(name)
    budgets = list(data.index.unique("budget"))
    rows = [[label(attack), *(l2(data.loc[attack, b]) for b in budgets)] for attack in data.index.unique("attack")]
    return markdown(["Median L2 (fooled)", *(f"{budget} queries" for budget in budgets)], rows)


@table
def natural() -> str:
    """The agents, untrained and trained, and the best other control at each budget."""
    rows = []
    for name, title in NATURAL.items():
        data = read(name)
        budgets = list(data.index.unique("budget"))
        best = {budget: best_control(data, budget) for budget in budgets}
        for attack in ("rl", "rl_untrained"):
            rows.append([f"{title}: {label(attack)}", *(l2(data.loc[attack, budget]) for budget in budgets)])
        rows.append(
            [f"{title}: best other control", *(f"{l2(best[b])} {initials(str(best[b].name))}" for b in budgets)]
        )
        ratios = (f"**{data.loc[('rl', b), 'L2'] / best[b]['L2']:.2f}**" for b in budgets)
        rows.append(["agents / best other control", *ratios])
    return markdown(["Median L2 (fooled)", *(f"{budget} queries" for budget in budgets)], rows)


def initials(attack: str) -> str:
    """A control's name where room is short: SB16, GS, ..."""
    return "".join(letter for letter in label(attack) if letter.isupper() or letter.isdigit())


@table
def training_in_size() -> str:
    """The trained agents against the untrained ones, on the same clips."""
    files = {"Gaussian noise, seed 0": "gaussian_noise"}
    files |= {f"Gaussian noise, seed {seed}": f"gaussian_noise_seed_{seed}" for seed in (1, 2, 3)}
    files |= {"Dead pixels": "dead_pixels", "Blur": "gaussian_blur"}
    budgets = [25, 50, 100, 200, 500]
    rows = []
    for title, name in files.items():
        data = read(name).loc["rl_untrained"]
        rows.append([title, *(l2_ratio(data.loc[b]) if b in data.index else "not run" for b in budgets)])
    return markdown(["L2 of the agents / untrained", *(f"{budget} queries" for budget in budgets)], rows)


@table
def bound() -> str:
    """Who knew the order of the cells for nothing, and patches of other clips."""
    return by_budget("bound")


@table
def bounded() -> str:
    """The first success in the larger ball."""
    return in_ball("linf_12.75")


@table
def demo() -> str:
    """What `vidmarl demo` ends with, and the geometric means of the paired ratios."""
    data = read("demo")
    ratios = pd.read_csv(DOCS / "results" / "demo_ratios.csv").set_index(["attack", "budget"])
    budgets = list(data.index.unique("budget"))
    rows = []
    for attack in data.index.unique("attack"):
        told = ""  # of the agents themselves there is none
        if attack in ratios.index:
            told = " / ".join(order_bold(ratios.loc[attack, budget]) for budget in budgets)
        rows.append([short_label(attack), *(l2(data.loc[attack, budget]) for budget in budgets), told])
    return markdown(["", *(f"{budget} queries" for budget in budgets), "agents / this"], rows)


@table
def demo_ratios() -> str:
    """Geometric means of the demo's paired ratios."""
    data = pd.read_csv(DOCS / "results" / "demo_ratios.csv").set_index(["attack", "budget"])
    budgets = list(data.index.unique("budget"))
    rows = [
        [f"agents / {short_label(attack)}", *(with_p(data.loc[attack, budget]) for budget in budgets)]
        for attack in data.index.unique("attack")
    ]
    return markdown(["Ratio [interval], p", *(f"{budget} queries" for budget in budgets)], rows)


@table
def bounded_10() -> str:
    """The first success in the smaller ball."""
    return in_ball("linf_10")


def in_ball(name: str) -> str:
    """What the first success cost with a cap of 500, and how visible the clips are."""
    rows = []
    for attack, row in read(name).xs(500, level="budget").iterrows():
        seen = f"{row['map']:.1f}", f"{row['ssim']:.2f}"
        rows.append([label(str(attack)), first(row), fooled(row), ratio(row, "AQ ratio"), *seen])
    return markdown(["", "queries", "fooled", "agents / this, queries", "MAP", "SSIM"], rows)


@table
def unseen() -> str:
    """Victims that the agents were not trained against."""
    rows = []
    for name, title in {"i3d": "I3D", "r2plus1d_light": "R(2+1)D-light"}.items():
        data = read(name)
        budgets = list(data.index.unique("budget"))
        for attack in data.index.unique("attack"):
            rows.append([f"{title}: {label(attack)}", *(l2(data.loc[attack, budget]) for budget in budgets)])
    return markdown(["Median L2 (fooled)", *(f"{budget} queries" for budget in budgets)], rows)


@table
def targets() -> str:
    """The runner-up, and a class drawn from 600."""
    files = {
        "runner_up_natural": "Runner-up, Gaussian noise",
        "runner_up": "Runner-up, ball",
        "targeted": "Drawn class, ball",
    }
    rows = []
    for name, title in files.items():
        data = read(name)
        budget = data.index.unique("budget").max()
        for attack in data.index.unique("attack"):
            row = data.loc[attack, budget]
            size = f"{row['L2']:.2f}"
            rows.append([f"{title}: {label(attack)}", str(budget), fooled(row), first(row), size])
    return markdown(["", "budget", "fooled", "queries to the first success", "median L2"], rows)


@table
def visibility() -> str:
    """What the eye notices, at a budget of 100."""
    data = read("visibility").xs(100, level="budget")
    columns = ["flicker_share", "warping_share", "stlpips", "ssim"]
    formats = ["{:.2f}", "{:.2g}", "{:.2g}", "{:.2f}"]
    rows = []
    for attack, row in data.iterrows():
        values = (text.format(row[column]) for text, column in zip(formats, columns, strict=True))
        rows.append([label(str(attack)), l2(row), *values])
    return markdown(["", "median L2 (fooled)", "flicker share", "warping share", "ST-LPIPS", "SSIM"], rows)


@table
def ablations() -> str:
    """The whole against itself without a part."""
    return with_median("ablations")


@table
def training_ways() -> str:
    """The agents that ship against agents trained in other ways."""
    return with_median("training")


def with_median(name: str) -> str:
    """Paired ratios at each budget, and the median at the largest."""
    data = read(name)
    budgets = list(data.index.unique("budget"))
    rows = [
        [label(attack), *(l2_ratio(data.loc[attack, b]) for b in budgets), l2(data.loc[attack, budgets[-1]])]
        for attack in data.index.unique("attack")
    ]
    return markdown(["agents / this", *(f"{b} queries" for b in budgets), f"median L2 at {budgets[-1]}"], rows)


@table
def audits() -> str:
    """The victims that were audited, a row each."""
    data = pd.read_csv(DOCS / "results" / "audits.csv")
    rows = []
    for row in data.to_dict("records"):
        worst = f"{row['worst'].replace('_', ' ')} {row['worst top1']:.0%}"
        robust = f"{interval(pd.Series(row), 'robust', '.0%')} of {row['attacked']}, {row['budget']} queries"
        cells = [interval(pd.Series(row), "top1", ".0%"), f"{row['corrupted']:.0%}", worst]
        cells += [f"{row['halved by']} of {row['corruptions']}", robust, f"{row['median L2']:.2f}"]
        rows.append([f"`{row['victim']}`", str(row["clips"]), *cells])
    return markdown(["victim", "clips", "clean", "corrupted", "worst", "halved by", "robust", "median L2"], rows)


@table
def files() -> str:
    """What each file of docs/results/ holds."""
    rows = []
    for path in sorted((DOCS / "results").glob("*.csv")):
        if not path.read_text().startswith("victim,distortion,attack,"):
            continue  # of no attacks: the text tells what it is
        data = read(path.stem)
        values = (data[key].iloc[0] for key in ("victim", "distortion", "clips"))
        budgets = ", ".join(str(budget) for budget in data.index.unique("budget"))
        rows.append([f"[{path.stem}](results/{path.name})", *(str(value) for value in values), budgets])
    return markdown(["file", "victim", "distortion", "clips", "queries"], rows)


@table
def order() -> str:
    """The agents on real clips: sizes, and ratios with their intervals and p."""
    data = pd.read_csv(DOCS / "results" / "order.csv")
    budgets = sorted(data["budget"].unique())
    rows = []
    for name, found in order_parts(data[data["seed"] == 0]):
        rows += order_sizes(name, found, budgets)
        for other in found.index.unique("attack").intersection(ORDER_TEAMS[1:], sort=False):
            rows.append([f"agents / {other}", *(with_p(found.loc[other, budget]) for budget in budgets)])
        rows.append(["agents / best control", *order_best(found, budgets)])
    return markdown(["Median L2 (fooled), ratio [interval], p", *(f"{budget} queries" for budget in budgets)], rows)


@table
def order_seeds() -> str:
    """What each seed of the training comes to beside the untrained agents."""
    data = pd.read_csv(DOCS / "results" / "order.csv")
    budgets = sorted(data["budget"].unique())
    rows = []
    for name, found in order_parts(data):
        rows.append(
            [f"{name}, seed {found['seed'].iloc[0]}", *(with_p(found.loc["untrained", budget]) for budget in budgets)]
        )
    return markdown(["Agents / untrained [interval], p", *(f"{budget} queries" for budget in budgets)], rows)


@table
def order_ball() -> str:
    """Queries to the first success in a ball."""
    rows = []
    for ball, part in pd.read_csv(DOCS / "results" / "order_ball.csv").groupby("ball", sort=False):
        queries = part.set_index("attack")["mean queries"]
        for _, row in part.iterrows():
            name = short_label(row["attack"])
            figures = [f"{row['mean queries']:.1f}", f"{row['first query']:.0%}", f"{row['fooled']:.0%}"]
            if row["attack"] != "agents":
                figures += [f"{queries['agents'] / row['mean queries']:.2f}", with_p(row)]
            rows.append([f"{ball:g}/255: {name}", *figures, *[""] * (5 - len(figures))])
    head = ["mean queries", "fooled by the first", "fooled", "agents / this, windows", "agents / this, groups, p"]
    return markdown(["", *head], rows)


@table
def order_elsewhere() -> str:
    """The agents against their victim at its own input, and against victims that they were not
    trained against."""
    rows = []
    for file, about in (("order_native", "distortion"), ("order_unseen", "victim")):
        data = pd.read_csv(DOCS / "results" / f"{file}.csv")
        budgets = sorted(data["budget"].unique())
        for name, part in data.groupby(about, sort=False):
            found = part.set_index(["attack", "budget"])
            rows += order_sizes(NATURAL.get(str(name), VICTIMS.get(str(name), str(name))), found, budgets)
            for other in found.index.unique("attack").drop(["agents"]):
                rows.append(
                    [f"agents / {short_label(other)}", *(with_p(found.loc[other, budget]) for budget in budgets)]
                )
    return markdown(["Median L2 (fooled), ratio [interval], p", *(f"{budget} queries" for budget in budgets)], rows)


@table
def order_fine() -> str:
    """The agents beside the controls with smaller cells."""
    data = pd.read_csv(DOCS / "results" / "order_fine.csv")
    budgets = sorted(data["budget"].unique())
    rows = []
    for spec, title in {"cheap": "8 x 112 px", "native": "16 x 176 px"}.items():
        for name, found in order_parts(data[data["spec"] == spec]):
            for other in found.index.unique("attack").drop("agents"):
                cells = (with_p(found.loc[other, budget]) for budget in budgets)
                rows.append([f"{name}, {title}: / {short_label(other.removesuffix(' 8 px'))}", *cells])
    return markdown(["Agents / control [interval], p", *(f"{budget} queries" for budget in budgets)], rows)


@table
def order_trainings() -> str:
    """Agents that were trained in another way, beside those of the usual training."""
    data = pd.read_csv(DOCS / "results" / "order_trainings.csv")
    budgets = sorted(data["budget"].unique())
    rows = []
    for (training, victim), part in data.groupby(["training", "victim"], sort=False):
        found = part.set_index(["attack", "budget"])
        for known, title in VICTIMS.items():
            training = training.replace(known, title)
        name = f"{training}, {VICTIMS.get(victim, 'MoViNet-A0')}"
        for other in ("usual training", "untrained"):
            rows.append([f"{name}: / {other}", *(with_p(found.loc[other, budget]) for budget in budgets)])
        rows.append([f"{name}: / best control", *order_best(found, budgets)])
    return markdown(["Training, victim: ratio [interval], p", *(f"{budget} queries" for budget in budgets)], rows)


def order_sizes(name: str, found: pd.DataFrame, budgets: list[int]) -> Iterator[list[str]]:
    """The rows of the agents' sizes, and of those of their untrained selves."""
    for attack in ("agents", "untrained"):
        each = (found.loc[attack, budget] for budget in budgets)
        yield [f"{name}: {attack}", *(f"{row['median L2']:.2f} ({row['fooled']:.0%})" for row in each)]


@table
def order_overview() -> str:
    """The agents on real clips beside their untrained selves, the better control and the cheapest
    cells first, wherever that was measured."""
    rows = []
    for where, found in order_everywhere():
        budgets, first = from_25_on(found.reset_index()), found.loc["agents"].iloc[0]
        clips = f"{first['clips']:.0f} ({first['groups']:.0f}), {first['confidence']:.2f}"
        ratios = [[("untrained", budget) for budget in budgets], order_controls(found, budgets)]
        ratios += [[("by cost", budget) for budget in budgets if "by cost" in found.index]]
        cells = (" / ".join(order_bold(found.loc[key]) for key in keys) for keys in ratios)
        last = found.loc["agents", budgets[-1]]
        rows.append([where, clips, *cells, f"{last['median L2']:.2f} ({last['fooled']:.0%})", *order_seen(last)])
    head = ["", "windows (groups), confidence", "untrained agents", "better of GR and SB", "by cost", "L2 (fooled)"]
    return markdown([*head, *SEEN], rows)


def order_seen(row: pd.Series) -> tuple[str, str, str]:
    """How visible successes are, in the units of `SEEN`."""
    return f"{row['jod']:.2f}", f"{row['flicker'] * 1e6:.3g}", f"{row['warping'] * 1e3:.3g}"


def order_best(found: pd.DataFrame, budgets: list[int]) -> Iterator[str]:
    """The ratio to the best control of each budget, and which one that is."""
    return (f"{with_p(found.loc[control])} {SHORT[control[0]]}" for control in order_controls(found, budgets))


def order_bold(row: pd.Series) -> str:
    """A ratio, bold where its interval lies below 1."""
    return f"**{row['ratio']:.2f}**" if row["ratio high"] < 1 else f"{row['ratio']:.2f}"


@table
def order_queries() -> str:
    """When the agents come to what the best control comes to with all of its queries, between two
    budgets on a straight line of logarithms."""
    data = pd.read_csv(DOCS / "results" / "order.csv")
    budgets = sorted(data["budget"].unique())
    rows = []
    for name, found in order_parts(data[data["seed"] == 0]):
        [best] = order_controls(found, budgets[-1:])
        aim, sizes = found.loc[best, "mean L2"], found.loc["agents"].loc[budgets, "mean L2"]
        queries = np.exp(np.interp(-np.log(aim), -np.log(sizes), np.log(budgets)))
        rows.append([name, f"{SHORT[best[0]]}, {aim:.2f}", f"{sizes.iloc[-1]:.2f}", f"{queries:.0f}"])
    return markdown(["", "best control, mean L2 at 100", "agents, at 100", "agents need, queries"], rows)


@table
def order_margins() -> str:
    """The same ratios where the victim is hardly sure, and where it is."""
    data = pd.read_csv(DOCS / "results" / "order_margins.csv")
    budgets = from_25_on(data)
    rows = []
    for part in ("below 1 nat", "1 nat and more"):
        for name, found in order_parts(data[data["margin"] == part].assign(seed=0)):
            about = f"{part}, {name}, {found['clips'].iloc[0]} windows of {found['groups'].iloc[0]} groups"
            fooled = (found.loc["agents", budget] for budget in budgets)
            rows.append([about, *(f"{row['mean L2']:.2f} ({row['fooled']:.0%})" for row in fooled)])
            for other, keys in (
                ("untrained", [("untrained", budget) for budget in budgets]),
                ("best control", order_controls(found, budgets)),
            ):
                rows.append([f"agents / {other}", *(with_p(found.loc[key]) for key in keys)])
    return markdown(["Mean L2 (fooled), ratio [interval], p", *(f"{budget} queries" for budget in budgets)], rows)


@table
def order_visible() -> str:
    """How visible the successes of the agents and of the controls are after the last query."""
    rows = []
    for where, found in order_everywhere():
        for (attack, _), row in found.dropna(subset="flicker").iterrows():
            if attack not in ORDER_TEAMS[2:]:
                name = f"{where}: {SHORT.get(attack, attack)}"
                rows.append([name, f"{row['median L2']:.2f}", *order_seen(row)])
    return markdown(["At 100 queries", "L2", *SEEN], rows)


@table
def sensitivity() -> str:
    """How good sensitivity maps of few queries are: means over the clips."""
    data = pd.read_csv(DOCS / "results" / "sensitivity.csv").fillna({"budget": 0})
    rows = []
    for (budget, method), of in data.groupby(["budget", "method"], sort=False):
        both = of.groupby("clip")[["cells", "where", "when", "within_2_std"]].mean()
        cells = ["", "", ""]
        if budget:
            low, high = metrics.bootstrap(both["cells"].to_numpy(), np.mean, resamples=10_000)
            cells = [f"{both['cells'].mean():.2f} [{low:.2f}, {high:.2f}]"]
            cells += [f"{both[name].mean():.2f}" for name in ("where", "when")]
        areas = [of.loc[of["distortion"] == kind, "deletion"].mean() for kind in ("noise", "blur")]
        share = both["within_2_std"].mean()
        name = {"none": "random order"}.get(str(method), str(method))
        queries = f"{of['queries'].mean():.0f}" if budget else ""
        inside = "" if math.isnan(share) else f"{share:.0%}"
        rows.append([name, queries, *cells, *(f"{area:.3f}" for area in areas), inside])
    head = ["queries", "cells", "where", "when", "deletion, noise", "deletion, blur", "within 2 std"]
    return markdown(["", *head], rows)


@table
def coherence() -> str:
    """What it costs that a distortion lasts."""
    data = pd.read_csv(DOCS / "results" / "coherence.csv")
    budgets = from_25_on(data)
    rows = []
    for name, part in data.groupby("attack", sort=False):
        found = part.set_index("budget")
        last = found.loc[budgets[-1]]
        cells = [order_ratio(found.loc[budget]) for budget in budgets] if last["ratio"] > 0 else ["1"] * len(budgets)
        seen = f"{last['jod']:.2f}", f"{last['flicker'] * 1e6:.3g}", f"{last['pieces']:g}", f"{last['frames']:g}"
        rows.append([short_label(str(name)), *cells, f"{last['fooled']:.0%}", *seen])
    head = [f"ratio at {budget}" for budget in budgets]
    return markdown(["", *head, "fooled", "JOD", "flicker, 1e-6", "pieces", "frames"], rows)


def order_everywhere() -> Iterator[tuple[str, pd.DataFrame]]:
    """The attacks and budgets of seed 0 for each distortion, input and victim, and what these are
    called."""
    for file, where in (("order", "8 x 112 px"), ("order_native", "16 x 176 px"), ("order_unseen", "")):
        data = pd.read_csv(DOCS / "results" / f"{file}.csv").query("seed == 0")
        for victim, part in data.groupby("seed" if where else "victim", sort=False):
            for name, found in order_parts(part):
                yield f"{name}, {where or VICTIMS[str(victim)]}", found


def from_25_on(data: pd.DataFrame) -> list[int]:
    """The budgets but for the smallest one, 10."""
    return [budget for budget in sorted(data["budget"].unique()) if budget > 10]


def order_parts(data: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The attacks and budgets of each distortion and seed, and what they are called."""
    told = data.sort_values("distortion", key=lambda names: names.map(list(NATURAL).index), kind="stable")
    for (distortion, _), part in told.groupby(["distortion", "seed"], sort=False):
        yield NATURAL[distortion], part.set_index(["attack", "budget"])


def order_controls(found: pd.DataFrame, budgets: list[int]) -> list[tuple[str, int]]:
    """The control that is smallest at each budget, with the budget; none where there are none."""
    controls = found.drop(index=[each for each in found.index if each[0] in ORDER_TEAMS])
    return [(controls.xs(budget, level="budget")["mean L2"].idxmin(), budget) for budget in budgets]


def order_ratio(row: pd.Series) -> str:
    """A ratio with its interval."""
    return f"{order_bold(row)} [{row['ratio low']:.2f}, {row['ratio high']:.2f}]"


def with_p(row: pd.Series) -> str:
    """A ratio with its interval and its p-value."""
    return f"{order_ratio(row)}, {row['p']:.2g}"


def with_tables(text: str) -> str:
    """The page with its tables made anew.

    Raises:
        ValueError: the page names a table that there is not.
    """
    names = re.findall(r"<!-- table: (\w+) -->", text)
    if unknown := set(names) - set(TABLES):
        raise ValueError(f"Making tables: the page names {sorted(unknown)}, there are {sorted(TABLES)}.")
    made = {name: f"<!-- table: {name} -->\n\n{TABLES[name]()}\n\n<!-- /table -->" for name in names}
    return re.sub(r"<!-- table: (\w+) -->.*?<!-- /table -->", lambda match: made[match[1]], text, flags=re.DOTALL)


# -- the figures

# Okabe and Ito's colours, which most colour-blind people can tell apart; shapes and dashes repeat
# what they say.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
RED, PURPLE, GREY = "#D55E00", "#CC79A7", "#777777"

LINES = {
    "rl": (BLUE, "o", "-"),
    "rl_untrained": (BLUE, "o", "--"),
    "signed_blocks_16px": (RED, "s", "-"),
    "signed_blocks": (RED, "s", "--"),
    "grow_and_reduce": (GREEN, "^", "-"),
    "square_tubes": (PURPLE, "D", "-"),
    "random_cells": (ORANGE, "v", "-"),
    "greedy_sensitivity": (GREY, "x", "-"),
}

# The files that a figure shows; a change in one of them shows in the figure's fingerprint.
SHOWN = {
    "natural": [*NATURAL],
    "paired": [*NATURAL],
    "bounded": ["linf_12.75", "linf_10"],
    "ablations": ["ablations"],
}


def fingerprint(figure: str) -> str:
    """Of the files that a figure shows, as it is written into the figure."""
    data = b"".join((DOCS / "results" / f"{name}.csv").read_bytes() for name in SHOWN[figure])
    return f"of docs/results, sha256 {hashlib.sha256(data).hexdigest()}"


def natural_figure(plt: Any) -> Any:
    """Median L2 against queries, a panel for each distortion."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
    for axis, (name, title) in zip(axes, NATURAL.items(), strict=True):
        data = read(name)
        budgets = list(data.index.unique("budget"))
        for attack, (colour, marker, dashes) in LINES.items():
            line = data.loc[attack]
            bold = attack == "rl"
            style = {"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 2.5 if bold else 1.2}
            axis.plot(budgets, line["L2"], label=label(attack), zorder=3 if bold else 2, markersize=5, **style)
            if bold:
                axis.fill_between(budgets, line["L2 low"], line["L2 high"], color=colour, alpha=0.15, linewidth=0)
        axis.set(title=title, xscale="log", yscale="log", xlabel="queries")
        axis.set_xticks(budgets, [str(budget) for budget in budgets])
        decimal(axis.yaxis, [0.5, 1, 2, 5, 10, 20, 50, 100])
    axes[0].set_ylabel("median L2, smaller is better")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def paired_figure(plt: Any) -> Any:
    """L2 of the agents over that of each control on the same clip, at few and at many queries."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained", sharey=True)
    attacks = [attack for attack in LINES if attack != "rl"]
    for axis, (name, title) in zip(axes, NATURAL.items(), strict=True):
        forest(axis, read(name), attacks, {50: (BLUE, "o"), 500: (RED, "s")})
        axis.set(title=title, xlim=(0.2, 2))
        decimal(axis.xaxis, [0.25, 0.5, 1, 2])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def ablations_figure(plt: Any) -> Any:
    """L2 of the whole over that without a part."""
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    data = read("ablations")
    attacks = [attack for attack in data.index.unique("attack") if attack != "rl"]
    forest(axis, data, attacks, {25: (BLUE, "o"), 200: (RED, "s")})
    decimal(axis.xaxis, [0.2, 0.3, 0.5, 0.7, 1, 1.2])
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def forest(axis: Any, data: pd.DataFrame, attacks: list[str], budgets: dict[int, tuple[str, str]]) -> None:
    """Ratios with their intervals: a row for each attack, a mark for each budget."""
    for i, (budget, (colour, marker)) in enumerate(budgets.items()):
        for place, attack in enumerate(attacks):
            row = data.loc[attack, budget]
            height = place + 0.24 * (i - (len(budgets) - 1) / 2)
            text = f"{budget} queries" if place == 0 else None
            axis.plot([row["L2 ratio low"], row["L2 ratio high"]], [height] * 2, color=colour, linewidth=2)
            axis.plot(row["L2 ratio"], height, marker, color=colour, markersize=6, label=text)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(attacks)), [label(attack) for attack in attacks])
    axis.set_ylim(len(attacks) - 0.5, -0.5)
    axis.set(xscale="log", xlabel="L2 of the agents / this")


def bounded_figure(plt: Any) -> Any:
    """Mean queries until the first success in both balls."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=[1.2, 1])
    order = ["rl", "rl_untrained", "square_tubes", "rl_without_opening", "simba_dct", "geo_trap"]
    order += ["motion_sampler", "vbad", "sparse_nes", "ast_focus"]
    for axis, (name, title) in zip(axes, {"linf_12.75": "12.75/255", "linf_10": "10/255"}.items(), strict=True):
        data = read(name).xs(500, level="budget")
        attacks = [attack for attack in order if attack in data.index]
        for place, attack in enumerate(attacks):
            row = data.loc[attack]
            colour = BLUE if attack.startswith("rl") else GREEN if attack == "square_tubes" else RED
            marker = {BLUE: "o", GREEN: "D", RED: "s"}[colour]
            axis.plot([row["AQ first low"], row["AQ first high"]], [place] * 2, color=colour, linewidth=2)
            axis.plot(row["AQ first"], place, marker, color=colour, markersize=7)
            axis.annotate(f"{row['FR']:.0%}", (640, place), ha="right", va="center", annotation_clip=False)
        axis.set_yticks(range(len(attacks)), [label(attack) for attack in attacks])
        axis.set_ylim(len(attacks) - 0.5, -0.5)
        axis.set(title=title, xscale="log", xlim=(2, 700), xlabel="mean queries to the first success; right: fooled")
        decimal(axis.xaxis, [2, 5, 10, 20, 50, 100, 200, 500])
    return figure


def decimal(axis: Any, ticks: list[float]) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.axes.minorticks_off()


def draw() -> None:
    """Writes docs/figures/*.svg: on white, so that they can be read on dark pages too."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "vidmarl", "font.size": 10, "axes.grid": True, "grid.color": "#dddddd"})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True})
    FIGURES.mkdir(exist_ok=True)
    for name in SHOWN:
        figure = globals()[f"{name}_figure"](plt)
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None, "Description": fingerprint(name)})
        plt.close(figure)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text("utf-8")), "utf-8")
    if "--tables" not in sys.argv[1:]:
        draw()

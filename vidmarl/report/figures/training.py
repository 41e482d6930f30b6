"""The curves of a training, from the files of Lightning's CSVLogger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vidmarl.report.figures.style import DASHES, TEMPLATE, line, plain
from vidmarl.utils.files import PathLike

FILE = "metrics.csv"
"""What Lightning's CSVLogger writes."""

QUERIES = "charts/queries"
"""The column that curves are drawn against where it is there: it is what training costs."""

_FIRST = ("fooling_rate", "l2", "queries", "accuracy", "loss")
"""The quantities that come first; the others follow as they are in the file."""

_COLUMNS = 3
_HIGH = 210
"""Px of a panel."""

_FEW = 30
"""Points that are marked one by one."""


def training_curves(path: PathLike | Mapping[str, PathLike], quantities: Sequence[str] | None = None) -> go.Figure:
    """A panel for each quantity that was logged, over the queries of the training, or over its
    steps where queries were not logged.

    What is logged under several groups ("train/l2", "val/l2") shares a panel.

    Args:
        path: the folder of a run ("outputs/synthetic/version_0"), its `metrics.csv`, or a folder of
            runs, of which the newest is shown; or several of them by the name to show.
        quantities: what to show, such as ["l2", "fooling_rate"]; None: all.

    Raises:
        FileNotFoundError: there is no `metrics.csv`.
        ValueError: it holds no numbers yet, or none of these quantities, or is no log.
    """
    runs = path if isinstance(path, Mapping) else {"": path}
    logs = {name: _read(Path(place).expanduser()) for name, place in runs.items()}
    panels = {title: names for title, names in _panels(logs).items() if quantities is None or title in quantities}
    if not panels:
        raise ValueError(f"Drawing the curves of a training: none of {quantities} was logged, only {[*_panels(logs)]}.")
    rows = math.ceil(len(panels) / _COLUMNS)
    columns = min(len(panels), _COLUMNS)
    figure = make_subplots(
        rows,
        columns,
        shared_xaxes="all",
        subplot_titles=[plain(title.replace("_", " ")) for title in panels],
        vertical_spacing=0.3 / rows,
        horizontal_spacing=0.06,
    )
    legend: set[str] = set()
    groups = list(dict.fromkeys(_group(name) for names in panels.values() for name in names))
    for k, names in enumerate(panels.values()):
        for run, name in [(run, name) for run in logs for name in names if name in logs[run]]:
            log, colour = logs[run], list(logs).index(run)
            dash = DASHES[groups.index(_group(name)) % len(DASHES)]
            title = ", ".join(word for word in (run, _group(name)) if word) or "logged"
            known = log[name].dropna()
            figure.add_scatter(
                x=log["at"][known.index],
                y=known,
                mode="lines+markers" if len(known) < _FEW else "lines",
                marker={"size": 5},
                line=line(groups.index(_group(name))) if len(logs) == 1 else line(colour, dash=dash),
                name=plain(title),
                legendgroup=title,
                showlegend=title not in legend,
                row=k // columns + 1,
                col=k % columns + 1,
            )
            legend.add(title)
    of_queries = all(QUERIES in log for log in logs.values())
    for k in range(len(panels))[-columns:]:  # the lowest panel of each column
        at = {"row": k // columns + 1, "col": k % columns + 1}
        figure.update_xaxes(title="queries of training" if of_queries else "step", showticklabels=True, **at)
    figure.update_yaxes(exponentformat="power")
    return figure.update_layout(
        template=TEMPLATE, height=rows * _HIGH + 110, legend={"y": 1 + 50 / (rows * _HIGH)}, hovermode="closest"
    )


def _read(path: Path) -> pd.DataFrame:
    """A log, with the place of each row on the axis as the column "at"."""
    file = path
    if path.is_dir():
        found = sorted(path.rglob(FILE), key=lambda one: one.stat().st_mtime)
        if not found:
            raise FileNotFoundError(
                f"Drawing the curves of a training: there is no {FILE} in {path}. Lightning's CSVLogger writes it;"
                " TensorBoard's files are for TensorBoard."
            )
        file = found[-1]
    elif not path.exists():
        raise FileNotFoundError(f"Drawing the curves of a training: there is no {path}.")
    try:
        log = pd.read_csv(file)
        at = log[QUERIES].ffill().fillna(0) if QUERIES in log else log["step"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"Drawing the curves of a training: {file} is no log of Lightning's CSVLogger.") from error
    return log.assign(at=at)


def _panels(logs: Mapping[str, pd.DataFrame]) -> dict[str, list[str]]:
    """The columns by quantity."""
    panels: dict[str, list[str]] = {}
    for log in logs.values():
        for name in log.select_dtypes("number"):
            if name in ("step", "epoch", "at") or str(name).startswith("charts/") or log[name].isna().all():
                continue
            group, _, quantity = str(name).rpartition("/")
            # losses have names of their own, also where they end like something else
            panel = panels.setdefault(quantity if group in ("", "train", "val", "test") else str(name), [])
            panel += [str(name)] if str(name) not in panel else []
    if not panels:
        raise ValueError("Drawing the curves of a training: the log holds no numbers yet.")
    rank = {name: place for place, name in enumerate(_FIRST)}
    return dict(sorted(panels.items(), key=lambda item: rank.get(item[0], len(rank))))


def _group(name: str) -> str:
    """The part before the quantity: "train" of "train/l2"."""
    return name.rpartition("/")[0]

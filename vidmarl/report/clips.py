"""Clips on a page: what is said of each, and the pictures and charts that its script shows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl import metrics
from vidmarl.metrics import ClipOutcome
from vidmarl.metrics.column import number
from vidmarl.report import figures, pictures

Results = Mapping[str, ClipOutcome]
"""Outcomes on the same clips, by the attack's name."""


def attacked_clips(results: Mapping[str, metrics.Outcome]) -> list[int]:
    """The clips that some attack did not skip."""
    skipped = torch.stack([result.skipped for result in results.values()]).all(0)
    return [i for i, left_out in enumerate(skipped.tolist()) if not left_out]


def articles(results: Results, keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """What a page says about the clips that it shows, for the macro `clips`.

    Args:
        results: by attack, of these clips alone.
        keys: of the clips on the page, one for each.
        names: of the clips.
    """
    first = next(iter(results.values()))
    said = {attack: _runs(attack, result) for attack, result in results.items()}
    predictions = metrics.class_names(first, first.prediction)
    return [
        {
            "key": key,
            "name": names[i],
            "prediction": predictions[i],
            "frames": first.clean.shape[2],
            "runs": [runs[i] for runs in said.values()],
        }
        for i, key in enumerate(keys)
    ]


def _runs(attack: str, result: ClipOutcome) -> list[dict[str, Any]]:
    """What came of each clip."""
    targets = metrics.class_names(result, result.classes) if result.settings.get("targeted") else None
    sizes = metrics.l2(result.clean, result.adversarial).tolist()
    now = metrics.class_names(result, result.adversarial_prediction)
    return [
        {
            "attack": attack,
            "outcome": outcome,
            "queries": int(result.queries[i]),
            "l2": number(sizes[i]),
            "prediction": now[i],
            "target": None if targets is None else targets[i],
        }
        for i, outcome in enumerate(metrics.outcomes(result))
    ]


def common_gain(groups: Iterable[Results]) -> int:
    """One factor for all differences on a page, so that clips and attacks can be compared by
    eye."""
    gains = [pictures.gain(result.clean, result.adversarial) for results in groups for result in results.values()]
    return min(gains, default=1)


def clip_data(results: Results, keys: Sequence[str], gain: int) -> dict[str, Any]:
    """Pictures and charts of the clips that a page shows, by the clips' keys.

    Args:
        results: by attack, of these clips alone.
        keys: as for `articles`.
        gain: factor on the differences.
    """
    first = next(iter(results.values()))
    frames, height, width = first.clean.shape[2:]
    return {
        key: {
            "frames": frames,
            "height": height,
            "width": width,
            "clean": _picture(pictures.to_frames(first.clean[i])),
            "runs": [_run(result, i, gain) for result in results.values()],
        }
        for i, key in enumerate(keys)
    }


def _picture(frames: UInt8[np.ndarray, "t h w 3"]) -> dict[str, Any]:
    url, columns = pictures.sprite(frames)
    return {"url": url, "columns": columns}


def _run(result: ClipOutcome, i: int, gain: int) -> dict[str, Any]:
    clean, adversarial, strength = result.clean[i], result.adversarial[i], result.strength[i]
    cell = result.settings.get("grid") or pictures.cell_size(clean, strength)
    return {
        "attacked": _picture(pictures.to_frames(adversarial)),
        "difference": _picture(pictures.difference(clean, adversarial, gain)),
        "cell": list(cell),
        "strength": _sparse(strength),
        "when": (adversarial - clean).square().sum((0, 2, 3)).sqrt().tolist(),
        "chart": json.loads(figures.trajectory(result, i).to_json()),
    }


def _sparse(strength: Float[Tensor, "gt gh gw"]) -> list[list[tuple[int, int, float]]]:
    """For each step of the map in time, its tubelets that are not 0: row, column, strength."""
    return [[(int(y), int(x), round(float(cells[y, x]), 3)) for y, x in cells.nonzero()] for cells in strength]

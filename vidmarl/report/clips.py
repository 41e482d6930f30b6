"""Clips on a page: what is said of each, and the pictures and charts that its script shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl import metrics
from vidmarl.metrics import ClipOutcome
from vidmarl.metrics.attack import own_budget
from vidmarl.metrics.column import number
from vidmarl.report import figures, pictures

Results = Mapping[str, ClipOutcome]
"""Outcomes on the same clips, by the attack's name."""

_STILL = 352
"""Px of the longer side that a still is enlarged to, so that the outline is finer than pixels."""


def attacked_clips(results: Mapping[str, metrics.Outcome]) -> list[int]:
    """The clips that some attack did not skip."""
    skipped = torch.stack([result.skipped for result in results.values()]).all(0)
    return [i for i, left_out in enumerate(skipped.tolist()) if not left_out]


def typical_clips(results: Mapping[str, metrics.Outcome]) -> dict[int, str]:
    """The median clip, the easiest and the hardest of those attacked, by the L2 that it took:
    median over the attacks, failures at the full distortion."""
    attacked = attacked_clips(results)
    taken = torch.stack([metrics.best_l2_at(result, [own_budget(result)])[:, 0] for result in results.values()])
    sizes = taken.double().nanquantile(0.5, dim=0).tolist()
    order = sorted(attacked, key=lambda i: (sizes[i], i))
    chosen: dict[int, str] = {}
    for rank, title in ((len(order) // 2, "median"), (0, "easiest"), (-1, "hardest")):
        if order:
            chosen.setdefault(order[rank], title)
    return chosen


def articles(
    results: Results, keys: Sequence[str], names: Sequence[str], titles: Sequence[str]
) -> list[dict[str, Any]]:
    """What a page says about the clips that it shows, for the macro `clips`.

    Args:
        results: by attack, of these clips alone.
        keys: of the clips on the page, one for each.
        names: of the clips.
        titles: what they stand for, such as "easiest"; "" for nothing.
    """
    first = next(iter(results.values()))
    said = {attack: _runs(attack, result) for attack, result in results.items()}
    predictions = metrics.class_names(first, first.prediction)
    return [
        {
            "key": key,
            "name": names[i],
            "title": titles[i],
            "prediction": predictions[i],
            "frames": first.clean.shape[2],
            "runs": [runs[i] for runs in said.values()],
            "stills": _stills(results, i),
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


def _stills(results: Results, i: int) -> list[dict[str, Any]]:
    """Pictures of a clip that need no script: the original and what each attack made of it, with
    its region, at the frame that it distorts the most; of a single attack the difference too."""
    shown: list[dict[str, Any]] = []
    for result in results.values():
        clean, adversarial, strength = result.clean[i], result.adversarial[i], result.strength[i]
        frame = int((adversarial - clean).square().sum((0, 2, 3)).argmax())
        if not shown:
            original = pictures.to_frames(clean[:, frame : frame + 1])[0]
            shown.append({"frame": frame + 1, "url": pictures.picture(pictures.enlarged(original, _STILL))})
        outlines = pictures.hulls(strength, _cell(result, clean, strength), frame)
        attacked = pictures.enlarged(pictures.to_frames(adversarial[:, frame : frame + 1])[0], _STILL)
        scale = attacked.shape[0] / clean.shape[2]
        picture = pictures.outlined(attacked, [hull * scale for hull in outlines])
        shown.append({"frame": frame + 1, "url": pictures.picture(picture)})
    if len(results) == 1:
        amplified = pictures.gain(clean, adversarial)
        changed = pictures.difference(clean, adversarial, amplified)[frame]
        url = pictures.picture(pictures.enlarged(changed, _STILL))
        shown.append({"frame": frame + 1, "url": url, "gain": amplified})
    return shown


def clip_data(results: Results, keys: Sequence[str]) -> dict[str, Any]:
    """Pictures and charts of the clips that a page shows, by the clips' keys.

    Args:
        results: by attack, of these clips alone.
        keys: as for `articles`.
    """
    first = next(iter(results.values()))
    frames, height, width = first.clean.shape[2:]
    data = {}
    for i, key in enumerate(keys):
        gain = min(pictures.gain(result.clean[i], result.adversarial[i]) for result in results.values())
        data[key] = {
            "frames": frames,
            "height": height,
            "width": width,
            "gain": gain,  # one for all attacks on a clip, so that they can be compared by eye
            "clean": _picture(pictures.to_frames(first.clean[i])),
            "runs": [_run(result, i, gain) for result in results.values()],
        }
    return data


def _picture(frames: UInt8[np.ndarray, "t h w 3"]) -> dict[str, Any]:
    url, columns = pictures.sprite(frames)
    return {"url": url, "columns": columns}


def _cell(result: ClipOutcome, clean: Tensor, strength: Tensor) -> Sequence[int]:
    return result.settings.get("grid") or pictures.cell_size(clean, strength)


def _run(result: ClipOutcome, i: int, gain: int) -> dict[str, Any]:
    clean, adversarial, strength = result.clean[i], result.adversarial[i], result.strength[i]
    cell = _cell(result, clean, strength)
    starts = range(0, len(strength) * cell[0], cell[0])
    return {
        "attacked": _picture(pictures.to_frames(adversarial)),
        "difference": _picture(pictures.difference(clean, adversarial, gain)),
        "cell": list(cell),
        "strength": _sparse(strength),
        "hulls": [[hull.tolist() for hull in pictures.hulls(strength, cell, start)] for start in starts],
        "when": (adversarial - clean).square().sum((0, 2, 3)).sqrt().tolist(),
        "chart": json.loads(figures.trajectory(result, i).to_json()),
    }


def _sparse(strength: Float[Tensor, "gt gh gw"]) -> list[list[tuple[int, int, float]]]:
    """For each step of the map in time, its tubelets that are not 0: row, column, strength."""
    steps = []
    for cells in strength:
        y, x = cells.nonzero(as_tuple=True)
        values = cells[y, x].double().round(decimals=3)
        steps.append(list(zip(y.tolist(), x.tolist(), values.tolist(), strict=True)))
    return steps

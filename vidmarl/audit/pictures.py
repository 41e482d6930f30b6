"""What the corruptions look like: three frames of one clip under each, as small picture files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vidmarl.audit.corruptions import SEVERITIES, Corruption
from vidmarl.benchmark.clips import Clip, pixels_of
from vidmarl.report.pictures import to_frames
from vidmarl.utils.files import write_atomically

SHOWN = 3
"""Frames of the clip that are shown."""

HIGH = 96
"""Px of a frame in a picture."""


def draw_pictures(clip: Clip, corruptions: Sequence[Corruption], seed: int, folder: Path) -> dict[str, str]:
    """Writes `CORRUPTION-SEVERITY.jpg` of a clip for all that are not there yet, and clean.jpg.

    Args:
        clip: the clip.
        corruptions: what happens to it.
        seed: of the corruptions.
        folder: for the pictures, within it a folder for the clip.

    Returns:
        "clip", "key" and "folder": their names.
    """
    place = folder / f"{clip.key}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    every = [(one, severity) for one in corruptions for severity in SEVERITIES]
    wanted = {place / f"{one.name}-{severity}.jpg": (one, severity) for one, severity in every}
    missing = {path: how for path, how in wanted.items() if not path.exists()}
    if missing or not (place / "clean.jpg").exists():
        [pixels] = pixels_of([clip])
        write_atomically(place / "clean.jpg", strip(pixels))
        for path, (one, severity) in missing.items():
            write_atomically(path, strip(one(pixels, severity, seed)))
    return {"clip": clip.name, "key": clip.key, "folder": place.name}


def strip(clip: Float[Tensor, "3 t h w"]) -> bytes:
    """Frames at a sixth, a half and five sixths of a clip beside each other, as a JPEG."""
    from PIL import Image

    t, h, w = clip.shape[1:]
    at = [min(t - 1, int((i + 0.5) * t / SHOWN)) for i in range(SHOWN)]
    frames = [Image.fromarray(frame) for frame in to_frames(clip[:, torch.tensor(at)])]
    wide = round(HIGH * w / h)
    sheet = Image.new("RGB", (SHOWN * wide + 2 * (SHOWN - 1), HIGH), "white")
    for i, frame in enumerate(frames):
        sheet.paste(frame.resize((wide, HIGH), Image.Resampling.LANCZOS), (i * (wide + 2), 0))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=80)
    return file.getvalue()

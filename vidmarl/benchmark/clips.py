"""The clips of a benchmark."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings

from jaxtyping import UInt8
from torch import Tensor
from tqdm.auto import tqdm

from vidmarl.benchmark.config import Benchmark
from vidmarl.data.base import ClipDataset, ClipSource, evenly
from vidmarl.data.spec import ClipSpec


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip of a benchmark, as a victim's spec cuts it.

    Attributes:
        name: in the tables.
        path: of its file; empty for a clip that was drawn.
        label: its class by the dataset, or None.
        label_name: the name of that class, or None.
        pixels: uint8[3 t h w].
        key: a hash of the pixels.
    """

    name: str
    path: str
    label: int | None
    label_name: str | None
    pixels: UInt8[Tensor, "3 t h w"]
    key: str


def load_clips(benchmark: Benchmark, spec: ClipSpec | None, progress: bool) -> list[Clip]:
    """The clips of a benchmark, each once, cut as a spec says; those that cannot be used are left
    out with a warning.

    Args:
        benchmark: what to do.
        spec: of the victim; drawn clips need none.
        progress: whether to show a progress bar.

    Raises:
        ClipError: none can be used.
        ValueError: videos need a spec, and there is none.
    """
    source = benchmark.data
    if isinstance(source, ClipSource):
        if spec is None:
            raise ValueError(
                "Benchmark: nothing says how clips are cut from the videos, as the victim has no spec. Give it one:"
                " Victim(..., spec=ClipSpec(...))."
            )
        dataset = ClipDataset(source, spec, cache_bytes=0, progress=progress)
        count, classes = len(dataset), source.classes
    else:
        count, classes = len(source), list(source.classes)
    clips: dict[str, Clip] = {}
    chosen = evenly(range(count), benchmark.max_clips)
    for i in tqdm(chosen, desc="loading clips", unit="clip", disable=not progress):
        label: int | None
        if isinstance(source, ClipSource):
            pixels, position = dataset[i]
            file = source[position]
            name, path, label = file.name, str(file.path), file.label
        else:
            pixels, label = source[i]
            name, path = f"clip-{i:05d}", ""
        key = short_hash(pixels.numpy().tobytes())
        clips.setdefault(key, Clip(name, path, label, None if label is None else classes[label], pixels, key))
    if len(clips) < len(chosen):
        copies = len(chosen) - len(clips)
        warnings.warn(f"Benchmark: {copies} of {len(chosen)} clips are copies of others, and left out.", stacklevel=2)
    return list(clips.values())


def short_hash(content: bytes) -> str:
    """Twelve hexadecimal digits that tell contents apart."""
    return hashlib.sha256(content).hexdigest()[:12]

"""The clips of a benchmark.

A first pass decodes every clip once, for its key, and keeps none: memory does not grow with them. A
clip is decoded again when its turn to be attacked has come, which costs little beside a single
attack. Each process of a shared run makes the first pass over all clips: only the pixels tell
copies, and the names of trials, for certain.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial

from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl.benchmark.config import Benchmark
from vidmarl.data.base import ClipDataset, ClipSource, evenly
from vidmarl.data.spec import ClipSpec
from vidmarl.data.synthetic import Synthetic
from vidmarl.data.video import as_batch, decode
from vidmarl.errors import ClipError
from vidmarl.utils.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip of a benchmark, as a victim's spec cuts it, without its pixels.

    Attributes:
        name: in the tables.
        path: of its file; empty for a clip that was drawn.
        label: its class by the dataset, or None.
        label_name: the name of that class, or None.
        key: a hash of the pixels.
        decode: makes the pixels, uint8[3 t h w].
    """

    name: str
    path: str
    label: int | None
    label_name: str | None
    key: str
    decode: Callable[[], UInt8[Tensor, "3 t h w"]]

    def pixels(self) -> UInt8[Tensor, "3 t h w"]:
        """The clip, decoded anew.

        Raises:
            ClipError: its file is no longer what it was, or cannot be read any more.
        """
        pixels = self.decode()
        if short_hash(pixels.numpy().tobytes()) != self.key:
            raise ClipError(
                f"Benchmark: {self.path or self.name} has changed since this run began. Run it again: the changed clip"
                " has trials of its own."
            )
        return pixels


def pixels_of(clips: Sequence[Clip]) -> Float[Tensor, "b 3 t h w"]:
    """Clips, decoded anew, as a victim wants them.

    Raises:
        ClipError: a file is no longer what it was, or cannot be read any more; or they differ in
            length.
    """
    return as_batch([clip.pixels() for clip in clips])


def find_clips(benchmark: Benchmark, spec: ClipSpec | None, progress: bool) -> list[Clip]:
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
    read: Callable[..., Tensor]
    if isinstance(source, ClipSource):
        if spec is None:
            raise ValueError(
                "Benchmark: nothing says how clips are cut from the videos, as the victim has no spec. Give it one:"
                " Victim(..., spec=ClipSpec(...))."
            )
        dataset = ClipDataset(source, spec, cache_bytes=0, progress=progress)
        count, classes, read = len(dataset), source.classes, partial(decode, spec=spec)
    else:
        count, classes, read = len(source), list(source.classes), partial(_draw, source)
    clips: dict[str, Clip] = {}
    chosen = evenly(range(count), benchmark.max_clips)
    for i in progress_bar(chosen, desc="looking at clips", unit="clip", show=progress):
        label: int | None
        if isinstance(source, ClipSource):
            pixels, position = dataset[i]
            file = source[position]
            name, path, label = file.name, str(file.path), file.label
            again = partial(read, file.path)
        else:
            pixels, label = source[i]
            name, path = f"clip-{i:05d}", ""
            again = partial(read, i)
        key = short_hash(pixels.numpy().tobytes())
        clips.setdefault(key, Clip(name, path, label, None if label is None else classes[label], key, again))
    if len(clips) < len(chosen):
        copies = len(chosen) - len(clips)
        warnings.warn(f"Benchmark: {copies} of {len(chosen)} clips are copies of others, and left out.", stacklevel=2)
    return list(clips.values())


def _draw(source: Synthetic, index: int) -> UInt8[Tensor, "3 t h w"]:
    return source[index][0]


def short_hash(content: bytes) -> str:
    """Twelve hexadecimal digits that tell contents apart."""
    return hashlib.sha256(content).hexdigest()[:12]

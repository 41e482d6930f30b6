"""How fast clips are made, beside PyAV alone: `python docs/measure_decoding.py`.

All is done with one thread, one after the other in each round, and measured in seconds of CPU, so
that other work on the machine changes little; of the rounds the median counts. Writes
`docs/results/decoding.csv`.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import av
import torch

from vidmarl import ClipSpec
from vidmarl.data import UCF101, ClipDataset, ClipSource, Weizmann, decode, decode_views
from vidmarl.data.check import look_at
from vidmarl.data.video import probe

CLIPS, ROUNDS = 12, 3
SMALL, LARGE = ClipSpec(frames=16, size=112), ClipSpec(frames=16, size=224)
OUT = Path(__file__).parent / "results" / "decoding.csv"


def raw(path: Path) -> None:
    """PyAV's decoder alone, all frames, none converted."""
    with av.open(str(path), metadata_errors="ignore") as video:
        video.streams.video[0].codec_context.thread_count = 1
        for _ in video.decode(video=0):
            pass


def every_frame(path: Path) -> None:
    """What is written first: all frames as RGB arrays, of which a clip is then taken."""
    with av.open(str(path), metadata_errors="ignore") as video:
        video.streams.video[0].codec_context.thread_count = 1
        for frame in video.decode(video=0):
            frame.to_ndarray(format="rgb24")


def measure(source: ClipSource) -> list[dict[str, str | int | float]]:
    """The rows of one dataset."""
    paths = source.paths
    dataset = ClipDataset(source, SMALL)
    ways: dict[str, Callable[[], object]] = {
        "PyAV, decoding alone": lambda: [raw(path) for path in paths],
        "PyAV, all frames as RGB": lambda: [every_frame(path) for path in paths],
        "decode, 16 frames, 112 px": lambda: [decode(path, SMALL) for path in paths],
        "decode, 16 frames, 224 px": lambda: [decode(path, LARGE) for path in paths],
        "decode_views, 3 x 3 of 16 frames, 112 px": lambda: [decode_views(path, SMALL, (3, 3)) for path in paths],
        "probe (packets and the first frame)": lambda: [probe(path) for path in paths],
        "vidmarl data check": lambda: [look_at(path) for path in paths],
        "ClipDataset, second epoch": lambda: [dataset[i] for i in range(len(dataset))],
    }
    for way in ways.values():
        way()  # files are in memory, libraries are loaded, the dataset has its clips
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    usual = {name: statistics.median(found) / len(paths) for name, found in seconds.items()}
    base = usual["PyAV, decoding alone"]
    return [
        {
            "dataset": type(source).__name__,
            "clips": len(paths),
            "what": name,
            "ms of CPU a clip": round(1e3 * found, 3),
            "speed beside decoding alone": float(f"{base / found:.3g}"),
        }
        for name, found in usual.items()
    ]


def main() -> None:
    """Measures, and writes the table."""
    torch.set_num_threads(1)
    rows = [row for source in (UCF101(max_clips=CLIPS), Weizmann(max_clips=CLIPS)) for row in measure(source)]
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(OUT.read_text())


if __name__ == "__main__":
    main()

"""Measures how the memory grows with the number of clips:

    python tests/measure_memory.py [--clips 10 100 400] [--size 112] [--frames 16] [jobs ...]

Each job runs in a process of its own, on videos made on the spot, against a victim that costs
nothing. Printed is the peak of the resident memory, beyond what the process had after importing, in
MB. `load_clips` gives back all clips at once, so it is to grow by their size and no more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

FILES = Path(__file__).resolve()


def memory(field: str) -> float:
    """A line of this process's account of memory, in MB: "VmRSS", or "VmHWM" for its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def make_videos(folder: Path, clips: int, frames: int, size: int) -> None:
    """Writes videos that all differ; smooth ones, which are small files."""
    import torch
    from torch.nn.functional import interpolate

    from vidmarl.data.encode import write_mp4

    for i in range(clips):
        coarse = torch.rand(1, 3, 4, 6, 6, generator=torch.Generator().manual_seed(i))
        clip = interpolate(coarse, (frames, size, size), mode="trilinear")[0].clamp(0, 1)
        write_mp4(folder / f"{i:04d}.mp4", clip, fps=8)


def attack(folder: Path, frames: int, size: int) -> None:
    """`attack_files` with eight clips at a time."""
    from vidmarl.attacks import as_attack
    from vidmarl.pipeline import attack_files

    how = as_attack("random_cells", budget=4, clips_at_once=8, progress=False)
    attack_files(sorted(folder.glob("*.mp4")), victim(frames, size), how, folder / "out")


def benchmark(folder: Path, frames: int, size: int) -> None:
    """`run_benchmark` with eight clips at a time, which is its default."""
    from vidmarl.benchmark import Benchmark, run_benchmark
    from vidmarl.data.folder import Folder

    (folder / "a class").mkdir()
    for path in sorted(folder.glob("*.mp4")):
        path.rename(folder / "a class" / path.name)
    run_benchmark(
        Benchmark(
            victims=[victim(frames, size)],
            attacks={"random_cells": {}},
            data=Folder(folder),
            budget=4,
            out=folder / "out",
        ),
        progress=False,
    )


def load(folder: Path, frames: int, size: int) -> None:
    """`load_clips` of all clips."""
    from vidmarl import load_clips

    load_clips(sorted(folder.glob("*.mp4")), victim(frames, size))


def victim(frames: int, size: int):  # type: ignore[no-untyped-def]
    """A victim that looks at the brightness."""
    import torch

    from vidmarl import ClipSpec, Victim

    def brightness(clips: torch.Tensor) -> torch.Tensor:
        return -40 * (clips[:, 0].mean((1, 2, 3))[:, None] - torch.tensor([0.3, 0.5, 0.7])).abs()

    spec = ClipSpec(frames=frames, size=(size, size), sampling="uniform")
    return Victim(brightness, spec=spec, name="brightness", device="cpu")


JOBS: dict[str, Callable[[Path, int, int], None]] = {"attack": attack, "benchmark": benchmark, "load": load}


def main() -> None:
    """Measures each job with each number of clips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="*", default=[*JOBS], metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--clips", nargs="+", type=int, default=[10, 100, 400])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--one", type=Path, help="measure one job here, on the videos of a folder")
    args = parser.parse_args()
    if args.one is not None:
        import torch

        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as other:
            make_videos(Path(other), 2, args.frames, args.size)
            JOBS[args.jobs[0]](Path(other), args.frames, args.size)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = memory("VmRSS")
        JOBS[args.jobs[0]](args.one, args.frames, args.size)
        print(round(memory("VmHWM") - before))
        return
    clip = 3 * args.frames * args.size**2 * 4 / 2**20
    print(f"peak in MB; a clip of {args.frames} x {args.size} px has {clip:.1f} MB as float32")
    print("job       ", *(f"{clips:>6} clips" for clips in args.clips))
    for job in args.jobs:
        peaks = []
        for clips in args.clips:
            with tempfile.TemporaryDirectory() as folder:
                make_videos(Path(folder), clips, args.frames, args.size)
                line = [sys.executable, str(FILES), job, "--one", folder]
                sizes = ["--frames", str(args.frames), "--size", str(args.size)]
                done = subprocess.run([*line, *sizes], capture_output=True, text=True, check=False, env=os.environ)
                peaks.append(done.stdout.strip() if done.returncode == 0 else done.stderr.splitlines()[-1])
        print(f"{job:10}", *(f"{peak:>12}" for peak in peaks), flush=True)


if __name__ == "__main__":
    main()

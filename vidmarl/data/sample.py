"""A sample clip that comes with the package, so that everything can be tried without any data.

It is our own work, drawn by `vidmarl.data.synthetic`, under the licence of the package: a textured
figure turns clockwise, for 3.2 s at 20 frames a second, 256 x 256 px. The victim of `vidmarl
demo` calls it "clockwise".
"""

from __future__ import annotations

from pathlib import Path

from vidmarl.data.encode import mp4_bytes
from vidmarl.data.synthetic import CLASSES, make_clip

CLASS = "clockwise"
_SEED, _INDEX = 2026, 2
_FRAMES, _FPS = 64, 20.0
_STEP = 1 / 9  # eight frames spread over the 64 are then as far apart as those that the demo's victim learnt


def sample_clip() -> Path:
    """The sample clip, an mp4 of 36 kB."""
    return Path(__file__).with_name("sample.mp4")


def draw_sample() -> bytes:
    """How the file was made; `python -m vidmarl.data.sample` writes it anew."""
    clip = make_clip(_SEED, _INDEX, CLASSES.index(CLASS), _FRAMES, 256, _STEP)
    return mp4_bytes(clip, _FPS, crf=20)


if __name__ == "__main__":
    sample_clip().write_bytes(draw_sample())

"""The shapes of MoViNet-A0 to A5, which an architecture search has found (Kondratyuk et al.,
"MoViNets", CVPR 2021), from the authors' TensorFlow Model Garden (`BLOCK_SPECS`)."""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Layout(NamedTuple):
    """One block: channels in, expanded and out, spatial and temporal kernel (0: none), spatial
    stride."""

    inner: int
    expanded: int
    outer: int
    kernel: int
    frames: int
    stride: int


class Shape(NamedTuple):
    """A whole network: its blocks by stage, and the channels before the classifier."""

    stages: tuple[tuple[Layout, ...], ...]
    features: int

    @property
    def blocks(self) -> tuple[Layout, ...]:
        """All blocks in order."""
        return tuple(itertools.chain(*self.stages))


class Clips(NamedTuple):
    """The clips that it was tested on: frames, height and width in px, frames a second."""

    frames: int
    size: int
    fps: float


# Stages: channels out, then for each block its expanded channels and its kernel, time and space:
# 13 is one frame of 3 x 3 px. The first block of each stage but the fourth halves the frame. The
# first stage has as many channels as the stem.
_STAGES: dict[str, tuple[tuple[int, str], ...]] = {
    "a0": (
        (8, "24:15"),
        (32, "80:33 80:33 80:33"),
        (56, "184:53 112:33 184:33"),
        (56, "184:53 184:33 184:33 184:33"),
        (104, "384:53 280:15 280:15 344:15"),
    ),
    "a1": (
        (16, "40:15 40:33"),
        (40, "96:33 120:33 96:33 96:33"),
        (64, "216:53 128:33 216:33 168:33 216:33"),
        (64, "216:53 216:33 216:33 128:33 128:15 216:33"),
        (136, "456:53 360:15 360:15 360:15 456:15 456:33 544:13"),
    ),
    "a2": (
        (16, "40:15 40:33 64:33"),
        (40, "96:33 120:33 96:33 96:33 120:33"),
        (72, "240:53 160:33 240:33 192:33 240:33"),
        (72, "240:53 240:33 240:33 240:33 144:15 240:33"),
        (144, "480:53 384:15 384:15 480:15 480:15 480:33 576:13"),
    ),
    "a3": (
        (16, "40:15 40:33 64:33 40:33"),
        (48, "112:33 144:33 112:33 112:15 144:33 144:33"),
        (80, "240:53 152:33 240:33 192:33 240:33"),
        (88, "264:53 264:33 264:33 264:33 160:15 264:33 264:33 264:33"),
        (168, "560:53 448:15 448:15 560:15 560:15 560:33 448:15 448:15 560:33 672:13"),
    ),
    "a4": (
        (24, "64:15 64:33 96:33 64:33 96:33 64:33"),
        (56, "168:33 168:33 136:33 136:33 168:33 168:33 168:33 136:15 136:33"),
        (96, "320:53 160:33 320:33 192:33 320:33 160:33 320:33 256:33 320:33"),
        (96, "320:53 320:33 320:33 320:33 192:15 320:33 320:33 192:33 320:33 320:33"),
        (
            192,
            "640:53 512:15 512:15 640:15 640:15 640:33 512:15 512:15 640:15 768:15 640:15 640:33 768:33",
        ),
    ),
    "a5": (
        (24, "64:15 64:15 96:33 64:33 96:33 64:33"),
        (64, "192:53 152:33 152:33 152:33 192:33 192:33 192:33 152:33 152:33 192:33 192:33"),
        (
            112,
            "376:53 224:33 376:33 376:33 296:33 376:33 224:33 376:33 376:33 296:33 376:33 376:33 376:33",
        ),
        (120, "376:53 376:33 376:33 376:33 224:15 376:33 376:33 224:33 376:33 376:33 376:33"),
        (
            224,
            "744:53 744:33 600:15 600:15 744:15 744:15 744:33 896:15 600:15"
            " 600:15 896:15 744:15 744:33 896:15 600:15 600:15 744:15 744:33",
        ),
    ),
}
_FEATURES = {"a0": 480, "a1": 600, "a2": 640, "a3": 744, "a4": 856, "a5": 992}
HIDDEN = 2048
"""Channels of the layer before the classifier, of each of them."""
CLIPS = {
    "a0": Clips(50, 172, 5.0),
    "a1": Clips(50, 172, 5.0),
    "a2": Clips(50, 224, 5.0),
    "a3": Clips(120, 256, 12.0),
    "a4": Clips(80, 290, 8.0),
    "a5": Clips(120, 320, 12.0),
}
"""Ten seconds of video."""


def _stage(inner: int, outer: int, blocks: str, shrinks: bool) -> tuple[Layout, ...]:
    """The blocks of a stage."""
    found = []
    for place, block in enumerate(blocks.split()):
        expanded, (time, space) = int(block.split(":")[0]), map(int, block.split(":")[1])
        first = place == 0
        frames, stride = time if time > 1 else 0, 2 if first and shrinks else 1
        found.append(Layout(inner if first else outer, expanded, outer, space, frames, stride))
    return tuple(found)


def _shape(name: str) -> Shape:
    stages = _STAGES[name]
    widths = [stages[0][0], *(width for width, _ in stages)]
    return Shape(
        tuple(_stage(widths[i], width, blocks, shrinks=i != 3) for i, (width, blocks) in enumerate(stages)),
        _FEATURES[name],
    )


SHAPES = {name: _shape(name) for name in _STAGES}
"""The network of each size."""

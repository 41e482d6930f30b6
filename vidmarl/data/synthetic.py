"""Procedural action clips whose classes differ in motion only, so that a classifier has to look at
time.

A textured, soft-edged figure moves over a textured, drifting background. The class is what the
figure does. All else (texture, shape, colours, place, size, speed, background and its drift) is
drawn independently of it, and every class leaves the distribution of each single frame as it is:
the world is a torus on which places are uniform, angles are uniform on the circle, and sizes
oscillate with a uniform phase. Frame 0 is even the same, bit for bit, whatever the class. So a
single frame tells nothing, at any time; the order of the frames tells everything: played backwards,
"right" is "left".
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vidmarl.utils.kinds import check_least, checked
from vidmarl.utils.progress import progress_bar

CLASSES = ("right", "left", "up", "down", "clockwise", "anticlockwise", "pulse", "still")
"""What the figure does, in the order of the labels; x points right and y points down."""

SPLITS = ("train", "val", "test")

_SMALLEST = 8  # px, side of a frame
_SPRITE = 48  # px, side of the square that holds a figure before it is placed in the frame
_MARGIN = 1.6  # half the side of that square, in mean radii of the figure


def split_seed(seed: int, split: Literal["train", "val", "test"]) -> int:
    """The seed of a split's clips; no two (seed, split) share one.

    Args:
        seed: of the experiment, at least 0.
        split: "train", "val" or "test".
    """
    return len(SPLITS) * seed + SPLITS.index(split)


@dataclasses.dataclass(frozen=True)
class Motion:
    """How the figure moves; lengths in frame sides, angles in radians, times in frames.

    Attributes:
        centre: (x, y) in [0, 1), its place in frame 0.
        angle: its turn in frame 0.
        speed: of "right", "left", "up" and "down", per frame.
        turn: of "clockwise" and "anticlockwise", per frame.
        swell: amplitude of "pulse", in the logarithm of the size.
        period: of "pulse", frames.
        phase: of "pulse" in frame 0; it also sets the size of a figure that does not pulse.
    """

    centre: tuple[float, float]
    angle: float
    speed: float
    turn: float
    swell: float
    period: float
    phase: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Motion:
        """Draws the motion of one clip, fit for every class."""
        return cls(
            centre=(rng.random(), rng.random()),
            angle=rng.uniform(0, 2 * math.pi),
            speed=rng.uniform(0.04, 0.08),
            turn=rng.uniform(0.35, 0.7),
            swell=rng.uniform(0.3, 0.45),
            period=rng.uniform(3.5, 5.5),
            phase=rng.uniform(0, 2 * math.pi),
        )

    def path(self, action: str, frames: int, step: float = 1.0) -> tuple[Float[Tensor, " t"], ...]:
        """Place x and y, angle and log-size of the figure in each frame, when it does `action`."""
        t = step * torch.arange(frames, dtype=torch.float32)
        swelling = torch.sin(2 * math.pi * t / self.period + self.phase)
        x, y, angle, size = t * 0, t * 0, t * 0, swelling[0].expand(frames)
        match action:
            case "right":
                x = self.speed * t
            case "left":
                x = -self.speed * t
            case "down":
                y = self.speed * t
            case "up":
                y = -self.speed * t
            case "clockwise":
                angle = self.turn * t
            case "anticlockwise":
                angle = -self.turn * t
            case "pulse":
                size = swelling
        return self.centre[0] + x, self.centre[1] + y, self.angle + angle, self.swell * size


@checked
def make_clip(
    seed: int, index: int, label: int, frames: int = 8, size: int = 64, step: float = 1.0
) -> UInt8[Tensor, "3 t h w"]:
    """Draws one clip; what it shows besides the motion depends on `seed` and `index` alone.

    Args:
        seed: of the set of clips, at least 0.
        index: of the clip in its set, at least 0.
        label: an index of `CLASSES`.
        frames: number of frames.
        size: height and width, px, at least 8.
        step: the time from a frame to the next; with 1/4 there are three more between each two of
            the usual ones.

    Raises:
        ValueError: a number is out of its range.
    """
    check_least("make_clip", seed=(seed, 0), index=(index, 0), frames=(frames, 1), size=(size, _SMALLEST))
    if not 0 <= label < len(CLASSES):
        raise ValueError(f"make_clip: label must be an index of the {len(CLASSES)} CLASSES, got {label}.")
    rng = np.random.default_rng([seed, index])
    with _one_thread():
        motion = Motion.draw(rng)
        backdrop = _backdrop(rng, frames, size, step)
        figure = _figure(rng)
        radius = rng.uniform(0.17, 0.23)
        clip = _place(figure, backdrop, motion.path(CLASSES[label], frames, step), radius)
        return (clip.clamp(0, 1) * 255).round().to(torch.uint8)


@checked
def make_clips(
    n: int, seed: int, frames: int = 8, size: int = 64, progress: bool = False
) -> tuple[Float[Tensor, "n 3 t h w"], Int64[Tensor, " n"]]:
    """Draws `n` clips, the classes taking turns.

    Clip `i` depends on `seed` and `i` alone: a larger set begins with the smaller one.

    Args:
        n: number of clips.
        seed: of the set, at least 0; sets of different seeds have nothing in common. See
            `split_seed`.
        frames: number of frames.
        size: height and width, px.
        progress: whether to show a progress bar.

    Returns:
        Clips, float32[n 3 t h w] in [0, 1] and exact multiples of 1/255, and labels, int64[n].
    """
    source = Synthetic(n, seed, frames, size)  # which checks them
    clips = torch.empty(n, 3, frames, size, size)
    with _one_thread():
        for i in progress_bar(range(n), desc="Drawing clips", unit="clip", show=progress):
            clips[i] = source[i][0]
    return clips / 255, torch.arange(n) % len(CLASSES)


class Synthetic(Dataset[tuple[Tensor, int]]):
    """The same clips one by one, drawn when asked for.

    Args:
        n: number of clips.
        seed: of the set, at least 0; sets of different seeds have nothing in common.
        frames: number of frames.
        size: height and width, px.
    """

    classes = CLASSES

    @checked
    def __init__(self, n: int, seed: int = 0, frames: int = 8, size: int = 64) -> None:
        check_least("Synthetic", n=(n, 0), seed=(seed, 0), frames=(frames, 1), size=(size, _SMALLEST))
        self.n = n
        self.seed = seed
        self.frames = frames
        self.size = size

    def __repr__(self) -> str:
        return f"Synthetic({self.n}, seed={self.seed}, frames={self.frames}, size={self.size})"

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 t h w"], int]:
        """A clip and its label."""
        if not 0 <= index < self.n:
            raise IndexError(f"Drawing clip {index}: this set has the clips 0 to {self.n - 1}.")
        label = index % len(CLASSES)
        return make_clip(self.seed, index, label, self.frames, self.size), label


def transform(
    clip: Shaped[Tensor, "3 t h w"], label: int, rng: np.random.Generator
) -> tuple[Shaped[Tensor, "3 t h w"], int]:
    """One of the symmetries of this world, at random: another clip that could have been drawn, with
    its label.

    Mirrors, the exchange of x and y, and time reversal change labels; a shift round the torus and
    another order of the colours do not.
    """
    for symmetry, pairs in _SYMMETRIES:
        if rng.random() < 0.5:
            clip, label = symmetry(clip), CLASSES.index(pairs.get(CLASSES[label], CLASSES[label]))
    down, right = rng.integers(clip.shape[-2:]).tolist()
    return clip.roll((down, right), (-2, -1))[rng.permutation(3)], label


def _swap(*pairs: tuple[str, str]) -> dict[str, str]:
    return dict(pairs) | {b: a for a, b in pairs}


_TURN = ("clockwise", "anticlockwise")
_SYMMETRIES: tuple[tuple[Callable[[Tensor], Tensor], dict[str, str]], ...] = (
    (lambda clip: clip.flip(-1), _swap(("right", "left"), _TURN)),
    (lambda clip: clip.flip(-2), _swap(("up", "down"), _TURN)),
    (lambda clip: clip.transpose(-2, -1), _swap(("right", "down"), ("left", "up"), _TURN)),
    (lambda clip: clip.flip(-3), _swap(("right", "left"), ("up", "down"), _TURN)),
)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """For work so small that threads wait longer for each other than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _spectrum(rng: np.random.Generator, size: int, slope: float, fields: int) -> Tensor:
    """Spectra of random fields whose amplitude falls as frequency^-slope: texture at every scale,
    as in nature."""
    white = torch.fft.rfft2(torch.from_numpy(rng.standard_normal((fields, size, size), dtype=np.float32)))
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    frequency = (fy.square() + fx.square()).sqrt()
    frequency[0, 0] = torch.inf  # no mean
    spectrum: Tensor = white * frequency.pow(-slope)
    return spectrum


def _unit(fields: Tensor) -> Tensor:
    """Scaled to a standard deviation of 1 over the last two axes."""
    return fields / fields.std((-2, -1), keepdim=True)


def _paint(
    fields: Float[Tensor, "2 *t h w"], colours: Float[Tensor, "2 3"], contrast: float
) -> Float[Tensor, "3 *t h w"]:
    """Colours two fields: the first blends two colours, the second lights and shades them."""
    one, other = colours.view(2, 3, *[1] * (fields.ndim - 1))
    return torch.lerp(one, other, (1.5 * fields[0]).sigmoid()) + contrast * fields[1]


def _backdrop(rng: np.random.Generator, frames: int, size: int, step: float) -> Float[Tensor, "3 t h w"]:
    """A texture that drifts over the torus; a translation is a ramp of the spectrum's phase."""
    spectrum = _spectrum(rng, size, slope=rng.uniform(1.4, 2.0), fields=2)
    speed, heading = rng.uniform(0, 0.012) * size, rng.uniform(0, 2 * math.pi)
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    cycles = speed * (fx * math.cos(heading) + fy * math.sin(heading))
    t = step * torch.arange(frames).view(-1, 1, 1)
    drifting = torch.fft.irfft2(spectrum[:, None] * torch.exp(-2j * math.pi * cycles * t), s=(size, size))
    colour = rng.uniform(0.2, 0.8, 3)
    colours = torch.tensor(np.stack([colour, colour + rng.uniform(-0.2, 0.2, 3)]), dtype=torch.float32)
    return _paint(_unit(drifting), colours, contrast=0.04)


def _figure(rng: np.random.Generator) -> Float[Tensor, "4 s s"]:
    """A textured blob with a soft edge: its colours and its opacity, on a square of `_MARGIN` radii
    to each side."""
    fields = torch.fft.irfft2(_spectrum(rng, _SPRITE, slope=rng.uniform(1.2, 1.6), fields=2), s=(_SPRITE, _SPRITE))
    y, x = torch.meshgrid(*[torch.linspace(-_MARGIN, _MARGIN, _SPRITE)] * 2, indexing="ij")
    bearing = torch.atan2(y, x)
    outline = torch.ones_like(x)
    for lobes in (2, 3, 4, 5):
        outline += rng.normal(0, 0.25 / lobes) * torch.cos(lobes * bearing + rng.uniform(0, 2 * math.pi))
    inside = outline.clamp(0.4, 1.4) - (x.square() + y.square()).sqrt()
    opacity = (inside / 0.06).sigmoid()
    dome = 0.7 + 0.3 * (2.5 * inside).clamp(0, 1)  # darker towards its edge, as a round thing is
    colours = torch.tensor(rng.uniform(0, 1, (2, 3)), dtype=torch.float32)
    return torch.cat([_paint(_unit(fields), colours, contrast=0.12) * dome, opacity[None]])


def _place(
    figure: Float[Tensor, "4 s s"],
    backdrop: Float[Tensor, "3 t h w"],
    path: tuple[Float[Tensor, " t"], ...],
    radius: float,
) -> Float[Tensor, "3 t h w"]:
    """Puts the figure, of a mean radius in frame sides, over the backdrop along a path."""
    cx, cy, angle, log_size = (values.view(-1, 1, 1) for values in path)
    size = backdrop.shape[-1]
    pixel = (torch.arange(size) + 0.5) / size
    dx = torch.remainder(pixel[None, None, :] - cx + 0.5, 1) - 0.5  # the nearest way round the torus
    dy = torch.remainder(pixel[None, :, None] - cy + 0.5, 1) - 0.5
    zoom = 1 / (_MARGIN * radius * log_size.exp())
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    where = torch.stack([cos * dx + sin * dy, cos * dy - sin * dx], -1)  # [t h w 2], in the figure's own axes
    placed = F.grid_sample(figure.expand(len(where), -1, -1, -1), where, align_corners=False).transpose(0, 1)
    colour, opacity = placed[:3], placed[3:]
    # the sprite's edge is fully transparent, so sampling beyond it (zeros) changes nothing
    return torch.lerp(backdrop, colour, opacity)

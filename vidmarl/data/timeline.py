"""When the frames of a video are shown, and which of them make a clip."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from vidmarl.data.spec import WHOLE_VIDEO, ClipSpec
from vidmarl.errors import ClipError

_MOST_REPEATS = 64
_MANY_FRAMES = 4096
"""A clip that shows a frame so often on average, and has so many of them, comes from a damaged
clock: one odd time stamp would fill any memory."""


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown.

    Attributes:
        times: float64[n] seconds, ascending from 0; without a known frame rate, frame numbers.
        period: seconds for which the last frame is shown.
        timed: whether the times are seconds.
        saved_clip: height and width in px, where the video is a clip that `write_lossless` has
            written; else None.
    """

    times: np.ndarray
    period: float
    timed: bool = True
    saved_clip: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.times)

    @property
    def fps(self) -> float:
        """Mean frame rate, frames a second."""
        return len(self) / (float(self.times[-1]) + self.period)

    @classmethod
    def of(
        cls,
        stamps: Sequence[int | None],
        time_base: Fraction | None,
        rate: Fraction | None,
        saved_clip: tuple[int, int] | None = None,
    ) -> Timeline:
        """From the presentation stamps of the frames in order.

        Args:
            stamps: in units of `time_base`; None where a frame has none. Odd ones are mended, see
                `mend_stamps`.
            time_base: seconds.
            rate: frames a second, which count where the stamps are of no use.
            saved_clip: see `Timeline`.
        """
        ticks = mend_stamps(stamps)
        if time_base and ticks is not None:
            times = (ticks - ticks[0]) * float(time_base)
            return cls(times, float(times[-1] - times[-2]), saved_clip=saved_clip)
        period = 1 / float(rate) if rate else 1.0
        timed = bool(rate) or len(stamps) == 1
        return cls(np.arange(len(stamps)) * period, period, timed, saved_clip)

    def is_clip_of(self, spec: ClipSpec) -> bool:
        """Whether the video is a saved clip of this spec's frames and size, whose frames are taken
        as they are."""
        return self.saved_clip == spec.size and spec.frames in (None, len(self))

    def sample(self, spec: ClipSpec, offset: float | None = None) -> np.ndarray:
        """The numbers of the frames that make the clip, int64[t].

        A window ("fps", "stride") shows at each of its moments the frame that is on screen.
        "uniform" spreads evenly from the first frame to the last, rounding down; "segments" takes
        the middle of each of `spec.frames` equal parts; "steps" goes on from the first frame by the
        largest whole step. With an offset all three take one frame of each of those parts.

        Args:
            spec: what is wanted.
            offset: where the window starts, from 0 (as early as it can) to 1 (as late as it can);
                for what spans the whole video, where in its part each frame lies. None: a centred
                window, and the whole video as above.

        Raises:
            ClipError: the video is too short and `spec.short` is "error", or the clip would show
                its frames over and over.
            ValueError: `offset` is not in [0, 1].
        """
        if offset is not None and not 0 <= offset <= 1:
            raise ValueError(f"Sampling a clip: offset must be in [0, 1], got {offset}.")
        n = len(self)
        if self.is_clip_of(spec):
            return np.arange(n)
        self._check_repeats(spec, spec.frames or 1)
        if spec.sampling in WHOLE_VIDEO:
            return np.arange(n) if spec.frames is None else _spread(n, spec.frames, spec.sampling, offset)
        if spec.sampling == "stride":
            clock, step, period = np.arange(n, dtype=np.float64), float(spec.stride), 1.0
        elif self.timed:
            clock, step, period = self.times, 1 / spec.fps, self.period
        else:
            raise ClipError('it states no frame rate. Use sampling="stride" or "uniform".')
        last = float(clock[-1])
        frames = spec.frames or math.floor(last / step + 1e-6) + 1
        self._check_repeats(spec, frames)
        slack = last - (frames - 1) * step
        if slack <= -period * (1 - 1e-6) and spec.short == "error":
            raise ClipError(self._too_short(spec))
        start = max(slack, 0.0) * (0.5 if offset is None else offset)
        if spec.frames is None and offset is None:
            start = 0.0
        elif spec.sampling == "stride":
            start = self._centred(spec, frames) if offset is None else math.floor(start)
        moments = start + step * np.arange(frames)
        if spec.short == "loop":
            moments = moments % (last + period)
        # A microsecond's grace: 5 * 1/5 s must not fall just before the frame at 1 s.
        return (np.searchsorted(clock, moments + 1e-6, side="right") - 1).clip(min=0)

    def _check_repeats(self, spec: ClipSpec, frames: int) -> None:
        if frames > max(_MANY_FRAMES, _MOST_REPEATS * len(self)):
            longest = max(np.diff(self.times).max(initial=0.0), self.period)
            raise ClipError(
                f"a clip of {frames:,} frames would be made of its {len(self):,}, one of which is shown for"
                f" {longest:,.0f} s: the clock is damaged, or the ClipSpec asks for too much. Ways out: fewer frames, a"
                ' lower fps, or sampling="uniform".'
            )

    def _centred(self, spec: ClipSpec, frames: int) -> int:
        """Where a "stride" window begins: what is centred are all the native frames that it stands
        for, as for I3D."""
        start = (len(self) - frames * spec.stride) // 2
        return start if spec.short == "hold" else max(start, 0)  # before the video, "hold" shows its first frame

    def _too_short(self, spec: ClipSpec) -> str:
        frames = spec.frames or 1
        if spec.sampling == "fps":
            has = f"it has {len(self)} frames, {len(self) / self.fps:.2f} s at {self.fps:.4g} fps"
            needs = f"{frames} frames at {spec.fps:g} fps need more than {(frames - 1) / spec.fps:.2f} s"
            way = "a higher fps"
        else:
            has = f"it has {len(self)} frames"
            needs = f"{frames} frames at stride {spec.stride} need {(frames - 1) * spec.stride + 1}"
            way = "a lower stride"
        return (
            f"too short: {has}, but {needs}. Ways out, in the ClipSpec: fewer frames, {way},"
            ' sampling="uniform" (spread over the whole video), or short="hold" or "loop" (its end held, or the video'
            " played again)."
        )


def _spread(n: int, frames: int, sampling: str, offset: float | None) -> np.ndarray:
    """Frames spread over a whole video of `n`, int64[frames]."""
    if offset is None and sampling == "steps":
        return (np.arange(frames) * max(n // frames, 1)).clip(max=n - 1)
    if offset is None and sampling == "uniform" and frames > 1:
        return np.linspace(0, n - 1, frames).astype(np.int64)
    offset = 0.5 if offset is None else offset
    return ((np.arange(frames) + offset) * n // frames).clip(max=n - 1).astype(np.int64)


def mend_stamps(stamps: Sequence[int | None]) -> np.ndarray | None:
    """Presentation stamps that ascend from frame to frame, float64[n]; None if they are of no use.

    A stamp that is missing, doubled or out of order is replaced by one evenly between its
    neighbours. Where more than every tenth is, no stamp is trusted: AVI files with B-frames are
    such, whose frames come at a constant rate.
    """
    n = len(stamps)
    if n < 2:
        return None
    known = [(number, stamp) for number, stamp in enumerate(stamps) if stamp is not None]
    if len(known) == n:
        values = np.array(stamps, dtype=np.float64)
        ordered: np.ndarray = np.sort(values)
        steps = np.diff(ordered)
        if steps.min() > 0 and (np.ptp(steps) == 0 or (values == ordered).all()):
            return ordered  # at a constant rate each frame has its time, whatever the order
    kept = _longest_ascent(known)
    if n - len(kept) > max(1, n // 10):
        return None
    first_of_equals = {stamp: number for number, stamp in reversed(kept)}
    if len(first_of_equals) < 2:
        return None
    ticks = np.array(sorted(first_of_equals), dtype=np.float64)
    numbers = np.array([first_of_equals[stamp] for stamp in sorted(first_of_equals)])
    step = float(np.median(np.diff(ticks) / np.diff(numbers)))  # goes on beyond the ends
    mended: np.ndarray = np.interp(np.arange(n), numbers, ticks)
    mended[: numbers[0]] = ticks[0] + step * np.arange(-numbers[0], 0)
    mended[numbers[-1] + 1 :] = ticks[-1] + step * np.arange(1, n - numbers[-1])
    return mended


def _longest_ascent(known: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The most (number, stamp) that can be kept so that no stamp is below the one before."""
    ends: list[int] = []  # the lowest last stamp of an ascent of each length
    places: list[int] = []
    before: list[int | None] = []
    for place, (_, stamp) in enumerate(known):
        length = bisect.bisect_right(ends, stamp)
        before.append(places[length - 1] if length else None)
        ends[length:] = [stamp, *ends[length + 1 :]]
        places[length:] = [place, *places[length + 1 :]]
    kept = []
    at: int | None = places[-1] if places else None
    while at is not None:
        kept.append(known[at])
        at = before[at]
    return kept[::-1]

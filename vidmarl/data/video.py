"""From video files to clips, sampled and sized as a victim wants them.

Frames are numbered as the decoder shows them. Pixels are taken as they are stored: the pixel aspect
ratio is ignored, as in the pipelines that the common victims were trained with, alpha is dropped
and deeper videos come down to 8 bits; a display rotation is applied.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from vidmarl.data.spec import ClipSpec, HasSpec
from vidmarl.errors import ClipError
from vidmarl.utils.files import PathLike, readable

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

_TIE = 1e-6
"""Added before pixels are rounded: halves, which are frequent at simple ratios of sizes, come out a
last bit above or below with another number of threads, and a clip must not depend on that. In
double precision no other value is so near to a half."""

_HELD_BYTES = 256 * 2**20  # decoded frames kept between choosing and converting; a longer video is decoded twice


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown.

    Attributes:
        times: float64[n] seconds, ascending from 0; without a known frame rate, frame numbers.
        period: seconds for which the last frame is shown.
        timed: whether the times are seconds.
    """

    times: np.ndarray
    period: float
    timed: bool = True

    def __len__(self) -> int:
        return len(self.times)

    @property
    def fps(self) -> float:
        """Mean frame rate, frames a second."""
        return len(self) / (float(self.times[-1]) + self.period)

    @classmethod
    def of(cls, stamps: Sequence[int | None], stream: VideoStream) -> Timeline:
        """From the presentation stamps of the frames in order; the mean rate where the stamps are
        of no use."""
        rate = stream.average_rate or stream.guessed_rate
        # AVI files with B-frames carry stamps that run backwards: those have a constant rate, which
        # is what counts.
        known = [stamp for stamp in stamps if stamp is not None]
        ascending = len(known) == len(stamps) and all(a < b for a, b in itertools.pairwise(known))
        if stream.time_base and ascending and len(known) > 1:
            times = (np.array(known, dtype=np.float64) - known[0]) * float(stream.time_base)
            return cls(times, period=float(times[-1] - times[-2]))
        period = 1 / float(rate) if rate else 1.0
        return cls(np.arange(len(stamps)) * period, period, timed=bool(rate) or len(stamps) == 1)

    def sample(self, spec: ClipSpec, offset: float | None = None) -> np.ndarray:
        """The numbers of the frames that make the clip, int64[t].

        A window ("fps", "stride") shows at each of its moments the frame that is on screen.
        "uniform" spreads evenly from the first frame to the last, rounding down; with an offset it
        cuts the video into `spec.frames` equal parts and takes one frame of each.

        Args:
            spec: what is wanted.
            offset: where the window starts, from 0 (as early as it can) to 1 (as late as it can);
                for "uniform", where in its part each frame lies. None: a centred window, and the
                whole video from its first frame on.

        Raises:
            ClipError: the video is too short and `spec.short` is "error".
            ValueError: `offset` is not in [0, 1].
        """
        if offset is not None and not 0 <= offset <= 1:
            raise ValueError(f"Sampling a clip: offset must be in [0, 1], got {offset}.")
        n = len(self)
        if spec.sampling == "uniform":
            if spec.frames is None:
                return np.arange(n)
            if offset is None and spec.frames > 1:
                return np.linspace(0, n - 1, spec.frames).astype(np.int64)
            offset = 0.5 if offset is None else offset
            spread: np.ndarray = np.minimum((np.arange(spec.frames) + offset) * n // spec.frames, n - 1)
            return spread.astype(np.int64)
        if spec.sampling == "stride":
            clock, step, period = np.arange(n, dtype=np.float64), float(spec.stride), 1.0
        elif self.timed:
            clock, step, period = self.times, 1 / spec.fps, self.period
        else:
            raise ClipError('it states no frame rate. Use sampling="stride" or "uniform".')
        last = float(clock[-1])
        frames = spec.frames or math.floor(last / step + 1e-6) + 1
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
        return np.maximum(np.searchsorted(clock, moments + 1e-6, side="right") - 1, 0)

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


class Footage:
    """The frames of one video file, decoded once and turned into RGB only where they are asked for.

    Args:
        path: any video file that FFmpeg can read; sound and further streams are ignored.

    Attributes:
        timeline: when each frame is shown.
        damage: what is wrong with the file, or "".

    Raises:
        ClipError: the file is missing, is no video, or is damaged beyond use.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        stamps: list[int | None] = []
        self._held: list[VideoFrame] | None = []
        size = 0
        with _reading(path) as (container, stream):
            for frame in _frames(container, stream):
                stamps.append(frame.pts)
                size += sum(plane.buffer_size for plane in frame.planes)
                if size > _HELD_BYTES:
                    self._held = None
                if self._held is not None:
                    self._held.append(frame)
            if not stamps:
                raise ClipError("none of its frames can be decoded; the file is damaged. Get it anew.")
            self.timeline = Timeline.of(stamps, stream)
            self.damage = _damage(len(stamps), stream)

    def sample(self, spec: ClipSpec, offset: float | None = None) -> np.ndarray:
        """The numbers of the frames that make a clip; arguments and errors as for `decode`."""
        with _about(self.path):
            try:
                return self.timeline.sample(spec, offset)
            except ClipError as error:
                raise ClipError(f"{error} {self.damage}".strip()) from None

    def clip(self, spec: ClipSpec, offset: float | None = None) -> UInt8[Tensor, "3 t h w"]:
        """One clip of the video; arguments and errors as for `decode`."""
        numbers = self.sample(spec, offset)
        if self.damage:
            warnings.warn(f"Reading the video {self.path}: {self.damage} Going on with what there is.", stacklevel=3)
        return self.frames(numbers, spec)

    def frames(self, numbers: Sequence[int] | np.ndarray, spec: ClipSpec | None = None) -> UInt8[Tensor, "3 t h w"]:
        """The frames of these numbers, at the spec's size or (None) as they are."""
        import av.video.reformatter

        reformatter = av.video.reformatter.VideoReformatter()
        wanted = {int(number) for number in numbers}
        pixels: dict[int, Tensor] = {}
        for number, frame in enumerate(self._again()):
            if number in wanted:
                pixels[number] = _rgb(frame, reformatter)
                if spec is not None:
                    pixels[number] = fit(pixels[number], spec)
            if len(pixels) == len(wanted):
                break
        return torch.stack([pixels[int(number)] for number in numbers], dim=1)

    def _again(self) -> Iterator[VideoFrame]:
        if self._held is not None:
            yield from self._held
        else:
            with _reading(self.path) as (container, stream):
                yield from _frames(container, stream)


def decode(path: PathLike, spec: ClipSpec, offset: float | None = None) -> UInt8[Tensor, "3 t h w"]:
    """One clip of a video file.

    Args:
        path: any video file that FFmpeg can read; sound and further streams are ignored.
        spec: number of frames, their sampling and their size.
        offset: where in the video the clip lies, in [0, 1], see `Timeline.sample`; None: centred.

    Returns:
        RGB bytes, uint8[3 t h w]. The same file, spec and offset always give the same bytes.

    Raises:
        ClipError: the file is missing, is no video, is damaged beyond use, or is too short.
    """
    return Footage(path).clip(spec, offset)


def read_video(path: PathLike) -> tuple[UInt8[Tensor, "3 t h w"], float]:
    """Every frame of a video at its own size, uint8[3 t h w], and the frames a second.

    Raises:
        ClipError: as for `decode`.
    """
    footage = Footage(path)
    return footage.frames(range(len(footage.timeline))), footage.timeline.fps


def probe(path: PathLike) -> Timeline:
    """The timeline by the file's index, at a fraction of what decoding costs; decoding may give a
    frame less.

    Raises:
        ClipError: the file is missing, or its first frame cannot be decoded.
    """
    with _reading(path) as (container, stream):
        stamps = [packet.pts for packet in _packets(container, stream) if packet.size]
        container.seek(0)
        if next(_frames(container, stream), None) is None:
            raise ClipError("not even its first frame can be decoded; the file is damaged. Get it anew.")
        known = [stamp for stamp in stamps if stamp is not None]  # packets come in the order of decoding
        return Timeline.of(sorted(known) if len(known) == len(stamps) else stamps, stream)


def load_clips(
    paths: PathLike | Iterable[PathLike],
    victim: HasSpec | ClipSpec | None = None,
    *,
    progress: bool = False,
) -> Float[Tensor, "b 3 t h w"]:
    """Video files as the clips that a victim wants.

    Args:
        paths: one file or several.
        victim: a victim, or whatever else has a `spec`; a ClipSpec; or None for `ClipSpec()`.
        progress: show a progress bar.

    Returns:
        float32[b 3 t h w], RGB in [0, 1], every value k/255.

    Raises:
        ClipError: no paths, a file that cannot be used (the message names it), or clips of
            different lengths.
        ValueError: the victim has no spec.
    """
    if victim is None:
        victim = ClipSpec()
    spec = victim if isinstance(victim, ClipSpec) else victim.spec
    if spec is None:
        raise ValueError(
            f"Loading clips for {victim!r}: it has no spec, so nothing says how many frames of which size it wants."
            " Give it one, Victim(model, spec=ClipSpec(...)), or pass a ClipSpec to load_clips."
        )
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not files:
        raise ClipError("Loading clips: expected at least one path, got none.")
    clips = [decode(path, spec) for path in tqdm(files, desc="decoding", unit="clip", disable=not progress)]
    lengths = {clip.shape[1] for clip in clips}
    if len(lengths) > 1:
        raise ClipError(
            f"Loading {len(files)} clips in one batch: they have {min(lengths)} to {max(lengths)} frames, because the"
            " spec asks for whole videos (frames=None). Load them one by one, or set ClipSpec(frames=...)."
        )
    return as_floats(torch.stack(clips))


def as_floats(clips: UInt8[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Bytes k to exactly the float32 nearest to k/255."""
    return clips.to(torch.float32) / 255


def fit(frame: UInt8[Tensor, "3 h w"], spec: ClipSpec) -> UInt8[Tensor, "3 H W"]:
    """A frame at `spec.size`: cropped, letterboxed or squashed; untouched where it has that size
    already."""
    height, width = spec.size
    h, w = frame.shape[-2:]
    if spec.fit == "squash":
        return _resize(frame, (height, width), spec.antialias)
    if spec.fit == "letterbox":
        scale = min(height / h, width / w)
        inner = max(1, int(h * scale + 1e-6)), max(1, int(w * scale + 1e-6))  # rounded down, but for a float's noise
        frame = _resize(frame, inner, spec.antialias)
        below, beside = height - frame.shape[-2], width - frame.shape[-1]
        return F.pad(frame, (beside // 2, beside - beside // 2, below // 2, below - below // 2))
    scale = max(height / h, width / w)
    if spec.short_side is not None:
        scale = max(scale, spec.short_side / min(h, w))
    frame = _resize(frame, (max(height, round(h * scale)), max(width, round(w * scale))), spec.antialias)
    return crop(frame, spec.size, 0.5, 0.5)


def crop(
    frames: UInt8[Tensor, "... h w"], size: tuple[int, int], down: float, right: float
) -> UInt8[Tensor, "... H W"]:
    """A window of `size`, placed by two fractions of the room there is: (0, 0) top left, (1, 1)
    bottom right."""
    height, width = size
    top = int((frames.shape[-2] - height) * down)
    left = int((frames.shape[-1] - width) * right)
    return frames[..., top : top + height, left : left + width]


def _resize(frame: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    if tuple(frame.shape[-2:]) == size:
        return frame
    if antialias and size[1] > 1:  # to a width of one pixel torch (2.14) scales bytes wrongly
        # in bytes, rounded after each of the two axes, as PIL and most pipelines of training do it
        return F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
    pixels = F.interpolate(frame[None].double(), size, mode="bilinear", antialias=antialias)[0]
    return (pixels + _TIE).round().to(torch.uint8)


def _rgb(frame: VideoFrame, reformatter: VideoReformatter) -> Tensor:
    """uint8[3 h w], turned as the file says it shall be shown."""
    pixels = torch.from_numpy(reformatter.reformat(frame, format="rgb24").to_ndarray())
    quarters = round(frame.rotation / 90)
    return rearrange(torch.rot90(pixels, quarters, (0, 1)), "h w c -> c h w").contiguous()


@contextmanager
def _about(path: PathLike) -> Iterator[None]:
    """Puts the name of the file before every complaint about it."""
    try:
        yield
    except ClipError as error:
        raise ClipError(f"Reading the video {readable(path)}: {error}") from error.__cause__


@contextmanager
def _reading(path: PathLike) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The open file and its video stream."""
    import av

    file = Path(path)
    with _about(path):
        if file.is_dir():
            raise ClipError("it is a folder. Give its files one by one, or vidmarl.data.Folder(...).paths.")
        if not file.exists():
            raise ClipError("there is no such file.")
        if file.is_file() and not file.stat().st_size:
            raise ClipError("the file is empty.")
        try:
            # An absolute path cannot be taken for a URL, nor can a playlist in the file reach
            # beyond local files.
            container = av.open(
                str(file.absolute()), metadata_errors="ignore", options={"protocol_whitelist": "file,crypto,data"}
            )
        except (av.FFmpegError, OSError) as error:
            raise ClipError(
                f"it cannot be opened ({error.strerror}). Either it is no video file, or it was cut short before its"
                " index was written, as in a download that broke off."
            ) from error
        with container:
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                raise ClipError(f"it has no video stream, only {_kinds(container)}.")
            stream = streams[0]
            if stream.codec_context is None:
                raise ClipError("this FFmpeg has no decoder for its codec.")
            stream.thread_type = "AUTO"
            yield container, stream


def _kinds(container: InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    import av

    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.FFmpegError):  # the end, or the place where the file breaks off
            return


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    import av

    for packet in _packets(container, stream):
        try:
            yield from stream.decode(packet)
        except av.FFmpegError:  # a damaged packet: its frames are missing, which `_damage` sees
            continue


def _damage(frames: int, stream: VideoStream) -> str:
    """What to say of a file with fewer frames than its index promises; a few per cent are usual and
    pass."""
    promised = stream.frames
    if frames >= promised - max(2, promised // 50):
        return ""
    return f"Only {frames} of its {promised} frames can be decoded: the file is cut short or damaged."

"""Video files as the decoder sees them: opening, packets, frames, damage."""

from __future__ import annotations

import bisect
import contextlib
import math
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from vidmarl.data.endings import is_cut_short
from vidmarl.data.limits import check_pixels, max_pixels
from vidmarl.data.timeline import Timeline
from vidmarl.errors import ClipError
from vidmarl.utils.files import PathLike, readable

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.sidedata.sidedata import SideData
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

# Neither playlists, which open other files and may never end, nor pictures. FFmpeg's names.
CONTAINERS = (
    "apng", "asf", "av1", "avi", "cavsvideo", "dhav", "dirac", "dv", "flv", "gif", "gxf", "h261", "h263", "h264",
    "hevc", "ivf", "m4v", "matroska", "mjpeg", "mov", "mpeg", "mpegts", "mpegvideo", "mxf", "nsv", "nut", "obu", "ogg",
    "rm", "vc1", "vvc", "wtv", "yuv4mpegpipe",
)  # fmt: skip

_TURNS = {90: (0, -1, 1, 0), -90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), -180: (-1, 0, 0, -1)}

_ORIENTATIONS: dict[object, tuple[int, int, int, int]] = {
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip
"""By EXIF's numbers."""

_SAVED_CLIP = "vidmarl clip of {frames} frames, {height} x {width} px"


def saved_clip_mark(frames: int, height: int, width: int) -> dict[str, str]:
    """The metadata by which a clip that was saved without loss is known again."""
    return {"comment": _SAVED_CLIP.format(frames=frames, height=height, width=width)}


class Video:
    """An open video file, which is read once, from its start.

    Attributes:
        path: where the file is.
        container: the file.
        stream: its video stream.
        size: height and width of a frame as it is stored, px.
        stamps: of the packets read so far, those that decoding is to show. What an edit list cuts
            away and what cannot be decoded because no key frame comes before is not among them.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self.path = path
        self.container = container
        self.stream = stream
        self.size = stream.codec_context.height, stream.codec_context.width
        self.stamps: list[int | None] = []
        self._first: int | None = None  # the stamp of the first key frame
        self._started = False
        self._skipped = 0  # packets without a key frame before them
        self._end = -math.inf  # of the last frame, in units of the time base
        self._decoded = 0
        self._failed: list[int | None] = []  # stamps of packets
        self._keys: list[int] = []  # numbers of frames that refer to no other
        self._anchors: list[int] = []  # of frames that refer to none that is shown later
        self._half = False  # a packet is incomplete
        self._corrupt: list[int] = []

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Every packet of the stream, up to where the file breaks off."""
        import av

        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):
                return
            if packet.size:
                self._note(packet)
            yield packet

    def decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """The frames that a packet brings; of a damaged packet none. None: those that are left.

        Raises:
            ClipError: a frame is larger than allowed.
        """
        import av
        from av.video.frame import PictureType

        try:
            frames = self.stream.decode(packet)
        except av.FFmpegError:
            check_pixels(self.stream.codec_context.width * self.stream.codec_context.height, "decoding it")
            if packet is not None and self._started:
                self._failed.append(packet.pts)
            return []
        for number, frame in enumerate(frames, self._decoded):
            if frame.is_corrupt:
                self._corrupt.append(number)
            if frame.key_frame:
                self._keys.append(number)
            if frame.pict_type != PictureType.B:
                self._anchors.append(number)
            if packet is not None and self.stream.codec_context.name == "mjpeg":
                frame.opaque = _exif_orientation(bytes(packet))
        self._decoded += len(frames)
        return frames

    def frames(self) -> Iterator[VideoFrame]:
        """Every frame, in the order in which they are shown; errors as for `decode`."""
        for packet in self.packets():
            yield from self.decode(packet)
        yield from self.decode(None)

    def timeline(self, stamps: Sequence[int | None]) -> Timeline:
        """When frames of these stamps are shown."""
        height, width = self.size
        mark = saved_clip_mark(len(stamps), height, width)["comment"]
        marked = mark in (self.container.metadata.get("comment"), self.container.metadata.get("COMMENT"))
        rate = self.stream.average_rate or self.stream.guessed_rate
        return Timeline.of(stamps, self.stream.time_base, rate, self.size if marked else None)

    def undecodable(self, which: str) -> ClipError:
        """The error of a file of which nothing can be decoded."""
        if all(self.size):
            return ClipError(f"{which} can be decoded: the file is damaged. Get it anew.")
        return ClipError(  # of a size beyond the bound the decoder says nothing
            f"{which} can be decoded: the file is damaged, or its frames have more than {max_pixels():,} px, which is"
            " the bound if the environment variable VIDMARL_MAX_PIXELS sets no other."
        )

    def damage(self, stamps: Sequence[int | None]) -> str:
        """What is wrong with the file, once all its frames have been decoded; "" if nothing is.

        A few frames less than the index promises are usual and pass, where nothing else is wrong.

        Args:
            stamps: of the frames.
        """
        said = []
        if self._corrupt:
            one = len(self._corrupt) == 1
            said.append(f"Frame{'' if one else 's'} {_numbers(self._corrupt)} {'is' if one else 'are'} damaged.")
        promised = max(len(self.stamps), self._indexed() - self._skipped)
        usual = 0 if self._corrupt or self._failed else max(2, promised // 50)
        if self.stream.frames and promised - len(stamps) > usual:
            said.append(
                f"Only {len(stamps)} of its {promised} frames can be decoded{self._missing(stamps)}: the file is cut"
                " short or damaged."
            )
        elif self._failed:
            said.append(
                f"{len(self._failed)} of its packets cannot be decoded{self._missing(stamps)}: the file is damaged."
            )
        if said and (others := self._referring(stamps)):
            said.append(f"Frames that refer to what is lost may be wrong too: {others}.")
        stated, end = self._stated_end(), self._end * float(self.stream.time_base or 1)
        if not said and stated - max(end, 0) > max(0.05 * stated, 3 / float(self.stream.guessed_rate or 1)):
            said.append(f"It ends at {end:.2f} s, and states {stated:.2f} s: the file is cut short.")
        if not said and (self._half or is_cut_short(self.path, self.container.format.name)):
            said.append("Its end is missing: the file is cut short.")
        return " ".join(said)

    def _missing(self, stamps: Sequence[int | None]) -> str:
        """Where the frames of damaged packets are missing."""
        places = self._places(stamps)
        return f" (missing: before {_numbers(places)})" if places else ""

    def _places(self, stamps: Sequence[int | None]) -> list[int]:
        """The numbers of the frames before which damaged packets would have been shown."""
        shown = sorted(stamp for stamp in stamps if stamp is not None)
        return sorted({bisect.bisect_left(shown, stamp) for stamp in self._failed if stamp is not None} - {len(shown)})

    def _referring(self, stamps: Sequence[int | None]) -> str:
        """The frames around damage, up to the next key frame, such as "18 to 23, 31"."""
        wrong: set[int] = set()
        for lost in {*self._corrupt, *self._places(stamps)}:
            before, after = (
                bisect.bisect_left(self._anchors, lost),
                bisect.bisect_left(self._keys, lost + (lost in self._corrupt)),
            )
            start = self._anchors[before - 1] + 1 if before else 0
            wrong |= {*range(start, self._keys[after] if after < len(self._keys) else len(stamps))}
        wrong -= {*self._corrupt}
        runs = [[n, n] for n in sorted(wrong) if n - 1 not in wrong]
        for run in runs:
            while run[1] + 1 in wrong:
                run[1] += 1
        return ", ".join(f"{first} to {last}" if last > first else str(first) for first, last in runs[:8]) + (
            ", ..." if len(runs) > 8 else ""
        )

    def _note(self, packet: Packet[VideoStream]) -> None:
        self._half = self._half or packet.is_corrupt
        if packet.is_keyframe and not self._started:
            self._started, self._first = True, packet.pts
        if packet.is_discard:
            return
        if packet.pts is not None:
            self._end = max(self._end, packet.pts + (packet.duration or 0))
        leading = packet.pts is not None and self._first is not None and packet.pts < self._first
        if self._started and not leading:
            self.stamps.append(packet.pts)
        else:
            self._skipped += 1

    def _indexed(self) -> int:
        """Frames by the file's index."""
        return sum(entry.size > 0 and not entry.is_discard for entry in self.stream.index_entries)

    def _stated_end(self) -> float:
        """The end of the video by what the file says of itself, seconds; 0 where it does not."""
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", self.stream.metadata.get("DURATION", ""))
        if tag:
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        if self.container.format.name == "avi" and self.stream.time_base:  # a tick is a frame, shown or not
            return float(((self.stream.start_time or 0) + self.stream.frames) * self.stream.time_base)
        if self.container.duration and len(self.container.streams) == 1:
            return ((self.container.start_time or 0) + self.container.duration) / 1e6
        return 0.0


@contextlib.contextmanager
def about(path: PathLike) -> Iterator[None]:
    """Puts the name of the file before every complaint about it."""
    try:
        yield
    except ClipError as error:
        raise ClipError(f"Reading the video {readable(path)}: {error}") from error.__cause__


@contextlib.contextmanager
def open_video(path: PathLike) -> Iterator[Video]:
    """The open file.

    Raises:
        ClipError: it is missing, is no video, or its frames are larger than allowed.
    """
    import av

    file = Path(path)
    bound = {"max_pixels": str(max_pixels())}
    with about(path):
        try:
            if file.is_dir():
                raise ClipError(f"it is a folder. Give the files in it, such as {readable(file / '*.mp4')}.")
            if not file.exists():
                raise ClipError("there is no such file.")
            if not file.is_file():
                raise ClipError("it is no regular file, but a pipe or a device.")
            if not file.stat().st_size:
                raise ClipError("the file is empty.")
            container = av.open(
                str(file.absolute()),  # cannot be taken for a URL
                metadata_errors="ignore",
                options={"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS), **bound},
            )
        except PermissionError as error:
            raise ClipError(f"it cannot be opened ({error.strerror}).") from error
        except (av.FFmpegError, OSError) as error:
            raise ClipError(f"it cannot be opened ({error.strerror}). {_no_video(file)}") from error
        with container:
            streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not streams:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise ClipError(f"it has no video stream, only {kinds}.")
            stream = streams[0]
            if stream.codec_context is None:
                raise ClipError("this FFmpeg has no decoder for its codec.")
            check_pixels(stream.codec_context.width * stream.codec_context.height, "decoding it")
            stream.codec_context.options = bound
            # With several threads, what is shown of a damaged frame depends on which was faster.
            stream.codec_context.thread_count = 1
            yield Video(file, container, stream)


def _no_video(file: Path) -> str:
    """What a file may be that cannot be opened."""
    with contextlib.suppress(OSError), file.open("rb") as content:
        if content.read(12)[8:] == b"WEBP":
            return "It is a WebP picture, and FFmpeg decodes no animated ones: make a video or a GIF of it."
    return (
        "It is no video file (playlists and pictures are none), or it was cut short before its index was written, as in"
        " a download that broke off."
    )


def rgb(frame: VideoFrame, reformatter: VideoReformatter) -> UInt8[Tensor, "3 h w"]:
    """The pixels of a frame, turned and mirrored as the file says that it shall be shown.

    Other angles than quarters of a turn are rounded to these. In memory the colours of a pixel stay
    side by side, which scaling is nearly twice as fast with, to the same values.
    """
    pixels = torch.from_numpy(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
    pixels = rearrange(pixels, "h w c -> c h w")
    # A pixel at (x, y) is shown at (a x + c y, b x + d y).
    a, b, c, d = _display_matrix(frame)
    if a * d != b * c:  # else it would be shown as a line or a point
        turned = abs(b * c) > abs(a * d)
        if turned:
            pixels = rearrange(pixels, "c h w -> c w h")
        leftwards, upwards = (c < 0, b < 0) if turned else (a < 0, d < 0)
        if mirrored := [axis for axis, is_so in ((1, upwards), (2, leftwards)) if is_so]:
            pixels = pixels.flip(mirrored)
    return pixels


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """The linear part (a, b, c, d) of a frame's display matrix."""
    from av.sidedata.sidedata import SideDataContainer

    try:
        # Made anew: the container that a frame keeps of its own keeps the frame in turn, and memory
        # is not given back until the garbage collector comes.
        data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # PyAV does not know all kinds of data, such as EXIF; else the angle alone can be had
        return _ORIENTATIONS.get(frame.opaque) or _TURNS.get(frame.rotation, (1, 0, 0, 1))
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack_from("=5i", cast("SideData", data))
    return a, b, c, d


def _exif_orientation(jpeg: bytes) -> int | None:
    """How the EXIF data of a JPEG picture say that it shall be shown; None if they do not."""
    start = jpeg.find(b"Exif\0\0") + 6
    order = {b"II": "<", b"MM": ">"}.get(jpeg[start : start + 2])
    if start < 6 or order is None:
        return None
    try:
        (table,) = struct.unpack_from(f"{order}I", jpeg, start + 4)
        (entries,) = struct.unpack_from(f"{order}H", jpeg, start + table)
        for entry in range(entries):
            tag, value = struct.unpack_from(f"{order}H6xH", jpeg, start + table + 2 + 12 * entry)
            if tag == 0x0112:
                return int(value)
    except struct.error:  # cut or damaged
        pass
    return None


def _numbers(numbers: Sequence[int]) -> str:
    """ "16, 18 and 20", or "1, 2, 3, 4, 5, 6, 7, 8 and 52 more"."""
    named = [str(number) for number in numbers[:8]]
    last = named.pop() if len(numbers) <= 8 else f"{len(numbers) - 8} more"
    return f"{', '.join(named)} and {last}" if named else last

"""From video files to clips, sampled and sized as a victim wants them.

Frames are numbered as the decoder shows them. Pixels are taken as they are stored: the pixel aspect
ratio is ignored, as in the pipelines that the common victims were trained with, alpha is dropped
and deeper videos come down to 8 bits; a display matrix, which turns or mirrors, is applied.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl.data.container import about, open_video, rgb
from vidmarl.data.resize import fit
from vidmarl.data.spec import ClipSpec, HasSpec
from vidmarl.data.timeline import Timeline
from vidmarl.data.views import Views
from vidmarl.errors import ClipError
from vidmarl.utils.files import PathLike, readable
from vidmarl.utils.kinds import checked
from vidmarl.utils.progress import progress_bar

if TYPE_CHECKING:
    from av import VideoFrame

_HELD_BYTES = 256 * 2**20  # decoded frames kept between choosing and converting; a longer video is decoded twice


class Footage:
    """The frames of one video file, decoded once and turned into RGB only where they are asked for.

    A damaged file gives what there is of it, with a warning that says what is wrong.

    Args:
        path: any video file that FFmpeg can read; sound and further streams are ignored.
        strict: refuse a damaged file.

    Attributes:
        timeline: when each frame is shown.
        damage: what is wrong with the file, or "".

    Raises:
        ClipError: the file is missing, is no video, is damaged beyond use or, with `strict`, at
            all, or has frames larger than allowed.
    """

    def __init__(self, path: PathLike, strict: bool = False) -> None:
        self.path = Path(path)
        stamps: list[int | None] = []
        self._held: list[VideoFrame] | None = []
        size = 0
        with open_video(path) as video:
            for frame in video.frames():
                stamps.append(frame.pts)
                size += sum(plane.buffer_size for plane in frame.planes)
                if size > _HELD_BYTES:
                    self._held = None
                if self._held is not None:
                    self._held.append(frame)
            if not stamps:
                raise video.undecodable("none of its frames")
            self.timeline = video.timeline(stamps)
            self.damage = video.damage(stamps)
            if self.damage and strict:
                raise ClipError(f"{self.damage} Get it anew, or go on with what there is (strict=False).")
        if self.damage:
            warnings.warn(
                f"Reading the video {readable(path)}: {self.damage} Going on with what there is.", stacklevel=4
            )

    def sample(self, spec: ClipSpec, offset: float | None = None) -> np.ndarray:
        """The numbers of the frames that make a clip; arguments and errors as for `decode`."""
        with about(self.path):
            try:
                return self.timeline.sample(spec, offset)
            except ClipError as error:
                raise ClipError(f"{error} {self.damage}".strip()) from None

    def clip(self, spec: ClipSpec, offset: float | None = None, crop: float = 0.5) -> UInt8[Tensor, "3 t h w"]:
        """One clip of the video; arguments and errors as for `decode` and `fit`."""
        return self.frames(self.sample(spec, offset), None if self.timeline.is_clip_of(spec) else spec, crop)

    def views(self, spec: ClipSpec, views: tuple[int, int]) -> UInt8[Tensor, "v 3 t h w"]:
        """Several clips of the video, see `Views`; errors as for `decode`."""
        return torch.stack([self.clip(spec, offset, crop) for offset, crop in Views(*views).places(spec)])

    def frames(
        self, numbers: Sequence[int] | np.ndarray, spec: ClipSpec | None = None, crop: float = 0.5
    ) -> UInt8[Tensor, "3 t h w"]:
        """The frames of these numbers, at the spec's size or (None) as they are; `crop`: see `fit`.

        Raises:
            ClipError: frames as they are differ in size; see also `fit`.
        """
        import av.video.reformatter

        reformatter = av.video.reformatter.VideoReformatter()
        wanted = {int(number) for number in numbers}
        pixels: dict[int, Tensor] = {}
        with about(self.path):
            for number, frame in enumerate(self._again()):
                if number in wanted:
                    pixels[number] = rgb(frame, reformatter)
                    if spec is not None:
                        pixels[number] = fit(pixels[number], spec, crop)
                if len(pixels) == len(wanted):
                    break
            sizes = sorted({tuple(frame.shape[1:]) for frame in pixels.values()})
            if len(sizes) > 1:
                raise ClipError(
                    f"its frames are not all of one size, but of {' and '.join(f'{h} x {w}' for h, w in sizes)} px."
                    " Load it with a ClipSpec, which says the size that they get."
                )
        return torch.stack([pixels[int(number)] for number in numbers], dim=1)

    def _again(self) -> Iterator[VideoFrame]:
        if self._held is not None:
            yield from self._held
        else:
            with open_video(self.path) as video:
                yield from video.frames()


@checked
def decode(
    path: PathLike, spec: ClipSpec, offset: float | None = None, *, strict: bool = False
) -> UInt8[Tensor, "3 t h w"]:
    """One clip of a video file.

    A clip that `write_lossless` has written comes back as it is, whatever the sampling, if it has
    the spec's number of frames and size.

    Args:
        path: any video file that FFmpeg can read; sound and further streams are ignored.
        spec: number of frames, their sampling and their size.
        offset: where in the video the clip lies, in [0, 1], see `Timeline.sample`; None: centred.
        strict: refuse a damaged file, rather than go on with what there is, with a warning.

    Returns:
        RGB bytes, uint8[3 t h w]. The same file, spec and offset always give the same bytes.

    Raises:
        ClipError: the file is missing, is no video, is damaged beyond use (or, with `strict`, at
            all), is too short, or has frames larger than allowed.
    """
    return Footage(path, strict).clip(spec, offset)


@checked
def decode_views(
    path: PathLike, spec: ClipSpec, views: tuple[int, int], *, strict: bool = False
) -> UInt8[Tensor, "v 3 t h w"]:
    """Several clips of a video file, which is decoded once.

    Args:
        path: as for `decode`.
        spec: as for `decode`.
        views: how many windows in time, and how many crops of each, see `Views`; `v` is their
            product.
        strict: as for `decode`.

    Raises:
        ClipError: as for `decode`.
        ValueError: see `Views.places`.
    """
    return Footage(path, strict).views(spec, views)


@checked
def read_video(path: PathLike, *, strict: bool = False) -> tuple[UInt8[Tensor, "3 t h w"], float]:
    """Every frame of a video at its own size, uint8[3 t h w], and the frames a second.

    Args:
        path: as for `decode`.
        strict: as for `decode`.

    Raises:
        ClipError: as for `decode`; or the frames differ in size.
    """
    footage = Footage(path, strict)
    return footage.frames(range(len(footage.timeline))), footage.timeline.fps


@checked
def probe(path: PathLike) -> Timeline:
    """The timeline by the packets of the file, at a fraction of what decoding costs.

    It promises what decoding gives, but for damage inside the file, which only decoding finds, and
    the one frame that some AVI files lack.

    Raises:
        ClipError: the file is missing, its first frame cannot be decoded, or is larger than
            allowed.
    """
    with open_video(path) as video:
        opens = False
        for packet in video.packets():
            opens = opens or bool(video.decode(packet))
        if not opens:
            raise video.undecodable("not even its first frame")
        # Packets come in the order of decoding.
        known = [stamp for stamp in video.stamps if stamp is not None]
        return video.timeline(sorted(known) if len(known) == len(video.stamps) else video.stamps)


@checked
def load_clips(
    paths: PathLike | Iterable[PathLike],
    victim: HasSpec | ClipSpec | None = None,
    *,
    strict: bool = False,
    progress: bool = False,
) -> Float[Tensor, "b 3 t h w"]:
    """Video files as the clips that a victim wants.

    Args:
        paths: one file or several.
        victim: a victim, or whatever else has a `spec`; a ClipSpec; or None for `ClipSpec()`.
        strict: refuse a damaged file, rather than go on with what there is, with a warning.
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
    files = progress_bar(files, desc="decoding", unit="clip", show=progress)
    return as_batch([decode(path, spec, strict=strict) for path in files])


def as_batch(clips: Sequence[UInt8[Tensor, "3 t h w"]]) -> Float[Tensor, "b 3 t h w"]:
    """Clips of bytes k as one batch of exactly the float32 nearest to k/255.

    Raises:
        ClipError: the clips have different lengths.
    """
    lengths = sorted({clip.shape[1] for clip in clips})
    if len(lengths) > 1:
        raise ClipError(
            f"Putting {len(clips)} clips in one batch: they have {lengths[0]} to {lengths[-1]} frames, because the"
            " spec asks for whole videos (frames=None). Take them one by one, or set ClipSpec(frames=...)."
        )
    batch = torch.empty(len(clips), *clips[0].shape)
    for row, clip in zip(batch, clips, strict=True):
        row.copy_(clip)
    return batch.div_(255)


def as_floats(clips: UInt8[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Bytes k to exactly the float32 nearest to k/255."""
    return clips.to(torch.float32).div_(255)

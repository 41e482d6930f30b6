"""From clips to video files: one kind that keeps every bit, one kind that plays everywhere.

The lossless kind is VP9 in its RGB 4:4:4 profile. FFV1 and lossless H.264 keep every bit too, but
of the three only VP9 was seen to play in a browser (Chromium) with the right colours.
"""

from __future__ import annotations

import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl.data.container import saved_clip_mark
from vidmarl.errors import ClipError
from vidmarl.utils.files import PathLike, write_atomically
from vidmarl.utils.kinds import checked

if TYPE_CHECKING:
    from av.video.stream import VideoStream

LOSSLESS_CONTAINERS = {".webm": "webm", ".mkv": "matroska", ".mp4": "mp4"}


def as_bytes(clip: Float[Tensor, "3 t h w"] | UInt8[Tensor, "3 t h w"]) -> UInt8[Tensor, "3 t h w"]:
    """A clip in [0, 1] rounded to 8 bits; bytes stay as they are.

    Raises:
        ClipError: the clip has another shape, or values outside of [0, 1].
    """
    if clip.ndim != 4 or clip.shape[0] != 3 or 0 in clip.shape:
        hint = " Give one clip of the batch: clips[0]." if clip.ndim == 5 else ""
        raise ClipError(f"Writing a video: expected a clip [3 t h w], got shape {tuple(clip.shape)}.{hint}")
    if clip.dtype == torch.uint8:
        return clip
    if not clip.is_floating_point():
        raise ClipError(f"Writing a video: expected uint8, or floats in [0, 1], got {clip.dtype}.")
    low, high = clip.detach().aminmax()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ClipError(f"Writing a video: expected values in [0, 1], got values in [{low:.4g}, {high:.4g}].")
    return (clip.detach().float() * 255).round().to(torch.uint8)


@checked
def side_by_side(
    clean: Float[Tensor, "3 t h w"] | UInt8[Tensor, "3 t h w"],
    adversarial: Float[Tensor, "3 t h w"] | UInt8[Tensor, "3 t h w"],
    gain: float = 8.0,
) -> UInt8[Tensor, "3 t h 3*w"]:
    """The original, the adversarial clip, and `gain` times their difference around mid grey, from
    left to right.

    Args:
        clean: the original.
        adversarial: the clip that came of it, of the same shape.
        gain: factor on the difference, above 0. What goes beyond black or white is cut.

    Raises:
        ClipError: the clips differ in shape, or see `as_bytes`.
        ValueError: `gain` is not above 0.
    """
    if not gain > 0:
        raise ValueError(f"Putting clips side by side: gain must be above 0, got {gain}.")
    if clean.shape != adversarial.shape:
        raise ClipError(
            f"Putting clips side by side: expected one shape, got {tuple(clean.shape)} and {tuple(adversarial.shape)}."
        )
    left, middle = as_bytes(clean).cpu(), as_bytes(adversarial).cpu()
    difference = middle.to(torch.float32) - left.to(torch.float32)
    right = (128 + gain * difference).clamp(0, 255).round().to(torch.uint8)
    return torch.cat([left, middle, right], dim=-1)


@checked
def mp4_bytes(clip: Float[Tensor, "3 t h w"] | UInt8[Tensor, "3 t h w"], fps: float = 10.0, crf: int = 18) -> bytes:
    """A clip as an mp4 that plays everywhere (H.264, 4:2:0); lossy.

    An odd height or width grows by one pixel, a repeated edge, because 4:2:0 wants even ones.

    Args:
        clip: uint8, or float in [0, 1].
        fps: frames a second.
        crf: quality, from 0 (best) to 51 (smallest).

    Raises:
        ClipError: see `as_bytes`.
        ValueError: `fps` is not above 0, or `crf` is out of range.
    """
    if not 0 <= crf <= 51:
        raise ValueError(f"Writing an mp4: crf must be in 0 to 51, got {crf}.")
    pixels = as_bytes(clip)
    padded = F.pad(pixels.float(), (0, pixels.shape[-1] % 2, 0, pixels.shape[-2] % 2), mode="replicate").to(torch.uint8)
    return _encode(padded, fps, "mp4", "libx264", "yuv420p", {"crf": str(crf)})


@checked
def write_mp4(
    path: PathLike, clip: Float[Tensor, "3 t h w"] | UInt8[Tensor, "3 t h w"], fps: float = 10.0, crf: int = 18
) -> Path:
    """Writes `mp4_bytes`; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written; see also `mp4_bytes`.
    """
    return write_atomically(path, mp4_bytes(clip, fps, crf))


@checked
def write_lossless(
    path: PathLike, clip: Float[Tensor, "3 t h w"] | UInt8[Tensor, "3 t h w"], fps: float = 10.0
) -> Path:
    """Writes a clip so that reading it gives back the same 8-bit RGB values.

    The file says that it is a clip: `vidmarl.load_clips` takes its frames as they are for every
    victim that wants so many frames of this size, and does not sample them a second time.

    Args:
        path: ending in .webm, .mkv or .mp4.
        clip: uint8, or float in [0, 1], which is rounded to 8 bits.
        fps: frames a second.

    Raises:
        ClipError: see `as_bytes`.
        OSError: it cannot be written; no half file is left.
        ValueError: another ending, or `fps` is not above 0.
    """
    import av

    container = LOSSLESS_CONTAINERS.get(Path(path).suffix.lower())
    if container is None:
        raise ValueError(
            f"Writing the lossless video {os.fspath(path)}: expected a name in {', '.join(LOSSLESS_CONTAINERS)}."
        )
    pixels = as_bytes(clip)
    mark = saved_clip_mark(*pixels.shape[1:])
    options = {"lossless": "1", "lag-in-frames": "0", "row-mt": "1", "cpu-used": "5"}
    try:
        content = _encode(pixels, fps, container, "libvpx-vp9", "gbrp", options, mark)
    except av.error.InvalidDataError:  # more noise than libvpx's buffer holds: a slower search codes it shorter
        content = _encode(pixels, fps, container, "libvpx-vp9", "gbrp", options | {"cpu-used": "1"}, mark)
    return write_atomically(path, content)


def _encode(
    clip: UInt8[Tensor, "3 t h w"],
    fps: float,
    container: str,
    codec: str,
    pixel_format: str,
    options: dict[str, str],
    metadata: dict[str, str] | None = None,
) -> bytes:
    """The bytes of a video file; of a lossless one the same each time, without the numbers that
    Matroska draws."""
    import av

    if not 0 < fps <= 1000:
        raise ValueError(f"Writing a video: fps must be above 0 and at most 1000, got {fps}.")
    frames = rearrange(clip, "c t h w -> t h w c").cpu().contiguous().numpy()
    with tempfile.TemporaryDirectory() as folder:  # a file, because an index in front is written by reopening it
        target = Path(folder) / "video"
        with av.open(str(target), "w", format=container, options={"fflags": "bitexact"}) as output:
            output.metadata.update(metadata or {})
            rate = Fraction(float(fps)).limit_denominator(1001)
            stream = cast("VideoStream", output.add_stream(codec, rate=rate, options=options))
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return target.read_bytes()

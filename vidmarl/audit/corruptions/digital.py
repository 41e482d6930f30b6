"""Digital: codecs at low rates, and a stream that arrives damaged."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl.audit.corruptions.base import KINETICS_C, UCF101_P, corruption
from vidmarl.distortions.jpeg import jpeg as encode_frames

if TYPE_CHECKING:
    from av.video.stream import VideoStream

FAMILY = "digital"

Clip = Float[Tensor, "3 t h w"]

FPS = 25

STEADY = "threads=1:mbtree=0:rc-lookahead=0"
"""x264 writes the same bytes each time without its lookahead alone."""

EVEN_STEPS = f"{UCF101_P}; the steps are ours, as the paper's go beyond what the codec has from the second on"


@corruption(FAMILY, UCF101_P, "quality of libjpeg", (25, 18, 15, 10, 7))
def jpeg(clip: Clip, quality: int, rng: torch.Generator) -> Clip:
    """Every frame a JPEG."""
    return encode_frames(clip[None], quality)[0]


@corruption(FAMILY, EVEN_STEPS, "quantiser scale", (6, 12, 18, 24, 31))
def mpeg1(clip: Clip, scale: int, rng: torch.Generator) -> Clip:
    """MPEG-1 video."""
    return recoded(clip, "mpeg1video", {"qmin": str(scale), "qmax": str(scale)})


@corruption(FAMILY, EVEN_STEPS, "quantiser scale", (6, 12, 18, 24, 31))
def mpeg2(clip: Clip, scale: int, rng: torch.Generator) -> Clip:
    """MPEG-2 video."""
    return recoded(clip, "mpeg2video", {"qmin": str(scale), "qmax": str(scale)})


@corruption(FAMILY, KINETICS_C, "constant rate factor", (23, 30, 37, 44, 51))
def h264(clip: Clip, crf: int, rng: torch.Generator) -> Clip:
    """H.264 of a constant quality."""
    return recoded(clip, "libx264", {"crf": str(crf), "x264-params": STEADY})


@corruption(FAMILY, KINETICS_C, "constant rate factor", (27, 33, 39, 45, 51))
def h265(clip: Clip, crf: int, rng: torch.Generator) -> Clip:
    """H.265 of a constant quality."""
    return recoded(clip, "libx265", {"crf": str(crf), "x265-params": "log-level=none:pools=none:frame-threads=1"})


DAMAGE = f"{KINETICS_C}; damaged bytes are a tenth as far apart, as a clip is about a tenth as long as a video"


@corruption(FAMILY, DAMAGE, "bytes from one that is damaged to the next, on average", (10000, 5000, 3000, 2000, 1000))
def bit_error(clip: Clip, distance: int, rng: torch.Generator) -> Clip:
    """A stream of H.264 with wrong bytes, decoded as far as the decoder can; the first picture and
    the head of each packet are spared, so that there is something to decode."""

    def damage(number: int, content: bytes) -> bytes:
        values = np.frombuffer(content, np.uint8).copy()
        hit = torch.rand(len(values), generator=rng).numpy() < 1 / distance
        drawn = torch.randint(1, 256, (len(values),), generator=rng).numpy().astype(np.uint8)
        hit[:HEAD] = False
        values[hit] ^= drawn[hit]
        return content if number == 0 else values.tobytes()

    return recoded(clip, "libx264", {"crf": "18", "x264-params": f"{STEADY}:bframes=0"}, damage)


SMALLEST = 80
"""Px that a side must have. On clips smaller than its largest block of 64 px x265 ends the process,
and on those of one block it is not the same each time. Smaller clips grow by their border, which is
cut off again."""

HEAD = 64
"""Bytes of a packet that are never damaged."""


def recoded(clip: Clip, codec: str, options: dict[str, str], damage: Any = None) -> Clip:
    """A clip encoded and decoded; frames that the decoder has lost show what was there before.

    Args:
        clip: float32[3 t h w] in [0, 1].
        codec: of FFmpeg.
        options: of the codec.
        damage: `f(number, bytes) -> bytes`, what happens to the packets on their way.
    """
    h, w = clip.shape[-2:]
    grown = [max(SMALLEST, side + side % 2) - side for side in (w, h)]  # 4:2:0 wants even ones
    padded = F.pad(clip, (0, grown[0], 0, grown[1]), mode="replicate")
    pixels = (padded * 255).round().to(torch.uint8)
    frames = rearrange(pixels, "c t h w -> t h w c").cpu().contiguous().numpy()
    shown = _decoded(_encoded(frames, codec, options, damage), len(frames))
    out = torch.from_numpy(shown)[:, :h, :w].to(clip.device)
    return rearrange(out, "t h w c -> c t h w").float() / 255


def _encoded(frames: UInt8[np.ndarray, "t h w 3"], codec: str, options: dict[str, str], damage: Any) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska", options={"fflags": "bitexact"}) as output:
        stream = cast("VideoStream", output.add_stream(codec, rate=FPS, options=options))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        number = 0

        def send(packets: list[Any]) -> None:
            nonlocal number
            for packet in packets:
                if damage is not None and packet.size:
                    changed = av.Packet(damage(number, bytes(packet)))
                    changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                    changed.stream, changed.is_keyframe = stream, packet.is_keyframe
                    packet = changed
                number += 1
                output.mux(packet)

        for at, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = at
            send(stream.encode(frame))
        send(stream.encode())
    return file.getvalue()


def _decoded(content: bytes, count: int) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames at their times; a time without one shows what was there before."""
    import av

    found: dict[int, np.ndarray] = {}
    with av.open(io.BytesIO(content), "r") as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        packets = [*file.demux(stream)]
        start = min(packet.pts for packet in packets if packet.pts is not None)
        for packet in packets:
            try:
                for frame in packet.decode():
                    if frame.pts is not None and frame.time_base is not None:
                        at = round(float((frame.pts - start) * frame.time_base) * FPS)
                        found[at] = frame.to_ndarray(format="rgb24").copy()
            except av.error.FFmpegError:
                logging.getLogger(__name__).debug("a packet that cannot be decoded")
    shown = [found[min(found)]]
    for at in range(count):
        shown.append(found.get(at, shown[-1]))
    return np.stack(shown[1:])

"""Damaged videos: synthetic clips in many containers and codecs."""

from __future__ import annotations

import os
import random
import warnings
from fractions import Fraction
from pathlib import Path

import torch

from vidmarl.data import ClipDataset, ClipFile, ClipSource, decode
from vidmarl.data.spec import ClipSpec
from vidmarl.data.synthetic import make_clip
from vidmarl.data.video import probe
from vidmarl.errors import ClipError

from .damage import damaged
from .kinds import Kind, Wrong

# name, codec, pixel format, options; a codec that is not there is left out
FORMATS = (
    ("h264.mp4", "libx264", "yuv420p", {"bf": "2", "g": "6"}),
    ("index_first.mp4", "libx264", "yuv420p", {"g": "4"}),
    ("fragments.mp4", "libx264", "yuv420p", {"g": "4"}),
    ("hevc.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:pools=1:frame-threads=1"}),
    ("av1.mp4", "libsvtav1", "yuv420p", {"preset": "12"}),
    ("mpeg4.mp4", "mpeg4", "yuv420p", {}),
    ("h264.mov", "libx264", "yuv444p", {}),
    ("prores.mov", "prores_ks", "yuv422p10le", {}),
    ("animation.mov", "qtrle", "rgb24", {}),
    ("h264.mkv", "libx264", "yuv420p", {"bf": "2"}),
    ("ffv1.mkv", "ffv1", "bgr0", {"level": "3", "slicecrc": "1"}),
    ("vp9.mkv", "libvpx-vp9", "gbrp", {"lossless": "1"}),
    ("vp8.webm", "libvpx", "yuv420p", {}),
    ("vp9.webm", "libvpx-vp9", "yuv420p", {}),
    ("av1.webm", "libsvtav1", "yuv420p", {"preset": "12"}),
    ("mpeg4.avi", "mpeg4", "yuv420p", {"bf": "2"}),
    ("mjpeg.avi", "mjpeg", "yuvj420p", {}),
    ("huffyuv.avi", "huffyuv", "yuv422p", {}),
    ("raw.avi", "rawvideo", "bgr24", {}),
    ("h264.ts", "libx264", "yuv420p", {"g": "4"}),
    ("mpeg2.ts", "mpeg2video", "yuv420p", {}),
    ("mpeg2.mpg", "mpeg2video", "yuv420p", {}),
    ("h264.flv", "libx264", "yuv420p", {}),
    ("sorenson.flv", "flv", "yuv420p", {}),
    ("theora.ogv", "libtheora", "yuv420p", {}),
    ("vp8.ogv", "libvpx", "yuv420p", {}),
    ("h263.3gp", "h263", "yuv420p", {}),
    ("wmv2.wmv", "wmv2", "yuv420p", {}),
    ("palette.gif", "gif", "rgb8", {}),
    ("animated.apng", "apng", "rgb24", {}),
    ("dnxhd.mxf", "mpeg2video", "yuv420p", {}),
    ("h264.nut", "libx264", "yuv420p", {}),
    ("vp8.ivf", "libvpx", "yuv420p", {}),
    ("plain.y4m", "wrapped_avframe", "yuv420p", {}),
    ("stream.h264", "libx264", "yuv420p", {}),
    ("stream.hevc", "libx265", "yuv420p", {"x265-params": "log-level=none:pools=1:frame-threads=1"}),
    ("stream.m2v", "mpeg2video", "yuv420p", {}),
    ("stream.mjpeg", "mjpeg", "yuvj420p", {}),
    ("stream.obu", "libsvtav1", "yuv420p", {"preset": "12"}),
)
MUXING = {"index_first.mp4": {"movflags": "+faststart"}, "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"}}
FRAMES, HEIGHT, WIDTH = 12, 144, 176

SPECS = (
    ClipSpec(frames=4, size=(32, 32)),
    ClipSpec(frames=None, size=(32, 32), fit="letterbox"),
    ClipSpec(frames=4, size=(32, 32), sampling="fps", fps=5.0, short="hold"),
    ClipSpec(frames=None, size=(32, 32), sampling="fps"),
    ClipSpec(frames=3, size=(32, 32), sampling="stride", stride=2, fit="squash", antialias=False),
)


class Videos(Kind):
    """Loads alike each time, warns of damage, or is refused; a training goes on without it."""

    def make(self, originals: Path) -> None:
        os.environ["SVT_LOG"] = "0"  # SVT-AV1 tells its settings else
        for number, (name, codec, pixels, options) in enumerate(FORMATS):
            _encode(originals / name, number, codec, pixels, options)

    def draw(self, rng: random.Random, originals: Path, case: Path) -> str:
        files = sorted(originals.iterdir())
        file, other = rng.choice(files), rng.choice(files)
        content, said = damaged(file.read_bytes(), rng, [other.read_bytes()])
        name = f"video{(other if rng.random() < 0.1 else file).suffix}"
        (case / name).write_bytes(content)
        return f"{file.name} as {name}: {said}"

    def check(self, rng: random.Random, originals: Path, case: Path) -> None:
        (path,) = case.iterdir()
        spec = rng.choice(SPECS)
        good = originals / "h264.mp4"
        refused = None
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                alike = torch.equal(decode(path, spec), decode(path, spec))
            if not alike and not told:  # FFmpeg fills what a damaged frame lacks with whatever is in the memory
                raise Wrong("it decodes differently each time")
        except ClipError as error:
            refused = error
        dataset = ClipDataset(ClipSource([ClipFile(path, None, "case"), ClipFile(good, None, "good")]), SPECS[0])
        for item in range(len(dataset)):
            dataset[item]
        probe(path)
        if refused is not None:
            raise refused


def _encode(path: Path, number: int, codec: str, pixels: str, options: dict[str, str]) -> None:
    """Writes a synthetic clip, if the codec is there."""
    import av

    clip = make_clip(0, number, number % 8, FRAMES, WIDTH)[:, :, :HEIGHT].permute(1, 2, 3, 0).contiguous().numpy()
    try:
        with av.open(str(path), "w", options=MUXING.get(path.name, {})) as output:
            stream = output.add_stream(codec, rate=Fraction(10 if "mpeg" not in codec else 25), options=options)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixels
            stream.codec_context.thread_count = 1
            for stamp, picture in enumerate(clip):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = stamp
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
    except (av.FFmpegError, ValueError) as error:
        path.unlink(missing_ok=True)
        print(f"without {path.name}: {error}")

"""Video files become the clips that were asked for, bad files say what is wrong, and what is
written reads back."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import MakeVideo, pattern
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import vidmarl
from vidmarl import ClipSpec, Victim
from vidmarl.data import decode, limits, mp4_bytes, read_video, side_by_side, video, write_lossless, write_mp4
from vidmarl.data.endings import is_cut_short
from vidmarl.data.resize import fit, resize
from vidmarl.data.spec import SAMPLINGS, WHOLE_VIDEO
from vidmarl.data.timeline import Timeline, mend_stamps
from vidmarl.data.video import Footage, probe
from vidmarl.errors import ClipError

NATIVE = ClipSpec(frames=4, size=(48, 64))


@pytest.fixture
def faults(data_root: Path) -> Path:
    """Files that other programs have written in odd ways; the test is skipped without them."""
    if not (data_root / "faults").is_dir():
        pytest.skip(f"needs odd files: there is no faults/ in {data_root}")
    return data_root / "faults"


def numbers(clip: torch.Tensor) -> list[int]:
    """Which frames of `make_video` stand in a clip."""
    return [round(value / 10) for value in clip[0].float().mean((1, 2)).tolist()]


def steady(frames: int, fps: float = 25.0) -> Timeline:
    return Timeline(np.arange(frames) / fps, 1 / fps)


# --- which frames


def test_uniform_goes_from_the_first_frame_to_the_last_and_repeats_in_short_videos(make_video: MakeVideo) -> None:
    assert numbers(decode(make_video(frames=10), NATIVE)) == [0, 3, 6, 9]
    assert numbers(decode(make_video("short.mp4", frames=2), NATIVE)) == [0, 0, 0, 1]


def test_stride_takes_a_centred_window(make_video: MakeVideo) -> None:
    path = make_video(frames=20)
    spec = dataclasses.replace(NATIVE, sampling="stride", stride=3)
    assert numbers(decode(path, spec)) == [4, 7, 10, 13]  # of the 12 frames 4 to 15
    assert numbers(decode(path, spec, 0.0)) == [0, 3, 6, 9]
    assert numbers(decode(path, spec, 1.0)) == [10, 13, 16, 19]


def test_fps_resamples_a_centred_window(make_video: MakeVideo) -> None:
    path = make_video(frames=20, fps=10)
    spec = dataclasses.replace(NATIVE, sampling="fps", fps=5.0)
    assert numbers(decode(path, spec, 0.0)) == [0, 2, 4, 6]
    assert numbers(decode(path, spec)) == [6, 8, 10, 12]
    assert numbers(decode(path, dataclasses.replace(spec, frames=None))) == list(range(0, 20, 2))
    assert numbers(decode(path, dataclasses.replace(spec, fps=20.0), 0.0)) == [0, 0, 1, 1]


def test_fps_follows_the_clock_of_a_video_of_variable_rate(make_video: MakeVideo) -> None:
    # Frames 0 to 4 last 0.1 s each, frames 5 to 9 half a second each.
    path = make_video("vfr.mkv", frames=10, fps=10, stamps=[0, 1, 2, 3, 4, 5, 10, 15, 20, 25])
    spec = ClipSpec(frames=5, size=(48, 64), sampling="fps", fps=2.0)
    assert numbers(decode(path, spec, 0.0)) == [0, 5, 6, 7, 8]


def test_one_doubled_stamp_leaves_the_clock_alone(make_video: MakeVideo, faults: Path) -> None:
    # One frame a second, then 25: the doubled stamp is the eleventh.
    stamps = [0, 25, 50, 75, *range(76, 96)]
    true = make_video("true.mkv", frames=24, fps=25, stamps=stamps, codec="ffv1", pix_fmt="bgr0")
    stamps[10] = stamps[9]
    doubled = make_video("doubled.mkv", frames=24, fps=25, stamps=stamps, codec="ffv1", pix_fmt="bgr0")
    spec = ClipSpec(frames=4, size=(48, 64), sampling="fps", fps=1.0)
    assert numbers(decode(doubled, spec)) == numbers(decode(true, spec)) == [0, 1, 2, 13]
    assert probe(doubled).sample(spec).tolist() == [0, 1, 2, 13]
    assert Footage(faults / "vfr_doubled_stamp.mkv").sample(spec).tolist() == [0, 1, 2, 13]


STAMPS = st.lists(st.integers(1, 1000), min_size=10, max_size=60).map(np.cumsum)


@pytest.mark.thorough
@given(true=STAMPS, which=st.sets(st.integers(1, 59), max_size=30))
def test_doubled_stamps_are_spread_and_the_others_stay(true: np.ndarray, which: set[int]) -> None:
    stamps = true.tolist()
    doubled = sorted(number for number in which if number < len(stamps))
    for number in doubled:
        stamps[number] = stamps[number - 1]
    mended = mend_stamps(stamps)
    if len(set(stamps)) < 2:
        assert mended is None
        return
    assert (np.diff(mended) > 0).all()
    kept = [number for number in range(len(stamps)) if number not in doubled]
    assert mended[kept].tolist() == true[kept].tolist()


@pytest.mark.thorough
@given(
    true=STAMPS,
    where=st.integers(0, 59),
    odd=st.one_of(st.none(), st.integers(-(2**62), 2**62), st.integers(0, 30_000)),
)
def test_an_odd_stamp_moves_no_frame_beyond_its_neighbours(true: np.ndarray, where: int, odd: int | None) -> None:
    stamps: list[int | None] = true.tolist()
    where %= len(stamps)
    stamps[where] = odd
    mended = mend_stamps(stamps)
    assert mended is not None
    assert (np.diff(mended) > 0).all()
    if odd is None:
        assert np.delete(mended, where).tolist() == np.delete(true, where).tolist()
    for number in range(1, len(stamps) - 1):  # which of two is the odd one cannot always be told
        if number not in (where - 1, where, where + 1):
            assert true[number - 1] < mended[number] < true[number + 1]


def test_stamps_of_no_use_give_the_constant_rate() -> None:
    backwards = [1, 4, 3, 6, 5, 8, 7, 10, 9]  # as AVI files with B-frames have them
    for stamps in (backwards, [None] * 9, [7] * 9):
        assert mend_stamps(stamps) is None
        timeline = Timeline.of(stamps, Fraction(1, 30), Fraction(25))
        assert timeline.times == pytest.approx(np.arange(9) / 25)
    assert mend_stamps([2, 1, 4, 3, 6, 5]).tolist() == [1, 2, 3, 4, 5, 6]
    assert mend_stamps([None, None, *range(20, 60, 2)])[:4].tolist() == [16, 18, 20, 22]
    assert mend_stamps([*range(0, 40, 2), 38])[-2:].tolist() == [38, 40]


@given(
    n=st.integers(1, 300),
    frames=st.integers(1, 40),
    stride=st.integers(1, 8),
    offset=st.one_of(st.none(), st.floats(0, 1)),
    sampling=st.sampled_from(SAMPLINGS),
    short=st.sampled_from(["hold", "loop"]),
)
def test_every_sampling_gives_the_frames_asked_for(
    n: int, frames: int, stride: int, offset: float | None, sampling: str, short: str
) -> None:
    spec = ClipSpec(frames=frames, sampling=sampling, stride=stride, fps=25 / stride, short=short)
    chosen = steady(n).sample(spec, offset)
    assert len(chosen) == frames
    assert chosen.min() >= 0
    assert chosen.max() < n
    fits = (frames - 1) * stride < n
    if sampling in WHOLE_VIDEO or fits or short == "hold":
        assert (np.diff(chosen) >= 0).all()
    if sampling not in WHOLE_VIDEO and (frames * stride <= n or (fits and short == "loop")):
        assert (np.diff(chosen) == stride).all()


@given(n=st.integers(1, 300), frames=st.integers(1, 40), stride=st.integers(1, 8))
def test_the_frames_are_those_of_the_references_of_the_named_victims(n: int, frames: int, stride: int) -> None:
    chosen = steady(n).sample(ClipSpec(frames=frames, sampling="stride", stride=stride, short="hold"))
    assert chosen.tolist() == np.clip((n - frames * stride) // 2 + stride * np.arange(frames), 0, n - 1).tolist()
    chosen = steady(n).sample(ClipSpec(frames=frames + 1, sampling="uniform"))
    assert chosen.tolist() == np.floor(np.linspace(0, n - 1, frames + 1)).tolist()
    chosen = steady(n).sample(ClipSpec(frames=frames, sampling="steps"))
    assert chosen.tolist() == [min(i * max(n // frames, 1), n - 1) for i in range(frames)]
    chosen = steady(n).sample(ClipSpec(frames=frames, sampling="segments"))
    assert chosen.tolist() == [(2 * i + 1) * n // (2 * frames) for i in range(frames)]


@given(n=st.integers(1, 200), frames=st.integers(1, 40), stride=st.integers(1, 8))
def test_a_video_is_too_short_exactly_where_the_window_leaves_it(n: int, frames: int, stride: int) -> None:
    for spec in (
        ClipSpec(frames=frames, sampling="stride", stride=stride),
        ClipSpec(frames=frames, sampling="fps", fps=25 / stride),
    ):
        if (frames - 1) * stride < n:
            steady(n).sample(spec)
        else:
            with pytest.raises(ClipError, match=rf"it has {n} frames.*but {frames} frames at"):
                steady(n).sample(spec)


def test_a_short_video_is_held_or_looped(make_video: MakeVideo) -> None:
    path = make_video(frames=3)
    spec = ClipSpec(frames=5, size=(48, 64), sampling="stride", stride=1)
    with pytest.raises(
        ClipError, match=r"video\.mp4: too short: it has 3 frames, but 5 frames at stride 1 need 5"
    ) as error:
        decode(path, spec)
    for way_out in ("uniform", "lower stride", "hold", "loop"):
        assert way_out in str(error.value)
    assert numbers(decode(path, dataclasses.replace(spec, short="hold"))) == [0, 0, 1, 2, 2]
    assert numbers(decode(path, dataclasses.replace(spec, short="loop"))) == [0, 1, 2, 0, 1]


def test_one_odd_stamp_fills_no_memory(make_video: MakeVideo) -> None:
    """Twelve frames, the last one after four months: at 5 fps, 50 million."""
    stamps = [*range(11), 10**8]
    path = make_video("far.mkv", frames=12, stamps=stamps, codec="ffv1", pix_fmt="bgr0")
    with pytest.raises(ClipError, match=r"far\.mkv: a clip of 50,000,001 frames would be made of its 12, one of which"):
        vidmarl.load_clips(path, ClipSpec(frames=None, sampling="fps"))
    with pytest.raises(ClipError, match=r"a clip of 1,000,000 frames"):
        decode(path, dataclasses.replace(NATIVE, frames=1_000_000))
    assert numbers(decode(path, NATIVE)) == [0, 3, 7, 11]
    slow = Timeline(np.arange(40) * 10.0, 10.0)  # a picture every 10 s is no fault
    assert len(slow.sample(ClipSpec(frames=None, sampling="fps", fps=5.0))) == 1951


def test_an_offset_outside_of_the_video_is_refused() -> None:
    with pytest.raises(ValueError, match=r"offset must be in \[0, 1\], got 1.5"):
        steady(9).sample(ClipSpec(frames=1), 1.5)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"size": (0, 9)}, {"fps": 0.0}, {"stride": 0}, {"fit": "stretch"}])
def test_a_spec_that_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClipSpec(**wrong)


# --- which pixels


def test_pixels_of_the_right_size_come_through_bit_by_bit(make_video: MakeVideo) -> None:
    clip = decode(make_video(frames=4), NATIVE)
    assert clip.dtype == torch.uint8
    assert torch.equal(clip, torch.from_numpy(pattern(4, (48, 64))).permute(3, 0, 1, 2))


@pytest.mark.parametrize("size", [(32, 32), (31, 45), (96, 128), (20, 90), (30, 1), (1, 1)])
@pytest.mark.parametrize("fit", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize("short_side", [None, 100])
def test_every_fit_gives_the_size(
    make_video: MakeVideo, size: tuple[int, int], fit: str, short_side: int | None
) -> None:
    spec = ClipSpec(frames=2, size=size, fit=fit, short_side=short_side)
    assert decode(make_video(frames=2), spec).shape == (3, 2, *size)


def test_crop_is_central_letterbox_is_black_outside_and_squash_keeps_the_edges(make_video: MakeVideo) -> None:
    path = make_video(frames=1)
    crop, letterbox, squash = (
        decode(path, ClipSpec(frames=1, size=(48, 48), fit=fit))[:, 0].float()
        for fit in ("crop", "letterbox", "squash")
    )
    whole = torch.from_numpy(pattern(1, (48, 64)))[0].permute(2, 0, 1).float()
    assert torch.equal(crop, whole[:, :, 8:56])
    assert letterbox[:, :6].abs().max() == 0
    assert letterbox[:, -6:].abs().max() == 0
    assert letterbox[1, 40].mean() > letterbox[1, 8].mean() > 0
    assert squash[2, 0, 0] < 5
    assert squash[2, 0, -1] > 250


@pytest.mark.thorough
@settings(max_examples=100)
@given(h=st.integers(1, 60), w=st.integers(1, 60), height=st.integers(1, 60), width=st.integers(1, 60))
def test_pixels_are_scaled_as_in_pil(h: int, w: int, height: int, width: int) -> None:
    frame = torch.randint(0, 256, (3, h, w), dtype=torch.uint8)
    scaled = fit(frame, ClipSpec(size=(height, width), fit="squash"))
    by_pil = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BILINEAR)
    assert (scaled.int() - torch.from_numpy(np.array(by_pil)).permute(2, 0, 1).int()).abs().max() <= 1


def test_a_letterboxed_picture_is_rounded_down() -> None:
    white = torch.full((3, 256, 340), 255, dtype=torch.uint8)
    letterbox = fit(white, ClipSpec(size=(224, 224), fit="letterbox"))  # 256 / 340 * 224 = 168.7
    assert letterbox[0, :, 0].count_nonzero() == 168


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size"),
    [
        ("grey.mkv", "ffv1", "gray", (48, 64)),
        ("odd.mkv", "ffv1", "bgr0", (47, 61)),
        ("ten_bits.mkv", "ffv1", "yuv444p10le", (48, 64)),
        ("alpha.mkv", "ffv1", "bgra", (48, 64)),
        ("motion.avi", "mpeg4", "yuv420p", (48, 64)),
        ("vp9.webm", "libvpx-vp9", "yuv420p", (48, 64)),
        ("odd.mp4", "libx264", "yuv444p", (47, 61)),
    ],
)
def test_unusual_videos_decode(
    make_video: MakeVideo, name: str, codec: str, pix_fmt: str, size: tuple[int, int]
) -> None:
    path = make_video(name, frames=8, size=size, codec=codec, pix_fmt=pix_fmt)
    clip = decode(path, ClipSpec(frames=8, size=size)).float()
    expected = torch.from_numpy(pattern(8, size)).permute(3, 0, 1, 2).float()
    if pix_fmt == "gray":
        assert torch.equal(clip[0], clip[1])
        assert torch.equal(clip[0], clip[2])
        expected = (expected * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(0, keepdim=True)
    assert (clip - expected).abs().mean() < 6


TURNS = {  # the linear part of a display matrix, and what it does to a picture
    (1, 0, 0, 1): lambda x: x,
    (-1, 0, 0, 1): lambda x: x.flip(-1),
    (1, 0, 0, -1): lambda x: x.flip(-2),
    (-1, 0, 0, -1): lambda x: x.flip(-1, -2),
    (0, 1, 1, 0): lambda x: x.mT,
    (0, 1, -1, 0): lambda x: x.mT.flip(-1),
    (0, -1, 1, 0): lambda x: x.mT.flip(-2),
    (0, -1, -1, 0): lambda x: x.mT.flip(-1, -2),
    # no turn: nothing would be seen; a stretch; a few degrees
    (0, 0, 0, 0): lambda x: x,
    (1, 1, 1, 1): lambda x: x,
    (-1, 0, 0, 0): lambda x: x,
    (2, 0, 0, 0.5): lambda x: x,
    (0.98, 0.17, -0.17, 0.98): lambda x: x,
    (0.17, 0.98, -0.98, 0.17): lambda x: x.mT.flip(-1),
}


def with_matrix(path: Path, linear: tuple[float, float, float, float], name: str = "turned.mp4") -> Path:
    """A copy of an mp4 file with another display matrix in the header of its track."""
    content = path.read_bytes()
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert content.count(plain) == 2  # of the film, of the track
    before, _, after = content.rpartition(plain)
    a, b, c, d = (round(value * (1 << 16)) for value in linear)
    copy = path.with_name(name)
    copy.write_bytes(before + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + after)
    return copy


@pytest.mark.parametrize("linear", TURNS)
def test_a_display_matrix_turns_and_mirrors(make_video: MakeVideo, linear: tuple[float, float, float, float]) -> None:
    plain = make_video(frames=3)
    assert torch.equal(read_video(with_matrix(plain, linear))[0], TURNS[linear](read_video(plain)[0]))


def test_what_a_front_camera_mirrors_is_mirrored(faults: Path) -> None:
    plain, mirrored = (read_video(faults / name)[0] for name in ("bframes.mp4", "matrix_hflip.mp4"))
    assert torch.equal(mirrored, plain.flip(-1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_that_a_camera_marks_as_turned_are_turned(tmp_path: Path, orientation: int) -> None:
    """Motion JPEG has its turn in EXIF, a kind of data that PyAV does not know."""
    import av

    exif = Image.Exif()
    exif[274] = orientation
    smooth = Image.fromarray(pattern(1, (48, 64))[0])
    smooth.save(tmp_path / "picture.jpeg", exif=exif, quality=95)
    with av.open(str(tmp_path / "pictures.avi"), "w") as output:
        stream = output.add_stream("mjpeg", rate=5)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for number in range(2):
            packet = av.Packet((tmp_path / "picture.jpeg").read_bytes())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 5), stream, True
            output.mux(packet)
    shown = read_video(tmp_path / "pictures.avi")[0][:, 1].permute(1, 2, 0).numpy()
    expected = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "picture.jpeg")))
    assert np.abs(shown.astype(int) - expected).mean() < 3


@pytest.mark.thorough
def test_decoded_frames_are_given_back_at_once(make_video: MakeVideo) -> None:
    import av

    path = make_video(frames=4)
    gc.collect()
    gc.disable()
    try:
        decode(path, NATIVE)
        assert not [thing for thing in gc.get_objects() if type(thing) is av.VideoFrame]
    finally:
        gc.enable()


MATRICES = {
    1: (0.2126, 0.0722),
    2: (0.299, 0.114),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""FFmpeg's numbers of colour matrices (2: not stated), with the weights of red and blue in them."""


def uniform(path: Path, yuv: tuple[int, int, int], matrix: int, full_range: bool, pix_fmt: str = "yuv444p") -> Path:
    """A video of one colour."""
    import av

    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=5)
        stream.height = stream.width = 16
        stream.pix_fmt = pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full_range else 1
        frame = av.VideoFrame(16, 16, pix_fmt)
        for plane, value in zip(frame.planes, yuv, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


@settings(max_examples=30)
@given(
    yuv=st.tuples(st.integers(16, 235), st.integers(16, 240), st.integers(16, 240)),
    matrix=st.sampled_from(list(MATRICES)),
    full_range=st.booleans(),
)
def test_colours_are_those_of_the_stated_matrix_and_range(
    tmp_path_factory: pytest.TempPathFactory, yuv: tuple[int, int, int], matrix: int, full_range: bool
) -> None:
    """As ITU-T H.273 defines them. BT.709 read as BT.601 is wrong by up to 22 of 255."""
    red, blue = MATRICES[matrix]
    luma = yuv[0] / 255 if full_range else (yuv[0] - 16) / 219
    pb, pr = ((value - 128) / (255 if full_range else 224) for value in yuv[1:])
    r, b = luma + 2 * (1 - red) * pr, luma + 2 * (1 - blue) * pb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    expected = np.clip([255 * r, 255 * g, 255 * b], 0, 255)
    path = uniform(tmp_path_factory.mktemp("colour") / "colour.mkv", yuv, matrix, full_range)
    assert read_video(path)[0][:, 0, 8, 8].numpy() == pytest.approx(expected, abs=1.01)


@pytest.mark.slow
def test_a_bound_on_pixels_keeps_small_files_small(
    make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gif(width: int, height: int) -> Path:
        path = tmp_path / f"{width}x{height}.gif"
        picture = struct.pack("<BHHHHB", 0x2C, 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
        path.write_bytes(struct.pack("<6sHHBBB6x", b"GIF89a", width, height, 0x80, 0, 0) + picture + b"\x3b")
        return path

    for path in (gif(16_000, 16_000), gif(1, 16_384)):  # too large; too large when scaled to cover 176 x 176 px
        for load in (vidmarl.load_clips, probe) if path.name.startswith("16") else (vidmarl.load_clips,):
            with pytest.raises(ClipError, match=r"33,554,432.*VIDMARL_MAX_PIXELS"):
                load(path)
    assert vidmarl.load_clips(gif(7680, 4320), ClipSpec(frames=1, size=(9, 16))).shape == (1, 3, 1, 9, 16)
    monkeypatch.setenv("VIDMARL_MAX_PIXELS", "1000")
    with pytest.raises(ClipError, match=r"takes 3,072 px a frame, and 1,000 are allowed.*VIDMARL_MAX_PIXELS"):
        vidmarl.load_clips(make_video())
    monkeypatch.setenv("VIDMARL_MAX_PIXELS", "31000")  # 176 * 176 = 30,976; 176 * 177 = 31,152
    assert vidmarl.load_clips(gif(32, 32)).shape == (1, 3, 16, 176, 176)
    with pytest.raises(ClipError, match=r"scaling its 32 x 33 px to cover 176 x 176 px takes 31,152 px"):
        vidmarl.load_clips(gif(33, 32), ClipSpec(short_side=177))
    monkeypatch.setenv("VIDMARL_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="VIDMARL_MAX_PIXELS must be a whole number of pixels above 0, got 'many'"):
        limits.max_pixels()


@pytest.mark.parametrize("antialias", [True, False])
def test_a_long_thin_frame_costs_no_more_than_what_is_kept_of_it(
    monkeypatch: pytest.MonkeyPatch, antialias: bool
) -> None:
    sizes = []
    interpolate = F.interpolate
    monkeypatch.setattr(
        F, "interpolate", lambda *args, **kw: sizes.append((y := interpolate(*args, **kw)).numel()) or y
    )
    fit(torch.zeros(3, 1, 4096, dtype=torch.uint8), ClipSpec(antialias=antialias))
    assert max(sizes) == 3 * 4096 * 176  # of 3 * 4096 * 176 * 176


@pytest.mark.thorough
@settings(max_examples=200)
@given(
    h=st.integers(1, 40), w=st.integers(1, 40), height=st.integers(1, 50), width=st.integers(1, 50),
    antialias=st.booleans(), data=st.data(),
)  # fmt: skip
def test_cropping_between_the_axes_gives_the_same_bytes_as_at_the_end(
    h: int, w: int, height: int, width: int, antialias: bool, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows = slice(top, data.draw(st.integers(top + 1, height)))
    columns = slice(left, data.draw(st.integers(left + 1, width)))
    frame = torch.randint(0, 256, (3, h, w), dtype=torch.uint8)
    whole = resize(frame, (height, width), antialias)
    part = resize(frame, (height, width), antialias, rows, columns)
    assert torch.equal(part, whole[:, rows, columns])


def test_sound_is_passed_over(make_video: MakeVideo) -> None:
    path = make_video(frames=4, codec="libx264", pix_fmt="yuv420p", sound=True)
    assert decode(path, NATIVE).shape == (3, 4, 48, 64)


def test_a_video_too_long_to_be_held_gives_the_same_clip(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(frames=20)
    held = decode(path, NATIVE)
    monkeypatch.setattr(video, "_HELD_BYTES", 20_000)
    assert torch.equal(decode(path, NATIVE), held)


# --- real videos


@pytest.mark.thorough
def test_real_videos_have_the_frames_and_sizes_of_the_reference(data_root: Path) -> None:
    reference = json.loads((data_root / "predictions.json").read_text())
    for entry in reference[::9]:
        footage = Footage(data_root / entry["file"])
        assert len(footage.timeline) == entry["frames"], entry["file"]
        assert footage.timeline.fps == pytest.approx(entry["fps"], rel=0.02), entry["file"]
        assert footage.frames([0]).shape == (3, 1, entry["height"], entry["width"]), entry["file"]
        assert 0 <= len(probe(data_root / entry["file"])) - len(footage.timeline) <= 1, entry["file"]
        assert not footage.damage, entry["file"]


@pytest.mark.thorough
@pytest.mark.parametrize("file", ["kinetics/R6llTwEh07w.mp4", "ucf101/YoYo/v_YoYo_g01_c01.avi"])
def test_real_pixels_agree_with_another_decoder(data_root: Path, file: str) -> None:
    cv2 = pytest.importorskip("cv2")
    path = data_root / "clips" / file
    capture = cv2.VideoCapture(str(path))
    reference = [capture.read()[1] for _ in range(40)]
    clip = Footage(path).frames([0, 13, 39])
    for column, number in enumerate((0, 13, 39)):
        rgb = torch.from_numpy(reference[number][..., ::-1].copy()).permute(2, 0, 1).float()
        assert (clip[:, column].float() - rgb).abs().mean() < 3


@pytest.mark.slow
def test_every_real_video_decodes(data_root: Path) -> None:
    files = [entry["file"] for entry in json.loads((data_root / "predictions.json").read_text())]
    for file in files:
        assert decode(data_root / file, ClipSpec(frames=2, size=(32, 32))).float().std() > 1, file


# --- load_clips


def test_load_clips_gives_batches_of_exact_8_bit_values(make_video: MakeVideo) -> None:
    path = make_video(frames=9)
    clips = vidmarl.load_clips([path, str(path)], NATIVE)
    assert clips.shape == (2, 3, 4, 48, 64)
    assert clips.dtype == torch.float32
    stored = decode(path, NATIVE)
    assert torch.equal(clips[0], stored.to(torch.float32) / 255)
    assert torch.equal((clips[0] * 255).round().to(torch.uint8), stored)
    assert torch.equal(vidmarl.load_clips(path, NATIVE)[0], clips[1])


def test_load_clips_reads_the_spec_of_a_victim(make_video: MakeVideo) -> None:
    path = make_video(frames=9)
    victim = Victim(lambda clips: clips.mean((1, 2, 3))[:, :2], spec=NATIVE)
    assert torch.equal(vidmarl.load_clips(path, victim), vidmarl.load_clips(path, NATIVE))
    assert vidmarl.load_clips(path).shape == (1, 3, 16, 176, 176)
    with pytest.raises(ValueError, match="it has no spec"):
        vidmarl.load_clips(path, Victim(lambda clips: clips))


def test_load_clips_wants_paths_and_clips_of_one_length(make_video: MakeVideo) -> None:
    with pytest.raises(ClipError, match="expected at least one path"):
        vidmarl.load_clips([])
    paths = [make_video("a.mp4", frames=5), make_video("b.mp4", frames=7)]
    with pytest.raises(ClipError, match=r"5 to 7 frames.*frames=None"):
        vidmarl.load_clips(paths, dataclasses.replace(NATIVE, frames=None))


# --- bad files


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.mp4", None, "there is no such file"),
        ("empty.mp4", b"", "the file is empty"),
        ("text.mp4", b"This is no video, whatever its name.\n" * 40, "cannot be opened"),
        ("noise.mp4", np.random.default_rng(0).bytes(4096), "cannot be opened"),
    ],
)
def test_what_is_no_video_is_refused_by_name(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClipError, match=rf"(?s){name}.*{says}"):
        vidmarl.load_clips(path)
    with pytest.raises(ClipError, match=says):
        probe(path)


def test_a_folder_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="it is a folder"):
        vidmarl.load_clips(tmp_path)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        voice = output.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        output.mux(voice.encode(silence))
        output.mux(voice.encode())
    with pytest.raises(ClipError, match="no video stream, only audio"):
        vidmarl.load_clips(path)


def test_a_video_cut_off_before_its_index_is_refused(make_video: MakeVideo) -> None:
    path = make_video()
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ClipError, match="cut short"):
        vidmarl.load_clips(path, NATIVE)


def test_a_video_cut_off_in_the_middle_gives_what_is_there_with_a_warning(make_video: MakeVideo) -> None:
    path = make_video(
        frames=40, size=(96, 128), codec="libx264", pix_fmt="yuv420p", faststart=True, options={"qp": "1", "g": "1"}
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"video\.mp4: Only \d+ of its 40 frames can be decoded"):
        clip = decode(path, ClipSpec(frames=4, size=(96, 128)))
    assert clip.shape == (3, 4, 96, 128)
    with (
        pytest.warns(UserWarning, match="Only"),
        pytest.raises(ClipError, match=r"too short: .*Only \d+ of its 40 frames can be decoded"),
    ):
        decode(path, ClipSpec(frames=40, size=(96, 128), sampling="stride"))

    with pytest.raises(ClipError, match=r"Only \d+ of its 40 frames can be decoded.*strict=False"):
        decode(path, ClipSpec(frames=4, size=(96, 128)), strict=True)


@pytest.mark.thorough
@pytest.mark.parametrize("part", [0.6, 0.97])
@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("cut.mkv", "libx264", "yuv420p"),
        ("cut.webm", "libvpx", "yuv420p"),
        ("cut.avi", "mjpeg", "yuvj420p"),
        ("cut.flv", "flv", "yuv420p"),
        ("cut.gif", "gif", "rgb8"),
        ("cut.apng", "apng", "rgb24"),
        ("cut.ogv", "libvpx", "yuv420p"),
        ("cut.ts", "mpeg2video", "yuv420p"),
        ("cut.mjpeg", "mjpeg", "yuvj420p"),
    ],
)
def test_a_video_cut_off_in_any_container_is_known(
    make_video: MakeVideo, name: str, codec: str, pix_fmt: str, part: float
) -> None:
    path = make_video(name, frames=40, fps=25, size=(96, 128), codec=codec, pix_fmt=pix_fmt, options={"g": "10"})
    assert not Footage(path, strict=True).damage
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.warns(UserWarning, match=r"cut\.\w+: .*(cut short|damaged)"):
        assert 10 < len(Footage(path).timeline) <= 40
    with pytest.raises(ClipError, match=r"cut short|damaged"):
        read_video(path, strict=True)


@pytest.mark.thorough
@given(
    container=st.sampled_from(["apng", "avi", "gif", "matroska", "mjpeg", "mov", "mpegts", "ogg", "asf"]),
    start=st.sampled_from(
        [b"", b"RIFF", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67", b"OggS", b"GGGG"]
    ),
    content=st.binary(max_size=600),
)
@example(container="matroska", start=b"\x1a\x45\xdf\xa3", content=b"\0")
@example(container="matroska", start=b"\x1a\x45\xdf\xa3", content=b"\x40")
@settings(max_examples=600)
def test_any_bytes_have_an_end_or_none(
    tmp_path_factory: pytest.TempPathFactory, container: str, start: bytes, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("ends") / "video"
    path.write_bytes(start + content)
    assert is_cut_short(path, container) in (True, False)


def test_a_header_that_claims_any_length_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "video.mkv"
    path.write_bytes(b"\x1a\x45\xdf\xa3\x01" + b"\xff" * 6 + b"\xfe" + bytes(90))
    assert is_cut_short(path, "matroska,webm")


def damaged(path: Path, packets: dict[int, float]) -> Path:
    """A copy of a video with some packets overwritten by zeros from a part of them on."""
    import av

    with av.open(str(path)) as file:
        places = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number, part in packets.items():
        start, size = places[number]
        kept = int(size * part)
        content[start + kept : start + size] = bytes(size - kept)
    copy = path.with_name(f"damaged_{path.name}")
    copy.write_bytes(content)
    return copy


@pytest.fixture
def intra(make_video: MakeVideo) -> Path:
    """Twenty frames that do not refer to each other."""
    return make_video(frames=20, size=(96, 128), codec="libx264", pix_fmt="yuv420p", options={"g": "1", "qp": "10"})


def test_damage_inside_a_video_is_named(intra: Path) -> None:
    with pytest.warns(UserWarning, match=r"damaged_video\.mp4: Frames 7 and 12 are damaged\. Going on"):
        clip, _ = read_video(damaged(intra, {7: 0.5, 12: 0.3}))
    clean, _ = read_video(intra)
    assert [number for number in range(20) if not torch.equal(clip[:, number], clean[:, number])] == [7, 12]
    with pytest.warns(UserWarning, match=r"Frame 7 is damaged\. Only 19 of its 20 frames.*\(missing: before 12\)"):
        clip, _ = read_video(damaged(intra, {7: 0.5, 12: 0.0}))
    assert torch.equal(clip[:, 12:], clean[:, 13:])
    with pytest.warns(UserWarning, match=r"Frames 1, 2, 3, 4, 5, 6, 7, 8 and 3 more are damaged"):
        read_video(damaged(intra, dict.fromkeys(range(1, 12), 0.5)))


def test_damage_inside_a_video_is_an_error_where_it_shall_be(intra: Path) -> None:
    for load in (
        lambda path, **strict: vidmarl.load_clips(path, **strict),
        lambda path, **strict: decode(path, NATIVE, **strict),
        read_video,
    ):
        load(intra, strict=True)
        path = damaged(intra, {7: 0.5})
        with pytest.raises(ClipError, match=r"damaged_video\.mp4: Frame 7 is damaged\. Get it anew"):
            load(path, strict=True)
        with pytest.warns(UserWarning, match="Frame 7 is damaged"):
            load(path)


def test_the_fault_in_the_middle_is_found(faults: Path) -> None:
    with pytest.raises(
        ClipError, match=r"Frame 17 is damaged\. Only 39 of its 40 frames .* \(missing: before 18\)"
    ) as error:
        Footage(faults / "zeroed_middle.mp4", strict=True)
    assert "Frames that refer to what is lost may be wrong too: 18. " in str(error.value)


@pytest.mark.thorough
@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video"])
@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.filterwarnings("ignore:Reading the video")
def test_frames_that_damage_spoils_are_among_those_that_are_named(
    make_video: MakeVideo, codec: str, b_frames: str
) -> None:
    options = {"g": "8", "bf": b_frames, "sc_threshold": "0"} | ({"qp": "10"} if codec == "libx264" else {})
    path = make_video("long.avi", frames=30, fps=25, size=(96, 128), codec=codec, pix_fmt="yuv420p", options=options)
    clean = read_video(path)[0].int()
    for number in range(1, 30, 3):
        footage = Footage(damaged(path, {number: 0.2}))
        named = re.findall(r"\d+(?: to \d+)?", footage.damage)
        may_be_wrong = {n for run in named for n in range(int(run.split()[0]), int(run.split()[-1]) + 1)}
        frames = footage.frames(range(len(footage.timeline))).int()
        if frames.shape[1] == clean.shape[1]:
            wrong = {n for n in range(30) if (frames[:, n] - clean[:, n]).abs().max() > 8}
            assert wrong <= may_be_wrong, footage.damage


@pytest.mark.slow
def test_damaged_videos_decode_alike_each_time(make_video: MakeVideo) -> None:
    """With frame threads, what is shown in place of lost parts depends on which was faster."""
    options = {"g": "12", "bf": "2", "qp": "1"}
    path = make_video(frames=36, size=(96, 128), codec="libx264", pix_fmt="yuv420p", options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(1, 36, 2):
            copy = damaged(path, {number: 0.4})
            first = read_video(copy)[0]
            assert all(torch.equal(read_video(copy)[0], first) for _ in range(4))


@pytest.mark.slow
def test_the_decoders_log_stops_nothing(make_video: MakeVideo) -> None:
    """A log line of another thread waits for Python, which waits for it (PyAV #1849, #1861)."""
    path = make_video(frames=60, size=(96, 128), codec="libx264", pix_fmt="yuv420p")
    script = f"""
import av, itertools
from vidmarl.data.container import open_video
from vidmarl.data.video import probe
av.logging.set_level(av.logging.DEBUG)
for _ in range(20):
    probe({str(path)!r})
    with open_video({str(path)!r}) as video:
        assert len(list(itertools.islice(video.frames(), 3))) == 3
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True)
    assert ended.stdout.endswith("done\n")


# --- odd files that are whole


def repacked(path: Path, name: str, shift: int) -> Path:
    """The packets of a video in another container, so many frames of 1/10 s later or earlier."""
    import av

    copy = path.with_name(name)
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        stream = source.streams.video[0]
        template = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts += int(shift / 10 / stream.time_base)
                packet.dts += int(shift / 10 / stream.time_base)
                packet.stream = template
                target.mux(packet)
    return copy


def trimmed_by_an_edit_list(make_video: MakeVideo) -> Path:
    """As `ffmpeg -ss 1 -c copy` cuts: ten frames before the start are there and not shown."""
    return repacked(make_video(options={"qp": "0", "g": "20", "bf": "2"}, frames=20), "trimmed.mp4", -10)


def with_gaps(make_video: MakeVideo) -> Path:
    """As capture programs write: of 126 frames that the header promises, most are empty."""
    stamps = [0, 25, 50, *range(52, 72), 125]
    return make_video("gaps.avi", frames=24, fps=25, stamps=stamps, codec="mpeg4", pix_fmt="yuv420p")


def cut_from_a_broadcast(make_video: MakeVideo) -> Path:
    """It begins before a key frame, which are every tenth."""
    options = {"g": "10", "sc_threshold": "0"}
    path = make_video("cut.ts", frames=30, size=(96, 128), codec="libx264", pix_fmt="yuv420p", options=options)
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 376 // 3 * 188 :])
    return path


def without_a_container(make_video: MakeVideo) -> Path:
    return make_video("raw.h264", frames=20, codec="libx264", pix_fmt="yuv420p", options={"qp": "1"})


@pytest.mark.parametrize(
    ("make", "frames"),
    [(trimmed_by_an_edit_list, 10), (with_gaps, 24), (cut_from_a_broadcast, 20), (without_a_container, 20)],
)
def test_odd_files_that_are_whole_raise_no_alarm(
    make_video: MakeVideo, make: Callable[[MakeVideo], Path], frames: int
) -> None:
    path = make(make_video)
    footage = Footage(path, strict=True)
    assert len(footage.timeline) == len(probe(path)) == frames
    assert probe(path).times.tolist() == footage.timeline.times.tolist()
    if make is trimmed_by_an_edit_list:
        assert numbers(footage.frames(range(10))) == list(range(10, 20))


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("trim_copy_long_gop.mp4", 30),
        ("avi_gaps.avi", 24),
        ("ts_cut_start.ts", 20),
        ("raw.h264", 40),
        ("bframes.mp4", 40),
        ("vfr_doubled_stamp.mkv", 24),
    ],
)
def test_files_of_other_programs_raise_no_alarm(faults: Path, name: str, frames: int) -> None:
    footage = Footage(faults / name, strict=True)
    assert len(footage.timeline) == len(probe(faults / name)) == frames
    assert probe(faults / name).times.tolist() == footage.timeline.times.tolist()


def test_a_video_whose_frames_change_their_size_needs_a_spec(make_video: MakeVideo, tmp_path: Path) -> None:
    parts = [
        make_video(f"{size[0]}.h264", frames=4, size=size, codec="libx264", pix_fmt="yuv420p").read_bytes()
        for size in ((48, 64), (96, 128))
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(parts))
    with pytest.raises(
        ClipError, match=r"both\.h264: its frames are not all of one size, but of 48 x 64 and 96 x 128 px"
    ):
        read_video(path)
    assert decode(path, ClipSpec(frames=8, size=(48, 64))).shape == (3, 8, 48, 64)


# --- what is no video file


def hls(address: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n"  # without an end: more may come


def refusals(*paths: Path) -> list[str]:
    """What another process says of files that could keep it waiting for ever."""
    script = """
import sys
from vidmarl.data.video import probe
from vidmarl.errors import ClipError
for path in sys.argv[1:]:
    try:
        probe(path)
        print("no error")
    except ClipError as error:
        print(error)
"""
    asked = [sys.executable, "-c", script, *map(str, paths)]
    return subprocess.run(asked, capture_output=True, text=True, timeout=100, check=True).stdout.splitlines()


@pytest.mark.slow
def test_playlists_pipes_and_devices_are_refused(make_video: MakeVideo, tmp_path: Path) -> None:
    video = make_video("video.ts", codec="libx264", pix_fmt="yuv420p")
    playlists = []
    for name in ("list.mp4", "list.m3u8", "list.ffconcat"):
        for kind, content in (("hls", hls(video.name)), ("ffconcat", f"ffconcat version 1.0\nfile {video.name}\n")):
            playlists.append(tmp_path / kind / name)
            playlists[-1].parent.mkdir(exist_ok=True)
            playlists[-1].write_text(content)
    shutil.copy(video, tmp_path / "hls")
    shutil.copy(video, tmp_path / "ffconcat")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("pipe.mp4")
    others = [tmp_path / "pipe.mp4", tmp_path / "link.mp4", Path("/dev/zero")]
    said = refusals(*playlists, *others)
    for path, line in zip([*playlists, *others], said, strict=True):
        assert line.startswith(f"Reading the video {path}: it ")
        assert (
            "no regular file, but a pipe or a device" if path in others else "playlists and pictures are none"
        ) in line


def test_a_file_cannot_make_the_decoder_call_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        path = tmp_path / "playlist.mp4"
        path.write_text(hls(f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts") + "#EXT-X-ENDLIST\n")
        with pytest.raises(ClipError):
            vidmarl.load_clips(path)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"picture.{kind}"
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green")]
    frames[0].save(path, save_all=kind == "webp", **({"append_images": frames[1:]} if kind == "webp" else {}))
    with pytest.raises(
        ClipError, match="It is a WebP picture" if kind == "webp" else "playlists and pictures are none"
    ):
        vidmarl.load_clips(path)


# --- beside FFmpeg's own command


def by_ffmpeg(path: Path, height: int, width: int) -> np.ndarray:
    """All frames as the `ffmpeg` command gives them, uint8[t h w 3]."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def clock_by_ffmpeg(path: Path) -> np.ndarray:
    """When each frame is shown, seconds from the first."""
    entries = ["-show_entries", "frame=best_effort_timestamp_time", "-of", "csv=p=0"]
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", *entries, path]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    times = np.array([float(line.strip(",")) for line in lines])
    return times - times[0]


def with_square_pixels_said_to_be_wide(make_video: MakeVideo) -> Path:
    return make_video(frames=3, codec="libx264", pix_fmt="yuv444p", options={"qp": "1", "x264-params": "sar=2/1"})


REFERENCE: dict[str, Callable[[MakeVideo], Path]] = {
    "plain": lambda make: make(codec="libx264", pix_fmt="yuv444p"),
    "B-frames": lambda make: make(codec="libx264", pix_fmt="yuv444p", options={"bf": "3", "g": "9"}),
    "variable rate": lambda make: make("vfr.mkv", frames=6, stamps=[0, 1, 2, 10, 12, 30]),
    "late start": lambda make: repacked(make(), "late.mp4", 7),
    "edit list": trimmed_by_an_edit_list,
    "AVI with gaps": with_gaps,
    "begins before a key frame": cut_from_a_broadcast,
    "raw": without_a_container,
    "sample aspect ratio": with_square_pixels_said_to_be_wide,
    "10 bits": lambda make: make("x.mkv", codec="ffv1", pix_fmt="yuv444p10le"),
    "4:2:0": lambda make: make(codec="libx264", pix_fmt="yuv420p"),
    **{
        f"matrix {linear}": lambda make, linear=linear: with_matrix(make(frames=2), linear)
        for linear in TURNS
        if {*linear} <= {-1, 0, 1} and abs(linear[0] * linear[3] - linear[1] * linear[2]) == 1
    },
    **{
        f"colour matrix {matrix}, {'full' if full else 'limited'} range": lambda make, matrix=matrix, full=full: (
            uniform(make().with_name("colour.mkv"), (120, 90, 200), matrix, full)
        )
        for matrix in MATRICES
        for full in (False, True)
    },
}


@pytest.mark.thorough
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")
@pytest.mark.parametrize("case", REFERENCE)
def test_frames_and_clock_are_those_of_the_ffmpeg_command(make_video: MakeVideo, case: str) -> None:
    path = REFERENCE[case](make_video)
    footage = Footage(path, strict=True)
    clip = footage.frames(range(len(footage.timeline)))
    reference = torch.from_numpy(by_ffmpeg(path, *clip.shape[-2:]).copy())
    assert len(reference) == clip.shape[1]
    tolerance = 3 if case in ("4:2:0", "10 bits", "AVI with gaps", "begins before a key frame", "raw") else 0
    assert (clip.permute(1, 2, 3, 0).int() - reference.int()).abs().max() <= tolerance
    if case != "raw":  # it has no clock
        assert footage.timeline.times == pytest.approx(clock_by_ffmpeg(path), abs=2e-3)


# --- writing


@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".mp4"])
@pytest.mark.parametrize("size", [(16, 16), (33, 47), (1, 5)])
def test_lossless_video_reads_back_bit_by_bit(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    clip = torch.randint(0, 256, (3, 7, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path = write_lossless(tmp_path / f"clip{suffix}", clip, fps=12.5)
    back, fps = read_video(path)
    assert torch.equal(back, clip)
    assert fps == pytest.approx(12.5, rel=0.01)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("size", "seed", "levels"), [((19, 37), 73, 256), ((33, 40), 4, 2), ((32, 44), 131, 2)])
def test_noise_that_is_hard_to_code_is_written(tmp_path: Path, size: tuple[int, int], seed: int, levels: int) -> None:
    """At its usual speed libvpx gives up on these: "output buffer full"."""
    noise = torch.randint(0, levels, (3, 4, *size), generator=torch.Generator().manual_seed(seed))
    clip = (noise * (255 // (levels - 1))).to(torch.uint8)
    assert torch.equal(read_video(write_lossless(tmp_path / "noise.webm", clip))[0], clip)


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".mp4"])
@pytest.mark.parametrize(
    "wants",
    [
        {"sampling": "stride", "stride": 4, "short_side": 30},
        {"sampling": "fps", "fps": 7.5},
        {"sampling": "uniform"},
        {"frames": None},
    ],
)
def test_a_saved_clip_is_the_same_clip_for_every_victim_that_wants_its_size(
    tmp_path: Path, suffix: str, wants: dict
) -> None:
    """What fooled a victim can be shown to it again, although its clips are every fourth frame."""
    clip = torch.randint(0, 256, (3, 16, 24, 32), dtype=torch.uint8)
    path = write_lossless(tmp_path / f"clip{suffix}", clip, fps=6)
    spec = ClipSpec(**{"frames": 16, "size": (24, 32), **wants})
    assert torch.equal(vidmarl.load_clips(path, spec)[0], clip.to(torch.float32) / 255)
    assert probe(path).is_clip_of(spec)
    for other in ({"frames": 15}, {"size": (12, 16)}):  # another victim: it is a video like others
        other_spec = dataclasses.replace(spec, short="hold", **other)
        assert not Footage(path).timeline.is_clip_of(other_spec)
        assert decode(path, other_spec).shape[-2:] == other_spec.size


def test_a_video_that_only_claims_to_be_a_saved_clip_is_sampled(tmp_path: Path) -> None:
    """As when a saved clip is cut by a program that keeps the metadata."""
    path = write_lossless(tmp_path / "clip.mkv", torch.zeros(3, 16, 24, 32))
    path.write_bytes(path.read_bytes().replace(b"clip of 16 frames", b"clip of 17 frames"))
    assert not Footage(path).timeline.is_clip_of(ClipSpec(frames=17, size=(24, 32)))
    assert not Footage(path).timeline.is_clip_of(ClipSpec(frames=16, size=(24, 32)))


@pytest.mark.thorough
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), frames=st.integers(1, 5), height=st.integers(1, 40), width=st.integers(1, 40))
def test_what_a_float_clip_holds_after_rounding_is_what_the_file_holds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, frames: int, height: int, width: int
) -> None:
    clip = torch.rand(3, frames, height, width, generator=torch.Generator().manual_seed(seed))
    path = write_lossless(tmp_path_factory.mktemp("lossless") / "clip.webm", clip)
    assert torch.equal(read_video(path)[0], (clip * 255).round().to(torch.uint8))


@pytest.mark.parametrize("size", [(48, 64), (47, 61), (1, 1)])
def test_mp4_is_h264_that_plays_everywhere(tmp_path: Path, size: tuple[int, int]) -> None:
    import av

    clip = torch.from_numpy(pattern(6, size)).permute(3, 0, 1, 2)
    path = write_mp4(tmp_path / "clip.mp4", clip, fps=5, crf=5)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.height % 2 == stream.width % 2 == 0
    back, fps = read_video(path)
    assert back.shape[1] == 6
    assert fps == pytest.approx(5)
    assert (back[:, :, : size[0], : size[1]].float() - clip.float()).abs().mean() < 8
    in_memory = tmp_path / "in_memory.mp4"
    in_memory.write_bytes(mp4_bytes(clip, 5, 5))
    assert decode(in_memory, ClipSpec(frames=6, size=size)).shape == clip.shape


def test_side_by_side_shows_original_attack_and_amplified_difference() -> None:
    clean = torch.full((3, 2, 4, 4), 100, dtype=torch.uint8)
    adversarial = clean.clone()
    adversarial[0, 1, 2, 3] = 104
    adversarial[1, 0, 0, 0] = 0
    shown = side_by_side(clean.float() / 255, adversarial, gain=10)
    assert shown.shape == (3, 2, 4, 12)
    assert torch.equal(shown[..., :4], clean)
    assert torch.equal(shown[..., 4:8], adversarial)
    assert shown[0, 1, 2, 11] == 168
    assert shown[1, 0, 0, 8] == 0
    assert (shown[..., 8:] != 128).sum() == 2
    with pytest.raises(ClipError, match="expected one shape"):
        side_by_side(clean, clean[..., :3])


@pytest.mark.parametrize(
    ("clip", "says"),
    [
        (torch.rand(1, 3, 2, 8, 8), r"one clip of the batch"),
        (torch.rand(3, 2, 8, 8) * 2, r"values in \[0, 1\]"),
        (torch.full((3, 2, 8, 8), torch.nan), r"values in \[0, 1\]"),
        (torch.zeros(3, 2, 8, 8, dtype=torch.int64), r"expected uint8"),
        (torch.zeros(3, 0, 8, 8), r"expected a clip"),
    ],
)
def test_what_is_no_clip_is_not_written(tmp_path: Path, clip: torch.Tensor, says: str) -> None:
    for write in (write_lossless, write_mp4):
        with pytest.raises(ClipError, match=says):
            write(tmp_path / "clip.mp4", clip)
    assert not list(tmp_path.iterdir())


def test_wrong_names_and_rates_are_refused(tmp_path: Path) -> None:
    clip = torch.rand(3, 2, 8, 8)
    with pytest.raises(ValueError, match=r"\.webm"):
        write_lossless(tmp_path / "clip.avi", clip)
    with pytest.raises(ValueError, match="fps must be above 0"):
        write_mp4(tmp_path / "clip.mp4", clip, fps=0)
    with pytest.raises(ValueError, match="crf"):
        mp4_bytes(clip, crf=99)
    with pytest.raises(FileNotFoundError):
        write_mp4(tmp_path / "no" / "such" / "folder.mp4", clip)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_half_file_and_the_old_one_in_place(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "clip.webm"
    old = torch.zeros(3, 2, 8, 8, dtype=torch.uint8)
    write_lossless(path, old)
    # A limit on file size fails a write in its middle, as a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_lossless(path, torch.rand(3, 8, 64, 64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir()] == ["clip.webm"]
    assert torch.equal(read_video(path)[0], old)


def test_resizing_does_not_depend_on_the_number_of_threads() -> None:
    """At simple ratios many pixels are halves, which a last bit decides."""
    frame = torch.randint(0, 256, (3, 240, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before, resized = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            resized.append(resize(frame, (168, 224), antialias=False))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(resized[0], resized[1])
    assert torch.equal(resized[0], resized[2])

"""Video files become the clips that were asked for, bad files say what is wrong, and what is
written reads back."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeVideo, pattern
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vidmarl
from vidmarl import ClipSpec, Victim
from vidmarl.data import decode, mp4_bytes, read_video, side_by_side, video, write_lossless, write_mp4
from vidmarl.data.video import Footage, Timeline, _resize, probe
from vidmarl.errors import ClipError

NATIVE = ClipSpec(frames=4, size=(48, 64))


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


@given(
    n=st.integers(1, 300),
    frames=st.integers(1, 40),
    stride=st.integers(1, 8),
    offset=st.one_of(st.none(), st.floats(0, 1)),
    sampling=st.sampled_from(["uniform", "stride", "fps"]),
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
    if sampling == "uniform" or fits or short == "hold":
        assert (np.diff(chosen) >= 0).all()
    if sampling != "uniform" and (frames * stride <= n or (fits and short == "loop")):
        assert (np.diff(chosen) == stride).all()


@given(n=st.integers(1, 300), frames=st.integers(1, 40), stride=st.integers(1, 8))
def test_the_frames_are_those_of_the_references_of_the_named_victims(n: int, frames: int, stride: int) -> None:
    chosen = steady(n).sample(ClipSpec(frames=frames, sampling="stride", stride=stride, short="hold"))
    assert chosen.tolist() == np.clip((n - frames * stride) // 2 + stride * np.arange(frames), 0, n - 1).tolist()
    chosen = steady(n).sample(ClipSpec(frames=frames + 1, sampling="uniform"))
    assert chosen.tolist() == np.floor(np.linspace(0, n - 1, frames + 1)).tolist()


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


@pytest.mark.parametrize(("size", "most", "mean"), [((176, 313), 1, 0.05), ((30, 1), 8, 8)])  # PIL sums up roughly
def test_pixels_shrink_as_in_pil(size: tuple[int, int], most: int, mean: float) -> None:
    frame = torch.randint(0, 256, (3, 240, 427), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shrunk = video.fit(frame, ClipSpec(size=size, fit="squash"))
    by_pil = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
    difference = (shrunk.int() - torch.from_numpy(np.array(by_pil)).permute(2, 0, 1).int()).abs()
    assert difference.max() <= most
    assert difference.float().mean() < mean


def test_a_letterboxed_picture_is_rounded_down() -> None:
    white = torch.full((3, 256, 340), 255, dtype=torch.uint8)
    letterbox = video.fit(white, ClipSpec(size=(224, 224), fit="letterbox"))  # 256 / 340 * 224 = 168.7
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


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_turned_video_is_shown_as_another_decoder_shows_it(make_video: MakeVideo, rotation: int) -> None:
    cv2 = pytest.importorskip("cv2")
    path = make_video(frames=4, codec="libx264", pix_fmt="yuv420p", rotation=rotation, options={"crf": "5"})
    clip, _ = read_video(path)
    capture = cv2.VideoCapture(str(path))
    ok, frame = capture.read()
    assert ok
    reference = torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1).float()
    assert clip.shape[-2:] == reference.shape[-2:] == ((64, 48) if rotation != 180 else (48, 64))
    assert (clip[:, 0].float() - reference).abs().mean() < 4


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


def test_real_videos_have_the_frames_and_sizes_of_the_reference(data_root: Path) -> None:
    reference = json.loads((data_root / "predictions.json").read_text())
    for entry in reference[::9]:
        footage = Footage(data_root / entry["file"])
        assert len(footage.timeline) == entry["frames"], entry["file"]
        assert footage.timeline.fps == pytest.approx(entry["fps"], rel=0.02), entry["file"]
        assert footage.frames([0]).shape == (3, 1, entry["height"], entry["width"]), entry["file"]
        assert 0 <= len(probe(data_root / entry["file"])) - len(footage.timeline) <= 1, entry["file"]
        assert not footage.damage


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
    import wave

    path = tmp_path / "sound.mp4"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
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
    with pytest.raises(ClipError, match=r"too short: .*Only \d+ of its 40 frames can be decoded"):
        decode(path, ClipSpec(frames=40, size=(96, 128), sampling="stride"))


def test_a_file_cannot_make_the_decoder_call_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        path = tmp_path / "playlist.mp4"
        path.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/clip.ts\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(ClipError):
            vidmarl.load_clips(path)
        with pytest.raises(BlockingIOError):
            server.accept()


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
            resized.append(_resize(frame, (168, 224), antialias=False))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(resized[0], resized[1])
    assert torch.equal(resized[0], resized[2])

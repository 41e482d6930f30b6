"""What several tests need: the real data where they are present, small real videos made on the
spot, a victim."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn

TYPES_ARE_CHECKED = os.environ.get("VIDMARL_TYPECHECK", "0") != "0"
"""`make runtime`: every function of vidmarl checks the types and the shapes of what it is given."""

if TYPES_ARE_CHECKED:  # before anything imports vidmarl
    jaxtyping.install_import_hook("vidmarl", "runtime_types.check")
    original_raises = pytest.raises

    @contextlib.contextmanager
    def raises(expected: Any, **kwargs: Any) -> Iterator[Any]:
        """`pytest.raises`; a test that gives a wrong type on purpose is refused by the checker
        before vidmarl can do so, and ends there."""
        with original_raises(expected, **kwargs) as caught:
            try:
                yield caught
            except jaxtyping.TypeCheckError:
                if expected is jaxtyping.TypeCheckError:
                    raise
                pytest.skip("refused by the checker of types")

    pytest.raises = raises  # type: ignore[assignment]

torch.set_num_threads(1)  # small tensors: threads cost more than they bring, and tests may run side by side

# CI says of a commit what it would say of it tomorrow; new examples are looked for on developers'
# machines. None is timed: how long it takes says how busy the machine is.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=10)  # `make quick`
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

MakeVideo = Callable[..., Path]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Numbers drawn without a seed of their own are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The data folder; the test is skipped where it holds no clips."""
    from vidmarl.data.paths import data_root

    root = data_root()
    if not (root / "clips").is_dir():
        pytest.skip(f"needs real clips: there is no clips/ in {root} (see data/README.md, VIDMARL_DATA)")
    return root


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Makes a video file whose frame `k` has red = 10 k, green rising downwards, blue rising to the
    right."""
    import av

    def make(
        name: str = "video.mp4",
        frames: int = 20,
        size: tuple[int, int] = (48, 64),
        fps: float = 10.0,
        codec: str = "libx264rgb",
        pix_fmt: str = "rgb24",
        rotation: int = 0,
        stamps: list[int] | None = None,
        options: dict[str, str] | None = None,
        faststart: bool = False,
        sound: bool = False,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"qp": "0"} if options is None and codec == "libx264rgb" else options or {}
        with av.open(str(path), "w", options={"movflags": "+faststart"} if faststart else {}) as output:
            stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
            if rotation:
                stream.set_display_rotation(rotation)
            voice = output.add_stream("aac", rate=16000) if sound else None
            for number, pixels in enumerate(pattern(frames, size)):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number if stamps is None else stamps[number]
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
            if voice is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate = 16000
                output.mux(voice.encode(silence))
                output.mux(voice.encode())
        return path

    return make


class Brightness(nn.Module):
    """Says by the mean of the red channel whether a clip is dark, grey or bright."""

    def forward(self, clips: Tensor) -> Tensor:
        level = clips[:, 0].mean((1, 2, 3))
        return -40 * (level[:, None] - torch.tensor([0.3, 0.5, 0.7])).abs()


def pattern(frames: int, size: tuple[int, int]) -> np.ndarray:
    """The frames of `make_video`, uint8[t h w 3]."""
    height, width = size
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., 0] = (10 * np.arange(frames) % 256)[:, None, None]
    clip[..., 1] = np.linspace(0, 255, height)[None, :, None]
    clip[..., 2] = np.linspace(0, 255, width)[None, None, :]
    return clip

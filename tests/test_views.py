"""Several views of a video: where they lie, that they are decoded as single clips are, and that a
victim's probabilities are averaged over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeVideo

import vidmarl
from vidmarl import ClipSpec, Victim
from vidmarl.data import ClipData, ClipDataset, Folder, Views, decode, decode_views
from vidmarl.data.resize import fit
from vidmarl.errors import SettingsError

SPEC = ClipSpec(frames=4, size=(32, 32), sampling="stride", stride=2)


def test_views_lie_evenly_in_time_and_along_the_axis_that_is_cropped() -> None:
    assert Views().places(SPEC) == [(None, 0.5)]
    assert Views(3, 1).places(SPEC) == [(0.0, 0.5), (0.5, 0.5), (1.0, 0.5)]
    assert Views(1, 3).places(SPEC) == [(None, 0.0), (None, 0.5), (None, 1.0)]
    assert [time for time, _ in Views(2, 2).places(ClipSpec())] == [0.25, 0.25, 0.75, 0.75]


@pytest.mark.parametrize("shape", [(40, 120), (120, 40)])
def test_three_crops_show_both_ends_and_the_middle(shape: tuple[int, int]) -> None:
    frame = torch.arange(shape[0] * shape[1]).reshape(shape).div(20, rounding_mode="floor").to(torch.uint8)
    frame = frame.expand(3, *shape).contiguous()
    spec = ClipSpec(size=40)
    along = 0 if shape[0] > shape[1] else 1
    for crop, start in ((0.0, 0), (0.5, 40), (1.0, 80)):
        assert torch.equal(fit(frame, spec, crop), frame.narrow(1 + along, start, 40))


def test_views_of_a_file_are_its_clips_and_the_first_is_the_usual_one(make_video: MakeVideo) -> None:
    path = make_video("a.mp4", frames=20, size=(48, 32))
    assert torch.equal(decode_views(path, SPEC, (1, 1))[0], decode(path, SPEC))
    views = decode_views(path, SPEC, (3, 3))
    assert views.shape == (9, 3, 4, 32, 32)
    for row, offset in ((1, 0.0), (4, 0.5), (7, 1.0)):
        assert torch.equal(views[row], decode(path, SPEC, offset))
    assert len({view.numpy().tobytes() for view in views}) == 9


def test_views_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one clip"):
        Views(0, 1).places(SPEC)
    with pytest.raises(ValueError, match="fit='squash' crops nothing"):
        Views(1, 3).places(ClipSpec(fit="squash"))


@pytest.fixture
def source(make_video: MakeVideo, tmp_path: Path) -> Folder:
    for number in range(4):
        make_video(f"videos/{'ab'[number % 2]}/{number}.mp4", frames=16 + number, size=(48, 32))
    return Folder(tmp_path / "videos")


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_a_dataset_gives_the_views_of_a_video_one_after_the_other(source: Folder, cache_bytes: int) -> None:
    dataset = ClipDataset(source, SPEC, views=(2, 3), cache_bytes=cache_bytes)
    assert len(dataset) == 24
    clips, positions = zip(*(dataset[i] for i in range(24)), strict=True)
    assert list(positions) == [i // 6 for i in range(24)]
    for video in range(4):
        expected = decode_views(source[video].path, SPEC, (2, 3))
        assert torch.equal(torch.stack(clips[6 * video : 6 * video + 6]), expected)
    with pytest.raises(ValueError, match="augment=False"):
        ClipDataset(source, SPEC, views=(2, 1), augment=True)


def test_of_training_data_only_the_test_clips_have_views(source: Folder) -> None:
    data = ClipData(val=source, test=source, spec=SPEC, views=(2, 3), eval_batch_size=5)
    assert len(data.dataset("val")) == 4
    positions = torch.cat([index for _, index in data.test_dataloader()])
    assert positions.tolist() == [i // 6 for i in range(24)]


class Brightness(torch.nn.Module):
    """Two classes, by a random but fixed projection, so that views differ in what they say."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        left, right = clips[..., :16].mean((1, 2, 3, 4)), clips[..., 16:].mean((1, 2, 3, 4))
        return 50 * torch.stack([left - right, right - left], 1)


def test_accuracy_averages_probabilities_over_views(source: Folder) -> None:
    victim = Victim(Brightness(), spec=SPEC)
    found = vidmarl.accuracy(victim, source, views=(2, 3))
    for position, rank in enumerate(found.ranks):
        views = decode_views(source[position].path, SPEC, (2, 3)) / 255
        label = source[position].label
        probs = victim(views).exp().mean(0)
        assert rank == (probs >= probs[label]).sum() - 1


def test_accuracy_refuses_views_of_what_is_no_file() -> None:
    victim: Any = Victim(Brightness(), spec=SPEC)
    with pytest.raises(SettingsError, match="give a dataset of files"):
        vidmarl.accuracy(victim, (torch.rand(1, 3, 4, 32, 32), [0]), views=(2, 1))

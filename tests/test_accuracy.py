"""How often a victim is right, and what `check` says of one that is given its clips in the wrong
way."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidmarl
from vidmarl import ClipSpec, Victim
from vidmarl.data.folder import Folder
from vidmarl.data.synthetic import CLASSES, Synthetic
from vidmarl.errors import DataError, SettingsError, UnknownNameError
from vidmarl.victims.accuracy import class_indices, ranks
from vidmarl.victims.check import Finding

COLOURS = ["red", "green", "blue"]
LABELS = torch.arange(12) % 3
CLIPS = 0.3 + 0.05 * torch.rand(12, 3, 4, 16, 16) + 0.2 * torch.eye(3)[LABELS].view(12, 3, 1, 1, 1)


class Colour(nn.Module):
    """Which colour is the strongest."""

    def forward(self, clips: Tensor) -> Tensor:
        return 30 * clips.mean((2, 3, 4))


class Bytes(nn.Module):
    """The same, of values in 0..255: what is dark is red."""

    def forward(self, clips: Tensor) -> Tensor:
        level = clips.mean((2, 3, 4))
        return torch.where(level.amax(1, keepdim=True) > 2, level, torch.tensor([20.0, 0.0, 0.0]))


class Centred(nn.Module):
    """The same, of values around 0: without any below 0 it says red."""

    def forward(self, clips: Tensor) -> Tensor:
        level = clips.mean((2, 3, 4))
        return torch.where(clips.amin() < 0, 30 * level, torch.tensor([20.0, 0.0, 0.0]))


def finding(victim: Victim, labels: Any = LABELS) -> Finding:
    before = victim.queries
    *_, last = victim.check(CLIPS, labels)
    assert last.check == "accuracy"
    most = 12 if last.detail.startswith("top-1 100") else 5 * 12
    assert 2 * 12 + 2 + 12 <= victim.queries - before <= 2 * 12 + 2 + most
    return last


def test_a_rank_is_how_many_classes_are_as_likely() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    assert ranks(scores, torch.tensor([2, 0])).tolist() == [0, 1]
    assert ranks(scores, torch.tensor([0, 2])).tolist() == [2, 2]


def test_of_clips_and_labels() -> None:
    victim = Victim(Colour(), labels=COLOURS)
    found = vidmarl.accuracy(victim, (CLIPS, ["red", "green", "blue"] * 4))
    assert (found.top1, found.top5, len(found), victim.queries) == (1.0, 1.0, 12, 12)
    assert str(found) == "top-1 100.0%, top-5 100.0% of 12 clips"
    assert vidmarl.accuracy(victim, (CLIPS, torch.zeros(12, dtype=torch.int64))).top1 == pytest.approx(1 / 3)
    with pytest.raises(UnknownNameError, match="did you mean red"):
        vidmarl.accuracy(victim, (CLIPS[:1], ["rad"]))
    with pytest.raises(SettingsError, match="a label for each of 12 clips, got 1"):
        vidmarl.accuracy(victim, (CLIPS, ["red"]))


def test_of_a_dataset(make_video: Any) -> None:
    folder = make_video("videos/dark/a.mp4").parent.parent
    make_video("videos/bright/b.mp4")
    make_video("videos/bright/c.mp4", frames=12)
    spec = ClipSpec(frames=4, size=16)
    said: list[int] = []

    def says_bright(clips: Tensor) -> Tensor:
        said.extend([1] * len(clips))
        return torch.tensor([[0.0, 1.0]]).expand(len(clips), 2)

    source = Folder(str(folder))
    named = Victim(says_bright, labels=["dark", "bright"], spec=spec)  # another order than the folder's
    assert vidmarl.accuracy(named, source).top1 == pytest.approx(2 / 3)
    assert vidmarl.accuracy(named, source, max_clips=1).labels.tolist() == [1]
    assert len(said) == 4
    with pytest.raises(SettingsError, match="has no spec"):
        vidmarl.accuracy(Victim(says_bright), source)
    with pytest.raises(DataError, match="no clip of"):
        vidmarl.accuracy(named, Synthetic(0))


def test_of_drawn_clips() -> None:
    def motionless(clips: Tensor) -> Tensor:
        scores = torch.zeros(len(clips), len(CLASSES))
        scores[:, CLASSES.index("still")] = 1
        return scores

    found = vidmarl.accuracy(Victim(motionless, labels=CLASSES), Synthetic(16, frames=4, size=16))
    assert found.top1 == 1 / 8


def test_a_victim_that_is_right_is_fit() -> None:
    assert finding(Victim(Colour())).ok
    assert "accuracy" not in {one.check for one in Victim(Colour()).check(CLIPS)}


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        (Victim(lambda clips: Colour()(clips.flip(1))), r"but 100\.0% with channels='bgr'"),
        (Victim(Colour(), channels="bgr"), r"but 100\.0% with channels='rgb'"),
        (Victim(Bytes()), r"but 100\.0% with values in 0\.\.255"),
        (Victim(Colour(), mean=(0.9, 0.1, 0.1), std=(0.2, 0.9, 0.9)), r"but 100\.0% with neither mean nor std"),
        (Victim(Centred()), r"but 100\.0% with mean=\(0\.45, 0\.45, 0\.45\)"),
        (Victim(lambda clips: Colour()(clips).roll(1, 1)), "12 of 12 answers go with one class each.*another order"),
        (Victim(lambda clips: torch.eye(9)[[8] * len(clips)]), "no better than chance"),
    ],
)
def test_what_is_mixed_up_shows(victim: Victim, words: str) -> None:
    found = finding(victim)
    assert not found.ok

    assert re.search(words, found.detail), found.detail


def test_a_few_mistakes_are_no_reason_to_doubt() -> None:
    labels = LABELS.clone()
    labels[:2] = 1
    assert finding(Victim(Colour()), labels).ok


@pytest.mark.parametrize("labels", [3, -1.5, "walk", torch.tensor(1), object()])
def test_labels_that_are_none_are_refused_in_a_line(labels: object) -> None:
    with pytest.raises(SettingsError, match="a label for each of 2 clips"):
        class_indices(Victim(lambda clips: clips.mean((2, 3, 4))), torch.rand(2, 3, 4, 8, 8), labels)  # type: ignore[arg-type]

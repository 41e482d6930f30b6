"""What a victim has answered is kept as it comes, and asked for once."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Brightness
from torch import Tensor

from vidmarl import GrowAndReduce, Victim
from vidmarl.data.synthetic import make_clips
from vidmarl.errors import VictimError
from vidmarl.victims.journal import Journal, journaled


@pytest.fixture
def victim() -> Victim:
    return Victim(Brightness(), device="cpu")


@pytest.fixture
def clips() -> Tensor:
    return torch.rand(5, 3, 3, 5, 7).mul(255).round().div(255)


def asked(victim: Victim, path: Path, clips: Tensor) -> tuple[Tensor, int]:
    """What a victim with a journal says of some clips, and how many of them its model saw."""
    before = victim.queries
    with journaled(victim, path):
        said = victim(clips)
    return said, victim.queries - before


def test_what_was_asked_once_is_answered_bit_for_bit_and_not_asked_again(
    tmp_path: Path, victim: Victim, clips: Tensor
) -> None:
    first, count = asked(victim, tmp_path / "journal", clips)
    assert count == 5
    again, count = asked(victim, tmp_path / "journal", clips)
    assert torch.equal(again, first)
    assert count == 0
    assert torch.equal(victim(clips), first)  # without the journal it is asked
    assert victim.queries == 10


def test_what_comes_after_the_known_answers_is_asked_and_kept(tmp_path: Path, victim: Victim, clips: Tensor) -> None:
    asked(victim, tmp_path / "journal", clips[:2])
    with journaled(victim, tmp_path / "journal") as journal:
        assert journal.recorded == 2
        victim(clips[:2])
        victim(clips[2:])
        assert journal.recorded == 5
    assert victim.queries == 5
    with journaled(victim, tmp_path / "journal"):
        victim(clips[:2])
        victim(clips[2:])
    assert victim.queries == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda clip: clip.flip(-1),
        lambda clip: clip.flip(1),
        lambda clip: clip.roll(1, 2),
        lambda clip: torch.where(torch.arange(clip.numel()).view(clip.shape) == 3, 0.5, clip),
        lambda clip: clip.float().nextafter(torch.tensor(1.0)),
    ],
)
def test_other_clips_are_asked_about_and_end_what_was_known(
    tmp_path: Path, victim: Victim, clips: Tensor, change: Callable[[Tensor], Tensor]
) -> None:
    victim.batch_size = 1
    asked(victim, tmp_path / "journal", clips)
    other = clips.clone()
    other[2] = change(clips[2])
    said, count = asked(victim, tmp_path / "journal", other)
    assert count == 3  # the first two are known
    assert torch.equal(said, victim(other))
    assert asked(victim, tmp_path / "journal", other)[1] == 0


def test_a_torn_or_damaged_file_is_good_up_to_there(tmp_path: Path, victim: Victim, clips: Tensor) -> None:
    victim.batch_size = 1
    path = tmp_path / "journal"
    first, _ = asked(victim, path, clips)
    whole = path.read_bytes()
    frame = len(whole) // 5
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        journal = Journal(path)
        assert journal.recorded == end // frame
        journal.close()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        journal = Journal(path)
        assert journal.recorded == at // frame
        journal.close()
    path.write_bytes(whole[: -frame - 1] + b"\xff" * 100)
    said, count = asked(victim, path, clips)
    assert torch.equal(said, first)
    assert count == 2
    assert path.read_bytes() == whole


def test_a_victim_that_raises_has_answered_what_it_has(tmp_path: Path, clips: Tensor) -> None:
    calls = 0

    def model(batch: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("out of luck")
        return Brightness()(batch)

    victim = Victim(model, batch_size=1)
    with pytest.raises(VictimError, match="out of luck"), journaled(victim, tmp_path / "journal"):
        victim(clips)
    assert victim.journal is None
    assert asked(victim, tmp_path / "journal", clips)[1] == 3


def test_a_disk_that_fills_up_leaves_what_was_whole(tmp_path: Path, victim: Victim, clips: Tensor) -> None:
    victim.batch_size = 1

    class Full:
        """A file with little room."""

        def __init__(self, file: object) -> None:
            self._file, self.room = file, 90

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def write(self, data: memoryview) -> int:
            if self.room == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = min(self.room, len(data))
            self.room -= taken
            self._file.write(data[:taken])  # type: ignore[attr-defined]
            return taken

    with pytest.raises(OSError, match="No space"), journaled(victim, tmp_path / "journal") as journal:  # noqa: PT012
        journal._file = Full(journal._file)  # type: ignore[assignment]
        victim(clips)
    assert victim.queries == 3  # two frames of 40 bytes fit, the third one is torn
    assert asked(victim, tmp_path / "journal", clips)[1] == 3


@pytest.mark.thorough
def test_an_attack_is_replayed_bit_for_bit(tmp_path: Path, victim: Victim) -> None:
    clips, _ = make_clips(2, seed=0, frames=8, size=32)
    attack = GrowAndReduce(budget=20, progress=False)
    whole = attack(victim, clips)
    spent = victim.queries
    with journaled(victim, tmp_path / "journal"):
        first = attack(victim, clips)
    assert victim.queries == 2 * spent
    content = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(content[: len(content) // 2])
    with journaled(victim, tmp_path / "journal") as journal:
        left = spent - journal.recorded
        again = attack(victim, clips)
    assert victim.queries == 2 * spent + left
    for one in (first, again):
        assert torch.equal(one.queries, whole.queries)
        assert torch.equal(one.adversarial, whole.adversarial)
        assert torch.equal(one.history["margin"], whole.history["margin"])

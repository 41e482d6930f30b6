"""Defences: what they do to clips, and that a defended victim is a victim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vidmarl import Attack, RandomCells, Victim, load_victim
from vidmarl.errors import SettingsError, UnknownNameError
from vidmarl.testing import check_victim, easy_clips
from vidmarl.victims.defended import DEFENCES, H264, BitDepth, Median, TemporalShuffle, defended
from vidmarl.victims.journal import journaled

CLIPS = torch.rand(3, 3, 6, 33, 32, generator=torch.Generator().manual_seed(0))
RNG = torch.Generator()


def quarters(clips: Tensor) -> Tensor:
    return 20 * torch.nn.functional.adaptive_avg_pool3d(clips, (2, 2, 2)).mean(1).flatten(1)


@pytest.mark.thorough
@pytest.mark.parametrize("name", DEFENCES)
def test_a_defended_victim_is_a_victim(name: str) -> None:
    victim = defended(Victim(quarters, name="quarters"), name)
    before = CLIPS.clone()
    answers = victim(CLIPS)
    assert torch.equal(before, CLIPS)
    assert not torch.equal(answers, Victim(quarters)(CLIPS))  # it does something
    assert (victim.name, victim.queries) == (f"quarters + {name}", 3)
    assert victim.deterministic == (not DEFENCES[name].random)
    if victim.deterministic:
        check_victim(victim, CLIPS)
    result = RandomCells("brightness", budget=6, progress=False)(defended(Victim(quarters), name), easy_clips())
    assert result.queries.max() <= 6


@pytest.mark.parametrize("name", ["random_resize", "temporal_shuffle"])
def test_randomness_is_drawn_anew_for_every_query_and_can_be_had_again(name: str) -> None:
    def answers(order: list[list[int]], seed: int = 0) -> dict[int, list[Tensor]]:
        victim = defended(Victim(quarters, batch_size=2), name, seed=seed)
        found: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
        for rows in order:
            for row, answer in zip(rows, victim(CLIPS[rows]), strict=True):
                found[row].append(answer)
        return found

    one = answers([[0, 1, 2]] * 4)
    assert len({tuple(answer.tolist()) for answer in one[0]}) > 1
    other = answers([[2, 0], [1], [0, 0, 0, 1], [2, 1, 2], [1, 2]])  # in any batch and any order
    assert all(torch.allclose(torch.stack(one[row]), torch.stack(other[row]), atol=1e-5) for row in range(3))
    assert not torch.equal(torch.stack(one[0]), torch.stack(answers([[0]] * 4, seed=1)[0]))


def test_what_they_do() -> None:
    clip = CLIPS[0]
    assert set((BitDepth(bits=1).apply(clip, RNG)).unique().tolist()) == {0.0, 1.0}
    flash = torch.zeros(3, 5, 8, 8)
    flash[:, 2] = 1
    assert not Median(frames=3).apply(flash, RNG).any()
    assert (H264(crf=0).apply(clip, RNG) - clip).abs().mean() < 0.2  # colours at half the size
    assert H264().apply(clip, RNG).shape == clip.shape
    moved = TemporalShuffle(reach=2).apply(clip, RNG)
    assert sorted(moved.sum((0, 2, 3)).tolist()) == sorted(clip.sum((0, 2, 3)).tolist())


def test_they_are_stacked_described_and_told_apart() -> None:
    plain = Victim(quarters, name="quarters")
    both = defended(plain, ["jpeg", {"class_path": "bit_depth", "init_args": {"bits": 2}}])
    again = defended(defended(plain, "jpeg"), {"class_path": "bit_depth", "init_args": {"bits": 2}})
    assert both.identity()["defences"] == [{"name": "jpeg", "quality": 50}, {"name": "bit_depth", "bits": 2}]
    assert both.identity() != defended(plain, "jpeg").identity() != plain.identity()
    assert again.name == both.name
    assert again(CLIPS).shape == (3, 8)
    described = {"class_path": "vidmarl.victims.defended.defended", "init_args": {"by": ["median"], "victim": "demo"}}
    with pytest.raises(UnknownNameError, match="did you mean median"):
        load_victim(described | {"init_args": {"victim": plain, "by": "medain"}})
    assert load_victim(described | {"init_args": {"victim": plain, "by": "median"}}).name == "quarters + median"


@pytest.mark.parametrize(
    ("by", "error", "words"),
    [
        ("jpg", UnknownNameError, "did you mean jpeg"),
        ({"class_path": "jpeg", "init_args": {"qualty": 3}}, SettingsError, "did you mean quality"),
        ({"class_path": "jpeg", "init_args": {"quality": 0}}, ValueError, "quality must be from 1 to 100"),
        ({"class_path": "median", "init_args": {"frames": 4}}, ValueError, "frames must be odd"),
        ([3], SettingsError, "expected its name, a description or a Defence"),
    ],
)
def test_what_is_no_defence_is_refused(by: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        defended(Victim(quarters), by)


def test_check_knows_that_it_draws() -> None:
    findings = {one.check: one for one in defended(Victim(quarters), "random_resize").check(CLIPS)}
    assert findings["determinism"].ok
    assert "as it says it does" in findings["determinism"].detail


class Insists(Attack):
    """Asks about the same candidate again and again."""

    def search(self, clip: Any) -> Any:
        for _ in range(clip.budget):
            yield clip.zeros() + 1


@pytest.mark.parametrize("by", ["random_resize", ["random_resize", "temporal_shuffle"]])
def test_an_attack_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path, by: Any) -> None:
    attack = Insists("brightness", budget=12, progress=False)

    def run() -> Tensor:
        victim = Victim(quarters)
        for one in [by] if isinstance(by, str) else by:  # around one another
            victim = defended(victim, one)
        with journaled(victim, tmp_path / "journal"):
            return attack(victim, easy_clips()).history["margin"].nan_to_num(0.0)

    whole = run()
    assert len(whole[0].unique()) > 3  # it draws anew for every query
    content = (tmp_path / "journal").read_bytes()
    for share in (3, 2):
        (tmp_path / "journal").write_bytes(content[: len(content) // share])
        assert torch.equal(run(), whole)

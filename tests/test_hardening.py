"""Hardening: what a round learns from, what is compared, what is kept when it is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from vidmarl import AttackResult, ClipSpec, Victim, load_victim
from vidmarl.audit import AuditResult
from vidmarl.audit import harden as hardening
from vidmarl.audit.harden import FILE, SEEDS, Hardening, harden
from vidmarl.audit.harden_clips import MixedClips
from vidmarl.audit.harden_figures import compare, markdown, table
from vidmarl.cli import main
from vidmarl.data.synthetic import CLASSES, Synthetic
from vidmarl.errors import ClipError, SettingsError
from vidmarl.training.victim import VictimTraining
from vidmarl.utils.files import load_tensors, unfinished
from vidmarl.victims.saved import save_victim

SPEC = ClipSpec(frames=4, size=(16, 16), sampling="uniform")
TRAIN, TEST = Synthetic(16, 0, 4, 16), Synthetic(12, 1, 4, 16)
ATTACK = {"class_path": "random_cells", "init_args": {"budget": 6, "grid": 4}}


class Net(nn.Module):
    """A small network, sure of what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, 2)
        self.last = nn.Linear(8, 8)

    def forward(self, clips: Tensor) -> Tensor:
        scores: Tensor = self.last(self.conv(clips).relu().mean((2, 3, 4)))
        return 20 * scores


def victim() -> Victim:
    torch.manual_seed(0)
    return Victim(Net(), labels=list(CLASSES), spec=SPEC, name="net")


def settings(out: Path, **changed: Any) -> Hardening:
    usual: dict[str, Any] = {"victim": victim(), "train": TRAIN, "test": TEST, "attack": ATTACK, "rounds": 2}
    return Hardening(**{**usual, "epochs": 1, "out": out, **changed})


# -- the whole


def test_it_writes_all_that_came_of_it(tmp_path: Path) -> None:
    unseen = {"square": {"class_path": "square_tubes", "init_args": {"budget": 5, "grid": 4}}}
    out = tmp_path / "hard"
    figures = harden(settings(out, unseen=unseen), progress=False)
    assert list(figures) == ["RandomCells", "square"]
    assert sorted(path.name for path in out.iterdir()) == [
        *("after", "before", "figures.csv", "report.md", "results.json", "victim.pt"),
    ]
    record = json.loads((out / "results.json").read_text("utf-8"))
    assert record["figures"] == figures
    assert record["hardened with"] == "RandomCells"
    told = (out / "report.md").read_text("utf-8")
    assert "RandomCells (hardened with it) | clean accuracy" in told
    assert "square (not seen) | robust accuracy" in told
    assert len(pd.read_csv(out / "figures.csv")) == 6
    before, after = (AttackResult.load(out / when / "RandomCells") for when in ("before", "after"))
    assert torch.equal(before.clean, after.clean), "the same clips"
    assert before.settings["seed"] == after.settings["seed"] == 0, "the same seed"
    assert not unfinished(out).exists()
    weights = torch.load(out / FILE, weights_only=True)["state_dict"]
    assert not torch.equal(weights["last.weight"], victim().model.last.weight)  # type: ignore[union-attr]


def test_the_figures_are_those_of_the_saved_victim(tmp_path: Path) -> None:
    path = tmp_path / "known" / FILE
    known = load_victim("demo", "random", spec={"frames": 4, "size": 16}, device="cpu")
    known.labels = list(CLASSES)
    save_victim(path, known, "demo")
    harden(settings(tmp_path / "hard", victim=str(path), rounds=1), progress=False)
    made = load_victim(str(tmp_path / "hard" / FILE))
    assert made.name == "hard"
    after = AttackResult.load(tmp_path / "hard" / "after" / "RandomCells")
    assert torch.equal(made(after.clean).argmax(1), after.prediction)


def test_each_round_attacks_anew_and_with_a_seed_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, str]] = []
    attack = hardening._Job._attack

    def seen(self: Any, how: Any, items: Any, source: Any) -> AttackResult:
        asked.append((how.seed, len(items), self.victim.identity()["network"]))
        return attack(self, how, items, source)

    monkeypatch.setattr(hardening._Job, "_attack", seen)
    harden(settings(tmp_path / "hard", seed=3, rounds=3), progress=False)
    seeds, counts, networks = zip(*asked, strict=True)
    assert list(seeds) == [3 * SEEDS, 3 * SEEDS + 1, 3 * SEEDS + 2, 3 * SEEDS + 3, 3 * SEEDS]
    assert list(counts) == [12, 16, 16, 16, 12]
    assert len(set(networks[1:])) == 4, "each time the victim as it is by then"
    assert networks[0] == networks[1]


def test_adversarial_clips_of_all_rounds_are_learnt_under_their_true_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[tuple[Tensor, Tensor]] = []
    step = VictimTraining.training_step

    def seen(self: VictimTraining, batch: Any, batch_idx: int) -> Tensor:
        learnt.append(batch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(VictimTraining, "training_step", seen)
    found: list[dict[str, Tensor]] = []
    load = hardening.load_tensors

    def loaded(path: Any, doing: str) -> Any:
        content = load(path, doing)
        if Path(path).name == "adversarial.pt":
            found.append(content)
        return content

    monkeypatch.setattr(hardening, "load_tensors", loaded)
    harden(settings(tmp_path / "hard"), progress=False)
    assert len(found) == 3, "one in the first round, both in the second"
    first, second = found[1:]
    assert len(learnt) == (16 + 16) // 8 + (16 + 32) // 8
    clips = torch.cat([batch for batch, _ in learnt[4:]])
    positions = torch.cat([positions for _, positions in learnt[4:]])
    for part in (first, second):
        for clip, position in zip(part["adversarial"], part["positions"], strict=True):
            rows = (clips == clip / 255).flatten(1).all(1)
            assert rows.any()
            assert positions[rows].tolist() == [int(position)] * int(rows.sum())


def test_what_was_stopped_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = harden(settings(tmp_path / "whole"), progress=False)
    calls = 0
    train = hardening._Job._train

    def stop(self: Any, number: int) -> None:
        nonlocal calls
        calls += 1
        if number == 2 and calls == 2:
            raise KeyboardInterrupt
        train(self, number)

    monkeypatch.setattr(hardening._Job, "_train", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        harden(settings(tmp_path / "hard"), progress=False)
    assert any(note.startswith("Kept in ") for note in stopped.value.__notes__)
    assert not (tmp_path / "hard").exists()
    with pytest.raises(SettingsError, match="an unfinished one with other settings"):
        harden(settings(tmp_path / "hard", lr=1e-3), progress=False)
    again = victim()
    assert harden(settings(tmp_path / "hard", victim=again), progress=False) == whole
    assert calls == 3, "the first round is not trained again"
    one, other = (load_tensors(tmp_path / name / FILE, "")["state_dict"] for name in ("whole", "hard"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(FileExistsError):
        harden(settings(tmp_path / "hard"), progress=False)
    harden(settings(tmp_path / "hard", rounds=1), progress=False, overwrite=True)


def test_an_audit_before_and_after(tmp_path: Path) -> None:
    how = {"corruptions": ["gaussian_noise"], "attack_clips": 0, "sensitivity_clips": 0, "max_clips": 8}
    harden(settings(tmp_path / "hard", audit=how, rounds=1), progress=False)
    audits = tmp_path / "hard" / "audit"
    before, after = (AuditResult.load(audits / when) for when in ("before", "after"))
    assert (before.victim, after.victim) == ("net", "hard")
    record = json.loads((audits / "compare.json").read_text("utf-8"))
    assert record["audits"] == {"net": str(audits / "before"), "hard": str(audits / "after")}
    with pytest.raises(SettingsError, match="did you mean corruptions"):
        harden(settings(tmp_path / "other", audit={"corruption": []}, rounds=1), progress=False)


# -- its parts


def test_mixed_clips_are_clean_ones_and_then_the_others() -> None:
    adversarial = torch.zeros(3, 3, 4, 16, 16, dtype=torch.uint8)
    mixed = MixedClips(TRAIN, adversarial, torch.tensor([5, 1, 2])).dataset("train")
    assert len(mixed) == 19
    assert torch.equal(mixed[2, 4][0], TRAIN[4][0])
    assert [mixed[2, i][1] for i in (4, 16, 17, 18)] == [4, 5, 1, 2]
    assert mixed[0, 16][0].max() == 0


def result(margins: list[list[float]], sizes: list[list[float]]) -> AttackResult:
    """A result of an attack: the margin and the L2 of each query, a row for each clip."""
    margin, size = torch.tensor(margins), torch.tensor(sizes)
    n = len(margin)
    skipped = margin[:, 0] < 0
    clips, zeros = torch.zeros(n, 3, 1, 2, 2), torch.zeros(n, dtype=torch.int64)
    return AttackResult(
        success=(margin < 0).any(1) & ~skipped,
        skipped=skipped,
        finished=torch.ones(n, dtype=torch.bool),
        queries=torch.full((n,), margin.shape[1]),
        clean=clips,
        adversarial=clips,
        strength=torch.zeros(n, 1, 1, 1),
        classes=zeros,
        prediction=zeros,
        adversarial_prediction=zeros,
        full_l2=torch.full((n,), 10.0),
        history={"margin": margin, "l2": size, "score": margin},
        settings={"attack": "any", "budget": margin.shape[1]},
    )


def test_figures_are_of_the_same_clips_before_and_after() -> None:
    # of eight clips one is wrong before and another one after; four are fooled before, one after
    before = result([[-1.0, 0], *[[1.0, -1]] * 4, *[[1.0, 1]] * 3], [[0.0, 4]] * 8)
    after = result([*[[1.0, 1]] * 6, [1.0, -1], [-1.0, 0]], [[0.0, 8]] * 8)
    told = compare(before, after)
    assert told["clean"]["before"]["value"] == told["clean"]["after"]["value"] == 7 / 8
    assert told["clean"]["change"]["value"] == 0
    assert told["clean"]["change"]["p"] == 1, "one clip won, one lost"
    assert (told["robust"]["before"]["value"], told["robust"]["after"]["value"]) == (3 / 8, 6 / 8)
    low, high = told["robust"]["before"]["interval"]
    assert (low, high) == pytest.approx((0.137, 0.694), abs=1e-3), "Wilson"
    assert told["robust"]["change"]["value"] == 3 / 8
    assert told["robust"]["change"]["p"] == pytest.approx(2 * 29 / 2**7), "of 7 clips that differ 2 are worse: McNemar"
    assert (told["size"]["before"]["value"], told["size"]["after"]["value"]) == (4, 10)
    assert told["size"]["change"]["clips"] == 6
    assert told["size"]["change"]["value"] == np.median([2.5, 2.5, 2.5, 2.5, 1, 0.8])
    assert told["queries"] == [16, 16]


def test_what_few_clips_cannot_tell_is_a_dash() -> None:
    few = result([[1.0, -1]] * 2, [[0.0, 4]] * 2)
    told = {"any": compare(few, few)}
    assert told["any"]["robust"]["change"] == {"value": 0.0, "interval": [None, None], "p": None}
    assert "| any (hardened with it) | median L2 of a success | 4 (-) | 4 (-) | x 1.00 (-) | - |" in markdown(
        told, "any"
    )
    assert table(told)["change low"].isna().all()


# -- mistakes


def test_mistakes_are_told_before_anything_is_asked(tmp_path: Path) -> None:
    out = tmp_path / "hard"
    asked = victim()
    other = Victim(Net(), labels=[str(i) for i in range(8)], spec=SPEC)
    for changed, error, said in (
        ({"victim": other}, SettingsError, "Train it on them first"),
        ({"victim": Victim(Net(), spec=SPEC)}, SettingsError, "unnamed ones"),
        ({"victim": Victim(lambda clips: clips, labels=list(CLASSES))}, SettingsError, r"expected an nn\.Module"),
        ({"test": TRAIN}, ClipError, "drawn by the same seed"),
    ):
        with pytest.raises(error, match=said):
            harden(settings(out, **{"victim": asked, **changed}), progress=False)
    with pytest.raises(ValueError, match="as the one it is trained with"):
        settings(out, unseen={"RandomCells": "random_cells"})
    with pytest.raises(ValueError, match="becomes that of a folder"):
        settings(out, unseen={"../square": "square_tubes"})
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        settings(out, rounds=0)
    assert asked.queries == 0
    assert not any(tmp_path.iterdir())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "known" / FILE
    known = load_victim("demo", "random", spec={"frames": 4, "size": 16}, device="cpu")
    save_victim(path, known, "demo")
    clips = {"class_path": "Synthetic", "init_args": {"n": 12, "seed": 0, "frames": 4, "size": 16}}
    other = json.loads(json.dumps(clips)) | {"init_args": clips["init_args"] | {"seed": 1}}  # type: ignore[operator]
    words = ["harden", "--victim", str(path), "--train", json.dumps(clips), "--test", json.dumps(other)]
    words += ["--attack", json.dumps(ATTACK), "--rounds", "1", "--epochs", "1", "--no_progress"]
    main([*words, "--out", str(tmp_path / "hard")])
    told = capsys.readouterr().out
    assert "robust accuracy" in told
    assert f"--victim {tmp_path / 'hard' / FILE}" in told
    with pytest.raises(SystemExit):
        main([*words[:4], "no/folder/", *words[5:]])
    assert "there is no folder no/folder/" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words[:-1], "--attak", "x"])
    assert "did you mean --attack" in capsys.readouterr().err

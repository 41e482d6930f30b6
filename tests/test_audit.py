"""The audit: corruptions that are the same each time, figures that are right by hand, a run that
goes on where it stopped and counts what it asks, and what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from browser import chromium, needs_chromium
from conftest import Brightness, MakeVideo
from known_victims import Counted
from torch import Tensor

import vidmarl
from vidmarl import cli
from vidmarl.audit import AuditResult, tables
from vidmarl.audit.answers import CLEAN
from vidmarl.audit.attacks import points
from vidmarl.audit.compare import compare_audits, paired
from vidmarl.audit.corruptions import CORRUPTIONS, FAMILIES, SEVERITIES, choose, list_corruptions
from vidmarl.audit.corruptions.digital import recoded
from vidmarl.audit.data import as_source
from vidmarl.audit.verdict import verdict
from vidmarl.data.folder import Folder
from vidmarl.errors import CheckpointError, ClipError, DataError, UnknownNameError, VictimError
from vidmarl.testing import check_distortion, drawn_clips

NAMES = ["dark", "grey", "bright"]
RANDOM = {
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "motion_blur", "bit_error", "jumble"),
    *("box_jumble", "freeze", "dynamic_rotation", "translation", "fog"),
}


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# Corruptions


@pytest.mark.parametrize("family", FAMILIES)
def test_corruptions_are_the_same_each_time_and_stay_8_bit_clips(family: str) -> None:
    clip = drawn_clips(1, 5, 21, 34)[0]
    kept = clip.clone()
    for one in choose([family]):
        for severity in (1, 5):
            out = one(clip, severity)
            assert out.shape == clip.shape, one.name
            assert torch.equal((out * 255).round() / 255, out), one.name
            assert out.min() >= 0, one.name
            assert out.max() <= 1, one.name
            assert torch.equal(one(clip, severity), out), one.name
        assert not torch.equal(one(clip, 5), (clip * 255).round() / 255), one.name
        others = [one(clip, severity, seed=seed) for seed in (1, 2, 3) for severity in (3,)]
        assert any(not torch.equal(other, one(clip, 3)) for other in others) == (one.name in RANDOM), one.name
    assert torch.equal(clip, kept)


@pytest.mark.parametrize("size", [(1, 1, 2), (2, 7, 5)])
def test_corruptions_take_the_smallest_clips(size: tuple[int, int, int]) -> None:
    clip = torch.rand(3, *size)
    for name, one in CORRUPTIONS.items():
        assert one(clip, 5).shape == clip.shape, name


def test_severities_of_noise_are_those_of_the_paper() -> None:
    clip = torch.full((3, 4, 64, 64), 0.5)
    for severity, std in zip(SEVERITIES[:2], (0.08, 0.12), strict=True):
        assert (CORRUPTIONS["gaussian_noise"](clip, severity) - clip).std() == pytest.approx(std, rel=0.02)
    salted = CORRUPTIONS["impulse_noise"](clip, 5)
    assert ((salted == 0) | (salted == 1)).float().mean() == pytest.approx(0.27, abs=0.01)
    assert CORRUPTIONS["shot_noise"](clip, 5).std() == pytest.approx(math.sqrt(0.5 / 15), rel=0.05)
    weak, strong = (CORRUPTIONS["gaussian_noise"](clip, severity) - clip for severity in (1, 2))
    assert torch.corrcoef(torch.stack([weak.flatten(), strong.flatten()]))[0, 1] > 0.99  # the same noise


def test_time_is_held_reversed_jumbled_and_frozen() -> None:
    frames = torch.arange(16)
    clip = (frames / 255).view(1, 16, 1, 1).expand(3, 16, 2, 2)

    def order(name: str, severity: int) -> list[int]:
        return (CORRUPTIONS[name](clip, severity)[0, :, 0, 0] * 255).round().int().tolist()

    assert order("sampling", 2) == [0] * 4 + [4] * 4 + [8] * 4 + [12] * 4
    assert order("reverse_sampling", 1) == [n for n in range(14, -1, -2) for _ in range(2)]
    jumbled = order("jumble", 2)
    assert [set(jumbled[i : i + 4]) for i in range(0, 16, 4)] == [set(range(i, i + 4)) for i in range(0, 16, 4)]
    assert order("box_jumble", 1) == [*range(8, 16), *range(8)]
    assert sorted(order("box_jumble", 3)) == list(range(16))
    frozen = order("freeze", 2)
    assert len(set(frozen)) == 3  # a fifth of 16
    assert frozen == sorted(frozen)


def test_light_and_camera_do_what_they_say() -> None:
    clip = drawn_clips(1, 2, 32, 32)[0]
    grey = CORRUPTIONS["contrast"](clip, 5)
    assert torch.allclose(grey.mean((2, 3)), clip.mean((2, 3)), atol=0.003)
    assert torch.allclose(grey.std(), 0.1 * clip.std(), rtol=0.3)
    assert torch.allclose(CORRUPTIONS["brightness"](clip, 1).amax(0), (clip.amax(0) + 0.1).clamp(0, 1), atol=0.003)
    turned = CORRUPTIONS["static_rotation"](clip, 5)
    assert torch.allclose(turned[..., 1:-1, 1:-1], clip.rot90(1, (2, 3))[..., 1:-1, 1:-1], atol=0.01)
    assert CORRUPTIONS["fog"](clip, 5).std() < clip.std()


def test_codecs_get_worse_and_lost_frames_are_held() -> None:
    clip = drawn_clips(1, 4, 33, 40)[0]
    for name in ("jpeg", "mpeg2", "h264"):
        errors = [float((CORRUPTIONS[name](clip, severity) - clip).square().mean()) for severity in (1, 5)]
        assert errors[0] < errors[1] < 0.1, name
    lost = recoded(
        clip, "libx264", {"x264-params": "bframes=0"}, lambda number, content: content if number < 2 else b"\0"
    )
    assert torch.equal(lost[:, 2], lost[:, 1])
    assert torch.equal(lost[:, 3], lost[:, 1])
    assert (lost[:, :2] - clip[:, :2]).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["speckle_noise", "defocus_blur", "zoom_blur", "fog"])
def test_new_distortions_keep_the_contract(name: str) -> None:
    check_distortion(name)


def test_corruptions_go_by_name_and_by_family() -> None:
    assert len(list_corruptions()) == 25
    assert [one.name for one in choose(["blur", "jpeg"])] == ["defocus_blur", "motion_blur", "zoom_blur", "jpeg"]
    with pytest.raises(UnknownNameError, match=r"'nosie'.*did you mean noise"):
        choose(["nosie"])
    with pytest.raises(ValueError, match="severity must be one of"):
        CORRUPTIONS["jpeg"](torch.rand(3, 2, 32, 32), 6)


# Figures, by hand


def answers_of(right: dict[str, list[list[int]]], confidence: float = 0.9) -> pd.DataFrame:
    """A table of answers: of each clip, by corruption and severity, whether the victim was right;
    severity 0 alone is the clean clip."""
    rows = [
        {"clip": f"c{i}", "path": "", "key": f"k{i}", "label": "a", "corruption": name, "family": "noise"}
        | {"severity": s + (name != CLEAN), "rank": 0 if found else 7, "answer": "a", "confidence": confidence}
        for name, clips in right.items()
        for i, severities in enumerate(clips)
        for s, found in enumerate(severities)
    ]
    return pd.DataFrame(rows)


def test_accuracy_and_calibration_by_hand() -> None:
    found = tables.clean_figures(answers_of({CLEAN: [[1], [1], [1], [0]]}))
    assert (found["right"], found["among five"], found["clips"]) == (3, 3, 4)
    assert found["top1"]["share"] == 0.75
    assert found["top1"]["low"] == pytest.approx(0.3006, abs=1e-4)  # Wilson's, 3 of 4
    assert found["top1"]["high"] == pytest.approx(0.9544, abs=1e-4)
    assert found["calibration error"] == pytest.approx(0.15)  # sure to 0.9, right to 0.75


def test_corruptions_by_hand() -> None:
    answers = answers_of(
        {
            CLEAN: [[1]] * 4,
            "fog": [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]],
            "jpeg": [[1] * 5] * 4,
        }
    )
    table = tables.corruption_table(answers)
    assert table[table["corruption"] == "fog"]["top1"].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert table["clips"].tolist() == [4] * 10
    assert tables.halved_at(table) == {"fog": 3, "jpeg": None}
    assert tables.by_clip(answers)["fog"].tolist() == [0.4, 0.2, 0.6, 0.8]


def rows_of(attacks: dict[str, list[tuple[float, float] | None]], skipped: int) -> pd.DataFrame:
    """Rows of a benchmark: of each clip that is not skipped the query of its success and the L2, or
    None."""
    rows = []
    for attack, clips in attacks.items():
        for i, found in enumerate(clips):
            facts = {"attack": attack, "clip": f"c{i}", "path": "", "skipped": i < skipped, "psnr": 20.0}
            at, l2 = found or (math.inf, 50.0)
            rows.append(
                facts
                | {f"success@{b}": at <= b for b in (10, 20)}
                | {f"l2@{b}": l2 if at <= b else 50.0 for b in (10, 20)}
            )
    return pd.DataFrame(rows)


def test_robust_accuracy_is_against_the_best_of_the_attacks() -> None:
    rows = rows_of({"a": [None, (5, 4.0), None, (15, 9.0)], "b": [None, (15, 2.0), None, None]}, skipped=1)
    at = tables.robust_at(rows, [10, 20])
    assert at["right"].tolist() == [3, 2, 1]  # one is wrong from the start
    assert at["accuracy"].tolist() == [0.75, 0.5, 0.25]
    best = tables.smallest(rows, 20)
    assert best["l2"].tolist() == [2.0, math.inf, 9.0]
    assert best["rms"].tolist() == [pytest.approx(0.1), math.inf, pytest.approx(0.1)]  # 20 dB
    below = tables.robust_below(rows, 20)
    assert below["l2"].tolist() == [0, 2, 9]
    assert below["accuracy"].tolist() == [0.75, 0.5, 0.25]
    assert points(30) == [25, 30]


def test_pairs_by_hand() -> None:
    same = paired(np.ones(8), np.ones(8))
    assert same.difference == 0
    assert not same.sure()
    apart = paired(np.zeros(10), np.full(10, 0.5) + np.arange(10) / 100)
    assert apart.difference == pytest.approx(0.545)
    assert apart.p == pytest.approx(2 / 2**10)
    assert apart.low < 0.545 < apart.high
    assert apart.sure()
    assert not apart.sure(comparisons=50)


# Runs


def brightness(low: float = 0.0, **settings: object) -> Counted:
    model = Brightness()
    model.register_forward_pre_hook(lambda _, given: (given[0] - low,))
    return Counted(model, labels=NAMES, name="tiny", spec=vidmarl.ClipSpec(frames=4, size=32), **settings)


def clips_and_labels(n: int = 6) -> tuple[Tensor, list[str]]:
    level = torch.tensor([0.3, 0.5, 0.7]).repeat(n // 3)
    noise = 0.05 * torch.rand(n, 3, 4, 32, 32, generator=rng()) - 0.025
    return (level.view(-1, 1, 1, 1, 1) + noise).clamp(0, 1), NAMES * (n // 3)


SMALL = {"corruptions": ["brightness", "gaussian_noise"], "budget": 6, "progress": False}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditResult, Counted]:
    tiny = brightness()
    return (
        vidmarl.audit(
            tiny.victim,
            clips_and_labels(),
            tmp_path_factory.mktemp("audit"),
            attack_clips=3,
            sensitivity_clips=2,
            **SMALL,
        ),
        tiny,
    )  # type: ignore[arg-type]


def test_every_query_is_counted(done: tuple[AuditResult, Counted]) -> None:
    result, tiny = done
    assert tiny.seen == tiny.victim.queries == result.record["queries of this run"]
    attacked = result.attacks
    assert attacked is not None
    assert attacked["queries"].max() <= 6
    spent = int(attacked["queries"].sum())
    assert tiny.seen == 6 * (1 + 5 * 2) + spent + 2 * 6  # clean and corrupted, attacks, sensitivity


def test_figures_of_a_run(done: tuple[AuditResult, Counted]) -> None:
    result, _ = done
    assert result.clean["right"] == 6
    table = result.corruptions.set_index(["corruption", "severity"])["top1"]
    assert table["brightness", 5] == pytest.approx(2 / 6)  # all are bright now
    assert table["gaussian_noise", 1] == 1.0
    assert result.answers.query("corruption == 'brightness' and severity == 5")["answer"].unique().tolist() == [
        "bright"
    ]
    assert len(result.sensitivity) == 2
    assert result.record["attacks"]["accuracy at budgets"][0]["right"] == 3


def test_it_says_what_hurts_most_and_how_far_it_holds(done: tuple[AuditResult, Counted]) -> None:
    result, _ = done
    said = "\n".join(result.verdict)
    assert "tiny is right about 6 of 6 clips (100 %; 95 % interval 61 to 100 %)" in said
    assert "Brightness hurts most" in said
    assert "Half of the clean accuracy is lost from severity" in said
    assert "Under attack, 6 queries each by rl and grow_and_reduce, it holds" in said
    page = (result.folder / "report.html").read_text("utf-8")
    for sentence in result.verdict:
        assert sentence.replace("'", "&#39;") in page
    assert json.loads((result.folder / "audit.json").read_text("utf-8"))["verdict"] == result.verdict
    assert result.record["victim"]["network"] in page  # the hash of the weights
    assert "vidmarl" in result.record["provenance"]
    assert "Brightness hurts most" in result._repr_html_()
    assert len(result.plot().data[0].z) == 2


def test_a_folder_is_opened_again(done: tuple[AuditResult, Counted], tmp_path: Path) -> None:
    result, _ = done
    again = AuditResult.load(result.save(tmp_path / "copy"))
    assert again.verdict == result.verdict
    pd.testing.assert_frame_equal(again.corruptions, result.corruptions)
    assert list(again.trials()) == ["rl", "grow_and_reduce"]
    assert again.report(tmp_path / "page.html").stat().st_size > 100_000
    with pytest.raises(CheckpointError, match="expected the folder that"):
        AuditResult.load(tmp_path)


@pytest.mark.thorough
def test_an_audit_goes_on_where_it_was_stopped(done: tuple[AuditResult, Counted], tmp_path: Path) -> None:
    whole, first = done
    tiny = brightness()
    out = tmp_path / "audit"
    settings = {"attack_clips": 3, "sensitivity_clips": 2, **SMALL}
    for stop in (20, 75):  # among the corruptions, and among the attacks
        hook = tiny.victim.model.register_forward_pre_hook(  # type: ignore[union-attr]
            lambda *_, stop=stop: (_ for _ in ()).throw(KeyboardInterrupt) if tiny.seen >= stop else None
        )
        with pytest.raises(KeyboardInterrupt) as caught:
            vidmarl.audit(tiny.victim, clips_and_labels(), out, **settings)  # type: ignore[arg-type]
        assert any("The same command goes on" in note for note in caught.value.__notes__)
        hook.remove()
    result = vidmarl.audit(tiny.victim, clips_and_labels(), out, **settings)  # type: ignore[arg-type]
    assert (out / "clips.csv").read_bytes() == (whole.folder / "clips.csv").read_bytes()
    assert result.verdict == whole.verdict
    assert tiny.seen < 1.5 * first.seen
    before = tiny.seen
    vidmarl.audit(tiny.victim, clips_and_labels(), out, **settings)  # type: ignore[arg-type]
    assert tiny.seen == before


def test_more_only_adds_and_damage_is_asked_again(tmp_path: Path) -> None:
    tiny = brightness()
    how = {"attack_clips": 0, "sensitivity_clips": 0, "progress": False}

    def asked(**more: object) -> int:
        before = tiny.seen
        vidmarl.audit(tiny.victim, clips_and_labels(3), tmp_path, **how | more)  # type: ignore[arg-type]
        return tiny.seen - before

    assert asked(corruptions=["contrast"]) == 3 * 6
    assert asked(corruptions=["contrast", "sampling"]) == 3 * 5
    assert asked(corruptions=["contrast"], seed=1) == 3 * 6
    assert asked(corruptions=[]) == 0
    broken = sorted(tmp_path.glob("answers/*/*.json"))[0]
    broken.write_text(broken.read_text("utf-8")[:-20], "utf-8")
    assert asked(corruptions=["contrast"]) + asked(corruptions=["contrast"], seed=1) == 6


def test_clips_without_labels_are_held_against_the_clean_answer(make_video: MakeVideo, tmp_path: Path) -> None:
    make_video("loose/a.mp4", frames=8)
    data = Folder(tmp_path / "loose")
    tiny = brightness().victim
    how = {"attack_clips": 0, "sensitivity_clips": 0, "corruptions": ["brightness"], "progress": False}
    with pytest.raises(DataError, match=r"no clip of .* has a label.*labels='prediction'"):
        vidmarl.audit(tiny, data, tmp_path / "out", **how)  # type: ignore[arg-type]
    result = vidmarl.audit(tiny, data, tmp_path / "out", labels="prediction", **how)  # type: ignore[arg-type]
    assert result.clean["top1"]["share"] == 1.0
    assert "have no labels" in result.verdict[0]


# Two victims


@pytest.mark.thorough
def test_two_audits_are_compared_clip_by_clip(tmp_path: Path) -> None:
    clips, labels = clips_and_labels(12)
    how = {
        "corruptions": ["brightness", "contrast"],
        "attack_clips": 6,
        "budget": 6,
        "sensitivity_clips": 0,
        "progress": False,
    }
    one = vidmarl.audit(brightness().victim, (clips, labels), tmp_path / "one", **how)  # type: ignore[arg-type]
    worse = brightness(low=0.15)  # wrong about what is not dark
    worse.victim.name = "worse"
    other = vidmarl.audit(worse.victim, (clips, labels), tmp_path / "other", **how)  # type: ignore[arg-type]
    found = compare_audits(one, other)
    right = [result.answers.query("corruption == @CLEAN")["rank"].eq(0).mean() for result in (one, other)]
    assert (found.clean.first, found.clean.second) == tuple(right)
    assert found.clean.sure()
    assert found.clean.clips == 12
    assert found.held is not None
    assert found.held.clips == 6
    assert "tiny" in found.verdict[0]
    mine, yours = (tables.by_clip(result.answers)["contrast"].mean() for result in (one, other))
    row = found.table.set_index("corruption").loc["contrast"]
    assert (row["first"], row["second"]) == pytest.approx((mine, yours))
    [page, csv, record] = found.save(tmp_path / "both")
    assert found.verdict[0] in page.read_text("utf-8")
    assert json.loads(record.read_text("utf-8"))["verdict"] == found.verdict
    assert len(pd.read_csv(csv)) == 2
    assert compare_audits(one, one).clean.difference == 0
    other.answers["clip"] = "another"
    with pytest.raises(ClipError, match="no clip in common"):
        compare_audits(one, other)


# The command line


def test_data_goes_by_folder_list_and_name(make_video: MakeVideo, tmp_path: Path) -> None:
    video = make_video("videos/dark/a.mp4", frames=6)
    assert as_source(str(tmp_path / "videos")).classes == ["dark"]
    (tmp_path / "list.csv").write_text(f"path,label\n{video},grey\n", "utf-8")
    assert as_source(str(tmp_path / "list.csv")).classes == ["grey"]
    drawn = as_source({"class_path": "synthetic", "init_args": {"n": 4, "frames": 4, "size": 32}})
    assert len(drawn) == 4
    with pytest.raises(UnknownNameError, match=r"dataset 'ucf102'.*did you mean ucf101"):
        as_source("ucf102")


@pytest.mark.thorough
def test_the_command_audits_and_compares(
    make_video: MakeVideo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("right", "left"):
        make_video(f"videos/{name}/{name}.mp4", frames=10, size=(32, 32))
    monkeypatch.chdir(tmp_path)
    words = [
        "audit",
        "--victim",
        "demo",
        "--weights",
        "random",
        "--spec",
        '{"frames": 4, "size": [32, 32]}',
        "--data",
        "videos",
    ]
    words += [
        "--corruptions",
        "contrast",
        "--budget",
        "4",
        "--attack_clips",
        "1",
        "--sensitivity_clips",
        "1",
        "--no_progress",
    ]
    for out in ("a", "b"):
        cli.main([*words, "--out", out])
    said = capsys.readouterr().out
    assert "is right about" in said
    assert "wrote: a/report.html, a/audit.json" in said
    cli.main(["audit", "--compare", "a", "b", "--out", "both"])
    assert "wrote: both/compare.html" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["audit", "--victim", "demo"])
    assert "--data is needed" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_shows_pictures_and_charts(done: tuple[AuditResult, Counted], width: int, tmp_path: Path) -> None:
    browser = chromium(tmp_path, (width, 900))
    try:
        browser.get((done[0].folder / "report.html").as_uri())
        browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
        browser.execute_async_script("dispatchEvent(new Event('beforeprint')); setTimeout(arguments[0], 1500)")
        charts = browser.execute_script(
            "return [...document.querySelectorAll('.chart')].map(one => one.querySelectorAll('svg').length)"
        )
        assert len(charts) >= 5
        assert all(charts)
        pictures = browser.execute_script(
            "return [...document.querySelectorAll('.gallery img')].filter((one) => one.naturalWidth > 0).length"
        )
        assert pictures == 10
        browser.execute_async_script("dispatchEvent(new Event('afterprint')); setTimeout(arguments[0], 1500)")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.get_log("browser") == []
    finally:
        browser.quit()


def test_a_victim_without_scores_is_audited_by_its_decisions(tmp_path: Path) -> None:
    from vidmarl.victims.decisions import decisions_only

    silent = decisions_only(brightness().victim)
    how = {"corruptions": ["brightness"], "attack_clips": 3, "budget": 5, "progress": False}
    result = vidmarl.audit(silent, clips_and_labels(3), tmp_path, **how)  # type: ignore[arg-type]
    assert result.sensitivity == []
    assert "says nothing but a class" in result.verdict[0]
    assert result.attacks is not None


def test_a_victim_that_fails_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    tiny = brightness()

    def fail(*_: object) -> None:
        if tiny.seen > 8:
            raise RuntimeError("gone")

    tiny.victim.model.register_forward_pre_hook(fail)  # type: ignore[union-attr]
    with pytest.raises(VictimError, match="gone"):
        vidmarl.audit(tiny.victim, clips_and_labels(), tmp_path, **SMALL)  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("answers/*/*.json"))) == 1


def test_a_verdict_on_nothing_is_short(done: tuple[AuditResult, Counted]) -> None:
    result, _ = done
    alone = AuditResult(result.folder, result.record, result.answers.query("corruption == @CLEAN"), None, [])
    assert len(verdict(alone)) == 1


def test_the_page_on_audits_has_every_severity() -> None:
    text = (Path(__file__).parents[1] / "docs" / "audit.md").read_text("utf-8")
    for name, one in CORRUPTIONS.items():
        assert f"| `{name}` | {one.setting} | {', '.join(map(str, one.settings))} |" in text

"""The result of an attack: its table, its rows, and that saving and loading neither lose nor
blindly trust anything."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import os
import platform
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Brightness
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from torch import nn

import vidmarl
from vidmarl import AttackResult, GrowAndReduce, RandomCells, RLAttack, TubeletGrid, Victim, metrics
from vidmarl.errors import CheckpointError
from vidmarl.perturbations.renderer import to_8bit
from vidmarl.utils.fingerprints import fingerprint


def attack_three() -> AttackResult:
    """A real attack on a clip that is easy to fool, one that is hard, and one that is wrong from
    the start."""
    random = torch.Generator().manual_seed(0)
    levels = torch.tensor([0.42, 0.5, 0.3]).view(3, 1, 1, 1, 1)
    clips = (levels + 0.05 * torch.randn(3, 3, 4, 24, 32, generator=random)).clamp(0, 1)
    victim = Victim(Brightness(), labels=["dark", "grey <b>&", "bright"], name="brightness")
    attack = GrowAndReduce(
        lambda clips, strength, noise: clips - 0.25 * strength, budget=20, grid=TubeletGrid(2, 8, 8), progress=False
    )
    return attack(victim, clips, vidmarl.Misclassify([1, 1, 1]))


@pytest.fixture(scope="module")
def result() -> AttackResult:
    return attack_three()


def same(one: AttackResult, other: AttackResult) -> None:
    """Every field is equal, bit for bit, NaN included."""
    for field in dataclasses.fields(AttackResult):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("settings", "missing"):
            assert a == b
        elif field.name == "provenance":
            assert {k: v for k, v in a.items() if k != "time"} == {k: v for k, v in b.items() if k != "time"}
        elif field.name == "history":
            assert a.keys() == b.keys()
            assert all(torch.equal(a[k].nan_to_num(-7), b[k].nan_to_num(-7)) for k in a)
        else:
            assert a.dtype == b.dtype
            assert torch.equal(a, b), field.name


class TestTable:
    def test_has_a_row_per_clip_that_agrees_with_the_fields(self, result: AttackResult) -> None:
        table = result.metrics()
        assert table["success"].tolist() == result.success.tolist()
        assert table["skipped"].tolist() == [False, False, True]
        assert table["queries"].tolist() == result.queries.tolist()
        assert table["prediction"].tolist() == ["grey <b>&", "grey <b>&", "dark"]
        assert table["goal"].tolist() == ["grey <b>&"] * 3
        changed = table["adversarial_prediction"] != table["prediction"]
        assert changed.tolist() == result.success.tolist()
        assert table["l2"][0] == pytest.approx(float((result.adversarial - result.clean)[0].norm()))
        wins = table.index[table["success"]]
        assert len(wins) >= 1
        for i in wins:  # the smallest success in the history is the clip that is returned
            assert table["l2"][i] == pytest.approx(float(metrics.best_l2_at(result, [20])[i, 0]), rel=1e-5)
            first = int(table["first_success"][i])
            assert result.history["margin"][i, first - 1] < 0 <= result.history["margin"][i, : first - 1].min()

    def test_says_nothing_about_perturbations_of_skipped_clips(self, result: AttackResult) -> None:
        row = result.metrics().iloc[2]
        assert row[["l0", "l2", "ssim", "first_success"]].isna().all()

    def test_of_nothing_but_skipped_clips_is_defined(self, result: AttackResult) -> None:
        assert result[2].metrics()["l2"].isna().all()
        assert len(result[:0].metrics(slow=True)) == 0

    def test_slow_metrics_come_when_asked(self, result: AttackResult) -> None:
        assert "warping" not in result.metrics()
        assert result.metrics(slow=True)["warping"].notna().tolist() == [True, True, False]


class TestRows:
    def test_every_kind_of_index(self, result: AttackResult) -> None:
        same(result[1], result[1:2])
        same(result[-1], result[[2]])
        same(result[torch.tensor([2, 0])], AttackResult.cat([result[2], result[0]]))
        same(result[~result.skipped], result[:2])
        for one in (
            np.int64(1),
            np.uint8(1),
            torch.tensor(1),
            torch.tensor([1]),
            np.array(1),
            np.array([1]),
            (1,),
            [-2],
        ):
            same(result[one], result[1])
        for mask in ([True, False, True], np.array([True, False, True]), torch.tensor([True, False, True])):
            same(result[mask], result[[0, 2]])
        same(result[::-1], result[[2, 1, 0]])
        for nothing in ([], np.array([], dtype=int), torch.zeros(0, dtype=torch.int64), slice(0, 0), [False] * 3):
            assert len(result[nothing]) == 0
            assert result[nothing].clean.shape == (0, *result.clean.shape[1:])

    @settings(max_examples=50)
    @given(rows=st.lists(st.integers(-3, 2), max_size=5) | st.slices(3))
    def test_rows_are_those_of_a_list(self, result: AttackResult, rows: Any) -> None:
        wanted = [range(3)[row] for row in rows] if isinstance(rows, list) else list(range(3))[rows]
        assert result[rows].full_l2.tolist() == [result.full_l2[row].item() for row in wanted]

    @pytest.mark.parametrize("rows", [3, -4, np.int64(3), torch.tensor(3), [0, 3], [True], np.array([True] * 4)])
    def test_what_is_beyond_the_clips(self, result: AttackResult, rows: Any) -> None:
        with pytest.raises(IndexError, match="Taking clips of a result"):
            result[rows]

    @pytest.mark.parametrize(
        "rows", [1.0, "1", None, True, [1.5], [None], [[0, 1]], torch.eye(3).bool(), {}, object(), [0, [1]]]
    )
    def test_what_is_no_index(self, result: AttackResult, rows: Any) -> None:
        with pytest.raises((TypeError, IndexError), match="Taking clips of a result"):
            result[rows]

    def test_iterating_gives_each_clip_once(self, result: AttackResult) -> None:
        assert [int(one.queries) for one in result] == result.queries.tolist()

    def test_short_summary(self, result: AttackResult) -> None:
        text = repr(result)
        assert text.startswith(f"AttackResult(GrowAndReduce: {int(result.success.sum())} of 2 clips fooled, 1 skipped,")
        assert f"{int(result.queries.sum())} queries" in text
        assert "0 of 0 clips fooled" in repr(result[2])


class TestSavingAndLoading:
    def test_round_trip_is_exact(self, result: AttackResult, tmp_path: Path) -> None:
        path = result.save(tmp_path / "deep" / "one")
        assert sorted(p.name for p in path.iterdir()) == ["result.json", "result.safetensors"]
        same(AttackResult.load(path), result)

    def test_a_path_may_begin_at_home(
        self, result: AttackResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        assert result.save("~/r") == tmp_path / "home" / "r"
        assert os.listdir(tmp_path) == ["home"]
        same(AttackResult.load("~/r"), result)

    @settings(max_examples=20)
    @given(b=st.integers(0, 3), t=st.integers(1, 3), seed=st.integers(0, 1000), q=st.integers(1, 4))
    def test_round_trip_of_any_shape(
        self, tmp_path_factory: pytest.TempPathFactory, b: int, t: int, seed: int, q: int
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        clips = to_8bit(torch.rand(2, b, 3, t, 5, 7, generator=random))
        history = torch.randn(b, q, generator=random)
        history[:, 1:][history[:, 1:] > 0] = torch.nan
        made = AttackResult(
            success=torch.rand(b, generator=random) > 0.5,
            skipped=torch.zeros(b, dtype=torch.bool),
            finished=torch.rand(b, generator=random) > 0.5,
            queries=torch.full((b,), q),
            clean=clips[0],
            adversarial=clips[1],
            strength=torch.randn(b, t, 1, 1, generator=random),
            classes=torch.zeros(b, dtype=torch.int64),
            prediction=torch.zeros(b, dtype=torch.int64),
            adversarial_prediction=torch.ones(b, dtype=torch.int64),
            full_l2=torch.rand(b, generator=random),
            history={"margin": history, "l2": history.abs(), "score": -history},
            settings={"labels": ["é", "<script>"], "nested": {"list": [1, 2.5, None, True]}},
            missing=seed % 3,
        )
        same(AttackResult.load(made.save(tmp_path_factory.mktemp("any") / "r")), made)

    def test_record_is_strict_json_for_readers_without_python(self, result: AttackResult, tmp_path: Path) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        text = (result.save(tmp_path / "r") / "result.json").read_text(encoding="utf-8")
        record = json.loads(text, parse_constant=refuse)
        assert record["settings"]["victim"] == "brightness"
        assert [row["queries"] for row in record["clips"]] == result.queries.tolist()
        assert record["clips"][2]["l2"] is None

    def test_videos_hold_the_adversarial_clips_exactly(self, result: AttackResult, tmp_path: Path) -> None:
        import av

        path = result.save(tmp_path / "r", videos=True)
        for i in range(3):
            with av.open(path / f"clip-{i:04d}.webm") as video:
                frames = [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in video.decode(video=0)]
            expected = (result.adversarial[i] * 255).round().to(torch.uint8).permute(1, 2, 3, 0)
            assert torch.equal(torch.stack(frames), expected)
        same(AttackResult.load(path), result)

    def test_its_files_can_be_read_by_whom_other_files_can(self, result: AttackResult, tmp_path: Path) -> None:
        (tmp_path / "other").touch()
        path = result.save(tmp_path / "r", videos=True)
        assert {p.stat().st_mode for p in path.iterdir()} == {(tmp_path / "other").stat().st_mode}

    def test_an_earlier_result_is_replaced_whole(self, result: AttackResult, tmp_path: Path) -> None:
        result.save(tmp_path / "r", videos=True)
        result[:1].save(tmp_path / "r")
        same(AttackResult.load(tmp_path / "r"), result[:1])
        assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["result.json", "result.safetensors"]
        assert os.listdir(tmp_path) == ["r"]

    @pytest.mark.parametrize("what", ["file", "folder", "result with a note"])
    def test_nothing_else_is_overwritten_unasked(self, result: AttackResult, tmp_path: Path, what: str) -> None:
        path = tmp_path / "mine"
        if what == "file":
            note = path
        elif what == "folder":
            path.mkdir()
            note = path / "note.txt"
        else:
            note = result.save(path) / "note.txt"
        note.write_text("mine")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            result.save(path)
        assert note.read_text() == "mine"
        same(AttackResult.load(result.save(path, overwrite=True)), result)
        assert os.listdir(tmp_path) == ["mine"]

    def test_a_failure_leaves_what_was_there(
        self, result: AttackResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result.save(tmp_path / "r")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(AttackResult, "_write_videos", full)
            with pytest.raises(OSError, match="No space"):
                result[:1].save(tmp_path / "r", videos=True)
        odd = dataclasses.replace(result, settings={"model": object()})
        with pytest.raises(TypeError, match="plain data"):
            odd.save(tmp_path / "r")
        same(AttackResult.load(tmp_path / "r"), result)
        assert os.listdir(tmp_path) == ["r"]

    def test_damage_is_found(self, result: AttackResult, tmp_path: Path) -> None:
        path = result.save(tmp_path / "r")
        tensors = path / "result.safetensors"
        whole = tensors.read_bytes()
        flipped = bytearray(whole)
        flipped[-1] ^= 1
        for damaged in (bytes(flipped), whole[: len(whole) // 2], b""):
            tensors.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"result\.safetensors is damaged"):
                AttackResult.load(path)

    @pytest.mark.thorough
    @settings(max_examples=60)
    @given(data=st.data())
    def test_a_changed_byte_is_found_or_changes_nothing(
        self, result: AttackResult, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = result.save(tmp_path_factory.mktemp("changed") / "r")
        file = path / data.draw(st.sampled_from(["result.json", "result.safetensors"]))
        content = bytearray(file.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        try:
            loaded = AttackResult.load(path)
        except CheckpointError:
            return
        same(loaded, result)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"format": 99}, "expected format 3, got 99"),
            ({"format": None}, "another version"),
            ({"settings": "DELETE"}, r"result\.json is damaged, or was changed"),
            ({"missing": 3}, r"result\.json is damaged, or was changed"),
        ],
    )
    def test_another_record_is_refused(
        self, result: AttackResult, tmp_path: Path, change: dict[str, object], says: str
    ) -> None:
        path = result.save(tmp_path / "r")
        record = json.loads((path / "result.json").read_text()) | change
        record = {k: v for k, v in record.items() if v != "DELETE"}
        (path / "result.json").write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=says):
            AttackResult.load(path)

    def test_what_is_no_result_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nothing of that name"):
            AttackResult.load(tmp_path / "none")
        for content in ("{", "[]", "\xff\x00"):
            (tmp_path / "result.json").write_text(content, encoding="latin-1")
            (tmp_path / "result.safetensors").write_bytes(b"")
            with pytest.raises(CheckpointError, match="Loading a result"):
                AttackResult.load(tmp_path)
        (tmp_path / "text").write_text("hello")
        with pytest.raises(CheckpointError, match="expected a folder"):
            AttackResult.load(tmp_path / "text")


class TestProvenance:
    def test_says_what_it_takes_to_get_the_result_again(self, result: AttackResult) -> None:
        told = result.provenance
        assert told["vidmarl"] == vidmarl.__version__
        assert (told["torch"], told["python"]) == (torch.__version__, platform.python_version())
        assert told["device"].startswith("cpu (")
        assert (told["threads"], told["command"]) == (torch.get_num_threads(), sys.argv)
        assert abs(datetime.now(UTC) - datetime.fromisoformat(told["time"])) < timedelta(hours=1)
        assert told["victim"]["name"] == "brightness"
        assert told["networks"] == {}, "an attack that has none"

    def test_is_that_of_the_victim_and_the_agents(self) -> None:
        victim = Victim(nn.Sequential(Brightness(), nn.Linear(3, 3)), mean=(0, 0, 0), spec=vidmarl.ClipSpec(4, 32))
        attack = RLAttack("gaussian_noise", budget=2, progress=False)
        clips = torch.full((1, 3, 4, 32, 32), 0.5)
        first = attack(victim, clips)
        assert first.provenance["victim"] == json.loads(json.dumps(victim.identity()))
        assert first.provenance["networks"] == {"agents": fingerprint(attack.agents)}
        with torch.no_grad():
            victim.model[1].bias += 1e-3
        changed = attack(victim, clips).provenance["victim"]["network"]
        assert changed == victim.identity()["network"] != first.provenance["victim"]["network"]

    def test_is_saved_as_are_results_of_before(self, result: AttackResult, tmp_path: Path) -> None:
        path = result.save(tmp_path / "r")
        record = json.loads((path / "result.json").read_text())
        assert record["provenance"] == result.provenance
        assert record["complete"]
        tensors = {key: v for key, v in load_file(path / "result.safetensors").items() if key != "finished"}
        content = save(tensors)
        (path / "result.safetensors").write_bytes(content)
        new = ("provenance", "complete", "missing")
        before = {key: value for key, value in record.items() if key not in new} | {"format": 2}
        (path / "result.json").write_text(json.dumps(before | {"sha256": hashlib.sha256(content).hexdigest()}))
        same(AttackResult.load(path), dataclasses.replace(result, provenance={}))

    def test_a_victim_that_cannot_be_hashed_can_be_attacked(self) -> None:
        class Odd(Brightness):
            def get_extra_state(self) -> object:
                return lambda: None

        result = RandomCells("brightness", budget=2, progress=False)(Victim(Odd()), torch.full((1, 3, 2, 24, 32), 0.5))
        assert result.provenance["victim"] == {"name": "Odd", "network": None}


class TestInANotebook:
    def test_html_has_table_picture_and_no_markup_of_labels(self, result: AttackResult) -> None:
        page = result._repr_html_()
        assert "<table" in page
        assert "data:image/webp;base64," in page
        assert "grey &lt;b&gt;&amp;" in page
        assert "grey <b>" not in page

    def test_html_says_what_came_of_each_clip(self, result: AttackResult) -> None:
        rows = re.findall(r"<tr>\s*<td>.*?</tr>", result._repr_html_(), flags=re.DOTALL)
        cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
        assert result.outcomes[2] == "skipped"
        assert [row[2] for row in cells] == result.outcomes
        now = [html.escape(result.label(c)) for c in result.adversarial_prediction.tolist()]
        assert [row[3] for row in cells] == now
        assert [int(row[4]) for row in cells] == result.queries.tolist()
        assert cells[2][5:] == ["—"] * len(cells[2][5:])  # a clip that was not attacked has no numbers

    def test_html_of_an_attack_with_targets_names_them(self) -> None:
        victim = Victim(Brightness(), labels=["dark", "grey", "bright"])
        targeted = RandomCells("brightness", budget=4, progress=False)(
            victim, torch.full((1, 3, 4, 24, 32), 0.5), vidmarl.Target([0])
        )
        assert "<td>dark</td>" in targeted._repr_html_()

    def test_html_of_no_clips(self, result: AttackResult) -> None:
        assert "0 of 0 clips" in result[:0]._repr_html_()

    def test_plot_has_a_frame_for_each_frame(self, result: AttackResult) -> None:
        figure = result.plot(0)
        assert len(figure.frames) == 4
        assert len(figure.data) == 5
        assert "fooled" in figure.layout.title.text
        assert "<b>&" not in figure.layout.title.text.replace("&lt;b&gt;&amp;", "")


def test_metrics_table_joins_across_attacks(result: AttackResult) -> None:
    other = RandomCells(lambda c, s, n: c - 0.25 * s, budget=20, grid=TubeletGrid(2, 8, 8), progress=False)(
        Victim(Brightness()), result.clean, vidmarl.Misclassify([1, 1, 1])
    )
    both = pd.concat([result.metrics(), other.metrics()], keys=["grow", "random"])
    assert len(both) == 6
    assert metrics.size_ratio(result, other).clips == 2

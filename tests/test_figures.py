"""The figures: what they show is what is in the result, and each is usable alone."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Brightness
from PIL import Image
from test_report import films
from torch import Tensor

import vidmarl
from vidmarl import AttackResult, GrowAndReduce, RandomCells, Victim, metrics
from vidmarl.attacks.saved import SavedResult
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.queries.clip import ClipView
from vidmarl.queries.session import PHASES
from vidmarl.report import figures
from vidmarl.report.figures import comparison
from vidmarl.report.figures import films as films_module

EVIL = "<a href='//evil'>x</a>"


def attack(kind: Callable[..., Any], clips: Tensor, labels: list[str]) -> AttackResult:
    """Makes clips darker until the victim no longer says "grey"."""
    distort = vidmarl.distortions.FunctionDistortion(lambda clips, strength, noise: clips - 0.5 * strength)
    made = kind(distort, budget=16, grid=TubeletGrid(2, 8, 8), progress=False)
    result: AttackResult = made(Victim(Brightness(), labels=labels), clips, vidmarl.Misclassify([1] * len(clips)))
    return result


@pytest.fixture(scope="module")
def results() -> dict[str, AttackResult]:
    """Two attacks on four clips, the last of which is dark, so wrong from the start."""
    clips = films(4)
    clips[3] *= 0.5
    labels = ["dark", "grey", "bright"]
    return {"grow": attack(GrowAndReduce, clips, labels), "random": attack(RandomCells, clips, labels)}


@pytest.fixture
def result(results: dict[str, AttackResult]) -> AttackResult:
    return results["grow"]


def titles(figure: Any) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


class TestFilms:
    def test_original_attacked_difference_and_region_go_in_step(self, result: AttackResult) -> None:
        figure = figures.frames(result.clean[0], result.adversarial[0], result.strength[0])
        assert len(figure.frames) == len(figure.layout.sliders[0].steps) == 6
        names = [title.split(" x")[0] for title in titles(figure)]
        assert names == ["original", "attacked", "difference", "region"]
        for frame in figure.frames:
            assert list(frame.traces) == [0, 1, 2, 3, 4]  # the last one is the outline
            assert len(frame.data) == 5

    def test_the_region_is_outlined_in_the_frames_where_it_is(self) -> None:
        clean, strength = films(1, frames=4)[0], torch.zeros(2, 6, 6)
        strength[1, 2, 3] = 1
        figure = figures.frames(clean, clean, strength, (2, 8, 8))
        x = [frame.data[-1].x for frame in figure.frames]
        assert x[0] == x[1] == ()
        assert set(x[2]) == set(x[3]) == {24, 32, None}

    def test_without_a_map_there_is_no_region(self, result: AttackResult) -> None:
        plain = figures.frames(result.clean[0], result.adversarial[0])
        assert len(plain.data) == 3

    def test_the_caption_says_how_much_the_difference_is_amplified(self) -> None:
        clean = torch.full((3, 2, 8, 8), 0.5)
        assert titles(figures.frames(clean, clean + 0.06))[2] == "difference x8"
        assert titles(figures.frames(clean, clean + 0.2))[2] == "difference x2"

    def test_figures_are_light(self) -> None:
        clean = torch.full((3, 4, 176, 176), 0.5)
        noisy = (clean + 0.1 * torch.randn(clean.shape)).clamp(0, 1)
        assert len(figures.frames(clean, noisy).to_json()) < 600_000  # as PNG 1,400,000

    def test_frames_are_scaled_down_where_there_are_many_pixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(films_module, "MOST_PIXELS", 4 * 24 * 30)
        clip = torch.rand(3, 4, 48, 60)
        figure = figures.frames(clip, 1 - clip)
        for trace in figure.data:
            assert Image.open(io.BytesIO(base64.b64decode(trace.source.split(",")[1]))).size == (30, 24)
            assert (trace.dx, trace.dy) == (2, 2)  # so that the outline lies where it belongs

    @pytest.mark.slow
    def test_a_notebook_exported_to_html_keeps_its_figures(self, tmp_path: Path) -> None:
        nbformat = pytest.importorskip("nbformat")
        pytest.importorskip("nbconvert")
        code = "import torch\nfrom vidmarl.report import figures\nclip = torch.rand(3, 2, 8, 8)\n"
        cells = [nbformat.v4.new_code_cell(code + "figures.frames(clip, 1 - clip)")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "mine.ipynb")
        command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", "mine.ipynb"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
        page = (tmp_path / "mine.html").read_text("utf-8")
        assert page.count("Plotly.newPlot(") == 1
        assert "jpeg;base64," in page

    def test_side_by_side_has_a_panel_for_each_clip_under_its_name(self) -> None:
        one, other = films(2, frames=3)
        figure = figures.side_by_side({"one": one, "<b>two": other, "again": one})
        assert titles(figure) == ["one", "&lt;b&gt;two", "again"]
        assert len(figure.frames) == 3
        first, second, third = (trace.source for trace in figure.data)
        assert first == third != second
        later = figures.side_by_side({"one": one, "other": other}, start=2)
        assert later.layout.sliders[0].active == 2
        assert [t.source for t in later.data] == [t.source for t in figure.frames[2].data][:2]

    def test_frames_open_where_there_is_something_to_see(self) -> None:
        [clean] = films(1, frames=4)
        adversarial = clean.clone()
        adversarial[:, 2, :8, :8] = 1 - clean[:, 2, :8, :8]
        figure = figures.frames(clean, adversarial)
        assert figure.layout.sliders[0].active == 2
        assert figure.data[1].source == figure.frames[2].data[1].source != figure.frames[0].data[1].source

    @pytest.mark.parametrize("sizes", [(), (24, 32)])
    def test_what_does_not_fit_side_by_side_is_refused(self, sizes: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="one shape"):
            figures.side_by_side({str(size): torch.zeros(3, 2, size, size) for size in sizes})


class TestWhereAndWhen:
    def test_where_shows_the_numbers_of_the_cells(self) -> None:
        values = torch.tensor([[0.0, 0.2], [0.4, 0.1]])
        [heat] = figures.where(values, torch.rand(3, 8, 16), quantity="loss (nats)").data
        assert np.allclose(heat.customdata, values)
        assert np.asarray(heat.z).max() == 1
        assert heat.colorbar.title.text == "loss (nats)"

    def test_timeline_has_a_picture_a_strength_and_a_change_for_each_frame(self) -> None:
        clean, strength = torch.full((3, 4, 8, 8), 0.5), torch.zeros(2, 2, 2)
        strength[1, 0, 0] = -1
        adversarial = clean.clone()
        adversarial[:, 2:, :4, :4] += 0.4
        figure = figures.timeline(clean, adversarial, strength)
        _, bars, flicker = figure.data
        assert list(bars.x) == [1, 2, 3, 4]
        assert list(bars.y) == [0, 0, 0.25, 0.25]
        assert list(flicker.x) == [1.5, 2.5, 3.5]
        assert np.allclose(flicker.y, [0, 0.16 / 4, 0])
        assert np.mean(flicker.y) == pytest.approx(float(metrics.flicker(clean[None], adversarial[None])), rel=1e-5)
        assert [image.x for image in figure.layout.images] == [1, 2, 3, 4]

    def test_of_a_long_clip_the_timeline_shows_some_frames(self) -> None:
        clip = torch.rand(3, 40, 8, 8)
        assert len(figures.timeline(clip, clip, torch.rand(40, 2, 2)).layout.images) == 14

    def test_regions_weigh_every_clip_the_same(self) -> None:
        strength = torch.zeros(2, 2, 2, 2)
        strength[0, 0, 0, 0], strength[1, 1, 1, 1] = 1, -0.01
        where, when = figures.regions({"both": strength}).data
        assert np.allclose(where.customdata, [[2, 0], [0, 2]])
        assert np.allclose(when.y, [1, 1])
        assert np.allclose(when.x, [0.25, 0.75])

    def test_regions_of_groups_of_different_shapes(self) -> None:
        groups = {"a": torch.rand(3, 2, 4, 4), "<b>": torch.rand(1, 5, 40, 20)}
        first, second, *lines = figures.regions(groups).data
        assert np.shape(first.z) == (4, 4)
        assert np.shape(second.z) == (16, 16)
        assert [line.name for line in lines] == ["a", "&lt;b&gt;"]
        assert [title.split("<br>")[1].split(",")[0] for title in titles(figures.regions(groups))] == [
            "3 clips",
            "1 clip",
        ]

    def test_agreement_is_the_rank_correlation(self) -> None:
        one = torch.arange(8.0).view(1, 2, 2, 2)
        other = torch.stack([one[0] ** 3, -one[0] + 7]).repeat(1, 1, 1, 1)
        [heat] = figures.agreement({"one": one.repeat(2, 1, 1, 1), "other": other}).data
        assert np.allclose(np.diag(heat.z), 1)
        assert np.isclose(heat.z[0][1], 0)  # the mean of 1 and -1

    def test_agreement_is_that_of_another_implementation(self) -> None:
        pandas = pytest.importorskip("pandas")
        one, other = torch.rand(1, 2, 3, 3).round(decimals=1), torch.rand(1, 2, 3, 3).round(decimals=1)
        table = pandas.DataFrame({"one": one.flatten().numpy(), "other": other.flatten().numpy()}).rank()
        [heat] = figures.agreement({"one": one, "other": other}).data
        assert heat.z[0][1] == pytest.approx(table.corr().iloc[0, 1])

    def test_agreement_of_victims_of_different_clips(self) -> None:
        corner = torch.zeros(2, 4, 8, 8)
        corner[:, :2, :4, :4] = 1
        [heat] = figures.agreement({"fine": corner, "coarse": corner[:, ::2, ::4, ::4]}).data
        assert heat.z[0][1] == pytest.approx(1)

    def test_what_has_no_clips_or_other_clips_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one group"):
            figures.regions({})
        with pytest.raises(ValueError, match=r"clips in each, got \{'none': 0\}"):
            figures.regions({"none": torch.rand(0, 2, 2, 2)})
        with pytest.raises(ValueError, match=r"the same clips, got \{'a': 1, 'b': 2\}"):
            figures.agreement({"a": torch.rand(1, 2, 2, 2), "b": torch.rand(2, 2, 2, 2)})


class TestPath:
    def test_trajectory_is_the_history(self, result: AttackResult) -> None:
        asked = int(result.queries[0])
        probability, margin, norm, runner_up, *_ = figures.trajectory(result, 0).data
        history = {key: values[0, :asked] for key, values in result.history.items()}
        assert list(margin.x) == list(range(1, asked + 1))
        assert np.allclose(probability.y, history["score"].exp())
        assert np.allclose(margin.y, history["margin"])
        assert np.allclose(norm.y, history["l2"])
        assert (probability.name, runner_up.name) == ("grey", "runner-up")
        assert np.allclose(np.array(runner_up.y) > np.array(probability.y), history["margin"] < 0)

    @pytest.mark.parametrize("targeted", [False, True])
    def test_the_runner_up_is_what_the_victim_says(self, targeted: bool) -> None:
        victim = Victim(Brightness(), labels=["dark", "grey", "bright"])
        goal = vidmarl.Target([0]) if targeted else vidmarl.Misclassify([1])
        clip = films(1)
        result = RandomCells(budget=2, grid=TubeletGrid(2, 8, 8), progress=False)(victim, clip, goal)
        own, _, _, rival, *_ = figures.trajectory(result).data
        chances = victim(result.clean)[0].exp()
        [index] = goal.classes.tolist()
        assert own.y[0] == pytest.approx(float(chances[index]), rel=1e-4)
        assert rival.y[0] == pytest.approx(float(chances[[i for i in range(3) if i != index]].max()), rel=1e-4)


class TestComparison:
    def test_budget_curves_are_those_of_the_metrics(self, results: dict[str, AttackResult]) -> None:
        figure = figures.budget_curves(results, budgets=[1, 4, 16])
        lines = [trace for trace in figure.data if trace.name == "random"]
        expected = metrics.curves(results["random"], [1, 4, 16])
        assert list(lines[0].y) == expected["FR"].tolist()
        assert list(lines[1].y) == expected["L2"].tolist()

    def test_intervals_stand_beside_each_other_and_can_be_hidden(self, results: dict[str, AttackResult]) -> None:
        figure = figures.budget_curves(results, budgets=[1, 4, 16])
        whiskers = [trace for trace in figure.data if trace.error_y.array is not None]
        assert len(whiskers) == 2 * len(results)
        assert not set(whiskers[0].x) & set(whiskers[2].x)
        expected = metrics.curves(results["grow"], [4, 16])
        top = np.array(whiskers[0].y) + np.array(whiskers[0].error_y.array)
        assert top.tolist() == pytest.approx(expected["FR high"].tolist())
        hide = figure.layout.updatemenus[0].buttons[1]
        assert list(hide.args[0].items()) == [("visible", False)]
        assert [figure.data[k] for k in hide.args[1]] == whiskers

    def test_every_curve_has_its_name_at_its_end(self, results: dict[str, AttackResult]) -> None:
        figure = figures.budget_curves({"a": results["grow"], "b": results["grow"]})
        names = [trace for trace in figure.data if trace.mode == "text"]
        assert [trace.text[0] for trace in names] == ["a", "b"] * 2
        assert names[0].y[0] != names[1].y[0]  # the curves are the same, and the names can be read

    @pytest.mark.thorough
    def test_names_cannot_bring_markup_into_a_figure(self, results: dict[str, AttackResult]) -> None:
        for figure in (
            figures.budget_curves({EVIL: results["grow"]}),
            figures.sizes({EVIL: results["grow"]}, [EVIL] * 4),
        ):
            for trace in figure.data:
                shown = [trace.name or "", *(trace.text or ()), trace.hovertemplate or ""]
                assert not any("<a" in text for text in shown)

    def test_sizes_have_a_point_for_each_clip_that_was_attacked(self, result: AttackResult) -> None:
        [points] = figures.sizes({"grow": result}, names=["a", "b", "c", "d"]).data
        assert [text[0] for text in points.text] == ["a", "b", "c"]  # d was skipped
        assert list(points.x) == metrics.queries_until_success_at(result, [16])[:3, 0].tolist()
        assert np.allclose(points.y, metrics.best_l2_at(result, [16])[:3, 0])
        hollow = [symbol == "circle-open" for symbol in points.marker.symbol]
        assert hollow == (~result.success[:3]).tolist()


class TestEffect:
    @pytest.fixture
    def victim(self) -> Victim:
        return Victim(Brightness(), labels=["dark", "grey", "bright"])

    def test_each_strength_is_one_query_and_nothing_costs_none_again(self, victim: Victim) -> None:
        figure = figures.effect(victim, films(1)[0], ["brightness", "gaussian_blur", "gaussian_noise"], levels=4)
        assert victim.queries == 1 + 3 * 3
        assert len(figure.frames) == len(figure.layout.sliders[0].steps) == 4
        assert [title.split("<br>")[0] for title in titles(figure)] == ["Brightness", "GaussianBlur", "GaussianNoise"]

    def test_the_caption_is_what_the_victim_says_at_that_strength(self, victim: Victim) -> None:
        def darker(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
            return clips * (1 - strength)

        figure = figures.effect(victim, films(1)[0], {"dusk": darker}, levels=3)
        said = [frame.layout.annotations[0].text for frame in figure.frames]
        assert said == ["dusk<br><b>grey</b>", "dusk<br><b>dark</b>", "dusk<br><b>dark</b>"]
        curve = next(trace for trace in figure.data if trace.name == "dusk")
        assert list(curve.x) == [0, 0.5, 1]
        clip = films(1)
        expected = [float(victim((clip * factor * 255).round() / 255).exp()[0, 1]) for factor in (1, 0.5, 0)]
        assert list(curve.y) == pytest.approx(expected, abs=1e-3)

    def test_only_the_region_is_distorted(self, victim: Victim) -> None:
        def black(clips: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
            return clips * (1 - strength)

        clip, strength = films(1)[0], torch.zeros(6, 6, 6)
        strength[4, :3] = -1  # a distortion of one direction takes the magnitude
        figure = figures.effect(victim, clip, {"black": black}, strength, grid=TubeletGrid(1, 8, 8), levels=2)
        assert figure.layout.title.text.startswith("frame 5")
        picture = Image.open(io.BytesIO(base64.b64decode(figure.data[0].source.split(",")[1])))
        shown = np.asarray(picture)
        assert shown[:22].mean() < 6
        assert shown[26:].mean() > 60

    def test_too_little_to_show_is_refused(self, victim: Victim) -> None:
        for distortions, levels in (([], 5), (["jpeg"], 1)):
            with pytest.raises(ValueError, match="at least one distortion and two levels"):
                figures.effect(victim, films(1)[0], distortions, levels=levels)
        assert victim.queries == 0


class TestOfAResult:
    def test_every_figure_is_a_method(self, result: AttackResult) -> None:
        figure = result.plot(0)
        assert figure.layout.title.text.startswith("grey: ")
        assert len(figure.frames) == 6
        assert result.trajectory(1).to_json() == figures.trajectory(result, 1).to_json()
        assert len(result.timeline(2).data[1].y) == 6
        assert result.regions(0).layout.images

    def test_the_regions_are_those_of_the_fooled_clips(self, result: AttackResult) -> None:
        assert f"{int(result.success.sum())} clip" in titles(result.regions())[0]
        assert titles(result.regions(by="class"))[0].startswith("grey<br>")
        with pytest.raises(ValueError, match="no clip was attacked"):
            result[3].regions()
        with pytest.raises(ValueError, match="by='class'"):
            result.regions(by="colour")  # type: ignore[arg-type]

    @pytest.mark.thorough
    def test_a_saved_result_draws_the_same(self, result: AttackResult, tmp_path: Path) -> None:
        saved = SavedResult(result.save(tmp_path / "result"))
        for method in ("plot", "timeline", "trajectory", "regions"):
            assert getattr(saved, method)(1).to_json() == getattr(result, method)(1).to_json()
        assert saved.regions(by="class").to_json() == result.regions(by="class").to_json()

    @pytest.mark.thorough
    def test_labels_cannot_bring_markup_into_a_figure(self) -> None:
        result = attack(GrowAndReduce, films(1), [EVIL] * 3)
        for figure in (result.plot(), result.trajectory(), result.regions(0)):
            assert "<a href" not in figure.to_json()


@pytest.mark.parametrize(
    ("heights", "placed"),
    [
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]),
        ([0.5, 0.5, 0.5], [0.5, 0.6, 0.7]),
        ([1.0, 1.0, 1.0], [0.8, 0.9, 1.0]),
        ([1.0, 0.2, 0.96], [1.0, 0.2, 0.9]),
    ],
)
def test_labels_stand_apart_and_below_the_top(heights: list[float], placed: list[float]) -> None:
    assert comparison._apart(heights, 0.1, 1.0) == pytest.approx(placed)


class TestWhoActed:
    def test_each_query_is_in_the_lane_of_who_asked_it(self, result: AttackResult) -> None:
        asked = int(result.queries[0])
        phases = result.history["phase"][0, :asked]
        assert phases[0] == PHASES.index("clean")
        assert set(phases[1:].tolist()) == {PHASES.index("search"), PHASES.index("minimize")}
        lanes = {trace.y[0]: list(trace.x) for trace in figures.trajectory(result).data if trace.yaxis == "y4"}
        assert list(lanes) == ["search", "minimize"]
        assert sorted(lanes["search"] + lanes["minimize"]) == list(range(2, asked + 1))
        assert min(lanes["search"]) < min(lanes["minimize"])

    def test_a_result_that_does_not_know_has_no_lanes(self, result: AttackResult) -> None:
        known = {key: values for key, values in result.history.items() if key != "phase"}
        figure = figures.trajectory(dataclasses.replace(result, history=known))
        assert not [trace for trace in figure.data if trace.yaxis == "y4"]

    def test_a_search_that_ends_within_a_phase_leaves_it(self) -> None:
        session = types.SimpleNamespace(phase=torch.tensor([1, 1]))
        clip = ClipView.__new__(ClipView)
        clip._session, clip.row = session, 1  # type: ignore[assignment]
        with contextlib.suppress(KeyError), clip.phase("minimize"), clip.phase("refine"):
            assert session.phase.tolist() == [1, PHASES.index("refine")]
            raise KeyError
        assert session.phase.tolist() == [1, 1]


class TestTrainingCurves:
    LOG = "charts/queries,epoch,losses/policy_loss,step,train/l2,val/l2\n{}"

    def write(self, folder: Path, rows: list[str]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.csv").write_text(self.LOG.format("\n".join(rows)), "utf-8")
        return folder

    def test_quantities_share_a_panel_over_the_queries_of_training(self, tmp_path: Path) -> None:
        run = self.write(tmp_path / "version_0", ["100,0,0.5,0,3.0,", ",0,,0,,4.0", "250,1,0.4,1,2.0,"])
        figure = figures.training_curves(run)
        assert titles(figure) == ["l2", "losses/policy loss"]
        train, val, loss = figure.data
        assert (train.name, val.name, loss.name) == ("train", "val", "losses")
        assert (list(train.x), list(train.y)) == ([100, 250], [3, 2])
        assert (list(val.x), list(val.y)) == ([100], [4])  # validation is logged in a row of its own
        assert train.xaxis == val.xaxis != loss.xaxis
        assert figure.layout.xaxis.title.text == "queries of training"

    def test_a_folder_of_runs_shows_the_newest_and_a_dict_each(self, tmp_path: Path) -> None:
        old = self.write(tmp_path / "version_0", ["1,0,0.5,0,3.0,"])
        new = self.write(tmp_path / "version_1", ["7,0,0.5,0,3.0,"])
        os.utime(old / "metrics.csv", (0, 0))
        assert figures.training_curves(tmp_path).data[0].x[0] == 7
        both = figures.training_curves({"<old>": old, "new": new / "metrics.csv"})
        assert {trace.name for trace in both.data} == {
            "&lt;old&gt;, train",
            "&lt;old&gt;, losses",
            "new, train",
            "new, losses",
        }

    def test_what_is_no_log_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="CSVLogger"):
            figures.training_curves(tmp_path)
        with pytest.raises(FileNotFoundError, match="there is no"):
            figures.training_curves(tmp_path / "absent")
        (tmp_path / "metrics.csv").write_text("a,b\n1,2", "utf-8")
        with pytest.raises(ValueError, match="no log"):
            figures.training_curves(tmp_path)
        self.write(tmp_path, ["1,0,,0,,"])
        with pytest.raises(ValueError, match="no numbers yet"):
            figures.training_curves(tmp_path)

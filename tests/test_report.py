"""The figures and the report: what they show is what is in the result, and the page is one file
that harms nobody."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from browser import chromium, needs_chromium
from conftest import Brightness
from PIL import Image
from torch import Tensor

import vidmarl
from vidmarl import AttackResult, GrowAndReduce, RandomCells, TubeletGrid, Victim, metrics
from vidmarl.benchmark import Benchmark, VictimChoice, run_benchmark
from vidmarl.data.synthetic import Synthetic, make_clip
from vidmarl.report import pictures, verdict, write_report
from vidmarl.report.clips import typical_clips
from vidmarl.report.page import packed_plotly, script_json

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'&<b>"


def films(clips: int, frames: int = 6, size: int = 48) -> Tensor:
    """Procedural action clips, brought to a red level of about 0.45."""
    made = torch.stack([make_clip(0, i, i % 4, frames, size) for i in range(clips)]).float() / 255
    return (made - made[:, :1].mean((1, 2, 3, 4), keepdim=True) + 0.45).clamp(0, 1)


def attack(kind: Callable[..., Any], clips: Tensor, labels: list[str], **settings: Any) -> AttackResult:
    """Makes clips darker or brighter until the victim no longer says "grey"."""
    victim = Victim(Brightness(), labels=labels, name=settings.pop("name", "brightness"))
    distort = vidmarl.distortions.FunctionDistortion(lambda clips, strength, noise: clips - 0.2 * strength, signed=True)
    made = kind(distort, budget=16, grid=TubeletGrid(2, 8, 8), progress=False)
    return made(victim, clips, vidmarl.Misclassify([1] * len(clips)))


@pytest.fixture(scope="module")
def results() -> dict[str, AttackResult]:
    """Two attacks on three clips, the last of which is dark, so wrong from the start."""
    clips = films(3)
    clips[2] *= 0.5
    labels = ["dark", "grey", "bright"]
    return {"grow": attack(GrowAndReduce, clips, labels), "random": attack(RandomCells, clips, labels)}


@pytest.fixture(scope="module")
def report(results: dict[str, AttackResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", results, names=["a.mp4", "b.mp4", "c.mp4"])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which every text is an attempt to run a script."""
    result = attack(GrowAndReduce, films(2), [EVIL] * 3, name=EVIL)
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    return write_report(path, {EVIL: result, EVIL + "2": result}, title=EVIL, names=[EVIL] * 2)


@pytest.fixture(scope="module")
def benchmark_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a benchmark that has kept its clips."""
    benchmark = Benchmark(
        victims=[VictimChoice("demo", "random", {"frames": 4, "size": 32})],
        attacks={"random_cells": {}, "square_tubes": {}},
        data=Synthetic(2, seed=1, frames=4, size=32),
        grid=TubeletGrid(1, 8, 8),
        distortions=[{"name": EVIL, "class_path": "gaussian_noise"}, "gaussian_blur"],
        budget=6,
        keep_clips=True,
        out=tmp_path_factory.mktemp("benchmark"),
        device="cpu",
    )
    done = run_benchmark(benchmark, progress=False)
    assert done is not None
    return done.report


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it should be. Script and style are kept
    apart."""

    VOID = frozenset({"meta", "link", "input", "img", "br"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("script", "style"):
            {"script": self.scripts, "style": self.styles}[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] == "style":
            self.styles[-1] += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str]:
        return [a["id"] for _, a in self.elements if a.get("id")]  # type: ignore[misc]


class TestPictures:
    def test_difference_is_grey_where_nothing_was_added(self) -> None:
        clean = torch.full((3, 2, 4, 4), 0.5)
        adversarial = clean.clone()
        adversarial[0, 1, 0, 0] += 20 / 255
        shown = pictures.difference(clean, adversarial, 4).astype(int)
        assert shown[1, 0, 0].tolist() == pytest.approx([128 + 80, 128, 128], abs=4)
        shown[1, 0, 0] = 128
        assert (shown == 128).all()

    @pytest.mark.parametrize(("change", "expected"), [(0.0, 1), (0.9, 1), (0.2, 2), (0.06, 8), (1 / 255, 64)])
    def test_gain_makes_changes_visible_and_keeps_them_in_range(self, change: float, expected: int) -> None:
        clean = torch.zeros(3, 2, 8, 8)
        assert pictures.gain(clean, clean + change) == expected

    def test_tint_leaves_what_was_not_attacked_grey(self) -> None:
        frames = np.full((4, 16, 16, 3), 100, np.uint8)
        strength = torch.zeros(2, 2, 2)
        strength[1, 0, 0], strength[1, 1, 1] = 1, -0.5
        drawn = pictures.tinted(frames, strength, (2, 8, 8)).astype(int)
        assert (drawn[:2] == 60).all()
        assert (drawn[2:, :8, 8:] == 60).all()
        more, less = drawn[2, 0, 0], drawn[3, 15, 15]
        assert np.abs(more - pictures.MORE).max() < np.abs(more - 60).max()  # nearer to its colour than to the grey
        assert less[2] > less[0] > less[1]
        assert np.abs(less - 60).max() < np.abs(np.array(pictures.LESS) - 60).max()

    def test_tubelets_near_each_other_share_a_hull(self) -> None:
        strength = torch.zeros(3, 32, 32)
        strength[1, 4, 4], strength[1, 4, 7], strength[1, 6, 4] = 1, -1, 0.5
        strength[1, 28, 28] = 1
        assert pictures.hulls(strength, (2, 2, 2), 1) == []
        hulls = pictures.hulls(strength, (2, 2, 2), 3)
        assert len(hulls) == 2
        near, far = hulls
        assert (near.min(0).tolist(), near.max(0).tolist()) == ([8, 8], [16, 14])
        assert sorted(map(tuple, far.tolist())) == [(56, 56), (56, 58), (58, 56), (58, 58)]

    def test_tubelets_of_the_same_hull_may_reach_beyond_the_clip(self) -> None:
        [hull] = pictures.hulls(torch.ones(1, 3, 3), (5, 8, 8), 4)  # clips of 20 px
        assert hull.max() == 24

    @pytest.mark.parametrize("count", [1, 2, 5, 16])
    def test_sprite_holds_every_frame_in_its_place(self, count: int) -> None:
        levels = np.linspace(0, 255, count).astype(np.uint8)
        frames = np.broadcast_to(levels[:, None, None, None], (count, 16, 24, 3)).copy()
        url, columns = pictures.sprite(frames)
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))
        for i, level in enumerate(levels):
            y, x = 16 * (i // columns), 24 * (i % columns)
            assert abs(sheet[y : y + 16, x : x + 24].mean() - level) < 4

    def test_animation_has_every_frame_and_three_panels(self) -> None:
        clip = films(1)[0]
        url = pictures.animation(clip, clip.flip(-1))
        moving = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/webp;base64,"))))
        assert moving.n_frames == clip.shape[1]  # type: ignore[attr-defined]
        assert moving.size == (3 * 48, 48)

    @pytest.mark.parametrize("std", [0.05, 0.1, 0.2])
    def test_a_picture_of_a_frame_shows_noise_as_strong_as_it_is(self, std: float) -> None:
        clean = films(1)[0]
        noisy = (clean + std * torch.randn(clean.shape)).clamp(0, 1)
        before, after = (pictures.to_frames(clip)[0] for clip in (clean, noisy))
        url = pictures.picture(after)
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))))
        assert drawn.shape == after.shape
        kept = (drawn.astype(float) - before).std() / (after.astype(float) - before).std()
        assert kept == pytest.approx(1, abs=0.2)


def outcome(sizes: list[float], full: float = 100.0, queries: int = 10) -> AttackResult:
    """An attack that fools clip `i` with its third query and an L2 of `sizes[i]`; NaN: never."""
    clips = len(sizes)
    l2 = torch.tensor(sizes)
    margin, norm = torch.ones(clips, queries), torch.zeros(clips, queries)
    margin[:, 2], norm[:, 2] = torch.where(l2.isnan(), 1.0, -1.0), l2.nan_to_num()
    zeros = torch.zeros(clips, dtype=torch.int64)
    pixels = torch.zeros(clips, 3, 2, 8, 8)
    return AttackResult(
        success=~l2.isnan(),
        skipped=torch.zeros(clips, dtype=torch.bool),
        finished=torch.ones(clips, dtype=torch.bool),
        queries=zeros + queries,
        clean=pixels,
        adversarial=pixels,
        strength=torch.zeros(clips, 2, 2, 2),
        classes=zeros,
        prediction=zeros,
        adversarial_prediction=zeros,
        full_l2=torch.full((clips,), full),
        history={"score": -margin.abs(), "margin": margin, "l2": norm},
        settings={"budget": queries, "victim": "victim"},
    )


class TestVerdict:
    def test_a_share_comes_with_its_interval(self) -> None:
        assert verdict.share(3, 3) == "3 of 3 clips (100 %; 95 % interval 44 to 100 %)"
        assert verdict.share(0, 6) == "0 of 6 clips (0 %; 95 % interval 0 to 39 %)"
        assert verdict.share(1, 1).startswith("1 of 1 clip (")
        assert verdict.share(0, 0) == "0 of 0 clips"

    @pytest.mark.parametrize(
        ("record", "name"),
        [
            ({"class_path": "vidmarl.distortions.gaussian_noise.GaussianNoise", "init_args": {}}, "Gaussian noise"),
            ({"class_path": "vidmarl.distortions.jpeg.JPEG", "init_args": {}}, "JPEG"),
            ({"class_path": "x.FunctionDistortion", "init_args": {"function": "mine.rain_drops"}}, "Rain drops"),
            ("frost", "Frost"),
            (None, ""),
        ],
    )
    def test_a_distortion_is_called_in_words(self, record: object, name: str) -> None:
        assert verdict.distortion({"distortion": record}) == name

    def test_the_leader_is_said_to_be_ahead_only_where_that_is_sure(self) -> None:
        small, large = [float(k) for k in range(1, 13)], [3.0 * k for k in range(1, 13)]
        first, compared = verdict.ahead({"large": outcome(large), "small": outcome(small)})
        assert first.startswith("small is ahead with a median L2 of 6.50 ")
        assert first.endswith(", surely of all others.")
        assert compared.startswith("small took 0.333 times the L2 of large, median over 12 clips")
        assert compared.endswith("p = 4.9e-04): surely less.")
        mixed = [k * (0.5 if k % 2 else 2.1) for k in range(1, 13)]
        first, compared = verdict.ahead({"a": outcome(small), "b": outcome(mixed)})
        assert first.endswith(", but not surely of a.")
        assert compared.endswith(": no sure difference.")

    def test_more_comparisons_need_more(self) -> None:
        base = [float(k) for k in range(1, 9)]
        better = [0.8 * k for k in base]  # the smallest p that 8 clips can give is 1 / 128
        pair = {"better": outcome(better), "base": outcome(base)}
        assert verdict.ahead(pair)[1].endswith("surely less.")
        many = pair | {f"copy {k}": outcome(base) for k in range(6)}
        assert not any(said.endswith("surely less.") for said in verdict.ahead(many))

    def test_of_few_clips_nothing_is_sure(self) -> None:
        said = verdict.ahead({"a": outcome([1.0, 2.0]), "b": outcome([3.0, 4.0])})
        assert said[1] == (
            "a took 0.417 times the L2 of b, median over 2 clips (too few clips to tell): no sure difference."
        )
        assert verdict.ahead({"alone": outcome([1.0])}) == []

    def test_the_median_the_easiest_and_the_hardest_clip(self) -> None:
        nan = float("nan")
        assert typical_clips({"a": outcome([4, 1, nan, 3, 2])}) == {3: "median", 1: "easiest", 2: "hardest"}
        assert typical_clips({"a": outcome([4.0])}) == {0: "median"}
        both = {"a": outcome([1, 2, 9]), "b": outcome([9, 2, 1])}  # the median over attacks is 5, 2, 5
        assert typical_clips(both)[1] == "easiest"


class TestPage:
    @pytest.mark.parametrize("which", ["report", "benchmark_report"])
    def test_is_well_formed_and_every_reference_resolves(self, which: str, request: pytest.FixtureRequest) -> None:
        page = Page(request.getfixturevalue(which))
        ids = page.ids()
        assert len(set(ids)) == len(ids)
        for _, attributes in page.elements:
            if "aria-labelledby" in attributes:
                assert attributes["aria-labelledby"] in ids
        assert {a["href"] for a in page.all("a")} <= {f"#{i}" for i in ids}
        assert page.all("html")[0]["lang"] == "en"
        assert {"viewport", "color-scheme"} <= {m.get("name") for m in page.all("meta")}
        assert all(canvas.get("aria-label") for canvas in page.all("canvas"))

    @pytest.mark.thorough
    @pytest.mark.parametrize("which", ["report", "hostile", "benchmark_report"])
    def test_refers_to_nothing_outside_of_itself(self, which: str, request: pytest.FixtureRequest) -> None:
        page = Page(request.getfixturevalue(which))
        for tag, attributes in page.elements:
            for name in ("src", "href", "action", "data", "srcset", "poster", "style"):
                value = attributes.get(name)
                assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert all("url(" not in style and "@import" not in style for style in page.styles)
        data, plotly, own = page.scripts
        assert "://" not in own
        assert "plotly.js v" in gzip.decompress(base64.b64decode(plotly))[:400].decode()
        assert json.loads(data)["clips"]
        policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert policy is not None
        assert policy.startswith("default-src 'none'")
        assert "http" not in policy

    def test_plotly_is_packed(self, report: Path) -> None:
        html = report.read_text(encoding="utf-8")
        assert "plotly.js v" not in html
        assert html.count(packed_plotly()) == 1
        assert len(packed_plotly()) < 2.2e6

    def test_hostile_texts_are_shown_and_never_become_markup(self, hostile: Path) -> None:
        page = Page(hostile)
        assert len(page.scripts) == 3
        assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
        assert all("onerror" not in attributes for _, attributes in page.elements)
        assert page.text.count(EVIL) >= 6

    def test_data_cannot_end_the_script_element_that_holds_them(self) -> None:
        for text in (EVIL, "</SCRIPT>", "<!--<script>", "\u2028"):
            written = script_json({text: [text]})
            assert "<" not in written
            assert json.loads(written) == {text: [text]}

    def test_says_what_the_result_says(self, report: Path, results: dict[str, AttackResult]) -> None:
        page = Page(report)
        text = " ".join(page.text.split())
        for name, result in results.items():
            held = 2 - int(result.success.sum())
            assert f"brightness held {verdict.share(held, 2)} against {name}" in text
        assert "1 clip was skipped" in text
        rows = [a for tag, a in page.elements if tag == "tr"]
        assert len(rows) >= 6 + 2
        data = json.loads(page.scripts[0])
        assert sorted(data["clips"]) == ["0", "1"]  # the skipped one is in the table only
        cells = [(t, y, x) for t, step in enumerate(data["clips"]["0"]["runs"][0]["strength"]) for y, x, _ in step]
        assert cells == [tuple(cell) for cell in results["grow"].strength[0].nonzero().tolist()]

    def test_words_come_first_then_pictures_then_curves_and_folded_tables(self, report: Path) -> None:
        html = report.read_text("utf-8")
        order = ['class="lead"', "<article", 'class="chart curves"', "<table"]
        at = [html.index(part) for part in order]
        assert at == sorted(at)
        page = Page(report)
        assert not any("open" in attributes for attributes in page.all("details"))
        assert html.index("<details><summary>All clips") < html.index('<table class="sortable"')

    def test_every_clip_has_pictures_that_need_no_script(self, report: Path) -> None:
        alternatives = [image["alt"] or "" for image in Page(report).all("img")]
        assert len(alternatives) == 2 * 3  # the original and two attacks, of two clips
        assert sum(text.startswith("Original, frame") for text in alternatives) == 2
        assert sum(text.startswith("random, frame") for text in alternatives) == 2

    def test_tables_come_as_files(self, report: Path, results: dict[str, AttackResult]) -> None:
        page = Page(report)
        files = json.loads(page.scripts[0])["files"]
        assert {a["data-file"] for a in page.all("button") if "data-file" in a} == set(files)
        clips = pd.read_csv(io.StringIO(files["clips.csv"]))
        assert clips["attack"].tolist() == ["grow"] * 3 + ["random"] * 3
        assert clips["clip"].tolist() == ["a.mp4", "b.mp4", "c.mp4"] * 2
        assert clips["queries"].tolist() == [*results["grow"].queries.tolist(), *results["random"].queries.tolist()]
        assert files["summary.tex"].startswith("\\begin{tabular}")
        assert "\\%" in files["summary.tex"]

    @pytest.mark.thorough
    def test_one_result_needs_no_name(self, results: dict[str, AttackResult], tmp_path: Path) -> None:
        path = write_report(tmp_path / "one.html", results["grow"], max_clips=1)
        text = " ".join(Page(path).text.split())
        assert "The victim says grey" in text
        assert "95 % interval 0 % to 66 %" in text  # none of two clips
        assert "no 95 % interval: too few clips" in text
        assert f"{metrics.INTERVALS}." in text
        assert "1 more attacked clip are" not in text
        assert "1 more attacked clip is in the table only" in text

    @pytest.mark.thorough
    def test_nothing_attacked_still_gives_a_page(self, results: dict[str, AttackResult], tmp_path: Path) -> None:
        page = Page(write_report(tmp_path / "none.html", results["grow"][2]))
        assert "held 0 of 0 clips" in page.text
        assert page.all("canvas") == []

    def test_a_benchmark_shows_each_clip_under_each_attack(self, benchmark_report: Path) -> None:
        page = Page(benchmark_report)
        alternatives = [image["alt"] or "" for image in page.all("img")]
        assert len(alternatives) == 2 * 2 * 3  # distortions, clips, the original and two attacks
        assert sum(text.startswith("square_tubes") for text in alternatives) == 4
        assert (
            page.text.count("held 2 of 2 clips")
            + page.text.count("held 1 of 2 clips")
            + page.text.count("held 0 of 2 clips")
            == 2 * 2
        )

    def test_what_cannot_be_shown_is_refused_before_anything_is_written(
        self, results: dict[str, AttackResult], tmp_path: Path
    ) -> None:
        path = tmp_path / "r.html"
        with pytest.raises(ValueError, match="at least one result"):
            write_report(path, {})
        with pytest.raises(ValueError, match="at least one clip"):
            write_report(path, results["grow"][:0])
        with pytest.raises(ValueError, match="same clips"):
            write_report(path, {"a": results["grow"][:1], "b": results["random"][1:2]})
        with pytest.raises(ValueError, match="got 2 names"):
            write_report(path, results, names=["a", "b"])
        assert os.listdir(tmp_path) == []

    @pytest.mark.thorough
    def test_a_failure_leaves_the_old_report(
        self, results: dict[str, AttackResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "r.html"
        path.write_text("old")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            write_report(path, results["grow"])
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["r.html"]

    @pytest.mark.slow
    def test_ten_native_clips_stay_below_ten_megabytes(self, tmp_path: Path) -> None:
        result = attack(GrowAndReduce, films(10, 16, 176), ["dark", "grey", "bright"])
        noisy = (
            result.clean + 0.1 * torch.randn(result.clean.shape, generator=torch.Generator().manual_seed(0))
        ).clamp(0, 1)
        worst = AttackResult(**{**vars(result), "adversarial": (noisy * 255).round() / 255})
        assert write_report(tmp_path / "r.html", result).stat().st_size < 10e6
        # noise on every pixel packs badly, in films and in stills
        assert write_report(tmp_path / "w.html", worst).stat().st_size < 16e6


@pytest.mark.browser
@needs_chromium
class TestInABrowser:
    @pytest.fixture(scope="class")
    def browser(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
        driver = chromium(tmp_path_factory.mktemp("profile"), logs=("browser", "performance"))
        yield driver
        driver.quit()

    @staticmethod
    def visit(browser: Any, path: Path, width: int = 1280) -> None:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get(path.as_uri())

    @staticmethod
    def until(browser: Any, script: str, *arguments: Any) -> Any:
        """What the script returns, once that is true; charts and pictures come when they are
        scrolled to."""
        deadline = time.monotonic() + 30
        while not (value := browser.execute_script(script, *arguments)):
            assert time.monotonic() < deadline, f"never came true: {script}"
            time.sleep(0.05)
        return value

    @staticmethod
    def unfold(browser: Any) -> None:
        browser.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")

    def clip(self, browser: Any, number: int | str = 0) -> Any:
        """A clip's article, its pictures painted."""
        article = browser.find_element("id", f"clip-{number}")
        browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", article)
        self.until(browser, "return arguments[0].dataset.painted", article)
        return article

    def picture(self, browser: Any, article: Any, name: str) -> str:
        return browser.execute_script(
            "return arguments[0].querySelector('canvas.' + arguments[1]).toDataURL()", article, name
        )

    def slide(self, browser: Any, article: Any, frame: int) -> None:
        browser.execute_script(
            "const s = arguments[0].querySelector('.slider input'); s.value = arguments[1];"
            "s.dispatchEvent(new Event('input', {bubbles: true}))",
            article,
            frame,
        )
        self.until(browser, "return arguments[0].dataset.painted.startsWith(arguments[1] + ' ')", article, str(frame))

    @pytest.mark.parametrize(("which", "clip"), [("report", 1), ("hostile", 1), ("benchmark_report", "2-1")])
    def test_opens_without_errors_requests_or_foreign_scripts(
        self, browser: Any, which: str, clip: int | str, request: pytest.FixtureRequest
    ) -> None:
        path = request.getfixturevalue(which)
        self.visit(browser, path)
        self.clip(browser, clip)
        self.unfold(browser)
        for chart in browser.find_elements("css selector", ".chart"):
            browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", chart)
            self.until(browser, "return arguments[0].querySelector('.main-svg')", chart)
        assert browser.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
        assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
        assert browser.execute_script("return window.hacked") is None

    def test_the_slider_changes_the_pictures(self, browser: Any, report: Path) -> None:
        self.visit(browser, report)
        article = self.clip(browser)
        seen = []
        for frame in (0, 3, 5, 0):
            self.slide(browser, article, frame)
            seen.append([self.picture(browser, article, name) for name in ("clean", "attacked")])
            assert article.find_element("css selector", "output").text == f"{frame + 1} / 6"
        assert seen[0] == seen[3]
        for one, other in ((0, 1), (1, 2)):
            assert seen[one][0] != seen[other][0]
            assert seen[one][1] != seen[other][1]

    def test_the_picture_is_that_frame_of_the_clip(
        self, browser: Any, report: Path, results: dict[str, AttackResult]
    ) -> None:
        self.visit(browser, report)
        article = self.clip(browser, 1)
        for frame in (1, 4):
            self.slide(browser, article, frame)
            url = self.picture(browser, article, "clean")
            shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))[::2, ::2]
            frames = pictures.to_frames(results["grow"].clean[1])
            distance = [float(np.abs(shown.astype(int) - each.astype(int)).mean()) for each in frames]
            assert int(np.argmin(distance)) == frame
            assert distance[frame] < 12  # WebP is lossy

    def test_region_and_attack_can_be_chosen(
        self, browser: Any, report: Path, results: dict[str, AttackResult]
    ) -> None:
        self.visit(browser, report)
        article = self.clip(browser)
        strength = results["grow"].strength[0]
        self.slide(browser, article, 2 * int(strength.abs().sum((1, 2)).argmax()))
        pictured = {}
        for mode in ("outline", "heat", "off"):
            browser.execute_script(
                "arguments[0].querySelector(`.region [value=${arguments[1]}]`).click()", article, mode
            )
            self.until(browser, "return arguments[0].dataset.painted.includes(arguments[1])", article, mode)
            pictured[mode] = self.picture(browser, article, "attacked")
        assert len(set(pictured.values())) == 3
        browser.execute_script("arguments[0].querySelector('.runs [value=\"1\"]').click()", article)
        self.until(browser, "return arguments[0].dataset.painted.endsWith(' 1')", article)
        shown = [line for line in article.find_elements("css selector", ".outcome") if line.is_displayed()]
        assert len(shown) == 1
        assert f"{int(results['random'].queries[0])} queries" in shown[0].text

    def test_playing_moves_the_slider_and_stops(self, browser: Any, report: Path) -> None:
        self.visit(browser, report)
        article = self.clip(browser)
        self.slide(browser, article, 0)
        button = article.find_element("css selector", ".play")
        browser.execute_script("arguments[0].click()", button)
        assert button.text == "Pause"
        self.until(browser, "return !arguments[0].dataset.painted.startsWith('0 ')", article)
        browser.execute_script("arguments[0].click()", button)
        assert button.text == "Play"
        assert button.get_attribute("aria-pressed") == "false"

    def test_the_table_sorts_both_ways_with_what_is_missing_last(self, browser: Any, report: Path) -> None:
        self.visit(browser, report)
        self.unfold(browser)
        column = (
            "return [...document.querySelectorAll('.sortable tbody tr')]"
            ".map(r => r.cells[arguments[0]].dataset.value).map(v => v === '' ? null : Number(v))"
        )
        header = browser.find_elements("css selector", ".sortable th")
        l2 = next(i for i, h in enumerate(header) if h.text.startswith("L2"))
        for direction, backwards in (("ascending", False), ("descending", True)):
            browser.execute_script("arguments[0].querySelector('button').click()", header[l2])
            values = browser.execute_script(column, l2)
            assert header[l2].get_attribute("aria-sort") == direction
            known = [v for v in values if v is not None]
            assert known == sorted(known, reverse=backwards)
            assert values[len(known) :] == [None, None]

    @pytest.mark.parametrize("which", ["report", "benchmark_report"])
    @pytest.mark.parametrize("width", [400, 1280])
    def test_fits_the_window_and_keeps_its_controls_labelled(
        self, browser: Any, which: str, width: int, request: pytest.FixtureRequest
    ) -> None:
        self.visit(browser, request.getfixturevalue(which), width)
        self.unfold(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        cut = browser.execute_script(
            "return [...document.querySelectorAll('.scroll, canvas, figcaption, h3')]"
            ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => [e.className, e.scrollWidth, e.clientWidth])"
        )
        assert cut == []
        unlabelled = browser.execute_script(
            "return [...document.querySelectorAll('input, button')]"
            ".filter(e => !e.textContent.trim() && !(e.labels && [...e.labels].some(l => l.textContent.trim()))).length"
        )
        assert unlabelled == 0

    def test_tables_and_charts_are_downloaded(self, browser: Any, report: Path, tmp_path: Path) -> None:
        place = {"behavior": "allow", "downloadPath": str(tmp_path)}
        browser.execute_cdp_cmd("Page.setDownloadBehavior", place)
        self.visit(browser, report)
        self.unfold(browser)
        for selector in ("[data-file='clips.csv']", "[data-save='png'][data-name='curves']", "[data-save='svg']"):
            browser.execute_script("document.querySelector(arguments[0]).click()", selector)
        deadline = time.monotonic() + 30
        wanted = {"clips.csv", "curves.png"}
        while not (wanted <= set(os.listdir(tmp_path)) and list(tmp_path.glob("*.svg"))):
            assert time.monotonic() < deadline, os.listdir(tmp_path)
            time.sleep(0.1)
        time.sleep(0.2)
        assert len(pd.read_csv(tmp_path / "clips.csv")) == 6
        assert Image.open(tmp_path / "curves.png").size[0] == 2000
        assert browser.get_log("browser") == []

    def test_a_clip_is_downloaded_frame_by_frame(
        self, browser: Any, report: Path, results: dict[str, AttackResult], tmp_path: Path
    ) -> None:
        browser.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        self.visit(browser, report)
        article = self.clip(browser, 1)
        self.slide(browser, article, 4)
        for which in ("one", "all"):
            browser.execute_script(
                "arguments[0].querySelector(`[data-frames=${arguments[1]}]`).click()", article, which
            )
        wanted = [tmp_path / "clip-1-frame-5.png", tmp_path / "clip-1-frames.png"]
        deadline = time.monotonic() + 30
        while not all(path.is_file() for path in wanted):
            assert time.monotonic() < deadline, os.listdir(tmp_path)
            time.sleep(0.05)
        one, every = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in wanted)
        assert one.shape == (48, 3 * 48, 3)
        assert (every[4 * 48 : 5 * 48] == one).all()
        assert len(every) == 6 * 48
        original = pictures.to_frames(results["grow"].clean[1])[4]
        assert np.abs(one[:, :48] - original).mean() < 12  # WebP is lossy
        assert browser.get_log("browser") == []

    def test_the_keyboard_reaches_what_is_folded_and_the_slider(self, browser: Any, report: Path) -> None:
        from selenium.webdriver.common.keys import Keys

        self.visit(browser, report)
        article = self.clip(browser)
        slider = article.find_element("css selector", ".slider input")
        self.slide(browser, article, 0)
        slider.send_keys(Keys.ARROW_RIGHT)
        assert article.find_element("css selector", "output").text == "2 / 6"
        summary = article.find_element("css selector", ".steps summary")
        summary.send_keys(Keys.ENTER)
        self.until(browser, "return arguments[0].querySelector('.path .main-svg')", article)

    def test_print_has_every_clip_chart_and_table(self, browser: Any, report: Path) -> None:
        self.visit(browser, report)
        browser.execute_script(
            "addEventListener('beforeprint', () => { window.told = {"
            "folded: document.querySelectorAll('details:not([open])').length,"
            "charts: [...document.querySelectorAll('.chart')].filter(c => !c.querySelector('.main-svg')).length }; })"
        )
        browser.execute_cdp_cmd("Page.printToPDF", {})
        assert browser.execute_script("return window.told") == {"folded": 0, "charts": 0}
        assert browser.execute_script("return document.querySelectorAll('details[open]').length") == 0
        self.visit(browser, report, 718)  # of A4 within its margins
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        try:
            hidden = browser.execute_script(
                "dispatchEvent(new Event('beforeprint'));"
                "return [...document.querySelectorAll('.stills img, .chart, table, .settings, .note, .says')]"
                ".filter(e => !e.getClientRects().length || !e.offsetHeight).map(e => e.className)"
            )
            shown = browser.execute_script(
                "return [...document.querySelectorAll('.controls, .live, .save')].filter(e => e.offsetHeight).length"
            )
            fits = browser.execute_script(
                "return [...document.querySelectorAll('.scroll, .clip, html')]"
                ".every(e => e.scrollWidth <= e.clientWidth + 1)"
            )
        finally:
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        assert hidden == []
        assert fits
        assert shown == 0  # what only a screen can use

    @pytest.mark.thorough
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_has_enough_contrast_in_both_schemes(self, browser: Any, report: Path, scheme: str) -> None:
        """At least 4.5 to 1 (WCAG 2.2, criterion 1.4.3) for every colour of text on what lies
        behind it."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.visit(browser, report)
        pairs = browser.execute_script(
            """
            const found = new Map();
            for (const e of document.body.querySelectorAll('*')) {
              if (e.closest('.chart') || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
              if (['SCRIPT', 'NOSCRIPT', 'STYLE'].includes(e.tagName) || e.closest('noscript')) continue;
              let back = e;
              while (back && getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)') back = back.parentElement;
              const pair = [getComputedStyle(e).color, getComputedStyle(back).backgroundColor];
              found.set(pair.join(), [...pair, e.className || e.tagName]);
            }
            return [...found.values()];
            """
        )
        assert len(pairs) > 5

        def luminance(colour: str) -> float:
            rgb = np.array([float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]]) / 255
            return float(
                np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
            )

        for ink, paper, where in pairs:
            dark, light = sorted((luminance(ink), luminance(paper)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (where, ink, paper)

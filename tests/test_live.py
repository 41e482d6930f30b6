"""The live view: what it shows of an attack, what it asks, what is left of it without a kernel, and
all of it in a JupyterLab that runs."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from browser import chromium, needs_chromium
from known_victims import GREY, GRID, SHAPE, SIGNED, Linear

from vidmarl import GrowAndReduce, Misclassify, Target, Victim
from vidmarl.queries.progress import Progress
from vidmarl.report.live import MOST_CLIPS, LiveView

CLIPS = (torch.rand(3, 3, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3).repeat_interleave(8, 3)
CLIPS = (CLIPS.repeat_interleave(8, 4) * 255).round() / 255
LABELS = ["run", "walk", "jump", "<b>sit"]


def attack(**settings: Any) -> GrowAndReduce:
    return GrowAndReduce(SIGNED, **{"budget": 12, "grid": GRID, "progress": False} | settings)


@pytest.fixture
def victim() -> Victim:
    return Victim(Linear(), labels=LABELS, name="linear")


class TestAnAttack:
    @pytest.mark.parametrize("goal", [None, Misclassify([0, 1, 2]), Target(2)])
    def test_it_shows_what_the_result_says(self, victim: Victim, goal: Any) -> None:
        view = LiveView(victim, CLIPS)
        result = attack()(victim, CLIPS, goal, on_query=view)
        view.refresh()
        for i in range(len(CLIPS)):
            state = getattr(view, f"clip_{i}")
            asked = int(result.queries[i])
            assert state["queries"] == asked
            assert (state["fooled"], state["skipped"]) == (bool(result.success[i]), bool(result.skipped[i]))
            assert state["label"] == LABELS[int(result.classes[i])]
            assert state["says"] == LABELS[int(result.adversarial_prediction[i])]
            assert state["p"] == pytest.approx(result.history["score"][i, :asked].exp().tolist(), abs=1e-4)
            if state["fooled"]:
                assert state["first"] == state["success"].index(True) + 1
            shown = np.frombuffer(state["strength"], np.int8).reshape(state["grid"]) / 127
            assert np.allclose(shown, result.strength[i].numpy(), atol=0.005)
            [clean] = victim(CLIPS[[i]])
            label = int(result.classes[i])
            others = [p for k, p in enumerate(clean.exp().tolist()) if k != label]
            assert state["rival"][0] == pytest.approx(max(others), abs=1e-3), (
                "the strongest other class, whatever the goal"
            )

    def test_watching_changes_nothing(self, victim: Victim) -> None:
        alone = attack()(victim, CLIPS)
        before = victim.queries
        watched = attack()(victim, CLIPS, on_query=LiveView(victim, CLIPS))
        assert victim.queries - before == alone.queries.sum()
        assert torch.equal(alone.adversarial, watched.adversarial)

    def test_clips_attacked_one_after_the_other_stand_in_their_places(self, victim: Victim) -> None:
        view = LiveView(victim, CLIPS)

        def watch(progress: Progress) -> None:
            view(progress)
            view.refresh()

        result = attack(clips_at_once=1)(victim, CLIPS, on_query=watch)
        assert [getattr(view, f"clip_{i}")["queries"] for i in range(3)] == result.queries.tolist()

    def test_it_takes_a_twentieth_of_the_time(self, victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        view = LiveView(victim, CLIPS)
        looks = []

        def slow(*_: Any) -> None:
            looks.append(now[0])
            now[0] += 1.0

        monkeypatch.setattr(view, "_look", slow)
        for _ in range(100):  # the victim takes a second to answer
            attack(budget=1)(victim, CLIPS[:1], on_query=view)
            now[0] += 1.0
        assert 4 <= len(looks) <= 6

    def test_other_clips_are_refused(self, victim: Victim) -> None:
        with pytest.raises(ValueError, match="on the clips of this view"):
            attack()(victim, CLIPS.flip(0), on_query=LiveView(victim, CLIPS))

    def test_the_first_of_many_clips_are_shown(self, victim: Victim) -> None:
        many = CLIPS.repeat(6, 1, 1, 1, 1)
        view = LiveView(victim, many)
        attack(budget=2, clips_at_once=5)(victim, many, on_query=view)
        view.refresh()
        assert len(view.about["clean"]) == MOST_CLIPS < len(many)


class TestAsking:
    def test_an_answer_is_one_query_and_what_the_victim_says(self, victim: Victim) -> None:
        view = LiveView(victim, CLIPS, SIGNED, GRID)
        first = view.ask(torch.ones(SHAPE), clip=1)
        assert victim.queries == 2, "and the clean clip, once"
        second = view.ask(-torch.ones(SHAPE), clip=1)
        assert victim.queries == 3
        assert view.answers == [first, second]
        assert torch.allclose(victim(second.distorted[None])[0], second.log_probs)
        assert second.l2 == pytest.approx(float((second.distorted - CLIPS[1]).norm()), rel=0.01)
        assert second.fooled == (second.log_probs.argmax() != second.clean.argmax())
        assert str(second).startswith(f"{LABELS[int(second.log_probs.argmax())]} ")
        assert view.answer["text"] == str(second)

    def test_after_an_attack_the_clean_clip_is_known(self, victim: Victim) -> None:
        view = LiveView(victim, CLIPS)
        attack()(victim, CLIPS, on_query=view)
        before = victim.queries
        answer = view.ask(torch.zeros(SHAPE))
        assert victim.queries == before + 1
        torch.testing.assert_close(answer.log_probs, answer.clean)  # asked alone, and in a batch
        assert answer.distortion is SIGNED, "that of the attack, on its tubelets"

    def test_the_browser_asks_for_a_region(self, victim: Victim) -> None:
        view = LiveView(victim, CLIPS, "gaussian_noise", GRID)
        codes = np.full(SHAPE, -64, np.int8)
        message = {"kind": "ask", "clip": 2, "distortion": "gaussian_blur"}
        view._handle_custom_msg(message, [memoryview(codes.tobytes())])
        [answer] = view.answers
        assert answer.distortion.title == "GaussianBlur"
        assert torch.allclose(answer.strength, torch.full(SHAPE, 64 / 127)), "blur has one direction"
        assert view.answer["clip"] == 2

    @pytest.mark.parametrize(
        ("clip", "length", "distortion"), [(7, 48, "jpeg"), (0, 47, "jpeg"), (0, 48, "no such"), (0, 48, "broken")]
    )
    def test_what_goes_wrong_is_told_in_the_view(self, clip: int, length: int, distortion: str) -> None:
        view = LiveView(Victim(Linear(), labels=LABELS), CLIPS, "jpeg", GRID)
        if distortion == "broken":
            view.victim.model = lambda clips: 1 / 0
        message = {"kind": "ask", "clip": clip, "distortion": distortion.replace("broken", "jpeg")}
        view._handle_custom_msg(message, [memoryview(bytes(length))])
        told = view.answer
        assert told["error"]
        view._handle_custom_msg(message, [memoryview(bytes(length))])
        assert view.answer != told, "twice the same is news"

    def test_a_map_of_another_shape_is_refused(self, victim: Victim) -> None:
        with pytest.raises(ValueError, match=re.escape("expected a map of (3, 4, 4) tubelets, got (1, 4, 4)")):
            LiveView(victim, CLIPS, grid=GRID).ask(torch.ones(1, 4, 4))
        with pytest.raises(IndexError, match="clip 3: expected one of 0 to 2"):
            LiveView(victim, CLIPS, grid=GRID).ask(torch.ones(SHAPE), clip=3)
        assert victim.queries == 0


class TestWithoutAKernel:
    def test_the_last_state_is_a_picture(self, victim: Victim) -> None:
        view = LiveView(victim, CLIPS)
        result = attack()(victim, CLIPS, on_query=view)
        view.refresh()
        view.ask(torch.ones(SHAPE))
        page = view._picture()["text/html"]
        assert "<script" not in page
        assert "<b>sit" not in page, "names are escaped"
        assert page.count("<img") == 3 * len(CLIPS) + 2
        assert page.count("fooled at query") == int((result.success & ~result.skipped).sum())
        assert page.count('alt="') == page.count("<img")

    def test_before_anything_it_is_the_clip(self, victim: Victim) -> None:
        assert LiveView(victim, GREY)._picture()["text/html"].count("<img") == 2

    def test_a_single_clip_will_do(self, victim: Victim) -> None:
        assert repr(LiveView(victim, CLIPS[0])) == "LiveView: 1 clips, nothing asked yet"


SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"},
}


def notebook() -> nbformat.NotebookNode:
    """An attack that is watched, and a figure, in seconds."""
    tests = str(Path(__file__).parent)
    cells = [
        f"import sys; sys.path.insert(0, {tests!r})\n"
        "from test_live import *\nvictim = Victim(Linear(), labels=['run', 'walk', 'jump', 'sit'])",
        "view = LiveView(victim, CLIPS, grid=GRID)\nview",
        "result = attack()(victim, CLIPS, on_query=view)",
        "result.plot(int(result.success.int().argmax()))",
    ]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


@pytest.mark.browser
@pytest.mark.slow
@needs_chromium
class TestInJupyterLab:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with an executed notebook."""
        from nbclient import NotebookClient

        folder = tmp_path_factory.mktemp("lab")
        made = NotebookClient(notebook(), timeout=120, store_widget_state=False).execute()
        nbformat.write(made, folder / "live.ipynb")
        return folder

    @pytest.fixture(scope="class")
    def lab(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        """A JupyterLab on this machine alone; its address with its token."""
        own = tmp_path_factory.mktemp("own")
        (own / "app").mkdir()
        (own / "app" / "overrides.json").write_text(json.dumps(SETTINGS))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        token = secrets.token_hex(16)
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": port,
            "ServerApp.port_retries": 0,
            "ServerApp.root_dir": folder,
            "IdentityProvider.token": token,
            "LabApp.app_settings_dir": own / "app",
            "LabApp.user_settings_dir": own / "user",
            "LabApp.workspaces_dir": own / "workspaces",
            "LabApp.expose_app_in_browser": True,
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        folders = {f"JUPYTER_{kind}_DIR": str(own / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
        with (own / "log").open("w") as log:
            server = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in options.items())],
                env=os.environ | folders,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"{address}/api/status?token={token}").close()
                    break
                except urllib.error.URLError:
                    assert server.poll() is None, (own / "log").read_text()
                    assert time.monotonic() < deadline, (own / "log").read_text()
                    time.sleep(0.1)
            yield f"{address}/lab/tree/live.ipynb?token={token}"
        finally:
            server.terminate()
            server.wait(30)

    @pytest.fixture(scope="class")
    def browser(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
        driver = chromium(tmp_path_factory.mktemp("profile"), (1280, 1400))
        yield driver
        driver.quit()

    @staticmethod
    def until(browser: Any, script: str, *arguments: Any) -> Any:
        deadline = time.monotonic() + 300
        while not (value := browser.execute_script(script, *arguments)):
            assert time.monotonic() < deadline, f"never came true: {script}"
            time.sleep(0.1)
        return value

    def test_an_executed_notebook(self, browser: Any, lab: str) -> None:
        from selenium.webdriver import ActionChains, Keys

        browser.get(lab)
        self.until(browser, "return document.querySelector('.jp-Notebook .js-plotly-plot .main-svg')")
        still = "return getComputedStyle(document.querySelector('.vidmarl-still')).display"
        assert browser.execute_script(still) == "block", "no kernel has this view: its picture is shown"
        assert "fooled at query" in browser.execute_script("return document.querySelector('.vidmarl-still').innerText")
        for entry in browser.get_log("browser"):  # the widget's own manager says that the view is not alive
            assert "widget model not found" in entry["message"].lower() or entry["level"] != "SEVERE", entry

        kernel = "return window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
        self.until(browser, kernel)
        browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.until(browser, "return document.querySelector('.vidmarl-live')?.dataset.painted")
        self.until(browser, "return document.querySelector('.vl-said').textContent.includes('12 of 12 queries')")
        assert self.until(browser, still + " === 'none'"), "the view is alive, so its picture is not shown"
        assert browser.find_element("css selector", ".vl-chart path[stroke-dasharray]")

        browser.execute_script("document.querySelector('.vidmarl-live').scrollIntoView({block: 'start'})")
        slider = browser.find_element("css selector", ".vl-frame")
        slider.send_keys(Keys.HOME)
        pictures = set()
        for frame in range(SHAPE[0]):
            at = "return document.querySelector('.vidmarl-live').dataset.painted.split(' ')[1] === arguments[0]"
            self.until(browser, at, str(frame))
            pictures.add(browser.execute_script("return document.querySelector('.vl-region').toDataURL()"))
            slider.send_keys(Keys.ARROW_RIGHT)
        assert len(pictures) == SHAPE[0]

        canvas = browser.find_element("css selector", ".vl-region")
        answer = "return document.querySelector('.vl-answer').textContent"
        ActionChains(browser).drag_and_drop_by_offset(canvas, 60, 40).perform()
        first = self.until(browser, f"const t = (() => {{ {answer} }})(); return t.includes('L2') && t")
        asked = "return document.querySelector('.vl-hint').textContent.match(/asked (\\d+) times/)[1]"
        before = int(browser.execute_script(asked))

        canvas.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, " ")
        second = self.until(
            browser, f"const t = (() => {{ {answer} }})(); return t.includes('L2') && t !== arguments[0] && t", first
        )
        assert int(browser.execute_script(asked)) == before + 1, "each answer is one query"
        assert first != second
        assert [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []

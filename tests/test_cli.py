"""The command line as its users meet it: as a process, with files."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

import vidmarl
from vidmarl import AttackResult
from vidmarl.attacks import ATTACKS
from vidmarl.cli import main
from vidmarl.cli.attack import _table
from vidmarl.cli.options import SPEC_FIELDS, as_options
from vidmarl.data.encode import write_mp4
from vidmarl.data.spec import ClipSpec
from vidmarl.data.synthetic import make_clips
from vidmarl.data.video import decode
from vidmarl.distortions import as_distortion
from vidmarl.errors import UnknownNameError, VidmarlError

VICTIM = ("--victim", "r2plus1d_light", "--weights", "random", "--device", "cpu")
SPEC = ("--spec", '{"frames": 8, "size": [64, 64], "sampling": "uniform"}')
QUICK = (*VICTIM, *SPEC, "--attack", "random_cells", "--budget", "6", "--no-progress")


def command(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own: slow, because it starts Python and torch."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "vidmarl", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


class Here:
    """Commands in this process, in a folder of the test's own."""

    def __init__(self, folder: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._captured = captured

    def __call__(self, *words: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        code: object = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code or 0
        assert isinstance(code, int)
        return code, *self._captured.readouterr()

    def failure(self, *words: str | Path) -> str:
        """What a command says that must fail because of what its user gave."""
        code, out, err = self(*words)
        assert code == 2, err
        assert out == ""
        assert "Traceback" not in err
        return err


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIDMARL_DEBUG", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    handler = signal.getsignal(signal.SIGTERM)
    yield Here(tmp_path, capsys)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    clips, _ = make_clips(2, seed=0, frames=16, size=64)
    return [write_mp4(folder / f"a clip, no. {i}.mp4", clip, fps=8) for i, clip in enumerate(clips)]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.mp4"
    path.write_text("This is no video.\n")
    return path


@pytest.mark.thorough
def test_an_attack_leaves_results_clips_and_a_report(tmp_path: Path, videos: list[Path]) -> None:
    done = command("attack", *videos, *QUICK, "--out", "deep/er/results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "deep" / "er" / "results"
    *_, wrote, after = done.stdout.splitlines()
    written = [Path("deep/er/results", name) for name in ("report.html", "results.json", "clips", "result")]
    assert wrote == f"wrote: {', '.join(map(str, written))}"
    assert after.startswith(f"next: open {written[0]} in a browser")
    assert all((tmp_path / path).exists() for path in written)
    assert sorted(path.name for path in out.iterdir()) == ["clips", "report.html", "result", "results.json"]
    assert [path.name for path in out.parent.iterdir()] == ["results"]

    record = json.loads((out / "results.json").read_text("utf-8"))
    assert [clip["file"] for clip in record["clips"]] == list(map(str, videos))
    assert record["settings"]["attack"] == "RandomCells"
    assert record["settings"]["budget"] == 6
    assert record["left_out"] == {}
    assert record["summary"]["queries"] == sum(clip["queries"] for clip in record["clips"])
    low, high = record["summary"]["fooling_rate_interval"]
    assert low < high
    assert low <= record["summary"]["fooling_rate"] <= high
    assert f"(95 % interval {low:.0%} to {high:.0%})" in done.stdout

    result = AttackResult.load(out / "result")
    assert [clip["success"] for clip in record["clips"]] == result.success.tolist()
    for i, clip in enumerate(record["clips"]):
        stored = decode(out / clip["lossless"], ClipSpec(frames=None, size=(64, 64), sampling="uniform"))
        assert torch.equal(stored, (result.adversarial[i] * 255).round().to(torch.uint8))
        triple = decode(out / clip["side_by_side"], ClipSpec(frames=None, size=(64, 192), sampling="uniform"))
        assert triple.shape == (3, 8, 64, 192)
    report = (out / "report.html").read_text("utf-8")
    assert "RandomCells" in report
    assert Path(videos[0]).name in done.stdout


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_results(here: Here, videos: list[Path]) -> None:
    for name in ("first", "second"):
        assert here("attack", videos[0], *QUICK, "--seed", "7", "--out", name)[0] == 0
    first, second = (
        json.loads((here.folder / name / "results.json").read_text("utf-8")) for name in ("first", "second")
    )
    for record in (first, second):
        assert record["provenance"].pop("time")
        assert record["provenance"].pop("command")
    assert first == second


@pytest.mark.thorough
def test_a_target_and_a_distortion_with_its_own_settings(here: Here, tmp_path: Path, videos: list[Path]) -> None:
    (tmp_path / "inverted.py").write_text(
        "from vidmarl.distortions.base import Distortion\n"
        "class Inverted(Distortion):\n"
        "    def __init__(self, most: float = 1.0) -> None:\n"
        "        super().__init__()\n"
        "        self.most = most\n"
        "    def forward(self, clips, strength, state):\n"
        "        return clips + self.most * strength * (1 - 2 * clips)\n"
    )
    (tmp_path / "recipe.yaml").write_text("attack: grow_and_reduce\nbudget: 5\nno_progress: true\n")
    distortion = '{"class_path": "inverted.Inverted", "init_args": {"most": 0.5}}'
    words = ("attack", videos[0], *VICTIM, *SPEC, "-c", "recipe.yaml", "--distortion", distortion, "--target", "17")
    code, _, err = here(*words, "--out", "results")
    assert code == 0, err
    record = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))
    assert record["settings"]["attack"] == "GrowAndReduce"
    assert record["settings"]["distortion"] == {"class_path": "inverted.Inverted", "init_args": {"most": 0.5}}
    assert record["settings"]["budget"] == 5
    assert record["clips"][0]["goal"] == "say 17"


@pytest.mark.thorough
def test_bad_files_stop_it_before_any_query_unless_left_out(
    here: Here, tmp_path: Path, videos: list[Path], text_file: Path
) -> None:
    words = ("attack", videos[0], text_file, tmp_path / "missing.mp4", *QUICK, "--out", "results")
    said = here.failure(*words)
    assert "text.mp4" in said
    assert "missing.mp4" in said
    assert "2 of 3 files" in said
    assert "(--skip_bad)" in said
    assert not (tmp_path / "results").exists()

    code, out, err = here(*words, "--skip_bad")
    assert code == 0, err
    record = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))
    assert len(record["clips"]) == 1
    assert list(record["left_out"]) == [str(text_file), str(tmp_path / "missing.mp4")]
    assert "left out" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--victim", "moviet_a0"), "movinet_a0"),
        (("--attack", "randomcells"), "random_cells"),
        (("--distortion", "gausian_noise"), "gaussian_noise"),
        (("--distortion", '{"class_path": "gaussian_noise", "init_args": {"sdt": 1}}'), "sdt"),
        (("--weights", "missing.pt"), "missing.pt"),
        (("--budget", "0"), "at least 1"),
        (("--budget", "many"), "many"),
        (("--spec", '{"frame": 8}'), "frames"),
        (("--target", "101"), "0 to 100"),
        (("--target", "juggling"), "index"),
        (("--labels", "1", "2"), "one label for each"),
        (("--labels", "1", "--target", "2"), "not both"),
        (("--distortion", "no_such_module.rain"), "no_such_module.rain"),
        (("--victim", "no_such_module.victim"), "no_such_module.victim"),
        (("--attack", '{"class_path": "random_cells", "init_args": {"bugdet": 3}}'), "did you mean budget"),
        (("--attack", '{"class": "random_cells"}'), "class_path"),
        (("--spec", '{"size": "huge"}'), "size must be"),
        (("--device", "cuda:97"), "There are: cpu"),
        (("--attack", "rl", "--distortion", "glare"), "--attack grow_and_reduce"),
        (("--attack", "rl", "--agents", "missing.ckpt"), "missing.ckpt"),
        (("--attack", "rl", "--agents", "text.mp4"), "text.mp4"),
        (("--attack", "rl", "--agents", "gausian_noise"), "did you mean gaussian_noise"),
        (("--agents", "gaussian_noise"), "belong to --attack rl"),
        (("--out", "text.mp4"), "folder"),
        (("--nonsense", "1"), "nonsense"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_done_is_said_in_one_message_and_leaves_nothing(
    here: Here, videos: list[Path], text_file: Path, words: tuple[str, ...], expected: str
) -> None:
    said = here.failure("attack", videos[0], *QUICK, "--out", "results", *words)
    assert expected in said
    assert [path.name for path in here.folder.iterdir()] == ["text.mp4"]


@pytest.mark.thorough
def test_a_distortion_that_is_a_function_and_a_victim_of_ones_own(
    here: Here, tmp_path: Path, videos: list[Path]
) -> None:
    (tmp_path / "rain.py").write_text("def rain(clips, strength, noise):\n    return clips + strength * noise\n")
    (tmp_path / "mine.py").write_text(
        "from vidmarl import ClipSpec, Victim\n"
        "def victim(gain: float = 1.0) -> Victim:\n"
        "    return Victim(lambda clips: gain * clips.mean((2, 3, 4)), name='mine', labels=['r', 'g', 'b'])\n"
    )
    words = ("--victim", '{"class_path": "mine.victim", "init_args": {"gain": 5}}', "--distortion", "rain.rain")
    line = ("attack", videos[0], *words, "--spec.frames", "4", "--spec.size", "48", "--attack", "grow_and_reduce")
    code, _, err = here(*line, "--budget", "5", "--no-progress", "--out", "results")
    assert code == 0, err
    settings = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))["settings"]
    assert settings["distortion"]["init_args"] == {"function": "rain.rain", "signed": False}
    assert settings["victim"] == "mine"
    assert AttackResult.load(tmp_path / "results" / "result").clean.shape == (1, 3, 4, 48, 48)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("distortion", "expected"), [((), "GaussianNoise"), (("--distortion", "dead_pixels"), "DeadPixels")]
)
def test_by_default_the_agents_that_ship_for_the_distortion_attack(
    here: Here, tmp_path: Path, videos: list[Path], distortion: tuple[str, ...], expected: str
) -> None:
    words = ("attack", videos[0], *VICTIM, *SPEC, "--budget", "5", "--no-progress", "--out", "results", *distortion)
    code, _, err = here(*words)
    assert code == 0, err
    settings = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))["settings"]
    assert settings["attack"] == "RLAttack"
    assert settings["distortion"]["class_path"].endswith(f".{expected}")


@pytest.mark.thorough
def test_a_victim_whose_network_depends_on_the_size_of_its_clips(here: Here, videos: list[Path]) -> None:
    words = ("check", videos[0], "--victim", "mvit_base_16x4", "--weights", "random", "--device", "cpu")
    _, out, err = here(*words, "--spec", '{"frames": 4, "size": 64, "sampling": "uniform"}')
    assert "[ok] size: clips of (64, 64) px" in out, err


def test_settings_of_python_are_toldas_options() -> None:
    told = 'Pass weights=\'random\' or "weights=...", skip_bad=True, short="hold"; ClipSpec(size=...) stays.'
    assert as_options(told) == (
        'Pass --weights random or "--weights", --skip_bad, --spec.short hold; ClipSpec(size=...) stays.'
    )
    assert set(SPEC_FIELDS) == {field.name for field in dataclasses.fields(ClipSpec)}


def test_a_fresh_demo_deletes_what_a_demo_left_and_nothing_else(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("thesis.tex", "agents.pt", "test/report.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def stopped(*_: object, **__: object) -> None:
        raise VidmarlError("stopped")

    monkeypatch.setattr("vidmarl.demo.victim_training.train", stopped)
    assert here("demo", "--out", ".", "--fresh")[2] == "vidmarl: stopped\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unknown_command_offers_the_nearest(here: Here) -> None:
    assert "attack" in here.failure("atack")


def test_debugging_shows_where_an_error_came_from(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDMARL_DEBUG", "1")
    with pytest.raises(UnknownNameError):
        here("atack")


@pytest.mark.thorough
def test_a_folder_with_something_in_it_is_only_replaced_on_request_and_if_it_is_ours(
    here: Here, tmp_path: Path, videos: list[Path]
) -> None:
    out = tmp_path / "results"
    out.mkdir()  # an empty one is fine
    words = ("attack", videos[0], *QUICK, "--out", "results")
    assert here(*words)[0] == 0
    said = here.failure(*words)
    assert "not empty" in said
    assert "(--overwrite)" in said
    (out / "report.html").write_text("old")
    assert here(*words, "--overwrite")[0] == 0
    assert (out / "report.html").read_text("utf-8") != "old"

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("dear")
    said = here.failure("attack", videos[0], *QUICK, "--overwrite", "--out", "thesis")
    assert "left alone" in said
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "thesis"]


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_leaves_what_was_paid_for_and_nothing_half(
    tmp_path: Path, videos: list[Path], how: signal.Signals
) -> None:
    (tmp_path / "endless.py").write_text(
        "import pathlib, time\n"
        "from vidmarl.attacks import Attack\n"
        "class Endless(Attack):\n"
        "    def search(self, clip):\n"
        "        pathlib.Path('started').touch()\n"
        "        time.sleep(600)\n"
        "        yield\n"
    )
    words = ("attack", str(videos[0]), *QUICK, "--attack", "endless.Endless", "--out", "deep/results")
    process = subprocess.Popen(
        [sys.executable, "-m", "vidmarl", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which shells take from jobs in background
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / "started").exists()
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + how
    assert said == (
        f"vidmarl: {'interrupted' if how == signal.SIGINT else 'terminated'}. Kept in deep/results.unfinished:"
        " 0 of 1 batches done, 1 answer of the victim recorded. The same command goes on from there.\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        "deep",
        "endless.py",
        "started",
    ]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results.unfinished"]


CONF = Path(__file__).resolve().parent.parent / "conf"


@pytest.mark.slow
@pytest.mark.parametrize("distortion", sorted(path.stem for path in (CONF / "distortion").glob("*.yaml")))
def test_training_settings_compose_and_the_last_word_wins(
    here: Here, distortion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("movinet_ucf101.yaml", f"distortion/{distortion}.yaml", "small.yaml")
    composed = (word for file in files for word in ("-c", CONF / file))
    words = ("fit", *composed, "--model.eval_budget", "7", "--print_config")
    monkeypatch.setattr(sys, "argv", ["vidmarl", *map(str, words)])
    monkeypatch.setenv("VIDMARL_FIT__DATA__REPEATS", "9")  # files and words win over the environment
    code, out, err = here(*words)
    assert code == 0, err
    settings = yaml.safe_load(out)
    kind = settings["model"]["distortion"]["class_path"]
    assert kind == type(as_distortion(distortion)).__module__ + "." + type(as_distortion(distortion)).__name__
    assert settings["model"]["spec"]["size"] == [112, 112]  # from small.yaml, over movinet_ucf101.yaml
    assert settings["model"]["victim"] == "movinet_a0"
    assert settings["model"]["eval_budget"] == 7
    assert settings["data"]["repeats"] == yaml.safe_load((CONF / files[0]).read_text("utf-8"))["data"]["repeats"]


@pytest.mark.slow
def test_a_setting_of_training_can_come_from_the_environment(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vidmarl", "fit", "--print_config"])
    monkeypatch.setenv("VIDMARL_FIT__MODEL__EVAL_BUDGET", "77")
    monkeypatch.setenv("VIDMARL_DATA", "elsewhere")  # is no setting
    _, out, _ = here("fit", "--print_config")
    assert yaml.safe_load(out)["model"]["eval_budget"] == 77


@pytest.mark.slow
@pytest.mark.filterwarnings("error:LightningCLI")
def test_a_missing_settings_file_is_named(here: Here) -> None:
    assert "nothing.yaml" in here.failure("fit", "-c", "nothing.yaml")


@pytest.mark.thorough
def test_check_says_what_the_victim_sees(here: Here, videos: list[Path]) -> None:
    code, out, _ = here("check", videos[0], *VICTIM, *SPEC)
    assert "[ok] determinism" in out
    assert f"{videos[0]}: " in out
    assert ("NOT OK" in out) == (code == 1)  # an untrained network is near uniform, and that is no fit victim


@pytest.mark.parametrize(
    ("words", "listed"),
    [
        (("victims", "slow_*"), ["slow_r50"]),
        (("attacks", "gr*"), ["greedy_sensitivity", "grow_and_reduce"]),
        (("distortions", "sign_*"), ["sign_bands", "sign_noise"]),
        (("agents", "*pixels"), ["dead_pixels"]),
    ],
)
def test_lists_by_pattern(here: Here, words: tuple[str, ...], listed: list[str]) -> None:
    assert here("list", *words, "--names")[1].split() == listed


def test_a_list_can_be_cut_short_by_its_reader(tmp_path: Path) -> None:
    line = f"{sys.executable} -m vidmarl --help | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stderr == ""


@pytest.mark.thorough
def test_a_file_name_that_is_not_utf_8_has_results_with_an_escaped_name(tmp_path: Path) -> None:
    clip = os.path.join(os.fsencode(tmp_path), b"\xff\xe9.mp4")
    write_mp4(tmp_path / "clip.mp4", torch.rand(3, 4, 32, 32))
    try:
        os.replace(tmp_path / "clip.mp4", clip)
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    victim = vidmarl.load_victim("demo", "random", spec={"frames": 4, "size": (32, 32)})
    attack = vidmarl.GrowAndReduce(budget=4, progress=False)
    vidmarl.attack_files([os.fsdecode(clip)], victim, attack, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert record["clips"][0]["file"].endswith(r"\xff\xe9.mp4")


def test_the_table_of_an_attack_is_aligned_and_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = pd.DataFrame(
        {
            "file": ["a/one.mp4", "a/two.mp4"],
            "prediction": ["lunge", "a class with a very long name, longer than a column"],
            "adversarial_prediction": ["side kick", "lunge"],
            "success": [True, False],
            "skipped": [False, False],
            "queries": [7, 1200],
            "l2": [0.5, 12.3],
            "ssim": [0.9, 0.8],
        }
    )
    clips["goal"] = "not " + clips["prediction"]
    summary = {"fooled": 1, "attacked": 2, "skipped": 0, "queries": 1207, "fooling_rate_interval": None}
    record = {"clips": clips.to_dict("records"), "summary": summary, "left_out": {"x.mp4": "it is none"}}
    lines = _table(record).splitlines()
    assert lines == [
        "file     clean                             attacked   outcome     Queries     L2    SSIM",
        "one.mp4  lunge                             side kick  fooled            7  0.500  0.9000",
        "two.mp4  a class with a very long name, …  lunge      not fooled    1,200   12.3  0.8000",
        "left out: it is none",
        "",
        "1 of 2 clips fooled, 0 skipped, 1,207 queries",
    ]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "84")
    assert _table(record).splitlines()[0] == lines[0].removesuffix("    SSIM").rstrip()
    record["clips"][0]["goal"] = "say waltz"
    assert "goal" in _table(record)


def test_names_are_remembered_until_a_file_changes(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDMARL_CACHE", str(tmp_path / "cache"))
    found = {"one": "is one", "other": "is another"}
    monkeypatch.setattr(ATTACKS, "descriptions", lambda: found)
    assert here("list", "attacks")[1] == "one    is one\nother  is another\n"
    found = {"third": ""}
    assert here("list", "attacks", "o*r")[1] == "other  is another\n"
    [memory] = tmp_path.glob("cache/**/attacks.json")
    memory.write_text("damaged")
    assert here("list", "attacks")[1] == "third\n"
    monkeypatch.setattr("vidmarl.registry.plugins", lambda group: {"of another package": group})
    found = {"fourth": ""}
    assert here("list", "attacks")[1] == "fourth\n"
    memory.unlink()
    memory.mkdir()  # where nothing can be written
    assert here("list", "attacks")[1] == "fourth\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("attack --vi", "--victim"),
        ("attack --victim convlstm_ucf50_3", "convlstm_ucf50_31"),
        ("attack clip.mp4 --attack r", "random_cells rl"),
        ("attack --skip", "--skip_bad"),
        ("benchmark --max", "--max_clips"),
        ("fit --trainer.max_e", "--trainer.max_epochs"),
        ("list conf", "configs"),
        ("compl", "completion"),
        ("export mod", "model.ckpt"),
    ],
)
def test_the_shell_completes(words: str, offered: str, completion: Path) -> None:
    (completion.parent / "model.ckpt").touch()
    asked = f"COMP_WORDS=(vidmarl {words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _shtab_vidmarl"
    line = f'source ./{completion.name}; {asked}; echo "${{COMPREPLY[*]}}"'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=completion.parent, check=True)
    assert done.stdout.split() == offered.split()


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    folder = tmp_path_factory.mktemp("completion")
    done = command("completion", "bash", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "vidmarl.bash").write_text(done.stdout)
    return folder / "vidmarl.bash"


def test_help_shows_one_spelling_and_both_are_understood(here: Here, tmp_path: Path) -> None:
    for name in ("attack", "check", "demo", "benchmark", "export"):
        _, out, _ = here(name, "--help")
        assert re.findall(r"(?m)^ +--\w+-[\w-]+", out) == []
    for option in ("--skip_bad", "--skip-bad"):
        assert "no such file" in here.failure("attack", "clip.mp4", *QUICK, "--out", "o", option)

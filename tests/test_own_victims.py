"""A user's own classifier, wherever it is: a class or a function of a module, of a file or of
another package, named in Python, in YAML or on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vidmarl
from vidmarl import Victim
from vidmarl.attacks import ATTACKS
from vidmarl.benchmark import Benchmark, VictimChoice
from vidmarl.cli import main
from vidmarl.data.encode import write_mp4
from vidmarl.data.synthetic import Synthetic, make_clips
from vidmarl.distortions import DISTORTIONS
from vidmarl.errors import CheckpointError, SettingsError, UnknownNameError
from vidmarl.training.settings import NETS, PARTS, PLAIN, arguments_from
from vidmarl.victims import load_victim, ships

NET = """
import torch
import tools
from vidmarl import ClipSpec, GrowAndReduce, Victim


class Net(torch.nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, classes)

    def forward(self, clips):
        return tools.GAIN * self.head(clips.mean((2, 3, 4)))


def make_victim(gain: float = 1.0) -> Victim:
    return Victim(lambda clips: gain * clips.mean((2, 3, 4)), spec=ClipSpec(frames=4, size=32), name="mine")


def make_network(width: int = 5):
    return Net(width)


def make_callable():
    return lambda clips: clips.mean((2, 3, 4))


def number():
    return 3


class Mine(GrowAndReduce):
    pass


network = Net()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder outside of `sys.path`, with a file of victims and what it imports; and the folder of
    work."""
    before = {*sys.modules}, [*sys.path]
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").write_text(NET, "utf-8")
    (tmp_path / "code" / "tools.py").write_text("GAIN = 9.0\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in {*sys.modules} - before[0]:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = before[1]


CLIPS = torch.rand(2, 3, 4, 32, 32)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("Net", "Net"),
        ("make_victim", "mine"),
        ("make_network", "Net"),
        ("make_callable", "make_callable"),
        ("network", "Net"),
    ],
)
def test_whatever_a_file_has_is_a_victim(here: Path, name: str, title: str) -> None:
    for path in (f"code/net.py:{name}", f"net.{name}"):  # the file is run as a script is: its folder is looked in
        victim = load_victim(path, device="cpu")
        assert victim(CLIPS).shape[0] == 2
        assert victim.name == title


def test_what_the_class_does_not_name_is_said_to_the_victim_around_it(here: Path) -> None:
    described = {
        "class_path": "code/net.py:Net",
        "init_args": {
            "classes": 4,
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "labels": list("abcd"),
            "spec": {"frames": 4},
        },
    }
    victim = load_victim(described, batch_size=1)
    assert victim.model.head.out_features == 4
    assert (victim.mean, victim.labels, victim.batch_size) == ((0.5,) * 3, list("abcd"), 1)
    assert victim.spec is not None
    assert victim.spec.frames == 4
    nested = {"class_path": "vidmarl.Victim", "init_args": {"model": "code/net.py:Net", "mean": [0.5] * 3}}
    assert load_victim(nested).mean == (0.5,) * 3
    nested["init_args"]["model"] = {"class_path": "code/net.py:Net", "init_args": {"classes": 6}}  # type: ignore[index]
    assert load_victim(nested)(CLIPS).shape == (2, 6)


def test_an_untrained_network_is_the_same_each_time_and_weights_fill_it(here: Path) -> None:
    one, other = (load_victim("code/net.py:Net") for _ in range(2))
    assert torch.equal(one.model.head.weight, other.model.head.weight)
    torch.save({"head.weight": torch.ones(3, 3), "head.bias": torch.zeros(3)}, "net.pt")
    assert torch.equal(load_victim("code/net.py:Net", "net.pt").model.head.weight, torch.ones(3, 3))
    with pytest.raises(CheckpointError, match=r"no weight file 'missing\.pt'"):
        load_victim("code/net.py:Net", "missing.pt")


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ("code/net.py", r"no name after the file.*did you mean code/net\.py:Net"),
        ("code/net.py:Nett", r"no 'Nett' in that file; did you mean code/net\.py:Net"),
        ("code/nat.py:Net", r"no file 'code/nat\.py' here; did you mean code/net\.py"),
        ("code/net.py:number", "expected a Victim, an nn.Module or another callable.*got int"),
        ({"class_path": "code/net.py:Net", "init_args": {"clases": 3}}, "no setting 'clases'; did you mean classes"),
        ({"class_path": "code/net.py:make_victim", "init_args": {"mean": [0.5] * 3}}, r"a Victim already.*\['mean'\]"),
        ({"class_path": "code/net.py:Net", "init_args": {"mean": [5.0] * 3}}, "mean must be that of values in"),
    ],
)
def test_what_is_wrong_with_a_victim_of_ones_own_is_said(here: Path, thing: Any, words: str) -> None:
    with pytest.raises((UnknownNameError, SettingsError, ValueError), match=words):
        load_victim(thing)


def test_a_file_of_the_name_of_a_library_is_still_the_file(here: Path) -> None:
    Path("json.py").write_text("def make():\n    return lambda clips: clips.mean((2, 3, 4))\n", "utf-8")
    assert load_victim("json.py:make")(CLIPS).shape == (2, 3)
    assert sys.modules["json"] is json


def test_files_have_attacks_too(here: Path) -> None:
    assert type(ATTACKS.make("code/net.py:Mine", budget=7)).__name__ == "Mine"


def test_a_file_that_raises_is_run_again_when_it_is_mended(here: Path) -> None:
    Path("odd-name.py").write_text("1 / 0\n", "utf-8")
    with pytest.raises(ZeroDivisionError):
        load_victim("odd-name.py:make")
    Path("odd-name.py").write_text("def make():\n    return lambda clips: clips.mean((2, 3, 4))\n", "utf-8")
    assert load_victim("odd-name.py:make").name == "make"


# --- by the command line, in YAML, in a benchmark ------------------------------------------------


@pytest.mark.thorough
def test_attack_and_check_take_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mp4("clip.mp4", make_clips(1, 0, 4, 32)[0][0])
    words = ["--victim", "code/net.py:Net", "--spec.frames", "4", "--spec.size", "32", "--device", "cpu"]
    attack = ["--attack", "random_cells", "--budget", "4", "--no-progress", "--out", "results"]
    main(["attack", "clip.mp4", *words, *attack])
    assert json.loads(Path("results/results.json").read_text("utf-8"))["clips"][0]["queries"] <= 4
    main(["check", "clip.mp4", *words])
    assert "[ok] determinism" in capsys.readouterr().out


def benchmark(*victims: Any, **settings: Any) -> Benchmark:
    return Benchmark(list(victims), {"random_cells": {}}, Synthetic(1), **settings)


def test_a_benchmark_takes_names_paths_descriptions_and_victims(here: Path) -> None:
    mine = Victim(lambda clips: clips.mean((2, 3, 4)), name="mine")
    described = {"class_path": "code/net.py:Net", "init_args": {"classes": 4}}
    choices = benchmark("demo", "code/net.py:make_victim", described, {"name": "i3d", "label": "x"}, mine).choices
    labels = ("demo", "make_victim", "Net", "x", "mine")
    from vidmarl.benchmark.config import label_of

    assert tuple(map(label_of, choices)) == labels
    loaded = choices[2]
    assert isinstance(loaded, VictimChoice)
    assert loaded.load("cpu")(CLIPS).shape == (2, 4)
    with pytest.raises(SettingsError, match="no setting 'wieghts'; did you mean weights"):
        _ = benchmark({"name": "demo", "wieghts": "random"})


@pytest.mark.thorough
def test_benchmark_takes_a_file_in_yaml(here: Path) -> None:
    lines = (
        "victims:",
        "  - code/net.py:make_victim",
        "  - {class_path: code/net.py:Net, init_args: {classes: 4, spec: {frames: 4, size: 32}}}",
        "attacks: {random_cells: {}}",
        "data: {class_path: Synthetic, init_args: {n: 1, frames: 4, size: 32}}",
        "budget: 3",
        "device: cpu",
        "out: out",
    )
    Path("bench.yaml").write_text("\n".join(lines), "utf-8")
    main(["benchmark", "-c", "bench.yaml", "--no-progress"])
    assert {path.name for path in Path("out/trials").iterdir()} == {"make_victim", "Net"}


# --- nothing that a file of agents names is imported ---------------------------------------------


@pytest.mark.parametrize(
    "named", ["code/net.py:make_victim", "net.make_victim", "brought", {"class_path": "code/net.py:Net"}, None]
)
def test_a_checkpoint_brings_no_victim_of_its_own(here: Path, package: Path, named: Any) -> None:
    settings: dict[str, Any] = {name: 1 for name in (*PLAIN, *NETS)} | {name: {} for name in PARTS}
    settings |= {"distortion": "gaussian_noise", "victim": {"name": "x", "spec": None}}
    settings |= {"named": named and {"victim": named, "weights": None}}
    with pytest.raises(CheckpointError, match="nothing that a file names is imported"):
        arguments_from(settings, {}, "Loading it")
    assert "net" not in sys.modules
    assert "bringer" not in sys.modules


# --- entry points --------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that brings one of each."""
    site = tmp_path / "site"
    info = site / "bringer-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bringer\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(
        "[vidmarl.victims]\nbrought = bringer:make\ndemo = bringer:fails\n"
        "[vidmarl.attacks]\nbrought_attack = bringer:Brought\nEvil = bringer:Brought\n"
        "[vidmarl.distortions]\nmist = bringer:mist\n[vidmarl.datasets]\nclips = bringer:Clips\n",
        "utf-8",
    )
    (site / "bringer.py").write_text(
        "from vidmarl import GrowAndReduce\nfrom vidmarl.data import ClipSource\n\n"
        "def make(gain=1.0):\n    return lambda clips: gain * clips.mean((2, 3, 4))\n\n"
        "def fails():\n    raise RuntimeError\n\n"
        "def mist(clips, strength, noise):\n    return clips.lerp(clips.mean(), strength)\n\n"
        "class Brought(GrowAndReduce):\n    pass\n\nclass Clips(ClipSource):\n    pass\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(site)
    yield site
    sys.modules.pop("bringer", None)


def test_an_installed_package_brings_its_own(package: Path) -> None:
    assert "brought" in vidmarl.list_victims("b*")
    assert "brought_attack" in vidmarl.list_attacks()
    assert "mist" in vidmarl.list_distortions()
    assert "bringer" not in sys.modules  # listed, and not imported
    victim = load_victim({"name": "brought", "init_args": {"gain": 2.0}})
    assert (victim.name, victim(CLIPS).shape) == ("brought", (2, 3))
    assert type(ATTACKS.make("brought_attack")).__name__ == "Brought"
    assert DISTORTIONS.make("mist").title == "bringer.mist"
    assert DISTORTIONS.name_of(DISTORTIONS.make("mist"))


def test_what_ships_keeps_its_name(package: Path) -> None:
    assert load_victim("demo", "random").n_classes == 8
    assert ships("demo")
    assert not ships("brought")
    for name in ("brought_attack", "Evil"):
        with pytest.raises(CheckpointError):
            ATTACKS.restore(name, "Loading it")
    assert "bringer" not in sys.modules


def test_datasets_of_other_packages_go_by_their_class_names(package: Path) -> None:
    from vidmarl.cli.parts import know_datasets

    know_datasets()
    assert "bringer" in sys.modules


@pytest.mark.thorough
def test_what_another_package_brings_is_known_to_the_command_line(
    package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDMARL_CACHE", str(tmp_path / "cache"))
    for kind, name in (("victims", "brought"), ("attacks", "brought_attack"), ("distortions", "mist")):
        main(["list", kind, f"{name[:4]}*"])
        assert name in capsys.readouterr().out
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    write_mp4(clip, CLIPS[0])
    brought = ["--victim", "brought", "--attack", "brought_attack", "--distortion", "mist"]
    main(["attack", str(clip), *brought, "--spec", '{"frames": 4, "size": 32}', "--budget", "4", "--out", str(out)])
    settings = json.loads((out / "results.json").read_text("utf-8"))["settings"]
    assert (settings["attack"], settings["victim"]) == ("Brought", "brought")

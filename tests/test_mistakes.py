"""What new users get wrong on the command line and in YAML, and that each mistake is answered in a
few lines, in the words in which it was made, with what to write instead."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TYPES_ARE_CHECKED

from vidmarl.agents.checkpoint import load_agents, save_agents
from vidmarl.cli import main
from vidmarl.data.encode import write_mp4
from vidmarl.data.synthetic import make_clips
from vidmarl.victims import load_victim

VICTIM = "--victim demo --weights random --device cpu"
SPEC = "--spec.frames 4 --spec.size 32 --spec.sampling uniform"
LIGHTNING = ("fit", "validate", "test", "predict")
RIGHT = {
    "attack": f"attack clip.mp4 {VICTIM} {SPEC} --attack random_cells --budget 4 --no-progress --out results",
    "check": f"check clip.mp4 {VICTIM} {SPEC}",
    "benchmark": "benchmark -c benchmark.yaml --no-progress",
    "fit": "fit -c fit.yaml",
}

pytestmark = pytest.mark.skipif(TYPES_ARE_CHECKED, reason="wrong types are refused before vidmarl sees them")

FILES = {
    "text.mp4": "This is no video.\n",
    "empty.mp4": "",
    "empty.yaml": "",
    "list.yaml": "- a\n- b\n",
    "broken.yaml": "budget: [1, 2\nseed: {\n",
    "unknown.yaml": "bugdet: 5\n",
    "typed.yaml": "budget: many\n",
    "recipe.yaml": "attack:\n  class_path: random_cells\n  init_args: {bugdet: 5}\n",
    "raises.py": "import vidmarl\nvalue = 1 / 0\n",
    "unfinished.py": "def victim(:\n",
    "lacks.py": "import no_such_package\n",
    "other.py": """import vidmarl
number = 3
def victim():
    return 3
def fails(clips=1):
    raise KeyError("a")
class Nothing: pass
""",
    "benchmark.yaml": """
victims:
  - {name: demo, weights: random, spec: {frames: 4, size: [32, 32]}}
attacks:
  random_cells: {}
data:
  class_path: vidmarl.data.synthetic.Synthetic
  init_args: {n: 1, frames: 4, size: 32}
budget: 4
device: cpu
out: outputs
""",
    "fit.yaml": """
trainer: {accelerator: cpu, max_epochs: 1, logger: false, enable_progress_bar: false}
model:
  victim: demo
  weights: random
  spec: {frames: 4, size: 32}
  distortion: gaussian_noise
  eval_budget: 4
data:
  batch_size: 1
  train: {class_path: vidmarl.data.folder.Folder, init_args: {root: videos}}
""",
}

MISTAKES = {
    "": [
        ("atack", "did you mean attack"),
        ("attacks", "did you mean attack"),
        ("--victim demo", "command"),
    ],
    "attack": [
        ("+ --buget 5", "--budget"),
        ("+ --attacks rl", "--attack"),
        ("+ --grid 8", "--help"),
        ("attack clip.mp4 --victim demo", "--out"),
        ("attack clip.mp4 --out results", "--victim"),
        ("attack --victim demo --out results", "CLIP"),
        ("+ --budget", "--budget"),
        ("+ --victim moviet_a0", "did you mean movinet_a0"),
        ("+ --victim ''", "known are"),
        ("+ --attack randomcells", "did you mean random_cells"),
        ("+ --attack random-cells", "did you mean random_cells"),
        ("+ --distortion gausian_noise", "did you mean gaussian_noise"),
        ("+ --attack rl --agents gausian_noise", "did you mean gaussian_noise"),
        ("+ --agents gaussian_noise", "--attack rl"),
        ("+ --attack rl --distortion glare", "--attack grow_and_reduce"),
        ("+ --coherence statik", "static"),
        ("+ --target cat", "known are: anticlockwise"),
        ("+ --target 8", "8 classes"),
        ("+ --labels cat", "known are: anticlockwise"),
        ("+ --labels 1 2", "one label for each"),
        ("+ --labels 1 --target 2", "not both"),
        ("+ --budget 6.5", "whole number"),
        ("+ --budget 0", "--budget must be at least 1"),
        ("+ --budget -1", "--budget must be at least 1"),
        ("+ --budget many", "whole number"),
        ("+ --budget ''", "whole number"),
        ("+ --seed x", "whole number"),
        ("+ --device gpu", "cuda"),
        ("+ --device cuda:97", "There are: cpu"),
        ("+ --device cuda0", "There are: cpu"),
        ("+ --spec.size big", "--spec.size"),
        ("+ --spec.size 64.5", "--spec.size"),
        ("+ --spec.size -64", "--spec.size"),
        ("+ --spec.size '[64]'", "--spec.size"),
        ("+ --spec.size 64x64", "--spec.size"),
        ("+ --spec.frames 0", "--spec.frames"),
        ("+ --spec.sise 64", "did you mean size"),
        ("""+ --spec '{"sise": 64}'""", "did you mean size"),
        ("+ --spec '{'", "JSON"),
        ("+ --spec {size:64}", "JSON"),
        ("+ --spec 64", "JSON"),
        ("+ --spec.sampling fast", "uniform"),
        ("+ --attack '{class_path: random_cells'", "JSON"),
        ("""+ --attack '{"class": "random_cells"}'""", "class_path"),
        ("""+ --attack '{"class_path": "random_cells", "init_args": {"blok": 3}}'""", "did you mean block"),
        ("""+ --attack '{"class_path": "random_cells", "init_args": {"block": "x"}}'""", "block"),
        ("""+ --attack '{"class_path": "random_cells", "init_args": 3}'""", "init_args"),
        ("""+ --distortion '{"class_path": "gaussian_noise", "init_args": {"sdt": 1}}'""", "did you mean std"),
        ("""+ --distortion '{"class_path": "gaussian_noise", "init_args": {"std": "x"}}'""", "std"),
        ("""+ --victim '{"class_path": "demo", "init_args": {"wieghts": "random"}}'""", "did you mean weights"),
        ("+ --attack no_such.Attack", "no_such"),
        ("+ --attack other.Attack", "other"),
        ("+ --attack other.Nothing", "Attack"),
        ("+ --attack other.number", "Attack"),
        ("+ --attack raises.Mine", "raises.py, line 2"),
        ("+ --attack unfinished.Mine", "unfinished.py, line 1"),
        ("+ --attack lacks.Mine", "no_such_package"),
        ("+ --attack other.py", "other."),
        ("+ --distortion other.Nothing", "Distortion"),
        ("+ --distortion raises.Mine", "raises.py, line 2"),
        ("+ --distortion no_such.rain", "no_such"),
        ("attack clip.mp4 --out results --victim other.victim", "Victim"),
        ("attack clip.mp4 --out results --victim other.fails", "other.py, line 6"),
        ("attack clip.mp4 --out results --victim other.number", "a class or a function"),
        ("attack clip.mp4 --out results --victim raises.victim", "raises.py, line 2"),
        ("attack clip.mp4 --out results --victim lacks.victim", "no_such_package"),
        ("attack clip.mp4 --out results --victim other.fails --weights random", "weights"),
        ("+ --weights missing.pt", "missing.pt"),
        ("+ --weights text.mp4", "text.mp4"),
        ("+ --weights truncated.pt", "truncated.pt"),
        ("+ --weights empty.mp4", "empty.mp4"),
        ("+ --weights another.pt", "another victim"),
        ("+ --weights folder", "folder"),
        (f"attack missing.mp4 {VICTIM} --out results", "missing.mp4"),
        (f"attack text.mp4 {VICTIM} --out results", "text.mp4"),
        (f"attack empty.mp4 {VICTIM} --out results", "empty.mp4"),
        (f"attack folder {VICTIM} --out results", "folder"),
        (f"attack unreadable.mp4 {VICTIM} --out results", "unreadable.mp4"),
        (f"attack clip.mp4 text.mp4 {VICTIM} --out results", "--skip_bad"),
        (f"attack *.avi {VICTIM} --out results", "*.avi"),
        ("+ --attack rl --agents missing.ckpt", "missing.ckpt"),
        ("+ --attack rl --agents text.mp4", "text.mp4"),
        ("+ --attack rl --agents another.pt", "another.pt"),
        ("+ --attack rl --agents folder", "folder"),
        ("+ --out text.mp4", "text.mp4"),
        ("+ --out folder", "--overwrite"),
        ("+ --out folder --overwrite", "left alone"),
        ("+ --out /proc/results", "/proc"),
        ("+ --out text.mp4/results", "text.mp4"),
        ("+ --out ''", "not empty"),
        ("+ -c missing.yaml", "missing.yaml"),
        ("+ -c folder", "folder"),
        ("+ -c broken.yaml", "broken.yaml"),
        ("+ -c unknown.yaml", "did you mean budget"),
        ("+ -c typed.yaml", "whole number"),
        ("+ -c list.yaml", "list.yaml"),
        ("+ -c clip.mp4", "clip.mp4"),
        (
            "attack clip.mp4 --victim demo --weights random --device cpu -c recipe.yaml --out results",
            "did you mean budget",
        ),
    ],
    "check": [
        ("+ --victm demo", "--victim"),
        ("check --victim demo", "CLIP"),
        ("check clip.mp4", "--victim"),
        ("+ --victim moviet_a0", "did you mean movinet_a0"),
        ("+ --device gpu", "cuda"),
        ("+ --spec.size big", "--spec.size"),
        ("""+ --spec '{"sise": 64}'""", "did you mean size"),
        ("+ --weights missing.pt", "missing.pt"),
        ("+ --weights another.pt", "another victim"),
        (f"check missing.mp4 {VICTIM}", "missing.mp4"),
        (f"check text.mp4 {VICTIM}", "text.mp4"),
        (f"check folder {VICTIM}", "folder"),
        ("+ --out x", "--out"),
    ],
    "list": [
        ("list", "victims"),
        ("list victim", "victims"),
        ("list datasets", "victims"),
        ("list victims x3d* movinet*", "movinet*"),
        ("list victims --all", "--all"),
        ("list victims 'vgg*'", "vgg*"),
        ("list victims moviet_a0", "did you mean movinet_a0"),
    ],
    "demo": [
        ("demo --seed x", "whole number"),
        ("demo --sed 1", "--seed"),
        ("demo --out text.mp4", "text.mp4"),
        ("demo --out /proc/results", "/proc"),
        ("demo here", "here"),
    ],
    "export": [
        ("export", "CHECKPOINT"),
        ("export missing.ckpt out.pt", "missing.ckpt"),
        ("export text.mp4 out.pt", "text.mp4"),
        ("export another.pt out.pt", "another.pt"),
        ("export folder out.pt", "folder"),
        ("export agents.pt", "FILE"),
        ("export agents.pt folder", "folder"),
        ("export agents.pt /proc/agents.pt", "/proc"),
        ("export gausian_noise out.pt", "did you mean gaussian_noise"),
    ],
    "benchmark": [
        ("benchmark", "--victims"),
        ("benchmark -c missing.yaml", "missing.yaml"),
        ("benchmark -c broken.yaml", "broken.yaml"),
        ("benchmark -c unknown.yaml", "did you mean budget"),
        ("benchmark -c empty.yaml", "budget: 200"),
        ("benchmark -c folder", "folder"),
        ("+ --buget 5", "--budget"),
        ("+ --budget many", "whole number"),
        ("+ --budget 0", "--budget"),
        ("+ --budgets 5", "--budgets"),
        ("+ --seed x", "whole number"),
        ("+ --max-clips 0", "--max_clips must be at least 1"),
        ("+ --device gpu", "cuda"),
        ("+ --shard 2/2", "K/N"),
        ("+ --shard two", "K/N"),
        ("+ --grid 8x8", "height"),
        ("+ --goal untarget", "untargeted"),
        ("+ --labels truth", "dataset"),
        ("+ --labels dataset --goal targeted", "labels must be"),
        ("+ --reference rl", "random_cells"),
        ("+ --distortions '[gausian_noise]'", "did you mean gaussian_noise"),
        ("+ --distortions gaussian_noise", "[first, second]"),
        ("+ --attacks '{randomcells: {}}'", "did you mean random_cells"),
        ("+ --attacks.random_cells.init_args.blok 3", "init_args"),
        ("+ --attacks.random_cells.init_arg.block 3", "init_args"),
        ("+ --attacks random_cells", "--attacks"),
        ("""+ --attacks '{"rl": {"init_args": {"agents": "missing.pt"}}}'""", "missing.pt"),
        ("+ --victims '[{name: moviet_a0}]'", "did you mean movinet_a0"),
        ("+ --victims '[{nane: demo}]'", "name"),
        ("+ --victims '[{name: demo, wieghts: random}]'", "weights"),
        ("+ --victims '[{name: demo, weights: missing.pt}]'", "missing.pt"),
        ("+ --victims '[{name: demo, weights: random, spec: {sise: 32}}]'", "did you mean size"),
        ("+ --victims demo", "--victims"),
        ("+ --data.class_path vidmarl.data.ucf11.UCF11", "UCF101"),
        ("+ --data.class_path UCF11", "UCF101"),
        ("+ --data Folder --data.root missing", "missing"),
        ("+ --data Folder --data.init_args.roto videos", "roto"),
        ("+ --data Folder --data.root empty", "empty"),
        ("+ --data.size big", "whole number"),
        ("+ --data other.Nothing", "other.Nothing"),
        ("+ --data raises.Mine", "raises.py, line 2"),
        ("+ --out text.mp4", "text.mp4"),
        ("+ --out /proc/results", "/proc"),
        ("+ --summarize-only", "--summarise_only"),
    ],
    "fit": [
        ("fit --model.victim demo --model.weights random --trainer.enable_progress_bar false", "data.train"),
        ("fit -c missing.yaml", "missing.yaml"),
        ("fit -c broken.yaml", "broken.yaml"),
        ("fit -c unknown.yaml", "bugdet"),
        ("fit -c folder", "folder"),
        ("+ --model.evalbudget 5", "eval_budget"),
        ("+ --model.eval_budget many", "whole number"),
        ("+ --model.eval_budget 0", "--model.eval_budget must be at least 1"),
        ("+ --model.ppo.orders 1", "orders must be at least 2"),
        ("+ --model.victim moviet_a0", "did you mean movinet_a0"),
        ("+ --model.victim raises.victim", "raises.py, line 2"),
        ("+ --model.weights missing.pt", "missing.pt"),
        ("""+ --model.spec '{"sise": 64}'""", "size"),
        ("+ --model.spec.size big", "size"),
        ("+ --model.distortion gausian_noise", "did you mean gaussian_noise"),
        ("+ --model.distortion.init_args.sdt 3", "sdt"),
        ("+ --model.grid 8x8", "grid"),
        ("+ --model.coherence statik", "static"),
        ("+ --model.ppo.epocs 3", "--model.ppo.epochs"),
        ("+ --trainer.accelerator gpux", "gpux"),
        ("+ --trainer.max_epocs 3", "--trainer.max_epochs"),
        ("+ --data.train.init_args.root missing", "missing"),
        ("+ --data.train Foldr", "Folder"),
        ("+ --data.train.init_args.roto videos", "roto"),
        ("+ --data.train raises.Mine", "raises.py, line 2"),
        ("+ --data.batch_size 0", "batch"),
        ("+ --data.batch_size 100", "batch"),
        ("+ --ckpt_path missing.ckpt", "missing.ckpt"),
        ("+ --ckpt_path text.mp4", "text.mp4"),
        ("+ --ckpt_path another.pt", "another.pt"),
    ],
    "validate": [
        ("validate -c fit.yaml", "data.val"),
        ("validate -c fit.yaml --data.val Folder --data.val.root held_out --ckpt_path missing.ckpt", "missing.ckpt"),
        ("validate -c fit.yaml --data.val Folder --data.val.root held_out --ckpt_path text.mp4", "text.mp4"),
    ],
    "test": [
        ("test", "--ckpt_path"),
        ("test -c missing.yaml", "missing.yaml"),
        ("test -c fit.yaml", "--ckpt_path"),
        ("test -c fit.yaml --ckpt_path agents.pt", "data.test"),
        ("test -c fit.yaml --data.test Folder --data.test.root held_out --ckpt_path missing.ckpt", "missing.ckpt"),
        ("test -c fit.yaml --data.test Folder --data.test.root held_out --ckpt_path text.mp4", "text.mp4"),
        ("test -c fit.yaml --budgte 5", "--budget"),
        ("test -c fit.yaml --budget many", "whole number"),
    ],
    "predict": [
        ("predict -c fit.yaml", "data.test"),
        ("predict -c fit.yaml --data.test Folder --data.test.root held_out --ckpt_path missing.ckpt", "missing.ckpt"),
        ("predict -c fit.yaml --buget 5", "buget"),
    ],
}
"""By command: a line, of which `+` stands for what is right in it, and what its answer says."""

PYTHON = re.compile(
    r"Traceback|=True|=False|(?<!--)skip_bad|ClipSpec\(|Given value type|Expected a <class|<class '|NoneType"
    r"|object at 0x"
    r"|Union\[|jsonargparse|Unpickl|RuntimeError|Errno|weights_only|Does not validate|Parser key|Namespace\("
)
"""What a person at a command line has not written and does not want to read."""

MOST_LINES, MOST_CHARACTERS = 4, 900


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the mistakes are made with."""
    place = tmp_path_factory.mktemp("mistakes")
    for name, content in FILES.items():
        (place / name).write_text(content)
    clips, _ = make_clips(2, seed=0, frames=8, size=32)
    write_mp4(place / "clip.mp4", clips[0], fps=8)
    for name in ("folder", "videos", "held_out", "empty"):
        (place / name).mkdir()
    (place / "folder" / "thesis.tex").write_text("dear")
    write_mp4(place / "videos" / "one.mp4", clips[1], fps=8)
    write_mp4(place / "held_out" / "two.mp4", clips[0], fps=8)
    (place / "unreadable.mp4").write_bytes((place / "clip.mp4").read_bytes())
    (place / "unreadable.mp4").chmod(0)
    torch.save(torch.nn.Linear(2, 2).state_dict(), place / "another.pt")
    torch.save(load_victim("demo", "random").model.state_dict(), place / "whole.pt")
    whole = (place / "whole.pt").read_bytes()
    (place / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    save_agents(place / "agents.pt", load_agents("gaussian_noise"))
    return place


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("VIDMARL_DEBUG", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning logs to the stderr of the test that imported it
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # Lightning sets it for good
    handlers = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
    yield folder
    for which, handler in handlers.items():
        signal.signal(which, handler)
    shutil.rmtree(folder / "results", ignore_errors=True)
    for name in ("raises", "unfinished", "lacks", "other"):
        sys.modules.pop(name, None)


def run(
    command: str, line: str, captured: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[object, str, str]:
    """The exit code, stdout and stderr of a line."""
    words = shlex.split(f"{RIGHT[command]} {line[2:]}" if line.startswith("+ ") else line)
    monkeypatch.setattr(sys, "argv", ["vidmarl", *words])
    with pytest.raises(SystemExit) as stop:
        main(words)
    return stop.value.code, *captured.readouterr()


@pytest.mark.parametrize(
    ("command", "line", "hint"),
    [
        pytest.param(
            command,
            line,
            hint,
            id=line.replace("+", command, 1) if line[0] == "+" else line,
            marks=[pytest.mark.thorough] if command in LIGHTNING else [],
        )
        for command, cases in MISTAKES.items()
        for line, hint in cases
    ],
)
def test_a_mistake_is_answered_in_a_few_words_that_help(
    in_folder: Path,
    command: str,
    line: str,
    hint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "unreadable" in line and os.access("unreadable.mp4", os.R_OK):
        pytest.skip("root reads everything")
    code, out, err = run(command, line, capsys, monkeypatch)
    of_lightning = ("warning", "info: ")  # the latter only where nothing has set up logging before
    said = "\n".join(line for line in err.splitlines() if not any(word in line.lower() for word in of_lightning))
    assert code == 2, err
    assert out == ""
    assert not (found := PYTHON.search(err)), f"{found}: {err}"
    assert len(said.splitlines()) <= MOST_LINES, err
    assert len(said) <= MOST_CHARACTERS, err
    assert hint in said, err
    assert not (in_folder / "results").exists()


@pytest.mark.parametrize(
    "line",
    [
        "+ --victim moviet_a0",
        "+ --victim no_such.victim",
        "+ --victim raises.victim",
        "+ --victim '{'",
        """+ --victim '{"class_path": "demo", "init_args": {"wieghts": "random"}}'""",
        "+ --weights missing.pt",
        "+ --weights another.pt",
        "+ --device gpu",
        "+ --spec.size big",
        """+ --spec '{"sise": 64}'""",
    ],
)
def test_a_wrong_victim_is_answered_alike_by_all_commands(
    in_folder: Path, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {}
    for command in ("attack", "check"):
        answers[command] = run(command, line, capsys, monkeypatch)
        sys.modules.pop("raises", None)
    assert answers["attack"] == answers["check"]


def test_options_may_be_spelt_with_dashes_or_underscores(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in ("+ --max-clips many", "+ --max_clips many"):
        _, _, err = run("benchmark", line, capsys, monkeypatch)
        assert "--max_clips: expected a whole number" in err

"""The package as a whole: what importing it costs, what it offers, and that what the documents show
is so."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
import torch

import vidmarl
from vidmarl.attacks import ATTACKS
from vidmarl.distortions import DISTORTIONS
from vidmarl.errors import SettingsError
from vidmarl.utils.recipes import list_configs

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "lightning",
    "torchrl",
    "tensordict",
    "plotly",
    "pandas",
    "pytorchvideo",
    "torchvision",
    "cv2",
    "kornia",
    "torchmetrics",
    "av",
)
WITHOUT_TRAINING = ("lightning", "torchrl", "tensordict", "pytorchvideo", "plotly")


def imported_by(code: str, among: tuple[str, ...]) -> list[str]:
    """Which of the packages `among` a fresh interpreter has loaded after `code`."""
    code += f"\nimport sys; print('loaded:', *[name for name in {among!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.rpartition("loaded:")[2].split()


def code_blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# --- what importing it costs ---------------------------------------------------------------------


def test_importing_it_brings_in_nothing_heavy() -> None:
    assert imported_by("import vidmarl, vidmarl.data.paths, vidmarl.utils.files", (*HEAVY, "torch")) == []


@pytest.mark.thorough
def test_the_names_that_need_no_training_bring_in_nothing_heavy() -> None:
    names = "Victim ClipSpec Misclassify Target TubeletGrid Attack AttackResult RandomCells GrowAndReduce distortions"
    code = f"import vidmarl\nfor name in {names.split()!r}: getattr(vidmarl, name)"
    assert imported_by(code, HEAVY) == []


@pytest.mark.thorough
@pytest.mark.parametrize("command", ["--help", "attack --help", "check --help", "demo --help", "list --help"])
def test_help_needs_not_even_torch(command: str) -> None:
    code = f"""
from vidmarl.cli import main
try:
    main({command.split()!r})
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert imported_by(code, (*HEAVY, "torch")) == []


@pytest.mark.thorough
def test_listing_attacks_and_distortions_needs_no_training_library() -> None:
    code = "from vidmarl.cli import main\nmain(['list', 'attacks'])\nmain(['list', 'distortions'])"
    imported_by(code, ())  # the first time all that is listed is imported, and remembered
    assert imported_by(code, WITHOUT_TRAINING) == []


# --- the public names ----------------------------------------------------------------------------

PUBLIC = [
    "Attack",
    "AttackResult",
    "ClipSpec",
    "GreedySensitivity",
    "GrowAndReduce",
    "Misclassify",
    "RLAttack",
    "RandomCells",
    "SavedResult",
    "SquareTubes",
    "Target",
    "TubeletGrid",
    "Victim",
    "__version__",
    "accuracy",
    "attack_files",
    "attacks",
    "audit",
    "compare",
    "distortions",
    "errors",
    "list_agents",
    "list_attacks",
    "list_distortions",
    "list_victims",
    "load_agents",
    "load_clips",
    "load_victim",
    "metrics",
    "sensitivity",
    "victim_card",
]

CLASSES: dict[str, type] = {name: value for name in PUBLIC if isinstance(value := getattr(vidmarl, name), type)} | {
    f"{registry.kind}s.{name}": kind for registry in (ATTACKS, DISTORTIONS) for name, kind in registry.classes().items()
}

each_class = pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)


def settings_of(kind: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(kind).parameters)


def test_the_public_names_are_these() -> None:
    assert sorted(vidmarl.__all__) == PUBLIC
    assert dir(vidmarl) == PUBLIC
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = vidmarl.no_such_thing


@each_class
def test_every_class_documents_its_settings(kind: type) -> None:
    assert kind.__doc__
    documented = " ".join(base.__doc__ or "" for base in kind.__mro__)
    missing = [name for name in settings_of(kind) if not re.search(rf"^ +(\w+, )*{name}(, \w+)*: ", documented, re.M)]
    assert missing == []


@each_class
def test_every_signature_names_its_settings(kind: type) -> None:
    kinds = {setting.kind for setting in settings_of(kind).values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


@pytest.mark.parametrize("kind", [kind for kind in CLASSES.values() if kind is not vidmarl.AttackResult])
def test_an_unknown_setting_is_answered_with_the_nearest(kind: type) -> None:
    for name in settings_of(kind):
        with pytest.raises(SettingsError, match=rf"{kind.__name__}: .*'{name}_'; did you mean .*\b{name}\b"):
            kind(**{f"{name}_": 1})


def test_an_unknown_setting_of_a_named_victim_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="'frame'; did you mean frames"):
        vidmarl.load_victim("movinet_a0", "random", spec={"frame": 8})
    with pytest.raises(SettingsError, match="'weight'; did you mean weights"):
        vidmarl.load_victim({"class_path": "movinet_a0", "init_args": {"weight": "random"}})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *((lambda name=name: vidmarl.attacks.as_attack(name, budget=77), "budget=77") for name in ATTACKS.names()),
        *((lambda name=name: vidmarl.distortions.as_distortion(name), "") for name in DISTORTIONS.names()),
        (lambda: vidmarl.distortions.GaussianNoise(0.25), "std=0.25"),
        (lambda: vidmarl.ClipSpec(frames=7), "frames=7"),
        (lambda: vidmarl.TubeletGrid(height=9), "height=9"),
        (lambda: vidmarl.Misclassify([3, 4]), "3, 4"),
        (lambda: vidmarl.Target([3, 4]), "3, 4"),
        (lambda: vidmarl.Victim(torch.nn.Flatten(), name="flat"), "'flat'"),
        (lambda: vidmarl.load_agents("dead_pixels"), "trained for DeadPixels against movinet_a0"),
    ],
)
def test_the_repr_says_what_it_is_and_how_it_is_set(make: Callable[[], Any], words: str) -> None:
    made = make()
    assert repr(made).startswith(f"{type(made).__name__}(")
    assert words in repr(made)
    assert "object at 0x" not in repr(made)


# --- the distribution ----------------------------------------------------------------------------


def test_the_version_is_said_once_and_everywhere_the_same() -> None:
    version = vidmarl.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert metadata.version("vidmarl") == version
    [latest, *_] = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert latest == (version, re.findall(r"^date-released: (\S+)$", citation, re.M)[0])
    assert re.findall(r"^version: (\S+)$", citation, re.M) == [version]
    assert re.findall(r"^  version = {(\S+)}$", (ROOT / "README.md").read_text("utf-8"), re.M) == [version]


@pytest.mark.thorough
@pytest.mark.parametrize(("checked", "error"), [("0", ""), ("1", "jaxtyping.TypeCheckError")])
def test_shapes_are_checked_at_run_time_where_that_is_asked_for(checked: str, error: str) -> None:
    code = "import conftest, torch\nfrom vidmarl.metrics import l2\nl2(torch.zeros(2, 3), torch.zeros(2, 3))"
    environment = os.environ | {"VIDMARL_TYPECHECK": checked}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT / "tests", env=environment
    )
    assert bool(done.returncode) == bool(error)
    assert error in done.stderr


def test_it_is_marked_as_typed() -> None:
    assert resources.files("vidmarl").joinpath("py.typed").is_file()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which the wheel is installed, beside the libraries of this
    one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("vidmarl-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    install = [*pip, "--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    libraries = Path(torch.__file__).parent.parent  # not read as a site folder: what is editable there stays out
    (site_of(python) / "libraries.pth").write_text(f"{libraries}\n", "utf-8")
    return python


def site_of(python: Path) -> Path:
    """Where an environment has its packages."""
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())


def run_there(command: list[str], folder: Path, python: Path) -> str:
    """What a command says that runs in a folder, in an environment without data."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VIDMARL_", "PYTHON"))}
    environment |= {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "VIDMARL_DATA": str(folder / "nothing"),
        "VIDMARL_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    """It attacks with what it brings."""
    site = site_of(installed)
    code = f"""
import torch, vidmarl
from vidmarl.report import write_report
from vidmarl.testing import easy_clips
assert vidmarl.__file__.startswith({str(site)!r}), vidmarl.__file__
victim = vidmarl.load_victim("demo", "random", spec={{"frames": 3, "size": (32, 32)}})
result = vidmarl.RLAttack("dead_pixels", budget=8, progress=False)(victim, easy_clips())
result.save("result")
print(vidmarl.AttackResult.load("result"), vidmarl.list_agents())
"""
    run_there([str(installed), "-c", code], tmp_path, installed)
    assert run_there(["vidmarl", "--version"], tmp_path, installed) == f"vidmarl {vidmarl.__version__}\n"
    assert run_there(["vidmarl", "list", "configs", "--names"], tmp_path, installed) == "\n".join(list_configs()) + "\n"
    shipped = {path.relative_to(site / "vidmarl") for path in (site / "vidmarl").rglob("*") if path.is_file()}
    tracked = subprocess.run(
        ["git", "ls-files", "vidmarl"], capture_output=True, text=True, check=False, cwd=ROOT
    ).stdout
    wanted = {Path(line).relative_to("vidmarl") for line in tracked.splitlines() if (ROOT / line).is_file()}
    assert wanted <= shipped


SMALL = '{"frames": 4, "size": 64}'
QUICKER = (
    (r'load_victim\("(\w+)"\)', rf'load_victim("\1", "random", spec={SMALL})'),
    (r"budget=\d+", "budget=6"),
    (r"--victim (\w+)", rf"--victim \1 --weights random --spec '{SMALL}'"),
    (r"--budget \d+", "--budget 6"),
    (r"(-c conf/synthetic\.yaml)", r"\1 --trainer.max_epochs 2 --trainer.limit_train_batches 1"),
)
"""What is changed in the README: nothing is downloaded, and nobody waits."""
WITH_DATA = ("movinet_ucf101", "natural.yaml")
"""Settings of commands that need data: these are read, and no more."""


@pytest.mark.slow
def test_what_the_readme_shows_runs_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    run_there(["bash", "-c", 'cp "$(vidmarl data sample)" clip.mp4'], tmp_path, installed)
    commands = []
    for block in code_blocks(ROOT / "README.md", "bash"):
        lines = re.sub(r" *#.*", "", block.replace("\\\n", " ")).splitlines()
        commands += [line.strip() for line in lines if line.startswith("vidmarl ")]
    commands.remove("vidmarl demo")  # minutes
    assert {"list", "attack", "fit"} <= {command.split()[1] for command in commands}
    script = "\n".join(code_blocks(ROOT / "README.md", "python"))
    for old, new in QUICKER:
        script = re.sub(old, new, script)
        commands = [re.sub(old, new, command) for command in commands]
    run_there([str(installed), "-c", script], tmp_path, installed)
    for command in commands:
        read = " --print_config" if any(name in command for name in WITH_DATA) else ""
        run_there(["bash", "-c", command + read], tmp_path, installed)
    assert (tmp_path / "results" / "report.html").is_file()


# --- the files of the repository -----------------------------------------------------------------


def tracked_text() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / line for line in done.stdout.splitlines()]
    return [file for file in files if file.is_file() and file.suffix not in (".png", ".mp4", ".mkv", ".ico")]


def test_no_file_names_a_path_of_one_machine() -> None:
    here = re.compile(r"(?<![\w.{}$\"'])/(work|home|root|Users|mnt|media)/\w")
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for file in tracked_text()
        for number, line in enumerate(file.read_text("utf-8", errors="replace").splitlines(), 1)
        if here.search(line)
    ]
    assert found == []


def test_nothing_is_pickled_and_only_two_readers_of_pickles_make_nothing_of_their_objects() -> None:
    risky = re.compile(r"^\s*(import|from) (pickle|joblib|dill)\b|weights_only=False|allow_pickle=True", re.MULTILINE)
    found = {file.name: file.read_text("utf-8") for file in (ROOT / "vidmarl").rglob("*.py")}
    risks = {name: text for name, text in found.items() if risky.search(text)}
    assert risks.keys() == {"inert.py", "flax.py"}  # of published weights that are no plain state dicts
    for text in risks.values():
        assert "(pickle.Unpickler):" in text
        assert "def find_class(" in text
        assert not re.search(r"pickle\.loads?\(", text)


def test_the_python_of_the_documents_compiles() -> None:
    blocks = [(path, block) for path in documents() for block in code_blocks(path, "python")]
    assert blocks
    for path, block in blocks:
        compile(block, str(path), "exec")


def test_the_public_names_in_the_documents_are_there() -> None:
    used = {name for path in documents() for block in code_blocks(path, "python") for name in _attributes(block)}
    assert used
    assert {name for name in used if not hasattr(vidmarl, name)} == set()


def _attributes(block: str) -> set[str]:
    return set(re.findall(r"\bvidmarl\.([A-Za-z]\w*)", re.sub(r"(from|import) vidmarl\.\S+", "", block)))


def test_the_shell_of_the_documents_parses() -> None:
    blocks = [block for path in documents() for block in code_blocks(path, "bash")]
    assert blocks
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True, capture_output=True)


def test_every_make_target_explains_itself() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.search(r"\.PHONY: (.*)", makefile)
    assert targets
    done = subprocess.run(["make", "help"], capture_output=True, text=True, check=True, cwd=ROOT)
    for target in targets[1].split():
        assert re.search(rf"^  {target}\s+\S", done.stdout, re.MULTILINE), target

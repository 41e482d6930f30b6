"""The package as a whole: what importing it costs, what it offers, and that what the documents show
is so."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import vidmarl

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


def test_importing_it_brings_in_nothing_heavy() -> None:
    assert imported_by("import vidmarl, vidmarl.data.paths, vidmarl.utils.files", (*HEAVY, "torch")) == []


def test_the_names_that_need_no_training_bring_in_nothing_heavy() -> None:
    names = "Victim ClipSpec Misclassify Target TubeletGrid Attack AttackResult RandomCells GrowAndReduce distortions"
    code = f"import vidmarl\nfor name in {names.split()!r}: getattr(vidmarl, name)"
    assert imported_by(code, HEAVY) == []


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


def test_listing_attacks_and_distortions_needs_no_training_library() -> None:
    code = "from vidmarl.cli import main\nmain(['list', 'attacks'])\nmain(['list', 'distortions'])"
    assert imported_by(code, WITHOUT_TRAINING) == []


@pytest.mark.parametrize("name", vidmarl.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(vidmarl, name) is not None
    assert name in dir(vidmarl)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = vidmarl.no_such_thing


def test_the_version_is_the_installed_one_and_in_the_changelog() -> None:
    assert vidmarl.__version__ == metadata.version("vidmarl")
    assert re.match(r"\d+\.\d+\.\d+", vidmarl.__version__)
    assert "## [" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_it_is_marked_as_typed() -> None:
    assert resources.files("vidmarl").joinpath("py.typed").is_file()


def test_the_lazy_names_are_the_ones_that_type_checkers_see() -> None:
    source = (ROOT / "vidmarl" / "__init__.py").read_text("utf-8")
    typed = source.partition("if TYPE_CHECKING:")[2].partition("_MODULES")[0]
    missing = [name for name in vidmarl.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", typed)]
    assert missing == []


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


def test_nothing_is_pickled() -> None:
    risky = re.compile(r"^\s*(import|from) (pickle|joblib|dill)\b|weights_only=False|allow_pickle=True", re.MULTILINE)
    found = [file.name for file in (ROOT / "vidmarl").rglob("*.py") if risky.search(file.read_text("utf-8"))]
    assert found == []


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


def test_the_files_that_the_documents_point_to_are_there() -> None:
    broken = []
    for path in documents():
        text = path.read_text("utf-8")
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text) + re.findall(r"-c (conf/\S+\.yaml)", text)
        for link in links:
            base = ROOT if link.startswith("conf/") else path.parent
            if not (base / link).exists():
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_every_make_target_explains_itself() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.search(r"\.PHONY: (.*)", makefile)
    assert targets
    done = subprocess.run(["make", "help"], capture_output=True, text=True, check=True, cwd=ROOT)
    for target in targets[1].split():
        assert re.search(rf"^  {target}\s+\S", done.stdout, re.MULTILINE), target

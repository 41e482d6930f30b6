"""What the documentation says is there: files, headings, names in the code, configurations."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
OF_OLDER_COMMITS = {"results_first_version.md", "experiments.md"}
"""Their commands are those of the commit that measured, and say so."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text("utf-8"))):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


@each_page
def test_names_are_in_the_code(page: Path) -> None:
    for name in set(re.findall(r"`(vidmarl(?:\.\w+)+)`", page.read_text("utf-8"))):
        parts = name.split(".")
        for depth in range(len(parts), 0, -1):
            try:
                thing = importlib.import_module(".".join(parts[:depth]))
            except ModuleNotFoundError:
                continue
            for attribute in parts[depth:]:
                assert hasattr(thing, attribute), f"{page.name} speaks of {name}"
                thing = getattr(thing, attribute)
            break


@each_page
def test_prose_has_short_lines(page: Path) -> None:
    lines = without_code(page.read_text("utf-8")).splitlines()
    assert not [line for line in lines if len(line) > 100 and line[0] not in "|[!"]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in OF_OLDER_COMMITS], ids=lambda page: page.name)
def test_configurations_are_there(page: Path) -> None:
    for file in re.findall(r"\bconf/[a-z0-9_./]+\.yaml", page.read_text("utf-8")):
        assert (ROOT / file).exists(), f"{page.name} names {file}"


def test_the_tests_that_pages_name_are_there() -> None:
    written = "\n".join(file.read_text("utf-8") for file in (ROOT / "tests").glob("*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8"))}
    assert len(named) > 60
    assert not [name for name in named if f"def {name}(" not in written]


def test_the_glossary_is_in_order() -> None:
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.MULTILINE)[2:]
    assert len(rows) > 40
    assert rows == sorted(rows, key=lambda term: re.sub(r"[^\w ]", "", term).lower())


@pytest.mark.slow
def test_the_readme_type_checks(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

"""The page on extending the project: what it shows works, in the order in which it is shown, with
the types that it says."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from vidmarl.metrics import column

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "extending.md"


def script() -> str:
    """All Python of the page as one file whose lines are those of the page."""
    text = PAGE.read_text("utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        first = text[: block.start(1)].count("\n")
        content = block[1].splitlines()
        lines[first : first + len(content)] = content
    return "\n".join(lines)


@pytest.mark.thorough
def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(column, "_METRICS", dict(column._METRICS))  # the metric of the page stays there
    module = types.ModuleType("extending")  # what is defined in it has a class path
    monkeypatch.setitem(sys.modules, "extending", module)
    code = script()
    assert code.count("class ") >= 4
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), vars(module))


@pytest.mark.slow
def test_the_types_of_the_examples_are_right(tmp_path: Path) -> None:
    file = tmp_path / "extending.py"
    file.write_text(script(), "utf-8")
    command = [sys.executable, "-m", "mypy", str(file)]  # as strict as for the package, by pyproject.toml
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

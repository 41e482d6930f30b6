"""The notebooks and a newcomer's first lines. `make test` runs the notebooks; here is what else is
promised of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import MakeVideo

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

FIGURES = r"\.(plot|regions|trajectory|timeline|clip)\(|figures\.\w+\(|LiveView\("
"""What a cell that ends in a picture calls last."""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_they_are_numbered() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) == 8


@each
def test_they_are_stripped(path: Path) -> None:
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@each
def test_they_begin_with_three_lines_of_imports_at_most(path: Path) -> None:
    for cell in code(path):
        if not cell.startswith("%"):
            tree = ast.parse(cell)
            assert sum(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree)) <= 3


@each
def test_they_end_in_a_picture(path: Path) -> None:
    last = ast.parse(code(path)[-1]).body[-1]
    assert isinstance(last, ast.Expr)
    assert re.search(FIGURES, ast.unparse(last)), ast.unparse(last)


@each
def test_they_are_short(path: Path) -> None:
    assert sum(len(cell.splitlines()) for cell in code(path)) <= 80


@each
def test_their_links_lead_somewhere(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)\s#]+)\)", text):
        assert (path.parent / link).exists(), link


@pytest.mark.thorough
def test_a_newcomer_sees_the_attacked_regions_in_under_ten_lines(
    make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clip and a model of their own: the first code of docs/live_view.md, as it stands."""
    text = (ROOT / "docs" / "live_view.md").read_text("utf-8")
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len([line for line in block.splitlines() if line.strip()]) < 10
    make_video("clip.mp4", frames=20)
    (tmp_path / "my_project.py").write_text(MINE, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    *before, last = ast.parse(block).body
    assert isinstance(last, ast.Expr)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(before, []), "live_view.md", "exec"), names)
    figure = eval(compile(ast.Expression(last.value), "live_view.md", "eval"), names)
    assert names["result"].success.all(), "the picture is one of a success"
    assert len(figure.frames) == 16, "a slider over the frames"
    titles = [title.text for title in figure.layout.annotations]
    assert titles[:2] == ["original", "attacked"]
    assert titles[3] == "region"


MINE = """
import torch


class Brightness(torch.nn.Module):
    def forward(self, clips):
        flicker = clips.diff(dim=3).abs().mean((1, 2, 3, 4))
        return torch.stack([0.05 - flicker, flicker - 0.05], 1)


my_model = Brightness()
"""

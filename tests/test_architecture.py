"""The layers of the package: what may import what, and how many entries its root has."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import vidmarl

ROOT = Path(vidmarl.__file__).parent

LAYERS = (  # an import leads to a lower layer, or stays within its own package
    ("errors", "_version"),
    ("utils",),
    ("registry",),
    ("data",),
    ("distortions",),
    ("victims",),
    ("perturbations",),
    ("queries", "metrics"),
    ("agents", "report"),
    ("attacks",),
    ("benchmark", "pipeline", "training", "testing"),
    ("audit",),
    ("demo", "__init__"),  # `__init__`: the public names
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MOST_ENTRIES = 22


class Import(NamedTuple):
    """One import of a module of the package by another.

    Attributes:
        importer: dotted name below the package, such as "attacks.rl"; the package's own
            `__init__` is "__init__".
        imported: the same of what is imported.
        line: where.
        typing_only: whether only type checkers see it; an import of a stub counts as one.
    """

    importer: str
    imported: str
    line: int
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.importer} (line {self.line}) imports {self.imported}"


def modules(root: Path) -> dict[str, Path]:
    """The files of a package by their dotted name below it."""
    named = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        named[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = file
    return named


def imports(root: Path) -> list[Import]:
    """Every import of one module of the package by another, those inside functions and those for
    type checkers included."""
    named = modules(root)
    files = [(name, file) for name, python in named.items() for file in (python, python.with_suffix(".pyi"))]
    every = [found for name, file in files if file.exists() for found in _imports_of(name, file, set(named), root.name)]
    return list(dict.fromkeys(every))


def _imports_of(name: str, file: Path, known: set[str], package: str) -> Iterator[Import]:
    tree = ast.parse(file.read_text("utf-8"))
    typing_only = {
        id(inner)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:  # from . import x
                folder = [package, *(name.split(".") if name != "__init__" else [])]
                depth = node.level - (file.stem == "__init__")
                module = ".".join([*folder[: len(folder) - depth], *([module] if module else [])])
            targets = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            path = target.split(".")
            if path[0] != package:
                continue
            while path[1:] and ".".join(path[1:]) not in known:  # the name of a class or a function
                path.pop()
            imported = ".".join(path[1:]) or "__init__"
            if imported != name:
                yield Import(name, imported, node.lineno, file.suffix == ".pyi" or id(node) in typing_only)


def upward(found: list[Import]) -> list[str]:
    """The imports that lead to the same or to a higher layer."""
    wrong = []
    for one in found:
        importer, imported = one.importer.partition(".")[0], one.imported.partition(".")[0]
        if importer != imported and LEVEL[importer] <= LEVEL[imported]:
            wrong.append(f"{one}: layer {LEVEL[importer]} must not import layer {LEVEL[imported]}")
    return wrong


def circles(found: list[Import]) -> list[str]:
    """Modules that import each other in a circle, each circle once."""
    graph: dict[str, set[str]] = {}
    for one in found:
        if not one.typing_only:
            graph.setdefault(one.importer, set()).add(one.imported)
    told = []
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            circle: list[str] = error.args[1][::-1]  # each imports the next one
            told.append(" imports ".join(circle))
            graph[circle[0]].discard(circle[1])
        else:
            return told


def report(wrong: list[str]) -> str:
    return "\n" + "\n".join(f"- {line}" for line in wrong)


def test_every_module_has_a_layer() -> None:
    there = {name.partition(".")[0] for name in modules(ROOT)}
    assert there == LEVEL.keys(), "put new entries of the root into LAYERS, and take out those that are gone"


def test_imports_lead_downwards() -> None:
    wrong = upward(imports(ROOT))
    assert not wrong, report(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    wrong = circles(imports(ROOT))
    assert not wrong, report(wrong)


def test_the_root_stays_small() -> None:
    entries = {entry.stem for entry in ROOT.iterdir() if entry.name not in ("py.typed", "__pycache__")}
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_violations_are_found(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "errors.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.data import spec",
        "data/__init__.py": "from . import spec",
        "data/__init__.pyi": "from ..victims import load",
        "data/spec.py": "def f():\n    from house import data, __version__",
        "victims/__init__.py": "import house.data.spec\nfrom ..perturbations.base import Grid",
        "perturbations/base.py": "import house.errors, torch",
    }
    for name, text in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    found = imports(tmp_path / "house")
    assert [line.partition(":")[0] for line in upward(found)] == [
        "data (line 1) imports victims",
        "data.spec (line 2) imports __init__",
        "errors (line 3) imports data.spec",
        "victims (line 2) imports perturbations.base",
    ]
    [circle] = circles(found)
    assert circle in ("data imports data.spec imports data", "data.spec imports data imports data.spec")

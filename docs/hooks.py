"""What makes the site of pages that are read in the repository as well.

mkdocs calls the functions `on_...`. Pages outside of docs/ (README, notebooks, ...) become part of
the site; the API's pages are made from the package's own lists of public names; and links, which
are written for the repository, are turned to where the site has these pages. What else a page links
to is copied into the site.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent

OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "data/README.md": "data_folder.md",
}
"""Pages outside of docs/, and where the site has them."""

API = {
    "vidmarl": "What most programs need. Each name is imported when it is first used.",
    "vidmarl.attacks": "The attacks, learned or not.",
    "vidmarl.distortions": "What can happen to a video.",
    "vidmarl.data": "Clips and where they come from.",
    "vidmarl.metrics": "What is reported about perturbations and about attacks.",
    "vidmarl.report.figures": "Plotly figures, each a function that returns one.",
    "vidmarl.testing": "Contracts for attacks, distortions and victims of your own.",
    "vidmarl.errors": "What is raised, and when.",
}
"""Modules whose public names the site documents, a page each."""

CODE = re.compile(r"(^```.*?^```$|`[^`]+`)", re.DOTALL | re.MULTILINE)

LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)([^)\s]*\))")


def on_config(config: Any) -> Any:
    """Puts the notebooks and the API's pages into the navigation, which names their folders."""
    pages = {
        "notebooks": [f"notebooks/{path.stem}.md" for path in _notebooks()],
        "api": [{name: f"api/{name}.md"} for name in API],
    }
    config.nav = [{title: pages.get(part, part) if isinstance(part, str) else part}
                  for entry in config.nav for title, part in entry.items()]  # fmt: skip
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are not in docs/."""
    made = {place: (ROOT / path).read_text("utf-8") for path, place in OUTSIDE.items()}
    made |= {f"notebooks/{path.stem}.md": notebook_page(path) for path in _notebooks()}
    made |= {f"api/{module}.md": api_page(module, about) for module, about in API.items()}
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links to files of the repository into links to where the site has them."""
    place = page.file.src_uri
    outside = {site: path for path, site in _outside().items()}
    folder = posixpath.dirname(outside.get(place, f"docs/{place}"))

    def turned(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if (ROOT / path).is_dir():
            return link[0].partition("[")[2].partition("](")[0]  # a folder has no page: its name will do
        if not (ROOT / path).is_file():
            return link[0]  # an address, code, or a mistake that mkdocs warns of
        there = _outside().get(path) or path.removeprefix("docs/")
        if files.get_file_from_path(there) is None:
            files.append(File.generated(config, there, abs_src_path=str(ROOT / path)))
        return before + posixpath.relpath(there, posixpath.dirname(place) or ".") + after

    parts = CODE.split(markdown)
    return "".join(part if part.startswith("`") else with_formulas(LINK.sub(turned, part)) for part in parts)


def with_formulas(text: str) -> str:
    """Text whose formulas are MathML, which browsers show without a script."""
    text = re.sub(
        r"\$\$(.+?)\$\$", lambda it: f"\n<div>{convert(it[1], display='block')}</div>\n", text, flags=re.DOTALL
    )
    return re.sub(r"(?<![\w$])\$(?! )([^$]+)(?<! )\$(?![\w$])", lambda it: convert(it[1]), text)


def _notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def _outside() -> dict[str, str]:
    return OUTSIDE | {f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in _notebooks()}


def notebook_page(path: Path) -> str:
    """A notebook as a page: text and code, and after the first cell a picture of what it shows."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells]
    picture = f"../docs/screenshots/{path.stem}.webp"
    if (path.parent / picture).is_file():
        parts.insert(1, f"![A part of the notebook when it has run]({picture})")
    return "\n\n".join(parts)


def api_page(module: str, about: str) -> str:
    """The page of a module: each of its public names, with its docstring."""
    return "\n\n".join([f"# {module}", about, *(f"::: {module}.{name}" for name in public_names(module))])


def public_names(module: str) -> list[str]:
    """The names that a module offers, by its stub or its source, which is not imported: those of
    `__all__`, those imported under their own name for all to see, or those it defines."""
    place = ROOT.joinpath(*module.split("."))
    files = (place / "__init__.pyi", place / "__init__.py", place.with_suffix(".py"))
    tree = ast.parse(next(file for file in files if file.is_file()).read_text("utf-8"))
    every: list[str] = []
    imported: list[str] = []
    defined: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=listed)):
                every = [ast.literal_eval(name) for name in listed]
            case ast.ImportFrom(module=source, names=aliases) if source is not None:
                imported += [alias.name for alias in aliases if alias.asname == alias.name]
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if node in tree.body:
                defined.append(name)
    names = [*every, *imported] or defined
    return sorted({name for name in names if not name.startswith("_")}, key=str.lower)

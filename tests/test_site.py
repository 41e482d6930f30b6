"""The site of the documentation: it builds without a warning, is complete and loads nothing from
elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

import vidmarl

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(hooks: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Loaded(HTMLParser):
    """What a page makes a browser load, links that a person follows left out."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset", "poster", "data")]
        self.addresses += [value or "" for name, value in attrs if name == "href" and tag != "a"]


@pytest.mark.slow
class TestSite:
    def test_loads_nothing_from_elsewhere(self, site: Path) -> None:
        pages = list(site.rglob("*.html"))
        assert len(pages) > 25
        for page in pages:
            assert not [one for one in Loaded(page).addresses if re.match(r"(\w+:)?//", one)], page
        for style in site.rglob("*.css"):
            assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text("utf-8"))

    def test_has_every_page_and_every_notebook(self, site: Path) -> None:
        for page in (ROOT / "docs").glob("*.md"):
            assert (site / f"{page.stem}.html").is_file()
        for notebook in (ROOT / "notebooks").glob("*.ipynb"):
            assert (site / "notebooks" / f"{notebook.stem}.html").is_file()

    def test_every_page_is_in_the_navigation(self, site: Path) -> None:
        front = (site / "index.html").read_text("utf-8")
        for page in site.rglob("*.html"):
            place = page.relative_to(site).as_posix()
            assert place == "404.html" or f'href="{place}"' in front, place

    def test_documents_every_public_name_with_its_settings(self, site: Path) -> None:
        page = (site / "api" / "vidmarl.html").read_text("utf-8")
        for name in vidmarl.__all__:
            if isinstance(getattr(vidmarl, name), ModuleType) or name.startswith("__"):
                continue
            assert f'id="vidmarl.{name}"' in page, name
        attacks = (site / "api" / "vidmarl.attacks.html").read_text("utf-8")
        of_agents = attacks.partition('id="vidmarl.attacks.RLAttack"')[2]
        assert "max_queries_after_success" in re.sub(r"<[^>]+>", "", of_agents)[:3000]

    def test_formulas_need_no_script(self, site: Path) -> None:
        page = (site / "method.html").read_text("utf-8")
        assert page.count("<math") > 10
        assert "$$" not in page


def test_public_names_are_found_without_an_import(hooks: ModuleType) -> None:
    assert {"Attack", "load_victim", "compare"} <= set(hooks.public_names("vidmarl"))
    assert {"RLAttack", "VBAD", "list_attacks"} <= set(hooks.public_names("vidmarl.attacks"))
    assert {"trajectory", "sizes"} <= set(hooks.public_names("vidmarl.report.figures"))
    assert {"check_attack", "check_victim"} <= set(hooks.public_names("vidmarl.testing"))
    assert not any(name.startswith("_") for name in hooks.public_names("vidmarl.testing"))


def test_a_notebook_is_a_page_of_its_text_and_code(hooks: ModuleType, tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "and more"]},
        {"cell_type": "code", "source": ["print(1)"]},
    ]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells}), "utf-8")
    assert hooks.notebook_page(tmp_path / "one.ipynb") == "# Title\nand more\n\n```python\nprint(1)\n```"


def test_formulas_are_told_from_dollars(hooks: ModuleType) -> None:
    assert hooks.with_formulas("$x_1$ is").startswith("<math")
    for text in ("$C/BenchPress", "5 $ and 6 $", "US$5 or $6"):
        assert hooks.with_formulas(text) == text, text

"""The pages of results, and the README, show what the files of docs/results/ hold."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
TEXT = "\n".join((DOCS / f"{page}.md").read_text("utf-8") for page in ("results", "results_first_version"))
FIGURES = re.findall(r"!\[.+\]\((figures/.+\.svg)\)", TEXT)


@pytest.fixture(scope="module")
def make_results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_results", DOCS / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.thorough
def test_the_tables_are_those_of_the_files(make_results: ModuleType) -> None:
    for page in make_results.PAGES:
        text = page.read_text("utf-8")
        assert make_results.with_tables(text) == text, "Tables are out of date: run `python docs/make_results.py`."


def test_every_table_is_on_a_page(make_results: ModuleType) -> None:
    named = [name for page in make_results.PAGES for name in re.findall(r"<!-- table: (\w+) -->", page.read_text())]
    assert sorted(named) == sorted(make_results.TABLES)


@pytest.mark.thorough
def test_a_changed_number_is_noticed(make_results: ModuleType) -> None:
    changed = TEXT.replace("2.52 (94%)", "2.51 (94%)", 1)
    assert changed != TEXT
    assert make_results.with_tables(changed) == TEXT


def test_a_table_that_no_function_makes_is_refused(make_results: ModuleType) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        make_results.with_tables(TEXT.replace("<!-- table: bound -->", "<!-- table: nonsense -->"))


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_small_and_of_the_present_files(figure: str, make_results: ModuleType) -> None:
    svg = (DOCS / figure).read_text("utf-8")
    assert len(svg) < 200_000
    assert make_results.fingerprint(Path(figure).stem) in svg, "Out of date: run `python docs/make_results.py`."


def test_every_figure_is_on_the_page(make_results: ModuleType) -> None:
    assert {Path(figure).stem for figure in FIGURES} == set(make_results.SHOWN)
    assert {path.stem for path in (DOCS / "figures").iterdir()} == set(make_results.SHOWN)


def test_every_file_of_results_is_linked() -> None:
    linked = set(re.findall(r"\(results/(\S+?\.csv)\)", TEXT))
    assert linked == {path.name for path in (DOCS / "results").glob("*.csv")}

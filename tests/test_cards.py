"""What is known of victims before they are made, and how `vidmarl list` tells it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import vidmarl
from vidmarl.attacks import ATTACKS
from vidmarl.cli import main, names
from vidmarl.data.spec import ClipSpec
from vidmarl.distortions import DISTORTIONS
from vidmarl.errors import UnknownNameError
from vidmarl.registry import first_sentence
from vidmarl.victims import Card
from vidmarl.victims.cards import WeightFile, input_of
from vidmarl.victims.loading import _family_of

CARDS = [vidmarl.victim_card(name) for name in vidmarl.list_victims()]
Listed = Callable[..., list[str]]


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any weights; returns its folder of data."""
    for variable in ("VIDMARL_DATA", "VIDMARL_CACHE", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "VIDMARL_DATA"


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Listed:
    def run(*words: str) -> list[str]:
        main(["list", *words])
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_of_every_victim_the_essentials_are_known(card: Card) -> None:
    assert card.name in vidmarl.list_victims()
    assert 5 < len(card.description) <= 70
    assert card.input
    if not hasattr(_family_of(card.name), "card"):  # a new family, which need not say more of itself
        return
    assert card.classes
    assert card.parameters is not None
    assert card.weights is None or card.licence
    assert card.state in ("random only", "by hand") or card.address


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_weights_that_are_not_here_can_be_had_or_have_a_source(card: Card, nothing_here: Path) -> None:
    assert card.state != "here"
    if card.state == "download":
        assert card.address.startswith("https://")
    elif card.state == "by hand":
        assert card.source


def test_cards_are_plain_data() -> None:
    for card in CARDS:
        assert Card.from_record(json.loads(json.dumps(dataclasses.asdict(card)))) == card


def test_cards_make_a_table_in_python() -> None:
    table = pd.DataFrame([card.row() for card in CARDS]).set_index("name")
    assert table.loc["x3d_m", "parameters"] == "3.8 M"
    assert "Feichtenhofer" in table.loc["x3d_m", "paper"]
    with pytest.raises(UnknownNameError, match=r"did you mean .*x3d_m"):
        vidmarl.victim_card("x3d_n")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ClipSpec(16, (256, 256), sampling="stride", stride=5), "16 x 256 px, every 5th frame"),
        (ClipSpec(16, (256, 256), sampling="stride", stride=2), "16 x 256 px, every 2nd frame"),
        (ClipSpec(16, (112, 112), sampling="stride"), "16 x 112 px, every frame"),
        (ClipSpec(32, (128, 171), sampling="fps", fps=7.5), "32 x 128x171 px, 7.5 fps"),
        (ClipSpec(None, (64, 64)), "all frames x 64 px, evenly"),
        (ClipSpec(8, (224, 224), sampling="segments"), "8 x 224 px, of as many parts"),
    ],
)
def test_clips_are_told_in_a_few_words(spec: ClipSpec, said: str) -> None:
    assert input_of(spec) == said


def test_the_state_of_weights_is_looked_up_anew(nothing_here: Path) -> None:
    published = Card(name="mine", description="x", weights=WeightFile("mine_8x8.pyth", url="https://a.org/mine.pyth"))
    made = Card(name="mine", description="x", weights=WeightFile("mine_8x8.pt"), made_by="vidmarl convert mine a b")
    by_hand = Card(name="mine", description="x", weights=WeightFile("mine_8x8.pt"))
    nowhere = Card(name="mine", description="x")
    cards = (published, made, by_hand, nowhere)
    assert [card.state for card in cards] == ["download", "vidmarl convert", "by hand", "random only"]
    (nothing_here / "weights").mkdir(parents=True)
    (nothing_here / "weights" / "mine.safetensors").touch()
    assert {card.state for card in cards} == {"here"}


# --- vidmarl list --------------------------------------------------------------------------------


def test_victims_are_listed_in_a_table(listed: Listed, nothing_here: Path) -> None:
    head, *rows = listed("victims", "x3d*")
    assert head.split()[:2] == ["name", "weights"]
    assert [row.split()[0] for row in rows] == ["x3d_l", "x3d_m", "x3d_s", "x3d_xs"]
    for text in ("download", "16 x 256 px, every 5th frame", "Kinetics-400", "3.8 M", "Apache-2.0", "X3D_M.pyth"):
        assert text in rows[1]
    (nothing_here / "weights").mkdir(parents=True)
    (nothing_here / "weights" / "X3D_M.pyth").touch()
    assert "here" in listed("victims", "x3d*")[2].split()


def test_of_one_victim_all_is_told(listed: Listed, nothing_here: Path) -> None:
    assert "paper:       Feichtenhofer, CVPR 2020" in listed("victims", "x3d_m")


def test_a_terminal_gets_what_it_has_room_for(listed: Listed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    for kind in names.KINDS:
        lines = listed(kind)
        assert max(map(len, lines)) <= 100
        assert lines[-1].split()[0] in names.known_names(kind)


@pytest.mark.parametrize("kind", names.KINDS)
def test_names_alone(kind: str, listed: Listed) -> None:
    assert listed(kind, "--names") == names.known_names(kind)
    assert len(listed(kind)) >= len(names.known_names(kind))


def test_attacks_distortions_agents_and_settings_say_what_they_are(listed: Listed) -> None:
    for registry in (ATTACKS, DISTORTIONS):
        described = registry.descriptions()
        assert list(described) == registry.names()
        assert all(20 < len(text) < 200 for text in described.values()), described
    spent = vidmarl.load_agents("gaussian_noise").trained["training_queries"]
    assert f"gaussian_noise  trained on movinet_a0 with {spent:,} queries, coherence static" in listed("agents")
    assert any("Two agents against MoViNet-A0" in line for line in listed("configs"))


def test_the_first_sentence() -> None:
    assert first_sentence("One (Wei et al., TPAMI 2023). Two.\n\nThree.") == "One (Wei et al., TPAMI 2023)"
    assert first_sentence("One by C. D. Eff\n    goes on") == "One by C. D. Eff goes on"
    assert first_sentence(None) == ""


def test_a_list_that_is_remembered_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom vidmarl.cli import main\nmain(['list', 'victims'])\n"
        "heavy = {'torch', 'numpy', 'pandas', 'transformers', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    names.known_names("victims")
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


# --- docs/victims.md -----------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parent.parent / "docs" / "victims.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the checkout")
def test_the_page_has_every_victim_as_its_card_says() -> None:
    spec = importlib.util.spec_from_file_location("make_victims", PAGE.with_name("make_victims.py"))
    assert spec is not None
    assert spec.loader is not None
    make_victims = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_victims)
    page = PAGE.read_text("utf-8")
    assert page == make_victims.filled(page), "run python docs/make_victims.py"
    assert all(f"| `{card.name}` |" in page for card in CARDS)
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})

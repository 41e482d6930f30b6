"""What a notebook shows of victims, checks, attacks and saved results: HTML without scripts."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Brightness

from vidmarl import ClipSpec, RandomCells, RLAttack, SavedResult, Victim
from vidmarl.attacks import ATTACKS, as_attack
from vidmarl.victims.check import CheckReport, Finding

LABELS = ["<script>alert(1)</script>", "grey & dull", "bright"]


def victim(**settings: Any) -> Victim:
    return Victim(Brightness(), labels=LABELS, name="<b>brightness", **settings)


def cells(page: str) -> dict[str, str]:
    """The first two cells of each line."""
    return dict(re.findall(r"<tr><th[^>]*>(.*?)</th><td[^>]*>(.*?)</td>", page))


def test_a_victim() -> None:
    one = victim(spec=ClipSpec(frames=7))
    one(torch.rand(3, 3, 7, 64, 64))
    page = one._repr_html_()
    told = cells(page)
    assert "Victim: &lt;b&gt;brightness" in page
    assert "<script" not in page
    assert told["labels"] == "&lt;script&gt;alert(1)&lt;/script&gt;, grey &amp; dull, bright"
    assert (told["classes"], told["outputs"], told["queries so far"]) == ("3", "logits", "3")
    assert "frames=7" in told["clips"]
    many = Victim(Brightness(), labels=[str(i) for i in range(900)])
    assert cells(many._repr_html_())["labels"] == "0, 1, 2, 3, 4, …"
    assert "labels" not in cells(Victim(Brightness())._repr_html_()), "it has none"


def test_a_check_says_what_is_not_ok_and_what_to_do() -> None:
    report = victim().check(torch.zeros(2, 3, 4, 24, 32))
    assert not report.ok
    page = report._repr_html_()
    assert "Not fit for an attack" in page
    for finding in report:
        mark = "✓ ok" if finding.ok else "✗ NOT OK"
        assert re.search(rf">{mark}</th><td[^>]*>{finding.check}<", page)
    assert "were 8-bit values divided by 255 twice?" in page
    good = CheckReport([Finding("a < b", True, "seen")])
    assert "Fit for an attack" in good._repr_html_()
    assert "a &lt; b" in good._repr_html_()


@pytest.mark.parametrize("name", ATTACKS.names())
def test_an_attack_shows_its_settings(name: str) -> None:
    attack = as_attack(name, budget=77)
    page = attack._repr_html_()
    told = cells(page)
    assert told["budget"] == "77"
    assert type(attack).__name__ in page
    assert (attack.__doc__ or "").split()[0] in html.unescape(page)
    assert "object at 0x" not in page
    assert max(map(len, told.values())) < 400


def test_agents_go_by_their_name() -> None:
    assert cells(RLAttack("dead_pixels")._repr_html_())["agents"] == "dead_pixels"


def test_a_saved_result_shows_its_first_clips(tmp_path: Path) -> None:
    clips = torch.full((7, 3, 2, 24, 32), 0.5)
    result = RandomCells("brightness", budget=3, progress=False)(victim(), clips)
    saved = SavedResult(result.save(tmp_path / "<b>result"))
    page = saved._repr_html_()
    assert "of 7 clips fooled" in page
    assert len(re.findall(r"<tr>\s*<td>", page)) == 5
    assert "data:image/webp;base64," in page
    assert "<b>result" not in page
    assert "&lt;b&gt;result" in page
    assert "of 0 clips" in SavedResult(result[:0].save(tmp_path / "none"))._repr_html_()

"""Makes the table of docs/victims.md from the cards of the victims: `python docs/make_victims.py`.

It stands between `<!-- table: victims -->` and `<!-- /table -->`; everything else there is written
by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

import vidmarl
from vidmarl.victims import Card

PAGE = Path(__file__).resolve().with_name("victims.md")
TABLE = re.compile(r"(<!-- table: victims -->\n).*?(\n<!-- /table -->)", re.DOTALL)


def table() -> str:
    """All victims that have a name, in Markdown."""
    head = ("name", "what it is", "clips", "classes", "parameters", "weights", "licence")
    lines = [list(head), ["---"] * len(head)]
    lines += [cells(vidmarl.victim_card(name)) for name in vidmarl.list_victims()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(card: Card) -> list[str]:
    """The row of one victim."""
    row = card.row()
    paper = f" ({card.paper})" if card.paper else ""
    way = f"`{card.way}`" if card.made_by else card.way
    source = f"[{way}]({card.address})" if card.address.startswith("https://") else way
    return [
        f"`{card.name}`",
        card.description + paper,
        card.input,
        card.classes,
        row["parameters"],
        source,
        card.licence,
    ]


def filled(page: str) -> str:
    """The page with the table as it should be."""
    return TABLE.sub(lambda found: found[1] + table() + found[2], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")

"""Tables for a terminal."""

from __future__ import annotations

import math
import shutil
import sys
from typing import Any

WIDEST = 32
"""Characters of a text in a table."""
LEAST = 8
"""Characters that a column of texts needs."""
LONGEST = 48
"""Characters of a text between others, in a terminal."""


def aligned(texts: dict[str, Any], numbers: dict[str, list[str]]) -> list[str]:
    """The lines of a table: texts to the left, and as many columns of numbers, to the right, as the
    terminal has room for."""
    columns = []
    for name, values in (texts | numbers).items():
        cells = [name, *(text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…" for text in values)]
        width = max(map(len, cells))
        columns.append([cell.rjust(width) if name in numbers else cell.ljust(width) for cell in cells])
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    while len(columns) > len(texts) + 2 and sum(len(column[0]) + 2 for column in columns) - 2 > room:
        columns.pop()
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def fitting(rows: list[list[str]]) -> list[str]:
    """The lines of a table of texts: all of it, or as many columns as a terminal has room for, the
    last of them cut short; texts in between are cut at `LONGEST` there."""
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    lines = ["" for _ in rows]
    for number, column in enumerate(zip(*rows, strict=True), start=1):
        taken = max(map(len, lines)) + 2 if number > 1 else 0
        left = room - taken if number == len(rows[0]) or room == math.inf else min(room - taken, LONGEST)
        if left < LEAST:
            break
        cells = [text if len(text) <= left else f"{text[: int(left) - 1]}…" for text in column]
        lines = [f"{line:<{taken}}{cell}" for line, cell in zip(lines, cells, strict=True)]
    return [line.rstrip() for line in lines]

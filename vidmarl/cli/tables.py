"""Tables for a terminal."""

from __future__ import annotations

import math
import shutil
import sys
from typing import Any

WIDEST = 32
"""Characters of a text in a table."""


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

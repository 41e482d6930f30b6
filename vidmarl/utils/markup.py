"""HTML for notebooks: without scripts, so that it outlives export to a page, and in the notebook's
own colours."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

LONGEST = 160
"""Characters of a fact that are shown."""


def facts(title: str, values: Mapping[str, object], said: str = "") -> str:
    """What is known of one thing: a line for each fact, under a title.

    Args:
        title: what it is.
        values: by name; None is left out.
        said: a sentence under the title.
    """
    texts = {name: str(value) for name, value in values.items() if value is not None}
    short = {name: text if len(text) <= LONGEST else f"{text[:LONGEST]}…" for name, text in texts.items()}
    return table(title, short.items(), said=said)


def table(title: str, rows: Iterable[Sequence[object]], head: Sequence[str] = (), said: str = "") -> str:
    """A table under a title, all of it escaped.

    Args:
        title: in bold.
        rows: whose first cells are their headings.
        head: the headings of the columns.
        said: a sentence under the title.
    """
    left = 'style="text-align:left"'
    heads = "".join(f"<th {left}>{html.escape(name)}</th>" for name in head)
    lines = []
    for name, *values in rows:
        cells = "".join(f"<td {left}>{html.escape(str(value))}</td>" for value in values)
        lines.append(f"<tr><th {left}>{html.escape(str(name))}</th>{cells}</tr>")
    return (
        f"<div><p><b>{html.escape(title)}</b>{f'<br>{html.escape(said)}' if said else ''}</p>"
        f"<table>{f'<thead><tr>{heads}</tr></thead>' if head else ''}<tbody>{''.join(lines)}</tbody></table></div>"
    )

"""Tables as text that other programs read as it is meant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def to_csv(table: pd.DataFrame) -> str:
    """A table as CSV that spreadsheets and parsers read as it is meant.

    Text that begins with =, +, -, @ or a tab would be run as a formula
    (https://owasp.org/www-community/attacks/CSV_Injection), so an apostrophe comes before it; a
    carriage return, which would end the row, is written as `\\r`.
    """

    def plain(value: Any) -> Any:
        return re.sub(r"^(?=[=+\-@\t])", "'", value.replace("\r", "\\r")) if isinstance(value, str) else value

    text: str = table.assign(**table.select_dtypes(["object", "string"]).map(plain)).to_csv(index=False)
    return text


def to_latex(table: pd.DataFrame) -> str:
    """A table as a `tabular` of LaTeX, for which it needs the package booktabs."""
    text: str = table.to_latex(index=False, escape=True, na_rep="")
    return text

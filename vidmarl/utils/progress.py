"""Progress bars: in motion at a terminal and in a notebook, a line now and then in a log."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import auto
from tqdm.std import tqdm

SECONDS_A_LINE = 30
"""In a log, a bar adds a line each time so many seconds have passed; what is done before that is
silent."""


class Lines(tqdm):  # type: ignore[misc]
    """A progress bar in a log: lines that stay, in place of one that is written over."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        return lambda line: print(line, file=file, flush=True)

    def close(self) -> None:
        if not self.disable and getattr(self, "last_print_t", 0) >= self.start_t + self.delay:
            self.display()
        self.delay: float = math.inf  # as if nothing had been displayed, so that nothing is cleared
        super().close()


def _in_a_notebook() -> bool:
    """Whether a notebook's kernel runs this; ipykernel is also imported by widgets elsewhere."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


def progress_bar(things: Iterable[Any] | None = None, *, show: bool = True, leave: bool = True, **how: Any) -> tqdm:
    """A progress bar of tqdm.

    Args:
        things: what it counts; None: it is told by `update`.
        show: whether there is one.
        leave: whether it stays when all is done; one that does not is in no log.
        **how: what else tqdm is told, such as `total`, `unit` and `desc`.
    """
    if sys.stderr.isatty() or _in_a_notebook():
        return auto.tqdm(things, disable=not show, leave=leave, dynamic_ncols=True, **how)
    form = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} to go{postfix}"
    slow = {"mininterval": SECONDS_A_LINE, "maxinterval": 2 * SECONDS_A_LINE, "delay": SECONDS_A_LINE}
    return Lines(things, disable=not (show and leave), **{**how, **slow, "bar_format": form, "file": sys.stderr})

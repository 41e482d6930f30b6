"""A victim of whose answers only the class is left, whatever its model returns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from vidmarl.victims import load_victim
from vidmarl.victims.victim import Victim


def decisions_only(victim: Victim | str | Mapping[str, Any]) -> Victim:
    """The same victim without its scores, as who asks a service often has it.

    Args:
        victim: a `Victim`, or what names one for `vidmarl.load_victim`.

    Returns:
        A victim that shares the model. Its queries are counted anew, from 0.
    """
    silent = copy.copy(load_victim(victim))
    silent.outputs = "decisions"
    silent.queries = 0
    silent.journal = None
    return silent

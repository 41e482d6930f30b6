"""Attacks beside each other in one line, for a notebook: the comparison of a benchmark, in the
memory."""

from __future__ import annotations

import copy
import dataclasses
import html
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from vidmarl import metrics
from vidmarl.attacks import ATTACKS, as_attack
from vidmarl.attacks.base import Attack, called_at_a_prompt, hand_over
from vidmarl.attacks.result import AttackResult
from vidmarl.benchmark.tables import comparisons, summarise
from vidmarl.queries.goals import Classes, Goal
from vidmarl.utils.kinds import check_kind, check_least
from vidmarl.victims.victim import Victim

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

AttackLike = Attack | type[Attack] | str | Mapping[str, Any]
"""An attack, or what names one, see `as_attack`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What came of several attacks on the same clips, see `compare`.

    Attributes:
        results: of each attack, by its name. An attack that was cut short is the last one; it is
            in no table and no figure.
    """

    results: dict[str, AttackResult]

    def table(self) -> pd.DataFrame:
        """A row for each attack and query budget, with the columns of a benchmark's `summary.csv`:
        "FR" (the share of fooled clips) and "L2" (the median) with their intervals, "L2 ratio" (of
        the first attack to this one, clip by clip) and so on; see
        `vidmarl.benchmark.tables.summarise`. Empty where no attack has come to its end."""
        import pandas as pd

        if not (done := self._complete):
            return pd.DataFrame()
        figures = {name: metrics.summarise(result) for name, result in done.items()}
        controls = [name for name, result in done.items() if not result.settings["training_queries"]]
        return summarise(done, figures, next(iter(done)), controls)

    def plot(self) -> go.Figure:
        """Fooling rate and median L2 against queries, with their intervals."""
        from vidmarl.report import figures

        return figures.budget_curves(self._complete)

    def clip(self, i: int = 0) -> go.Figure:
        """A frame slider over clip `i`: the original, and what came of it under each attack."""
        from vidmarl.report import figures

        ones = {name: result[i] for name, result in self.results.items()}
        clips = {"original": next(iter(ones.values())).clean[0]}
        return figures.side_by_side(
            clips | {f"{name}: {one.outcomes[0]}": one.adversarial[0] for name, one in ones.items()}
        )

    @property
    def _complete(self) -> dict[str, AttackResult]:
        return {name: result for name, result in self.results.items() if result.complete}

    def _brief(self) -> pd.DataFrame:
        """What fits on a screen, as text: a row for each attack."""
        import pandas as pd

        of = {column.name: column for column in metrics.FIGURES}
        rows = []
        for name, table in self.table().groupby("attack", sort=False):
            *_, end = points = table.to_dict("records")
            row = {"attack": name, of["FR"].label: of["FR"].cell(end)}
            row |= {f"L2 at {point['budget']}": of["L2"].text(point["L2"]) for point in points}
            ratio, *_ = comparisons(next(iter(self.results)))
            row |= {ratio.label: ratio.cell(end), of["AQ first"].label: of["AQ first"].cell(end)}
            rows.append(row)
        return pd.DataFrame(rows)

    def _verdict(self) -> list[str]:
        from vidmarl.report import verdict

        return verdict.ahead(self._complete)

    def _head(self) -> str:
        first = next(iter(self.results.values()))
        attacks = "1 attack" if len(self.results) == 1 else f"{len(self.results)} attacks"
        line = f"{attacks} on {len(first)} clips, {first.settings['budget']} queries for each"
        cut = [name for name, result in self.results.items() if not result.complete]
        return line + "".join(f"; {name} was cut short and is left out" for name in cut)

    def __repr__(self) -> str:
        lines = [f"Comparison({self._head()})", *self._verdict()]
        if self._complete:
            lines.append(self._brief().to_string(index=False))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Who was ahead and how surely, and the table, for notebooks."""
        parts = [f"<p><b>{html.escape(self._head())}</b></p>"]
        parts += [f"<p>{html.escape(line)}</p>" for line in self._verdict()]
        if self._complete:
            parts += [self._brief().to_html(index=False, border=0), f"<p>L2: medians. {metrics.INTERVALS}.</p>"]
        return f"<div>{''.join(parts)}</div>"


def compare(
    attacks: Mapping[str, AttackLike] | Iterable[AttackLike] | Attack,
    victim: Victim,
    clips: Float[Tensor, "b 3 t h w"],
    goal: Goal | Classes | None = None,
    *,
    budget: int | None = None,
) -> Comparison:
    """Attacks the same clips in several ways: `compare(["rl", "random_cells"], victim, clips)`.

    It computes in the memory what `vidmarl benchmark` writes to a folder, which is to be preferred
    for hours of work: what is done there stays done.

    Args:
        attacks: what is compared, by the name to show, or a list of attacks, which go by their own
            names; each is an `Attack` or names one, see `vidmarl.attacks.as_attack`. The others
            are compared with the first one.
        victim: who is attacked.
        clips: float[b 3 t h w] in [0, 1].
        goal: see `Attack.__call__`.
        budget: queries per clip, for all of them; None: their own, which must be the same.

    Raises:
        ValueError: there is no attack, two go by one name, or the budgets differ.
        UnknownNameError, SettingsError: see `as_attack`.
        ClipError, VictimError: see `Attack.__call__`. The exception carries as `error.result` a
            `Comparison` of what was found by then, or None. At Python's prompt and in a notebook,
            Ctrl-C gives it back with a warning.
    """
    made = _made(attacks, budget)
    results: dict[str, AttackResult] = {}
    try:
        for name, attack in made.items():
            results[name] = _with_cost(attack, attack(victim, clips, goal))
    except BaseException as error:
        if isinstance(part := getattr(error, "result", None), AttackResult):
            results[name] = _with_cost(attack, part)
        found = Comparison(results) if results else None
        hand_over(error, found)
        if found is not None and isinstance(error, KeyboardInterrupt) and called_at_a_prompt():
            warnings.warn(f"Interrupted: this is what has been found so far, {found!r}.", stacklevel=2)
            return found
        raise
    return Comparison(results)


def _made(attacks: Mapping[str, AttackLike] | Iterable[AttackLike] | Attack, budget: int | None) -> dict[str, Attack]:
    """The attacks by their names, all with one budget."""
    check_kind(budget, int | None, "Comparing attacks: budget")
    if isinstance(attacks, str | Attack):
        attacks = [attacks]
    if isinstance(attacks, Mapping):
        named = [(str(name), as_attack(attack)) for name, attack in attacks.items()]
    else:
        made = map(as_attack, attacks)
        named = [(ATTACKS.name_of(attack), attack) for attack in made]
    names = [name for name, _ in named]
    if not names:
        raise ValueError("Comparing attacks: expected at least one, got none.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"Comparing attacks: two of them are called {twice[0]!r}. Name them: compare({{'one': ..., 'other': ...}},"
            " victim, clips)."
        )
    if budget is not None:
        check_least("Comparing attacks", budget=(budget, 1))
        named = [(name, copy.copy(attack)) for name, attack in named]
        for _, attack in named:
            attack.budget = budget
    budgets = {name: attack.budget for name, attack in named}
    if len(set(budgets.values())) > 1:
        raise ValueError(
            f"Comparing attacks: expected one budget for all of them, got {budgets}. Give it: compare(..., budget="
            f"{max(budgets.values())})."
        )
    return dict(named)


def _with_cost(attack: Attack, result: AttackResult) -> AttackResult:
    """A result whose settings say what training the attack has cost, as those of a benchmark do."""
    trained = (getattr(network, "trained", {}) for network in attack.networks().values())
    spent = sum(int(found.get("training_queries", 0)) for found in trained)
    return dataclasses.replace(result, settings=result.settings | {"training_queries": spent})

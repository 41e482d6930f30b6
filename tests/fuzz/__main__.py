"""The command: `PYTHONPATH=tests python -m fuzz --help`."""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from .arguments import Arguments
from .kinds import Kind
from .pool import Case, Outcome, Pool
from .saved import AgentFiles, Checkpoints, Results, TrialFiles
from .videos import Videos

FAILURES = Path("outputs/fuzz")
"""Where the cases that fail are kept."""

KINDS: dict[str, Kind] = {
    "videos": Videos(),
    "results": Results(),
    "trials": TrialFiles(),
    "agents": AgentFiles(),
    "checkpoints": Checkpoints(),
    "arguments": Arguments(),
}
SHARES = {"videos": 4, "arguments": 2}
"""Cases of a kind in a round; 1 if nothing is said."""


def main() -> None:
    """Draws cases until the time is over, and says how they ended."""
    parser = argparse.ArgumentParser(prog="fuzz", description=(sys.modules["fuzz"].__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long new cases are drawn (default: 60)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all cases (default: drawn)")
    parser.add_argument("--rounds", type=int, help="no more than so many cases of the rarest kind")
    parser.add_argument("--only", choices=KINDS, action="append", help="the kind of cases; may be repeated")
    parser.add_argument("--case", type=int, help="try this case alone, and keep what it writes")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {name: KINDS[name] for name in asked.only or KINDS}
    print(f"seed {asked.seed}, {', '.join(kinds)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in kinds.items():
            (originals := Path(folder) / name).mkdir()
            kind.make(originals)
        pool = Pool(kinds, Path(folder), FAILURES.absolute(), asked.workers)
        if asked.case is None:
            cases = _draw(list(kinds), asked.seed, asked.seconds, asked.rounds)
        else:
            cases = (Case(name, asked.seed, asked.case) for name in kinds)
        outcomes = []
        try:
            for outcome in pool.run(cases):
                outcomes.append(outcome)
                if outcome.end == "failed" or asked.case is not None:
                    _tell(outcome)
        finally:
            pool.close()
    _summarise(list(kinds), outcomes)
    sys.exit(any(outcome.end == "failed" for outcome in outcomes))


def _draw(kinds: Sequence[str], seed: int, seconds: float, rounds: int | None) -> Iterator[Case]:
    """Cases of all kinds in turn until the time is over, or the rounds are."""
    end = time.monotonic() + seconds
    numbers = {kind: itertools.count() for kind in kinds}
    for _ in itertools.count() if rounds is None else range(rounds):
        for kind in kinds:
            for _ in range(SHARES.get(kind, 1)):
                if time.monotonic() > end:
                    return
                yield Case(kind, seed, next(numbers[kind]))


def _tell(outcome: Outcome) -> None:
    print(f"\n{outcome.end.upper()}: {outcome.case.name}: {outcome.what}\n{outcome.said.rstrip()}")
    if outcome.end == "failed":
        print(f"again: {outcome.case.command}\ninput: {FAILURES / outcome.case.name}", flush=True)


def _summarise(kinds: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """The table of how the cases ended."""
    print(f"\n{'kind':<12}{'tried':>8}{'loaded':>8}{'refused':>8}{'failed':>8}{'slowest':>10}{'memory':>10}")
    for kind in kinds:
        own = [outcome for outcome in outcomes if outcome.case.kind == kind]
        if own:
            ends = [sum(outcome.end == end for outcome in own) for end in ("loaded", "refused", "failed")]
            slowest, most = max(outcome.seconds for outcome in own), max(outcome.memory for outcome in own)
            counts = "".join(f"{count:>8}" for count in (len(own), *ends))
            print(f"{kind:<12}{counts}{slowest:>8.2f} s{most / 2**20:>6.0f} MiB")


if __name__ == "__main__":
    main()

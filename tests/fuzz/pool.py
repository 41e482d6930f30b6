"""Processes that try cases: they live long, and are ended when a case hangs, dies or needs too much
memory."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import resource
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

from .kinds import Kind

SECONDS = 20.0
"""A case that takes longer hangs."""

MEMORY = 2 * 2**30
"""Bytes that a case may need: a clip of the largest frames allowed takes about one GiB."""

ADDRESSES = 4 * MEMORY
"""Bytes of addresses, of which libraries ask for more than they use."""


@dataclasses.dataclass(frozen=True)
class Case:
    """The case of a kind, a seed and a number; there is no other of them."""

    kind: str
    seed: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}-{self.number}"

    @property
    def command(self) -> str:
        """The line that tries it again."""
        return f"PYTHONPATH=tests python -m fuzz --only {self.kind} --seed {self.seed} --case {self.number}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        case: which.
        end: how it ended.
        what: what the case is.
        said: the error, or what is wrong.
        seconds: how long it took.
        memory: what it needed at most beyond what the process had, bytes.
    """

    case: Case
    end: Literal["loaded", "refused", "failed"]
    what: str = ""
    said: str = ""
    seconds: float = 0.0
    memory: int = 0


class Pool:
    """Worker processes.

    Args:
        kinds: by their names.
        originals: a folder of what each kind has made.
        cases: where the cases are written; those that fail stay.
        workers: how many processes.
    """

    def __init__(self, kinds: dict[str, Kind], originals: Path, cases: Path, workers: int) -> None:
        self._arguments = kinds, originals, cases
        self._workers = [_Worker(*self._arguments) for _ in range(workers)]

    def run(self, cases: Iterable[Case]) -> Iterator[Outcome]:
        """Tries cases, which are drawn as they are wanted; outcomes as they come."""
        source = iter(cases)
        busy: list[_Worker] = []
        while True:
            for worker in self._workers:
                if worker not in busy and (case := next(source, None)) is not None:
                    worker.start(case)
                    busy.append(worker)
            if not busy:
                return
            wait([worker.connection for worker in busy], timeout=0.5)
            for worker in list(busy):
                if (outcome := worker.outcome()) is not None:
                    busy.remove(worker)
                    if worker.ended:
                        self._workers[self._workers.index(worker)] = _Worker(*self._arguments)
                    yield outcome

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.end()


class _Worker:
    """One process, which tries one case at a time."""

    def __init__(self, kinds: dict[str, Kind], originals: Path, cases: Path) -> None:
        context = multiprocessing.get_context("fork")  # what this process has imported is there at once
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, kinds, originals, cases), daemon=True)
        self._process.start()
        theirs.close()
        self.ended = False
        self._case = Case("", 0, 0)
        self._what = ""
        self._started = 0.0

    def start(self, case: Case) -> None:
        self._case, self._started = case, time.monotonic()
        self.connection.send(case)

    def outcome(self) -> Outcome | None:
        """What came of the case; None while it is being tried."""
        took = time.monotonic() - self._started
        try:
            while self.connection.poll():
                received: str | Outcome = self.connection.recv()
                if isinstance(received, Outcome):
                    return received
                self._what = received
        except EOFError:
            self.end()
            return Outcome(self._case, "failed", self._what, f"the process died ({self._process.exitcode})", took)
        if took > SECONDS:
            self.end()
            return Outcome(self._case, "failed", self._what, f"no end after {SECONDS:g} s", took)
        return None

    def end(self) -> None:
        self.ended = True
        self._process.kill()
        self._process.join()


def _work(connection: Connection, kinds: dict[str, Kind], originals: Path, cases: Path) -> None:
    """What a process does until it is ended."""
    warnings.simplefilter("ignore")
    now = _memory("VmSize")
    if now:
        resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESSES, now + ADDRESSES))
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(case, kinds[case.kind], originals / case.kind, cases / case.name, connection.send))


def _attempt(case: Case, kind: Kind, originals: Path, folder: Path, tell: Callable[[str], None]) -> Outcome:
    """Tries one case in this process, once it has told what it is; its folder stays if it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = random.Random(case.name)
    what = kind.draw(rng, originals, folder)
    tell(what)
    if os.path.exists("/proc/self/clear_refs"):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the case
    os.chdir(folder)  # for relative paths
    before, start = _memory("VmRSS"), time.perf_counter()
    end: Literal["loaded", "refused", "failed"] = "loaded"
    said = ""
    try:
        kind.check(rng, originals, folder)
    except Exception as error:
        clear = kind.is_clear(error, folder)
        end = "refused" if clear else "failed"
        said = f"{type(error).__name__}: {error}" if clear else traceback.format_exc()
    seconds, memory = time.perf_counter() - start, _memory("VmHWM") - before
    if memory > MEMORY:
        end, said = "failed", f"it needed {memory / 2**30:.1f} GiB; {said}"
    os.chdir(folder.parent)
    if end != "failed":
        shutil.rmtree(folder)
    return Outcome(case, end, what, said, seconds, memory)


def _memory(what: str) -> int:
    """Bytes of this process by Linux's account; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))

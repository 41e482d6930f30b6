"""The fuzz finds what it is there to find."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from pathlib import Path

import pytest
from fuzz import pool
from fuzz.damage import damaged
from fuzz.kinds import Kind, Wrong
from fuzz.pool import Case, Pool

from vidmarl.errors import ClipError


class Bad(Kind):
    """A case for each way to end."""

    def make(self, originals: Path) -> None:
        pass

    def draw(self, rng: random.Random, originals: Path, case: Path) -> str:
        (case / "file").write_bytes(rng.randbytes(9))
        return "a file"

    def check(self, rng: random.Random, originals: Path, case: Path) -> None:
        match int(case.name.rpartition("-")[2]):
            case 0:
                return
            case 1:
                raise ClipError(f"Reading {case / 'file'}: it is damaged.")
            case 2:
                raise ClipError("It is damaged.")
            case 3:
                raise KeyError("frames")
            case 4:
                raise Wrong("it loads, but with another budget")
            case 5:
                time.sleep(60)
            case 6:
                os.kill(os.getpid(), signal.SIGKILL)
            case 7:
                bytes(2**26)  # blank pages cost nothing until they are read
                with mmap.mmap(-1, 2**26) as pages:  # new ones, where a process has old ones to spare
                    pages.write(bytes(range(1, 65)) * 2**20)
            case 8:
                bytearray(2**40)


ENDS = ["loaded", "refused", *["failed"] * 7]


@pytest.mark.thorough
def test_every_way_to_fail_is_found_and_its_input_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SECONDS", 3.0)
    monkeypatch.setattr(pool, "MEMORY", 2**25)
    workers = Pool({"bad": Bad()}, tmp_path, tmp_path / "cases", 2)
    try:
        outcomes = list(workers.run(Case("bad", 7, number) for number in range(9)))
    finally:
        workers.close()
    outcomes.sort(key=lambda outcome: outcome.case.number)
    assert [outcome.end for outcome in outcomes] == ENDS
    assert sorted(path.name for path in (tmp_path / "cases").iterdir()) == [f"bad-7-{n}" for n in range(2, 9)]
    for number, said in (
        (1, "it is damaged"), (3, "KeyError"), (4, "another budget"), (5, "no end after 3 s"), (6, "process died"),
        (7, "it needed 0.1 GiB"), (8, "MemoryError"),
    ):  # fmt: skip
        assert said in outcomes[number].said
    assert outcomes[3].case.command.endswith("fuzz --only bad --seed 7 --case 3")


def test_a_case_is_the_same_again() -> None:
    content = bytes(range(256)) * 20
    one, other = (damaged(content, random.Random("videos-1-2"), [b"RIFF"]) for _ in range(2))
    assert one == other
    assert len({damaged(content, random.Random(seed), [b"RIFF"])[0] for seed in range(99)}) > 90

"""`vidmarl benchmark -c FILE`: see `vidmarl.benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidmarl.cli.parts import know_datasets, make_parser, say_end, stop_when_terminated

if TYPE_CHECKING:
    from vidmarl.benchmark import Benchmark


def run(words: list[str]) -> None:
    """`vidmarl benchmark -c FILE`: see `vidmarl.benchmark`."""
    parser = make_parser(
        "benchmark",
        "Attacks x victims x distortions x clips. Every result is written as it comes; the same command goes on with"
        " what is missing after it was stopped, or after attacks or clips were added. Writes rows.csv, summary.csv,"
        " summary.md and report.html.",
    )
    from vidmarl.benchmark import Benchmark
    from vidmarl.benchmark.config import read_shard

    know_datasets()
    parser.add_argument("-c", "--config", action="config", metavar="FILE", help="settings from a YAML file")
    parser.add_class_arguments(Benchmark)
    parser.add_argument(
        "--shard",
        default="0/1",
        metavar="K/N",
        help="attack every N-th clip only, from the K-th (counted from 0), so that N processes share the work",
    )
    parser.add_argument(
        "--summarise_only", action="store_true", help="attack nothing; make the tables of what is there"
    )
    parser.add_argument("--no_progress", action="store_true", help="show no progress bars")
    args = parser.parse_args(words[1:])

    shard = read_shard(args.shard)
    made = parser.instantiate(args)
    settings = Benchmark(**{field: made[field] for field in Benchmark.__dataclass_fields__})
    run_and_tell(settings, shard=shard, summarise_only=args.summarise_only, progress=not args.no_progress)


def run_and_tell(settings: Benchmark, **how: Any) -> None:
    """Runs a benchmark and prints its summary; `how` is of `run_benchmark`."""
    from vidmarl.benchmark import run_benchmark

    stop_when_terminated()
    done = run_benchmark(settings, **how)
    if done is None:
        print("Other shards have clips left. The last one to end writes the tables; --summarise_only makes them now.")
        return
    out = Path(settings.out)
    print((out / "summary.md").read_text("utf-8"))
    say_end(
        [done.report, *(out / name for name in ("summary.md", "summary.csv", "rows.csv", "trials"))],
        f"open {done.report} in a browser; the same command with more attacks or clips adds to it",
    )

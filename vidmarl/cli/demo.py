"""`vidmarl demo`: see `vidmarl.demo.run`."""

from __future__ import annotations

from vidmarl.cli.parts import make_parser


def run(words: list[str]) -> None:
    """`vidmarl demo`: see `vidmarl.demo.run`."""
    parser = make_parser(
        "demo",
        "Makes small action clips, trains a victim on them, trains both agents against it, attacks clips that neither"
        " has seen beside the attacks without learning, and writes a report. Minutes on two cores; no network.",
    )
    parser.add_argument("--out", default="outputs/demo", metavar="DIR", help="the folder (default: outputs/demo)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same demo (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="start over, instead of using what an earlier demo left")
    parser.add_argument("--no_progress", action="store_true", help="show no progress bars")
    args = parser.parse_args(words[1:])

    from vidmarl.demo.run import main as run

    run(out=args.out, seed=args.seed, fresh=args.fresh, progress=not args.no_progress)

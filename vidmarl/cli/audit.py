"""`vidmarl audit --victim NAME --data DATA`: see `vidmarl.audit`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from vidmarl.cli.parts import (
    DEVICE_HELP,
    SPEC_HELP,
    VICTIM_HELP,
    WEIGHTS_HELP,
    make_parser,
    say_end,
    stop_when_terminated,
)


def run(words: list[str]) -> None:
    """`vidmarl audit`: see `vidmarl.audit.run.audit` and `vidmarl.audit.compare`."""
    parser = make_parser(
        "audit",
        "The whole picture of a victim: how often it is right about clean clips, about clips under 25 corruptions at"
        " five severities, and under attack; where and when it is sensitive. Writes report.html, audit.json and tables;"
        " all of it as it comes: the same command goes on where it was stopped. For a start: vidmarl audit --victim"
        " movinet_a0 --data my/videos --max_clips 20. Two audits on one page: vidmarl audit --compare DIR DIR --out"
        " DIR",
    )
    named_or_described = dict[str, Any] | str
    parser.add_argument("-c", "--config", action="config", metavar="FILE", help="settings from a YAML file")
    parser.add_argument("--victim", type=named_or_described, metavar="NAME", help=VICTIM_HELP)
    parser.add_argument("--weights", metavar="PATH", help=WEIGHTS_HELP)
    parser.add_argument("--device", default="auto", metavar="DEVICE", help=DEVICE_HELP)
    parser.add_argument("--spec", type=dict[str, Any], default={}, metavar="JSON", help=SPEC_HELP)
    parser.add_argument(
        "--data",
        type=named_or_described,
        metavar="DATA",
        help="labelled clips: a folder with a folder for each class, a CSV file of paths and classes, a dataset by its"
        """ name such as UCF101, or with settings '{"class_path": "UCF101", "init_args": {"split": 1}}', or a class"""
        " of your own, package.module.Class or file.py:Class",
    )
    parser.add_argument(
        "--labels",
        type=Literal["dataset", "prediction"],
        default="dataset",
        help="what is right: the class by the dataset, or what the victim says of the clean clip, for clips without"
        " labels (default: dataset)",
    )
    parser.add_argument(
        "--max_clips", type=int | None, default=100, metavar="N", help="at most so many clips, or null (default: 100)"
    )
    parser.add_argument(
        "--corruptions",
        nargs="+",
        metavar="NAME",
        help="by name or family, such as noise h264 (default: all; docs/audit.md has them)",
    )
    parser.add_argument(
        "--distortion",
        type=named_or_described,
        default="gaussian_noise",
        metavar="NAME",
        help="of the attacks and of the sensitivity (default: gaussian_noise)",
    )
    parser.add_argument("--budget", type=int, default=200, metavar="N", help="queries per clip (default: 200)")
    parser.add_argument(
        "--attack_clips", type=int, default=20, metavar="N", help="clips attacked (default: 20; 0: none)"
    )
    parser.add_argument(
        "--sensitivity_clips", type=int, default=4, metavar="N", help="clips measured for where and when (default: 4)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same result (default: 0)")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar="DIR",
        help="compare two audits on the clips that both have, and write the page to --out; audits nothing",
    )
    parser.add_argument("--out", default="outputs/audit", metavar="DIR", help="the folder (default: outputs/audit)")
    parser.add_argument("--no_progress", action="store_true", help="show no progress bars")
    args = parser.parse_args(words[1:])

    if args.compare:
        _compare(args.compare, Path(args.out))
        return
    missing = [name for name in ("victim", "data") if getattr(args, name) is None]
    if missing:
        parser.error(f"--{missing[0]} is needed: who is audited (--victim) and on what clips (--data)")
    stop_when_terminated()

    from vidmarl.audit.data import as_source
    from vidmarl.audit.run import audit
    from vidmarl.victims import load_victim

    data = as_source(args.data)
    victim = load_victim(args.victim, args.weights, spec=args.spec, device=args.device)
    names = ("labels", "max_clips", "corruptions", "distortion", "budget", "attack_clips", "sensitivity_clips", "seed")
    result = audit(victim, data, args.out, progress=not args.no_progress, **{name: args[name] for name in names})
    print("\n".join(result.verdict))
    out = Path(args.out)
    say_end(
        [out / name for name in ("report.html", "audit.json", "corruptions.csv", "clips.csv", "attacks")],
        f"open {out / 'report.html'} in a browser; vidmarl audit --compare {shlex.quote(args.out)} OTHER --out DIR",
    )


def _compare(folders: list[str], out: Path) -> None:
    from vidmarl.audit.compare import compare_audits
    from vidmarl.audit.result import AuditResult

    found = compare_audits(*map(AuditResult.load, folders))
    written = found.save(out)
    print("\n".join(found.verdict))
    say_end(written, f"open {written[0]} in a browser")

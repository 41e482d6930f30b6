"""`vidmarl data download|check|sample`: gets datasets, looks through them, lends a clip."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vidmarl.cli.parts import make_parser, say_end
from vidmarl.errors import UnknownNameError

if TYPE_CHECKING:
    from vidmarl.data.check import DataReport

USAGE = """\
usage: vidmarl data COMMAND ...

  download   get UCF-101, HMDB-51 or the Weizmann actions from their official addresses, and unpack them
  check      say what a folder of videos is, and what in it is missing, broken, doubled or odd
  sample     tell where the sample clip is that comes with vidmarl

vidmarl data COMMAND --help tells what a command takes. Other datasets, such as Kinetics, Something-Something or your
own, need no command: say where they are. docs/data.md tells how.
"""

SHOWN = 10
"""Files that are named of each kind of fault; --json names all."""


def run(words: list[str]) -> None:
    """`vidmarl data download|check|sample`."""
    command, *rest = words[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
    elif command not in COMMANDS:
        raise UnknownNameError("command after `vidmarl data`", command, COMMANDS)
    else:
        COMMANDS[command](rest)


def _download(words: list[str]) -> None:
    parser = make_parser(
        "data download",
        "Downloads a dataset from its official address and unpacks it to where vidmarl looks for it. What was stopped"
        " goes on when the same is typed again; what is there already stays. Without a network it says which file to"
        " put where.",
    )
    parser.add_argument("name", metavar="DATASET", help="ucf101 (7 GB), hmdb51 (2 GB) or weizmann (a few MB)")
    parser.add_argument("--root", metavar="DIR", help="the data folder (default: that of VIDMARL_DATA, else data/)")
    args = parser.parse_args(words)

    from vidmarl.data.download import download_dataset
    from vidmarl.data.paths import VARIABLE, data_root

    done = download_dataset(args.name, args.root)
    for path in done.there:
        print(f"there already, left as it is: {path}")
    for path in done.unpublished:
        print(f"{path.name}: no sha256 is published for it; that of this first download is noted in sha256.json")
    if done.archives:
        size = sum(path.stat().st_size for path in done.archives)
        print(f"not needed any more ({size / 2**20:,.0f} MB): {', '.join(map(str, done.archives))}")
    base = data_root() if args.root is None else Path(args.root)
    if base.resolve() != data_root().resolve():
        print(f"tell vidmarl where it is: export {VARIABLE}={shlex.quote(os.fspath(base.absolute()))}")
    say_end(done.made, f"vidmarl data check {shlex.quote(os.fspath(base / 'clips' / args.name))}")


def _check(words: list[str]) -> None:
    parser = make_parser(
        "data check",
        "Says what a folder of videos seems to be, how many clips each class has, and what is missing (by the official"
        " lists), broken, doubled or odd. Every video is decoded once; what was found is kept, so that the next look"
        " is quick. Exits with 1 if clips are missing, broken or doubled.",
    )
    parser.add_argument("folder", metavar="DIR", help="a folder of videos")
    parser.add_argument("--quick", action="store_true", help="read the packets alone: no damage inside files is found")
    parser.add_argument("--json", action="store_true", help="print all that was found as JSON")
    args = parser.parse_args(words)

    from vidmarl.data.check import check_data

    report = check_data(args.folder, quick=args.quick, progress=True)
    print(json.dumps(report.to_record(), indent=1) if args.json else "\n".join(_told(report)))
    if not report.ok:
        sys.exit(1)


def _told(report: DataReport) -> list[str]:
    """A report as text."""
    from vidmarl.cli.tables import aligned

    known = {name: counts for name, counts in report.classes.items() if any(counts.values())}
    listed = [] if report.missing is None else ["official", "missing"]
    titles = ["clips", *listed, "broken", "doubled", "odd"]
    total = {title: sum(counts[title] for counts in known.values()) for title in titles}
    numbers = {title: [f"{c[title]:,}" for c in (*known.values(), total)] for title in titles}
    lines = [f"{report.root}: {report.kind}", "", *aligned({"class": [*known, "all"]}, numbers)]
    if report.missing is None and report.kind in ("UCF-101", "HMDB-51"):
        lines += ["", f"What is missing is not known: the official lists are not there (`vidmarl data download"
                      f" {report.kind.lower().replace('-', '')}` gets them)."]  # fmt: skip
    faults = {
        "missing": report.missing or [],
        "broken": [f"{name}: {why}" for name, why in report.broken.items()],
        "doubled": [f"{' = '.join(group['files'])} (same {group['same']})" for group in report.doubled],
        "odd": [f"{name}: {why}" for name, why in report.odd.items()],
    }
    for title, found in faults.items():
        if found:
            more = [f"  and {len(found) - SHOWN:,} more (--json names all)"] if len(found) > SHOWN else []
            lines += ["", f"{title} ({len(found):,}):", *(f"  {line}" for line in found[:SHOWN]), *more]
    verdict = (
        "nothing is missing, broken or doubled." if report.missing is not None else "nothing is broken or doubled."
    )
    return [*lines, "", verdict[0].upper() + verdict[1:]] if report.ok else lines


def _sample(words: list[str]) -> None:
    parser = make_parser(
        "data sample",
        "Tells where the sample clip is that comes with vidmarl: vidmarl check $(vidmarl data sample) --victim demo",
    )
    parser.parse_args(words)

    from vidmarl.data.sample import sample_clip

    print(sample_clip())


COMMANDS = {"download": _download, "check": _check, "sample": _sample}

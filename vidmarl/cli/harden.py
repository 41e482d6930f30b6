"""`vidmarl harden -c FILE`: see `vidmarl.audit.harden`."""

from __future__ import annotations

import shlex
from pathlib import Path

from vidmarl.cli.parts import know_datasets, make_parser, say_end, stop_when_terminated


def run(words: list[str]) -> None:
    """`vidmarl harden`: see `vidmarl.audit.harden.harden`."""
    parser = make_parser(
        "harden",
        "Hardens a victim: attacks find clips that it is wrong about, it learns what they show, and the attacks are"
        " made again, with other seeds and on clips of no training. Writes victim.pt, a victim by its path, report.md,"
        " figures.csv and results.json. The same command goes on where it was stopped. For a start: vidmarl harden -c"
        " harden/movinet_weizmann",
    )
    from vidmarl.audit.harden import FIGURES, FILE, RECORD, REPORT, Hardening, harden

    know_datasets()
    parser.add_argument("-c", "--config", action="config", metavar="FILE", help="settings from a YAML file")
    parser.add_class_arguments(Hardening)
    parser.add_argument("--overwrite", action="store_true", help="replace the folder of an earlier hardening")
    parser.add_argument("--no_progress", action="store_true", help="show no progress bars")
    args = parser.parse_args(words[1:])

    stop_when_terminated()
    made = parser.instantiate(args)
    settings = Hardening(**{field: made[field] for field in Hardening.__dataclass_fields__})
    harden(settings, progress=not args.no_progress, overwrite=args.overwrite)
    out = Path(settings.out)
    print((out / REPORT).read_text("utf-8"))
    victim = shlex.quote(str(out / FILE))
    say_end(
        [out / name for name in (FILE, REPORT, FIGURES, RECORD)],
        f"vidmarl attack CLIP --victim {victim} --out results, with an attack that it has not seen",
    )

"""`vidmarl check CLIP...`: `Victim.check`, and what the victim says of each clip."""

from __future__ import annotations

import shlex
import sys

from vidmarl.cli.parts import add_victim, make_parser, say_end


def run(words: list[str]) -> None:
    """`vidmarl check CLIP...`: `Victim.check`, and what the victim says of each clip."""
    parser = make_parser(
        "check",
        "Says whether a victim is fit for an attack, and what it sees in video files. Exits with 1 if it is not fit.",
    )
    add_victim(parser)
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="CLASS",
        help="the true class of each clip, or one for all, by name or index: then it also says how often the victim is"
        " right, and whether it would be with other colours, another range or another order of labels",
    )
    args = parser.parse_args(words[1:])

    from vidmarl import load_clips, load_victim

    victim = load_victim(args.victim, args.weights, spec=args.spec, device=args.device)
    clips = load_clips(args.clips, victim)
    labels = args.labels * len(clips) if args.labels and len(args.labels) == 1 else args.labels
    report = victim.check(clips, labels)
    print(report)
    for path, scores in zip(args.clips, victim(clips).exp(), strict=True):
        top = scores.topk(1 if victim.decisions_only else min(3, len(scores)))
        said = [f"{victim.label(i)} {p:.2f}" for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
        if victim.decisions_only:
            said = [victim.label(int(top.indices))]
        print(f"{path}: {', '.join(said)}")
    if not report.ok:
        sys.exit(1)
    if isinstance(args.victim, str):
        say_end([], f"vidmarl attack {shlex.quote(args.clips[0])} --victim {args.victim} --out results")

"""`vidmarl attack CLIP...`: see `vidmarl.pipeline.attack_files`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vidmarl.cli.parts import add_victim, make_parser, say_end, stop_when_terminated
from vidmarl.cli.tables import aligned

if TYPE_CHECKING:
    from vidmarl.attacks import Attack


def run(words: list[str]) -> None:
    """`vidmarl attack CLIP...`: see `vidmarl.pipeline.attack_files`."""
    parser = make_parser(
        "attack",
        "Attacks video files: looks for a small distortion that makes the victim fail, in few queries, and writes"
        " report.html, results.json and the adversarial clips. A query is one clip through the victim. For a start:"
        " vidmarl attack clip.mp4 --victim movinet_a0 --out results",
    )
    parser.add_argument("-c", "--config", action="config", metavar="FILE", help="settings from a YAML file")
    add_victim(parser)
    named_or_described = dict[str, Any] | str
    parser.add_argument(
        "--attack",
        default="rl",
        type=named_or_described,
        metavar="NAME",
        help="a name from `vidmarl list attacks` (default: rl), or with settings of its own,"
        """ such as '{"class_path": "grow_and_reduce", "init_args": {"grid": 8}}'""",
    )
    parser.add_argument(
        "--agents",
        metavar="NAME",
        help="the trained agents of --attack rl: a name from `vidmarl list agents`, or a file of `vidmarl fit` or"
        " `vidmarl export` (default: those that ship for the distortion)",
    )
    parser.add_argument(
        "--distortion",
        type=named_or_described,
        metavar="NAME",
        help="a name from `vidmarl list distortions`, or "
        '\'{"class_path": ..., "init_args": {...}}\' (default: what the agents were trained with, or gaussian_noise)',
    )
    parser.add_argument("--budget", type=int, default=200, metavar="N", help="queries per clip (default: 200)")
    parser.add_argument(
        "--coherence",
        type=Literal["static", "flow", "free"],
        help="how random patterns go on in time: held still, carried along the motion, or new in every frame"
        " (default: what the agents were trained with, or static)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same result (default: 0)")
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="the class that the victim is to say, by name or index; by default any other",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="CLASS",
        help="the true class of each clip, or one for all, by name or index; by default what the victim says of it",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="the folder to write; it appears when all is done, and what an unfinished attack has is in DIR.unfinished",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the folder of an earlier attack")
    parser.add_argument("--skip_bad", action="store_true", help="go on without the files that cannot be used")
    parser.add_argument("--no_progress", action="store_true", help="show no progress bars")
    args = parser.parse_args(words[1:])

    from vidmarl.pipeline import RESULTS, attack_files
    from vidmarl.victims import load_victim

    stop_when_terminated()
    how = _make_attack(
        args.attack,
        args.agents,
        distortion=args.distortion,
        budget=args.budget,
        coherence=args.coherence,
        seed=args.seed,
        progress=not args.no_progress,
    )
    victim = load_victim(args.victim, args.weights, spec=args.spec, device=args.device)
    attack_files(
        args.clips,
        victim,
        how,
        args.out,
        target=args.target,
        labels=args.labels,
        skip_bad=args.skip_bad,
        overwrite=args.overwrite,
    )
    out = Path(args.out)
    print(_table(json.loads((out / RESULTS).read_text("utf-8"))))
    say_end(
        [out / name for name in ("report.html", RESULTS, "clips", "result")],
        f"open {out / 'report.html'} in a browser; in Python, vidmarl.SavedResult({str(out / 'result')!r})",
    )


def _make_attack(attack: str | dict[str, Any], agents: str | None, **settings: Any) -> Attack:
    """The attack of `vidmarl attack`; one by agents gets those that ship for its distortion, unless
    others are asked for.

    Raises:
        ValueError: agents are given to an attack without any, or none ship for the distortion.
    """
    from vidmarl.agents.checkpoint import list_agents
    from vidmarl.attacks import ATTACKS
    from vidmarl.distortions import DISTORTIONS
    from vidmarl.registry import read_description, settings_of

    path, given = read_description({"class_path": attack} if isinstance(attack, str) else attack, "--attack")
    settings = given | {name: value for name, value in settings.items() if value is not None}
    kind = ATTACKS.find(path)
    if not (isinstance(kind, type) and "agents" in settings_of(kind)):
        if agents is not None:
            raise ValueError(f"--agents {agents}: the attack {path!r} has no agents. They belong to --attack rl.")
    elif agents is not None:
        settings["agents"] = agents
    elif "agents" not in settings and "distortion" in settings:
        name = DISTORTIONS.name_of(DISTORTIONS.make(settings["distortion"]))
        if name not in list_agents():
            raise ValueError(
                f"--attack rl needs trained agents, and none ship for the distortion {settings['distortion']!r}, only"
                f" for {', '.join(list_agents())}. Give others (--agents NAME or FILE), or an attack that learns"
                " nothing, such as --attack grow_and_reduce."
            )
        settings["agents"] = name
    return ATTACKS.make(kind, **settings)


def _table(record: dict[str, Any]) -> str:
    """The content of `results.json` for a person: a line per clip, what was left out, and the
    sum."""
    import pandas as pd

    from vidmarl import metrics

    table = pd.DataFrame(record["clips"])
    outcome = table["success"].map({True: "fooled", False: "not fooled"}).mask(table["skipped"], "skipped")
    columns = {"file": table["file"].map(os.path.basename), "clean": table["prediction"]}
    if (table["goal"] != "not " + table["prediction"]).any():
        columns["goal"] = table["goal"]
    columns |= {"attacked": table["adversarial_prediction"], "outcome": outcome}
    numbers = [metrics.SUCCESS_COLUMNS[0], *metrics.shown_metrics(table)]
    summary = record["summary"] | {"surely": ""}
    if interval := record["summary"]["fooling_rate_interval"]:
        summary["surely"] = " (95 % interval {:.0%} to {:.0%})".format(*interval)
    lines = [
        *aligned(columns, {column.label: column.texts(table) for column in numbers}),
        *(f"left out: {why}" for why in record["left_out"].values()),
        "",
        "{fooled} of {attacked} clips fooled{surely}, {skipped} skipped, {queries:,} queries".format(**summary),
    ]
    return "\n".join(lines)

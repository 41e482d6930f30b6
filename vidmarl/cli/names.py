"""`vidmarl list victims|attacks|distortions|agents|configs [PATTERN]`."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vidmarl.cli.parts import make_parser
from vidmarl.cli.tables import fitting
from vidmarl.errors import UnknownNameError

KINDS = ("victims", "attacks", "distortions", "agents", "configs")
"""What `vidmarl list` lists."""


def run(words: list[str]) -> None:
    """`vidmarl list victims|attacks|distortions|agents|configs [PATTERN]`."""
    parser = make_parser(
        "list",
        "Lists what there is by name, and what it is. Of victims also their clips, and whether their weights are here,"
        " downloaded when first used, or made by a command; of one alone all that is known.",
    )
    parser.add_argument("what", choices=KINDS, help="what to list")
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="such as 'x3d*', in quotes; default: all"
    )
    parser.add_argument("--names", action="store_true", help="the names alone")
    args = parser.parse_args(words[1:])

    known = _known(args.what)
    matching = fnmatch.filter(known, args.pattern)
    if not matching:
        raise UnknownNameError("pattern of " + args.what, args.pattern, list(known))
    if args.names:
        print("\n".join(matching))
    elif args.what == "victims":
        _show_victims([known[name] for name in matching])
    else:
        print("\n".join(fitting([[name, known[name]] for name in matching])))


def _show_victims(records: list[Any]) -> None:
    from vidmarl.victims.cards import Card

    rows = [Card.from_record(record).row() for record in records]
    if len(rows) == 1:
        print("\n".join(f"{title + ':':<12} {text}" for title, text in rows[0].items() if text))
        return
    titles = ("name", "weights", "what it is", "clips", "classes", "parameters", "licence", "source")
    print("\n".join(fitting([list(titles), *([row[title] for title in titles] for row in rows)])))


def known_names(kind: str) -> list[str]:
    """The names of what there is of a kind, for the completion of words."""
    return list(_known(kind))


def _known(kind: str) -> dict[str, Any]:
    """What there is of a kind, by name, and what is to be said of it, from memory: to look for it,
    all that is listed would be imported, which takes seconds. It is looked for again after a file
    or the version of a library has changed."""
    from vidmarl.data.paths import cache_root
    from vidmarl.registry import plugins
    from vidmarl.utils.files import write_atomically

    folder = Path(__file__).parents[1] / kind
    if not folder.is_dir():  # no modules, and told in no time
        return DESCRIBED[kind]()
    files = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file())
    stamp = json.dumps([files, version("torchvision"), sorted(plugins(f"vidmarl.{kind}"))])
    memory = cache_root() / f"{kind}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text("utf-8"))
        if known["stamp"] == stamp:
            return dict(known["known"])
    found = DESCRIBED[kind]()
    with contextlib.suppress(OSError):  # a folder that nothing may be written to
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps({"stamp": stamp, "known": found}))
    return found


def _victims() -> dict[str, Any]:
    import dataclasses

    import vidmarl

    return {name: dataclasses.asdict(vidmarl.victim_card(name)) for name in vidmarl.list_victims()}


def _attacks() -> dict[str, Any]:
    from vidmarl.attacks import ATTACKS

    enough = {name for name in ATTACKS.own_names() if not ATTACKS.find(name).needs_scores}
    told = ATTACKS.descriptions()
    return {name: f"{what}; decisions are enough" if name in enough else what for name, what in told.items()}


def _distortions() -> dict[str, Any]:
    from vidmarl.distortions import DISTORTIONS

    return DISTORTIONS.descriptions()


def _agents() -> dict[str, Any]:
    from vidmarl.agents.checkpoint import list_agents, load_agents

    told = "trained on {victim} with {training_queries:,} queries, coherence {coherence}"
    teams = {name: load_agents(name) for name in list_agents()}
    return {
        name: told.format_map(team.trained | {"victim": ", ".join(team.names_of("victim"))})
        for name, team in teams.items()
    }


def _configs() -> dict[str, Any]:
    from vidmarl.registry import first_sentence
    from vidmarl.utils.recipes import find_recipe, list_configs

    comments = {name: Path(find_recipe(name)).read_text("utf-8").splitlines() for name in list_configs()}
    return {name: first_sentence(_comment(lines)) for name, lines in comments.items()}


def _comment(lines: list[str]) -> str:
    """The comment that a file begins with."""
    return "\n".join(line[1:].strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines))


DESCRIBED: dict[str, Callable[[], dict[str, Any]]] = {
    "victims": _victims,
    "attacks": _attacks,
    "distortions": _distortions,
    "agents": _agents,
    "configs": _configs,
}
"""What finds out what there is of a kind."""

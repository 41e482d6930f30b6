"""`vidmarl list victims|attacks|distortions|agents|configs [PATTERN]`."""

from __future__ import annotations

import contextlib
import fnmatch
import json
from importlib.metadata import version
from pathlib import Path

from vidmarl.cli.parts import make_parser
from vidmarl.errors import UnknownNameError
from vidmarl.utils.recipes import list_configs

KINDS = ("victims", "attacks", "distortions", "agents", "configs")
"""What `vidmarl list` lists."""


def run(words: list[str]) -> None:
    """`vidmarl list victims|attacks|distortions|agents|configs [PATTERN]`."""
    parser = make_parser("list", "Lists what there is by name.")
    parser.add_argument("what", choices=KINDS, help="what to list")
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="such as 'x3d*', in quotes; default: all"
    )
    args = parser.parse_args(words[1:])

    names = known_names(args.what)
    matching = fnmatch.filter(names, args.pattern)
    if not matching:
        raise UnknownNameError("pattern of " + args.what, args.pattern, names)
    print("\n".join(matching))


def known_names(kind: str) -> list[str]:
    """What there is of a kind, from memory: to look for it, all that is listed would be imported,
    which takes seconds. It is looked for again after a file or the version of a library has
    changed."""
    from vidmarl.data.paths import cache_root
    from vidmarl.registry import plugins
    from vidmarl.utils.files import write_atomically

    if kind == "configs":
        return list_configs()
    folder = Path(__file__).parents[1] / kind
    files = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file())
    stamp = json.dumps([files, version("torchvision"), sorted(plugins(f"vidmarl.{kind}"))])
    memory = cache_root() / f"{kind}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text("utf-8"))
        if known["stamp"] == stamp:
            return list(known["names"])
    import vidmarl

    names: list[str] = getattr(vidmarl, f"list_{kind}")()
    with contextlib.suppress(OSError):  # a folder that nothing may be written to
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps({"stamp": stamp, "names": names}))
    return names

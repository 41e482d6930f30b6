"""`vidmarl completion SHELL`: completion of all commands by shtab."""

from __future__ import annotations

import sys
import warnings
from argparse import SUPPRESS
from typing import Any

from vidmarl.cli.names import known_names
from vidmarl.cli.parts import make_parser


def run(words: list[str]) -> None:
    """`vidmarl completion SHELL`: completion of all commands by shtab."""
    parser = make_parser(
        "completion",
        "Writes the script that lets a shell complete commands, options and the names of victims, attacks, distortions"
        """ and agents. For bash: echo 'eval "$(vidmarl completion bash)"' >> ~/.bashrc""",
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish", "tcsh"], help="which shell")
    args = parser.parse_args(words[1:])

    import argparse

    import shtab
    from jsonargparse import capture_parser

    from vidmarl.cli import COMMANDS, runner

    def add(commands: Any, name: str, words: list[str]) -> None:
        found = capture_parser(runner(words[0]), words)
        one = found if found._subcommands_action is None else found._subcommands_action._name_parser_map[name]
        commands.add_parser(name, help=(one.description or "").partition(".")[0])
        commands._name_parser_map[name] = one
        one._actions = [_completed(action, shtab) for action in one._actions if action.help != SUPPRESS]

    whole = argparse.ArgumentParser(prog="vidmarl")
    commands = whole.add_subparsers()
    with warnings.catch_warnings(action="ignore"):
        for name in COMMANDS:
            second = getattr(sys.modules[runner(name).__module__], "COMMANDS", ())  # as of `vidmarl data check`
            if not second:
                add(commands, name, [name])
                continue
            below = commands.add_parser(name, help="commands").add_subparsers()  # without help, shtab would hide it
            for word in second:
                add(below, word, [name, word])
    print(shtab.complete(whole, args.shell))


def _completed(action: Any, shtab: Any) -> Any:
    """A setting with what completes it: names, files or folders."""
    if action.dest in ("victim", "attack", "distortion", "agents"):
        action.choices = known_names(action.dest.removesuffix("s") + "s")
    elif action.dest in ("clips", "config", "weights", "ckpt", "ckpt_path"):
        action.complete = shtab.FILE
    elif action.dest == "out":
        action.complete = shtab.DIRECTORY
    return action

"""What the commands share: their parsers, how they end, how they are stopped."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
from argparse import HelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidmarl.utils.mistakes import PlainParser

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""The exit codes after Ctrl-C and after SIGTERM."""
CLIP_HELP = "video files"
VICTIM_HELP = (
    "the classifier under attack: a name from `vidmarl list victims`, hf:ORG/NAME, a file or a folder of a model, a"
    " class or a function (package.module.Class, or file.py:make_victim), or with settings"
    """ '{"class_path": ..., "init_args": {...}}'"""
)
WEIGHTS_HELP = "its weight file; by default that of its name: in the folder VIDMARL_DATA, or downloaded"
SPEC_HELP = (
    "how clips are cut from the files, where that differs from the victim's own way, such as"
    """ '{"frames": 8, "size": 112}' or --spec.frames 8 --spec.size 112"""
)
DEVICE_HELP = "where it runs, such as cpu or cuda:1 (default: auto, a GPU where there is one)"


def make_parser(command: str, description: str) -> ArgumentParser:
    """The parser of a command, whose errors are plain sentences."""
    from jsonargparse import ArgumentParser

    class Parser(PlainParser, ArgumentParser):
        pass

    return Parser(prog=f"vidmarl {command}", description=description, formatter_class=HelpFormatter)


def add_victim(parser: Any) -> None:
    """Adds the clips, the victim and how it is made."""
    parser.add_argument("clips", nargs="+", metavar="CLIP", help=CLIP_HELP)
    parser.add_argument("--victim", required=True, type=dict[str, Any] | str, metavar="NAME", help=VICTIM_HELP)
    parser.add_argument("--weights", metavar="PATH", help=WEIGHTS_HELP)
    parser.add_argument("--device", default="auto", metavar="DEVICE", help=DEVICE_HELP)
    parser.add_argument("--spec", type=dict[str, Any], default={}, metavar="JSON", help=SPEC_HELP)


def say_end(written: Sequence[str | Path], then: str) -> None:
    """Ends a command with what it wrote and what to do next."""
    if written:
        print(f"wrote: {', '.join(map(str, written))}")
    print(f"next: {then}")


def stop_when_terminated() -> None:
    """Lets SIGTERM end a command as Ctrl-C does, so that nothing half stays behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


def know_datasets() -> None:
    """Imports the datasets, so that settings may call them by the names of their classes."""
    from vidmarl import data
    from vidmarl.registry import plugins

    for file in pkgutil.iter_modules(data.__path__):
        importlib.import_module(f"{data.__name__}.{file.name}")
    for found in plugins("vidmarl.datasets").values():
        found.load()

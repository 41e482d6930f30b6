"""The command line, `vidmarl COMMAND ...`.

The first word chooses the command before anything is imported, so that help and small commands
answer at once: torch waits until there is work, Lightning and TorchRL until there is training.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from vidmarl.cli.options import as_options
from vidmarl.cli.parts import INTERRUPTED, TERMINATED
from vidmarl.errors import UnknownNameError, VidmarlError
from vidmarl.utils.mistakes import check_recipes, in_own_code, told
from vidmarl.utils.recipes import with_recipes

USAGE = """\
usage: vidmarl COMMAND ...

How robust is a video classifier? Two agents learn where and when to distort a clip until it fails.

without Python:
  attack     attack video files; write a report, the results and the adversarial clips
  check      say whether a victim is fit for an attack, and what it sees in video files
  list       list victims, attacks, distortions, trained agents or the settings that ship
  data       get datasets, say what is missing or broken in a folder of videos, lend a sample clip
  convert    make weights of TensorFlow, JAX, Keras or MMAction2 fit for the victims here
  demo       the whole story on a small example: a victim and two agents trained, unseen clips attacked, a report

the whole picture of a model:
  audit      accuracy on clean and corrupted clips and under attack, where and when it is sensitive; on one page

comparing attacks (settings from YAML files of yours, or that ship by name, -c FILE, composed from left to right):
  benchmark  attacks x victims x distortions x clips, resumable; tables and a report

training the agents (settings from YAML files, -c FILE, composed from left to right):
  fit        train
  validate   attack the validation clips with trained agents
  test       benchmark trained agents on the test clips, beside the attacks without learning
  predict    attack clips with trained agents and save the results
  export     cut the trained agents out of a checkpoint, as a small file

training victims (settings from YAML files, -c FILE, composed from left to right):
  victims    `vidmarl victims fit`: tune any classifier on any labelled clips; what comes of it is a victim by its path
  harden     retrain a victim with the adversarial clips that attacks find, and attack it again

vidmarl COMMAND --help tells what a command takes. vidmarl --version tells the version. Settings have one name in
Python, in YAML and here. vidmarl completion bash (or zsh, fish, tcsh) lets the shell complete them.
VIDMARL_DATA names the folder of weights and clips (default: data/); VIDMARL_DEBUG=1 shows where an error came from.
"""

TRAINING = ("fit", "validate", "predict")
COMMANDS = {
    **{
        name: name
        for name in (
            "attack",
            "audit",
            "check",
            "convert",
            "demo",
            "benchmark",
            "test",
            "export",
            "completion",
            "victims",
            "harden",
            "data",
        )
    },
    "list": "names",  # a module `list` would hide the builtin here
    **dict.fromkeys(TRAINING, "train"),
}
"""The module of each command, in this package; its `run` takes the words of the command line."""


def runner(name: str) -> Callable[[list[str]], None]:
    """What runs a command; its module is imported."""
    run: Callable[[list[str]], None] = importlib.import_module(f"{__name__}.{COMMANDS[name]}").run
    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command. Exits with 2 after an error of the user's, with 130 after Ctrl-C, with 143
    after SIGTERM."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else "--help"
    expected: tuple[type[Exception], ...] = (VidmarlError, ValueError, OSError)
    if command in TRAINING:
        expected = (VidmarlError, OSError)  # anything else is worth its traceback after hours of training
    try:
        _run(command, words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone, as in `vidmarl list victims | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        known = isinstance(error, expected) or (command not in TRAINING and in_own_code(error))
        if not known or os.environ.get("VIDMARL_DEBUG", "0") not in ("", "0"):
            raise
        _fail(as_options(told(error)), 2, error)
    except KeyboardInterrupt as stop:
        _fail("interrupted.", INTERRUPTED, stop)
    except SystemExit as stop:
        if stop.code in (INTERRUPTED, TERMINATED):
            _fail("interrupted." if stop.code == INTERRUPTED else "terminated.", stop.code, stop)
        raise


def _run(command: str, words: list[str]) -> None:
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if command == "--version":
        from vidmarl._version import __version__

        print(f"vidmarl {__version__}")
        return
    if command not in COMMANDS:
        raise UnknownNameError("command", command, COMMANDS)
    warnings.formatwarning = lambda message, *_, **__: f"vidmarl: warning: {message}\n"
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a `class_path` may name a user's own file in the working folder
    words = with_recipes(words)
    check_recipes(words)
    runner(command)(words)


def _fail(message: str, code: int, why: BaseException) -> NoReturn:
    """Says in one line what went wrong, and what is kept of an unfinished job."""
    kept = [note for note in getattr(why, "__notes__", ()) if note.startswith("Kept in ")]
    print(f"vidmarl: {' '.join([message, *kept])}", file=sys.stderr)
    sys.exit(code)

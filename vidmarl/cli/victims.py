"""`vidmarl victims fit -c FILE`: trains a victim on clips of one's own."""

from __future__ import annotations

import shlex
import signal
import sys
from argparse import SUPPRESS
from typing import TYPE_CHECKING

from vidmarl.cli.parts import INTERRUPTED, know_datasets, say_end, stop_when_terminated
from vidmarl.errors import UnknownNameError

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser

USAGE = """\
usage: vidmarl victims fit [-c FILE ...] [--SETTING VALUE ...]

Trains any video classifier on any labelled clips, tests it on others, and writes OUT/victim.pt, which goes wherever a
victim's name goes: --victim OUT/victim.pt. Settings are those of the model, its data and Lightning's Trainer:

  vidmarl victims fit -c victims/movinet_weizmann
  vidmarl victims fit -c victims/ucf101 -c victims/slowfast_r50 --trainer.devices 8 --trainer.precision bf16-mixed
  vidmarl victims fit --model.victim movinet_a0 --data.train Folder --data.train.root my/videos --trainer.max_epochs 5

vidmarl victims fit --help tells all of them; vidmarl list configs 'victims/*' lists those that ship.
"""


def run(words: list[str]) -> None:
    """`vidmarl victims fit`: see `vidmarl.training.victim_fit.fine_tune`."""
    command, *rest = words[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return
    if command not in COMMANDS:
        raise UnknownNameError("command after `vidmarl victims`", command, COMMANDS)
    COMMANDS[command](rest)


def _fit(words: list[str]) -> None:
    from vidmarl.training.command_line import PlainCommandLine
    from vidmarl.training.victim import VictimTraining
    from vidmarl.training.victim_data import LabelledClips
    from vidmarl.training.victim_fit import RECORD, TABLE, fine_tune, told
    from vidmarl.utils.quiet import no_tips

    class Fitting(PlainCommandLine):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_argument("--ckpt_path", metavar="FILE", help="go on from this checkpoint of a training")
            for name in ("weights_only", "verbose"):
                parser.add_argument(f"--{name}", help=SUPPRESS)

    stop_when_terminated()
    signal.signal(signal.SIGINT, lambda *_: sys.exit(INTERRUPTED))  # a KeyboardInterrupt would end Lightning with 1
    know_datasets()
    with no_tips():
        cli = Fitting(
            VictimTraining,
            LabelledClips,
            words,
            run=False,
            save_config_callback=None,
            parser_kwargs={
                "prog": "vidmarl victims fit",
                "usage": "vidmarl victims fit [-c FILE ...] [--SETTING VALUE ...]",
                "description": "Trains a victim, tests it, and writes it to a file that goes wherever its name goes.",
                "default_env": True,  # VIDMARL_VICTIMS_TRAINER__MAX_EPOCHS=5
                "env_prefix": "VIDMARL_VICTIMS_",
            },
        )
        path = fine_tune(cli.model, cli.datamodule, cli.trainer, ckpt_path=cli.config.ckpt_path)
    if cli.trainer.is_global_zero:
        tested = cli.model.tested
        if tested is not None:
            print(told(tested))
        written = [path, *([path.parent / TABLE] if tested is not None else []), path.parent / RECORD]
        say_end(written, f"vidmarl attack CLIP --victim {shlex.quote(str(path))} --out results")


COMMANDS = {"fit": _fit}

"""`vidmarl fit|validate|predict`: Lightning's command line over the two agents."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vidmarl.cli.parts import INTERRUPTED, know_datasets, say_end, stop_when_terminated

if TYPE_CHECKING:
    from vidmarl.training.command_line import CommandLine

TRAINING = ("fit", "validate", "predict")


def run(words: list[str]) -> None:
    """`vidmarl fit|validate|predict`: Lightning's command line over the two agents."""
    from vidmarl.training.command_line import CommandLine
    from vidmarl.utils.quiet import no_tips

    stop_when_terminated()
    signal.signal(signal.SIGINT, lambda *_: sys.exit(INTERRUPTED))  # a KeyboardInterrupt would end Lightning with 1
    know_datasets()
    with no_tips():
        cli = CommandLine(
            words,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "prog": "vidmarl",
                "default_env": True,  # VIDMARL_FIT__TRAINER__MAX_EPOCHS=5
                "env_prefix": "VIDMARL",
                **{name: {"usage": f"vidmarl {name} [-c FILE ...] [--SETTING VALUE ...]"} for name in TRAINING},
            },
        )

    if cli.trainer.is_global_zero:
        _say_end_of_training(words[0], cli)


def _say_end_of_training(command: str, cli: CommandLine) -> None:
    """What `vidmarl fit|validate|predict` wrote, and what comes next."""
    trainer, given = cli.trainer, cli.config[command].get("ckpt_path")
    found = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    kept = list(dict.fromkeys(path for path in map(os.path.relpath, filter(None, found)) if os.path.exists(path)))
    agents = shlex.quote(str(kept[0] if command == "fit" and kept else given or "NAME"))
    if command == "predict":
        folder = Path(cli.model.out or trainer.default_root_dir) / "predict"
        results = sorted(path for path in folder.glob("*") if path.is_dir())
        say_end([folder], f"in Python, vidmarl.SavedResult({str(results[0])!r})" if results else "more clips")
    elif command == "fit":
        say_end(
            kept,
            f"vidmarl export {agents} agents.pt; vidmarl attack CLIP --victim NAME --agents agents.pt --out results",
        )
    else:
        say_end([], f"vidmarl test -c FILE --ckpt_path {agents}, which compares them with attacks without learning")

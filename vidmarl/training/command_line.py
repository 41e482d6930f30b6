"""Lightning's command line over the two agents, or over a victim. What is wrong with the settings
is said in plain words, before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from vidmarl.agents.checkpoint import load_agents
from vidmarl.data.module import ClipData
from vidmarl.errors import SettingsError
from vidmarl.training.checkpoints import LastState
from vidmarl.training.ppo import TwoAgentPPO
from vidmarl.utils.mistakes import PlainParser, is_a_bug, told


class Parser(PlainParser, LightningArgumentParser):
    """Lightning's parser, which answers in plain words."""


class PlainCommandLine(LightningCLI):
    """The settings of a module, its clips and the Trainer from words and YAML files.

    Args:
        module: what is trained.
        data: its clips.
        words: those after `vidmarl`.
        **kwargs: see `LightningCLI`.

    Raises:
        SettingsError: a setting does not exist or has no such value.
    """

    def __init__(
        self, module: type[LightningModule], data: type[LightningDataModule], words: list[str], **kwargs: Any
    ) -> None:
        super().__init__(
            module,
            data,
            args=words,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=Parser,
            **kwargs,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)  # without a warning where `sys.argv` holds something else

    def _parse_ckpt_path(self) -> None:
        """Lets no checkpoint change settings, as Lightning would: it may name any class."""

    def keep_last_state(self) -> bool:
        """Whether the state after every epoch is kept."""
        return self._get(self.config_init, "trainer").enable_checkpointing is not False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.keep_last_state():
            self.trainer_defaults = {"callbacks": [LastState()]}
        return super().instantiate_trainer(**kwargs)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:
            if is_a_bug(error):
                raise
            raise SettingsError(told(error)) from error


class CommandLine(PlainCommandLine):
    """The settings of `TwoAgentPPO`, `ClipData` and the Trainer.

    Args:
        words: those after `vidmarl`.
        **kwargs: see `LightningCLI`.

    Raises:
        SettingsError: a setting does not exist or has no such value.
        CheckpointError: `--ckpt_path` names a file that holds no agents.
    """

    def __init__(self, words: list[str], **kwargs: Any) -> None:
        super().__init__(TwoAgentPPO, ClipData, words, **kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        chosen = self.config.get(self.config.get("subcommand"), self.config)
        if chosen.get("ckpt_path") and Path(chosen.ckpt_path).is_file():
            load_agents(chosen.ckpt_path)  # what Lightning says of another file is for its developers

    def keep_last_state(self) -> bool:
        """Not where `vidmarl test` trains nothing."""
        return bool(self.subcommand) and super().keep_last_state()

    def before_fit(self) -> None:
        """Says so if there are no clips to train on, before Lightning says what it will train."""
        if "train" not in self.datamodule.sources:
            raise SettingsError("Training agents: no clips to train on were given. Set data.train.")

    def before_validate(self) -> None:
        """Says so if there are no clips to validate on, where Lightning says nothing."""
        if "val" not in self.datamodule.sources:
            raise SettingsError("Validating agents: no clips to validate on were given. Set data.val.")

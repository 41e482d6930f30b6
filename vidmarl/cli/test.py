"""`vidmarl test -c FILE --ckpt_path AGENTS`: trained agents beside the attacks without learning."""

from __future__ import annotations

from argparse import SUPPRESS
from pathlib import Path

from vidmarl.cli.benchmark import run_and_tell
from vidmarl.cli.parts import know_datasets
from vidmarl.errors import VidmarlError


def run(words: list[str]) -> None:
    """`vidmarl test -c FILE --ckpt_path AGENTS`: the benchmark of trained agents beside the attacks
    without learning, on the victim and the test clips of a training configuration."""
    from lightning.pytorch.cli import LightningArgumentParser

    from vidmarl.agents.checkpoint import load_agents
    from vidmarl.benchmark import Benchmark, agents_and_controls
    from vidmarl.metrics import BUDGETS
    from vidmarl.training.command_line import CommandLine
    from vidmarl.training.settings import differences
    from vidmarl.utils.quiet import no_tips

    class Testing(CommandLine):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            add = parser.add_argument
            add("--ckpt_path", metavar="NAME", help="trained agents: a checkpoint of `vidmarl fit`, or a name")
            for name in ("weights_only", "verbose", "return_predictions"):
                add(f"--{name}", help=SUPPRESS)  # stand in the configurations that training commands save
            add("--budget", type=int, default=max(BUDGETS), metavar="N", help="queries per clip")
            add("--budgets", type=list[int], default=list(BUDGETS), help="where the tables are read off")
            add("--max_clips", type=int | None, metavar="N", help="at most so many clips, spread evenly")
            add("--keep_clips", type=bool, default=False, help="keep the clips, and show some in the report")

        def before_instantiate_classes(self) -> None:
            if self.config.ckpt_path is None:
                raise VidmarlError("Testing agents: none were given. Name a checkpoint of `vidmarl fit`: --ckpt_path.")

    know_datasets()
    with no_tips():
        cli = Testing(
            words[1:],
            run=False,
            parser_kwargs={
                "prog": "vidmarl test",
                "usage": "vidmarl test -c FILE [-c FILE ...] --ckpt_path NAME [--SETTING VALUE ...]",
                "description": "Attacks the test clips with trained agents, the same agents untrained and the attacks"
                " without learning. Goes on where an earlier run was stopped.",
                "default_env": True,  # VIDMARL_TEST__BUDGET=100
                "env_prefix": "VIDMARL_TEST_",
            },
        )
    module, data, config = cli.model, cli.datamodule, cli.config_init
    if "test" not in data.sources:
        raise VidmarlError("Testing agents: no test clips were given. Set data.test.")
    agents = load_agents(config.ckpt_path)
    taken_over = agents.trained.keys() & {"victim", "distortion", "grid", "search_cell", "coherence"}
    if other := differences(agents.trained, module.agents.trained, sorted(taken_over)):
        raise VidmarlError(
            f"Testing the agents {config.ckpt_path}: they were trained with {'; '.join(other)}. Give the settings that"
            " they were trained with, or attack something else with them by `vidmarl benchmark`."
        )
    for victim in module.victims:
        victim.to(cli.trainer.strategy.root_device)
    if data.spec is not None and len(module.victims) == 1:  # each of several has clips of its own
        module.victim.spec = data.spec
    run_and_tell(
        Benchmark(
            victims=[*module.victims],
            attacks=agents_and_controls(config.ckpt_path),
            data=data.sources["test"],
            distortions=[*module.distortions],
            max_clips=config.max_clips,
            seed=module.seed,
            budget=config.budget,
            budgets=config.budgets,
            coherence=module.coherence,
            grid=module.grid,
            search_cell=module.search_cell,
            clips_at_once=data.eval_batch_size,
            keep_clips=config.keep_clips,
            out=Path(module.out or cli.trainer.default_root_dir) / "test",
        )
    )

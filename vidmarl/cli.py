"""The command line, `vidmarl COMMAND ...`.

The first word chooses the command before anything is imported, so that help and small commands
answer at once: torch waits until there is work, Lightning and TorchRL until there is training.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
import warnings
from argparse import SUPPRESS, HelpFormatter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from vidmarl.errors import UnknownNameError, VidmarlError
from vidmarl.utils.mistakes import PlainParser, check_recipes, in_own_code, told
from vidmarl.utils.recipes import list_configs, with_recipes

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from vidmarl.attacks import Attack
    from vidmarl.benchmark import Benchmark
    from vidmarl.training.command_line import CommandLine

USAGE = """\
usage: vidmarl COMMAND ...

How robust is a video classifier? Two agents learn where and when to distort a clip until it fails.

without Python:
  attack     attack video files; write a report, the results and the adversarial clips
  check      say whether a victim is fit for an attack, and what it sees in video files
  list       list victims, attacks, distortions, trained agents or the settings that ship
  demo       the whole story on a small example: a victim and two agents trained, unseen clips attacked, a report

comparing attacks (settings from YAML files of yours, or that ship by name, -c FILE, composed from left to right):
  benchmark  attacks x victims x distortions x clips, resumable; tables and a report

training the agents (settings from YAML files, -c FILE, composed from left to right):
  fit        train
  validate   attack the validation clips with trained agents
  test       benchmark trained agents on the test clips, beside the attacks without learning
  predict    attack clips with trained agents and save the results
  export     cut the trained agents out of a checkpoint, as a small file

vidmarl COMMAND --help tells what a command takes. vidmarl --version tells the version. Settings have one name in
Python, in YAML and here. vidmarl completion bash (or zsh, fish, tcsh) lets the shell complete them.
VIDMARL_DATA names the folder of weights and clips (default: data/); VIDMARL_DEBUG=1 shows where an error came from.
"""

SPEC_FIELDS = ("frames", "size", "short_side", "fit", "sampling", "fps", "stride", "antialias", "short")
ATTACK_OPTIONS = ("budget", "seed", "coherence")
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""The exit codes after Ctrl-C and after SIGTERM."""
CLIP_HELP = "video files"
VICTIM_HELP = (
    "the classifier under attack: a name from `vidmarl list victims`, a class or a function"
    " (package.module.Class, or file.py:make_victim), or with settings"
    """ '{"class_path": ..., "init_args": {...}}'"""
)
WEIGHTS_HELP = "its weight file; by default that of its name in the folder VIDMARL_DATA"
SPEC_HELP = (
    "how clips are cut from the files, where that differs from the victim's own way, such as"
    """ '{"frames": 8, "size": 112}' or --spec.frames 8 --spec.size 112"""
)
DEVICE_HELP = "where it runs, such as cpu or cuda:1 (default: auto, a GPU where there is one)"


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
        _fail(_as_options(told(error)), 2, error)
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
    COMMANDS[command](words)


def _fail(message: str, code: int, why: BaseException) -> NoReturn:
    """Says in one line what went wrong, and what is kept of an unfinished job."""
    kept = [note for note in getattr(why, "__notes__", ()) if note.startswith("Kept in ")]
    print(f"vidmarl: {' '.join([message, *kept])}", file=sys.stderr)
    sys.exit(code)


def _say_end(written: Sequence[str | Path], then: str) -> None:
    """Ends a command with what it wrote and what to do next."""
    if written:
        print(f"wrote: {', '.join(map(str, written))}")
    print(f"next: {then}")


def _stop_when_terminated() -> None:
    """Lets SIGTERM end a command as Ctrl-C does, so that nothing half stays behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


def _as_options(message: str) -> str:
    """An error's message with the settings of Python in the words of the command line:
    `overwrite=True` becomes `--overwrite`, and `RandomCells: budget must` `--budget must`."""

    def flag(name: str) -> str:
        return f"--{'spec.' if name in SPEC_FIELDS else ''}{name}"

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        return flag(name) if value in ("True", "...") else f"{flag(name)} {value[1:-1]}"

    settings = "|".join((*SPEC_FIELDS, "overwrite", "skip_bad", "weights", "device", "agents"))
    message = re.sub(rf"(?<!\w)(?<!\w\()({settings})=(True|\.\.\.|'[^']*'|\"[^\"]*\")", option, message)
    message = re.sub(r"^ClipSpec: (\w+)(?= (?:must|is) )", lambda found: flag(found[1]), message)
    for owner, prefix in (("Benchmark", ""), ("TwoAgentPPO", "model."), ("ClipData", "data.")):
        message = re.sub(rf"^{owner}: (\w+)(?= must )", rf"--{prefix}\1", message)
    message = re.sub(rf"^\w+: ({'|'.join(ATTACK_OPTIONS)})(?= must )", r"--\1", message)
    return message.replace("Making ClipSpec:", "--spec:")


def _parser(command: str, description: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    class Parser(PlainParser, ArgumentParser):
        pass

    return Parser(prog=f"vidmarl {command}", description=description, formatter_class=HelpFormatter)


def _add_victim(parser: Any) -> None:
    parser.add_argument("clips", nargs="+", metavar="CLIP", help=CLIP_HELP)
    parser.add_argument("--victim", required=True, type=dict[str, Any] | str, metavar="NAME", help=VICTIM_HELP)
    parser.add_argument("--weights", metavar="PATH", help=WEIGHTS_HELP)
    parser.add_argument("--device", default="auto", metavar="DEVICE", help=DEVICE_HELP)
    parser.add_argument("--spec", type=dict[str, Any], default={}, metavar="JSON", help=SPEC_HELP)


def attack(words: list[str]) -> None:
    """`vidmarl attack CLIP...`: see `vidmarl.pipeline.attack_files`."""
    parser = _parser(
        "attack",
        "Attacks video files: looks for a small distortion that makes the victim fail, in few queries, and writes"
        " report.html, results.json and the adversarial clips. A query is one clip through the victim. For a start:"
        " vidmarl attack clip.mp4 --victim movinet_a0 --out results",
    )
    parser.add_argument("-c", "--config", action="config", metavar="FILE", help="settings from a YAML file")
    _add_victim(parser)
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

    _stop_when_terminated()
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
    _say_end(
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


def check(words: list[str]) -> None:
    """`vidmarl check CLIP...`: `Victim.check`, and what the victim says of each clip."""
    parser = _parser(
        "check",
        "Says whether a victim is fit for an attack, and what it sees in video files. Exits with 1 if it is not fit.",
    )
    _add_victim(parser)
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="CLASS",
        help="the true class of each clip, or one for all, by name or index: then it also says how often the victim is"
        " right, and whether it would be with other colours, another range or another order of labels",
    )
    args = parser.parse_args(words[1:])

    from vidmarl import load_clips, load_victim

    victim = load_victim(args.victim, args.weights, spec=args.spec, device=args.device)
    clips = load_clips(args.clips, victim)
    labels = args.labels * len(clips) if args.labels and len(args.labels) == 1 else args.labels
    report = victim.check(clips, labels)
    print(report)
    for path, scores in zip(args.clips, victim(clips).exp(), strict=True):
        top = scores.topk(min(3, len(scores)))
        said = [f"{victim.label(i)} {p:.2f}" for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
        print(f"{path}: {', '.join(said)}")
    if not report.ok:
        sys.exit(1)
    if isinstance(args.victim, str):
        _say_end([], f"vidmarl attack {shlex.quote(args.clips[0])} --victim {args.victim} --out results")


def list_names(words: list[str]) -> None:
    """`vidmarl list victims|attacks|distortions|agents|configs [PATTERN]`."""
    parser = _parser("list", "Lists what there is by name.")
    parser.add_argument("what", choices=KINDS, help="what to list")
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="such as 'x3d*', in quotes; default: all"
    )
    args = parser.parse_args(words[1:])

    names = _names(args.what)
    matching = fnmatch.filter(names, args.pattern)
    if not matching:
        raise UnknownNameError("pattern of " + args.what, args.pattern, names)
    print("\n".join(matching))


def _names(kind: str) -> list[str]:
    """What there is of a kind, from memory: to look for it, all that is listed would be imported,
    which takes seconds. It is looked for again after a file or the version of a library has
    changed."""
    from vidmarl.data.paths import cache_root
    from vidmarl.registry import plugins
    from vidmarl.utils.files import write_atomically

    if kind == "configs":
        return list_configs()
    folder = Path(__file__).with_name(kind)
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


def completion(words: list[str]) -> None:
    """`vidmarl completion SHELL`: completion of all commands by shtab."""
    parser = _parser(
        "completion",
        "Writes the script that lets a shell complete commands, options and the names of victims, attacks, distortions"
        """ and agents. For bash: echo 'eval "$(vidmarl completion bash)"' >> ~/.bashrc""",
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish", "tcsh"], help="which shell")
    args = parser.parse_args(words[1:])

    import argparse

    import shtab
    from jsonargparse import capture_parser

    whole = argparse.ArgumentParser(prog="vidmarl")
    commands = whole.add_subparsers()
    with warnings.catch_warnings(action="ignore"):
        for name, command in COMMANDS.items():
            found = capture_parser(command, [name])
            one = found if found._subcommands_action is None else found._subcommands_action._name_parser_map[name]
            commands.add_parser(name, help=(one.description or "").partition(".")[0])
            commands._name_parser_map[name] = one
            one._actions = [_completed(action, shtab) for action in one._actions if action.help != SUPPRESS]
    print(shtab.complete(whole, args.shell))


def _completed(action: Any, shtab: Any) -> Any:
    """A setting with what completes it: names, files or folders."""
    if action.dest in ("victim", "attack", "distortion", "agents"):
        action.choices = _names(action.dest.removesuffix("s") + "s")
    elif action.dest in ("clips", "config", "weights", "ckpt", "ckpt_path"):
        action.complete = shtab.FILE
    elif action.dest == "out":
        action.complete = shtab.DIRECTORY
    return action


def export(words: list[str]) -> None:
    """`vidmarl export CHECKPOINT FILE`: see `vidmarl.agents.checkpoint.save_agents`."""
    parser = _parser("export", "Cuts the trained agents out of a checkpoint of `vidmarl fit`, as a small file.")
    parser.add_argument("ckpt", metavar="CHECKPOINT", help="a checkpoint of `vidmarl fit`")
    parser.add_argument("out", metavar="FILE", help="the file to write, such as agents.pt")
    args = parser.parse_args(words[1:])

    from vidmarl.agents.checkpoint import load_agents, save_agents

    agents = load_agents(args.ckpt)
    Path(args.out).absolute().parent.mkdir(parents=True, exist_ok=True)
    save_agents(args.out, agents)
    queries = agents.trained.get("training_queries", 0)
    print(f"{args.out}: {os.path.getsize(args.out):,} bytes; trained with {queries:,} queries")
    _say_end([args.out], f"vidmarl attack CLIP --victim NAME --agents {shlex.quote(args.out)} --out results")


def demo(words: list[str]) -> None:
    """`vidmarl demo`: see `vidmarl.demo.run`."""
    parser = _parser(
        "demo",
        "Makes small action clips, trains a victim on them, trains both agents against it, attacks clips that neither"
        " has seen beside the attacks without learning, and writes a report. Minutes on two cores; no network.",
    )
    parser.add_argument("--out", default="outputs/demo", metavar="DIR", help="the folder (default: outputs/demo)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same demo (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="start over, instead of using what an earlier demo left")
    parser.add_argument("--no_progress", action="store_true", help="show no progress bars")
    args = parser.parse_args(words[1:])

    from vidmarl.demo.run import main as run

    run(out=args.out, seed=args.seed, fresh=args.fresh, progress=not args.no_progress)


def benchmark(words: list[str]) -> None:
    """`vidmarl benchmark -c FILE`: see `vidmarl.benchmark`."""
    parser = _parser(
        "benchmark",
        "Attacks x victims x distortions x clips. Every result is written as it comes; the same command goes on with"
        " what is missing after it was stopped, or after attacks or clips were added. Writes rows.csv, summary.csv,"
        " summary.md and report.html.",
    )
    from vidmarl.benchmark import Benchmark
    from vidmarl.benchmark.config import read_shard

    _know_datasets()
    parser.add_argument("-c", "--config", action="config", metavar="FILE", help="settings from a YAML file")
    parser.add_class_arguments(Benchmark)
    parser.add_argument(
        "--shard",
        default="0/1",
        metavar="K/N",
        help="attack every N-th clip only, from the K-th (counted from 0), so that N processes share the work",
    )
    parser.add_argument(
        "--summarise_only", action="store_true", help="attack nothing; make the tables of what is there"
    )
    parser.add_argument("--no_progress", action="store_true", help="show no progress bars")
    args = parser.parse_args(words[1:])

    shard = read_shard(args.shard)
    made = parser.instantiate(args)
    settings = Benchmark(**{field: made[field] for field in Benchmark.__dataclass_fields__})
    _run_benchmark(settings, shard=shard, summarise_only=args.summarise_only, progress=not args.no_progress)


def _run_benchmark(settings: Benchmark, **how: Any) -> None:
    """Runs a benchmark and prints its summary; `how` is of `run_benchmark`."""
    from vidmarl.benchmark import run_benchmark

    _stop_when_terminated()
    done = run_benchmark(settings, **how)
    if done is None:
        print("Other shards have clips left. The last one to end writes the tables; --summarise_only makes them now.")
        return
    out = Path(settings.out)
    print((out / "summary.md").read_text("utf-8"))
    _say_end(
        [done.report, *(out / name for name in ("summary.md", "summary.csv", "rows.csv", "trials"))],
        f"open {done.report} in a browser; the same command with more attacks or clips adds to it",
    )


def test(words: list[str]) -> None:
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

    _know_datasets()
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
    victim = module.victim
    victim.to(cli.trainer.strategy.root_device)
    if data.spec is not None:
        victim.spec = data.spec
    _run_benchmark(
        Benchmark(
            victims=[victim],
            attacks=agents_and_controls(config.ckpt_path),
            data=data.sources["test"],
            distortions=[module.distortion],
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


def train(words: list[str]) -> None:
    """`vidmarl fit|validate|predict`: Lightning's command line over the two agents."""
    from vidmarl.training.command_line import CommandLine
    from vidmarl.utils.quiet import no_tips

    _stop_when_terminated()
    signal.signal(signal.SIGINT, lambda *_: sys.exit(INTERRUPTED))  # a KeyboardInterrupt would end Lightning with 1
    _know_datasets()
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
        _say_end([folder], f"in Python, vidmarl.SavedResult({str(results[0])!r})" if results else "more clips")
    elif command == "fit":
        _say_end(
            kept,
            f"vidmarl export {agents} agents.pt; vidmarl attack CLIP --victim NAME --agents agents.pt --out results",
        )
    else:
        _say_end([], f"vidmarl test -c FILE --ckpt_path {agents}, which compares them with attacks without learning")


def _know_datasets() -> None:
    """Imports the datasets, so that settings may call them by the names of their classes."""
    from vidmarl.data import folder, hmdb51, joined, kinetics, synthetic, ucf101, weizmann  # noqa: F401
    from vidmarl.registry import plugins

    for found in plugins("vidmarl.datasets").values():
        found.load()


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
        *_aligned(columns, {column.label: column.texts(table) for column in numbers}),
        *(f"left out: {why}" for why in record["left_out"].values()),
        "",
        "{fooled} of {attacked} clips fooled{surely}, {skipped} skipped, {queries:,} queries".format(**summary),
    ]
    return "\n".join(lines)


def _aligned(texts: dict[str, Any], numbers: dict[str, list[str]]) -> list[str]:
    """The lines of a table: texts to the left, and as many columns of numbers, to the right, as the
    terminal has room for."""
    columns = []
    for name, values in (texts | numbers).items():
        cells = [name, *(text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…" for text in values)]
        width = max(map(len, cells))
        columns.append([cell.rjust(width) if name in numbers else cell.ljust(width) for cell in cells])
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    while len(columns) > len(texts) + 2 and sum(len(column[0]) + 2 for column in columns) - 2 > room:
        columns.pop()
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


WIDEST = 32
"""Characters of a text in a table."""
TRAINING = ("fit", "validate", "predict")
KINDS = ("victims", "attacks", "distortions", "agents", "configs")
"""What `vidmarl list` lists."""
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "attack": attack,
    "check": check,
    "list": list_names,
    "demo": demo,
    "benchmark": benchmark,
    "test": test,
    "export": export,
    "completion": completion,
    **dict.fromkeys(TRAINING, train),
}

"""`vidmarl benchmark`: attacks x victims x distortions x clips, to be killed, resumed, widened and
shared out at will.

The smallest piece of work is a trial, one attack on one clip, and each is a file of its own
(`vidmarl.benchmark.trials`) below

    OUT/trials/VICTIM/DISTORTION/ATTACK-HASH/CLIP-HASH.safetensors

The first hash is of every setting that could change the result, the victim's weights and the
agents' included; the second one is of the clip's pixels and its goal. So what is done is done: a
run makes the trials that are missing and no other, a changed setting never mixes with what was made
before, and another attack, clip or victim only adds work. Tables and the report are made of the
trials alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from tqdm.auto import tqdm

from vidmarl import metrics
from vidmarl.agents.checkpoint import find_agents
from vidmarl.attacks.base import Attack
from vidmarl.benchmark.trials import SUFFIX, Trials, is_done, save_trials
from vidmarl.data.base import ClipDataset, ClipSource, evenly
from vidmarl.data.spec import ClipSpec
from vidmarl.data.synthetic import Synthetic
from vidmarl.data.video import as_floats
from vidmarl.distortions import as_distortion
from vidmarl.errors import ClipError, UnknownNameError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.noise import Coherence
from vidmarl.pipeline import class_index, is_learned, load_victim_as, make_attack, shipped_for
from vidmarl.queries.goals import Goal, Misclassify, Target
from vidmarl.utils.files import write_atomically
from vidmarl.victims.victim import Victim

if TYPE_CHECKING:
    import pandas as pd


RATIO = ("ratio", "ratio low", "ratio high", "p")
"""What is said of an attack beside the reference, of its L2 and of its queries."""


@dataclasses.dataclass(frozen=True)
class VictimChoice:
    """A victim of a benchmark.

    Attributes:
        name: for `vidmarl.load_victim`.
        weights: a file, "random", or None for those of its name.
        spec: how clips are cut, where it shall differ from the victim's own way.
        precision: "bf16-mixed" runs the whole attack under autocast.
        label: how it is called in the tables; None: its own name.
    """

    name: str
    weights: str | None = None
    spec: dict[str, Any] = dataclasses.field(default_factory=dict)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a benchmark is made of.

    Args:
        victims: who is attacked.
        distortions: what is done to the clips: names, or class_path and init_args, and a "name" for
            the tables where the default, the name of its file, would not tell two of them apart.
        attacks: how, by the name in the tables: class_path (default: that name) and init_args, and
            for "rl" its trained agents as "ckpt", a file or the name of agents that ship with
            vidmarl, in which `{distortion}` stands for the distortion's name. With "untrained:
            true" these agents start afresh: a control.
        data: the clips.
        max_clips: at most so many clips, spread evenly over the data; twice as many include them
            all.
        seed: of distortions, attacks and targets.
        budget: queries per clip.
        budgets: where the tables are read off the histories.
        coherence: how random patterns go on in time.
        grid: the tubelets; None: those that the agents were trained with, and the default of other
            attacks.
        goal: anything but the label under attack ("untargeted"); one class, drawn for each clip by
            the seed ("targeted"); or the class that comes second in the clean prediction
            ("runner_up").
        labels: the label under attack: the victim's clean prediction, or that of the dataset, whose
            class names the victim must know; then clips that the victim gets wrong are skipped.
        reference: the attack that the others are compared with, clip by clip; None: the first.
        controls: among which the best is marked; None: all attacks without trained agents.
        clips_at_once: clips that are attacked side by side. What they have spent is lost when a run
            is killed.
        perceptual: whether to measure ST-LPIPS and the warping error, which costs seconds a clip.
        keep_clips: whether to keep the adversarial clips.
        device: where the victims run; None: a GPU where there is one.
        out: the folder of results.
    """

    victims: list[VictimChoice]
    attacks: dict[str, dict[str, Any]]
    data: ClipSource | Synthetic
    distortions: list[str | dict[str, Any]] = dataclasses.field(default_factory=lambda: ["gaussian_noise"])
    max_clips: int | None = None
    seed: int = 0
    budget: int = 500
    budgets: list[int] = dataclasses.field(default_factory=lambda: list(metrics.BUDGETS))
    coherence: Coherence = "static"
    grid: TubeletGrid | None = None
    goal: Literal["untargeted", "targeted", "runner_up"] = "untargeted"
    labels: Literal["prediction", "dataset"] = "prediction"
    reference: str | None = None
    controls: list[str] | None = None
    clips_at_once: int = 8
    perceptual: bool = False
    keep_clips: bool = False
    device: str | None = None
    out: str = "outputs/benchmark"

    def __post_init__(self) -> None:
        if not self.victims or not self.attacks or not self.distortions:
            raise ValueError("Benchmark: expected at least one victim, one distortion and one attack.")
        for name, value in (
            ("clips_at_once", self.clips_at_once),
            ("budget", self.budget),
            ("max_clips", self.max_clips),
        ):
            if value is not None and value < 1:
                raise ValueError(f"Benchmark: {name} must be at least 1, got {value}.")
        if not self.budgets or min(self.budgets) < 1:
            raise ValueError(f"Benchmark: budgets must be at least one, each 1 or more, got {self.budgets}.")
        for label in (self.reference, *(self.controls or ())):
            if label is not None and label not in self.attacks:
                raise UnknownNameError("attack of the benchmark", label, self.attacks)
        _distinct("victims", [victim.label or victim.name for victim in self.victims])
        _distinct("distortions", [name for name, _ in self.named_distortions()])
        for label, thing in self.attacks.items():
            if unknown := set(thing or {}) - {"class_path", "init_args", "ckpt", "untrained"}:
                raise ValueError(
                    f"Benchmark: the attack {label!r} has {sorted(unknown)}; an attack may have class_path, init_args,"
                    " ckpt and untrained."
                )
        if self.goal != "untargeted" and self.labels == "dataset":
            raise ValueError(
                "Benchmark: targets are chosen apart from the clean prediction, so labels must be 'prediction'."
            )

    @property
    def wanted(self) -> dict[str, bool]:
        """What a trial must hold besides the history, see `is_done`."""
        return {"perceptual": self.perceptual, "keep_clips": self.keep_clips}

    @property
    def points(self) -> list[int]:
        """The query budgets of the tables: none above what the attacks have, and that one too."""
        return sorted({min(budget, self.budget) for budget in (*self.budgets, self.budget)})

    def named_distortions(self) -> list[tuple[str, dict[str, Any]]]:
        """The distortions: the name in the tables, class_path and init_args."""
        named = []
        for thing in self.distortions:
            described = {"class_path": thing} if isinstance(thing, str) else dict(thing)
            name = described.pop("name", None)
            distortion = as_distortion(described)
            named.append((name or type(distortion).__module__.rpartition(".")[2], distortion.describe()))
        return named


def _distinct(what: str, labels: Sequence[str]) -> None:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        key = "label" if what == "victims" else "name"
        raise ValueError(f"Benchmark: two of the {what} are called {twice[0]!r}. Give each a {key} of its own.")


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip of a benchmark, as a victim's spec cuts it.

    Attributes:
        name: in the tables.
        path: of its file; empty for a clip that was drawn.
        label: its class by the dataset, or None.
        label_name: the name of that class, or None.
        pixels: uint8[3 t h w].
        key: a hash of the pixels.
    """

    name: str
    path: str
    label: int | None
    label_name: str | None
    pixels: UInt8[Tensor, "3 t h w"]
    key: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One attack under one distortion.

    Attributes:
        distortion: name in the tables.
        label: of the attack in the tables.
        attack: the attack.
        identity: all of its settings that could change a result, plain data.
        training_queries: what training its agents has cost.
    """

    distortion: str
    label: str
    attack: Attack
    identity: dict[str, Any]
    training_queries: int


@dataclasses.dataclass(frozen=True)
class TrialSet:
    """The trials of one attack on one victim under one distortion, in the order of the clips.

    Attributes:
        entry: the attack and the distortion.
        victim: name in the tables.
        folder: of the trials.
        paths: of the trials, made or not.
    """

    entry: Entry
    victim: str
    folder: Path
    paths: list[Path]


def run_benchmark(
    benchmark: Benchmark,
    *,
    shard: tuple[int, int] = (0, 1),
    summarise_only: bool = False,
    progress: bool = True,
) -> Path | None:
    """Makes the trials that are missing, and the tables and the report when none is.

    Args:
        benchmark: what to do.
        shard: `(k, n)`: of every n clips this process attacks the k-th only, from 0, so that n
            processes share the work on one folder.
        summarise_only: attack nothing; make the tables of the clips that every attack has been
            tried on.
        progress: whether to show a progress bar.

    Returns:
        The report; None where trials are missing that are other processes' to make.

    Raises:
        ValueError, UnknownNameError, CheckpointError, DataError: the settings cannot be used. No
            query has been spent.
        ClipError: no clip can be used; with `summarise_only`, there is none that every attack has
            been tried on.
    """
    entries = _entries(benchmark)
    clips: dict[ClipSpec, list[Clip]] = {}
    series: list[TrialSet] = []
    for choice in benchmark.victims:
        victim = load_victim_as(choice.name, choice.weights, benchmark.device, choice.spec)
        assert victim.spec is not None
        if victim.spec not in clips:
            clips[victim.spec] = load_clips(benchmark, victim.spec, progress)
        runner = VictimRunner(benchmark, choice, victim, clips[victim.spec])
        of_victim = [runner.series(entry) for entry in entries]
        if not summarise_only:
            runner.run(of_victim, shard, progress)
        series += of_victim
    paths = [path for one in series for path in one.paths]
    done = {path for path in paths if is_done(path, **benchmark.wanted)}
    missing = len(paths) - len(done)
    if missing and not summarise_only:
        return None
    tables = finished(series, done)
    if missing:
        warnings.warn(
            f"Benchmark: {missing} trials are missing; the tables hold the clips that all attacks have tried.",
            stacklevel=2,
        )
    for (name, distortion), results in tables.items():
        devices = {facts["device"] for trials in results.values() for facts in trials.facts if "device" in facts}
        if len(devices) > 1:
            warnings.warn(
                f"Benchmark: the trials of {name} under {distortion} were made on {' and '.join(sorted(devices))},"
                " which round differently: see the column device of rows.csv.",
                stacklevel=2,
            )
    return write_tables(benchmark, tables)


def read_shard(text: str) -> tuple[int, int]:
    """`(k, n)` of "k/n".

    Raises:
        ValueError: it is something else, or k is not below n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise ValueError(f"Benchmark: expected a shard K/N with 0 <= K < N, such as 0/2 and 1/2, got {text!r}.")
    return int(found[1]), int(found[2])


def _entries(benchmark: Benchmark) -> list[Entry]:
    """Every attack under every distortion, made before anything is asked, so that a mistake costs
    nothing."""
    from vidmarl.agents.checkpoint import fresh_agents

    entries = []
    for distortion, described in benchmark.named_distortions():
        for label, thing in benchmark.attacks.items():
            thing = thing or {}
            path, init_args = thing.get("class_path") or label, thing.get("init_args") or {}
            common = {
                "distortion": described,
                "budget": benchmark.budget,
                "coherence": benchmark.coherence,
                "seed": benchmark.seed,
                "clips_at_once": benchmark.clips_at_once,
                "progress": False,
            }
            if own := init_args.keys() & common:
                raise ValueError(
                    f"Benchmark: the attack {label!r} has {sorted(own)} of its own; these are the benchmark's, the"
                    " same for all attacks."
                )
            ckpt = None if thing.get("ckpt") is None else str(thing["ckpt"]).replace("{distortion}", distortion)
            try:
                if ckpt is None and is_learned(path):
                    ckpt = shipped_for(described)
                attack = make_attack(
                    {"class_path": path, "init_args": init_args},
                    ckpt=ckpt,
                    grid=_grid(benchmark, init_args),
                    **common,
                )
            except ValueError as error:
                raise ValueError(f"Benchmark, attack {label!r} under {distortion!r}: {error}") from error
            if not attack.alone:
                raise ValueError(
                    f"Benchmark, attack {label!r}: what it does to a clip depends on the clips beside it, and these are"
                    " others when a run is resumed. Give it donors of its own, init_args: {donors: [VIDEO, ...]}."
                )
            untrained = ckpt is not None and bool(thing.get("untrained"))
            if untrained:
                attack.agents = fresh_agents(attack.agents, benchmark.seed)  # type: ignore[attr-defined]
            nets = {key: fingerprint(net) for key, net in vars(attack).items() if isinstance(net, nn.Module)}
            identity = attack.describe() | {"init_args": init_args, "networks": nets}
            entries.append(Entry(distortion, label, attack, identity, 0 if untrained else training_queries(ckpt)))
    return entries


def _grid(benchmark: Benchmark, init_args: Mapping[str, Any]) -> TubeletGrid | None:
    """The tubelets of an attack: its own where it has any, what these leave out as in the
    others'."""
    own = init_args.get("grid")
    if not isinstance(own, Mapping):
        return own or benchmark.grid
    known = {field.name for field in dataclasses.fields(TubeletGrid)}
    if unknown := set(own) - known:
        raise ValueError(f"a grid may have {sorted(known)}, got {sorted(unknown)}.")
    return dataclasses.replace(benchmark.grid or TubeletGrid(), **own)


def training_queries(ckpt: str | None) -> int:
    """What training the agents of a checkpoint has cost; 0 where there are none."""
    if ckpt is None:
        return 0
    from vidmarl.agents.checkpoint import load_agents

    return int(load_agents(find_agents(ckpt))[1].get("training_queries", 0))


def fingerprint(net: nn.Module) -> str:
    """A hash of all parameters and buffers of a network."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_clips(benchmark: Benchmark, spec: ClipSpec, progress: bool) -> list[Clip]:
    """The clips of a benchmark, each once, cut as a spec says; those that cannot be used are left
    out with a warning.

    Raises:
        ClipError: none can be used.
    """
    source = benchmark.data
    if isinstance(source, ClipSource):
        dataset = ClipDataset(source, spec, cache_bytes=0, progress=progress)
        count, classes = len(dataset), source.classes
    else:
        count, classes = len(source), list(source.classes)
    clips: dict[str, Clip] = {}
    chosen = evenly(range(count), benchmark.max_clips)
    for i in tqdm(chosen, desc="loading clips", unit="clip", disable=not progress):
        if isinstance(source, ClipSource):
            pixels, position = dataset[i]
            file = source[position]
            name, path, label = file.name, str(file.path), file.label
        else:
            pixels, label = source[i]
            name, path = f"clip-{i:05d}", ""
        key = _hash(pixels.numpy().tobytes())
        clips.setdefault(key, Clip(name, path, label, None if label is None else classes[label], pixels, key))
    if len(clips) < len(chosen):
        copies = len(chosen) - len(clips)
        warnings.warn(f"Benchmark: {copies} of {len(chosen)} clips are copies of others, and left out.", stacklevel=2)
    return list(clips.values())


class VictimRunner:
    """One victim of a benchmark with its clips and its goals.

    Args:
        benchmark: the settings.
        choice: the victim's.
        victim: the victim.
        clips: the clips as it wants them.

    Raises:
        ValueError, UnknownNameError: `labels: dataset` asks for labels that a clip has not or the
            victim knows not.
    """

    def __init__(self, benchmark: Benchmark, choice: VictimChoice, victim: Victim, clips: list[Clip]) -> None:
        self.benchmark = benchmark
        self.choice = choice
        self.victim = victim
        self.clips = clips
        self.label = choice.label or str(victim.name)
        self.classes = self._classes()
        self.identity = self._identity()

    def _classes(self) -> list[int | None]:
        """The class of each clip's goal, or None where it is the victim's to say."""
        if self.benchmark.goal != "untargeted":
            # one look at each clip to know its classes, which no attack is charged with: each pays
            # for its own
            with self._precision():
                said = [self.victim(as_floats(clip.pixels[None]))[0].topk(2).indices.tolist() for clip in self.clips]
            if self.benchmark.goal == "runner_up":
                return [second for _, second in said]
            return [self._target(clip, own) for clip, (own, _) in zip(self.clips, said, strict=True)]
        if self.benchmark.labels == "dataset":
            return [self._known(clip) for clip in self.clips]
        return [None] * len(self.clips)

    def _known(self, clip: Clip) -> int:
        if clip.label is None or clip.label_name is None:
            raise ValueError(f"Benchmark with `labels: dataset`: {clip.path or clip.name} has no label.")
        return clip.label if self.victim.labels is None else class_index(self.victim, clip.label_name)

    def _target(self, clip: Clip, own: int) -> int:
        """A class other than the clip's own, drawn by its content and the seed alone."""
        seed = zlib.crc32(f"target {self.benchmark.seed} {clip.key}".encode())
        classes = int(self.victim.n_classes or 0)
        drawn = int(torch.randint(classes - 1, (), generator=torch.Generator().manual_seed(seed)))
        return drawn + (drawn >= own)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        device = self.victim.device or torch.device("cpu")
        with torch.autocast(device.type, torch.bfloat16, enabled=self.choice.precision == "bf16-mixed"):
            yield

    def _identity(self) -> dict[str, Any]:
        """All that decides what this victim says."""
        model, spec = self.victim.model, self.victim.spec
        return {
            "name": self.victim.name,
            "network": fingerprint(model) if isinstance(model, nn.Module) else None,
            "mean": self.victim.mean,
            "std": self.victim.std,
            "spec": None if spec is None else dataclasses.asdict(spec),
            "precision": self.choice.precision,
        }

    def series(self, entry: Entry) -> TrialSet:
        """The trials of an attack on this victim; makes their folder, with all settings in it."""
        settings = {"victim": self.identity, "attack": entry.identity}
        text = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False)
        name = f"{_safe(entry.label)}-{_hash(text.encode())}"
        folder = Path(self.benchmark.out) / "trials" / _safe(self.label) / _safe(entry.distortion) / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "settings.json").exists():
            write_atomically(folder / "settings.json", text + "\n")
        paths = [folder / self._file(clip, goal) for clip, goal in zip(self.clips, self.classes, strict=True)]
        return TrialSet(entry, self.label, folder, paths)

    def _file(self, clip: Clip, goal: int | None) -> str:
        """A trial's file: clip and goal."""
        return f"{_safe(clip.name)}-{_hash(f'{clip.key} {self.benchmark.goal} {goal}'.encode())}{SUFFIX}"

    def run(self, series: list[TrialSet], shard: tuple[int, int], progress: bool) -> None:
        """Makes what is missing, clips in the outer loop: a run cut short has tried all attacks on
        the same clips."""
        wanted = self.benchmark.wanted
        own = range(shard[0], len(self.clips), shard[1])
        todo = [[i for i in own if not is_done(one.paths[i], **wanted)] for one in series]
        total, left = len(own) * len(series), sum(map(len, todo))
        with tqdm(total=total, initial=total - left, unit="trial", desc=self.label, disable=not progress) as bar:
            for start in range(0, len(own), self.benchmark.clips_at_once):
                batch = own[start : start + self.benchmark.clips_at_once]
                for one, missing in zip(series, todo, strict=True):
                    if rows := [i for i in batch if i in missing]:
                        bar.set_postfix_str(f"{one.entry.distortion}, {one.entry.label}")
                        self._try(one, rows, wanted)
                        bar.update(len(rows))

    def _try(self, series: TrialSet, rows: list[int], wanted: Mapping[str, bool]) -> None:
        pixels = as_floats(torch.stack([self.clips[i].pixels for i in rows]))
        with self._precision():
            result = series.entry.attack(self.victim, pixels, self._goal(rows))
        facts = [
            {
                "clip": self.clips[i].name,
                "path": self.clips[i].path,
                "label": self.clips[i].label_name,
                "seed": self.benchmark.seed,
                "device": str((self.victim.device or torch.device("cpu")).type),
            }
            for i in rows
        ]
        save_trials([series.paths[i] for i in rows], result, facts, **wanted)

    def _goal(self, rows: list[int]) -> Goal | None:
        classes = [self.classes[i] for i in rows]
        if None in classes:
            return None
        return (Misclassify if self.benchmark.goal == "untargeted" else Target)(torch.tensor(classes))


def finished(series: Sequence[TrialSet], done: Collection[Path]) -> dict[tuple[str, str], dict[str, Trials]]:
    """The trials by (victim, distortion) and attack, of the clips that every attack there has been
    tried on.

    Args:
        series: of all victims, distortions and attacks.
        done: the trials that are there with all that is wanted of them.

    Raises:
        ClipError: there is no such clip.
    """
    groups: dict[tuple[str, str], list[TrialSet]] = {}
    for one in series:
        groups.setdefault((one.victim, one.entry.distortion), []).append(one)
    tables: dict[tuple[str, str], dict[str, Trials]] = {}
    for key, rivals in groups.items():
        tried = [
            i
            for i, paths in enumerate(zip(*[one.paths for one in rivals], strict=True))
            if all(path in done for path in paths)
        ]
        if tried:
            tables[key] = {
                one.entry.label: Trials.load([one.paths[i] for i in tried], _settings(one)) for one in rivals
            }
    if not tables:
        raise ClipError("Summarising a benchmark: no clip has been tried by every attack yet. Run it first.")
    return tables


def _settings(series: TrialSet) -> dict[str, Any]:
    described = series.entry.attack.describe()
    return described | {"victim": series.victim, "training_queries": series.entry.training_queries}


def write_tables(benchmark: Benchmark, tables: Mapping[tuple[str, str], Mapping[str, Trials]]) -> Path:
    """Writes rows.csv, summary.csv, summary.md and report.html; returns the path of the report."""
    import pandas as pd

    from vidmarl.benchmark.comparison import markdown
    from vidmarl.benchmark.report import write_benchmark_report

    out = Path(benchmark.out)
    rows, summaries = [], {}
    for (victim, distortion), results in tables.items():
        known = {"victim": victim, "distortion": distortion}
        for attack, trials in results.items():
            table = trials.table(benchmark.points)
            rows.append(pd.DataFrame(known | {"attack": attack}, index=table.index).join(table))
        summaries[victim, distortion] = summarise(benchmark, results)
    summary = pd.concat([table.assign(victim=v, distortion=d) for (v, d), table in summaries.items()])
    summary = summary[["victim", "distortion", *summary.columns.drop(["victim", "distortion"])]]
    write_atomically(out / "rows.csv", pd.concat(rows).to_csv(index=False))
    write_atomically(out / "summary.csv", summary.to_csv(index=False))
    reference = _reference(benchmark)
    text = "\n".join(f"## {v}, {d}\n\n{markdown(table, reference)}" for (v, d), table in summaries.items())
    write_atomically(out / "summary.md", text)
    return write_benchmark_report(out / "report.html", tables, summaries, reference=reference)


def summarise(benchmark: Benchmark, results: Mapping[str, Trials]) -> pd.DataFrame:
    """The figures of all attacks on one victim under one distortion, a row for each attack and
    budget.

    Returns:
        `vidmarl.metrics.summary_table`, and "L2 ratio" and "AQ ratio" (`size_ratio` and
        `query_ratio` of the reference / this attack: below 1 the reference is smaller, or quicker),
        their intervals and the "p" of their tests, all NaN for the reference; "best control",
        whether no control has a smaller median L2 at this budget; "training queries"; "pays after",
        the attacked clips after which they are made up for, see `pays_after`.
    """
    from vidmarl.benchmark.comparison import stack

    table = stack({k: metrics.summary_table(t, t.pictures(), benchmark.points) for k, t in results.items()})
    reference = _reference(benchmark)
    for i, row in table.iterrows():
        if row["attack"] != reference:
            pair = results[reference], results[row["attack"]], int(row["budget"])
            for name, compared in (("L2", metrics.size_ratio(*pair)), ("AQ", metrics.query_ratio(*pair))):
                figures = compared.ratio, compared.low, compared.high, compared.p
                table.loc[i, [f"{name} {what}" for what in RATIO]] = figures
    table = table.reindex(columns=[*dict.fromkeys([*table, *(f"{n} {what}" for n in ("L2", "AQ") for what in RATIO)])])
    bounds = {name for name, trials in results.items() if "bound" in trials.settings}
    controls = table["attack"].isin(set(_controls(benchmark)) - bounds)
    best = table["L2"].where(controls).groupby(table["budget"]).transform("min")
    table["best control"] = controls & (table["L2"] == best)
    table["training queries"] = [results[name].settings["training_queries"] for name in table["attack"]]
    table["pays after"] = [pays_after(row, table[controls]) for _, row in table.iterrows()]
    return table


def pays_after(row: pd.Series, controls: pd.DataFrame) -> float:
    """After how many attacked clips the training queries of an attack are made up for by those that
    it saves.

    Saved is, at the budget of `row`, the AQ to the first success of the quickest control that fools
    no fewer clips, less the attack's own. NaN for an attack without training, or without such a
    control; infinite if it saves none.
    """
    rivals = controls[(controls["budget"] == row["budget"]) & (controls["FR"] >= row["FR"])]
    if not row["training queries"] or rivals.empty:
        return math.nan
    saved = rivals["AQ first"].min() - row["AQ first"]
    return math.inf if saved <= 0 else float(row["training queries"] / saved)


def _reference(benchmark: Benchmark) -> str:
    return benchmark.reference or next(iter(benchmark.attacks))


def _controls(benchmark: Benchmark) -> list[str]:
    if benchmark.controls is not None:
        return benchmark.controls
    named = {label: thing or {} for label, thing in benchmark.attacks.items()}
    return [k for k, v in named.items() if not is_learned(v.get("class_path") or k) or v.get("untrained")]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _safe(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80].lstrip(".") or "_"

"""What a benchmark is made of; from YAML, from the command line, or from Python."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vidmarl import metrics
from vidmarl.data.base import ClipSource
from vidmarl.data.synthetic import Synthetic
from vidmarl.distortions import DISTORTIONS, Distortion, FunctionDistortion, as_distortion
from vidmarl.errors import UnknownNameError
from vidmarl.perturbations.grid import TubeletGrid
from vidmarl.perturbations.noise import Coherence
from vidmarl.registry import call
from vidmarl.victims import load_victim, ships
from vidmarl.victims.own import last_name
from vidmarl.victims.victim import Victim

if TYPE_CHECKING:
    from vidmarl.agents.networks import Agents

CONTROLS = ("random_cells", "grow_and_reduce", "signed_blocks", "square_tubes")
"""The attacks without learning that trained agents are compared with."""


@dataclasses.dataclass(frozen=True)
class VictimChoice:
    """A victim of a benchmark.

    Attributes:
        name: of it, or a path or a description of a victim of your own, for `vidmarl.load_victim`.
        weights: a file, "random", or None for those of its name.
        spec: how clips are cut, where it differs from the victim's own way.
        precision: "bf16-mixed" runs the whole attack under autocast.
        label: what it is called in the tables; None: its own name, or the end of its path.
    """

    name: str | dict[str, Any]
    weights: str | None = None
    spec: dict[str, Any] = dataclasses.field(default_factory=dict)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    label: str | None = None

    def load(self, device: str) -> Victim:
        """The victim.

        Raises:
            UnknownNameError, SettingsError, CheckpointError, ValueError: see `load_victim`.
        """
        return load_victim(self.name, self.weights, spec=self.spec, device=device)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a benchmark is made of.

    Args:
        victims: who is attacked. A `Victim` may stand for a `VictimChoice`, and so may its name or
            its description alone; one that is no network is known by its name alone.
        attacks: how, by the name in the tables: class_path (default: that name) and init_args. The
            trained agents of "rl" are in init_args as "agents": a name, a file or `Agents`, where
            `{distortion}` stands for the distortion's name, which is also the default. With
            "untrained: true" they start afresh, which makes the attack a control; with "untrained:
            [spatial]" or "[temporal]" one of them does, which makes it an ablation.
        data: the clips.
        distortions: what is done to the clips: names, or class_path and init_args, and a "name" for
            the tables where the default, the name of its file, would not tell two of them apart.
        max_clips: at most so many clips, spread evenly over the data; twice as many include them
            all.
        seed: of distortions, attacks and targets.
        budget: queries per clip.
        budgets: where the tables are read off the histories.
        coherence: how random patterns go on in time.
        grid: the tubelets; None: those that the agents were trained with, and the default of other
            attacks.
        search_cell: width and height, in tubelets, of the cells that the searches work with; None:
            as for the grid. An attack may have a grid and search cells of its own, in its
            init_args.
        goal: anything but the label under attack ("untargeted"); one class, drawn for each clip by
            the seed ("targeted"); or the class that comes second in the clean prediction
            ("runner_up").
        labels: the label under attack: the victim's clean prediction, or that of the dataset, whose
            class names the victim must know; then clips that the victim gets wrong are skipped.
        reference: the attack that the others are compared with, clip by clip; None: the first.
        controls: among which the best is marked; None: all attacks without trained agents.
        clips_at_once: clips that are attacked side by side. What they have spent is lost when a run
            is killed.
        slow_metrics: whether to measure ST-LPIPS, the warping error and JOD too, which costs
            seconds a clip.
        keep_clips: whether to keep the clips in the trials, clean and adversarial. Then the report
            shows the first of them frame by frame.
        training: the log of the agents' training by Lightning's CSVLogger, whose curves the report
            shows; None: it shows none.
        device: where the victims run; "auto" is a GPU where there is one. A `Victim` stays where it
            is.
        out: the folder of results.

    Raises:
        ValueError: a setting is out of its range, or two of them do not go together.
        UnknownNameError: there is no distortion or no attack of a name.
    """

    victims: list[VictimChoice | Victim | str | dict[str, Any]]
    attacks: dict[str, dict[str, Any]]
    data: ClipSource | Synthetic
    distortions: list[str | dict[str, Any] | Distortion] = dataclasses.field(default_factory=lambda: ["gaussian_noise"])
    max_clips: int | None = None
    seed: int = 0
    budget: int = 500
    budgets: list[int] = dataclasses.field(default_factory=lambda: list(metrics.BUDGETS))
    coherence: Coherence = "static"
    grid: TubeletGrid | None = None
    search_cell: int | None = None
    goal: Literal["untargeted", "targeted", "runner_up"] = "untargeted"
    labels: Literal["prediction", "dataset"] = "prediction"
    reference: str | None = None
    controls: list[str] | None = None
    clips_at_once: int = 8
    slow_metrics: bool = False
    keep_clips: bool = False
    training: str | Path | None = None
    device: str = "auto"
    out: str | Path = "outputs/benchmark"

    def __post_init__(self) -> None:
        if not self.victims or not self.attacks or not self.distortions:
            raise ValueError("Benchmark: expected at least one victim, one distortion and one attack.")
        for name in ("clips_at_once", "budget", "max_clips"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Benchmark: {name} must be at least 1, got {value}.")
        if not self.budgets or min(self.budgets) < 1:
            raise ValueError(f"Benchmark: budgets must be at least one, each 1 or more, got {self.budgets}.")
        for label in (self.reference, *(self.controls or ())):
            if label is not None and label not in self.attacks:
                raise UnknownNameError("attack of the benchmark", label, self.attacks)
        _distinct("victims", "label", [label_of(victim) for victim in self.choices])
        _distinct("distortions", "name", [name for name, _ in self.named_distortions()])
        for label, described in self.attacks.items():
            if unknown := set(described) - {"class_path", "init_args", "untrained"}:
                raise ValueError(
                    f"Benchmark: the attack {label!r} has {sorted(unknown)}; an attack may have class_path, init_args"
                    " and untrained. Trained agents are in its init_args, as agents."
                )
        if self.goal != "untargeted" and self.labels == "dataset":
            raise ValueError(
                "Benchmark: targets are chosen apart from the clean prediction, so labels must be 'prediction'."
            )

    @property
    def choices(self) -> list[VictimChoice | Victim]:
        """The victims, those that are named by no more than a name or a description included."""
        return [_choice(victim) for victim in self.victims]

    @property
    def points(self) -> list[int]:
        """The query budgets of the tables: none above what the attacks have, and that one too."""
        return sorted({min(budget, self.budget) for budget in (*self.budgets, self.budget)})

    @property
    def reference_attack(self) -> str:
        """The attack that the others are compared with."""
        return self.reference or next(iter(self.attacks))

    def named_distortions(self) -> list[tuple[str, Distortion]]:
        """The distortions, and their names in the tables."""
        named = []
        for thing in self.distortions:
            if isinstance(thing, Distortion | str):
                distortion = as_distortion(thing)
                named.append((_name_of(distortion), distortion))
            else:
                distortion = as_distortion({key: value for key, value in thing.items() if key != "name"})
                named.append((thing.get("name") or _name_of(distortion), distortion))
        return named


def label_of(victim: VictimChoice | Victim) -> str:
    """What a victim is called in the tables, as far as this is known before it is loaded."""
    if isinstance(victim, VictimChoice):
        name = victim.name if isinstance(victim.name, str) else str(victim.name.get("class_path"))
        return victim.label or (name if ships(name) else last_name(name))
    return str(victim.name)


def _choice(victim: VictimChoice | Victim | str | dict[str, Any]) -> VictimChoice | Victim:
    """A victim of a benchmark, from whatever names one."""
    if isinstance(victim, dict) and "class_path" not in victim:
        return call(VictimChoice, "Benchmark: a victim", **victim)  # type: ignore[no-any-return]
    return VictimChoice(victim) if isinstance(victim, str | dict) else victim


def _name_of(distortion: Distortion) -> str:
    """The name of its file, or of the function or class of a user's own."""
    own = isinstance(distortion, FunctionDistortion)
    path = distortion.settings()["function"] if own else DISTORTIONS.name_of(distortion)
    return str(path).rpartition(".")[2]


def _distinct(what: str, key: str, labels: Sequence[str]) -> None:
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"Benchmark: two of the {what} are called {twice[0]!r}. Give each a {key} of its own.")


def agents_and_controls(agents: Agents | str | Path) -> dict[str, dict[str, Any]]:
    """The attacks of the usual comparison: trained agents, the same team untrained, and the attacks
    without learning.

    Args:
        agents: a name, a file or the agents themselves.
    """
    init_args = {"agents": agents}
    return {
        "rl": {"init_args": init_args},
        "rl_untrained": {"class_path": "rl", "init_args": init_args, "untrained": True},
        **{name: {} for name in CONTROLS},
    }


def read_shard(text: str) -> tuple[int, int]:
    """`(k, n)` of "k/n".

    Raises:
        ValueError: it is something else, or k is not below n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise ValueError(f"Benchmark: expected a shard K/N with 0 <= K < N, such as 0/2 and 1/2, got {text!r}.")
    return int(found[1]), int(found[2])

"""Damaged results, trials, agents and checkpoints: what loads is what was saved."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidmarl import AttackResult, RandomCells, Victim, load_agents
from vidmarl.agents.checkpoint import pack_agents, save_agents
from vidmarl.agents.networks import Agents, AgentsConfig
from vidmarl.benchmark import runner
from vidmarl.benchmark.trials import SUFFIX, Trials, Wanted, save_trials
from vidmarl.data.synthetic import make_clips
from vidmarl.training.checkpoints import SETTINGS, read_checkpoint
from vidmarl.utils.files import save_tensors

from .damage import damage_folder
from .kinds import Kind, Wrong

_CLIPS = 3


class Saved(Kind):
    """A folder that was saved; `load` reads all of it."""

    def __init__(self) -> None:
        self._loaded: dict[Path, Any] = {}

    def draw(self, rng: random.Random, originals: Path, case: Path) -> str:
        shutil.copytree(originals, case, dirs_exist_ok=True)
        return damage_folder(case, rng)

    def check(self, rng: random.Random, originals: Path, case: Path) -> None:
        if originals not in self._loaded:
            self._loaded[originals] = self.load(originals)
        if different := _difference(self._loaded[originals], self.load(case)):
            raise Wrong(f"it loads, but with another {different}")

    @abstractmethod
    def load(self, folder: Path) -> Any:
        """What was saved, as plain data and tensors."""

    def is_clear(self, error: Exception, case: Path) -> bool:
        missing = isinstance(error, FileNotFoundError) and "there is no" in str(error) and str(case) in str(error)
        return missing or super().is_clear(error, case)


class Results(Saved):
    """A result of an attack, with its videos."""

    def make(self, originals: Path) -> None:
        _result().save(originals / "result", videos=True)

    def load(self, folder: Path) -> Any:
        return vars(AttackResult.load(folder / "result"))


class TrialFiles(Saved):
    """Trials of a benchmark, and the settings beside them."""

    def make(self, originals: Path) -> None:
        result = _result()
        text = json.dumps({"format": runner.FORMAT, "attack": "random_cells", "budget": 12})
        folder = originals / "trials" / "demo" / "noise" / f"random-{runner.short_hash(text.encode())}"
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text(text + "\n")
        paths = [folder / f"{i}{SUFFIX}" for i in range(_CLIPS)]
        save_trials(paths, result, [{"clip": str(i)} for i in range(_CLIPS)], Wanted(keep_clips=True))

    def load(self, folder: Path) -> Any:
        runner._check_settings(folder)
        (made,) = folder.glob("trials/*/*/*")
        trials = Trials.load([made / f"{i}{SUFFIX}" for i in range(_CLIPS)], {})
        return vars(trials) | {"paths": len(trials.paths), "result": vars(trials.to_result())}


class AgentFiles(Saved):
    """A file of `save_agents`."""

    def make(self, originals: Path) -> None:
        save_agents(originals / "agents.pt", _agents())

    def load(self, folder: Path) -> Any:
        agents = load_agents(folder / "agents.pt")
        return [dataclasses.asdict(agents.config), agents.trained, dict(agents.state_dict())]


class Checkpoints(Saved):
    """A checkpoint of `vidmarl fit`."""

    def make(self, originals: Path) -> None:
        agents = _agents()
        state = {f"agents.{name}": value for name, value in agents.state_dict().items()}
        optimizer = {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.rand(99)}},
            "param_groups": [{"lr": 1e-3}],
        }
        content = {"epoch": 3, "global_step": 12, "state_dict": state, "optimizer_states": [optimizer]}
        content |= {"vidmarl": pack_agents(agents), SETTINGS: {"eval_budget": 12, "victim": {"name": "demo"}}}
        save_tensors(originals / "last.ckpt", content)

    def load(self, folder: Path) -> Any:
        load_agents(folder / "last.ckpt")
        return read_checkpoint(folder / "last.ckpt")


def _result() -> AttackResult:
    clips, _ = make_clips(_CLIPS, 0, frames=4, size=32)
    victim = Victim(lambda clips: 20 * clips.mean((2, 3, 4)), labels=["red", "green", "blue"], name="grey")
    return RandomCells(budget=12, progress=False)(victim, clips)


def _agents() -> Agents:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        agents = Agents(AgentsConfig(features=6, state=2, width=4))
    agents.trained = {"victim": "demo", "grid": [1, 16, 16], "training_queries": 12}
    return agents


def _difference(one: Any, other: Any, where: str = "") -> str:
    """Where two pieces of data differ first; "" if they do not."""
    if type(one) is not type(other):
        return where or "type"
    if isinstance(one, Tensor):
        alike = (
            one.shape == other.shape
            and one.dtype == other.dtype
            and torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))
        )
        return "" if alike else where
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return f"{where} (names)"
        return next((said for key in one if (said := _difference(one[key], other[key], f"{where}.{key}"))), "")
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{where} (length)"
        pairs = enumerate(zip(one, other, strict=True))
        return next((said for i, (a, b) in pairs if (said := _difference(a, b, f"{where}[{i}]"))), "")
    return "" if one == other else where

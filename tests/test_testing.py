"""The contracts of `vidmarl.testing`: everything that ships keeps them, what breaks a promise is
told so, and what is dropped in as one file is held to them without a change to a test."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidmarl.attacks
import vidmarl.distortions
import vidmarl.victims
from vidmarl import Attack, Victim
from vidmarl.attacks import list_attacks
from vidmarl.distortions import list_distortions
from vidmarl.distortions.base import Distortion
from vidmarl.perturbations.renderer import to_8bit
from vidmarl.queries.clip import ClipView
from vidmarl.queries.scheduler import Search
from vidmarl.queries.session import Session
from vidmarl.testing import check_attack, check_distortion, check_victim, drawn_clips, easy_clips

ROOT = Path(__file__).resolve().parent.parent


def families() -> list[ModuleType]:
    """The modules that know victims by name."""
    found = [
        importlib.import_module(f"vidmarl.victims.{m.name}") for m in pkgutil.iter_modules(vidmarl.victims.__path__)
    ]
    return [module for module in found if hasattr(module, "names") and hasattr(module, "load")]


# --- everything that ships ----------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("name", list_attacks())
def test_every_attack_keeps_its_promises(name: str) -> None:
    check_attack(name)


@pytest.mark.thorough
@pytest.mark.parametrize("name", list_distortions())
def test_every_distortion_keeps_its_promises(name: str) -> None:
    check_distortion(name)


@pytest.mark.thorough
@pytest.mark.parametrize("family", sorted({of.__name__.rpartition(".")[2] for of in families()} - {"transformers"}))
def test_every_family_of_victims_keeps_its_promises(family: str) -> None:
    module = importlib.import_module(f"vidmarl.victims.{family}")
    name = module.names()[0]
    spec = module.default_spec(name)
    frames, height, width = min(spec.frames or 8, 16), *(min(side, 112) for side in spec.size)  # time counts
    if family in ("convlstm", "lrcn"):  # which take clips of one size alone
        frames, height, width = spec.frames, *spec.size
    victim = vidmarl.load_victim(f"{family}/{name}", "random", spec={"frames": frames, "size": (height, width)})
    check_victim(victim, drawn_clips(2, frames, height, width))


# --- broken distortions are found out ------------------------------------------------------------


class Tint(Distortion):
    """A distortion that keeps its promises, from which the broken ones differ in one line."""

    def __init__(self, amount: float = 0.2) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        return clips + self.amount * strength


class Draws(Tint):
    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        return clips + strength * torch.rand_like(clips)


class WritesClips(Tint):
    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        clips += self.amount * strength
        return clips


class WritesState(Tint):
    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        state["noise"].mul_(2)
        return clips + strength * state["noise"]


class LooksAside(Tint):
    def prepare(self, clips: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return {"mean": clips.mean(0, keepdim=True).expand_as(clips)}

    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        return clips + strength * (state["mean"] + 0.1)


class OneForAll(Tint):
    def prepare(self, clips: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return {"mean": clips.mean()}


class DoesNothing(Tint):
    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        return clips + 1e-4 * strength


class ComesBack(Tint):
    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        return clips + strength * (1.2 - strength)


class OneWay(Tint):
    signed = True

    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        return clips + self.amount * strength.abs()


class FailsOnBlack(Tint):
    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        return clips + 0.1 * strength * clips / clips.amax((1, 2, 3, 4), keepdim=True)


class LosesColour(Tint):
    def forward(self, clips: Tensor, strength: Tensor, state: dict[str, Tensor]) -> Tensor:
        return clips[:, :1] + strength


class Forgets(Tint):
    def __init__(self, amount: float = 0.2) -> None:
        super().__init__(2 * amount)


class KeepsTensors(Tint):
    def __init__(self, amount: Any = None) -> None:
        super().__init__()
        self.amount = torch.tensor(0.2)


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (Draws, "the same strength gives the same clip"),
        (WritesClips, "not written to.*other values in clips"),
        (WritesState, "not written to.*noise"),
        (LooksAside, "does not depend on the clips beside it"),
        (OneForAll, "the clips on axis 0"),
        (DoesNothing, "strength 1 changes the clip"),
        (ComesBack, "no smaller change.*at strength"),
        (OneWay, "two directions"),
        (FailsOnBlack, r"finite clips of any size.*\[2, 3, 2, 16, 16\]"),
        (LosesColour, "of the shape that it was given"),
        (Forgets, "to_record makes the same distortion again"),
        (KeepsTensors, "to_record is plain data"),
    ],
)
def test_a_distortion_that_breaks_a_promise_is_told_so(broken: type[Distortion], promise: str) -> None:
    with pytest.raises(AssertionError, match=f"{broken.__name__} breaks a promise: .*{promise}"):
        check_distortion(broken())


def test_a_distortion_that_keeps_them_passes_whatever_it_is_made_of() -> None:
    check_distortion(Tint(0.3))
    check_distortion(lambda clips, strength, noise: clips + 0.1 * strength * noise)
    check_distortion("brightness", torch.rand(3, 3, 4, 20, 20) * 0.5)
    with pytest.raises(ValueError, match="at least two clips"):
        check_distortion("brightness", torch.rand(1, 3, 4, 20, 20))


# --- broken victims are found out ----------------------------------------------------------------


def bright(clips: Tensor) -> Tensor:
    """Scores by colour that keep every promise."""
    return 100 * clips.mean((2, 3, 4)) * torch.tensor([1.0, 1.1, 1.2])


class Stream(nn.Module):
    """Remembers the clip before."""

    def forward(self, clips: Tensor) -> Tensor:
        scores = bright(clips)
        return scores + 0.1 * scores.cumsum(0).roll(1, 0) * (torch.arange(len(clips)) > 0)[:, None]


class Uncounted(Victim):
    def __call__(self, clips: Tensor) -> Tensor:
        before = self.queries
        scores = super().__call__(clips)
        self.queries = before + 1
        return scores


class Writes(Victim):
    def __call__(self, clips: Tensor) -> Tensor:
        return super().__call__(clips.mul_(0.99))


def writes(clips: Tensor) -> Tensor:
    return bright(clips.mul_(0.99))


def test_a_model_may_write_to_what_it_is_given() -> None:
    check_victim(Victim(writes), drawn_clips())


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (Victim(lambda clips: bright(clips) + torch.randn(len(clips), 3), name="random"), "determinism"),
        (Victim(lambda clips: bright(clips * len(clips)), name="statistics"), "batch independence"),
        (Victim(Stream(), name="stream", batch_size=8), "order of the clips"),
        (Writes(bright, name="writes"), "not written to"),
        (Uncounted(bright, name="uncounted"), "every clip counts"),
    ],
    ids=lambda value: value.name if isinstance(value, Victim) else "",
)
def test_a_victim_that_breaks_a_promise_is_told_so(broken: Victim, promise: str) -> None:
    with pytest.raises(AssertionError, match=f"{broken.name}' breaks a promise: .*{promise}"):
        check_victim(broken, drawn_clips(3))


def test_a_victim_that_keeps_them_passes() -> None:
    check_victim(Victim(bright), drawn_clips(3))
    with pytest.raises(ValueError, match="at least two clips"):
        check_victim(Victim(bright), drawn_clips(1))


# --- broken attacks are found out ----------------------------------------------------------------


class Grows(Attack):
    """An attack that keeps its promises, from which the broken ones differ in a line or two."""

    def search(self, clip: ClipView) -> Search:
        order = torch.rand(clip.shape, generator=clip.rng)
        for share in torch.linspace(0.05, 1, 20).tolist():
            response = yield (order < share).float()
            if response.success:
                return


class Peeks(Grows):
    def search(self, clip: ClipView) -> Search:
        clip.victim(clip.pixels[None])
        yield from super().search(clip)


class DrawsFreely(Grows):
    def search(self, clip: ClipView) -> Search:
        for _ in range(20):
            yield (torch.rand(clip.shape) < 0.5).float()


class Remembers(Grows):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.calls = 0

    def search(self, clip: ClipView) -> Search:
        self.calls += 1
        strength = clip.zeros()
        strength.view(-1)[: self.calls] = 1
        yield strength
        yield from super().search(clip)


class LooksAtOthers(Grows):
    def search(self, clip: ClipView) -> Search:
        strength = clip.zeros()
        strength.view(-1)[clip.row % strength.numel()] = 1
        yield strength
        yield from super().search(clip)


class GivesUp(Grows):
    def search(self, clip: ClipView) -> Search:
        yield clip.zeros()


class ClaimsSuccess(Grows):
    def run(self, session: Session) -> Iterator[Tensor]:
        yield from super().run(session)
        session.fooled[0] = True
        session.best[0] = session.renderer.clips[0]


class WrongMap(Grows):
    def run(self, session: Session) -> Iterator[Tensor]:
        rows = session.rows
        clips = session.renderer.clips[rows]
        session.query_clips(1 - clips, rows, strength=session.renderer.zeros()[rows] + 0.5)
        yield rows


class Unrounded(Grows):
    def run(self, session: Session) -> Iterator[Tensor]:
        yield from super().run(session)
        session.best[session.fooled] += 1e-5


class DoesNotStop(Grows):
    def run(self, session: Session) -> Iterator[Tensor]:
        rows = session.rows
        for _ in range(min(9, session.budget - 1)):
            session.query(torch.ones_like(session.best_strength[rows]), rows)
        yield rows


class PlansForTheStop(Grows):
    def search(self, clip: ClipView) -> Search:
        if self.max_queries_after_success is not None:
            yield clip.zeros()
        yield from super().search(clip)


class AttacksAll(Grows):
    def run(self, session: Session) -> Iterator[Tensor]:
        if session.budget > 1:
            session.query(torch.ones_like(session.best_strength), torch.arange(len(session)))
        yield torch.arange(len(session))


class ChangesItself(Grows):
    def search(self, clip: ClipView) -> Search:
        self.seed += 1
        yield from super().search(clip)


class WritesToCaller(Grows):
    def __call__(self, victim: Victim, clips: Tensor, goal: Any = None) -> Any:
        return super().__call__(victim, clips.copy_(to_8bit(clips)), goal)


class KeepsObjects(Grows):
    where: Any = Path("/")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (Peeks, "the clips that reached the model"),
        (DrawsFreely, "the same seed gives the same result"),
        (Remembers, "the same seed gives the same result"),
        (LooksAtOthers, "does not depend on the clips beside it"),
        (GivesUp, "easy clips are fooled"),
        (ClaimsSuccess, "a success is one of the clip that is returned"),
        (WrongMap, "the strength map renders"),
        (Unrounded, "8-bit values"),
        (DoesNotStop, "max_queries_after_success=0"),
        (PlansForTheStop, "changes nothing up to the first success"),
        (AttacksAll, "from the start costs one query"),
        (ChangesItself, "does not change its settings"),
        (WritesToCaller, "clips of the caller"),
        (KeepsObjects, r"params\(\) is plain data"),
    ],
)
def test_an_attack_that_breaks_a_promise_is_told_so(broken: type[Attack], promise: str) -> None:
    with pytest.raises(AssertionError, match=f"{broken.__name__} breaks a promise: .*{promise}"):
        check_attack(broken("brightness"), budget=25)


@pytest.mark.thorough
def test_an_attack_that_keeps_them_passes() -> None:
    check_attack(Grows, budget=25)
    check_attack(Grows("brightness"), easy_clips()[:4], budget=25)
    with pytest.raises(ValueError, match="at least four clips"):
        check_attack(Grows, easy_clips()[:2])


# --- new files -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_new_files_pass_the_tests_of_all(tmp_path: Path) -> None:
    """The files that docs/extending.md shows, put into a copy of the package without any other
    change."""
    for name in ("vidmarl", "tests", "conf", "docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, tmp_path)
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    files = dict(re.findall(r"```python\n# (vidmarl/\S+\.py)\n(.*?)```", page, re.DOTALL))
    assert {Path(file).parent.name for file in files} == {"attacks", "data", "distortions", "metrics", "victims"}
    for file, content in files.items():
        assert not (tmp_path / file).exists()
        (tmp_path / file).write_text(content, "utf-8")
    names = [Path(file).stem for file in files]
    lists = ["out_of_range", "type_checkers", "layer", "public", "column", "table", "list"]  # may hold all names
    chosen = f"({' or '.join([*names, *lists])}) and not test_the_documentation_names_every_column"
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "tests"]
    command += ["-m", "not slow and not browser", "-k", chosen]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    code = f"""
import vidmarl
from vidmarl import metrics
assert vidmarl.__file__.startswith({str(tmp_path)!r})
assert "one_frame" in vidmarl.list_attacks() and "mist" in vidmarl.list_distortions()
assert "framewise" in vidmarl.list_victims() and "darker" in [column.name for column in metrics.columns()]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)

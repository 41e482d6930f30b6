"""Every attack, learned or not: `attack(victim, clips, goal) -> AttackResult`.

A new attack is a subclass that writes `search`, for one clip, as in a textbook.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.std import tqdm

from vidmarl.attacks.provenance import provenance
from vidmarl.attacks.result import AttackResult
from vidmarl.attacks.settings import Settings
from vidmarl.data.spec import validate_clips
from vidmarl.distortions import as_distortion
from vidmarl.distortions.base import Distortion
from vidmarl.errors import SettingsError
from vidmarl.metrics import visible_difference
from vidmarl.perturbations.grid import GridLike, TubeletGrid, as_grid
from vidmarl.perturbations.noise import Coherence
from vidmarl.perturbations.renderer import Renderer
from vidmarl.queries.clip import ClipView
from vidmarl.queries.goals import Classes, Goal, as_goal
from vidmarl.queries.progress import Progress
from vidmarl.queries.scheduler import Search, run_searches
from vidmarl.queries.session import Session
from vidmarl.registry import Registry
from vidmarl.utils import markup
from vidmarl.utils.kinds import check_least
from vidmarl.utils.precision import default_dtype
from vidmarl.utils.progress import progress_bar
from vidmarl.victims.victim import Victim

LOOKED_AT = 0.9
"""A success is looked at for `stop_at_jod` where it has at most this share of the size of the one
that was looked at before."""

DistortionLike = Distortion | str | Mapping[str, Any] | Callable[..., Any]
"""A distortion, or what names one, see `as_distortion`."""


class Attack(Settings):
    """An attack: its settings when it is made, the data when it is called.

    A subclass declares its own settings as annotated attributes with defaults, and checks them in
    `__post_init__`.

    Args:
        distortion: what is done to the clip: a `Distortion`, its name ("gaussian_noise"), class
            path and init_args, or a function `f(clips, strength, noise) -> clips`.
        budget: queries per clip, the clean prediction included.
        grid: the tubelets, see `as_grid`.
        search_cell: width and height, in tubelets, of the cells that the search works with. The
            minimization goes on down to single tubelets.
        coherence: how random patterns go on in time: "static", "flow" or "free".
        max_queries_after_success: queries that may be spent on a clip after its first success, on
            making it smaller. None: as many as the attack would spend. 0: it stops at the first
            success.
        stop_at_jod: a clip is done once its smallest success has at least this quality in JOD
            (`vidmarl.metrics.visible_difference`, extra `perceptual`): 10 is the clip itself, and
            of 9 three people in four see that it is worse. It costs no queries, but up to a second
            whenever a success has become a tenth smaller. None: it goes by queries alone.
        seed: of the distortion's and the attack's randomness. The same seed gives the same result
            for a clip, whichever clips share its batch.
        clips_at_once: clips that are attacked side by side; bounds the memory.
        progress: whether to show a progress bar.

    Raises:
        SettingsError: a setting is of another type.
        ValueError: a setting is out of its range.
    """

    distortion: DistortionLike = dataclasses.field(default="gaussian_noise", kw_only=False)
    budget: int = 200
    grid: GridLike = TubeletGrid()
    search_cell: int = 1
    coherence: Coherence = "static"
    max_queries_after_success: int | None = None
    stop_at_jod: float | None = None
    seed: int = 0
    clips_at_once: int = 64
    progress: bool = True

    batch_independent: ClassVar[bool] = True
    """Whether the result of a clip depends on that clip alone, whatever is attacked beside it."""

    needs_scores: ClassVar[bool] = False
    """Whether it goes by how far a victim is from its goal, and so is lost where the victim says
    nothing but a class, see `Victim.decisions_only`."""

    def __post_init__(self) -> None:
        self.check_kinds()
        self.distortion = as_distortion(self.distortion)
        self.grid = as_grid(self.grid)
        self.grid.coarser(self.search_cell)  # checks it
        if self.coherence not in get_args(Coherence):
            raise ValueError(
                f"{type(self).__name__}: coherence must be 'static', 'flow' or 'free', got {self.coherence!r}."
            )
        after = self.max_queries_after_success
        check_least(
            type(self).__name__,
            budget=(self.budget, 1),
            clips_at_once=(self.clips_at_once, 1),
            max_queries_after_success=(0 if after is None else after, 0),
        )
        best = visible_difference.OF_EQUAL
        if self.stop_at_jod is not None and not self.stop_at_jod <= best:
            raise ValueError(
                f"{type(self).__name__}: stop_at_jod must be at most {best:g}, the quality of a clip that nothing was"
                f" done to, got {self.stop_at_jod}."
            )

    def __call__(
        self,
        victim: Victim,
        clips: Float[Tensor, "b 3 t h w"],
        goal: Goal | Classes | None = None,
        *,
        on_query: Callable[[Progress], object] | None = None,
    ) -> AttackResult:
        """Attacks every clip.

        Nothing that was found is lost: whatever is raised while the attack runs carries it as
        `error.result`, an `AttackResult` that is not `complete`, or None where nothing was found
        yet. At Python's prompt and in a notebook, Ctrl-C (the stop button) gives that result back
        with a warning instead of raising, as Lightning's Trainer returns from Ctrl-C. Scripts have
        to stop at it, so elsewhere it is raised; and so is an error of the victim's everywhere,
        since nothing but the error says that the result is short.

        Args:
            victim: who is attacked.
            clips: float[b 3 t h w] in [0, 1]; rounded to 8 bits before anything else.
            goal: `Misclassify(labels)`, for which the bare labels will do, or `Target(classes)`: a
                class for each clip, or one for all of them, by index or name. None: away from the
                clean prediction.
            on_query: is told where the attack stands after each batch of queries, the clean
                predictions included. What it raises ends the attack.

        Raises:
            ClipError: the clips have another shape, dtype or range.
            UnknownNameError: the victim has no class of a name.
            ValueError, TypeError: the goal does not fit the clips or the victim, or is none.
            VictimError: the victim raised or gave unusable scores.
        """
        parts: list[AttackResult] = []
        gradients = torch.is_grad_enabled()
        try:
            clips, goal = self._checked(victim, clips, goal)
            starts = range(0, len(clips), self.clips_at_once)
            some = [slice(start, start + self.clips_at_once) for start in starts]
            pairs = ((clips[rows], None if goal is None else goal[rows]) for rows in some)
            for part in self.batches(victim, pairs, len(clips), on_query):
                parts.append(part)
            return AttackResult.cat(parts)
        except BaseException as error:
            torch.set_grad_enabled(gradients)  # Ctrl-C at the end of a victim's `no_grad` leaves them off
            if isinstance(of_batch := getattr(error, "result", None), AttackResult):
                parts.append(of_batch)
            result = None
            if parts:
                result = AttackResult.cat(parts)
                result = dataclasses.replace(result, missing=len(clips) - len(result))
            hand_over(error, result)
            if result is not None and isinstance(error, KeyboardInterrupt) and called_at_a_prompt():
                warnings.warn(f"Interrupted: this is what has been found so far, {result!r}.", stacklevel=2)
                return result
            raise

    def batches(
        self,
        victim: Victim,
        pairs: Iterable[tuple[Float[Tensor, "b 3 t h w"], Goal | Classes | None]],
        total: int | None = None,
        on_query: Callable[[Progress], object] | None = None,
    ) -> Iterator[AttackResult]:
        """Attacks batches of clips one after the other, each when its result is asked for, with one
        progress bar: for clips that come and results that go as a stream.

        Args:
            victim: who is attacked.
            pairs: the clips of a batch, attacked side by side, and their goal, see `__call__`.
            total: how many clips there are in all, for the progress bar; None: nobody knows.
            on_query: see `__call__`.

        Yields:
            The result of each batch.

        Raises:
            ClipError, ValueError, VictimError: see `__call__`. What is raised while a batch is
                attacked carries the result of that batch as `error.result`.
        """
        queries = None if total is None else total * self.budget
        origin: dict[str, Any] = {}
        with progress_bar(total=queries, unit="query", desc=type(self).__name__, show=self.progress) as bar:
            watch = _Watch(bar, on_query)
            for clips, goal in pairs:
                checked = self._checked(victim, clips, goal)
                origin = origin or provenance(victim, self.networks(), clips.device)
                yield self._attack_batch(victim, *checked, origin, watch)

    def _checked(self, victim: Victim, clips: Tensor, goal: Goal | Classes | None) -> tuple[Tensor, Goal | None]:
        """The clips without gradients, and a class for each of them. Raises an error where the two
        cannot be attacked."""
        if not isinstance(victim, Victim):
            raise TypeError(
                f"Attacking: expected a vidmarl.Victim, got {type(victim).__name__}. Wrap it: Victim(model)."
            )
        self.check_victim(victim)
        validate_clips(clips, f"attacking with {type(self).__name__}")
        if self.stop_at_jod is not None and visible_difference.jod(clips[:1], clips[:1]) is None:
            raise SettingsError("Attacking: stop_at_jod needs ColorVideoVDP: pip install 'vidmarl[perceptual]'.")
        return clips.detach(), None if goal is None else as_goal(goal, victim, len(clips))

    def check_victim(self, victim: Victim) -> None:
        """Raises a SettingsError where the victim says less than this attack goes by."""
        if self.needs_scores and victim.decisions_only:
            others = ", ".join(name for name, kind in ATTACKS.classes().items() if not kind.needs_scores)
            raise SettingsError(
                f"Attacking: {type(self).__name__} goes by scores, and the victim {victim.name!r} says nothing but a"
                f" class (outputs={victim.outputs!r}). By decisions alone go {others}."
            )

    @default_dtype(torch.float32)
    def _attack_batch(
        self,
        victim: Victim,
        clips: Tensor,
        goal: Goal | None,
        origin: dict[str, Any],
        watch: _Watch,
    ) -> AttackResult:
        """Attacks clips side by side."""
        session = None
        try:
            session = self._open(victim, clips.to(victim.device or clips.device), goal)
            watch.asked(session, torch.arange(len(session)))
            sizes = torch.full_like(session.best_l2, torch.inf)
            for asked in self.run(session):
                watch.asked(session, asked)
                if self.max_queries_after_success is not None:
                    session.finish_after_success(self.max_queries_after_success)
                if self.stop_at_jod is not None:
                    session.finish(_unseen(session, asked, sizes, self.stop_at_jod))
            session.finish(torch.arange(len(session)))
            watch.ended(session)
            return AttackResult.from_session(session, self.params(), origin)
        except BaseException as error:
            result = None
            if session is not None:
                with contextlib.suppress(Exception):  # a device that has failed gives nothing back
                    result = AttackResult.from_session(session, self.params(), origin)
            hand_over(error, result)
            raise

    def _open(self, victim: Victim, clips: Tensor, goal: Goal | None) -> Session:
        """The books of some clips; asks for their clean predictions."""
        distortion = as_distortion(self.distortion)
        renderer = Renderer(clips, distortion, as_grid(self.grid), self.coherence, self.seed, self.search_cell)
        return Session(victim, renderer, goal, self.budget, self.seed)

    def run(self, session: Session) -> Iterator[Tensor]:
        """Attacks the active clips of a session; yields the rows asked, once a batch of queries.

        By default it runs `search` on each of them. A clip may be finished between two batches;
        then its search is not resumed.
        """
        yield from run_searches(session, self.search)

    def search(self, clip: ClipView) -> Search:
        """The search on one clip: yields strength maps, is sent a `Response` for each.

        It ends when it has nothing more to ask. The budget, the batch and the progress bar are not
        its business: when the budget is spent it is not resumed.
        """
        raise TypeError(f"{type(self).__name__} has neither `run` nor `search`.")

    def networks(self) -> dict[str, nn.Module]:
        """The networks that it works with, by the name of the setting."""
        return {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, nn.Module) and not isinstance(value, Distortion)
        }

    def _repr_html_(self) -> str:
        """What it does and how it is set, for notebooks."""
        does, _, _ = (inspect.getdoc(self) or "").partition("\n\n")
        told = self.params() | {"distortion": self.distortion, "grid": self.grid}
        return markup.facts(type(self).__name__, {name: told[name] for name in told if name != "attack"}, does)

    def params(self) -> dict[str, Any]:
        """The settings as plain data, but for those that change no result."""
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("clips_at_once", "progress")
        }
        settings["distortion"] = as_distortion(self.distortion).to_record()
        settings["grid"] = list(dataclasses.astuple(as_grid(self.grid)))
        return {"attack": type(self).__name__, **settings}


ATTACKS = Registry(
    "attack",
    Attack,
    __name__.rpartition(".")[0],
    shared=("base", "identity", "parts", "plots", "provenance", "result", "saved", "settings"),
)
"""All attacks by name."""


def _unseen(session: Session, rows: Tensor, sizes: Tensor, quality: float) -> Tensor:
    """Of clips that have been asked about, those whose smallest success has a quality of at least
    so many JOD.

    Args:
        session: the books of the attack.
        rows: the clips, int64[n].
        sizes: of the successes that were looked at last, float[b]; brought up to date.
        quality: in JOD.
    """
    rows = rows.to(sizes.device)
    rows = rows[session.fooled[rows] & (session.best_l2[rows] <= LOOKED_AT * sizes[rows])]
    if len(rows) == 0:
        return rows
    sizes[rows] = session.best_l2[rows]
    seen = visible_difference.jod(session.renderer.clips[rows], session.best[rows])
    assert seen is not None  # it is installed, see `Attack._checked`
    return rows[seen >= quality]


class _Watch:
    """Those who watch an attack: its progress bar, and `on_query` of `Attack.__call__`.

    Args:
        bar: counts queries, and in the end those not needed.
        on_query: is told of each batch of queries.

    Raises:
        SettingsError: `on_query` is no function.
    """

    def __init__(self, bar: tqdm, on_query: Callable[[Progress], object] | None) -> None:
        if on_query is not None and not callable(on_query):
            raise SettingsError(f"Attacking: on_query must be a function, or None, got {type(on_query).__name__}.")
        self._bar = bar
        self._on_query = on_query
        self._before: Progress | None = None
        self._due = 0.0
        self._shown = 0  # queries of the batch at work

    def asked(self, session: Session, rows: Tensor) -> None:
        """Queries about these rows of a session have been answered."""
        is_due = not self._bar.disable and time.monotonic() >= self._due
        if is_due or self._on_query is not None:
            progress = Progress.of(session, rows, self._before)
        if is_due:
            self._bar.set_postfix_str(str(progress), refresh=False)
            self._due = time.monotonic() + self._bar.mininterval
        self._bar.update(int(session.queries.sum()) - self._shown)
        self._shown = int(session.queries.sum())
        if self._on_query is not None:
            self._on_query(progress)

    def ended(self, session: Session) -> None:
        """A batch of clips is done; another one may follow."""
        done = Progress.of(session, torch.arange(0), self._before)
        self._before = dataclasses.replace(done, session=None)  # whose clips need not stay in the memory
        self._bar.set_postfix_str(str(self._before), refresh=False)
        self._bar.update(int(session.query_budget.left.sum()))
        self._shown = 0


_FOUND = "What was found by then is this exception's `result`, at a prompt and in a notebook `sys.last_value.result`."


def hand_over(error: BaseException, result: object) -> None:
    """Lets an exception carry what had been found when it was raised; None: nothing."""
    with contextlib.suppress(AttributeError):  # a class of the victim's may have no room for it
        error.result = result  # type: ignore[attr-defined]
        if result is not None and _FOUND not in getattr(error, "__notes__", ()):
            error.add_note(_FOUND)


def called_at_a_prompt() -> bool:
    """Whether the function that asks was called at Python's prompt or in a cell of a notebook.

    Ctrl-C leads back there anyway, and what was found is worth more than a traceback. A script
    stops at Ctrl-C, and code of a library has to learn of it, even in a notebook.
    """
    return hasattr(sys, "ps1") and sys._getframe(2).f_globals.get("__name__") == "__main__"

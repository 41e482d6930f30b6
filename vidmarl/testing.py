"""Contracts for your own attacks, distortions and victims.

Each check tries a thing out on small clips and raises an `AssertionError` that says which promise
is broken, what was seen, and how to mend it. In a test of your own:

    from vidmarl.testing import check_attack

    def test_my_attack():
        check_attack(MyAttack())

Everything that ships with vidmarl is held to the same checks.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.attacks import as_attack
from vidmarl.attacks.base import Attack, DistortionLike
from vidmarl.attacks.result import AttackResult
from vidmarl.data.spec import validate_clips
from vidmarl.distortions import as_distortion
from vidmarl.distortions.base import Distortion, FunctionDistortion, State
from vidmarl.perturbations.grid import TubeletGrid, as_grid
from vidmarl.perturbations.noise import clip_seeds, draw_noise
from vidmarl.perturbations.renderer import Renderer, to_8bit
from vidmarl.queries.goals import Goal, Misclassify, Target
from vidmarl.queries.session import Response, Session
from vidmarl.victims.victim import Victim

ODD_SHAPES = ((1, 3, 1, 5, 7), (2, 3, 5, 17, 16))
"""Clips smaller than a tubelet, and clips that tubelets do not divide."""


def drawn_clips(b: int = 2, t: int = 6, h: int = 28, w: int = 36) -> Float[Tensor, "b 3 t h w"]:
    """Smooth coloured waves that move, each clip in another way, all values well inside [0, 1]."""
    time, y, x = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
    waves = [
        0.5 + 0.25 * torch.sin(0.5 * x + (1 + n) * time + c) * torch.cos(0.7 * y - time + n)
        for n in range(b)
        for c in range(3)
    ]
    return torch.stack(waves).view(b, 3, t, h, w).float()


# Distortions


def check_distortion(distortion: DistortionLike, clips: Float[Tensor, "b 3 t h w"] | None = None) -> None:
    """Checks what every distortion promises.

    - Strength 0 is the clean clip, bit by bit. Strength 1 changes it, and more strength is no
      smaller change. A signed distortion does something else in the other direction.
    - Clips keep their shape, stay finite, and hold 8-bit values in [0, 1]: also black ones, white
      ones, and ones smaller than a tubelet.
    - It is deterministic: all randomness comes from the noise that `prepare` is given.
    - A clip does not depend on the clips beside it, and `prepare` has the clips on axis 0.
    - What it is given is not written to.
    - `to_record` is plain data that makes the same distortion again.

    Args:
        distortion: a `Distortion`, what names one, or a function `f(clips, strength, noise)`.
        clips: float[b 3 t h w] in [0, 1], at least two; None: small drawn ones.

    Raises:
        AssertionError: a promise is broken.
    """
    made = as_distortion(distortion)
    clips = drawn_clips() if clips is None else clips
    validate_clips(clips, "checking a distortion")
    if len(clips) < 2:
        raise ValueError(f"Checking a distortion: expected at least two clips, got {len(clips)}.")
    who = f"The distortion {type(made).__name__}" if distortion is made else f"The distortion {distortion!r}"
    noise = draw_noise(clips, "static", clip_seeds(to_8bit(clips.float()), 0))
    try:
        _check_state(who, made, clips, noise)
    except AssertionError:
        raise
    except Exception as error:
        raise _raised(who, "it takes and gives finite clips of any size", clips, error) from error
    _check_strengths(who, made, clips)
    _check_repeats(who, made, clips)
    _check_record(who, made, clips)
    for odd in (
        *(torch.rand(shape, generator=torch.Generator().manual_seed(0)) for shape in ODD_SHAPES),
        torch.stack([torch.zeros(3, 2, 16, 16), torch.ones(3, 2, 16, 16)]),
    ):
        _render(who, _renderer(who, made, odd), 1.0)


def _check_state(who: str, distortion: Distortion, clips: Tensor, noise: Tensor) -> None:
    """What `prepare` and `forward` promise when they are called directly."""
    given = {"clips": clips.clone(), "noise": noise.clone()}
    with torch.no_grad():
        state = distortion.prepare(given["clips"], given["noise"])
        wrong = {key: tuple(value.shape) for key, value in state.items() if value.ndim < 1 or len(value) != len(clips)}
        _promise(
            not wrong,
            who,
            "every tensor of prepare's result has the clips on axis 0",
            f"for {len(clips)} clips the shapes {wrong}",
            "reduce over the other axes with keepdim=True; what does not depend on the clip belongs in __init__",
        )
        kept: State = {key: value.clone() for key, value in state.items()}
        strength = torch.rand(len(clips), 1, *clips.shape[-3:], generator=torch.Generator().manual_seed(1))
        given |= {"strength": strength.clone()}
        out = distortion(given["clips"], given["strength"], state)
    before: State = {"clips": clips, "noise": noise, "strength": strength}
    changed = [name for name, value in before.items() if not torch.equal(given[name], value)]
    changed += [f"state[{key!r}]" for key, value in kept.items() if not torch.equal(state[key], value)]
    _promise(
        not changed,
        who,
        "what it is given is not written to",
        f"other values in {', '.join(changed)} after the call",
        "work on a copy: `clips + x` in place of `clips += x`",
    )
    _promise(
        isinstance(out, Tensor) and out.shape == clips.shape and bool(out.isfinite().all()),
        who,
        "forward gives finite clips of the shape that it was given",
        f"{tuple(out.shape)} for {tuple(clips.shape)}, {int((~out.isfinite()).sum())} values not finite"
        if isinstance(out, Tensor)
        else repr(type(out)),
        "guard divisions (`/ x.clamp_min(1e-6)`), and keep the axes [n 3 t h w]",
    )


def _check_strengths(who: str, distortion: Distortion, clips: Tensor) -> None:
    """Nothing at 0, something at 1, and no less in between."""
    renderer = _renderer(who, distortion, clips)
    _promise(
        torch.equal(_render(who, renderer, 0.0), to_8bit(clips.float())),
        who,
        "strength 0 is the clean clip, bit by bit",
        "another clip",
        "make the result equal to the clip where strength is 0",
    )
    for sign in (1.0, -1.0) if distortion.signed else (1.0,):
        sizes = torch.stack([_sizes(who, renderer, sign * s) for s in torch.linspace(0, 1, 9).tolist()])
        _promise(
            bool((sizes[-1] > 0).all()),
            who,
            f"strength {sign:g} changes the clip",
            f"clips {(sizes[-1] == 0).nonzero().flatten().tolist()} as they were, in 8 bits",
            "let strength 1 be a change of at least 1/255; only a setting may make it nothing",
        )
        falls = (sizes[1:] < 0.98 * sizes[:-1]).any(1).nonzero().flatten().tolist()
        _promise(
            not falls,
            who,
            "more strength is no smaller change",
            f"a smaller L2 norm at strength {[sign * (k + 1) / 8 for k in falls]} than an eighth before",
            "let the change grow with strength: clips + strength * change",
        )
    if distortion.signed:
        _promise(
            not torch.equal(_render(who, renderer, 1.0), _render(who, renderer, -1.0)),
            who,
            "a signed distortion has two directions",
            "the same clip at strength 1 and at strength -1",
            "leave out `signed = True` where the sign of the strength has no meaning",
        )


def _check_repeats(who: str, distortion: Distortion, clips: Tensor) -> None:
    """The same clip again, whatever the global generator, and whichever clips stand beside it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = _render(who, _renderer(who, distortion, clips), 0.9)
        torch.manual_seed(1)
        again = _render(who, _renderer(who, distortion, clips), 0.9)
    _promise(
        torch.equal(first, again),
        who,
        "the same strength gives the same clip",
        "another clip in the second run",
        "draw nothing in forward: take all randomness from the noise that prepare is given (`uniforms`)",
    )
    alone = _render(who, _renderer(who, distortion, clips[1:2]), 0.9)
    swapped = _render(who, _renderer(who, distortion, clips.flip(0)), 0.9).flip(0)
    _promise(
        torch.equal(alone[0], first[1]) and torch.equal(swapped, first),
        who,
        "a clip does not depend on the clips beside it",
        "another clip when it is distorted alone, or in another order",
        "reduce over the axes of one clip only, never over axis 0",
    )


def _check_record(who: str, distortion: Distortion, clips: Tensor) -> None:
    """`to_record` is plain, and makes the same distortion again where it has a path."""
    record = distortion.to_record()
    _promise(
        _is_plain(record),
        who,
        "to_record is plain data",
        repr(record),
        "keep each argument of __init__ as an attribute of the same name, as a number, text, list or dict",
    )
    function = record["init_args"]["function"] if isinstance(distortion, FunctionDistortion) else ""
    if "<" in record["class_path"] + function:  # a lambda, or defined inside a function: nothing to find it by
        return
    try:
        again = as_distortion(record)
    except Exception as error:
        raise AssertionError(
            f"{who} breaks a promise: to_record makes the same distortion again. Expected one from {record}, got"
            f" {type(error).__name__}: {error} To mend it: define it at the top of a module that can be imported."
        ) from error
    same = again.to_record() == record
    _promise(
        same
        and torch.equal(
            _render(who, _renderer(who, again, clips), 0.9), _render(who, _renderer(who, distortion, clips), 0.9)
        ),
        who,
        "to_record makes the same distortion again",
        "other clips from the same record" if same else f"{again.to_record()} after {record}",
        "keep each argument of __init__ unchanged as an attribute of the same name",
    )


def _renderer(who: str, distortion: Distortion, clips: Tensor) -> Renderer:
    try:
        return Renderer(clips, distortion, TubeletGrid(2, 8, 8), coherence="free")
    except Exception as error:
        raise _raised(who, "it takes and gives finite clips of any size", clips, error) from error


def _render(who: str, renderer: Renderer, strength: float) -> Tensor:
    try:
        return renderer.render(torch.full_like(renderer.zeros(), strength))
    except Exception as error:
        raise _raised(who, "forward gives finite clips of any size", renderer.clips, error) from error


def _sizes(who: str, renderer: Renderer, strength: float) -> Tensor:
    """The L2 norm of the change of each clip."""
    change = _render(who, renderer, strength) - renderer.clips
    sizes: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
    return sizes


# Victims


def check_victim(victim: Victim, clips: Float[Tensor, "b 3 t h w"]) -> None:
    """Checks what every victim promises. Whether it is right about the clips is not looked at.

    - Scores are log-probabilities float32[b k], finite, and as many as there are labels.
    - The same clips get the same scores, whichever clips stand beside them, and in any order.
    - Every clip counts as a query. The clips are not written to.
    - The model is in eval mode, and gets clips of the size that its spec says.

    Args:
        victim: the victim.
        clips: float[b 3 t h w] in [0, 1], at least two, as an attack will get them.

    Raises:
        AssertionError: a promise is broken.
        VictimError: the model cannot be asked at all.
    """
    if len(clips) < 2:
        raise ValueError(f"Checking a victim: expected at least two clips, got {len(clips)}.")
    who = f"The victim {victim.name!r}"
    before, clean = victim.queries, clips.clone()
    scores = victim(clips)
    _promise(
        victim.queries - before == len(clips),
        who,
        "every clip counts as a query",
        f"{victim.queries - before} queries counted for {len(clips)} clips",
        "leave the counting to Victim.__call__; do not override it",
    )
    _promise(
        torch.equal(clips, clean),
        who,
        "the clips are not written to",
        "other values in the clips after the call",
        "let __call__ work on a copy: `x = x - mean` in place of `x -= mean`",
    )
    _promise(
        scores.ndim == 2
        and len(scores) == len(clips)
        and scores.dtype == torch.float32
        and torch.allclose(scores.exp().sum(1), torch.ones(len(clips), device=scores.device), atol=1e-3),
        who,
        "scores are log-probabilities float32[b k]",
        f"{scores.dtype}{list(scores.shape)} whose exponentials sum to {scores.exp().sum(-1).tolist()}",
        "say what the model returns with outputs='logits' or 'probabilities'",
    )
    _promise(
        victim.labels is None or len(victim.labels) == scores.shape[1],
        who,
        "there is a label for every class",
        f"{len(victim.labels or ())} labels for {scores.shape[1]} classes",
        "give one label for each score, in their order, or none",
    )
    for finding in victim.check(clips):
        _promise(
            finding.ok or finding.check in ("confidence", "dependence"),  # weights are not the contract's business
            who,
            f"it is fit for an attack ({finding.check})",
            finding.detail,
            "see Victim.check",
        )
    drift = float((victim(clips.flip(0)).flip(0) - scores).abs().amax())
    _promise(
        drift < 1e-2,
        who,
        "scores do not depend on the order of the clips",
        f"a difference of {drift:.2g} nats",
        "look for state that is kept from one clip to the next, such as the buffers of a stream",
    )


# Attacks


class _Cells(nn.Module):
    """Scores of four classes, linear in the means of 3 x 4 x 4 cells, and a count of the clips.

    In double precision, so that a clip's scores do not depend on its batch.
    """

    def __init__(self, scale: float = 8.0) -> None:
        super().__init__()
        weights = torch.randn(3 * 3 * 4 * 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.weights = nn.Parameter(scale * weights)
        self.seen = 0

    def forward(self, clips: Tensor) -> Tensor:
        self.seen += len(clips)
        cells = F.adaptive_avg_pool3d(clips.double(), (3, 4, 4)) - 0.5
        return cells.flatten(1) @ self.weights


class _Resists(nn.Module):
    """Says class 0 of every clip, a little less surely the darker it is."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, clips: Tensor) -> Tensor:
        self.seen += len(clips)
        mean = clips.double().flatten(1).mean(1)
        return torch.stack([3 + mean, torch.zeros_like(mean)], 1)


def easy_clips() -> Float[Tensor, "b 3 t h w"]:
    """Six clips, each of cells of random colours around grey; the first need the least to become
    another class."""
    colours = torch.rand(6, 3, 3, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.5
    cells = 0.5 + torch.linspace(0.02, 0.1, 6).view(-1, 1, 1, 1, 1) * colours
    return cells.repeat_interleave(8, 3).repeat_interleave(8, 4)


def check_attack(
    attack: Attack | type[Attack] | str | dict[str, Any],
    clips: Float[Tensor, "b 3 t h w"] | None = None,
    budget: int | None = None,
) -> None:
    """Checks what every attack promises, with its own settings, on a small victim of four classes.

    - The budget of a clip is never exceeded, and the queries of the result are the clips that have
      reached the model, as the model itself counts them.
    - A success is one: the victim fails on `adversarial` as it is returned. Some of these clips,
      which are easy, are fooled.
    - `adversarial` holds 8-bit values in [0, 1], and is what the strength map renders, unless the
      search makes the pixels itself. It is the smallest success, or the nearest candidate.
    - The same seed gives the same result, whatever the global generator, and whatever the attack
      was used for before. So does another batch, if `batch_independent`.
    - Clips that the goal holds for from the start cost one query and stay as they are.
    - No more than `max_queries_after_success` queries follow a clip's first success, and up to
      there nothing else changes.
    - The clips of the caller are not written to.
    - `params()` is plain data, and results can be saved and loaded.

    Args:
        attack: an attack, or what names one.
        clips: float[b 3 t h w] in [0, 1], at least four; None: small drawn ones.
        budget: queries per clip; None: those of the attack, but at most 100.

    Raises:
        AssertionError: a promise is broken.
    """
    made = as_attack(attack)
    clips = easy_clips() if clips is None else clips
    if len(clips) < 4:
        raise ValueError(f"Checking an attack: expected at least four clips, got {len(clips)}.")
    trial = _AttackTrial(made, clips, min(made.budget, 100) if budget is None else budget)
    trial.check()


class _AttackTrial:
    """One attack and the clips that it is tried on; a method a promise.

    Args:
        attack: the attack.
        clips: the clips.
        budget: queries per clip.
    """

    def __init__(self, attack: Attack, clips: Tensor, budget: int) -> None:
        self.who = f"The attack {type(attack).__name__}"
        # whatever it would stop after
        self.attack = dataclasses.replace(attack, budget=budget, progress=False, max_queries_after_success=None)
        self.clips = clips
        self.budget = budget
        self.makes_pixels = _watch_for_pixels(self.attack)

    def check(self) -> None:
        """Checks every promise."""
        params = self.attack.params()
        clips = self.clips.clone()
        result = self.run()
        self._promise(
            self.attack.params() == params,
            "an attack does not change its settings",
            f"{self.attack.params()} after {params}",
            "keep what belongs to a clip in local variables of search",
        )
        self._promise(
            torch.equal(clips, self.clips),
            "the clips of the caller are not written to",
            "other values in the clips after the attack",
            "work on copies: yield a new tensor for every query",
        )
        self._promise(
            bool(result.success.any()),
            f"some of the {len(clips)} easy clips are fooled within {self.budget} queries",
            f"none; the lowest margins were {result.history['margin'].nan_to_num(torch.inf).amin(1).tolist()}",
            "a success is a response whose `success` is true; give check_attack more budget if it needs more",
        )
        self.check_outcome(result)
        again = self.run()
        self._same(result, again, "the same seed gives the same result", "draw from `clip.rng`, and keep no state")
        self.check_plain(params, result)
        self.check_batches(result)
        self.check_skipped()
        self.check_target()
        self.check_small_budgets()
        self.check_stop(result)

    def run(
        self,
        rows: slice | Tensor = slice(None),
        goal: Goal | None = None,
        model: nn.Module | None = None,
        **settings: Any,
    ) -> AttackResult:
        """One run, with the queries compared with the model's own count."""
        model = _Cells() if model is None else model
        attack = dataclasses.replace(self.attack, **settings) if settings else self.attack
        with torch.random.fork_rng():
            torch.seed()  # the global generator has no say
            result = attack(Victim(model, name="four_classes"), self.clips[rows], goal)
        limit = settings.get("budget", self.budget)
        self._promise(
            bool((result.queries <= limit).all()),
            "the budget of a clip is never exceeded",
            f"{result.queries.tolist()} queries with a budget of {limit}",
            "ask the victim only by yielding; never call it",
        )
        uncounted = int(result.settings.get("uncounted_probes_per_clip", 0))  # of a bound, which says so
        counted, seen = int(result.queries.sum()), int(model.seen)  # type: ignore[arg-type]
        self._promise(
            counted == seen if not uncounted else counted <= seen <= counted + uncounted * len(result),
            "the queries of the result are the clips that reached the model",
            f"{counted} queries, {seen} clips",
            "ask the victim only by yielding; never call it or its model",
        )
        return result

    def check_outcome(self, result: AttackResult, goal: type[Goal] = Misclassify) -> None:
        """The result says what the victim says, counted outside of the budget."""
        victim = Victim(_Cells())
        said = victim(result.adversarial).argmax(1)
        holds = (said == result.classes) if goal.targeted else (said != result.classes)
        self._promise(
            torch.equal(holds & ~result.skipped, result.success)
            and torch.equal(said, result.adversarial_prediction)
            and torch.equal(victim(result.clean).argmax(1), result.prediction),
            "a success is one of the clip that is returned",
            f"success {result.success.tolist()}, but the victim says {said.tolist()} of classes"
            f" {result.classes.tolist()}",
            "leave the bookkeeping to the session: `session.query`, or yields",
        )
        self._promise(
            torch.equal(result.adversarial, to_8bit(result.adversarial))
            and torch.equal(result.clean, to_8bit(result.clean)),
            "clips hold 8-bit values in [0, 1]",
            "values that are not k/255 in [0, 1]",
            "leave rendering and rounding to the session",
        )
        if not self.makes_pixels():
            renderer = Renderer(
                result.clean,
                as_distortion(self.attack.distortion),
                as_grid(self.attack.grid),
                self.attack.coherence,
                self.attack.seed,
            )
            self._promise(
                torch.equal(renderer.render(result.strength), result.adversarial),
                "the strength map renders to the adversarial clip",
                "another clip",
                "yield strength maps, or `Pixels` where the search makes the pixels itself",
            )
        margin, l2 = result.history["margin"], result.history["l2"]
        asked = torch.arange(margin.shape[1]) < result.queries[:, None]
        self._promise(
            torch.equal(result.history["score"].isfinite(), asked),
            "the history has an entry for every query, and none beyond",
            f"{result.history['score'].isfinite().sum(1).tolist()} entries for {result.queries.tolist()} queries",
            "leave the bookkeeping to the session",
        )
        smallest = torch.where(margin < 0, l2, torch.inf).amin(1)[result.success]
        size = (result.adversarial - result.clean).flatten(1).norm(dim=1)[result.success]
        self._promise(
            torch.allclose(size, smallest, atol=1e-4),
            "the smallest success is returned",
            f"L2 norms of {size.tolist()}, but {smallest.tolist()} were seen",
            "leave the bookkeeping to the session",
        )

    def check_plain(self, params: dict[str, Any], result: AttackResult) -> None:
        """Settings are plain data; results can be saved."""
        self._promise(
            _is_plain(params) and params.get("budget") == self.budget,
            "params() is plain data, with every setting",
            repr(params),
            "let settings be numbers, text, lists and dicts, or override params",
        )
        with tempfile.TemporaryDirectory() as folder:
            loaded = AttackResult.load(result.save(Path(folder) / "result"))
        self._same(result, loaded, "results can be saved and loaded", "let settings be plain data")
        self._promise(
            loaded.settings == result.settings,
            "results can be saved and loaded",
            f"the settings {loaded.settings} after {result.settings}",
            "let settings be plain data: lists, not tuples; text as keys",
        )

    def check_batches(self, result: AttackResult) -> None:
        """A clip's result does not depend on its batch."""
        if not self.attack.batch_independent:
            return
        promise, mend = (
            "a clip's result does not depend on the clips beside it (`batch_independent`)",
            "draw from `clip.rng` and look at nothing but the clip; or say `batch_independent = False`",
        )
        order = torch.arange(len(self.clips)).flip(0)
        self._same(result, self.run(order)[order], promise, mend)
        self._same(result[2:3], self.run(slice(2, 3)), promise, mend)
        self._same(result, self.run(clips_at_once=4), promise, mend)

    def check_skipped(self) -> None:
        """Clips that the goal holds for from the start are left alone."""
        labels = Victim(_Cells())(to_8bit(self.clips)).argmax(1)
        labels[1] = (labels[1] + 1) % 4
        result = self.run(goal=Misclassify(labels))
        row = result[1]
        self._promise(
            result.skipped.tolist() == [i == 1 for i in range(len(labels))]
            and row.queries.tolist() == [1]
            and not row.success.any()
            and torch.equal(row.adversarial, row.clean)
            and not row.strength.any(),
            "a clip that the goal holds for from the start costs one query and stays as it is",
            f"skipped {result.skipped.tolist()}, queries {result.queries.tolist()}",
            "attack the clips of `session.rows` only",
        )
        self.check_outcome(result)

    def check_target(self) -> None:
        """A target is as good a goal."""
        scores = Victim(_Cells())(to_8bit(self.clips))
        own = scores.argmax(1)
        others = scores.scatter(1, own[:, None], -torch.inf)
        others[:, [k for k in range(4) if k not in own]] -= 1e3  # rather a class that another clip has
        wanted = others.argmax(1)
        result = self.run(goal=Target(wanted))
        self._promise(
            torch.equal(result.classes, wanted),
            "a target is kept",
            f"{result.classes.tolist()} for {wanted.tolist()}",
            "leave the goal to the session",
        )
        self.check_outcome(result, Target)

    def check_small_budgets(self) -> None:
        """The smallest budgets are kept, also on a victim that is never fooled."""
        for budget in (1, 2, 3, 7):
            self.run(budget=budget)
        if not self.attack.batch_independent:  # it may need clips that the victim tells apart
            return
        result = self.run(model=_Resists(), budget=7)
        margin = Misclassify(result.classes).margin(Victim(_Resists())(result.adversarial), torch.arange(len(result)))
        lowest = result.history["margin"].nan_to_num(torch.inf).amin(1)
        self._promise(
            not result.success.any() and torch.allclose(margin, lowest, atol=1e-4),
            "a failure returns the candidate that came nearest",
            f"success {result.success.tolist()}, margins {margin.tolist()}, but {lowest.tolist()} were seen",
            "leave the bookkeeping to the session",
        )

    def check_stop(self, whole: AttackResult) -> None:
        """`max_queries_after_success` cuts an attack short, and changes nothing before."""
        for most in (0, 3):
            cut = self.run(max_queries_after_success=most)
            first = (cut.history["margin"] < 0).long().argmax(1) + 1
            late = cut.success & (cut.queries > first + most)
            self._promise(
                not late.any(),
                f"no more than max_queries_after_success={most} queries follow the first success",
                f"{cut.queries.tolist()} queries, the first successes at {first.tolist()}",
                "yield after every query, and ask only about active clips",
            )
            self._promise(
                torch.allclose(self._until_success(cut), self._until_success(whole), atol=1e-4),
                "max_queries_after_success changes nothing up to the first success",
                f"success {cut.success.tolist()}, without it {whole.success.tolist()}, or other candidates before it",
                "leave max_queries_after_success to the scheduler",
            )

    def _until_success(self, result: AttackResult) -> Float[Tensor, "b q"]:
        """The margins up to the first success of each clip; 0 beyond, up to the budget."""
        margin = result.history["margin"]
        fooled = (margin < 0).long()
        later = fooled.cumsum(1) > fooled
        return F.pad(margin.masked_fill(later, 0).nan_to_num(0), (0, self.budget - margin.shape[1]))

    def _same(self, one: AttackResult, other: AttackResult, promise: str, mend: str) -> None:
        names = ("success", "skipped", "queries", "clean", "adversarial", "strength", "classes", "prediction")
        differ = [name for name in names if not torch.equal(getattr(one, name), getattr(other, name))]
        for key in one.history:
            a, b = (r.history[key].nan_to_num(-1e9) for r in (one, other))
            longest = max(a.shape[1], b.shape[1])
            a, b = (F.pad(v, (0, longest - v.shape[1]), value=-1e9) for v in (a, b))
            differ += [f"history[{key!r}]"] if not torch.allclose(a, b, atol=1e-4) else []
        self._promise(not differ, promise, f"a difference in {', '.join(differ)}", mend)

    def _promise(self, kept: bool, promise: str, seen: str, mend: str) -> None:
        _promise(kept, self.who, promise, seen, mend)


def _watch_for_pixels(attack: Attack) -> Callable[[], bool]:
    """Watches the sessions of an attack; the function that it returns says whether pixels have been
    made that no strength map renders."""
    original, seen = attack._open, []

    def opened(victim: Victim, clips: Tensor, goal: Goal | None) -> Session:
        session = original(victim, clips, goal)
        query = session.query_clips

        def watched(candidates: Tensor, rows: Tensor, strength: Tensor | None = None) -> Response:
            seen.append(strength is None)
            return query(candidates, rows, strength)

        session.query_clips = watched  # type: ignore[method-assign]
        return session

    attack._open = opened  # type: ignore[method-assign]
    return lambda: any(seen)


# All of them


def _promise(kept: bool, who: str, promise: str, seen: str, mend: str) -> None:
    """Raises an AssertionError unless a promise is kept."""
    if not kept:
        raise AssertionError(f"{who} breaks a promise: {promise}. Seen: {seen}. To mend it: {mend}.")


def _raised(who: str, promise: str, clips: Tensor, error: Exception) -> AssertionError:
    return AssertionError(
        f"{who} breaks a promise: {promise}. Seen with clips {list(clips.shape)}: {type(error).__name__}: {error}"
    )


def _is_plain(value: Any) -> bool:
    """Whether JSON gives it back as it was."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False

"""A view of an attack while it runs, in a notebook, on which regions can be drawn by hand: `pip
install "vidmarl[live]"`.

The browser's side is `live.js`. The kernel can say something while it attacks, and hears nothing:
so all that is known of each clip is sent, and which clip and which frame are shown is up to the
browser.
"""

from __future__ import annotations

import dataclasses
import html
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vidmarl.data.spec import validate_clips
from vidmarl.distortions import Distortion, as_distortion, list_distortions
from vidmarl.errors import VidmarlError
from vidmarl.perturbations.grid import GridLike, TubeletGrid, as_grid
from vidmarl.perturbations.renderer import Renderer, to_8bit
from vidmarl.queries.goals import Goal, Misclassify
from vidmarl.queries.progress import Progress
from vidmarl.queries.session import Session
from vidmarl.report import pictures
from vidmarl.report.figures.films import MOST_PIXELS
from vidmarl.report.live_still import Still, still_html
from vidmarl.victims.victim import Victim

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ImportError("Watching an attack: anywidget is not installed. pip install 'vidmarl[live]'.") from error

MOST_CLIPS = 12
"""Clips that are shown: the first ones."""

SHARE = 0.05
"""Of the time that passes, at most so much goes into the view."""

SECONDS = 0.2
"""At least so long lies between two pictures of an attack."""

MOST_POINTS = 400
"""Queries of a clip that have a point of their own in its curves."""

_ACROSS = 16
"""Cells of a side of the frame on which regions are drawn, where no grid is given."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What the victim says of a clip under a region that somebody has drawn. As text it is
    "PoleVault 71 % (clean: Bowling 93 %): fooled, L2 4.1".

    Attributes:
        clip: its number, from 0.
        distortion: what was done in the region.
        strength: float[gt gh gw], the region.
        distorted: float[3 t h w], what the victim saw.
        log_probs: float[k], what it said.
        clean: float[k], what it says of the clip as it is.
        fooled: whether the goal holds.
        l2: of distorted minus clean, in [0, 1] pixels.
        text: all of it in a line.
    """

    clip: int
    distortion: Distortion
    strength: Float[Tensor, "gt gh gw"]
    distorted: Float[Tensor, "3 t h w"]
    log_probs: Float[Tensor, " k"]
    clean: Float[Tensor, " k"]
    fooled: bool
    l2: float
    text: str

    def __str__(self) -> str:
        return self.text


@dataclasses.dataclass
class _Clip:
    """What is known of a clip.

    Attributes:
        pixels: float[3 t h w], clean, in 8-bit values.
        clean: float[k], what the victim says of it; None: it has not been asked.
        goal: of this clip alone; None: anything but the clean prediction.
        attacked: float[3 t h w], the best of the attack so far.
        strength: float[gt gh gw], of `attacked`.
        state: what the browser knows of the attack.
    """

    pixels: Tensor
    clean: Tensor | None = None
    goal: Goal | None = None
    attacked: Tensor | None = None
    strength: Tensor | None = None
    state: dict[str, Any] = dataclasses.field(default_factory=dict)


class LiveView(anywidget.AnyWidget):
    """Shows an attack while it runs, and lets regions be drawn by hand:
    `attack(victim, clips, on_query=LiveView(victim, clips))`.

    Of each clip it shows the frames with the region so far, the attacked frames, the probability of
    the label and of its runner-up query by query, the size, and whether the victim is fooled. A
    region can be drawn on the frames at any time when the kernel is idle; every answer of the
    victim to one is a counted query, as is the clean prediction where no attack has asked for it.

    The first `MOST_CLIPS` clips are shown. It takes at most a twentieth of the time. Where there is
    no kernel, on a page or in a file, a picture of the last state stands in its place.

    Args:
        victim: who is attacked and asked.
        clips: float[b 3 t h w] in [0, 1], or a single clip float[3 t h w].
        distortion: what is done to drawn regions at first, see `as_distortion`; the others can be
            chosen. None: that of the attack, or else Gaussian blur.
        grid: the tubelets of drawn regions; None: those of the attack, or else a sixteenth of the
            frame's sides in one frame.
        seed: of the distortion's randomness.

    Raises:
        ClipError: the clips are unusable.

    Attributes:
        answers: all that the victim was asked here, in order.
    """

    _esm = Path(__file__).with_name("live.js")
    _css = Path(__file__).with_name("live.css")

    about = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        victim: Victim,
        clips: Float[Tensor, "*b 3 t h w"],
        distortion: Distortion | str | Mapping[str, Any] | Callable[..., Any] | None = None,
        grid: GridLike | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        clips = clips[None] if clips.ndim == 4 else clips
        validate_clips(clips, "viewing clips")
        self.victim = victim
        self.answers: list[Answer] = []
        self._clips = [_Clip(clip) for clip in to_8bit(clips[:MOST_CLIPS].detach().cpu().float())]
        self._given = distortion is not None
        self._distortions = {name: as_distortion(name) for name in list_distortions()}
        self._chosen = self._known("gaussian_blur" if distortion is None else distortion)
        t, height, width = clips.shape[-3:]
        even = TubeletGrid(1, -(-height // _ACROSS), -(-width // _ACROSS))
        self._grid_given = grid is not None
        self._grid = even if grid is None else as_grid(grid)
        self._seed = seed
        self._scale = min(1.0, (MOST_PIXELS / (t * height * width)) ** 0.5)
        self._key = uuid.uuid4().hex[:12]
        self._sheets = [self._sheet(clip.pixels) for clip in self._clips]
        self._latest: Progress | None = None
        self._session: Session | None = None
        self._due = 0.0
        self._shown = False
        self._still: Any = None
        self.add_traits(**{f"clip_{i}": traitlets.Dict().tag(sync=True) for i in range(len(self._clips))})
        self._tell()
        self.on_msg(self._on_message)

    def __repr__(self) -> str:
        return f"LiveView: {self._said()}"

    def __call__(self, progress: Progress) -> None:
        """What `on_query` calls: shows where an attack stands, unless it has just done so.

        Raises:
            ValueError: the attack is on other clips.
        """
        if not self._shown:
            self._display()
        self._latest = progress
        if time.monotonic() >= self._due:
            self.refresh()

    def refresh(self) -> None:
        """Shows where the attack stands now. At the end of a cell of a notebook it happens by
        itself."""
        progress, self._latest = self._latest, None
        if progress is None or (session := progress.session) is None:
            return
        began = time.monotonic()
        first = len(progress.queries) - len(session)
        if session is not self._session:
            self._follow(session, first)
        for row, clip in enumerate(self._clips[first : first + len(session)]):
            asked = int(session.queries[row])
            if clip.state.get("queries") != asked or clip.state.get("victim") != str(session.victim.name):
                self._look(clip, session, row)
                setattr(self, f"clip_{first + row}", clip.state)
        now = time.monotonic()
        self._due = now + max(SECONDS, (now - began) / SHARE)

    def ask(
        self,
        strength: Float[Tensor, "gt gh gw"] | Bool[Tensor, "gt gh gw"],
        clip: int = 0,
        distortion: Distortion | str | Mapping[str, Any] | Callable[..., Any] | None = None,
    ) -> Answer:
        """What does the victim say of this region? One query, and one more for the clean clip where
        it has not been asked for yet. The view shows the answer.

        Args:
            strength: the region, in [0, 1], or in [-1, 1] for a distortion of two directions.
            clip: which one, from 0.
            distortion: what is done there; None: what is chosen.

        Raises:
            IndexError: there is no such clip.
            ValueError: the region is no map of the view's tubelets, or a strength is out of range.
            DistortionError, VictimError: the distortion or the victim raised.
        """
        if not 0 <= clip < len(self._clips):
            raise IndexError(f"Asking about clip {clip}: expected one of 0 to {len(self._clips) - 1}.")
        its = self._clips[clip]
        shape = self._map_shape()
        if tuple(strength.shape) != shape:
            raise ValueError(f"Asking about a region: expected a map of {shape} tubelets, got {tuple(strength.shape)}.")
        name = self._chosen if distortion is None else self._known(distortion)
        renderer = Renderer(its.pixels[None], self._distortions[name], self._grid, seed=self._seed)
        distorted = renderer.render(strength.float()[None])
        wanted = distorted if its.clean is not None else torch.cat([distorted, its.pixels[None]])
        log_probs = self.victim(wanted).cpu()
        if its.clean is None:
            its.clean = log_probs[1]
        answer = self._answered(clip, name, strength.float(), distorted[0], log_probs[0], its.clean)
        self._chosen = name
        self.answers.append(answer)
        self._tell()
        self.answer = self._told(answer, name)
        self._renew_picture()
        return answer

    def _answered(
        self, number: int, name: str, strength: Tensor, distorted: Tensor, log_probs: Tensor, clean: Tensor
    ) -> Answer:
        goal = self._clips[number].goal or Misclassify(clean.argmax()[None])
        fooled = bool(goal.success(log_probs[None], torch.tensor([0])))
        l2 = float((distorted - self._clips[number].pixels).double().norm())
        now, before = (self._prediction(each) for each in (log_probs, clean))
        text = f"{now} (clean: {before}): {'fooled' if fooled else 'not fooled'}, L2 {l2:.3g}"
        return Answer(number, self._distortions[name], strength, distorted, log_probs, clean, fooled, l2, text)

    def _prediction(self, log_probs: Tensor) -> str:
        best = int(log_probs.argmax())
        return f"{self.victim.label(best)} {float(log_probs[best].exp()):.0%}".replace("%", " %")

    def _known(self, distortion: Any) -> str:
        """The name of a distortion, which can be chosen from then on."""
        if isinstance(distortion, str) and distortion in self._distortions:
            return distortion
        made = as_distortion(distortion)
        for name, known in self._distortions.items():
            if known is made:
                return name
        name = str(made)
        self._distortions = {name: made, **self._distortions}
        return name

    def _follow(self, session: Session, first: int) -> None:
        """Takes up another attack, or the next clips of one: its distortion and its tubelets are
        those to draw with."""
        shown = self._clips[first : first + len(session)]
        of_attack = session.renderer.clips[: len(shown)].cpu()
        pixels = torch.stack([clip.pixels for clip in shown]) if shown else of_attack
        if pixels.shape != of_attack.shape or not torch.equal(pixels, of_attack):
            raise ValueError(
                "Watching an attack: expected one on the clips of this view; make a LiveView of its clips."
            )
        self._session = session
        for row, clip in enumerate(shown):
            clip.goal, clip.clean, clip.state = session.goal[[row]], session.clean[row].cpu(), {}
        if not self._given:
            self._chosen = self._known(session.renderer.distortion)
        if not self._grid_given:
            self._grid = session.renderer.grid
        self._tell()

    def _look(self, clip: _Clip, session: Session, row: int) -> None:
        """Brings what is known of a clip up to date."""
        asked = int(session.queries[row])
        history = {key: values[row, :asked].cpu().double() for key, values in session.history.items()}
        targeted = session.goal.targeted
        label = history["score"].exp()
        rival = (history["score"] + (1 if targeted else -1) * history["margin"]).exp()
        every = np.unique(np.linspace(0, asked - 1, min(asked, MOST_POINTS)).round().astype(int))
        strength = session.best_strength[row].to("cpu", copy=True)
        best = session.best[row].to("cpu", copy=True)
        own = int(session.goal.classes[row])
        state = {
            "victim": str(session.victim.name),
            "queries": asked,
            "budget": session.budget,
            "skipped": bool(session.skipped[row]),
            "fooled": bool(session.fooled[row]),
            "first": int(session.first_success[row]),
            "l2": float(session.best_l2[row]),
            "says": self.victim.label(int(session.best_prediction[row])),
            "targeted": targeted,
            "label": self.victim.label(own),
            "asked": (every + 1).tolist(),
            "p": _numbers(label[every]),
            "rival": _numbers(rival[every]),
            "success": (history["margin"][every] < 0).tolist(),
            "grid": list(strength.shape),
            "cell": list(pictures.cell_size(clip.pixels, strength)),
        }
        if clip.strength is None or not torch.equal(strength, clip.strength) or "attacked" not in clip.state:
            cell = state["cell"]
            hulls = [pictures.hulls(strength, cell, frame) for frame in range(len(best[0]))]
            state["strength"] = _bytes(strength)
            state["hulls"] = [[hull.round(1).tolist() for hull in of] for of in hulls]
            state["attacked"] = self._sheet(best)
        else:
            state |= {key: clip.state[key] for key in ("strength", "hulls", "attacked")}
        clip.strength, clip.attacked, clip.state = strength, best, state

    def _sheet(self, clip: Float[Tensor, "3 t h w"]) -> str:
        """All frames as one picture, row by row, `columns` in a row."""
        frames = pictures.to_frames(clip)
        if self._scale < 1:
            size = [max(1, round(side * self._scale)) for side in frames.shape[2:0:-1]]
            frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
        return pictures.picture(_tiled(frames, _columns(len(frames))))

    def _map_shape(self) -> tuple[int, int, int]:
        """Of a region that is drawn."""
        return self._grid.shape(self._clips[0].pixels[None])

    def _tell(self) -> None:
        """What the browser has to know once."""
        t, height, width = self._clips[0].pixels.shape[1:]
        self.about = {
            "key": self._key,
            "victim": self.victim.name,
            "shape": [t, height, width],
            "columns": _columns(t),
            "grid": list(self._map_shape()),
            "cell": list(dataclasses.astuple(self._grid)),
            "clean": self._sheets,
            "distortions": {name: bool(one.signed) for name, one in self._distortions.items()},
            "distortion": self._chosen,
        }

    def _told(self, answer: Answer, name: str) -> dict[str, Any]:
        """An answer, as the browser shows it."""
        top = answer.log_probs.topk(min(4, len(answer.log_probs))).indices.tolist()
        before = int(answer.clean.argmax())
        shown = top if before in top else [*top[:3], before]
        return {
            "number": len(self.answers),
            "clip": answer.clip,
            "distortion": name,
            "text": answer.text,
            "fooled": answer.fooled,
            "queries": self.victim.queries,
            "classes": [
                [self.victim.label(k), float(answer.log_probs[k].exp()), float(answer.clean[k].exp())] for k in shown
            ],
            "strength": _bytes(answer.strength),
            "grid": list(answer.strength.shape),
            "attacked": self._sheet(answer.distorted),
        }

    def _on_message(self, _: Any, content: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        """The browser asks about a region."""
        try:
            if content.get("kind") != "ask":
                return
            codes = torch.frombuffer(bytearray(buffers[0]), dtype=torch.int8)
            strength = codes.float().div(127).clamp(-1, 1).view(*self._map_shape())
            name = str(content["distortion"])
            if not self._distortions[name].signed:
                strength = strength.abs()
            self.ask(strength, int(content["clip"]), self._distortions[name])
        except (VidmarlError, ValueError, IndexError, KeyError, RuntimeError) as error:
            self.answer = {
                "error": f"{type(error).__name__}: {error}",
                "at": time.monotonic(),
            }  # twice the same is news

    def _ipython_display_(self) -> None:
        self._display()

    def _display(self) -> None:
        """Shows the widget, and a picture for where it cannot run; the widget hides it."""
        import IPython.display
        from IPython.core.getipython import get_ipython

        self._shown = True
        shell = get_ipython()
        if shell is None:  # a script
            return
        show: Any = IPython.display.display
        bundle = self._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        show(data, metadata=metadata, raw=True)
        still = show(self._picture(), display_id=f"vidmarl-{self._key}", raw=True)
        if self._still is None:
            self._still = still
            shell.events.register("post_run_cell", self._after_cell)

    def _after_cell(self, _: Any = None) -> None:
        """What came too soon after the last picture is shown, and the attack is over."""
        if self._latest is not None:
            self.refresh()
            self._renew_picture()

    def _renew_picture(self) -> None:
        if self._still is not None:
            self._still.update(self._picture(), raw=True)

    def _picture(self) -> dict[str, str]:
        return {"text/html": self._still_html(), "text/plain": repr(self)}

    def _said(self) -> str:
        """Where it all stands, in a line."""
        states = [clip.state for clip in self._clips if clip.state and not clip.state["skipped"]]
        parts = []
        if states:
            parts.append(f"fooled {sum(state['fooled'] for state in states)} of {len(states)}")
        if self.answers:
            parts.append(f"{len(self.answers)} regions drawn, the last one: {self.answers[-1]}")
        return "; ".join(parts) or f"{len(self._clips)} clips, nothing asked yet"

    def _still_html(self) -> str:
        stills = []
        for number, clip in enumerate(self._clips):
            if (state := clip.state) and clip.attacked is not None and clip.strength is not None:
                outcome = _outcome(state)
                curve = (state["asked"], state["p"], state["rival"])
                stills.append(Still(f"clip {number}: {outcome}", clip.pixels, clip.attacked, clip.strength, curve))
        if self.answers:
            last = self.answers[-1]
            text = f"clip {last.clip}, drawn by hand, {last.distortion.title}: {last.text}"
            stills.append(Still(text, self._clips[last.clip].pixels, last.distorted, last.strength))
        if not stills:
            first = self._clips[0].pixels
            stills.append(Still("clip 0", first, first, torch.zeros(1, 1, 1)))
        return still_html(stills, html.escape(str(self.victim.name)), f"vidmarl-still-{self._key}")


def _outcome(state: Mapping[str, Any]) -> str:
    """Where the attack on a clip stands, in words."""
    if state["skipped"]:
        return "skipped, the goal held before the attack"
    told = f"fooled at query {state['first']}, now L2 {state['l2']:.3g}" if state["fooled"] else "not fooled"
    return f"{told}; {state['queries']} of {state['budget']} queries, the victim says {state['says']}"


def _columns(frames: int) -> int:
    return int(np.ceil(np.sqrt(frames)))


def _tiled(frames: UInt8[np.ndarray, "t h w 3"], columns: int) -> UInt8[np.ndarray, "_ _ 3"]:
    rows = -(-len(frames) // columns)
    blank = np.zeros((rows * columns - len(frames), *frames.shape[1:]), np.uint8)
    return rearrange(np.concatenate([frames, blank]), "(r c) h w rgb -> (r h) (c w) rgb", c=columns)


def _numbers(values: Tensor) -> list[float | None]:
    """Plain numbers, which JSON can hold: None for NaN."""
    return [None if value != value else round(value, 4) for value in values.tolist()]


def _bytes(strength: Float[Tensor, "gt gh gw"]) -> bytes:
    """Strengths as int8, in 127ths; a weak one stays one."""
    codes = (strength * 127).round()
    codes = torch.where((strength != 0) & (codes == 0), strength.sign(), codes)
    return codes.to(torch.int8).numpy().tobytes()

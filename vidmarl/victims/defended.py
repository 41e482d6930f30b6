"""Defences: what is done to clips before a model sees them, around any victim.

A defended victim is attacked as any other. Where a defence draws at random, it draws anew for every
query, so that asking twice gives two answers. What it draws for the n-th query of a clip follows
from its seed and the clip alone, so that results can be had again, whatever else is asked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidmarl.data.encode import mp4_bytes
from vidmarl.data.video import as_floats
from vidmarl.distortions.frame_shuffle import shuffled
from vidmarl.distortions.gaussian_blur import gaussian_blur
from vidmarl.distortions.jpeg import jpeg
from vidmarl.errors import SettingsError, UnknownNameError
from vidmarl.registry import call, read_description
from vidmarl.victims import load_victim
from vidmarl.victims.victim import Victim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defence(ABC):
    """What is done to one clip.

    Attributes:
        random: whether it draws at random.
    """

    random: ClassVar[bool] = False

    @abstractmethod
    def apply(self, clip: Float[Tensor, "3 t h w"], rng: torch.Generator) -> Float[Tensor, "3 t h w"]:
        """The clip as the model gets it.

        Args:
            clip: float32[3 t h w] in [0, 1]; not to be written to.
            rng: source of all randomness, on the CPU.
        """

    def _between(self, least: float, most: float, **settings: float) -> None:
        for name, value in settings.items():
            if not least <= value <= most:
                raise ValueError(f"{type(self).__name__}: {name} must be from {least:g} to {most:g}, got {value!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blur(Defence):
    """Blurs every frame by a Gaussian of `sigma` px."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        self._between(0.1, 64, sigma=self.sigma)

    def apply(self, clip: Tensor, rng: torch.Generator) -> Tensor:
        return gaussian_blur(clip[None], self.sigma)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Median(Defence):
    """Takes the median in time of each pixel, over `frames` frames (an odd number)."""

    frames: int = 3

    def __post_init__(self) -> None:
        self._between(3, 99, frames=self.frames)
        if self.frames % 2 == 0:
            raise ValueError(f"Median: frames must be odd, got {self.frames}.")

    def apply(self, clip: Tensor, rng: torch.Generator) -> Tensor:
        reach, last = self.frames // 2, clip.shape[1] - 1
        time = (torch.arange(last + 1)[:, None] + torch.arange(-reach, reach + 1)).clamp(0, last)
        middle: Tensor = clip[:, time.to(clip.device)].median(2).values
        return middle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jpeg(Defence):
    """Compresses every frame as a JPEG of `quality`, 1 to 100."""

    quality: int = 50

    def __post_init__(self) -> None:
        self._between(1, 100, quality=self.quality)

    def apply(self, clip: Tensor, rng: torch.Generator) -> Tensor:
        return jpeg(clip[None], self.quality)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitDepth(Defence):
    """Rounds every value to `bits` bits (feature squeezing, Xu et al. 2018)."""

    bits: int = 4

    def __post_init__(self) -> None:
        self._between(1, 8, bits=self.bits)

    def apply(self, clip: Tensor, rng: torch.Generator) -> Tensor:
        steps = 2**self.bits - 1
        squeezed: Tensor = (clip * steps).round() / steps
        return squeezed


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResize(Defence):
    """Shrinks the frames to a share of at least `smallest` of their sides, and puts them at a
    random place of a black frame (Xie et al. 2018)."""

    smallest: float = 0.85
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._between(0.1, 1, smallest=self.smallest)

    def apply(self, clip: Tensor, rng: torch.Generator) -> Tensor:
        share, down, right = torch.rand(3, generator=rng).tolist()
        sides = clip.shape[-2:]
        h, w = (max(1, round(side * (self.smallest + (1 - self.smallest) * share))) for side in sides)
        frames = rearrange(clip, "c t h w -> t c h w")
        small = F.interpolate(frames, (h, w), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
        top, left = round(down * (sides[0] - h)), round(right * (sides[1] - w))
        return rearrange(F.pad(small, (left, sides[1] - w - left, top, sides[0] - h - top)), "t c h w -> c t h w")


@dataclasses.dataclass(frozen=True, kw_only=True)
class H264(Defence):
    """Encodes the clip as H.264 and decodes it; `crf` is its quality, from 0 (best) to 51. It
    counts as random: the encoder does not always write the same."""

    crf: int = 30
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._between(0, 51, crf=self.crf)

    def apply(self, clip: Tensor, rng: torch.Generator) -> Tensor:
        import av

        with av.open(io.BytesIO(mp4_bytes(clip, crf=self.crf)), "r") as film:
            frames = [
                torch.tensor(frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)
            ]  # copied: it is reused
        pixels = rearrange(torch.stack(frames), "t h w c -> c t h w")[..., : clip.shape[-2], : clip.shape[-1]]
        return as_floats(pixels.contiguous()).to(clip.device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporalShuffle(Defence):
    """Shows frames in another order, at random, within windows of `reach`."""

    reach: int = 2
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._between(2, 10_000, reach=self.reach)

    def apply(self, clip: Tensor, rng: torch.Generator) -> Tensor:
        order = shuffled(torch.rand(1, clip.shape[1], generator=rng), self.reach)[0]
        stays = torch.rand(clip.shape[1] // self.reach + 1, generator=rng) < 0.5  # else it is always the same swap
        frame = torch.arange(clip.shape[1])
        return clip[:, torch.where(stays[frame // self.reach], frame, order).to(clip.device)]


DEFENCES: dict[str, type[Defence]] = {
    "blur": Blur,
    "median": Median,
    "jpeg": Jpeg,
    "bit_depth": BitDepth,
    "random_resize": RandomResize,
    "h264": H264,
    "temporal_shuffle": TemporalShuffle,
}
"""The defences by name."""

DefenceLike = Defence | str | Mapping[str, Any]


class Defended(Victim):
    """A victim with defences before it, in their order; see `defended`."""

    def __init__(self, victim: Victim, defences: Sequence[Defence], seed: int = 0) -> None:
        vars(self).update(vars(victim))
        self.defences = tuple(defences)
        self.seed = seed
        self.name = " + ".join([str(victim.name), *(_name_of(defence) for defence in self.defences)])
        self.deterministic = victim.deterministic and not any(defence.random for defence in self.defences)
        self.queries = 0
        self.journal = None
        self._inner = victim
        self._asked: dict[bytes, int] = {}
        self._asking = threading.Lock()

    def identity(self) -> dict[str, Any]:
        defences = [{"name": _name_of(one), **dataclasses.asdict(one)} for one in self.defences]
        return super().identity() | {"defences": defences, "seed": self.seed}

    def _preprocess(self, clips: Tensor) -> Tensor:
        defended = torch.stack([self._defend(clip) for clip in clips])
        return self._inner._preprocess(defended) if isinstance(self._inner, Defended) else super()._preprocess(defended)

    def _replayed(self, clips: Tensor) -> None:
        if not self.deterministic:  # it counts how often it has drawn for a clip, as deep as there are defences
            self._preprocess(clips.to(self.device or clips.device, torch.float32))

    def _defend(self, clip: Tensor) -> Tensor:
        rng = torch.Generator()
        if not self.deterministic:
            digest = hashlib.blake2b(clip.detach().cpu().contiguous().numpy().data, digest_size=16).digest()
            with self._asking:
                time = self._asked[digest] = self._asked.get(digest, 0) + 1
            seed = hashlib.blake2b(digest + f"{self.seed} {time}".encode(), digest_size=7).digest()
            rng.manual_seed(int.from_bytes(seed, "little"))
        for defence in self.defences:
            clip = defence.apply(clip, rng)
        return clip


def defended(
    victim: Victim | str | Mapping[str, Any], by: DefenceLike | Sequence[DefenceLike], *, seed: int = 0
) -> Defended:
    """A victim with defences before it. Its queries are counted anew, from 0.

    Args:
        victim: a `Victim`, or what names one for `vidmarl.load_victim`.
        by: defences in their order: each the name of one of `DEFENCES`, `{"class_path": its name,
            "init_args": {...}}`, or a `Defence`.
        seed: of what they draw at random.

    Raises:
        UnknownNameError: there is no defence, or no victim, of a name.
        SettingsError: a defence has no such setting.
        ValueError: a setting is out of its range.
    """
    several = [by] if isinstance(by, str | Mapping | Defence) else list(by)
    return Defended(load_victim(victim), [_as_defence(one) for one in several], seed)


def _as_defence(thing: DefenceLike) -> Defence:
    if isinstance(thing, Defence):
        return thing
    if not isinstance(thing, str | Mapping):
        raise SettingsError(f"Making a defence: expected its name, a description or a Defence, got {thing!r}.")
    name, settings = read_description({"class_path": thing} if isinstance(thing, str) else thing, "Making a defence")
    if name not in DEFENCES:
        raise UnknownNameError("defence", name, DEFENCES)
    made: Defence = call(DEFENCES[name], f"Making the defence {name!r}", **settings)
    return made


def _name_of(defence: Defence) -> str:
    return next((name for name, kind in DEFENCES.items() if type(defence) is kind), type(defence).__name__)

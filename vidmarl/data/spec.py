"""What a clip is: how a victim wants it cut and sized, and whether a tensor is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from vidmarl.errors import ClipError
from vidmarl.registry import explain_settings
from vidmarl.utils.kinds import fits

MOST = 1_000_000
"""The largest number in a spec."""

SAMPLINGS = ("fps", "stride", "uniform", "segments", "steps")
WHOLE_VIDEO = ("uniform", "segments", "steps")
"""Samplings that spread the frames of a clip over the whole video."""

LAYOUTS = ("c t h w", "t c h w", "t h w c", "b t c h w", "b t h w c", "b t h c w", "c b t h w")
"""Axes that clips often come with, where they should have `b c t h w`."""

ROUNDING = 0.01
"""Values so near to [0, 1] are taken for numbers that were not clamped, not for another range."""


@explain_settings
@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """How a victim wants its clips; `vidmarl.load_clips` reads it.

    Attributes:
        frames: number of frames; None takes every frame of the (resampled) video.
        size: height and width of a frame in px. One number, or a list of two, is taken as well.
        short_side: the short side is scaled to this (px) before the centre crop to `size`; None: to
            just cover `size`.
        fit: "crop" (scale, then centre crop), "letterbox" (scale the long side, pad black) or
            "squash" (ignore the aspect).
        sampling: "fps" (resample to `fps`, centred window), "stride" (every `stride`-th native
            frame, centred window), or one of those that span the whole video: "uniform" (from the
            first frame to the last), "segments" (the middle of each of so many equal parts, as for
            TSN) or "steps" (from the first frame on, by the largest whole step, as for LRCN).
        fps: frames a second for "fps".
        stride: native frames per clip frame for "stride".
        antialias: whether shrinking is anti-aliased.
        short: what to do with a video too short for "fps" or "stride": refuse it ("error"), hold
            its last frame ("hold"; "stride" keeps its window centred and holds the first one too)
            or play it again from the start ("loop"). The others repeat frames by themselves.
    """

    frames: int | None = 16
    size: tuple[int, int] = (176, 176)
    short_side: int | None = None
    fit: Literal["crop", "letterbox", "squash"] = "crop"
    sampling: Literal["fps", "stride", "uniform", "segments", "steps"] = "uniform"
    fps: float = 5.0
    stride: int = 1
    antialias: bool = True
    short: Literal["error", "hold", "loop"] = "error"

    def __post_init__(self) -> None:
        given: Any = self.size
        sizes: tuple[int, ...] = (
            tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | Tensor) else (given, given)
        )
        if len(sizes) != 2:
            raise ValueError(f"ClipSpec: size is a height and a width in px, or one number for both, got {given!r}.")
        height, width = sizes
        whole: dict[str, Any] = {
            "frames": self.frames,
            "size": height,
            "short_side": self.short_side,
            "stride": self.stride,
        }
        for name, value in (*whole.items(), ("size", width), ("fps", self.fps)):
            if value is None and name in ("frames", "short_side"):
                continue
            if not fits(value, int if name in whole else float) or not 0 < value <= MOST:
                kind = "whole number" if name in whole else "number"
                raise ValueError(
                    f"ClipSpec: {name} must be a {kind} above 0 and at most {MOST:,}, got {getattr(self, name)!r}."
                )
        object.__setattr__(self, "size", sizes)
        for name, allowed in (
            ("fit", ("crop", "letterbox", "squash")),
            ("sampling", SAMPLINGS),
            ("short", ("error", "hold", "loop")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"ClipSpec: {name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")

    def changed(self, by: ClipSpec | Mapping[str, Any] | None) -> ClipSpec:
        """This spec with some fields changed.

        Args:
            by: the fields that differ, such as `{"frames": 8, "size": 112}`; a whole spec, which
                takes the place of this one; or None, which changes nothing.

        Raises:
            SettingsError: a spec has no such field; the message offers the nearest.
            ValueError: a field has no such value.
        """
        if isinstance(by, ClipSpec):
            return by
        return dataclasses.replace(self, **(by or {}))


ClipSpec.__annotations__["size"] = int | tuple[int, int]  # what it takes, in YAML of training too


@runtime_checkable
class HasSpec(Protocol):
    """What says how it wants its clips; a `Victim` does."""

    @property
    def spec(self) -> ClipSpec | None:
        """How it wants its clips; None: it does not say."""


def validate_clips(clips: Tensor, doing: str) -> None:
    """Raises a ClipError unless `clips` are float[b 3 t h w] in [0, 1]; `doing` opens the
    message."""
    if not isinstance(clips, Tensor):
        raise ClipError(f"While {doing}: expected a tensor of clips [b 3 t h w], got {type(clips).__name__}.")
    if clips.ndim != 5 or clips.shape[1] != 3:
        hint = next((_advice(axes) for axes in LAYOUTS if _fits(clips, axes)), "")
        raise ClipError(f"While {doing}: expected clips [b 3 t h w], got shape {tuple(clips.shape)}.{hint}")
    if clips.is_meta or clips.layout != torch.strided:
        kind = "without values, on the device meta" if clips.is_meta else f"in {clips.layout}"
        raise ClipError(f"While {doing}: expected a dense tensor of clips with values, got one {kind}.")
    if 0 in clips.shape:
        raise ClipError(f"While {doing}: expected at least one clip and one pixel, got shape {tuple(clips.shape)}.")
    if not clips.is_floating_point() or clips.dtype.itemsize < 2:
        raise ClipError(
            f"While {doing}: expected float clips in [0, 1], got {clips.dtype}. For 8-bit values: clips.float() / 255."
        )
    low, high = clips.aminmax()
    if not (low >= 0 and high <= 1):  # also catches NaN
        hint = " Divide 8-bit values by 255; do not normalise: mean and std belong to the Victim."
        if low > -ROUNDING and high < 1 + ROUNDING:
            hint = " That much comes from rounding or resizing: clips.clamp(0, 1)."
        raise ClipError(f"While {doing}: expected clips in [0, 1], got values in [{_text(low)}, {_text(high)}].{hint}")


def _fits(clips: Tensor, axes: str) -> bool:
    """Whether clips may have these axes."""
    return clips.ndim == len(axes.split()) and clips.shape[axes.split().index("c")] == 3


def _advice(axes: str) -> str:
    """How clips of these axes become clips."""
    if axes == "c t h w":
        return " A single clip needs a batch axis: clip[None]."
    batch = "b" if "b" in axes.split() else "1"
    return f" They look like [{axes}]: einops.rearrange(clips, '{axes} -> {batch} c t h w')."


def _text(value: Tensor) -> str:
    """A value with as many digits as it takes to see that it is beyond [0, 1]."""
    short = f"{value:.4g}"
    return short if not 0 <= float(short) <= 1 or 0 <= value <= 1 else repr(value.item())

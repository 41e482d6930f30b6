"""What a distortion is, and how a plain function becomes one.

Adding one: a new file with a function and a thin `Distortion` around it, see docs/extending.md.
"""

from __future__ import annotations

import contextlib
import inspect
import numbers
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.errors import DistortionError, UnknownNameError
from vidmarl.registry import explain_settings, object_at, settings_of

State = dict[str, Tensor]
"""What a distortion keeps for each clip while it is under attack: tensors with the clips on axis
0."""


_BRIGHTEST = 16.0
"""A distortion may well go beyond white, but what goes so far and is never below black holds 8-bit
values."""


class Distortion(nn.Module):
    """A function of (clip, strength per pixel, fixed randomness) to a clip.

    Whatever is random or slow happens once per clip in `prepare`; `forward` is deterministic.
    Pixels of strength 0 are put back by the caller, so `forward` need not care for them. Every
    setting of `__init__` is kept as an attribute of the same name, from which `to_record` reads it.

    Attributes:
        signed: whether the distortion has two directions: strengths in [-1, 1] rather than [0, 1].
    """

    signed: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        explain_settings(cls)

    def prepare(self, clips: Float[Tensor, "b 3 t h w"], noise: Float[Tensor, "b 3 t h w"]) -> State:
        """What `forward` needs besides the clip, drawn and computed once.

        Args:
            clips: float32[b 3 t h w] in [0, 1].
            noise: standard normal, coherent in time as the user asked; the only source of
                randomness. Not to be written to: a pattern that stands still is one frame,
                expanded.
        """
        return {"noise": noise}

    def forward(
        self, clips: Float[Tensor, "n 3 t h w"], strength: Float[Tensor, "n 1 t h w"], state: State
    ) -> Float[Tensor, "n 3 t h w"]:
        """The clips distorted by `strength`; the caller clamps to [0, 1] and rounds to 8 bits.

        The arguments are not to be written to: they may be the originals.

        Args:
            clips: float32[n 3 t h w] in [0, 1].
            strength: per pixel, in [0, 1], or in [-1, 1] where `signed`.
            state: the rows of `prepare`'s result that belong to these clips.
        """
        raise NotImplementedError

    def to_record(self) -> dict[str, Any]:
        """Plain data from which `as_distortion` makes the distortion again: `{"class_path",
        "init_args"}`."""
        kind = type(self)
        return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": self.settings()}

    def settings(self) -> dict[str, Any]:
        """The settings of `__init__`, by name, as plain data."""
        values = {name: getattr(self, name) for name in settings_of(type(self))}
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}

    @property
    def title(self) -> str:
        """How messages call it."""
        return type(self).__name__

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items())


class FunctionDistortion(Distortion):
    """A user's own function as a distortion.

    Args:
        function: `f(clips, strength, noise) -> clips`, with clips float32[n 3 t h w] in [0, 1],
            strength per pixel float32[n 1 t h w] and standard normal noise float32[n 3 t h w] that
            stays the same for a clip. Or the path of such a function, "package.module.name".
        signed: whether strengths go from -1 to 1.
    """

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor] | str, signed: bool = False) -> None:
        super().__init__()
        self.function = _function_at(function) if isinstance(function, str) else function
        if isinstance(self.function, type) or not callable(self.function):
            raise TypeError(
                f"Making a distortion: expected a function f(clips, strength, noise), got {self.function!r}."
                " What is not a function of a module cannot be found by its path: pass the object itself."
            )
        self._signed = signed

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Whether strengths go from -1 to 1."""
        return self._signed

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Any:
        return self.function(clips.clone(), strength, state["noise"])  # it may well write to what it is given

    def settings(self) -> dict[str, Any]:
        owner = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return {"function": f"{owner.__module__}.{owner.__qualname__}", "signed": self._signed}

    @property
    def title(self) -> str:
        return str(self.settings()["function"])


def _function_at(path: str) -> Any:
    try:
        return object_at(path, "function")
    except UnknownNameError as error:
        raise ValueError(
            f"Making a distortion of the function {path!r}: expected the path 'package.module.name' of a function that"
            f" can be imported. {error} A lambda or an inner function has no path: pass it as an object."
        ) from error


def prepared(distortion: Distortion, clips: Float[Tensor, "b 3 t h w"], noise: Float[Tensor, "b 3 t h w"]) -> State:
    """`distortion.prepare(clips, noise)`, of which nothing is taken on trust.

    Raises:
        DistortionError: it raised, or did not give a dict of tensors with the clips on axis 0.
    """
    with _named(distortion, "preparing", clips):
        state = distortion.prepare(clips, noise)
        if not isinstance(state, dict):
            raise DistortionError(f"expected a dict of tensors from `prepare`, got {_told(state)}.")
        for key, value in state.items():
            if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != len(clips):
                raise DistortionError(
                    f"expected every tensor of its state to have the clips on axis 0, got {key!r}, {_told(value)}."
                )
        return state


def distorted(
    distortion: Distortion, clips: Float[Tensor, "n 3 t h w"], strength: Float[Tensor, "n 1 t h w"], state: State
) -> Float[Tensor, "n 3 t h w"]:
    """`distortion(clips, strength, state)`, of which nothing is taken on trust.

    Raises:
        DistortionError: it raised, or gave something else than floats of the clips' shape, or NaN.
    """
    with _named(distortion, "distorting", clips):
        out: Any = distortion(clips, strength, state)
        alike = isinstance(out, Tensor) and out.shape == clips.shape and out.device == clips.device
        if not alike or not out.is_floating_point() or out.sum().isnan():
            raise DistortionError(
                f"expected the distorted clips, floats in [0, 1] without NaN, {_told(clips)}; got {_told(out)}."
            )
        kept: Tensor = out.to(clips.dtype)
        return kept


def check_range(distortion: Distortion, clips: Float[Tensor, "n 3 t h w"]) -> None:
    """Raises a DistortionError if what a distortion gave are 8-bit values rather than values near
    [0, 1]."""
    low, high = clips.aminmax()
    if low >= 0 and high > _BRIGHTEST:
        raise DistortionError(
            f"The distortion {distortion.title}: expected values in [0, 1], got values in [{low:.4g}, {high:.4g}]."
            " Divide 8-bit values by 255; where so much light is meant, end with clamp(0, 1)."
        )


@contextlib.contextmanager
def _named(distortion: Distortion, doing: str, clips: Tensor) -> Iterator[None]:
    """Errors name the distortion and what it was doing."""
    try:
        yield
    except DistortionError as error:
        raise DistortionError(f"The distortion {distortion.title}, {doing}: {error}") from None
    except Exception as error:
        raise DistortionError(
            f"The distortion {distortion.title} raised while {doing} clips of shape {tuple(clips.shape)}:"
            f" {type(error).__name__}: {error}"
        ) from error


def _told(thing: Any) -> str:
    """What a result is, for a message."""
    if not isinstance(thing, Tensor):
        return "None (is a return missing?)" if thing is None else f"an object of type {type(thing).__name__}"
    nan = f" with {int(thing.isnan().sum())} NaN" if not thing.is_meta and thing.isnan().any() else ""
    return f"a {str(thing.dtype).removeprefix('torch.')} tensor of shape {tuple(thing.shape)} on {thing.device}{nan}"


def bounded(owner: Distortion, **limits: tuple[Any, float, float]) -> None:
    """Checks settings of a distortion, in its `__init__`.

    The annotations say the rest: a setting that is an `int` must be whole, and one that may be None
    passes where it is.

    Args:
        owner: the distortion.
        **limits: `name=(value, least, most)` for each setting; both limits are allowed values.

    Raises:
        ValueError: a setting is no number, not whole, not finite or beyond its limits.
    """
    for name, (value, least, most) in limits.items():
        kinds = inspect.formatannotation(settings_of(type(owner))[name].annotation).strip("'").split(" | ")
        number = numbers.Real if "float" in kinds else numbers.Integral
        if value is None and "None" in kinds:
            continue
        if (
            not isinstance(value, number) or isinstance(value, bool) or not least <= float(value) <= most
        ):  # NaN is not within
            raise ValueError(
                f"{type(owner).__name__}: {name} must be {'None or ' * ('None' in kinds)}a"
                f"{' whole' * (number is numbers.Integral)} number from {least:.6g} to {most:.6g}, got {value!r}."
            )


def uniforms(noise: Float[Tensor, "b 3 t h w"], count: int) -> Float[Tensor, "b count"]:
    """Numbers uniform in (0, 1) for each clip, from the first values of its noise; `count` is at
    most `3 h w`."""
    drawn: Tensor = torch.special.ndtr(noise[:, :, 0].flatten(1)[:, :count])
    return drawn

"""What a distortion is, and how a plain function becomes one.

Adding one: a new file with a function and a thin `Distortion` around it, see docs/extending.md.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vidmarl.errors import UnknownNameError
from vidmarl.registry import explain_settings, object_at, settings_of

State = dict[str, Tensor]
"""What a distortion keeps for each clip while it is under attack: tensors with the clips on axis
0."""


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
        return {name: getattr(self, name) for name in settings_of(type(self))}

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

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return self.function(clips.clone(), strength, state["noise"])  # it may well write to what it is given

    def settings(self) -> dict[str, Any]:
        owner = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return {"function": f"{owner.__module__}.{owner.__qualname__}", "signed": self._signed}


def _function_at(path: str) -> Any:
    try:
        return object_at(path, "function")
    except UnknownNameError as error:
        raise ValueError(
            f"Making a distortion of the function {path!r}: expected the path 'package.module.name' of a function that"
            f" can be imported. {error} A lambda or an inner function has no path: pass it as an object."
        ) from error


def bounded(owner: Distortion, **limits: tuple[float, float, float]) -> None:
    """Checks the settings of a distortion.

    Args:
        owner: the distortion, for the message.
        **limits: `name=(value, low, high)` for each setting.

    Raises:
        ValueError: unless `low < value <= high` and the value is finite.
    """
    for name, (value, low, high) in limits.items():
        if not (isinstance(value, numbers.Real) and math.isfinite(value) and low < value <= high):
            limits_told = [f" above {low:g}"] * math.isfinite(low) + [f" at most {high:g}"] * math.isfinite(high)
            raise ValueError(
                f"{type(owner).__name__}: {name} must be a finite number{' and'.join(limits_told)}, got {value!r}."
            )


def uniforms(noise: Float[Tensor, "b 3 t h w"], count: int) -> Float[Tensor, "b count"]:
    """Numbers uniform in (0, 1) for each clip, from the first values of its noise; `count` is at
    most `3 h w`."""
    drawn: Tensor = torch.special.ndtr(noise[:, :, 0].flatten(1)[:, :count])
    return drawn

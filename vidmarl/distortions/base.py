"""What a distortion is, and how a plain function becomes one.

Adding one: a new file with a function and a thin `Distortion` around it, see docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

State = dict[str, Tensor]
"""What a distortion keeps for each clip while it is under attack: tensors with the clips on axis 0."""


class Distortion(nn.Module):
    """A function of (clip, strength per pixel, fixed randomness) to a clip.

    Whatever is random or slow happens once per clip in `prepare`; `forward` is deterministic. Pixels of strength 0
    are put back by the caller, so `forward` need not care for them.

    Attributes:
        signed: whether the distortion has two directions: strengths in [-1, 1] rather than [0, 1].
    """

    signed: ClassVar[bool] = False

    def prepare(self, clips: Float[Tensor, "b 3 t h w"], noise: Float[Tensor, "b 3 t h w"]) -> State:
        """What `forward` needs besides the clip, drawn and computed once.

        Args:
            clips: float32[b 3 t h w] in [0, 1].
            noise: standard normal, coherent in time as the user asked; the only source of randomness.
        """
        return {"noise": noise}

    def forward(
        self, clips: Float[Tensor, "n 3 t h w"], strength: Float[Tensor, "n 1 t h w"], state: State
    ) -> Float[Tensor, "n 3 t h w"]:
        """The clips distorted by `strength`; the caller clamps to [0, 1] and rounds to 8 bits.

        Args:
            clips: float32[n 3 t h w] in [0, 1].
            strength: per pixel, in [0, 1], or in [-1, 1] where `signed`.
            state: the rows of `prepare`'s result that belong to these clips.
        """
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Plain data to make the distortion again: its class path and its arguments."""
        kind = type(self)
        return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": self.arguments()}

    def arguments(self) -> dict[str, Any]:
        """The plain values among the attributes, by name: for the base class, those that `__init__` was given."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "training"}

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.arguments().items())


class FunctionDistortion(Distortion):
    """A user's own function as a distortion.

    Args:
        function: `f(clips, strength, noise) -> clips`, with clips float32[n 3 t h w] in [0, 1], strength per pixel
            float32[n 1 t h w] and standard normal noise float32[n 3 t h w] that stays the same for a clip.
        signed: whether strengths go from -1 to 1.
    """

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], signed: bool = False) -> None:
        super().__init__()
        self._function = function
        self._signed = signed

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Whether strengths go from -1 to 1."""
        return self._signed

    def forward(self, clips: Tensor, strength: Tensor, state: State) -> Tensor:
        return self._function(clips, strength, state["noise"])

    def describe(self) -> dict[str, Any]:
        name = getattr(self._function, "__qualname__", type(self._function).__qualname__)
        module = getattr(self._function, "__module__", type(self._function).__module__)
        return {
            "class_path": f"{type(self).__module__}.FunctionDistortion",
            "init_args": {"function": f"{module}.{name}", "signed": self._signed},
        }

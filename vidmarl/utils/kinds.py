"""Arguments that are not what their annotations say are refused where they are given."""

from __future__ import annotations

import functools
import inspect
import math
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from vidmarl.errors import SettingsError

LEAST = 1e-15
"""The smallest number by which anything is divided."""

P = ParamSpec("P")
R = TypeVar("R")

_WORDS: dict[Any, str] = {
    type(None): "None",
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    os.PathLike: "a path",
    Tensor: "a tensor",
    Callable: "a function",
    Mapping: "a dict",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function that refuses arguments which are not what its annotations say.

    It looks at numbers, bools, texts, paths, tensors, functions, lists of these, and at classes. A
    bool is no number, neither is infinity or NaN, and a text is no list.

    Raises:
        SettingsError: when it is called: an argument is of another kind.
    """
    signature = inspect.signature(function)
    name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @functools.cache
    def kinds() -> dict[str, Any]:
        found = get_type_hints(function)
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {
            name: found[name] for name, p in signature.parameters.items() if name in found and p.kind not in several
        }

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # which says what is wrong
        for argument, kind in kinds().items():
            if argument in given:
                check_kind(given[argument], kind, f"{name}: {argument}")
        return function(*args, **kwargs)

    return wrapped


def check_kind(value: Any, kind: Any, what: str) -> None:
    """Raises a SettingsError unless a value is what an annotation says; `what` opens the
    message."""
    if not fits(value, kind):
        raise SettingsError(f"{what} must be {_told(kind)}, got {_shown(value)}.")


def check_least(who: str, **limits: tuple[float, float]) -> None:
    """Raises a ValueError unless `value >= least` in each `name=(value, least)`; `who` opens the
    message."""
    for name, (value, least) in limits.items():
        if value < least:
            raise ValueError(f"{who}: {name} must be at least {least}, got {value}.")


def check_positive(who: str, **values: float) -> None:
    """Raises a ValueError unless each value is above 0, and by enough to divide by; `who` opens the
    message."""
    check_least(who, **{name: (value, LEAST) for name, value in values.items()})


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is what an annotation says; True of annotations that are not looked at."""
    kinds = _alternatives(kind)
    if isinstance(value, str) and any(get_origin(one) is os.PathLike for one in kinds):
        return "\0" not in value
    return any(_fits(value, one) for one in kinds)


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind) or kind
    if origin in (int, float):
        number, limit = (Integral, 2**63) if origin is int else (Real, math.inf)
        return isinstance(value, number) and not isinstance(value, bool) and abs(value) < limit  # type: ignore[operator]
    if origin is Literal:  # which of them, has messages of its own
        return any(isinstance(value, type(one)) for one in get_args(kind))
    if origin is os.PathLike:
        return isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)
    if origin in (list, Sequence, Iterable):
        if not isinstance(value, origin) or isinstance(value, str | bytes | Tensor):
            return False
        return not isinstance(value, Sequence) or all(fits(item, get_args(kind)[0]) for item in value)
    if hasattr(origin, "array_type"):  # of jaxtyping, whose shapes have messages of their own
        return isinstance(value, Tensor)
    return origin is Any or not isinstance(origin, type) or isinstance(value, origin)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _told(kind: Any) -> str:
    """An annotation in words."""
    kinds = _alternatives(kind)
    paths = any(get_origin(one) is os.PathLike for one in kinds)
    return " or ".join(dict.fromkeys(_word(one) for one in kinds if not (paths and one is str)))


def _word(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if origin is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if origin in (list, Sequence, Iterable):
        return f"a list (each item {_told(get_args(kind)[0])})"
    return (
        _WORDS[Tensor] if hasattr(origin, "array_type") else _WORDS.get(origin, getattr(origin, "__name__", str(kind)))
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 and "\n" not in text else f"an object of type {type(value).__name__}"

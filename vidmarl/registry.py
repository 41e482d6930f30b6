"""From a name, a class path or a description to the object that it stands for."""

from __future__ import annotations

import functools
import inspect
from typing import Any, TypeVar

from vidmarl.errors import SettingsError, nearest

C = TypeVar("C", bound=type)


def explain_settings(cls: C) -> C:
    """Makes a class answer unknown, missing and surplus settings with a `SettingsError` that helps.

    It wraps the `__init__` that the class defines itself, if it does; `inspect.signature`, and with
    it Jupyter and jsonargparse, still see the original. Use it as a decorator (above
    `@dataclass`), or in `__init_subclass__`.
    """
    init = vars(cls).get("__init__")
    if init is None or hasattr(init, "_explains_settings"):
        return cls
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        try:
            signature.bind(self, *args, **settings)
        except TypeError as error:
            raise SettingsError(_fault(type(self), signature, args, settings) or str(error)) from None
        init(self, *args, **settings)

    __init__._explains_settings = True  # type: ignore[attr-defined]
    cls.__init__ = __init__  # type: ignore[misc]
    return cls


def settings_of(cls: type) -> dict[str, inspect.Parameter]:
    """The settings that a class takes by name, those that it passes on to its bases included."""
    settings: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                settings.setdefault(parameter.name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return settings


def _fault(cls: type, signature: inspect.Signature, args: tuple[Any, ...], settings: dict[str, Any]) -> str:
    """What is wrong with the arguments of `cls(*args, **settings)`, which its signature refuses."""
    _, *parameters = signature.parameters.values()
    known = settings_of(cls)
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = [name for name in settings if name not in by_name]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        faults = (f"there is no setting {name!r}; {nearest(name, known)}" for name in unknown)
        return f"Making {cls.__name__}: {' '.join(faults)}"
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(args) > len(positional):
        return (
            f"Making {cls.__name__}: expected at most {len(positional)} settings without a name"
            f" ({', '.join(positional) or 'none'}), got {len(args)}. Name the others: {', '.join(name for name in known if name not in positional)}."
        )
    if twice := [name for name in positional[: len(args)] if name in settings]:
        return f"Making {cls.__name__}: got {', '.join(map(repr, twice))} twice, by place and by name."
    given = {*positional[: len(args)], *settings}
    missing = [p.name for p in parameters if p.name in by_name - given and p.default is p.empty]
    return f"Making {cls.__name__}: expected a value for {' and '.join(map(repr, missing))}, got none."

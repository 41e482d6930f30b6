"""The attacks, learned or not; each is one file of this folder, found by its name.

The file is the class in snake case, without "Attack" at the end: `RandomCells` in
`random_cells.py`, `RLAttack` in `rl.py`. A new attack is a new file and nothing else; a file is
imported when its attack is first asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any

from vidmarl.attacks.base import Attack
from vidmarl.attacks.result import AttackResult
from vidmarl.errors import UnknownNameError

__all__ = ["Attack", "AttackResult", "as_attack", "list_attacks"]

_HELPERS = {"base", "result", "search"}


def list_attacks() -> list[str]:
    """The names of all attacks, as the command line and `as_attack` take them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _HELPERS)


def as_attack(thing: Attack | type[Attack] | str | dict[str, Any], **kwargs: Any) -> Attack:
    """Makes an attack of whatever names one.

    Args:
        thing: an `Attack` (returned as it is), its class, its name ("random_cells" or
            "RandomCells"), its class path ("my.module.MyAttack"), or `{"class_path": ...,
            "init_args": {...}}` with any of these names.
        **kwargs: arguments of the attack; they win over `init_args`.

    Raises:
        UnknownNameError: there is no attack of that name.
        TypeError: `thing` is something else, or an attack that exists already was to get arguments.
    """
    if isinstance(thing, Attack):
        if kwargs:
            raise TypeError(f"as_attack: {type(thing).__name__} is made already, so it cannot get {sorted(kwargs)}.")
        return thing
    if isinstance(thing, dict):
        unknown = thing.keys() - {"class_path", "init_args"}
        if unknown or "class_path" not in thing:
            raise TypeError(f"as_attack: expected the keys 'class_path' and 'init_args', got {sorted(thing)}.")
        return as_attack(thing["class_path"], **{**(thing.get("init_args") or {}), **kwargs})
    kind = _find(thing) if isinstance(thing, str) else thing
    if not (isinstance(kind, type) and issubclass(kind, Attack)):
        raise TypeError(f"as_attack: expected an attack, its class, its name or a dict, got {kind!r}.")
    return kind(**kwargs)


def _find(name: str) -> Any:
    """The class that a file name, a class name or a class path stands for."""
    module, dot, attribute = name.rpartition(".")
    if dot:
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ModuleNotFoundError, AttributeError) as error:
            raise UnknownNameError("attack", name, list_attacks()) from error
    if name not in list_attacks():
        try:
            return globals()[name] if name in __all__ else __getattr__(name)
        except AttributeError as error:
            raise UnknownNameError("attack", name, list_attacks()) from error
    defined = vars(importlib.import_module(f"{__name__}.{name}")).values()
    return next(kind for kind in defined if isinstance(kind, type) and _file_of(kind.__name__) == name)


def _file_of(class_name: str) -> str:
    """The file that a class lives in, by its name."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name.removesuffix("Attack")).lower()


def __getattr__(name: str) -> Any:
    file = _file_of(name)
    if name[:1].isupper() and file in list_attacks():
        module = importlib.import_module(f"{__name__}.{file}")
        if name in vars(module):
            globals()[name] = vars(module)[name]
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

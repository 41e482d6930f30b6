"""Distortions: what can happen to a video, one file each.

`vidmarl.distortions.GaussianNoise` and its like are found by looking at the files of this folder,
so a new one needs nothing but its file: a function, and one `Distortion` around it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from vidmarl.distortions.base import Distortion, FunctionDistortion
from vidmarl.errors import UnknownNameError

_SHARED = {"base", "ladder"}  # what distortions are made of; every other file is one


def list_distortions() -> list[str]:
    """The names of all distortions, such as "gaussian_noise": the files of this folder."""
    return sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name not in _SHARED)


def as_distortion(thing: Distortion | str | Mapping[str, Any] | Callable[..., Any]) -> Distortion:
    """Makes a distortion of whatever names or is one.

    Args:
        thing: one of
            - a `Distortion`, or its class (default arguments);
            - a name, "gaussian_noise" or "GaussianNoise", or a class path "package.module.Class"
              (default arguments);
            - `{"class_path": ..., "init_args": {...}}`, as in YAML and from
              `Distortion.describe()`;
            - a function or module `f(clips, strength, noise) -> clips`, see `FunctionDistortion`.

    Raises:
        UnknownNameError: there is no distortion of that name or path.
        TypeError: it is none of these, or the arguments do not fit.
    """
    if isinstance(thing, Distortion):
        return thing
    if isinstance(thing, str):
        return _find(thing)()
    if isinstance(thing, Mapping):
        return _from_description(thing)
    if isinstance(thing, type) and issubclass(thing, Distortion):
        return thing()
    if callable(thing) and not isinstance(thing, type):
        return FunctionDistortion(thing)
    raise TypeError(
        "Making a distortion: expected a Distortion, a name, {'class_path', 'init_args'} or a function"
        f" f(clips, strength, noise), got {thing!r}."
    )


def _from_description(description: Mapping[str, Any]) -> Distortion:
    arguments = description.get("init_args") or {}
    extra = set(description) - {"class_path", "init_args"}
    if not isinstance(description.get("class_path"), str) or not isinstance(arguments, Mapping) or extra:
        raise TypeError(
            "Making a distortion: expected {'class_path': 'package.module.Class', 'init_args': {...}}, got"
            f" {dict(description)!r}."
        )
    kind = _find(description["class_path"])
    try:
        return kind(**arguments)
    except TypeError as error:
        raise TypeError(f"Making the distortion {kind.__name__} with {dict(arguments)!r}: {error}.") from error


def _find(path: str) -> type[Distortion]:
    """The class that a name or a class path stands for."""
    if "." not in path:
        by_name = {name: _class_in(name) for name in ([path] if path in list_distortions() else list_distortions())}
        by_name |= {kind.__name__: kind for kind in by_name.values()}
        if path not in by_name:
            raise UnknownNameError("distortion", path, by_name)
        return by_name[path]
    try:
        kind = pkgutil.resolve_name(path)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not path.startswith(f"{error.name}"):
            raise  # the module is there, and lacks something of its own
        raise UnknownNameError("distortion", path, list_distortions()) from error
    if not (isinstance(kind, type) and issubclass(kind, Distortion)):
        raise TypeError(f"Making a distortion: {path!r} is {kind!r}, expected a subclass of {Distortion.__name__}.")
    return kind


def _class_in(name: str) -> type[Distortion]:
    """The one `Distortion` that a file of this folder defines."""
    module: ModuleType = importlib.import_module(f"{__name__}.{name}")
    kinds = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Distortion) and kind.__module__ == module.__name__
    ]
    if len(kinds) != 1:
        raise TypeError(f"{module.__file__}: expected exactly one Distortion in the file, got {kinds}.")
    return kinds[0]


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and name not in list_distortions():  # a file's own name is left to the import system
        for kind in map(_class_in, list_distortions()):
            if kind.__name__ == name:
                return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; distortions are {list_distortions()}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(_class_in(name).__name__ for name in list_distortions())])

"""From a name, a class path or a description to the object that it stands for."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vidmarl.errors import CheckpointError, SettingsError, UnknownNameError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """The attacks, or the distortions, that there are: the files of one package, a class in each.

    A new file is found without being registered anywhere, and is imported when it is first asked
    for. Other packages bring theirs as entry points, in the group that is called like the package.

    Args:
        kind: what one of them is called, such as "attack".
        base: the class that all of them derive from.
        package: the package that holds the files.
        shared: the files of the package that define none of them.
        convert: makes one of them of a plain function; None: functions are refused.
    """

    def __init__(
        self,
        kind: str,
        base: type[T],
        package: str,
        *,
        shared: Collection[str] = (),
        convert: Callable[..., T] | None = None,
    ) -> None:
        self.kind = kind
        self.base = base
        self.package = package
        self.shared = frozenset(shared)
        self.convert = convert

    def names(self) -> list[str]:
        """The names of all of them, sorted, those of other packages included, without importing
        any."""
        return sorted({*self.own_names(), *plugins(self.package)})

    def descriptions(self) -> dict[str, str]:
        """What each of them is, by name: the first sentence of its docstring, or for one of another
        package the name of that package. Imports every file."""
        own = {name: first_sentence(self._class_in(name).__doc__) for name in self.own_names()}
        return dict(sorted(({name: package_of(point) for name, point in plugins(self.package).items()} | own).items()))

    def own_names(self) -> list[str]:
        """The names of those that are files of the package, sorted."""
        files = pkgutil.iter_modules(importlib.import_module(self.package).__path__)
        return sorted(file.name for file in files if not file.ispkg and file.name not in self.shared)

    def classes(self) -> dict[str, type[T]]:
        """The package's own by the names of their classes; imports every file."""
        return {found.__name__: found for found in map(self._class_in, self.own_names())}

    def make(self, thing: T | type[T] | str | Mapping[str, Any] | Callable[..., Any], **settings: Any) -> T:
        """The object that `thing` stands for.

        Args:
            thing: one of
                - the object itself, or its class;
                - its name: that of its file ("grow_and_reduce"), of its class ("GrowAndReduce"), a
                  class path ("package.module.Class"), or a class in a file ("mine.py:Class");
                - `{"class_path": any of these names, "init_args": {...}}`, as in YAML;
                - where functions are welcome: a function, or its path ("package.module.function").
            **settings: settings of the object; they win over `init_args`.

        Raises:
            UnknownNameError: there is none of that name.
            SettingsError: `thing` is none of these, its settings do not exist or are missing, or it
                is made already and cannot get any.
        """
        if isinstance(thing, self.base):
            if settings:
                raise SettingsError(
                    f"{self._making()}: {type(thing).__name__} is made already, so it cannot get {sorted(settings)}."
                )
            return thing
        if isinstance(thing, str):
            return self.make(self.find(thing), **settings)
        if isinstance(thing, Mapping):
            path, arguments = read_description(thing, self._making())
            return self.make(path, **{**arguments, **settings})
        if isinstance(thing, type) and issubclass(thing, self.base):
            return thing(**settings)
        if self.convert is not None and callable(thing) and not isinstance(thing, type):
            return self.convert(thing, **settings)
        function = "" if self.convert is None else ", a function"
        got = f"the class {thing.__qualname__}" if isinstance(thing, type) else repr(thing)
        raise SettingsError(
            f"{self._making()}: expected a subclass of {self.base.__name__}, its name, its class path{function} or"
            f" {{'class_path', 'init_args'}}, got {got}."
        )

    def restore(self, record: Any, doing: str) -> T:
        """The object that a record in a file stands for: one of the package's own. Whatever the
        file says, nothing is imported or called that the package does not hold.

        Args:
            record: a name, or `{"class_path", "init_args"}`.
            doing: opens the message of an error, and says which file.

        Raises:
            CheckpointError: it stands for something else, or its settings do not fit.
        """
        described = {"class_path": record} if isinstance(record, str) else record
        try:
            path, settings = read_description(described if isinstance(described, Mapping) else {}, doing)
            package, _, name = path.rpartition(".")
            files = ("", *self.own_names())
            own = self._find_own(name) if package.removeprefix(f"{self.package}.") in files else None
            if own is not None and package in ("", own.__module__):
                return own(**settings)
        except (UnknownNameError, TypeError, ValueError) as error:
            raise CheckpointError(f"{doing}: the {self.kind} {record!r} cannot be made. {error}") from error
        raise CheckpointError(
            f"{doing}: the {self.kind} {path!r} is not one of vidmarl's own, and nothing that a file names is imported."
            f" Name it yourself: {self.kind}={path!r}."
        )

    def find(self, name: str) -> Any:
        """What a name or a path stands for: a class, or whatever else a path leads to.

        Raises:
            UnknownNameError: nothing.
        """
        if "." in name:
            return object_at(name, self.kind, self._all_names)
        if name not in self.own_names() and (found := plugins(self.package).get(name)):
            return found.load()
        return self._find_own(name)

    def _find_own(self, name: str) -> type[T]:
        """The class of the package's own that has the name, or is in the file of that name."""
        return self._class_in(name) if name in self.own_names() else self.find_class(name)

    def find_class(self, name: str) -> type[T]:
        """The class of that name; its file is looked at first, and the other files if it is not
        there.

        Raises:
            UnknownNameError: no file defines it.
        """
        likely = {_folded(name), _folded(name).removesuffix(_folded(self.kind))}
        for file in self.own_names():
            if _folded(file) in likely and (found := self._class_in(file)).__name__ == name:
                return found
        classes = {} if name.islower() else self.classes()  # no class has a name of small letters
        if name not in classes:
            raise UnknownNameError(self.kind, name, [*self.names(), *classes])
        return classes[name]

    def name_of(self, made: T) -> str:
        """The shortest name that leads to the class of an object: that of its file, or its class
        path."""
        kind = type(made)
        package, _, file = kind.__module__.rpartition(".")
        return (
            file if package == self.package and file in self.own_names() else f"{kind.__module__}.{kind.__qualname__}"
        )

    def attributes(self) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
        """`__getattr__` and `__dir__` for the package, so that its classes are its attributes."""

        def __getattr__(name: str) -> Any:
            if name[:1].isupper():  # the names of files are left to the import system
                try:
                    return self.find_class(name)
                except UnknownNameError as error:
                    raise AttributeError(f"module {self.package!r} has no attribute {name!r}. {error}") from None
            raise AttributeError(f"module {self.package!r} has no attribute {name!r}")

        def __dir__() -> list[str]:
            return sorted({*importlib.import_module(self.package).__all__, *self.classes()})

        return __getattr__, __dir__

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {self.names()})"

    def _all_names(self) -> list[str]:
        return [*self.names(), *self.classes()]

    def _class_in(self, file: str) -> type[T]:
        """The one class of the kind that a file defines."""
        module: ModuleType = importlib.import_module(f"{self.package}.{file}")
        found = [
            value
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, self.base) and value.__module__ == module.__name__
            if not name.startswith("_")
        ]
        if len(found) != 1:
            raise TypeError(
                f"Looking into {module.__file__}: expected one public subclass of {self.base.__name__}, got"
                f" {[value.__name__ for value in found]}. A file that defines none of its own belongs elsewhere."
            )
        return found[0]

    def _making(self) -> str:
        return f"Making {'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"


def read_description(description: Mapping[str, Any], doing: str) -> tuple[str, dict[str, Any]]:
    """The class path and the settings of `{"class_path": ..., "init_args": {...}}`.

    Args:
        description: plain data, as from YAML; "init_args" may be missing or None.
        doing: opens the message of an error.

    Raises:
        SettingsError: it is something else.
    """
    path, arguments = description.get("class_path"), description.get("init_args")
    surplus = sorted(description.keys() - {"class_path", "init_args"}, key=str)
    if not isinstance(path, str) or not isinstance(arguments, Mapping | None) or surplus:
        raise SettingsError(
            f"{doing}: expected {{'class_path': a name or 'package.module.Class', 'init_args': {{...}}}}, got"
            f" {dict(description)!r}."
        )
    return path, dict(arguments or {})


def object_at(path: str, kind: str, known: Callable[[], Collection[str]] = tuple) -> Any:
    """What the path "package.module.name" leads to, which may be a name within a class; or
    "folder/file.py:name".

    Args:
        path: the path; its module is imported, its file is run.
        kind: what is looked for, for the message of an error.
        known: gives names to offer where the path leads nowhere.

    Raises:
        UnknownNameError: it leads nowhere.
        ModuleNotFoundError: the module is there, but lacks one that it imports.
    """
    if is_file_path(path):
        return _object_in_file(path, kind)
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise UnknownNameError(kind, path, known())
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            continue
        for depth, part in enumerate(parts[length:], length):
            try:
                found = getattr(found, part)
            except AttributeError:
                there = [".".join([*parts[:depth], name]) for name in _public(found)]
                raise UnknownNameError(kind, path, [*there, *known()]) from None
        return found
    raise UnknownNameError(kind, path, known(), f"no module {parts[0]!r}, here or installed")


def is_file_path(path: str) -> bool:
    """Whether a path is one of a name in a file of Python, "folder/file.py:name"."""
    return ".py:" in path or path.endswith(".py")


def _object_in_file(path: str, kind: str) -> Any:
    """What "folder/file.py:name" leads to; the file is run, once."""
    file, _, name = path.rpartition(":") if ".py:" in path else (path, "", "")
    where = Path(file).expanduser()
    if not where.is_file():
        beside = [str(Path(file).with_name(other.name)) for other in where.parent.glob("*.py")]
        raise UnknownNameError(kind, path, beside, f"no file {file!r} here")
    module = _run_file(where)
    if not hasattr(module, name):
        own = [known for known in _public(module) if getattr(vars(module)[known], "__module__", "") == module.__name__]
        lacking = f"no {name!r} in that file" if name else "no name after the file, such as 'mine.py:make'"
        raise UnknownNameError(kind, path, [f"{file}:{known}" for known in own or _public(module)], lacking)
    return getattr(module, name)


def _run_file(file: Path) -> ModuleType:
    """The module that a file is, as `python FILE` would run it: what lies beside it can be
    imported."""
    folder, stem = str(file.resolve().parent), file.stem
    if folder not in sys.path:
        sys.path.append(folder)  # the last: nothing there takes the place of a library
    spec = importlib.util.find_spec(stem) if stem.isidentifier() else None
    if spec is not None and spec.origin is not None and os.path.realpath(spec.origin) == str(file.resolve()):
        return importlib.import_module(stem)
    # another module has that name, or it is none
    name = f"{stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None  # of a file in .py
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _public(thing: Any) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("_")]


def plugins(group: str) -> dict[str, EntryPoint]:
    """What installed packages bring as entry points of a group, such as "vidmarl.attacks", by name;
    nothing of it is imported."""
    from importlib.metadata import entry_points  # 30 ms, for those who look further than here

    return {found.name: found for found in reversed(tuple(entry_points(group=group)))}  # the first of a name


def package_of(point: EntryPoint) -> str:
    """Who brings an entry point, in words."""
    return f"of the package {point.value if point.dist is None else point.dist.name}"


def first_sentence(text: str | None) -> str:
    """What a docstring or a comment begins with: its first sentence, in one line and without the
    full stop."""
    paragraph = " ".join((text or "").strip().partition("\n\n")[0].split())
    return re.split(r"(?<!al)(?<!\b[A-Z])\.(?: (?=[A-Z])|$)", paragraph)[0]


def _folded(name: str) -> str:
    """A name as it is compared: `GrowAndReduce` and `grow_and_reduce` are the same."""
    return name.replace("_", "").casefold()


def explain_settings(cls: C) -> C:
    """Makes a class answer unknown, missing and surplus settings with a `SettingsError` that helps.

    It wraps the `__init__` that the class defines itself, if it does; `inspect.signature`, and with
    it Jupyter and jsonargparse, still see the original. Use it as a decorator (above
    `@dataclass`), or in `__init_subclass__`.
    """
    init = vars(cls).get("__init__")
    if init is None or hasattr(init, "_explains_settings"):
        return cls
    signature = _without_self(init)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        kind = type(self)
        _check(f"Making {kind.__name__}", signature, args, settings, lambda: settings_of(kind))
        init(self, *args, **settings)

    __init__._explains_settings = True  # type: ignore[attr-defined]
    cls.__init__ = __init__  # type: ignore[misc]
    return cls


def call(function: Any, doing: str, **settings: Any) -> Any:
    """`function(**settings)`, where settings that do not fit are answered as by `explain_settings`.

    Args:
        function: a class or a function.
        doing: opens the message of an error.
        **settings: its arguments.

    Raises:
        SettingsError: it has no such settings, needs others, or cannot be called at all.
    """
    if not callable(function):
        raise SettingsError(f"{doing}: expected a class or a function, got {function!r}.")
    signature = inspect.signature(function)
    _check(doing, signature, (), settings, lambda: _by_name(signature))
    return function(**settings)


def settings_of(cls: type) -> dict[str, inspect.Parameter]:
    """The settings that a class takes by name, those that it passes on to its bases included."""
    settings: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        signature = _without_self(vars(base)["__init__"])
        settings = _by_name(signature) | settings
        if not _takes_others(signature):
            break
    return settings


def _check(
    doing: str,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    settings: Mapping[str, Any],
    known: Callable[[], Collection[str]],
) -> None:
    """Raises a `SettingsError` unless a signature takes these arguments.

    Args:
        doing: opens the message.
        signature: of what is to be called.
        args: arguments without a name.
        settings: arguments with a name.
        known: the names to offer, worked out only when there is an error.
    """
    try:
        signature.bind(*args, **settings)
    except TypeError as error:
        by_name = _by_name(signature)
        positional = [p.name for p in signature.parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
        unknown = [] if _takes_others(signature) else [name for name in settings if name not in by_name]
        twice = [name for name in positional[: len(args)] if name in settings]
        given = {*positional[: len(args)], *settings}
        missing = [name for name, p in by_name.items() if p.default is p.empty and name not in given]
        if unknown:
            fault = " ".join(f"there is no setting {name!r}; {nearest(name, known())}" for name in unknown)
        elif len(args) > len(positional):
            named = [name for name in known() if name not in positional]
            fault = (
                f"expected at most {len(positional)} settings without a name ({', '.join(positional) or 'none'}), got"
                f" {len(args)}. Name the others: {', '.join(named)}."
            )
        elif twice:
            fault = f"got {', '.join(map(repr, twice))} twice, by place and by name."
        else:
            fault = f"expected a value for {' and '.join(map(repr, missing))}, got none." if missing else f"{error}."
        raise SettingsError(f"{doing}: {fault}") from None


def _without_self(method: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(method)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _by_name(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in signature.parameters.items() if parameter.kind in kinds}


def _takes_others(signature: inspect.Signature) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())

"""What is wrong with a command's words, its YAML or a user's own code, in a line and in the user's
words."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import errno
import importlib
import inspect
import itertools
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vidmarl.errors import SettingsError, VidmarlError, nearest
from vidmarl.utils.recipes import list_configs

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser as Base
else:
    Base = object

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list, such as '[1, 2]' or '[first, second]'",
    "tuple": "a list of numbers, such as '[64, 64]'",
    "dict": 'settings as JSON, such as \'{"name": "value"}\'',
    "NoneType": "null",
}
"""Types of Python in plain words."""

TRACEBACK = "\nVIDMARL_DEBUG=1 shows the whole traceback."
"""What is said of an error in the user's own code."""

FILE_FAULTS = {
    errno.ENOENT: "there is no such file or folder, or nothing may be written there",
    errno.EEXIST: "there is a file of that name where a folder is needed",
    errno.ENOTDIR: "there is a file of that name where a folder is needed",
    errno.EISDIR: "there is a folder of that name where a file is needed",
}
"""What the system means by some of its errors."""

OTHERS_CODE = tuple(
    os.path.join(os.path.realpath(path), "")
    for path in (
        str(Path(__file__).parents[1]),
        *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
    )
)
"""The folders of code that is not the user's."""


class PlainParser(Base):
    """Mixed into a parser of jsonargparse: it raises a `SettingsError` in plain words where the
    other prints its usage and types of Python, and takes `-` for `_` in the name of an option."""

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        known = {option for action in _actions(self, args or ()) for option in action.option_strings}
        spelt = None if args is None else [_as_known(word, known) for word in args]
        settings = super().parse_args(spelt, *rest, **kwargs)
        for name, value in vars(settings).items():
            if isinstance(value, str) and value.startswith(("{", "[")):
                raise SettingsError(f"--{name}: {value} is no JSON; are its brackets and quotes in pairs?")
        return settings

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within this one, whose error is that of one way to read a value
            super().error(message, ex)
        raise SettingsError(_answer(self, message, ex)) from ex


def told(error: BaseException) -> str:
    """An error for the person who made the mistake: what an error of vidmarl says, the place in the
    user's own code that raised, or what the system says of a file.

    Args:
        error: what was raised; what it was raised from is looked at too.
    """
    for cause in _chain(error):
        if isinstance(cause, VidmarlError):
            return str(cause)
        if place := _own_code(cause):
            return f"{place}: {type(cause).__name__}: {cause}".removesuffix(": ") + TRACEBACK
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        name = re.sub(r"\.(.+)\.[0-9a-f]{16}\.vidmarl-partial", r"\1", os.fsdecode(error.filename))
        return f"{_short(name)}: {FILE_FAULTS.get(error.errno or 0, error.strerror.lower())}."
    if ways := re.findall(r"^  - (.*)", str(error), re.MULTILINE):  # of jsonargparse, to read a value: the first counts
        return str(ways[0])
    return str(error).partition("\nGiven value type: ")[0] or type(error).__name__


def check_recipes(words: Iterable[str]) -> None:
    """Looks at the files of settings among a command's words (`-c FILE`).

    Raises:
        SettingsError: one is not there, is no text, no YAML, or holds no settings by name.
    """
    import yaml

    words = list(words)
    spelt = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    for name in [*spelt, *(after for word, after in itertools.pairwise(words) if word in ("-c", "--config"))]:
        doing = f"Reading the settings {name}"
        try:
            content = yaml.safe_load(Path(name).read_text("utf-8"))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise SettingsError(f"{doing}, line {line}: it is no YAML: {error.problem}.") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"{doing}: it is no YAML, and no text at all.") from error
        except FileNotFoundError as error:
            known = nearest(name, list_configs())
            raise SettingsError(f"{doing}: there is no such file, and none ships by that name; {known}") from error
        except OSError as error:
            why = "it is a folder" if Path(name).is_dir() else (error.strerror or "it cannot be read").lower()
            raise SettingsError(f"{doing}: {why}.") from error
        if not isinstance(content, dict):
            raise SettingsError(f"{doing}: expected lines such as 'budget: 200', got {content!r:.60}.")


def is_a_bug(error: BaseException) -> bool:
    """Whether an error tells of a fault of vidmarl or of a library, not of the user's mistake."""
    *_, first = _chain(error)
    return isinstance(first, NameError | AttributeError | AssertionError) and not in_own_code(error)


def in_own_code(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, was raised in the user's own code."""
    return any(map(_own_code, _chain(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _own_code(error: BaseException) -> str | None:
    """Where in the user's own code an error was raised: "mine.py, line 3"."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith("<") and not os.path.realpath(frame.filename).startswith(OTHERS_CODE):
            return f"{_short(frame.filename)}, line {frame.lineno}"
    return None


def _short(path: str) -> str:
    """A path as the user would write it here."""
    return os.path.relpath(path) if os.path.realpath(path).startswith(os.path.realpath(os.curdir) + os.sep) else path


def _as_known(word: str, known: Iterable[str]) -> str:
    """A word with the spelling of the option that it is meant to be."""
    option, equals, value = word.partition("=")
    if option.startswith("--") and option not in known:
        for other in known:
            if other.replace("-", "_") == option.replace("-", "_"):
                return other + equals + value
    return word


def _actions(parser: argparse.ArgumentParser, words: Iterable[str]) -> Iterator[argparse.Action]:
    """The settings that a parser takes, those of the command that is among the words included."""
    for action in parser._actions:
        commands: dict[str, Any] = getattr(action, "_name_parser_map", {})
        for name in commands.keys() & set(words):
            yield from _actions(commands[name], ())
        yield action


def _answer(parser: Any, message: str, error: Exception | None) -> str:
    """What jsonargparse says, in plain words."""
    for cause in _chain(error):
        if isinstance(cause, VidmarlError) or _own_code(cause):
            return told(cause)
    actions = list(_actions(parser, getattr(parser, "args", ())))
    more = f"`{_command(parser)} --help` tells more."
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        word = found[1].partition("=")[0]
        if not word.startswith("-"):
            return f"the word {word!r} belongs to no option. {more}"
        options = [option for action in actions for option in action.option_strings if _is_typed(option)]
        return f"there is no option {word}; {_nearest(word, options, more)}"
    if found := re.match(r"the following arguments are required: (.*)", message):
        names = found[1].split(", ")
        missing = [_as_typed(action) for action in actions if action.dest in names] or names
        return f"expected {' and '.join(missing)}, got none. {more}"
    if found := re.match(r"argument (?:.*/)?(\S+): (.*)", message):
        choices = re.match(r"invalid choice: '(.*)' \(choose from (.*)\)", found[2])
        if choices is None:
            return f"{found[1]}: {found[2].replace('one argument', 'a value')}, got none. {more}"
        known = re.findall(r"'(.*?)'", choices[2])
        return f"expected one of {', '.join(known)}, got {choices[1]!r}."
    keys = re.findall(r'Parser key "(.+?)"', message)
    if keys:
        return f"--{'.'.join(dict.fromkeys(keys))}: {_fault(message)}"
    if found := re.search(r"(?:(?:Group '(.*?)' .*)?[Oo]ption) '(.*?)'", message):
        name = ".".join(filter(None, found.groups()))
        return f"there is no setting {name!r}; {_nearest(name, [action.dest for action in actions], more)}"
    return message


def _command(parser: Any) -> str:
    """The words that call a command: the first one after those of the program, where the parser is
    that of several."""
    several = any(hasattr(action, "_name_parser_map") for action in parser._actions)
    return " ".join([parser.prog.replace(" [options]", ""), *(getattr(parser, "args", [])[:1] if several else ())])


def _is_typed(option: str) -> bool:
    """Whether an option is one that a person writes."""
    return option.startswith("--") and not option.startswith(("--print_", "--help")) and not option.endswith("+")


def _as_typed(action: argparse.Action) -> str:
    """A setting as it is written on the command line."""
    shown = action.metavar if isinstance(action.metavar, str) else action.dest.rpartition(".")[2].upper()
    if isinstance(action.choices, Iterable):
        shown = f"one of {', '.join(map(str, action.choices))}"
    return f"{action.option_strings[0]} {shown}" if action.option_strings else shown


def _nearest(name: str, known: list[str], more: str) -> str:
    """The nearest known names, or where to read of them if there are many."""
    bare = {option.lstrip("-"): option for option in known}
    near = difflib.get_close_matches(name.lstrip("-"), bare, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(bare[key] for key in near)}?" if near else more


def _fault(message: str) -> str:
    """What is wrong with one value, from the most telling part of a message to the least."""
    given = re.search(r"(?:Got|Given) value: (.*)", message)
    value = given[1] if given else ""
    if nested := re.fullmatch(r"NestedArg\(key='(.*)', val='?(.*?)'?\)", value):
        value = nested[2]
    bases = re.findall(r"<class '([a-z_]+\.[\w.]+)'>", message.partition("Errors:")[0])
    owner = re.findall(r"class_path '(.+?)'", message)
    kinds = [KINDS.get(kind, "") for kind in re.findall(r"Expected a <class '(.*?)'>", message)]
    if found := re.search(r"[Oo]ption '(\S+?)' is not accepted", message):
        return f"there is no setting {found[1]!r}; {_of_class(found[1], owner)}"
    if found := re.search(r"the following arguments are required: (.*)", message):
        return f"expected a value for {found[1]}, got none."
    if found := re.search(r"(No module named '.*?')|No (\S+) attribute (\S+)", message):
        hint = nearest(value.rpartition(".")[2], _classes_below(bases))
        return f"there is no {value} ({found[1] or f'{found[2]} has no {found[3]}'}); {hint}"
    if found := re.search(r"Unable to load config '(.*)'", message):
        return f'expected settings, such as \'{{"name": "value"}}\', got {found[1]!r}.'
    if found := re.search(r"Expected a typing.Literal\[(.*?)\]", message):
        known = [str(choice) for choice in ast.literal_eval(f"[{found[1]}]")]
        return f"expected one of {', '.join(known)}, got {value!r}."
    if "dot import path" in message:
        if names := [name for base in bases if dataclasses.is_dataclass(_at(base)) for name in _settings(base)]:
            return f"expected JSON with any of {', '.join(names)}, got {value!r}."
        return f"there is no class {value!r}; {nearest(value, _classes_below(bases))}"
    if any(kinds) and set(kinds) != {"null"}:
        return f"expected {' or '.join(dict.fromkeys(kinds))}, got {value!r}."
    if found := re.search(r"Import path (?:(\S+) )?does not correspond to a subclass of (\S+)", message):
        return f"expected the class path of a {found[2]}, got {found[1] or value}, which is none."
    return re.sub(r"\s+", " ", message.partition("\n")[2] or message.partition(": ")[2])


def _at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _of_class(setting: str, paths: list[str]) -> str:
    """The nearest settings of the class that the last path leads to."""
    return nearest(setting, _settings(paths[-1]) if paths else ())


def _settings(path: str) -> list[str]:
    return list(inspect.signature(_at(path)).parameters)


def _classes_below(paths: list[str]) -> set[str]:
    """The names of all classes derived from those that paths lead to."""
    found, below = set(), [_at(path) for path in paths]
    while below:
        kind = below.pop()
        found.add(kind.__name__)
        below += kind.__subclasses__()
    return found

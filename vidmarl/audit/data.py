"""Clips from what a command line can name: a folder, a CSV file, a dataset."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vidmarl import data
from vidmarl.data.base import ClipSource
from vidmarl.data.folder import Folder
from vidmarl.data.listed import ListedClips
from vidmarl.data.synthetic import Synthetic
from vidmarl.errors import DataError, SettingsError
from vidmarl.registry import call, object_at, plugins, read_description

LISTS = (".csv", ".tsv", ".txt")


def as_source(thing: str | Mapping[str, Any]) -> ClipSource | Synthetic:
    """The clips that a text or a description names.

    Args:
        thing: a folder with a folder for each class; a CSV file; the name of a dataset, "UCF101" or
            "ucf101"; the path of a class, package.module.Class or file.py:Class; or `{"class_path",
            "init_args"}`.

    Raises:
        UnknownNameError: there is no such dataset.
        SettingsError: it is none of these, or the dataset has no such setting.
        DataError: the clips are not there.
    """
    if isinstance(thing, str):
        if Path(thing).is_dir():
            return Folder(thing)
        if Path(thing).suffix.lower() in LISTS:
            return ListedClips(thing)
        if Path(thing).is_absolute() or thing.endswith("/"):
            raise DataError(f"Looking for clips: there is no folder {thing}.")
    path, settings = read_description({"class_path": thing} if isinstance(thing, str) else thing, "Looking for clips")
    known = {kind.__name__.casefold(): kind for kind in (*_kinds(), Synthetic)}
    own = plugins("vidmarl.datasets")
    kind = known.get(path.rpartition(".")[2].casefold()) if "." not in path or path.startswith("vidmarl.") else None
    if kind is None:
        kind = own[path].load() if path in own else object_at(path, "dataset", lambda: sorted(known))
    made = call(kind, f"Making the dataset {path!r}", **settings)
    if not isinstance(made, ClipSource | Synthetic):
        raise SettingsError(f"Looking for clips: {path!r} is no dataset: it gave {made!r}, no ClipSource.")
    return made


def _kinds() -> Iterator[type[ClipSource]]:
    """The datasets that ship."""
    for file in pkgutil.iter_modules(data.__path__):
        importlib.import_module(f"{data.__name__}.{file.name}")
    waiting: list[type[ClipSource]] = [ClipSource]
    for kind in waiting:  # grows
        waiting += kind.__subclasses__()
        if kind is not ClipSource and kind.__module__.startswith(f"{data.__name__}."):
            yield kind

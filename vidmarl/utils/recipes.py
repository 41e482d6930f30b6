"""The files of settings that ship (`conf/`), by name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

SUFFIX = ".yaml"


def recipes_root() -> Path:
    """The folder of the settings that ship: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "conf"
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / "conf"


def list_configs() -> list[str]:
    """The names of the settings that ship, sorted, such as "movinet_ucf101" and
    "distortion/gaussian_noise"."""
    root = recipes_root()
    return sorted(file.relative_to(root).with_suffix("").as_posix() for file in root.rglob(f"*{SUFFIX}"))


def find_recipe(name: str) -> str:
    """The path of a file of settings: that file, or else the one that ships by that name, which may
    be written as a path in the checkout ("conf/small.yaml"); as it is where there is neither."""
    if not Path(name).exists():
        known = name.removeprefix("conf/").removesuffix(SUFFIX)
        if known in list_configs():
            return str(recipes_root() / f"{known}{SUFFIX}")
    return name


def with_recipes(words: Sequence[str]) -> list[str]:
    """A command's words with the paths of the settings that are named after `-c`."""
    told = list(words)
    for at, (before, word) in enumerate(itertools.pairwise(["", *words])):
        if before in ("-c", "--config"):
            told[at] = find_recipe(word)
        elif word.startswith("--config="):
            told[at] = f"--config={find_recipe(word.removeprefix('--config='))}"
    return told

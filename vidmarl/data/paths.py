"""Where things lie: the data folder (VIDMARL_DATA), and the cache of what can be made again
(VIDMARL_CACHE)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vidmarl.errors import DataError

VARIABLE = "VIDMARL_DATA"
CACHE_VARIABLE = "VIDMARL_CACHE"


def data_root() -> Path:
    """The data folder: `$VIDMARL_DATA`, else the checkout's own `data/`, else `./data`. It need not
    exist."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    return (checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()) / "data"


def data_path(*parts: str) -> Path:
    """A file or folder inside the data folder, such as `data_path("clips", "ucf101")`.

    Raises:
        DataError: it is not there.
    """
    path = data_root().joinpath(*parts)
    if not path.exists():
        source = f"${VARIABLE}" if os.environ.get(VARIABLE) else f"the default data folder; ${VARIABLE} is not set"
        raise DataError(
            f"Looked for {'/'.join(parts)!r} in {data_root()} ({source}): it is not there. Put the data where"
            f" data/README.md says, or point {VARIABLE} to the folder that holds clips/, labels/, splits/ and weights/."
        )
    return path


def cache_root() -> Path:
    """The cache folder: `$VIDMARL_CACHE`, else `vidmarl` among the user's caches. It need not
    exist."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "vidmarl" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "vidmarl"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "vidmarl"

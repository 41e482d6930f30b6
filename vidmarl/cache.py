"""Where things are kept that can be made again, such as the trained victim of the demo."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "VIDMARL_CACHE"


def cache_root() -> Path:
    """The cache folder: `$VIDMARL_CACHE`, else `vidmarl` among the user's caches. It need not exist."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "vidmarl" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "vidmarl"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "vidmarl"

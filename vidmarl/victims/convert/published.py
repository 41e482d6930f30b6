"""The state dicts of PyTorch that MMAction2, and the authors of TSM, publish.

The victims read them as they are. A file made here is smaller, has the names of this package, and
is without the Python objects that some of the published ones hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from vidmarl.victims import c3d, tpn, tsn
from vidmarl.victims.convert import Converted
from vidmarl.victims.names import renamer
from vidmarl.victims.weights import read

Renamer = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
KINDS: dict[str, tuple[str, Renamer]] = {
    "c3d": ("c3d", renamer(c3d.RULES)),
    "tsn": ("tsn_r50", tsn.renamed),
    "tsm": ("tsm_r50", tsn.renamed),
    "tpn": ("tpn_r50", renamer(tpn.RULES)),
}
"""The victim of each conversion, and what gives its tensors their names."""


def convert(name: str, path: Path) -> Converted:
    """See `vidmarl.victims.convert.convert`."""
    victim, renamed = KINDS[name]
    state = renamed(read(path, objects=True).state)
    return Converted(victim, {key: value.detach().clone() for key, value in state.items()})

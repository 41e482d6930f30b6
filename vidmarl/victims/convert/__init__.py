"""Published weights of other frameworks, as files that the victims of `vidmarl list victims` take.

`vidmarl convert NAME SOURCE OUT` is the command. Nothing of a source is executed: pickles are read
by unpicklers that know arrays and plain data alone.
"""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vidmarl.errors import CheckpointError, UnknownNameError
from vidmarl.utils.files import PathLike, readable, save_tensors
from vidmarl.victims.loading import load_victim

MODULES = {
    "movinet": "tflite",
    "i3d": "flax",
    "lrcn": "keras",
    "convlstm": "keras",
    **dict.fromkeys(("c3d", "tsn", "tsm", "tpn"), "published"),
}
"""What can be converted, and the module here that does it: its `convert(name, path)`."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """Weights in the form of this package.

    Attributes:
        victim: the name of the victim that they are of.
        state: parameters and buffers by name.
        facts: plain data that belongs to them, such as an activation.
    """

    victim: str
    state: Mapping[str, Tensor]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def convert(name: str, source: PathLike, out: PathLike, labels: Sequence[str] | None = None) -> Converted:
    """Converts a published weight file.

    The victim is made of the result before anything is written.

    Args:
        name: what the file is of, a key of `MODULES`.
        source: the file.
        out: the file to write, which `load_victim(victim, weights=out)` reads.
        labels: the names of its classes, in the order of the scores; None: those in the file, if
            there are any.

    Raises:
        UnknownNameError: nothing is converted by that name.
        CheckpointError: the source is missing, damaged, or is of another network; or there is
            another number of labels than of classes.
        SettingsError: an optional library is not installed; the message names it.
    """
    if name not in MODULES:
        raise UnknownNameError("conversion", name, MODULES)
    path = Path(source).expanduser()
    if not path.is_file():
        raise CheckpointError(f"Converting {readable(path)}: there is no such file.")
    module = importlib.import_module(f"{__name__}.{MODULES[name]}")
    found: Converted = module.convert(name, path)
    content: dict[str, Any] = {**found.facts, "source": path.name, "state_dict": dict(found.state)}
    if labels is not None:
        content["class_names"] = list(labels)
    with tempfile.TemporaryDirectory() as folder:
        draft = save_tensors(Path(folder) / "converted.pt", content)
        try:
            made = load_victim(found.victim, draft, device="cpu")
        except CheckpointError as error:  # of a file that nobody else has seen
            raise CheckpointError(str(error).replace(str(draft), str(path))) from None
    classes = len(next(reversed(made.model.state_dict().values())))  # type: ignore[attr-defined]
    if labels is not None and len(labels) != classes:
        raise CheckpointError(
            f"Converting {readable(path)}: expected a name for each of its {classes} classes, got {len(labels)}."
        )
    save_tensors(out, content)
    return found


def wrong(path: Path, expected: str, got: str) -> CheckpointError:
    """The error of a file that is not what it should be."""
    return CheckpointError(f"Converting {readable(path)}: expected {expected}, got {got}.")

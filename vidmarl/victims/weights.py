"""Weight files and label lists: where they are, whether they are whole, how they get into a model.

Weights are looked for in the folder `weights/` of the data folder (`vidmarl.data.data_root`), in
the cache and where PyTorch keeps what it downloads; what is published is downloaded when it is
asked for. Label lists are in `labels/` of the data folder. Nothing is unpickled: a file that holds
more than tensors and plain data is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vidmarl.data.paths import data_root
from vidmarl.errors import CheckpointError, DataError
from vidmarl.utils.download import fetch, file_sha256
from vidmarl.utils.files import load_tensors, write_atomically
from vidmarl.utils.randomness import seeded
from vidmarl.victims.cards import WeightFile as WeightFile
from vidmarl.victims.cards import download_folder, find_weights
from vidmarl.victims.inert import read_tensors
from vidmarl.victims.labels import UCF101

RANDOM = "random"
STATE_KEYS = ("state_dict", "model_state", "model")
"""Under which keys a file may hold its state dict; a file that is a bare state dict is fine too."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a weight file holds.

    Attributes:
        state: parameters and buffers by name.
        class_names: in the order of the scores, where the file says.
        path: where it was read from.
        facts: plain data that the file holds beside its tensors, such as an activation.
    """

    state: Mapping[str, Tensor]
    class_names: list[str] | None
    path: Path
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def class_names(model: nn.Module, found: Weights | None, dataset: str | None = None) -> list[str] | None:
    """The names of a network's classes, in the order of its scores.

    Args:
        model: the network, made by `build`.
        found: what it was filled with; the classes of an untrained network have no names.
        dataset: whose names they are where the weight file brings none: those of the list
            `labels/<dataset>_labels.txt`, or those that are known of "kinetics400" and "ucf101".

    Returns:
        One name for each class, or None where they are not known.
    """
    if found is None:
        return None
    names = found.class_names or _names_of(dataset)
    return names if len(names) == len(_classifier_bias(model)[1]) else None


def _names_of(dataset: str | None) -> list[str]:
    """The class names of a data set, in the usual order of scores; none where they are not here."""
    path = data_root() / "labels" / f"{dataset}_labels.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8").splitlines()
    if dataset == "kinetics400":  # as torchvision has them beside its weights
        from torchvision import models

        return list(models.get_model_weights("r3d_18").DEFAULT.meta["categories"])
    return list(UCF101) if dataset == "ucf101" else []


def _classifier_bias(model: nn.Module) -> tuple[str, Tensor]:
    return next(reversed(model.state_dict().items()))


def find(name: str, weights: str | Path | None, own: WeightFile | None) -> Path | None:
    """The weight file of the victim `name`, downloaded if it is not here.

    Args:
        name: of the victim.
        weights: a path given by the user, or None.
        own: the file that the victim was written for, if there is one.

    Returns:
        Its path; None where none was given, none is here, and none is known.

    Raises:
        CheckpointError: the file given, or needed, is not there, or cannot be downloaded.
    """
    if weights is not None:
        return find_given(name, weights)
    if (path := find_weights(name, own)) is not None or own is None:
        return path
    return download(name, own)


def download(name: str, own: WeightFile) -> Path:
    """Downloads the weight file of the victim `name` into the cache.

    Of a file whose sha256 nobody has published, that of the first download is remembered beside it
    (`FILE.sha256`, as `sha256sum` writes it): that shows what changes afterwards, not whether the
    first one was right.

    Raises:
        CheckpointError: it has no address, cannot be had, or is no weight file; the message says
            which file to put where.
    """
    doing, random = f"Loading the victim {name!r}", "weights='random' for an untrained network"
    if own.url is None:
        known = "" if own.sha256 is None else f" (sha256 {own.sha256[:12]}...)"
        raise CheckpointError(
            f"{doing}: its weight file {own.name}{known} is not in {str(data_root() / 'weights')!r}. Set VIDMARL_DATA"
            f" to the folder that holds weights/{own.name}, pass weights='path/to/{own.name}', or {random}."
            f" `vidmarl list victims {name}` says where it comes from."
        )
    path = download_folder() / own.name
    try:
        fetch(own.url, path, sha256=own.sha256)
    except DataError as error:
        raise CheckpointError(f"{doing}: its weights are not here. {error}\nOr pass {random}.") from error
    if own.sha256 is None:
        try:
            read(path)
        except CheckpointError:
            path.unlink()
            raise
        write_atomically(_note(path), f"{file_sha256(path)}  {path.name}\n")
    return path


def _note(path: Path) -> Path:
    """Where the sha256 of a file's first download is."""
    return path.with_name(f"{path.name}.sha256")


def _expected(path: Path, own: WeightFile | None) -> str | None:
    """The sha256 that a file should have, or its first digits; None where it is not known."""
    if own is None or path.name != own.name:
        return None
    return own.sha256 or (_note(path).read_text("utf-8").split()[0] if _note(path).is_file() else None)


def find_given(name: str, weights: str | Path) -> Path:
    """The weight file that the user has given for the victim `name`.

    Raises:
        CheckpointError: it is not there.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "give the path of a .pt, .pth, .pyth or .safetensors file"
        raise CheckpointError(f"Loading the victim {name!r}: there is no weight file {str(path)!r}; {what}.")
    return path


def read(path: Path, sha256: str | None = None, *, objects: bool = False) -> Weights:
    """Reads a weight file, as tensors and plain data only.

    Args:
        path: a file of `torch.save` or safetensors.
        sha256: what its bytes must hash to, or the first digits of it, if known.
        objects: whether it may hold Python objects as well; nothing is made of them.

    Raises:
        CheckpointError: the file is damaged, is no weight file, or holds more than tensors and
            plain data.
    """
    doing = f"Reading the weights {str(path)!r}"
    if sha256 is not None:
        found = file_sha256(path)
        if not found.startswith(sha256):
            raise CheckpointError(
                f"{doing}: expected sha256 {sha256}, got {found} from {path.stat().st_size} bytes. The file is damaged"
                " or another one of that name: copy it again (or remove it, and what can be downloaded is), or rename"
                " it if these are weights of your own."
            )
    try:
        content = _load(path, objects)
    except Exception as error:
        raise CheckpointError(
            f"{doing}: expected a state dict of torch.save or safetensors, got a file that is none. It was cut short or"
            " damaged, is of another kind, or holds Python objects, which are never unpickled: save"
            " model.state_dict() alone."
        ) from error
    held = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    state = {key: value for key, value in held.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{doing}: expected named tensors, got the keys {list(content)[:5]}.")
    class_names = content.get("class_names")
    facts = {} if held is content else {key: value for key, value in content.items() if key not in STATE_KEYS}
    return Weights(state, list(class_names) if isinstance(class_names, list) else None, path, facts)


def _load(path: Path, objects: bool) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    content = read_tensors(path) if objects else load_tensors(path, "Reading it")
    if not isinstance(content, Mapping):
        raise TypeError(f"holds one {type(content).__name__}")
    return dict(content)


def fill(model: nn.Module, weights: Weights, name: str) -> None:
    """Puts weights into a model; nothing may be missing, left over or of another shape.

    Raises:
        CheckpointError: they belong to another network; `model` is untouched.
    """
    own = model.state_dict()
    theirs = weights.state
    # Files written before PyTorch 0.4.1, and converted ones, lack this counter, which evaluation
    # never reads.
    missing = [key for key in own if key not in theirs and not key.endswith("num_batches_tracked")]
    surplus = [key for key in theirs if key not in own]
    other = [
        f"{key} {tuple(theirs[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in theirs and theirs[key].shape != value.shape
    ]
    if missing or surplus or other:
        faults = ((missing, "missing"), (surplus, "not of this network"), (other, "of another shape"))
        seen = "; ".join(f"{len(keys)} {what} (such as {', '.join(keys[:2])})" for keys, what in faults if keys)
        raise CheckpointError(
            f"Loading {str(weights.path)!r} into the victim {name!r}: expected the {len(own)} tensors of this network,"
            f" got {len(theirs)}, of them {seen}. Is the file for another victim, or for another clip size?"
        )
    model.load_state_dict(dict(theirs), strict=False)


def build(
    name: str,
    make: Callable[..., nn.Module],
    weights: str | Path | None,
    own: WeightFile | None = None,
    like: Callable[[Weights], nn.Module] | None = None,
    renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> tuple[nn.Module, Weights | None]:
    """Makes the network of a victim and fills it.

    Args:
        name: of the victim.
        make: makes the network; takes the number of classes, or nothing for the usual number. The
            last tensor of its state dict must be the classifier's bias, from which the number of
            classes of a file is read.
        weights: path of a file; "random" for an untrained network, always the same one; None for
            the victim's own file, or, where it has none, for one that lies in the data folder under
            the victim's name.
        own: the file that the victim was written for, if there is one.
        like: makes the network that weights belong to, for one whose shape follows from more than
            the number of classes; None: `make`.
        renamed: gives the tensors of other programs the names that they have here; their files may
            hold Python objects, of which nothing is made.

    Returns:
        The network, and what it was filled with: None for an untrained one.

    Raises:
        CheckpointError: see `find`, `read` and `fill`.
    """
    path = None if weights == RANDOM else find(name, weights, own)
    with seeded(0):
        model = make()
        if path is None:
            if weights is None:
                warnings.warn(
                    f"The victim {name!r} has random weights: none were given, and there is no {name}.pt in"
                    f" {str(data_root() / 'weights')!r}. Pass weights='path/to/file', or weights='random' if meant.",
                    UserWarning,
                    stacklevel=4,  # of load_victim's caller
                )
            return model, None
        found = read(path, _expected(path, own), objects=renamed is not None)
        if renamed is not None:
            found = dataclasses.replace(found, state=renamed(found.state))
        bias, usual = _classifier_bias(model)
        classes = len(found.state[bias]) if bias in found.state and found.state[bias].ndim == 1 else len(usual)
        if like is not None:
            with contextlib.suppress(LookupError, ValueError, ArithmeticError):  # `fill` says what is wrong with them
                model = like(found)
        elif classes != len(usual):
            model = make(classes)
    fill(model, found, name)
    return model, found


def title(name: str, found: Weights | None) -> str:
    """How a victim is called in results, so that an untrained one is never taken for the real
    one."""
    return name if found is not None else f"{name} (random weights)"

"""What is known of a victim before it is made: what it is, what it wants, where its weights come
from.

Nothing heavy is imported here, so that what the whole zoo is can be told at once.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidmarl.data.paths import cache_root, data_root

if TYPE_CHECKING:
    from vidmarl.data.spec import ClipSpec

SUFFIXES = (".pt", ".pth", ".pyth", ".safetensors")
"""How the names of weight files end."""


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """A file that a victim was written for.

    Attributes:
        name: what the file is called.
        sha256: of its bytes, in hex, or the first digits of it; None where nobody has published it.
        url: its published address; None where it cannot be downloaded as it is.
    """

    name: str
    sha256: str | None = None
    url: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a victim that has a name.

    `str(card)` and `card.row()` are for people; a `pandas.DataFrame` of rows is a table of victims.

    Attributes:
        description: what it is, in a few words.
        name: as `load_victim` takes it; filled in by `victim_card`, like `input`.
        paper: where it was published, in short, such as "Tran et al., CVPR 2018".
        classes: the data set whose classes it tells apart, such as "Kinetics-400".
        input: its clips: frames x size in px, and how they are taken from a video.
        parameters: how many it has; None where nobody has counted.
        weights: the file of its weights; None where none is published as one file.
        repository: of its weights at Hugging Face, "ORG/NAME".
        made_by: the command that makes its weights, where they cannot be downloaded as they are.
        source: where its weights come from, in words; by default their address.
        licence: of its weights, as their source states it.
    """

    description: str
    name: str = ""
    paper: str = ""
    classes: str = ""
    input: str = ""
    parameters: int | None = None
    weights: WeightFile | None = None
    repository: str | None = None
    made_by: str = ""
    source: str = ""
    licence: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Card:
        """The card that `dataclasses.asdict` has made plain data of."""
        weights = record["weights"]
        return cls(**{**record, "weights": None if weights is None else WeightFile(**weights)})

    @property
    def address(self) -> str:
        """Where its weights come from."""
        if self.source:
            return self.source
        if self.repository is not None:
            return f"https://huggingface.co/{self.repository}"
        return (self.weights and self.weights.url) or ""

    @property
    def state(self) -> str:
        """How its weights can be had now: "here"; "download", on first use; the name of the command
        that makes them; "by hand", for a file that has no address; or "random only". It is looked
        up anew each time."""
        own = self.repository is not None and (data_root() / "weights" / self.name / "config.json").is_file()
        if own or find_weights(self.name, self.weights) or find_snapshot(self.repository):
            return "here"
        return self.way

    @property
    def way(self) -> str:
        """How weights that are not here can be had, see `state`."""
        if self.repository is not None or (self.weights is not None and self.weights.url is not None):
            return "download"
        command = " ".join(self.made_by.split()[:2])
        return command or ("random only" if self.weights is None else "by hand")

    def row(self) -> dict[str, str]:
        """What a table of victims says of it: a text for each column."""
        return {
            "name": self.name,
            "what it is": self.description,
            "classes": self.classes,
            "clips": self.input,
            "parameters": _rounded(self.parameters),
            "weights": self.state,
            "made by": self.made_by,
            "licence": self.licence,
            "source": self.address,
            "paper": self.paper,
        }

    def __str__(self) -> str:
        return "\n".join(f"{title}: {text}" for title, text in self.row().items() if text)


def _rounded(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"


def input_of(spec: ClipSpec) -> str:
    """How the clips of a victim are made, in a few words: "16 x 256 px, every 5th frame"."""
    height, width = spec.size
    size = f"{height}" if height == width else f"{height}x{width}"
    frames = "all frames" if spec.frames is None else f"{spec.frames}"
    ends = {1: "st", 2: "nd", 3: "rd"}
    if spec.sampling == "fps":
        how = f"{spec.fps:g} fps"
    elif spec.sampling == "stride":
        how = "every frame" if spec.stride == 1 else f"every {spec.stride}{ends.get(spec.stride, 'th')} frame"
    else:
        how = {"uniform": "evenly", "segments": "of as many parts", "steps": "by whole steps"}[spec.sampling]
    return f"{frames} x {size} px, {how}"


def find_weights(name: str, own: WeightFile | None) -> Path | None:
    """The weight file of a victim; None where it is not here.

    One that is called like the victim in the data folder comes first, so that own weights win. Its
    published file is looked for in the data folder, in the cache and where PyTorch keeps what it
    downloads.
    """
    folder = data_root() / "weights"
    named = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    known = (
        [] if own is None else [place / own.name for place in (folder, download_folder(), torch_folder(), cache_root())]
    )
    return next((path for path in (*named, *known) if path.is_file()), None)


def download_folder() -> Path:
    """Where weights are downloaded to."""
    return cache_root() / "weights"


def torch_folder() -> Path:
    """Where `torch.hub`, torchvision and pytorchvideo keep the weights that they download."""
    if hub := sys.modules.get("torch.hub"):  # a program may have set another folder
        return Path(hub.get_dir()) / "checkpoints"
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def hub_folder() -> Path:
    """Where `huggingface_hub` keeps what it downloads."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def find_snapshot(repository: str | None) -> Path | None:
    """The folder of the files of a Hugging Face repository in its cache, the newest; None where
    there is none with a config and weights as safetensors."""
    if repository is None:
        return None
    snapshots = (hub_folder() / f"models--{repository.replace('/', '--')}" / "snapshots").glob("*")
    whole = [path for path in snapshots if (path / "config.json").is_file() and any(path.glob("*.safetensors"))]
    return max(whole, key=lambda path: path.stat().st_mtime, default=None)

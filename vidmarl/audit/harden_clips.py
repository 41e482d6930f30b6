"""Training clips, clean and adversarial ones together, for the hardening of a victim."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vidmarl.data.base import ClipDataset, ClipSource
from vidmarl.data.module import DrawnClips
from vidmarl.data.synthetic import Synthetic
from vidmarl.training.victim_data import LabelledClips


class MixedClips(LabelledClips):
    """The clean training clips, each followed by what attacks have made of it.

    Args:
        train: the clean clips.
        adversarial: uint8[n 3 t h w].
        positions: int64[n], of the clips that they were made of in `train`.
        **settings: of `ClipData`.
    """

    def __init__(
        self,
        train: ClipSource | Synthetic,
        adversarial: UInt8[Tensor, "n 3 t h w"],
        positions: Int64[Tensor, " n"],
        **settings: Any,
    ) -> None:
        super().__init__(train=train, **settings)
        self.adversarial = adversarial
        self.positions = positions

    def dataset(self, part: str) -> Any:
        """As of every data module; the training clips with the adversarial ones."""
        clean = super().dataset(part)
        return Mixed(clean, self.adversarial, self.positions) if part == "train" else clean


class Mixed(Dataset[tuple[Tensor, int]]):
    """A dataset, and adversarial clips after its own, asked for in the same way.

    Args:
        clean: the dataset.
        adversarial: uint8[n 3 t h w].
        positions: int64[n], of the clips that they were made of in the dataset's source.
    """

    def __init__(
        self,
        clean: ClipDataset | DrawnClips,
        adversarial: UInt8[Tensor, "n 3 t h w"],
        positions: Int64[Tensor, " n"],
    ) -> None:
        self.clean = clean
        self.adversarial = adversarial
        self.positions = positions

    def __len__(self) -> int:
        return len(self.clean) + len(self.positions)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[UInt8[Tensor, "3 t h w"], int]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if index < len(self.clean):
            return self.clean[epoch, index]
        row = index - len(self.clean)
        return self.adversarial[row], int(self.positions[row])

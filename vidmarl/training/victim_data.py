"""The clips of a victim's training: with their classes, and for the test in several views."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidmarl.data.base import ClipDataset
from vidmarl.data.module import Batch, ClipData, clips_and_index
from vidmarl.data.synthetic import Synthetic
from vidmarl.data.video import decode
from vidmarl.errors import DataError, SettingsError


class LabelledClips(ClipData):
    """Training, validation and test clips with their classes, for `VictimTraining`.

    Every batch is (clips float32[b 3 t h w], position of each in the source int64[b]); of the test
    clips the number of the view: view `v` of video `i` is `i * views + v`.
    """

    @staticmethod
    def collate(items: list[tuple[Tensor, int]]) -> Batch:
        """A training batch."""
        return clips_and_index(items)

    @property
    def classes(self) -> list[str]:
        """The names of the classes.

        Raises:
            DataError: there are no clips at all.
            SettingsError: the parts have other classes, or in another order.
        """
        if not self.sources:
            raise DataError("Training a victim: no clips were given. Set data.train, and data.test to measure it.")
        (first, known), *others = [(part, list(source.classes)) for part, source in self.sources.items()]
        for part, classes in others:
            if classes != known:
                raise SettingsError(
                    f"Training a victim: the {part} clips have the classes {classes[:5]}..., the {first} clips"
                    f" {known[:5]}... All parts need the same classes in the same order."
                )
        return known

    def labels(self, part: str) -> Int64[Tensor, " n"]:
        """The class of each clip of "train", "val" or "test", by its position in the source.

        Raises:
            DataError: a clip has none.
        """
        source = self.sources[part]
        if isinstance(source, Synthetic):
            return torch.arange(len(source)) % len(source.classes)
        if unknown := [file.name for file in source if file.label is None]:
            raise DataError(
                f"Training a victim: {len(unknown)} of the {len(source)} {part} clips have no class, such as"
                f" {unknown[0]}. Leave them out, or give their classes."
            )
        return torch.tensor(source.labels)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """The test clips in the views that the module wants (its `views`)."""
        views = getattr(self.trainer and self.trainer.lightning_module, "views", 1)
        dataset = self.dataset("test")
        return DataLoader(
            Views(dataset, views) if views > 1 and isinstance(dataset, ClipDataset) else dataset,
            batch_size=self.eval_batch_size,
            num_workers=self.num_workers,
            collate_fn=clips_and_index,
        )


class Views(Dataset[tuple[Tensor, int]]):
    """Each video of a dataset in several windows, spread evenly from its first to its last.

    An item is (uint8[3 t h w], number of the view): view `v` of video `i` is `i * views + v`.

    Args:
        dataset: of the videos.
        views: windows of each, at least 2.
    """

    def __init__(self, dataset: ClipDataset, views: int) -> None:
        self.dataset = dataset
        self.offsets = np.linspace(0, 1, views).tolist()

    def __len__(self) -> int:
        return len(self.dataset.videos) * len(self.offsets)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 t h w"], int]:
        row, view = divmod(index, len(self.offsets))
        video = self.dataset.videos[row]
        clip = decode(self.dataset.source[video].path, self.dataset.spec, self.offsets[view])
        return clip, video * len(self.offsets) + view

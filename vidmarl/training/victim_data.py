"""The clips of a victim's training: with their classes, and for the test in several views."""

from __future__ import annotations

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidmarl.data.base import ClipDataset
from vidmarl.data.module import Batch, ClipData, DrawnClips, clips_and_index
from vidmarl.data.synthetic import Synthetic
from vidmarl.errors import DataError, SettingsError


class LabelledClips(ClipData):
    """Training, validation and test clips with their classes, for `VictimTraining`.

    Every batch is (clips float32[b 3 t h w], position of each in the source int64[b]); of the test
    clips it is the number of the view: view `v` of the video at position `i` is
    `i * views_per_video + v`.
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

    @property
    def views_per_video(self) -> int:
        """How many views there are of each test video."""
        dataset = self.dataset("test")
        return len(dataset) // len(dataset.videos) if isinstance(dataset, ClipDataset) else 1

    def test_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """The views of the test clips, with their numbers."""
        return DataLoader(
            Numbered(self.dataset("test"), self.views_per_video),
            batch_size=self.eval_batch_size,
            num_workers=self.num_workers,
            collate_fn=clips_and_index,
        )


class Numbered(Dataset[tuple[Tensor, int]]):
    """A dataset whose items are (uint8[3 t h w], number of the view), so that ranks can tell a view
    that two of them have seen.

    Args:
        dataset: of views, those of a video one after the other.
        views: how many there are of each video.
    """

    def __init__(self, dataset: ClipDataset | DrawnClips, views: int) -> None:
        self.dataset = dataset
        self.views = views

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 t h w"], int]:
        clip, position = self.dataset[index]
        return clip, position * self.views + index % self.views

"""The clips of a training run, as Lightning wants them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from vidmarl.data.base import ClipDataset, ClipSource
from vidmarl.data.spec import ClipSpec
from vidmarl.data.synthetic import Synthetic
from vidmarl.data.video import as_batch
from vidmarl.errors import ClipError
from vidmarl.utils.kinds import check_least, checked

Batch = tuple[Float[Tensor, "b 3 t h w"], Int64[Tensor, " b"]]


class ClipData(lightning.LightningDataModule):
    """Training, validation and test clips; no video may stand on both sides.

    The order of the training clips and their augmentation follow from (seed, epoch, position)
    alone, not from a
    generator that runs on: a resumed run draws in its epoch what the run that was cut would have
    drawn, with any number of workers. The Trainer tells the sampler the epoch
    (`sampler.set_epoch`); a loop without a Trainer does so itself.

    Args:
        train: the videos to train on, or drawn clips.
        val: the videos to validate on.
        test: the videos to test on, and to predict on.
        batch_size: training clips a batch and rank.
        eval_batch_size: validation, test and prediction clips a batch and rank.
        num_workers: processes that decode; each has a cache of its own.
        spec: how clips of videos are sampled and sized; None: as the victim of the LightningModule
            (`.victim.spec`) wants them.
        augment: whether training clips of videos vary in window, crop and mirroring.
        mirror: whether a clip seen in a mirror shows the same class; not where left and right
            matter.
        repeats: how often each training video is drawn in an epoch, each time another window.
        views: windows in time and crops of each test video, see `Views`: they come as clips of
            their own, one after the other, with the same position.
        seed: of order and augmentation.
        cache_gb: memory for decoded videos, GiB per dataset and process.
    """

    @checked
    def __init__(
        self,
        train: ClipSource | Synthetic | None = None,
        val: ClipSource | Synthetic | None = None,
        test: ClipSource | Synthetic | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        spec: ClipSpec | None = None,
        augment: bool = True,
        mirror: bool = True,
        repeats: int = 1,
        views: tuple[int, int] = (1, 1),
        seed: int = 0,
        cache_gb: float = 1.0,
    ) -> None:
        super().__init__()
        check_least("ClipData", batch_size=(batch_size, 1), eval_batch_size=(eval_batch_size, 1), repeats=(repeats, 1))
        check_least("ClipData", num_workers=(num_workers, 0), seed=(seed, 0), cache_gb=(cache_gb, 0))
        self.sources = {name: source for name, source in (("train", train), ("val", val), ("test", test)) if source}
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.spec = spec
        self.augment = augment
        self.mirror = mirror
        self.repeats = repeats
        self.views = views
        self.seed = seed
        self.cache_gb = cache_gb
        self._datasets: dict[str, ClipDataset | DrawnClips] = {}
        if "train" in self.sources:
            for held_out in self.sources.keys() - {"train"}:
                forbid_overlap(self.sources["train"], self.sources[held_out], f"train and {held_out}")

    @staticmethod
    def collate(items: list[tuple[Tensor, int]]) -> Any:
        """A training batch of items (clip uint8[3 t h w], position in the source): the clips
        alone."""
        return _clips(items)

    def __repr__(self) -> str:
        sources = [f"{part}={source!r}" for part, source in self.sources.items()]
        return f"ClipData({', '.join([*sources, f'spec={self.spec}', f'batch_size={self.batch_size}'])})"

    def dataset(self, part: str) -> ClipDataset | DrawnClips:
        """The dataset of "train", "val" or "test", made when first asked for.

        Raises:
            ClipError: that part was not given, none of its videos can be used, or no spec is known.
        """
        if part not in self.sources:
            raise ClipError(f"ClipData: asked for the {part} clips, but none were given. Set data.{part}.")
        if part not in self._datasets:
            training, source = part == "train", self.sources[part]
            repeats = self.repeats if training else 1
            if isinstance(source, Synthetic):
                self._datasets[part] = DrawnClips(source, repeats)
                return self._datasets[part]
            self._datasets[part] = ClipDataset(
                source,
                self._spec(),
                augment=training and self.augment,
                mirror=self.mirror,
                repeats=repeats,
                views=self.views if part == "test" else (1, 1),
                seed=self.seed,
                cache_bytes=int(self.cache_gb * 2**30),
            )
        return self._datasets[part]

    def setup(self, stage: str) -> None:
        """Finds out before a training begins whether its clips fill a batch.

        Raises:
            ClipError: see `train_dataloader`.
        """
        if stage == "fit" and "train" in self.sources and self.trainer is not None:
            self._check_batches(self.dataset("train"), self.trainer.world_size)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Shuffled batches float32[b 3 t h w] in [0, 1], all of one size; this rank's share of
        them.

        Raises:
            ClipError: there are not enough clips for one batch.
        """
        dataset = self.dataset("train")
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        self._check_batches(dataset, ranks)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(dataset, ranks, rank, shuffle=True, seed=self.seed, drop_last=True),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,  # they have decoded videos in memory
            collate_fn=self.collate,
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]] | list[Any]:
        """Batches (clips float32[b 3 t h w], position of each in the source int64[b]), in the
        source's order."""
        return self._in_order("val") if "val" in self.sources else []

    def test_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """As `val_dataloader`. With several ranks some clips come twice; their positions tell."""
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """The test clips, as `val_dataloader`."""
        return self._in_order("test")

    def _in_order(self, part: str) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            self.dataset(part),
            batch_size=self.eval_batch_size,
            num_workers=self.num_workers,
            collate_fn=clips_and_index,
        )

    def _check_batches(self, dataset: ClipDataset | DrawnClips, ranks: int) -> None:
        if len(dataset) // ranks < self.batch_size:
            raise ClipError(
                f"ClipData: {len(dataset)} training clips an epoch on {ranks} ranks do not fill one batch of"
                f" {self.batch_size} each. Lower batch_size or raise repeats (now {self.repeats})."
            )

    def _spec(self) -> ClipSpec:
        if self.spec is not None:
            return self.spec
        victim = getattr(self.trainer and self.trainer.lightning_module, "victim", None)
        spec: ClipSpec | None = getattr(victim, "spec", None)
        if spec is None:
            raise ClipError(
                "ClipData: nothing says how clips are sampled and sized. Set data.spec, or train a module whose"
                " victim has a spec."
            )
        return spec


class EpochSampler(DistributedSampler[Any]):
    """A rank's share of an epoch's shuffled order, as (epoch, index), which is what `ClipDataset`
    seeds by."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in super().__iter__():
            yield self.epoch, index


class DrawnClips(Dataset[tuple[Tensor, int]]):
    """Drawn clips, asked for as those of a `ClipDataset` are.

    Args:
        source: the clips.
        repeats: how often each stands in the dataset.
    """

    def __init__(self, source: Synthetic, repeats: int = 1) -> None:
        self.source = source
        self.repeats = repeats

    def __len__(self) -> int:
        return len(self.source) * self.repeats

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[UInt8[Tensor, "3 t h w"], int]:
        index = (key[1] if isinstance(key, tuple) else key) % len(self.source)
        return self.source[index][0], index


def forbid_overlap(one: ClipSource | Synthetic, other: ClipSource | Synthetic, which: str) -> None:
    """Raises a ClipError if a video stands in both sources, by its path or by its content, or both
    are drawn by the same seed."""
    if isinstance(one, Synthetic) or isinstance(other, Synthetic):
        if isinstance(one, Synthetic) and isinstance(other, Synthetic) and one.seed == other.seed:
            raise ClipError(f"ClipData: the clips of {which} are drawn by the same seed. Give each a seed of its own.")
        return
    places = {path.resolve() for path in one.paths}
    twice = {path for path in other.paths if path.resolve() in places}
    sizes = _by_size(one.paths)
    for size, candidates in _by_size(other.paths).items():  # only files of one size can be alike
        if size in sizes:
            known = {_sha256(path) for path in sizes[size]}
            twice |= {path for path in candidates if _sha256(path) in known}
    if twice:
        names = ", ".join(sorted(map(str, twice))[:5]) + (f" and {len(twice) - 5} more" if len(twice) > 5 else "")
        raise ClipError(
            f"ClipData: {len(twice)} videos stand in both {which}, so the figures would be of no worth: {names}."
            " Keep them apart by split, by classes and exclude, or by persons."
        )


def _by_size(paths: list[Path]) -> dict[int, list[Path]]:
    sizes = defaultdict(list)
    for path in paths:
        if path.is_file():  # one that is missing is reported when it is decoded
            sizes[path.stat().st_size].append(path)
    return sizes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _clips(items: list[tuple[Tensor, int]]) -> Tensor:
    return as_batch([clip for clip, _ in items])


def clips_and_index(items: list[tuple[Tensor, int]]) -> Batch:
    """A batch of items (clip uint8[3 t h w], position in the source)."""
    return _clips(items), torch.tensor([index for _, index in items])

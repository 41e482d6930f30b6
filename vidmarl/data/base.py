"""What every dataset is: a list of video files with their labels, and a torch dataset that decodes
them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from vidmarl.data.resize import window
from vidmarl.data.spec import ClipSpec
from vidmarl.data.timeline import Timeline
from vidmarl.data.video import Footage, probe
from vidmarl.data.views import Views
from vidmarl.errors import ClipError, DataError, SettingsError, UnknownNameError
from vidmarl.registry import explain_settings
from vidmarl.utils.files import PathLike, readable
from vidmarl.utils.kinds import check_least, checked
from vidmarl.utils.progress import progress_bar

T = TypeVar("T")

# fmt: off
VIDEO_SUFFIXES = frozenset([
    ".264", ".265", ".3g2", ".3gp", ".apng", ".asf", ".av1", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h261",
    ".h263", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg",
    ".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv",
    ".ogx", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m",
])
# fmt: on


class ClipFile(NamedTuple):
    """A video of a dataset.

    Attributes:
        path: where it is.
        label: index into the dataset's classes, or None.
        name: how it is called in results, unique within its class.
    """

    path: Path
    label: int | None
    name: str


class ClipSource(Sequence[ClipFile]):
    """The videos of a dataset in a fixed order; a subclass only has to find them.

    Args:
        files: the videos.
        classes: the class names that the labels index.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        explain_settings(cls)
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    @checked
    def __init__(self, files: Iterable[ClipFile], classes: Sequence[str] = ()) -> None:
        found = list(files)
        if strange := [file for file in found if not isinstance(file, ClipFile)]:
            raise SettingsError(f"{type(self).__name__}: files must hold ClipFiles, got {strange[0]!r}.")
        self.files = [file._replace(name=readable(file.name)) for file in found]
        self.classes = list(classes)
        wrong = [f for f in self.files if f.label is not None and not 0 <= f.label < len(self.classes)]
        if wrong:
            raise ValueError(f"{type(self).__name__}: {wrong[0]} has no class among the {len(self.classes)} given.")

    @property
    def paths(self) -> list[Path]:
        """The files, in order; `vidmarl.load_clips` takes them."""
        return [file.path for file in self.files]

    @property
    def labels(self) -> list[int | None]:
        """A class index for each file, or None where it is not known."""
        return [file.label for file in self.files]

    @property
    def names(self) -> list[str]:
        """What the files are called in results."""
        return [file.name for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> ClipFile: ...
    @overload
    def __getitem__(self, index: slice) -> ClipSource: ...
    def __getitem__(self, index: int | slice) -> ClipFile | ClipSource:
        if isinstance(index, slice):
            return ClipSource(self.files[index], self.classes)
        return self.files[index]

    def __repr__(self) -> str:
        present = len({file.label for file in self.files if file.label is not None})
        return f"{type(self).__name__}({len(self)} videos of {present} classes)"


def find_videos(root: PathLike) -> list[Path]:
    """Every video file below a folder, sorted by path; hidden files and folders are passed over.

    Links to folders are followed. Each folder counts once: where it lies if that is below `root`,
    else under the first link that leads to it.

    Raises:
        DataError: there is no such folder, or no video in it.
    """
    if not Path(root).is_dir():
        raise DataError(f"Looking for videos in {readable(root)}: there is no such folder.")
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    unreadable: list[OSError] = []
    starts = [os.fspath(root)]
    for start in starts:  # grows by the links that are met
        for folder, below, names in os.walk(start, onerror=unreadable.append):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                below.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            below[:] = sorted(name for name in below if not name.startswith("."))
            starts += [link for name in below if os.path.islink(link := os.path.join(folder, name))]
            found += [
                Path(folder, name)
                for name in names
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
            ]
    _warn_of(f"Looking for videos in {readable(root)}: folders that cannot be read", map(str, unreadable))
    if not found:
        raise DataError(f"Looking for videos in {readable(root)}: no file in it, or below it, is named as a video is.")
    return sorted(found)


def read_lines(path: PathLike, what: str) -> list[str]:
    """The lines of a text file, without the blank ones.

    Raises:
        DataError: there is no such file, or it is no text.
    """
    try:
        return [line.strip() for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"Reading {what} in {readable(path)}: {error}.") from error


def warn_of_lost_labels(what: str, names: Iterable[str], which: str) -> None:
    """A warning that counts and names what gives no label; none if there is nothing.

    Args:
        what: the name of the dataset.
        names: the folders or videos.
        which: what they are, such as "the videos of folders that are no class of the list".
    """
    _warn_of(f"{what}: no label for {which}", names)


def warn_of_missing(what: str, names: Iterable[str]) -> None:
    """A warning that counts and names the listed videos that are not there; none if all are."""
    _warn_of(f"{what}: videos that are not there are left out", names)


def _warn_of(what: str, names: Iterable[str]) -> None:
    names = sorted({readable(name) for name in names})
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        warnings.warn(f"{what} ({len(names)}): {', '.join(names[:10])}{more}.", stacklevel=6)


def choose(
    files: Sequence[ClipFile],
    classes: Sequence[str],
    what: str,
    *,
    only: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    max_clips: int | None = None,
) -> list[ClipFile]:
    """The part of a dataset that was asked for, in its order.

    Args:
        files: all there is.
        classes: every class name that may be asked for.
        what: the name of the dataset, for messages.
        only: the classes to keep; None: all, and the unlabelled.
        exclude: classes to leave out.
        max_clips: at most so many files, spread evenly over the list.

    Raises:
        DataError: nothing is left.
        UnknownNameError: a class that the dataset does not have.
        ValueError: `max_clips` is below 1.
    """
    for name in (*(only or ()), *(exclude or ())):
        if name not in classes:
            raise UnknownNameError(f"{what} class", name, classes)
    if max_clips is not None and max_clips < 1:
        raise ValueError(f"{what}: max_clips must be at least 1, got {max_clips}.")
    kept = [
        file
        for file in files
        if (only is None or (file.label is not None and classes[file.label] in only))
        and (not exclude or file.label is None or classes[file.label] not in exclude)
    ]
    if not kept:
        raise DataError(
            f"{what}: of {len(files)} videos found, none is in the part asked for (split, classes, exclude)."
        )
    return evenly(kept, max_clips)


def evenly(things: Sequence[T], count: int | None) -> list[T]:
    """At most `count` things (None: all), spread evenly over them; twice as many include them
    all."""
    count = len(things) if count is None else min(count, len(things))
    return [things[i * len(things) // count] for i in range(count)]


class ClipDataset(Dataset[tuple[Tensor, int]]):
    """Clips of a source, decoded as a spec says. An item is (uint8[3 t h w], position of the video
    in the source).

    With `augment`, each draw is another window of the video, another crop (out of a frame larger by
    `MARGIN`) and, half the time and with `mirror`, a mirror image. All of it follows from (seed,
    epoch, index): an item is asked for as `dataset[index]` (epoch 0) or `dataset[epoch, index]`,
    and is the same in every process, at every time, whatever was asked before.

    Whether a file can be used is looked at once, by its packets. Where it then fails all the same
    (damage inside it, a disk that is gone), a warning says so and the item is that of the next
    video that does not: a training run goes on.

    Args:
        source: the videos.
        spec: what the victim wants.
        augment: whether to vary the clips.
        mirror: whether a clip seen in a mirror shows the same class; not where left and right
            matter.
        repeats: how often each video stands in the dataset. Item `i` is video `i % videos`.
        views: windows in time and crops of each that there are of a video, see `Views`. Each is an
            item, those of a video one after the other: item `i` is view `i % v` of video `i // v`.
        seed: of the augmentation.
        cache_bytes: memory for decoded videos. What does not fit is decoded anew each time, with
            the same result.
        progress: show a progress bar while the files are looked at.

    Attributes:
        videos: positions in the source of the videos that can be used. Broken ones are left out
            with a warning.

    Raises:
        ClipError: no video of the source can be used, now or when an item is asked for.
        ValueError: `repeats` is below 1, or another number below 0.
    """

    MARGIN = 1 / 8

    @checked
    def __init__(
        self,
        source: ClipSource,
        spec: ClipSpec,
        *,
        augment: bool = False,
        mirror: bool = True,
        repeats: int = 1,
        views: tuple[int, int] = (1, 1),
        seed: int = 0,
        cache_bytes: int = 2**30,
        progress: bool = False,
    ) -> None:
        check_least("ClipDataset", repeats=(repeats, 1), seed=(seed, 0), cache_bytes=(cache_bytes, 0))
        self.views = Views(*views)
        if len(self.views.places(spec)) > 1 and augment:
            raise ValueError(f"ClipDataset: views={views} are of a video as it is. Set augment=False.")
        self.source = source
        self.spec = spec
        self.augment = augment
        self.mirror = mirror
        self.repeats = repeats
        self.seed = seed
        self.videos = _usable(source, spec, progress)
        self._room = cache_bytes
        self._clips: dict[int, Tensor] = {}
        self._latest = -1, torch.empty(0)
        self._films: dict[int, tuple[Tensor, Timeline]] = {}
        height, width = spec.size
        self._roomy = replace(
            spec,
            size=(round(height * (1 + self.MARGIN)), round(width * (1 + self.MARGIN))),
            short_side=None if spec.short_side is None else round(spec.short_side * (1 + self.MARGIN)),
        )

    def __repr__(self) -> str:
        return f"ClipDataset({len(self)} clips of {self.source!r}, {self.spec}, augment={self.augment})"

    def __len__(self) -> int:
        return len(self.videos) * self.repeats * self.views.clips * self.views.crops

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[UInt8[Tensor, "3 t h w"], int]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"ClipDataset: item {index} of {len(self)}.")
        failed: Exception | None = None
        first, view = divmod(index, self.views.clips * self.views.crops)
        for position in range(first, first + len(self.videos)):
            video = self.videos[position % len(self.videos)]
            try:
                return (self._varied(video, epoch, index) if self.augment else self._plain(video)[view]), video
            except (ClipError, OSError) as error:
                failed = error
                warnings.warn(f"Leaving out a clip, and taking the next video instead: {error}", stacklevel=2)
        raise ClipError(f"None of the {len(self.videos)} videos can be decoded any more: {failed}") from failed

    def _plain(self, video: int) -> Tensor:
        """All views of a video [v 3 t h w]; of the latest video they are kept in any case, since
        they are asked for one by one."""
        if video in self._clips:
            return self._clips[video]
        if self._latest[0] != video:
            self._latest = video, Footage(self.source[video].path).views(self.spec, self.views)
            if self._takes(self._latest[1].nbytes):
                self._clips[video] = self._latest[1]
        return self._latest[1]

    def _varied(self, video: int, epoch: int, index: int) -> Tensor:
        offset, down, right, side = np.random.default_rng([self.seed, epoch, index]).random(4)
        clip = self._window(video, float(offset))
        rows, columns = window(clip.shape[-2:], self.spec.size, float(down), float(right))
        clip = clip[..., rows, columns]
        return (clip.flip(-1) if self.mirror and side < 0.5 else clip).contiguous()

    def _window(self, video: int, offset: float) -> Tensor:
        """A clip of the larger frame; from memory where the whole video is there or fits."""
        if video not in self._films:
            footage = Footage(self.source[video].path)
            height, width = self._roomy.size
            if not self._takes(3 * len(footage.timeline) * height * width):
                return footage.frames(footage.sample(self.spec, offset), self._roomy)
            self._films[video] = footage.frames(range(len(footage.timeline)), self._roomy), footage.timeline
        frames, timeline = self._films[video]
        return frames[:, timeline.sample(self.spec, offset)]

    def _takes(self, size: int) -> bool:
        """Sets `size` bytes of the cache aside, if there are so many left."""
        if size > self._room:
            return False
        self._room -= size
        return True


def _usable(source: ClipSource, spec: ClipSpec, progress: bool) -> list[int]:
    """Positions of the videos that make a clip of this spec; a warning names the others."""
    usable, broken = [], []
    with ThreadPoolExecutor() as pool:  # FFmpeg lets go of the interpreter while it works
        faults = pool.map(lambda path: _fault(path, spec), source.paths)
        bar = progress_bar(faults, desc="looking at videos", unit="video", show=progress, total=len(source))
        try:
            for position, fault in enumerate(bar):
                if fault:
                    broken.append(fault)
                else:
                    usable.append(position)
        except BaseException:  # Ctrl-C does not wait for the rest
            pool.shutdown(cancel_futures=True)
            raise
    if broken:
        more = f"\n- and {len(broken) - 10} more" if len(broken) > 10 else ""
        named = "".join(f"\n- {line}" for line in broken[:10]) + more
        if not usable:
            raise ClipError(f"None of the {len(source)} videos of {source!r} can be used:{named}")
        warnings.warn(f"Leaving out {len(broken)} of the {len(source)} videos of {source!r}:{named}", stacklevel=4)
    if not usable:
        raise ClipError(f"{source!r} holds no videos.")
    return usable


def _fault(path: Path, spec: ClipSpec) -> str:
    """Why a video makes no clip of a spec; "" if it does."""
    try:
        _check(path, spec)
        return ""
    except (ClipError, OSError) as error:
        return str(error)


def _check(path: Path, spec: ClipSpec) -> None:
    """Raises a ClipError unless the video makes a clip; decodes it only where a frame more or less
    matters."""
    timeline = probe(path)
    if timeline.is_clip_of(spec):
        return
    sure = replace(timeline, times=timeline.times[:-1])  # the packets may promise one frame too many
    try:
        sure.sample(spec)
    except (ClipError, IndexError):
        Footage(path).sample(spec)

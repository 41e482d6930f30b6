"""Looks through a folder of videos: what it seems to be, and what in it is missing, broken, doubled
or odd."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import statistics
import threading
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vidmarl.data import hmdb51, ucf101, weizmann
from vidmarl.data.base import ClipSource, find_videos
from vidmarl.data.container import open_video
from vidmarl.data.folder import Folder
from vidmarl.data.kinetics import Kinetics
from vidmarl.data.paths import cache_root, data_root
from vidmarl.data.video import probe
from vidmarl.errors import ClipError
from vidmarl.utils.download import file_sha256
from vidmarl.utils.files import PathLike, readable
from vidmarl.utils.progress import progress_bar

if TYPE_CHECKING:
    from av import VideoFrame

UNLABELLED = "(no class)"
FEWEST_FRAMES = 8
"""A video with less is odd: most victims want at least so many."""

_VERSION = 1
"""Of what is kept of a file; raised when the look at it changes."""


class _Kind(NamedTuple):
    """A dataset that is known by the names of its files.

    Attributes:
        title: its name.
        stem: how its files are called.
        source: opens a folder of it.
        official: the class of every clip that it should have, by name, from a folder of lists; none
            where they are missing.
        name_of: the official name of a file, by its stem.
    """

    title: str
    stem: str
    source: Callable[[Path], ClipSource]
    official: Callable[[Path], dict[str, str]]
    name_of: Callable[[str], str]


KINDS = (
    _Kind("UCF-101", r"v_\w+_g\d+_c\d+", ucf101.UCF101, ucf101.official_clips, str.casefold),
    _Kind(
        "HMDB-51",
        r".+_[fhul]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+",
        hmdb51.HMDB51,
        hmdb51.official_clips,
        lambda stem: stem.removeprefix("hmdb51_").casefold(),
    ),
    _Kind(
        "Weizmann actions",
        weizmann.NAME.pattern,
        weizmann.Weizmann,
        lambda _: weizmann.official_clips(),
        lambda stem: re.sub(r"(?<!wave)\d$", "", stem.casefold()),  # lena runs, skips and walks twice
    ),
    _Kind("Kinetics", r"[\w-]{11}_\d{6}_\d{6}", Kinetics, lambda _: {}, str.casefold),
)
ANY = _Kind("videos in folders", "", Folder, lambda _: {}, str)
"""What is none of these."""


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """What a look at a file has found.

    Attributes:
        sha256: of its bytes.
        frames: how many it shows.
        fps: mean frames a second; 0 where it states none.
        height: of a frame, px.
        width: of a frame, px.
        pixels: a hash of its decoded frames; None where they were not decoded.
        broken: why it cannot be used, or what is damaged in it; "" of a whole one.
    """

    sha256: str
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    pixels: str | None = None
    broken: str = ""


@dataclasses.dataclass(frozen=True)
class DataReport:
    """What there is in a folder of videos, and what is wrong with it.

    Attributes:
        root: the folder.
        kind: the dataset that it seems to be.
        classes: of each class how many clips there are, should be (0: not known), are missing,
            broken, doubled and odd.
        missing: names of clips that the official lists have; None: there are no lists.
        broken: why a file cannot be used, or what is damaged in it, by its path.
        doubled: paths of the same video, in groups, and whether it is the bytes or only the frames
            that are the same.
        odd: what is unusual about a file, by its path.
        facts: what was found of each file, by its path. All paths are relative to `root`.
    """

    root: Path
    kind: str
    classes: dict[str, dict[str, int]]
    missing: list[str] | None
    broken: dict[str, str]
    doubled: list[dict[str, Any]]
    odd: dict[str, str]
    facts: dict[str, FileFacts] = dataclasses.field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, broken or doubled; what is odd may be right."""
        return not (self.missing or self.broken or self.doubled)

    def to_record(self) -> dict[str, Any]:
        """All of it as plain data."""
        record = dataclasses.asdict(self) | {"root": os.fspath(self.root), "ok": self.ok, "clips": len(self.facts)}
        return {name: record.pop(name) for name in ("root", "kind", "ok", "clips")} | record


def check_data(folder: PathLike, *, quick: bool = False, progress: bool = False) -> DataReport:
    """Looks through a folder of videos, several files at once.

    What was found of a file is kept in the cache folder, and used again as long as its size and
    date stay the same: a look that was stopped goes on where it was.

    Args:
        folder: where the videos are.
        quick: read the packets alone, and decode the first frame only: it finds neither damage
            inside a file nor videos whose frames are the same but not their bytes.
        progress: show a progress bar.

    Raises:
        DataError: there is no such folder, or no video in it.
    """
    root = Path(folder)
    videos = find_videos(root)
    kind = _kind_of(videos)
    facts = _looked_at(root, videos, quick, progress)
    labels = _labels(root, kind)
    names = {video: readable(video.relative_to(root)) for video in videos}
    classes = {video: labels.get(video, UNLABELLED) for video in videos}
    official = _official(root, kind)
    listed = {kind.name_of(name) for name in official}
    have = {kind.name_of(video.stem) for video in videos}
    missing = {name: said for name, said in official.items() if kind.name_of(name) not in have}
    doubled = list(_doubled(videos, facts))
    odd = _odd(facts)
    for video in videos if official else ():
        if kind.name_of(video.stem) not in listed:
            odd[video].append("in no official list")

    counts = {
        "clips": Counter(classes.values()),
        "official": Counter(official.values()),
        "missing": Counter(missing.values()),
        "broken": Counter(classes[video] for video in videos if facts[video].broken),
        "doubled": Counter(classes[video] for group, _ in doubled for video in group[1:]),
        "odd": Counter(classes[video] for video in odd),
    }
    every = sorted(set(counts["clips"]) | set(counts["official"]), key=lambda name: (name == UNLABELLED, name))
    return DataReport(
        root=root,
        kind=kind.title if labels else "loose videos",
        classes={name: {title: count[name] for title, count in counts.items()} for name in every},
        missing=sorted(missing) if official else None,
        broken={names[video]: facts[video].broken for video in videos if facts[video].broken},
        doubled=[{"same": same, "files": [names[video] for video in group]} for group, same in doubled],
        odd={names[video]: ", ".join(odd[video]) for video in videos if video in odd},
        facts={names[video]: facts[video] for video in videos},
    )


def look_at(path: Path, quick: bool = False) -> FileFacts:
    """Reads a video file to its end; `quick` as for `check_data`."""
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        return FileFacts(sha256="", broken=str(error))
    try:
        if quick:
            timeline = probe(path)
            return FileFacts(sha256, len(timeline), _rate(timeline.fps, timeline.timed))
        pixels, stamps = hashlib.blake2b(digest_size=16), []
        with open_video(path) as video:
            for frame in video.frames():
                stamps.append(frame.pts)
                pixels.update(_some_pixels(frame))
            if not stamps:
                raise video.undecodable("none of its frames")
            timeline = video.timeline(stamps)
            height, width = video.size
            fps = _rate(timeline.fps, timeline.timed)
            pixels.update(f"{height} {width}".encode())
            damage = video.damage(stamps)
        return FileFacts(sha256, len(timeline), fps, height, width, pixels.hexdigest(), damage)
    except (ClipError, OSError) as error:
        return FileFacts(sha256, broken=str(error))


def _rate(fps: float, timed: bool) -> float:
    return round(fps, 3) if timed else 0.0


def _some_pixels(frame: VideoFrame) -> bytes:
    """The first plane of a frame, every eighth row: enough to tell whether two videos are the
    same, at a twelfth of the time that hashing all would take."""
    plane: Any = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8)[: plane.height * plane.line_size].reshape(plane.height, -1)
    return rows[::8, : plane.width].tobytes()  # beyond the width there is padding


def _kind_of(videos: Sequence[Path]) -> _Kind:
    """The dataset whose names most files have."""
    for kind in KINDS:
        pattern = re.compile(kind.stem, re.IGNORECASE)
        if sum(bool(pattern.fullmatch(video.stem)) for video in videos) > len(videos) / 2:
            return kind
    return ANY


def _labels(root: Path, kind: _Kind) -> dict[Path, str]:
    """The class of each video that has one."""
    with warnings.catch_warnings(action="ignore"):  # what has no class is a row of the table
        source = kind.source(root)
    return {file.path: source.classes[file.label] for file in source if file.label is not None}


def _official(root: Path, kind: _Kind) -> dict[str, str]:
    """The class of every clip that there should be, by lists near the folder or in the data folder;
    none where there are none."""
    near = root.absolute().parent
    names = ("splits", "ucfTrainTestlist", "testTrainMulti_7030_splits", "")
    for folder in (*(near / name for name in names), near.parent / "splits", data_root() / "splits"):
        if folder.is_dir() and (official := kind.official(folder)):
            return official
    return {}


def _doubled(videos: Sequence[Path], facts: dict[Path, FileFacts]) -> Iterator[tuple[list[Path], str]]:
    """Groups of the same video, and what is the same: "bytes" or "frames"."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for video in videos:
        if facts[video].sha256:
            groups[facts[video].pixels or facts[video].sha256].append(video)
    for group in groups.values():
        if len(group) > 1:
            yield group, "bytes" if len({facts[video].sha256 for video in group}) == 1 else "frames"


def _odd(facts: dict[Path, FileFacts]) -> dict[Path, list[str]]:
    """What is unusual about whole files, beside the others of the folder."""
    whole = {video: found for video, found in facts.items() if found.frames}
    usual_fps = statistics.median([found.fps for found in whole.values() if found.fps] or [0.0])
    usual_frames = statistics.median([found.frames for found in whole.values()] or [0])
    odd: dict[Path, list[str]] = defaultdict(list)
    for video, found in whole.items():
        if found.frames < FEWEST_FRAMES:
            odd[video].append(f"only {found.frames} frames")
        elif found.frames > 20 * usual_frames:
            odd[video].append(f"{found.frames:,} frames, where {usual_frames:,.0f} are usual")
        if not found.fps:
            odd[video].append("states no frame rate")
        elif not usual_fps / 2.5 <= found.fps <= usual_fps * 2.5:
            odd[video].append(f"{found.fps:g} frames a second, where {usual_fps:g} are usual")
    return odd


def _looked_at(root: Path, videos: Sequence[Path], quick: bool, progress: bool) -> dict[Path, FileFacts]:
    """What is found of each file, or was found earlier."""
    folder = cache_root() / "checked"
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.jsonl"
    known = _known(cache)
    keys = {video: _key(root, video) for video in videos}
    facts = {video: found for video in videos if (found := known.get(keys[video])) and (quick or _whole(found))}
    left = [video for video in videos if video not in facts]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bar = progress_bar(
        None, show=progress, desc="looking at videos", unit="video", total=len(videos), initial=len(facts)
    )
    writing = threading.Lock()

    def look(video: Path) -> tuple[Path, FileFacts]:
        found = look_at(video, quick)
        if found.sha256:  # one that cannot be read may be readable the next time
            with writing:
                lines.write(json.dumps({"key": keys[video], **dataclasses.asdict(found)}) + "\n")
                lines.flush()
        return video, found

    # Threads: FFmpeg and the hashes let go of the interpreter while they work.
    with cache.open("a", encoding="utf-8") as lines, ThreadPoolExecutor(workers) as pool, bar:
        futures = [pool.submit(look, video) for video in left]
        try:
            for future in as_completed(futures):
                video, facts[video] = future.result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return facts


def _key(root: Path, video: Path) -> str:
    """What changes when a file does."""
    status = video.stat()
    return f"{_VERSION} {status.st_size} {status.st_mtime_ns} {readable(video.relative_to(root))}"


def _whole(found: FileFacts) -> bool:
    """Whether a file was read to its end, as far as that is possible."""
    return found.pixels is not None or bool(found.broken)


def _known(cache: Path) -> dict[str, FileFacts]:
    known: dict[str, FileFacts] = {}
    if cache.exists():
        for line in cache.read_text("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # cut short by a kill
                record = json.loads(line)
                key = record.pop("key")
                known[key] = FileFacts(**record)
    return known

"""Clips as pictures: the attacked region drawn in, the difference made visible, frames packed for a
web page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from vidmarl.data.encode import as_bytes, side_by_side

MORE = (230, 97, 1)
"""RGB of strengths above 0: orange."""

LESS = (131, 82, 224)
"""RGB of strengths below 0: purple, its counterpart for the colour-blind too."""


NEAR = 0.12
"""Share of a frame's side within which tubelets belong to one region."""


def to_frames(clip: Float[Tensor, "3 t h w"] | UInt8[Tensor, "3 t h w"]) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of a clip, channels last."""
    return rearrange(as_bytes(clip).cpu(), "c t h w -> t h w c").contiguous().numpy()


def gain(clean: Float[Tensor, "*b 3 t h w"], adversarial: Float[Tensor, "*b 3 t h w"]) -> int:
    """By how much a difference can be amplified for 95 % of the changed values to stay in range: 1,
    2, 4, ... 64."""
    changes = (adversarial - clean).abs().flatten().numpy()
    changes = changes[changes > 0]
    if len(changes) == 0:
        return 1
    return int(2 ** np.clip(math.floor(math.log2(0.5 / np.quantile(changes, 0.95))), 0, 6))


def difference(
    clean: Float[Tensor, "3 t h w"], adversarial: Float[Tensor, "3 t h w"], amplified: float
) -> UInt8[np.ndarray, "t h w 3"]:
    """What was added, as frames: mid-grey where nothing was, brighter where more, darker where
    less."""
    return to_frames(side_by_side(clean, adversarial, amplified).chunk(3, dim=-1)[2])


def tinted(
    frames: UInt8[np.ndarray, "t h w 3"], strength: Float[Tensor, "gt gh gw"], cell: Sequence[int]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames in grey, with the attacked tubelets in the colour of their strength.

    Args:
        frames: of the clip.
        strength: the strength map.
        cell: frames, px and px of a tubelet.
    """
    t, h, w, _ = frames.shape
    pixels = strength.numpy()
    for axis, size in enumerate(cell):
        pixels = pixels.repeat(size, axis)
    pixels = pixels[:t, :h, :w, None]
    grey = 0.6 * frames.mean(3, keepdims=True)
    colour = np.where(pixels > 0, np.array(MORE), np.array(LESS))
    opacity = np.where(pixels == 0, 0, 0.25 + 0.6 * np.abs(pixels))
    return np.asarray((grey * (1 - opacity) + colour * opacity).round(), np.uint8)


def hulls(strength: Float[Tensor, "gt gh gw"], cell: Sequence[int], frame: int) -> list[Float[np.ndarray, "_ 2"]]:
    """The outlines of the attacked region in a frame: what lies near to each other is in one convex
    hull.

    Tubelets of two pixels, each outlined for itself, would be scribble.

    Args:
        strength: the strength map.
        cell: frames, px and px of a tubelet.
        frame: which frame, from 0.

    Returns:
        Polygons of the points (x, y), px.
    """
    import cv2

    here = (strength[min(frame // cell[0], len(strength) - 1)] != 0).numpy().astype(np.uint8)
    if not here.any():
        return []
    height, width = (cells * size for cells, size in zip(here.shape, cell[1:], strict=True))
    reach = [int(NEAR * min(height, width) / (2 * size)) for size in cell[1:]]  # in tubelets, from each of two
    grown = cv2.dilate(here, np.ones([2 * cells + 1 for cells in reach], np.uint8))
    count, of = cv2.connectedComponents(grown, connectivity=8)
    outlines = []
    for part in range(1, count):
        y, x = np.nonzero((of == part) & (here > 0))
        corners = np.concatenate([np.stack([x + dx, y + dy], 1) for dx in (0, 1) for dy in (0, 1)])
        hull = cv2.convexHull(corners.astype(np.int32))[:, 0]
        outlines.append(hull * np.array([cell[2], cell[1]], float))
    return outlines


def outlined(
    frame: UInt8[np.ndarray, "h w 3"], outlines: Sequence[Float[np.ndarray, "_ 2"]]
) -> UInt8[np.ndarray, "h w 3"]:
    """A frame with polygons: a light line on a dark one, so that it is seen on any picture."""
    import cv2

    drawn = frame.copy()
    points = [outline.round().astype(np.int32) for outline in outlines]
    for colour, thickness in (((30, 30, 30), 4), ((255, 255, 255), 2)):
        cv2.polylines(drawn, points, isClosed=True, color=colour, thickness=thickness, lineType=cv2.LINE_AA)
    return drawn


def enlarged(frame: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """A frame whose longer side has about so many px, in whole pixels; never smaller than it is."""
    times = max(1, round(side / max(frame.shape[:2])))
    return frame.repeat(times, 0).repeat(times, 1)


def cell_size(clip: Float[Tensor, "3 t h w"], strength: Float[Tensor, "gt gh gw"]) -> tuple[int, int, int]:
    """Frames, px and px of a tubelet, where only the map is known: the clip divided evenly, rounded
    up."""
    t, h, w = (-(-n // cells) for n, cells in zip(clip.shape[1:], strength.shape, strict=True))
    return t, h, w


def sprite(frames: UInt8[np.ndarray, "t h w 3"], quality: int = 80) -> tuple[str, int]:
    """All frames as one WebP picture, row by row.

    Returns:
        A data URL, and the number of frames in a row.
    """
    from PIL import Image

    columns = math.ceil(math.sqrt(len(frames)))
    rows = -(-len(frames) // columns)
    blank = np.zeros((rows * columns - len(frames), *frames.shape[1:]), np.uint8)
    sheet = rearrange(np.concatenate([frames, blank]), "(r c) h w rgb -> (r h) (c w) rgb", c=columns)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", quality=quality, method=4)
    return _data_url(file), columns


def picture(frame: UInt8[np.ndarray, "h w 3"], scale: float = 1.0) -> str:
    """One frame as a data URL, a third as large as a PNG.

    It is a JPEG whose colours are as fine as its lightness, so that the noise of single pixels
    stays about as strong as it is.

    Args:
        frame: the frame.
        scale: of its height and width, up to 1; pixels are averaged.
    """
    from PIL import Image

    image, file = Image.fromarray(frame), io.BytesIO()
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    image.save(file, "JPEG", quality=85, subsampling=0)
    return _data_url(file, "jpeg")


def animation(clean: Float[Tensor, "3 t h w"], adversarial: Float[Tensor, "3 t h w"], fps: float = 5.0) -> str:
    """Original, attacked and amplified difference side by side, in motion: a WebP picture as a data
    URL."""
    from PIL import Image

    panels = side_by_side(clean, adversarial, gain(clean, adversarial))
    first, *others = (Image.fromarray(frame) for frame in to_frames(panels))
    file = io.BytesIO()
    first.save(
        file, "WEBP", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=80, method=2
    )
    return _data_url(file)


def _data_url(file: io.BytesIO, kind: str = "webp") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode("ascii")

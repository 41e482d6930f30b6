"""How files end: containers say how long they are, or mark their last piece, by which a file that
is cut short is known although all that is left of it can be read."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vidmarl.utils.files import PathLike


def is_cut_short(path: PathLike, container: str) -> bool:
    """Whether the end of a file is missing. Containers that do not tell are taken for whole.

    Args:
        path: the file.
        container: FFmpeg's names of its format, such as "matroska,webm".
    """
    check = _CHECKS.get(container.partition(",")[0])
    if check is None:
        return False
    with Path(path).open("rb") as file:
        try:
            return check(file, os.fstat(file.fileno()).st_size)
        except struct.error:  # what it says of itself is itself cut
            return True


def _lacks_gif_trailer(file: BinaryIO, size: int) -> bool:
    return b"\0;" not in _tail(file, size, 64)


def _lacks_png_end(file: BinaryIO, size: int) -> bool:
    return b"IEND\xaeB`\x82" not in _tail(file, size, 64)


def _lacks_jpeg_end(file: BinaryIO, size: int) -> bool:
    return b"\xff\xd9" not in _tail(file, size, 64)


def _lacks_ogg_end(file: BinaryIO, size: int) -> bool:
    """The last page is whole and marked as the last one of its stream."""
    tail = _tail(file, size, 2**16 + 27 + 255)  # of the longest page, and a bit
    _, found, page = tail.rpartition(b"OggS")
    segments = page[22] if len(page) > 22 else 0
    length = 23 + segments + sum(page[23 : 23 + segments])
    return not found or len(page) < max(length, 23) or not page[1] & 4


def _breaks_off_in_a_ts_packet(file: BinaryIO, size: int) -> bool:
    """Packets of 188 bytes, or of 192 or 204 with what others put between them."""
    head = file.read(2048)
    for length in (188, 192, 204):
        for start in range(length):
            if set(head[start::length][:5]) == set(b"G"):  # each packet begins with it
                return (size - (start - 4 if length == 192 else start)) % length != 0
    return False


def _ends_before_its_boxes(file: BinaryIO, size: int) -> bool:
    """MP4 and its kin: a box is its length, its kind and its content."""
    place = 0
    while place + 8 <= size:  # a few bytes more are padding
        file.seek(place)
        (length,) = struct.unpack(">I4x", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        if length < 8:  # 0: to the end of the file
            return False
        place += length
    return place > size


def _ends_before_its_chunks(file: BinaryIO, size: int) -> bool:
    """AVI: one RIFF chunk, or several in a long file."""
    place = 0
    while place + 8 <= size:  # a few bytes more are padding
        file.seek(place)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or not length:  # a program that was killed has not filled it in
            return False
        place += 8 + length
    return place > size


def _ends_before_its_segment(file: BinaryIO, size: int) -> bool:
    """Matroska: an element is a name, a length and its content; a header, then the segment."""
    for _ in range(2):
        name = _variable(file, marked=True)
        length = _variable(file)
        if name == 0x18538067:
            return length is not None and file.tell() + length > size  # a live stream does not know its length
        file.seek(min(length or 0, size), os.SEEK_CUR)
    return False


def _variable(file: BinaryIO, marked: bool = False) -> int | None:
    """A number of Matroska, whose first byte says how long it is; None where all its bits are set,
    or all of the first byte's are not, with which no number begins."""
    (first,) = struct.unpack("B", file.read(1))
    if not first:
        return None
    more = 8 - first.bit_length()
    (others,) = struct.unpack(f"{more}s", file.read(more))  # an error where the file ends before
    value = int.from_bytes(bytes([first]) + others, "big")
    if marked:
        return value
    value -= 1 << 7 * (more + 1)
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _tail(file: BinaryIO, size: int, length: int) -> bytes:
    file.seek(max(0, size - length))
    return file.read()


_CHECKS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "apng": _lacks_png_end,
    "avi": _ends_before_its_chunks,
    "gif": _lacks_gif_trailer,
    "mjpeg": _lacks_jpeg_end,
    "matroska": _ends_before_its_segment,
    "mov": _ends_before_its_boxes,
    "mpegts": _breaks_off_in_a_ts_packet,
    "ogg": _lacks_ogg_end,
}

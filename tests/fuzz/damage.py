"""What happens to files: flipped bits, lost and doubled blocks, odd numbers in headers."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

# Fields of headers stand behind these: mp4's boxes, Matroska's elements, AVI's chunks, and so on.
TAGS = (
    b"tkhd", b"mdhd", b"mvhd", b"stsz", b"stts", b"ctts", b"stco", b"stsc", b"stss", b"elst", b"avcC", b"hvcC", b"stsd",
    b"avc1", b"moov", b"mdat", b"ftyp", b"trun", b"\xb0", b"\xba", b"\x44\x89", b"\x2a\xd7\xb1", b"\x1f\x43\xb6\x75",
    b"\xa3", b"avih", b"strh", b"strf", b"idx1", b"movi", b"RIFF", b"onMetaData", b"OggS", b"GIF89a", b"\x21\xf9",
    b"IHDR", b"acTL", b"fcTL", b"VP8 ", b"ANMF", b"VP8X", b"\x00\x00\x01\x67", b"\x00\x00\x01\xb3", b"\x00\x00\x01\xba",
    b"\xff\xc0", b"\xff\xd8", b"DKIF", b"YUV4MPEG2", b"\x47",
)  # fmt: skip


def flip(content: bytearray, rng: random.Random) -> str:
    """Flips a few bits."""
    places = [rng.randrange(len(content)) for _ in range(rng.choice((1, 1, 1, 4, 32)))]
    for place in places:
        content[place] ^= 1 << rng.randrange(8)
    return f"bits flipped at {places[:4]}"


def cut(content: bytearray, rng: random.Random) -> str:
    """Breaks off, as a download does."""
    kept = rng.randrange(len(content))
    del content[kept:]
    return f"cut to {kept} bytes"


def zero(content: bytearray, rng: random.Random) -> str:
    """Blanks a block."""
    start, end = _block(content, rng)
    content[start:end] = bytes([rng.choice((0, 0, 255))]) * (end - start)
    return f"bytes {start} to {end} blank"


def noise(content: bytearray, rng: random.Random) -> str:
    """Puts noise in the place of a block."""
    start, end = _block(content, rng)
    content[start:end] = rng.randbytes(end - start)
    return f"bytes {start} to {end} noise"


def remove(content: bytearray, rng: random.Random) -> str:
    """Loses a block."""
    start, end = _block(content, rng)
    del content[start:end]
    return f"bytes {start} to {end} lost"


def double(content: bytearray, rng: random.Random) -> str:
    """Has a block twice."""
    start, end = _block(content, rng)
    content[end:end] = content[start:end]
    return f"bytes {start} to {end} twice"


def swap(content: bytearray, rng: random.Random) -> str:
    """Has two blocks change places."""
    size = max(1, min(4096, len(content) // 3))
    one = rng.randrange(max(1, len(content) - 2 * size))
    other = rng.randrange(one + size, max(one + size + 1, len(content) - size))
    content[one : one + size], content[other : other + size] = content[other : other + size], content[one : one + size]
    return f"{size} bytes at {one} and {other} in each other's place"


def header(content: bytearray, rng: random.Random) -> str:
    """Writes an extreme number into a header: a size, a count, a duration."""
    found = [tag for tag in TAGS if tag in content]
    start = content.find(rng.choice(found)) if found and rng.random() < 0.8 else 0
    place = min(start + rng.randrange(96), len(content) - 1)
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice(
        (0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), rng.getrandbits(12))
    )
    number &= 2 ** (8 * width) - 1
    content[place : place + width] = number.to_bytes(width, rng.choice(("big", "little")))
    return f"{number} at {place}"


DAMAGES = (flip, flip, cut, zero, noise, remove, double, swap, header, header)


def damaged(content: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> tuple[bytes, str]:
    """A file after one to three misfortunes, and what they were; `others` may be put behind it."""
    changed = bytearray(content)
    said = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if others and rng.random() < 0.08:
            changed += rng.choice(others)
            said.append("another file behind it")
        elif changed:
            said.append(rng.choice(DAMAGES)(changed, rng))
    return bytes(changed), "; ".join(said)


def damage_folder(folder: Path, rng: random.Random) -> str:
    """Damages one file of a folder, loses it, or puts another there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = rng.choice(files)
    name = file.relative_to(folder)
    what = rng.randrange(12)
    if what == 0:
        file.unlink()
        return f"{name} lost"
    if what == 1:
        file.write_bytes(b"")
        return f"{name} empty"
    if what == 2:
        other = rng.choice(files)
        shutil.copy(other, file) if other != file else None
        return f"{name} a copy of {other.name}"
    if what == 3:
        (file.parent / "extra.bin").write_bytes(rng.randbytes(99))
        return "a file beside it"
    content, said = damaged(file.read_bytes(), rng)
    file.write_bytes(content)
    return f"{name}: {said}"


def _block(content: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content))
    return start, min(len(content), start + rng.choice((1, 16, 188, 1024, 4096)))

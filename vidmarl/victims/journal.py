"""A journal of what a victim has answered, so that nothing that was paid for is paid for twice.

A search that gets the same answers asks the same questions. So an attack that was stopped is simply
run again from its start: the journal answers what it knows, in no time, and the victim is asked for
the rest. A defence that draws at random goes on where it stood; a model that draws by itself does
not, so there the rest is another one, as it would be in any second run.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vidmarl.utils.files import PathLike
from vidmarl.victims.attempts import Attempts
from vidmarl.victims.victim import Victim

_HEAD = struct.Struct("<II")  # clips and classes
_CHECKSUM = struct.Struct("<I")


class Journal:
    """The answers of a victim in the order in which they were given, as a file that only grows.

    Each forward pass is a frame: how many clips and classes, a digest of each clip, the queries
    that it has cost, its log-probabilities (NaN for one without an answer), a checksum. It is
    written at once, so that a kill costs the last frame at most. A frame that is torn, or whose
    clips are not those now asked about, is dropped with all that follows it.

    Args:
        path: of the file; it is made where there is none.

    Attributes:
        recorded: answers in the file, a clip each.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: PathLike) -> None:
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        self._weights = torch.empty(0, dtype=torch.int64)
        self.recorded = 0
        while (frame := self._read()) is not None:
            self.recorded += len(frame[0])
        self._file.truncate()
        self._file.seek(0)
        self._unread = self.recorded

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def answer(
        self,
        ask: Callable[[], Float[Tensor, "b k"]],
        clips: Float[Tensor, "b 3 t h w"],
        attempts: Attempts,
        replayed: Callable[[Float[Tensor, "b 3 t h w"]], object],
    ) -> Float[Tensor, "b k"]:
        """The log-probabilities of some clips: those in the journal, or else those that `ask`
        gives, which are in the journal from then on.

        Args:
            ask: asks about the clips.
            clips: the clips.
            attempts: their books, in which `ask` writes by itself.
            replayed: is told of clips that the journal answers.

        Raises:
            OSError: they cannot be written.
        """
        digests = self._digests(clips)
        if self._unread:
            start = self._file.tell()
            frame = self._read()
            if frame is not None and torch.equal(frame[0], digests):
                self._unread -= len(digests)
                _, spent, log_probs = frame
                attempts.replay(spent, log_probs.isnan().any(1))
                replayed(clips)
                return log_probs.to(clips.device)
            self._file.seek(start)
            self._file.truncate()
            self.recorded -= self._unread
            self._unread = 0
        log_probs = ask()
        self._write(digests, attempts.spent, log_probs.cpu())
        self.recorded += len(digests)
        return log_probs

    def _digests(self, clips: Tensor) -> Int64[Tensor, " b"]:
        """A number for each clip that tells it from others.

        The bits of every value, times an odd number drawn for its place, summed up: whole numbers
        that wrap round, so that the sum is the same in any order. That is quicker than sha256, and
        stays on the clips' device.
        """
        bits = clips.detach().float().contiguous().view(torch.int32).flatten(1)
        if bits.shape[1] % 2:
            bits = torch.nn.functional.pad(bits, (0, 1))
        bits = bits.view(torch.int64)  # two values at a time
        if self._weights.shape != bits.shape[1:] or self._weights.device != bits.device:
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=generator)
            self._weights = (2 * drawn + 1).to(bits.device)
        return torch.stack([(clip * self._weights).sum() for clip in bits]).cpu()

    def _read(self) -> tuple[Int64[Tensor, " b"], Int64[Tensor, " b"], Float[Tensor, "b k"]] | None:
        """The digests, costs and log-probabilities of the next frame; None, at its start, where
        none is whole."""
        start = self._file.tell()
        left = os.fstat(self._file.fileno()).st_size - start
        head = self._file.read(_HEAD.size)
        if len(head) == _HEAD.size:
            clips, classes = _HEAD.unpack(head)
            size = clips * (8 + 8 + 4 * classes)
            if _HEAD.size + size + _CHECKSUM.size <= left:
                body, checksum = self._file.read(size), self._file.read(_CHECKSUM.size)
                if _CHECKSUM.pack(zlib.crc32(head + body)) == checksum and size:
                    digests, spent = torch.frombuffer(bytearray(body[: 16 * clips]), dtype=torch.int64).view(2, clips)
                    values = torch.frombuffer(bytearray(body[16 * clips :]), dtype=torch.float32)
                    return digests, spent, values.view(clips, classes)
        self._file.seek(start)
        return None

    def _write(self, digests: Int64[Tensor, " b"], spent: Int64[Tensor, " b"], log_probs: Float[Tensor, "b k"]) -> None:
        body = digests.numpy().tobytes() + spent.numpy().tobytes() + log_probs.float().numpy().tobytes()
        head = _HEAD.pack(*log_probs.shape)
        frame = memoryview(head + body + _CHECKSUM.pack(zlib.crc32(head + body)))
        while frame:  # a disk that is nearly full takes a part, and refuses the rest
            frame = frame[self._file.write(frame) :]


@contextlib.contextmanager
def journaled(victim: Victim, path: PathLike) -> Iterator[Journal]:
    """Lets a victim answer from a journal as far as it goes, and write in it what it is asked
    beyond that.

    Args:
        victim: only what the model is asked counts in its `queries`.
        path: of the journal.

    Raises:
        OSError: the file cannot be opened.
    """
    journal = Journal(path)
    victim.journal = journal
    try:
        yield journal
    finally:
        victim.journal = None
        journal.close()

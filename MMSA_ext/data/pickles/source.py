"""The bytes of a file, read once, counted and hashed; no memory for more than the file has."""

import hashlib
import io
import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from struct import Struct
from struct import error as StructError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.pickles.errors import TruncatedError

__all__ = ["ByteSource"]

_PIECE_BYTES = 1 << 20
_UNSIZED_STEP = 16 << 20  # what a stream of unknown size must deliver before it gets more memory


class ByteSource:
    """Buffered bytes of a file from its current position on.

    A caller may use `buffer` and `at` itself, where a call for every byte would cost too much.

    Attributes:
        file: the binary file object.
        buffer: bytes that were read, the last of which are still to be used.
        at: index in `buffer` of the next byte.
        size: number of bytes read from the file.
        digest: SHA-256 of them, if there is a thread to hash in.
    """

    def __init__(
        self, file: IO[bytes] | io.RawIOBase, hashing: ThreadPoolExecutor | None = None
    ) -> None:
        """Start at the position of `file`; nothing is read yet.

        Args:
            file: binary file object.
            hashing: a thread that hashes one piece of a large content while the next is read;
                None: nothing is hashed.
        """
        self.buffer = b""
        self.at = 0
        self.size = 0
        self.digest = hashlib.sha256()
        self.file: Any = file
        self._hashing = hashing
        self._whole = _bytes_ahead(file)

    @property
    def position(self) -> int:
        """Number of bytes used so far."""
        return self.size - len(self.buffer) + self.at

    def fill(self) -> bool:
        """Read on into `buffer`, which then starts with the next byte; False at the file's end."""
        piece = self.file.read(_PIECE_BYTES) or b""
        if self._hashing is not None:
            self.digest.update(piece)
        self.size += len(piece)
        self.buffer = self.buffer[self.at :] + piece
        self.at = 0
        return bool(piece)

    def ensure(self, count: int) -> None:
        """Read on until so many bytes lie in `buffer`, or the file ends."""
        while len(self.buffer) - self.at < count and self.fill():
            pass

    def number(self, layout: Struct) -> Any:
        """One number that lies in `buffer`, see `ensure`.

        Raises:
            TruncatedError: the file ends in it.
        """
        try:
            (value,) = layout.unpack_from(self.buffer, self.at)
        except StructError:
            raise TruncatedError from None
        self.at += layout.size
        return value

    def take(self, count: int) -> bytes | memoryview:
        """The next bytes, in memory that nothing else writes to.

        Raises:
            TruncatedError: the file has fewer.
        """
        end = self.at + count
        if end > len(self.buffer):
            return self.take_array(count).data
        piece = self.buffer[self.at : end]
        self.at = end
        return piece

    def take_array(self, count: int) -> NDArray[np.uint8]:
        """The next bytes, read straight into the memory of an array (count,).

        Raises:
            TruncatedError: the file has fewer.
        """
        self.expect(count)
        step = _UNSIZED_STEP if self._whole is None else max(1, count)
        parts = []
        for start in range(0, count, step):
            parts.append(np.empty(min(step, count - start), np.uint8))
            self._fill_array(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])

    def expect(self, count: int) -> None:
        """Look whether so many bytes can follow, where the size of the file is known.

        Raises:
            TruncatedError: they cannot.
        """
        if self._whole is not None and self.position + count > self._whole:
            raise TruncatedError

    def take_line(self, longest: int | None = None) -> bytes:
        """The bytes in front of the next newline, which is passed over.

        Args:
            longest: how many bytes the line may have; None: as many as the file has.

        Raises:
            TruncatedError: no newline follows.
            ValueError: the line is longer than `longest`.
        """
        parts: list[bytes] = []
        while (end := self.buffer.find(b"\n", self.at)) < 0:
            parts.append(self.buffer[self.at :])
            self.at = len(self.buffer)
            if longest is not None and sum(map(len, parts)) > longest:
                break
            if not self.fill():
                raise TruncatedError
        parts.append(self.buffer[self.at : end])
        line = b"".join(parts)
        if longest is not None and len(line) > longest:
            raise ValueError(f"a line of more than {longest} bytes")
        self.at = end + 1
        return line

    def drain(self) -> None:
        """Read, and hash, the file to its end."""
        self.at = len(self.buffer)
        while self.fill():
            self.at = len(self.buffer)

    def _fill_array(self, array: NDArray[np.uint8]) -> None:
        filled = min(len(array), len(self.buffer) - self.at)
        array[:filled] = np.frombuffer(self.buffer, np.uint8, filled, self.at)
        self.at += filled
        view = array.data
        while filled < len(array):
            count = self._read_into(view[filled:])
            if not count:
                raise TruncatedError
            self.size += count
            filled += count

    def _read_into(self, view: memoryview) -> int:
        """Fill as much of `view` as there is; while one piece is read, the one before is hashed."""
        if self._hashing is None:
            return int(self.file.readinto(view) or 0)
        filled = 0
        hashed: Future[None] | None = None
        try:
            while count := int(self.file.readinto(view[filled : filled + _PIECE_BYTES]) or 0):
                if hashed is not None:
                    hashed.result()
                hashed = self._hashing.submit(self.digest.update, view[filled : filled + count])
                filled += count
        finally:
            if hashed is not None:
                hashed.result()  # from here on the memory is the caller's again
        return filled


def _bytes_ahead(file: Any) -> int | None:
    """Bytes between the position of `file` and its end; None where only reading can tell."""
    if isinstance(file, io.BytesIO):
        start = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(start)
        return end - start
    raw = file.raw if isinstance(file, io.BufferedReader) else file
    if not isinstance(raw, io.FileIO):
        return None
    status = os.fstat(raw.fileno())
    # The kernel's own files call themselves regular and empty, whatever they hold.
    return status.st_size - file.tell() if stat.S_ISREG(status.st_mode) and status.st_size else None

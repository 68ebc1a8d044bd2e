"""The bytes of a file: in pieces, hashed, and no memory for what is not there."""

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MMSA_ext.data.pickles.errors import TruncatedError
from MMSA_ext.data.pickles.source import ByteSource

CONTENT = np.random.default_rng(0).bytes(5_000_000)


class Trickle(io.RawIOBase):
    """A stream of unknown size that gives little at a time."""

    def __init__(self, content: bytes, most: int) -> None:
        super().__init__()
        self._rest, self._most = io.BytesIO(content), most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._rest.readinto(memoryview(buffer)[: self._most])


def test_lines() -> None:
    source = ByteSource(Trickle(b"a\n\n" + b"x" * 3000 + b"\nrest", 100))
    assert [source.take_line(), source.take_line()] == [b"a", b""]
    with pytest.raises(ValueError, match="more than 1000"):
        source.take_line(1000)
    source = ByteSource(Trickle(b"x" * 3000 + b"\nrest", 100))
    assert source.take_line() == b"x" * 3000
    with pytest.raises(TruncatedError):
        source.take_line()
    source = ByteSource(Trickle(b"x" * 5_000_000, 1000))
    with pytest.raises(ValueError, match="more than 1000"):
        source.take_line(1000)
    assert source.size < 10_000, "a line that is too long is not read to its end"


@pytest.mark.parametrize("known", [True, False])
def test_memory_is_taken_for_what_is_there(tmp_path: Path, known: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with path.open("rb", buffering=0) as file:
        source = ByteSource(file if known else Trickle(CONTENT, 10**9))
        tracemalloc.start()
        with pytest.raises(TruncatedError):
            source.take_array(1 << 40)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < (1 << 20 if known else 24 << 20)

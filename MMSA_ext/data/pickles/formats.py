"""What a file that is no sound pickle seems to be, with the mend."""

import os
import re
from typing import Any

__all__ = ["HEAD_BYTES", "known_format", "seems_pickle", "text_format", "text_mode_damage"]

HEAD_BYTES = 512

_UNPACK = "Unpack it first."
_WRITE = "Write what it holds with MMSA_ext.data.features.write_features."
_TENSORS = (
    "Turn every tensor into a numpy array and save them with MMSA_ext.data.features.write_features."
)
_MAGIC = {
    b"\x1f\x8b": f"a gzip archive. {_UNPACK}",
    b"BZh": f"a bzip2 archive. {_UNPACK}",
    b"\xfd7zXZ": f"an xz archive. {_UNPACK}",
    b"7z\xbc\xaf": f"a 7-Zip archive. {_UNPACK}",
    b"Rar!": f"a RAR archive. {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"a Zstandard archive. {_UNPACK}",
    b"\x89HDF": f"an HDF5 file (.h5, .csd, .mat). {_WRITE}",
    b"MATLAB": f"a MATLAB file. {_WRITE}",
    b"\x93NUM": f"a .npy file. {_WRITE}",
    b"PAR1": f"a Parquet file. {_WRITE}",
    b"version https://git-lfs": (
        "a Git LFS pointer, which only stands for the file. Fetch that with `git lfs pull`."
    ),
    # Before PyTorch's files were zip archives.
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": f"a PyTorch checkpoint. {_TENSORS}",
}
_PAGE = "a web page. Open it in a browser and download the file that it offers, or sign in first."
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PICKLE = re.compile(rb"\x80[\x00-\x7f]|[(\]}]|c[A-Za-z_][\w.]*\r?\n[A-Za-z_]")

_PIECE = 1 << 20
_ENOUGH = 64 << 20
_FEWEST_LINES = 4
_FEWEST_EXPECTED = 16
_NEIGHBOURS = (b"\x0b", b"\x0c", b"\x0e")
_ENDS = (b"u.", b"s.", b"e.", b"a.", b"b.")  # of pickles of dicts, lists and arrays


def known_format(head: bytes) -> str | None:
    """The other format that a file has by its first `HEAD_BYTES`, with the mend."""
    if head.startswith(b"PK\x03\x04"):
        return _zip(head)
    if head[257:262] == b"ustar" and not seems_pickle(head):
        return f"a tar archive. {_UNPACK}"
    return next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None)


def _zip(head: bytes) -> str:
    """A zip archive, by the name of its first member."""
    member = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if member.endswith(b".npy"):
        return f"a zip archive of numpy arrays (.npz). Read it with numpy.load. {_WRITE}"
    if member.partition(b"/")[2] in (b"data.pkl", b".format_version", b"version"):
        return f"a PyTorch checkpoint (a zip archive). {_TENSORS}"
    return f"a zip archive. {_UNPACK}"


def seems_pickle(head: bytes) -> bool:
    """Whether a file starts as pickles of containers and arrays do."""
    return _PICKLE.match(head) is not None


def text_format(head: bytes) -> str | None:
    """What a file that starts as no pickle is if it is text, with the mend."""
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if text.startswith(b"<"):
        return _PAGE
    if not "".join(text.decode("utf-8", errors="ignore").split()).isprintable():
        return None
    return f"a JSON file. {_WRITE}" if text.startswith((b"{", b"[")) else f"a text file. {_WRITE}"


def text_mode_damage(file: Any, start: int, truncated: bool) -> str | None:
    """How a damaged pickle came to be, if it looks as if its line ends had been changed.

    Args:
        file: seekable binary file.
        start: where the pickle starts in it.
        truncated: whether the file ended before the pickle did.

    Returns:
        What happened, completing "the file"; None if it does not look so.
    """
    file.seek(start)
    returns = newlines = pairs = neighbours = size = 0
    tail = b""
    while size < _ENOUGH and (piece := file.read(_PIECE)):
        returns += piece.count(b"\r")
        newlines += piece.count(b"\n")
        pairs += (tail + piece).count(b"\r\n")
        neighbours += sum(map(piece.count, _NEIGHBOURS))
        size += len(piece)
        tail = piece[-1:]
    if newlines >= _FEWEST_LINES and pairs == newlines:
        return "has a carriage return before every line feed"
    # In binary content the bytes 11, 12, 14 come as often as 13, and 13 before 10 by chance.
    if not returns and neighbours >= _FEWEST_EXPECTED * len(_NEIGHBOURS):
        return "has lost every carriage return"
    if not pairs and returns * newlines >= _FEWEST_EXPECTED * size:
        return "has lost every carriage return before a line feed"
    if truncated and size > len(_ENDS[0]):
        file.seek(-len(_ENDS[0]), os.SEEK_END)
        if file.read() in _ENDS:
            return "has its end, and lost bytes before it"
    return None

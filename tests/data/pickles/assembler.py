"""Pickles put together operation by operation, as no pickler would write them."""

import pickle
import struct

__all__ = [
    "PROTOCOL",
    "array",
    "byte_string",
    "dtype",
    "integer",
    "name",
    "reference",
    "shape",
    "split",
    "text",
]

PROTOCOL = b"\x80\x04"


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def byte_string(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value: int) -> bytes:
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, of: str) -> bytes:
    return f"c{module}\n{of}\n".encode()


def reference(index: int) -> bytes:
    """Push what was memoized."""
    return b"j" + struct.pack("<I", index)


def shape(*lengths: int) -> bytes:
    return b"(" + b"".join(map(integer, lengths)) + b"t"


def dtype(code: str, order: str = "|") -> bytes:
    state = b"(K\x03" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    return name("numpy", "dtype") + text(code) + b"\x89\x88\x87R" + state + b"b"


def array(of_shape: bytes, of_dtype: bytes, content: bytes) -> bytes:
    """An array of pushed shape, dtype and content."""
    new = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray")
    return new + b"K\x00\x85C\x01b\x87R(K\x01" + of_shape + of_dtype + b"\x89" + content + b"tb"


def split(**values: bytes) -> bytes:
    """A file whose split `train` has these pushed values."""
    items = b"".join(text(key) + value + b"s" for key, value in values.items())
    return PROTOCOL + b"}" + text("train") + b"}" + items + b"s."

"""Arrays of exactly the bytes, or items, that their shape and dtype ask for.

Sizes are computed in Python's integers before anything is allocated, and bytes that stand for no
value of a dtype are found, so that numpy's own code meets none of what a file may claim.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.pickles.errors import DamagedError, RefusedError, kind_of

__all__ = ["Content", "array_of", "bytes_of", "dtype_of", "in_native_order", "is_dtype_code"]

Spend = Callable[[int], None]

_CODE = re.compile(r"b1|[iu][1248]|f[248]|[SU]\d{1,7}|O[48]?")
_ORDERS = ("<", ">", "|", "=")
_MOST_DIMENSIONS = 32
_MOST_BYTES = 1 << 48  # of an array; also of an empty one, were its dimensions of 0 not there
_LAST_CHARACTER = 0x10FFFF
_PIECE = 1 << 20


class Content:
    """Bytes in memory that one array will take over.

    Args:
        memory: (bytes,), writeable.
    """

    __slots__ = ("_memory",)

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self._memory: NDArray[np.uint8] | None = memory

    def __len__(self) -> int:
        return 0 if self._memory is None else len(self._memory)

    def take(self) -> NDArray[np.uint8]:
        """The memory, once."""
        if self._memory is None:
            raise RefusedError("has two arrays in one memory")
        memory, self._memory = self._memory, None
        return memory


def is_dtype_code(code: Any) -> bool:
    """Whether `code` stands for plain numbers, text, bytes or objects."""
    return isinstance(code, str) and _CODE.fullmatch(code) is not None


def dtype_of(code: str, state: Any) -> np.dtype[Any]:
    """A dtype in the byte order of its pickled state.

    Args:
        code: one for which `is_dtype_code` holds.
        state: as numpy writes it: version, byte order, three times None for a dtype without
            fields, and more that the code says as well.
    """
    match state:
        case (int(), str() as order, None, None, None, *_) if order in _ORDERS:
            return np.dtype(order + code)
    raise RefusedError(f"holds an array of dtype {code!r} with fields")


def array_of(
    shape: tuple[Any, ...], dtype: np.dtype[Any], content: Any, fortran: bool, spend: Spend
) -> NDArray[Any]:
    """An array of its own memory.

    Args:
        shape: from the file, unchecked.
        dtype: of a code for which `is_dtype_code` holds.
        content: from the file: a list for objects, else bytes or text that stands for them.
        fortran: whether `content` runs through the array in Fortran's order.
        spend: is told how many values or bytes will be copied, and may refuse.
    """
    size = _size(shape, dtype)
    order: Literal["C", "F"] = "F" if fortran else "C"
    if dtype.hasobject:
        return np.asarray(_objects(size, content, spend).reshape(shape), order=order)
    if type(content) not in (Content, bytes, bytearray, str):
        raise DamagedError(f"an array made of {kind_of(content)}")
    if len(content) != size * dtype.itemsize:
        raise DamagedError(f"an array of shape {shape} and dtype {dtype} in {len(content)} bytes")
    if not dtype.itemsize:
        spend(size)
        return np.zeros(shape, dtype)
    memory = content.take() if isinstance(content, Content) else bytes_of(content, spend)
    _check_items(memory, dtype)
    return memory.view(dtype).reshape(shape, order=order)


def in_native_order(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers, turned round in place where they are not in this machine's byte order."""
    if array.dtype.isnative:
        return array
    return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))


def bytes_of(content: bytes | bytearray | str, spend: Spend) -> NDArray[np.uint8]:
    """Bytes, or those that text stands for as Latin-1, in memory of their own.

    Raises:
        ValueError: the text has other characters.
    """
    spend(len(content))
    memory = np.empty(len(content), np.uint8)
    for start in range(0, len(content), _PIECE):  # a large text is not held a third time
        piece = content[start : start + _PIECE]
        raw = piece.encode("latin-1") if isinstance(piece, str) else piece
        memory[start : start + len(raw)] = np.frombuffer(raw, np.uint8)
    return memory


def _size(shape: tuple[Any, ...], dtype: np.dtype[Any]) -> int:
    if len(shape) > _MOST_DIMENSIONS:
        raise DamagedError(f"an array of {len(shape)} dimensions")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise DamagedError("an array of impossible shape")
    if math.prod(length or 1 for length in shape) * max(1, dtype.itemsize) > _MOST_BYTES:
        raise DamagedError("an array of impossible size")
    return math.prod(shape)


def _objects(size: int, content: Any, spend: Spend) -> NDArray[np.object_]:
    if type(content) is not list or len(content) != size:
        raise DamagedError(f"an array of {size} objects without a list of as many")
    spend(size)
    flat = np.empty(size, object)
    for index, item in enumerate(content):
        # Arrays free their items without a limit of depth, so none lies directly in another.
        if isinstance(item, np.ndarray) and item.dtype.hasobject:
            raise RefusedError("holds an array of objects in an array of objects")
        flat[index] = item
    return flat


def _check_items(memory: NDArray[np.uint8], dtype: np.dtype[Any]) -> None:
    if dtype.kind == "b" and memory.max(initial=0) > 1:
        raise DamagedError("truth values that are neither 0 nor 1")
    if dtype.kind == "U":
        characters = memory.view(np.dtype("u4").newbyteorder(dtype.byteorder))
        if characters.max(initial=0) > _LAST_CHARACTER:
            raise DamagedError("text of characters that do not exist")

"""Files of `torch.save`, read without trusting them.

`torch.load` runs nothing of a file with `weights_only=True`, but it checks none of the archive's
checksums, and believes what the file says of sizes and nesting. A file of weights needs so little
of the format that it is interpreted here: names, numbers, lists, dictionaries and plain tensors, no
larger than the file itself.
"""

from __future__ import annotations

import math
import os
import pickletools
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from MMSA_ext.errors import CheckpointError
from MMSA_ext.file_kinds import HEAD_BYTES, foreign_kind
from MMSA_ext.files import replaced, write_error

__all__ = ["array_bytes", "read", "write", "write_scratch"]

_DTYPES = {
    "torch BFloat16Storage": torch.bfloat16,
    "torch BoolStorage": torch.bool,
    "torch ByteStorage": torch.uint8,
    "torch CharStorage": torch.int8,
    "torch ComplexDoubleStorage": torch.complex128,
    "torch ComplexFloatStorage": torch.complex64,
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
    "torch ShortStorage": torch.int16,
}
_DICTIONARY = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_MAX_DIMENSIONS = 16
_BEFORE_TORCH_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class _DamagedError(Exception):
    """Says what is wrong with a file, as the end of a sentence."""


@dataclass(frozen=True)
class _Global:
    """A name that the file asks for."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers that tensors are views of, (N,)."""

    numbers: Tensor


def write(path: Path, content: Any) -> None:
    """`torch.save` to a file that is either complete or what it was before.

    Raises:
        WriteError: The disk refuses.
    """
    with replaced(path) as staged:
        _dump(staged, content)


def write_scratch(path: Path, content: Any) -> None:
    """`torch.save` to a file that only this process reads, and only while it runs.

    Raises:
        WriteError: The disk refuses; nothing is left at `path`.
    """
    try:
        _dump(path, content)
    except OSError as error:
        refusal = write_error(path, error)
        path.unlink(missing_ok=True)
        raise refusal from error


def _dump(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer hides what the disk said
            cause = error.__context__
            raise (cause if isinstance(cause, OSError) else OSError(str(error))) from error


def read(path: Path) -> Any:
    """Read a file of `torch.save`: nothing in it is run, and every checksum is checked.

    Args:
        path: The file, of torch 1.6 or later.

    Returns:
        What was saved: str, numbers, bool, None, lists, tuples, dictionaries with str as keys, and
        tensors on the CPU, which may share memory and take no more of it than the file is large.

    Raises:
        CheckpointError: The file is missing, unreadable, damaged, or holds something else.
    """
    try:
        with _opened(path) as file:
            return _Archive(file).content()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"{path}: the checkpoint cannot be read ({reason}).") from error
    except _DamagedError as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint: {error}. It is damaged, or no checkpoint: copy it "
            "again from where it was made, or train again."
        ) from error


def array_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, of any dtype, without a copy."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def _opened(path: Path) -> BufferedReader:
    """Open a regular file; a named pipe or a device could wait or go on for ever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint.") from None
    except ValueError as error:  # a zero byte in the name
        raise CheckpointError(f"{str(path)!r}: no such checkpoint ({error}).") from None
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{path}: is a folder; give the file of the checkpoint, a .pth.")
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: is no regular file, so no checkpoint.")
    return path.open("rb")


class _Archive:
    """The zip archive that `torch.save` writes: one pickle, and one record a storage.

    Raises:
        _DamagedError: Where anything is not as torch writes it.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._storages: dict[str, _Storage] = {}
        self._refuse_others(file.read(HEAD_BYTES))
        try:
            entries = zipfile.ZipFile(file).infolist()
        except Exception as error:  # zipfile raises many kinds for damaged archives
            raise _DamagedError(f"it is no whole archive of torch ({_said(error)})") from error
        self._entries = {entry.filename: entry for entry in entries}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise _DamagedError("its records are compressed, which torch never does")
        if sum(entry.file_size for entry in entries) > self._size:
            raise _DamagedError("its records are larger than the file")
        pickles = [name for name in self._entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _DamagedError("it has no record data.pkl")
        self._root = pickles[0].removesuffix("data.pkl")

    def content(self) -> Any:
        order = self._entries.get(f"{self._root}byteorder")
        if order is not None and bytes(self._record(order)) != sys.byteorder.encode():
            raise _DamagedError("it was written on a machine with another byte order")
        program = bytes(self._record(self._entries[f"{self._root}data.pkl"]))
        try:
            return _interpreted(program, self._storage, self._tensor)
        except _DamagedError:
            raise
        except Exception as error:  # a stack that is empty, a number for a list, ...
            raise _DamagedError(f"its record data.pkl is unsound ({_said(error)})") from error

    def _refuse_others(self, head: bytes) -> None:
        kind = foreign_kind(head)
        if kind is not None:
            raise _DamagedError(f"it is {kind}")
        if head.startswith(_BEFORE_TORCH_1_6):
            raise _DamagedError(
                "it has the layout of torch before 1.6; load it with torch.load, save it with "
                "torch.save"
            )

    def _record(self, entry: zipfile.ZipInfo, dtype: torch.dtype = torch.uint8) -> memoryview:
        """The bytes of a record, in new memory, compared with their checksum."""
        return array_bytes(self._read(entry, dtype))

    def _read(self, entry: zipfile.ZipInfo, dtype: torch.dtype) -> Tensor:
        self._file.seek(entry.header_offset)
        header = self._file.read(30)
        if header[:4] != b"PK\3\4" or len(header) < 30:
            raise _DamagedError(f"its record {entry.filename} is not where it should be")
        self._file.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)
        record = torch.empty(entry.file_size // dtype.itemsize, dtype=dtype)
        content = array_bytes(record)
        if self._file.readinto(content) != entry.file_size:
            raise _DamagedError(f"its record {entry.filename} is cut off")
        if zlib.crc32(content) != entry.CRC:
            raise _DamagedError(f"its record {entry.filename} is not what was written (CRC-32)")
        return record

    def _storage(self, reference: Any) -> _Storage:
        """The storage that the pickle refers to, read once."""
        kind, storage_type, key, _, size = reference
        dtype = _DTYPES.get(storage_type.name)
        if kind != "storage" or dtype is None:
            raise _DamagedError(f"it holds {storage_type.name}, which is no storage of weights")
        entry = self._entries.get(f"{self._root}data/{key}")
        if entry is None or entry.file_size != size * dtype.itemsize:
            raise _DamagedError(f"its record data/{key} is missing or of another size")
        if key not in self._storages:
            self._storages[key] = _Storage(self._read(entry, dtype))
        if self._storages[key].numbers.dtype != dtype:
            raise _DamagedError(f"its record data/{key} has two dtypes")
        return self._storages[key]

    def _tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        """A view of a storage that lies inside of it and is no larger than it."""
        numbers = storage.numbers
        if not all(type(value) is int and value >= 0 for value in (offset, *size, *stride)):
            raise _DamagedError("it holds a tensor without a shape")
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if len(size) > _MAX_DIMENSIONS or count > len(numbers) or (count and last >= len(numbers)):
            raise _DamagedError("it holds a tensor that is larger than its storage")
        return numbers.as_strided(size, stride, offset)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = {"BINPUT", "LONG_BINPUT"}
_GET = {"BINGET", "LONG_BINGET"}


def _interpreted(
    program: bytes, storage: Callable[[Any], _Storage], tensor: Callable[..., Tensor]
) -> Any:
    """Build what a pickle of protocol 2 describes; takes memory in proportion to the pickle.

    Args:
        program: The pickle.
        storage: Gives the storage that a persistent id names.
        tensor: Makes a tensor of the arguments of torch's `_rebuild_tensor_v2`.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    def called(name: str, given: tuple[Any, ...]) -> Any:
        if name == _TENSOR:
            return tensor(*given)
        if name == _PARAMETER:
            return given[0]
        if name == _DICTIONARY and not given:
            return {}
        raise _DamagedError(f"it asks for {name}, which plain tensors do not need")

    def fill(target: dict[str, Any], items: list[Any]) -> None:
        if type(target) is not dict or not all(type(key) is str for key in items[::2]):
            raise _DamagedError("it holds a dictionary whose keys are no names")
        target.update(zip(items[::2], items[1::2], strict=True))

    for opcode, argument, _ in pickletools.genops(program):
        name = opcode.name
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _PUT:
            memo[argument] = stack[-1]
        elif name in _GET:
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "APPEND":
            value = stack.pop()
            _list(stack[-1]).append(value)
        elif name == "APPENDS":
            values = since_mark()
            _list(stack[-1]).extend(values)
        elif name == "SETITEM":
            items = [stack.pop(-2), stack.pop()]
            fill(stack[-1], items)
        elif name == "SETITEMS":
            items = since_mark()
            fill(stack[-1], items)
        elif name == "GLOBAL":
            stack.append(_Global(str(argument)))
        elif name == "BINPERSID":
            stack.append(storage(stack.pop()))
        elif name == "REDUCE":
            given = stack.pop()
            stack.append(called(stack.pop().name, given))
        elif name == "BUILD":
            stack.pop()  # attributes of a state_dict: versions of its modules
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise _DamagedError(f"it holds the pickle operation {name}, which no weights need")
    raise _DamagedError("its record data.pkl is cut off")


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _DamagedError("it appends to what is no list")
    return value


def _said(error: Exception) -> str:
    """An exception of a library in a few words."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100].rstrip(".")

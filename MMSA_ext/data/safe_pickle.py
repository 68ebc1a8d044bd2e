"""Restricted unpickling: numpy arrays and builtin containers, nothing that runs code.

Feature files come from strangers, and a pickle is a program. Two measures make it data again:

- Only the names in ``_BUILTINS`` and the few that numpy's own pickles use resolve; any other
  name is refused and reported.
- numpy's names resolve to stand-ins, not to numpy's types. ``numpy.dtype.__setstate__`` alters a
  dtype in place, so a crafted file could enlarge the item size of an array that exists already
  and make it read beyond its memory. The stand-ins build every array from a dtype that the
  pickle can no longer reach.
"""

import collections
import hashlib
import io
import math
import os
import pickle
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.errors import FeatureFileError

__all__ = ["LoadedPickle", "load_pickle", "safe_load"]

_BUFFER_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_DTYPE_CODE = re.compile(r"[<>|=]?(?:[biufc?]\d*|[SU]\d+|O8?)")
_BUILTINS: dict[str, Any] = {
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.bytes": bytes,
    "builtins.bytearray": bytearray,
    "collections.OrderedDict": collections.OrderedDict,
}
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive (.npz or a PyTorch checkpoint)",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x89HDF": "an HDF5 file (.h5, .csd, .mat)",
    b"\x93NUM": "a .npy file",
    b"version https://git-lfs": "a Git LFS pointer; fetch the real file with `git lfs pull`",
}


@dataclass(frozen=True)
class LoadedPickle:
    """What one reading of a file gives.

    Attributes:
        data: the unpickled object.
        fingerprint: SHA-256 of all bytes of the file, hexadecimal.
        size: number of bytes.
    """

    data: Any
    fingerprint: str
    size: int


def safe_load(source: str | os.PathLike[str] | IO[bytes]) -> Any:
    """Unpickle a file that holds only numpy arrays and builtin containers.

    Args:
        source: path, or a binary file object positioned at the start of the pickle.

    Returns:
        The stored object. Large arrays share the memory the file was read into.

    Raises:
        FeatureFileError: the file is missing, empty, truncated, no pickle, or names anything
            beyond numpy arrays, scalars and dtypes and builtin containers.
    """
    return _opened(source, None).data


def load_pickle(source: str | os.PathLike[str] | IO[bytes]) -> LoadedPickle:
    """Like `safe_load`, and returns the SHA-256 of the same single reading.

    A second thread hashes what the first one reads, so that the slower of the two is what it costs.

    Args:
        source: path, or a binary file object positioned at the start of the pickle.

    Returns:
        Object, fingerprint and size.

    Raises:
        FeatureFileError: as `safe_load`.
    """
    with ThreadPoolExecutor(1, "fingerprint") as hashing:
        return _opened(source, hashing)


def _opened(
    source: str | os.PathLike[str] | IO[bytes], hashing: ThreadPoolExecutor | None
) -> LoadedPickle:
    if not isinstance(source, str | os.PathLike):
        return _load(source, str(getattr(source, "name", "the given file object")), hashing)
    path = Path(source).expanduser()
    try:
        with path.open("rb", buffering=0) as file:
            return _load(file, str(path), hashing)
    except FileNotFoundError:
        raise FeatureFileError(
            f"Feature file {path} does not exist. Check the path (featurePath, or the argument)."
        ) from None
    except IsADirectoryError:
        raise FeatureFileError(f"{path} is a folder; give the feature file in it.") from None
    except OSError as error:
        raise FeatureFileError(f"Feature file {path} cannot be read: {error}.") from error


def _load(
    file: IO[bytes] | io.RawIOBase, name: str, hashing: ThreadPoolExecutor | None
) -> LoadedPickle:
    raw = _HashingReader(file, hashing)
    stream = io.BufferedReader(raw, _BUFFER_BYTES)
    head = bytes(stream.peek(32)[:32])
    if not head:
        raise FeatureFileError(f"Feature file {name} is empty. Download or write it again.")
    try:
        data = _resolve(_RestrictedUnpickler(stream, name).load(), {})
    except (FeatureFileError, OSError):
        raise
    except MemoryError:
        raise FeatureFileError(
            f"Feature file {name} asks for more memory than there is: it is damaged or too large "
            "for this machine. Download it again, or use float16 features."
        ) from None
    except _RefusedError as error:
        raise FeatureFileError(
            f"Feature file {name} was refused: it holds {error}. Feature files may hold only plain "
            "numpy arrays and builtin containers; rewrite it with "
            "MMSA_ext.data.features.write_features."
        ) from None
    except Exception as error:  # damaged bytes can make the unpickler raise anything
        raise FeatureFileError(_damage(name, head, error)) from error
    while hashing is not None and stream.read(_BUFFER_BYTES):
        pass  # bytes behind the pickle belong to the fingerprint
    return LoadedPickle(data, raw.digest.hexdigest(), raw.size)


def _damage(name: str, head: bytes, error: Exception) -> str:
    for magic, what in _OTHER_FORMATS.items():
        if head.startswith(magic[: len(head)]) and len(head) >= len(magic[:4]):
            return f"{name} is not a feature file in MMSA's layout (a pickle) but {what}."
    if not head.startswith(b"\x80"):
        return (
            f"{name} is not a pickle, so not a feature file in MMSA's layout. Write it with "
            "MMSA_ext.data.features.write_features."
        )
    if isinstance(error, EOFError) or "truncated" in str(error) or "Ran out" in str(error):
        return f"Feature file {name} ends too early (truncated). Download or copy it again."
    return (
        f"Feature file {name} is damaged ({type(error).__name__}: {error}). Download or copy it "
        "again."
    )


class _RefusedError(Exception):
    """Content that a feature file may not have; the text completes "it holds ..."."""


class _HashingReader(io.RawIOBase):
    """Raw stream that hashes what passes through, so that a file is read only once.

    Without a thread to hash in, it only reads.
    """

    def __init__(
        self, file: IO[bytes] | io.RawIOBase, hashing: ThreadPoolExecutor | None = None
    ) -> None:
        super().__init__()
        self._file: Any = file
        self._hashing = hashing
        self.digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        if self._hashing is not None and len(view) > _PIECE_BYTES:
            count = self._read_and_hash(view, self._hashing)
        else:
            count = int(self._file.readinto(view) or 0)
            if self._hashing is not None:
                self.digest.update(view[:count])
        self.size += count
        return count

    def _read_and_hash(self, view: memoryview, hashing: ThreadPoolExecutor) -> int:
        """Fill a large buffer; while one piece of it is read, the one before is hashed."""
        filled = 0
        hashed: Future[None] | None = None
        try:
            while count := int(self._file.readinto(view[filled : filled + _PIECE_BYTES]) or 0):
                if hashed is not None:
                    hashed.result()
                hashed = hashing.submit(self.digest.update, view[filled : filled + count])
                filled += count
        finally:
            if hashed is not None:
                hashed.result()  # from here on the buffer is the caller's again
        return filled


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes] | io.BufferedIOBase, name: str) -> None:
        super().__init__(file)
        self._name = name

    def find_class(self, module: str, name: str, /) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        qualified = f"{module}.{name}"
        # numpy 2 moved numpy.core to numpy._core; files name either.
        key = qualified.replace("numpy._core.", "numpy.core.", 1)
        if key in _BUILTINS:
            return _BUILTINS[key]
        if key in _NUMPY:
            return _StandIn(_NUMPY[key])
        raise FeatureFileError(
            f"Feature file {self._name} was refused: it names {qualified!r}, and loading that "
            "could run code. Feature files may hold only numpy arrays and builtin containers. "
            "If you trust the file, convert it where it was made: turn every tensor or table "
            "into a numpy array and save it with MMSA_ext.data.features.write_features."
        )

    def persistent_load(self, pid: Any, /) -> NoReturn:
        raise FeatureFileError(
            f"Feature file {self._name} was refused: it refers to objects outside itself, as "
            "PyTorch files do. Convert tensors to numpy arrays before saving."
        )


class _StandIn:
    """A callable that a pickle can call but not alter (BUILD would set attributes)."""

    __slots__ = ("_build",)
    _build: Callable[..., Any]

    def __init__(self, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "_build", build)

    def __call__(self, *args: Any) -> Any:
        return self._build(*args)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _RefusedError("code that alters its own loading")


class _DType:
    """Stand-in for `numpy.dtype`: plain numbers, strings, bytes and objects; no fields."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str) or not _DTYPE_CODE.fullmatch(code):
            raise _RefusedError(f"an array of dtype {code!r}, which is not a plain number or text")
        self._code = code
        self._order: Any = "="

    def __setstate__(self, state: Any) -> None:
        order, *structure = state[1:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in structure):
            raise _RefusedError(f"an array of dtype {self._code!r} with fields")
        self._order = order

    def resolve(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self._code)
        return dtype if self._order in "=|" else dtype.newbyteorder(self._order)


class _Array:
    """Stand-in for `numpy.ndarray` between its creation and its state."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, content = state
        resolved = _dtype(dtype)
        # numpy keeps a large `bytes` content as the array's memory: no second copy.
        array: Any = np.ndarray((0,), resolved)
        array.__setstate__((version, _shape(shape), resolved, bool(fortran), content))
        self.array = array


def _dtype(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, _DType):
        raise _RefusedError("an array without a dtype")
    return dtype.resolve()


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise _RefusedError(f"an array of impossible shape {shape!r}")
    return shape


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> _Array:
    return _Array()


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    resolved = _dtype(dtype)
    result = _Array()
    flat: NDArray[Any] = (
        np.frombuffer(buffer, resolved) if resolved.itemsize else np.empty(0, resolved)
    )
    if math.prod(_shape(shape)) != flat.size:
        raise _RefusedError("an array whose size does not match its content")
    if order == "K":
        # Recent numpy: the memory order of an array that is neither C nor Fortran contiguous.
        result.array = flat.reshape(shape).transpose(axes)
    else:
        result.array = flat.reshape(shape, order=order)
    return result


def _scalar(dtype: Any, content: Any = b"") -> Any:
    resolved = _dtype(dtype)
    if resolved.hasobject:
        raise _RefusedError("a numpy scalar that holds an object")
    if not resolved.itemsize:
        return resolved.type()
    return np.frombuffer(content, resolved, count=1)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # Protocol 2 writes bytes as text; `_codecs.encode` itself would import codecs by name.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _ndarray_type(*args: Any) -> NoReturn:
    raise _RefusedError("a direct call of numpy.ndarray")


_NUMPY: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _DType,
    "numpy.ndarray": _ndarray_type,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _encode,
}


def _resolve(value: Any, seen: dict[int, tuple[Any, Any]]) -> Any:
    """Put the arrays in the place of their stand-ins, in containers at any depth.

    `seen` maps the id of a visited object to (object, replacement); holding the object keeps its
    id from being given to another one.
    """
    if id(value) in seen:
        return seen[id(value)][1]
    if isinstance(value, _DType):
        return value.resolve()
    if isinstance(value, _StandIn):
        raise _RefusedError("a function stored as a value")
    if isinstance(value, _Array):
        seen[id(value)] = (value, value.array)
        if value.array.dtype.hasobject:
            flat = value.array.reshape(-1)
            flat[:] = _object_row([_resolve(item, seen) for item in flat])
        return value.array
    if isinstance(value, dict):
        seen[id(value)] = (value, value)
        for key, item in value.items():
            value[key] = _resolve(item, seen)
    elif isinstance(value, list):
        seen[id(value)] = (value, value)
        value[:] = [_resolve(item, seen) for item in value]
    elif isinstance(value, tuple):
        return tuple(_resolve(item, seen) for item in value)
    return value


def _object_row(items: list[Any]) -> NDArray[np.object_]:
    row = np.empty(len(items), object)
    for index, item in enumerate(items):
        row[index] = item
    return row

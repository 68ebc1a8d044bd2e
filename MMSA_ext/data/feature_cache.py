"""Large feature files, kept as memory-mapped arrays from their first reading on.

A pickle has to be read in full, hashed and looked through. Its arrays, mended, are only mapped, and
so cost neither time nor memory until a batch touches them; processes that train at the same time
share them. What is read is the same with and without, bit for bit: small values are kept as the
reader takes them and checked anew each time, and of the large arrays the findings of their one
survey are kept.

    <folder>/feature_maps/<name>.arrays   of one file: raw arrays, manifest, the manifest's SHA-256
                         /<name>.checked  the stat that the former had when it was last hashed
                         /<name>.scaling  means and deviations of its training split

The name is that of the source's path, so that a changed source takes the place of what was kept of
it. An entry is written aside and renamed, never changed: it is complete or absent, and who has
mapped the old one keeps it. The manifest (JSON) has a SHA-256 of each array. It is hashed at every
opening, and so are small arrays. Those that are only mapped are hashed when the entry's stat is not
the noted one, which any change through the file system brings about, and once a day, for damage
that no stat shows. Nothing here may fail a reading: what goes wrong costs only the cache.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from MMSA_ext.data import feature_checks, feature_layout, safe_pickle
from MMSA_ext.data.feature_checks import SequenceFindings, frame_ends, survey_sequence
from MMSA_ext.data.feature_layout import (
    ARRAYS,
    PROVENANCE,
    READ_KEYS,
    LoadedFile,
    find_recipe,
    load_file,
)
from MMSA_ext.files import remove_leftovers, replaced, write_atomically
from MMSA_ext.names import MODALITIES, SPLITS
from MMSA_ext.paths import expand

__all__ = [
    "VARIABLE",
    "CacheEntry",
    "cache_folder",
    "clear",
    "entries",
    "kept_fingerprint",
    "load_cached",
    "remembered",
]

logger = logging.getLogger("MMSA")

VARIABLE = "MMSA_EXT_CACHE"
_OFF = ("off", "no", "false", "0")
_ENTRY, _NOTE, _VALUE, _LOCK = ".arrays", ".checked", ".scaling", ".lock"
_SMALLEST_BYTES = 32 << 20  # of a file; below, reading it is about as fast
_SMALL_BYTES = 1 << 16  # of an array; below, it is not worth a map
_PIECE_BYTES = 1 << 20
_LARGEST_VALUE = 1 << 24  # bytes of a remembered value
_CHECK_NS = 24 * 3600 * 10**9
_UNUSED_SECONDS = 30 * 24 * 3600  # what nobody read for so long costs one reading to make anew
# A file may change twice within one tick of its file system's clock and keep its times.
_TICK_NS = 2 * 10**9

_END = struct.Struct("<Q32s")  # size and SHA-256 of the manifest, which comes before it
_DTYPE = re.compile(r"[<>|][biufSU]\d+")

_Status = tuple[int, ...]


def cache_folder() -> Path | None:
    """The folder that `MMSA_EXT_CACHE` names, else `MMSA_ext` in the user's cache folder.

    Returns:
        The folder, which need not exist; None where `MMSA_EXT_CACHE` is `off`, or nobody is home.
    """
    chosen = os.environ.get(VARIABLE, "").strip()
    of_user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if chosen.lower() in _OFF:
        return None
    try:
        if chosen:
            return Path(expand(chosen)).absolute()
        return (of_user if of_user.is_absolute() else Path.home() / ".cache") / "MMSA_ext"
    except (OSError, RuntimeError):
        return None


@dataclass(frozen=True)
class CacheEntry:
    """What the cache holds of a feature file.

    Attributes:
        path: the arrays.
        source: the feature file; empty if the entry is damaged.
        size: bytes on disk.
        last_used: seconds since 1970, to a day.
    """

    path: Path
    source: str
    size: int
    last_used: float


def entries() -> list[CacheEntry]:
    """What the user's cache holds, the last used first."""
    folder, found = cache_folder(), []
    for path in [] if folder is None else (folder / "feature_maps").glob(f"*{_ENTRY}"):
        own, note = _status(path), _status(path.with_suffix(_NOTE))
        source = ""
        with suppress(Exception), _open_file(path) as file:
            source = str(_manifest(file)[0]["source"][0])
        # What is used is hashed every day, and then the note is new.
        last_used = max(own[1:2] + note[1:2], default=0) / 1e9
        found.append(CacheEntry(path, source, sum(own[:1]), last_used))
    return sorted(found, key=lambda entry: -entry.last_used)


def clear() -> int:
    """Empty the user's cache, leftovers included; runs that use it go on with what they mapped.

    Returns:
        Bytes of the entries that were removed.

    Raises:
        OSError: something cannot be removed.
    """
    folder, removed = cache_folder(), entries()
    for entry in removed:
        _remove(entry.path)
    if folder is not None:
        remove_leftovers(folder / "feature_maps")
        for value in (folder / "feature_maps").glob(f"*{_VALUE}"):  # whose entry is gone
            value.unlink(missing_ok=True)
    return sum(entry.size for entry in removed)


def load_cached(path: Path) -> LoadedFile:
    """Take a feature file from the user's cache, or read it and keep it there.

    Raises:
        FeatureFileError: as for `feature_layout.load_file`.
    """
    folder, status = cache_folder(), _status(path)
    if folder is None or not status or status[0] < _SMALLEST_BYTES:
        return load_file(path)
    entry, useless = _entry(folder, path), ""
    try:
        return _open(entry, path, status)
    except FileNotFoundError:
        pass
    except Exception as error:  # whatever lies there
        useless = f"{entry} cannot be used ({error}). "
    settled = _settled(status)
    loaded = _surveyed(load_file(path))
    if not (loaded.known and settled and _status(path) == status):
        return loaded
    try:
        loaded = _keep(entry, loaded, status)
        outcome = (
            f"is kept as memory-mapped arrays in {entry} ({status[0] / 2**20:.0f} MiB), where the "
            f"next runs find it. `mmsa-ext cache --clear` removes them; {VARIABLE}=off turns the "
            "cache off."
        )
    except Timeout:
        outcome = f"is read in full: another process is filling the cache {folder}."
    except Exception as error:  # whatever the disk, the folder and the content are like
        reason = str(error) or repr(error)
        outcome = f"is not kept in the cache {folder}, and read in full: {reason}"
    logger.info("%s%s %s", useless, path, outcome)
    return loaded


def kept_fingerprint(path: Path) -> str | None:
    """Fingerprint of a feature file as it is, if the user's cache holds it; else None."""
    folder, status = cache_folder(), _status(path)
    if folder is None or not status or status[0] < _SMALLEST_BYTES:
        return None
    with suppress(Exception), _open_file(_entry(folder, path)) as file:  # whatever lies there
        values, _ = _manifest(file)
        identity = _identity(path, status)
        if {key: values[key] for key in identity} == identity:
            return str(values["fingerprint"])
    return None


def remembered(path: Path, about: str, compute: Callable[[], Any]) -> Any:
    """What was computed from a feature file before, or is now; kept beside the file's entry.

    Args:
        path: the file; of one that the cache does not hold, this is not kept either.
        about: digest of all that decides the value.
        compute: gives it, in JSON's types.
    """
    folder = cache_folder()
    entry = None if folder is None else _entry(folder, path)
    if entry is None or not entry.is_file():
        return compute()
    beside = entry.with_suffix(_VALUE)
    with suppress(Exception), _open_file(beside) as file:  # whatever lies there
        decided, value, digest = json.loads(file.read(_LARGEST_VALUE))
        if [decided, digest] == [about, _value_digest(value)]:
            return value
    value = compute()
    with suppress(OSError):
        write_atomically(beside, json.dumps([about, value, _value_digest(value)]))
    return value


def _value_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _entry(folder: Path, path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return folder / "feature_maps" / f"{name}{_ENTRY}"


def _status(file: Path | int) -> _Status:
    """Size, times of change (of content, of anything) and inode; empty where there is nothing."""
    try:
        found = os.stat(file)  # noqa: PTH116 - of an open file, too
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _settled(status: _Status) -> bool:
    """Whether every change from now on makes another status."""
    return all(abs(time.time_ns() - changed) > _TICK_NS for changed in status[1:3])


def _identity(path: Path, status: _Status) -> dict[str, Any]:
    """What an entry must have to be of use for a file, as JSON gives it back."""
    return {"version": _version(), "source": [str(path.resolve()), *status]}


@cache
def _version() -> str:
    """Digest of the code that reads, mends and keeps: what other code kept is of no use."""
    files = (safe_pickle.__file__, feature_layout.__file__, feature_checks.__file__, __file__)
    sources = (Path(file).read_bytes().replace(b"\r\n", b"\n") for file in files)
    return hashlib.sha256(b"".join(sources)).hexdigest()[:12]


def _surveyed(loaded: LoadedFile) -> LoadedFile:
    """What is read of a file, its sequences surveyed and mended in place.

    A file without the three splits, or with a broken recipe, comes back as it was.
    """
    raw = loaded.data if isinstance(loaded.data, dict) else {}
    recipe, broken = find_recipe(raw)
    if broken or not all(isinstance(raw.get(name), dict) for name in SPLITS):
        return loaded
    data, known = {**_provenance(raw), "recipe": recipe}, {}
    for name in SPLITS:
        data[name] = {key: value for key in READ_KEYS if (value := raw[name].get(key)) is not None}
        known[name] = _survey(data[name])
        data[name] |= _provenance(raw[name])
    return replace(loaded, data=data, known=known)


def _survey(split: dict[str, Any]) -> dict[str, SequenceFindings]:
    known = {}
    for key in MODALITIES:
        value = split.get(key)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            continue
        if value.ndim != 3 or not value.size:
            continue
        split[key], found = survey_sequence(key, value)
        if key != "text" and f"{key}_lengths" not in split:
            found = replace(found, ends=tuple(frame_ends(split[key]).tolist()))
        known[key] = found
    return known


def _provenance(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in PROVENANCE if isinstance(raw.get(key), str)}


def _keep(entry: Path, loaded: LoadedFile, status: _Status) -> LoadedFile:
    """Write an entry, unless another process has just done so, and map it.

    Raises:
        Timeout: another process is writing.
        Exception: of any kind, if it cannot be kept.
    """
    folder = entry.parent
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(entry.with_suffix(_LOCK), timeout=0):
        with suppress(Exception):
            return _open(entry, loaded.path, status)
        remove_leftovers(folder)
        for old in entries():
            if time.time() - old.last_used > _UNUSED_SECONDS:
                with suppress(OSError):
                    _remove(old.path)
        missing = status[0] - shutil.disk_usage(folder).free
        if missing > 0:
            raise OSError(f"the disk has {missing / 2**20:.0f} MiB too little free space")
        with replaced(entry) as staged, staged.open("wb") as file:
            _write(file, loaded, _identity(loaded.path, status))
    return _open(entry, loaded.path, status, checked=True)


def _write(file: IO[bytes], loaded: LoadedFile, identity: dict[str, Any]) -> None:
    """Write an entry.

    Raises:
        TypeError: something would not come back as it is.
    """
    data, arrays = dict(loaded.data), []
    for name in SPLITS:
        data[name] = {}
        for key, value in loaded.data[name].items():
            if isinstance(value, np.ndarray):
                arrays.append((name, key, value))
            elif key in ARRAYS:
                raise TypeError(f"[{name}] {key} is not an array.")
            else:
                data[name][key] = value
    known = {
        name: {key: asdict(found) for key, found in split.items()}
        for name, split in loaded.known.items()
    }
    values = identity | {"fingerprint": loaded.fingerprint, "data": data, "known": known}
    text = json.dumps(values, default=np.generic.item)  # a TypeError, unless a number of numpy
    stored = [(name, key, *_write_array(file, array)) for name, key, array in arrays]
    content = f"[{text}, {json.dumps(stored)}]".encode()
    file.write(content + _END.pack(len(content), hashlib.sha256(content).digest()))


def _write_array(file: IO[bytes], array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind == "O" and all(type(item) is str for item in array):
        return ["O", array.tolist()]
    if not _DTYPE.fullmatch(array.dtype.str) or not array.flags.c_contiguous:
        raise TypeError("an array is in an unusual memory order, or holds other than numbers.")
    content = array.reshape(-1).view(np.uint8).data
    file.write(bytes(-file.tell() % 64))  # as numpy aligns its own
    start, digest = file.tell(), hashlib.sha256(content).hexdigest()
    file.write(content)
    return [array.dtype.str, array.shape, start, digest]


def _open(entry: Path, path: Path, status: _Status, *, checked: bool = False) -> LoadedFile:
    """Map an entry, and hash what was not `checked` lately.

    Raises:
        Exception: of any kind, if the entry is absent, damaged or of no use.
    """
    with _open_file(entry) as file:
        own, note = _status(file.fileno()), entry.with_suffix(_NOTE)
        values, stored = _manifest(file)
        identity = _identity(path, status)
        if {key: values[key] for key in identity} != identity:
            raise ValueError("it is of another version of the file or of MMSA_ext")
        settled, checked = _settled(own), checked or _is_checked(note, own)
        mapped = np.asarray(np.memmap(file, np.uint8, "r"))
        for name, key, *form in stored:
            values["data"][name][key] = _array(file, mapped, checked, *form)
        if settled and not checked and _status(file.fileno()) == own:
            with suppress(OSError):
                write_atomically(note, str(own))
    known = {
        name: {
            key: SequenceFindings(**{field: _tuples(value) for field, value in found.items()})
            for key, found in split.items()
        }
        for name, split in values["known"].items()
    }
    return LoadedFile(path, values["data"], values["fingerprint"], status[0], known)


def _open_file(path: Path) -> IO[bytes]:
    if path.exists() and not path.is_file():  # a pipe would wait for its other end
        raise ValueError("it is not a file")
    return path.open("rb")


def _manifest(file: IO[bytes]) -> tuple[dict[str, Any], list[Any]]:
    file.seek(-_END.size, os.SEEK_END)
    size, digest = _END.unpack(file.read(_END.size))
    file.seek(-_END.size - size, os.SEEK_END)
    content = file.read(size)
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its manifest is not what was written")
    values, stored = json.loads(content)
    return values, stored


def _is_checked(note: Path, own: _Status) -> bool:
    """Whether an entry was hashed within a day, with the status it has."""
    size, changed, *_ = _status(note) or (0, 0)
    if size != len(str(own)) or not 0 <= time.time_ns() - changed < _CHECK_NS:
        return False
    with suppress(OSError):
        return note.read_bytes() == str(own).encode()
    return False


def _array(
    file: IO[bytes], mapped: NDArray[np.uint8], checked: bool, dtype: str, *form: Any
) -> NDArray[Any]:
    if dtype == "O":
        return np.array(form[0], object)
    if not _DTYPE.fullmatch(dtype):
        raise ValueError(f"{dtype} is not a type of numbers or texts")
    shape, start, digest = form
    size = math.prod(shape) * np.dtype(dtype).itemsize
    content, small = mapped[start : start + size], size < _SMALL_BYTES
    if content.size != size or ((small or not checked) and _digest(file, start, size) != digest):
        raise ValueError("an array is not what was written")
    array: NDArray[Any] = content.view(dtype).reshape(shape)
    return array.copy() if small else array


def _digest(file: IO[bytes], start: int, size: int) -> str:
    """SHA-256 of a part. It is read: where the disk fails, its map would end the process."""
    digest = hashlib.sha256()
    file.seek(start)
    for left in range(size, 0, -_PIECE_BYTES):
        digest.update(file.read(min(left, _PIECE_BYTES)))
    return digest.hexdigest()


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _remove(entry: Path) -> None:
    for suffix in (_ENTRY, _NOTE, _VALUE, _LOCK):
        entry.with_suffix(suffix).unlink(missing_ok=True)

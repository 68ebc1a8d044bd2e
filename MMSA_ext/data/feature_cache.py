"""Large feature files, kept as memory-mapped arrays from their first reading on.

A pickle has to be read in full, hashed and looked through. Its arrays, mended and saved one by one,
are only mapped, and so cost neither time nor memory until a batch touches them; processes that
train at the same time share them. What is read is the same with and without, bit for bit: small
values are kept as the reader takes them and checked anew each time, and of the large arrays the
findings of their one survey are kept.

    <folder>/features/<size>-<sha256>/manifest.json    one entry for each content of a file
                                     /train.audio.npy  numpy's own format; nothing is pickled
    <folder>/sources/<name>.json                       which content a file had when last read

An entry is written aside and renamed, so it is complete or absent. A file whose size, times and
inode are those of its note is taken to have the noted content; any other is hashed. Nothing here
may fail a reading: what goes wrong costs only the cache.
"""

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from MMSA_ext.data import feature_checks
from MMSA_ext.data.feature_checks import SequenceFindings, frame_ends, survey_sequence
from MMSA_ext.data.feature_layout import (
    ARRAYS,
    LABEL_KEYS,
    PROVENANCE,
    SPLITS,
    LoadedFile,
    load_file,
)
from MMSA_ext.paths import expand

__all__ = ["VARIABLE", "CacheEntry", "CachedReading", "cache_folder", "clear", "entries"]

logger = logging.getLogger("MMSA")

VARIABLE = "MMSA_EXT_CACHE"
_OFF = ("off", "no", "false", "0")
_MANIFEST = "manifest.json"
_SMALLEST_BYTES = 32 << 20  # below, reading the file is about as fast
_RESERVE_BYTES = 2 << 30  # what the disk must have left
_UNUSED_SECONDS = 30 * 24 * 3600.0
# A file may change twice within one tick of its file system's clock and keep its time.
_SETTLED_NS = 2_000_000_000

_SEQUENCES = ("text", "audio", "vision")
_TEXTS = ("id", "raw_text")
_NUMBERS = ("text_bert", "audio_lengths", "vision_lengths", *LABEL_KEYS.values())

_Status = list[int]


def cache_folder() -> Path | None:
    """The folder that `MMSA_EXT_CACHE` names, else `MMSA_ext` in the user's cache folder.

    Returns:
        The folder, which need not exist; None where `MMSA_EXT_CACHE` is `off`, or nobody is home.
    """
    chosen = os.environ.get(VARIABLE, "").strip()
    if chosen.lower() in _OFF:
        return None
    if chosen:
        return Path(expand(chosen)).absolute()
    of_user = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(of_user) if Path(of_user).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "MMSA_ext"


@dataclass(frozen=True)
class CacheEntry:
    """One content of a feature file in the cache.

    Attributes:
        path: folder of the entry.
        sources: files that had this content when they were last read.
        size: bytes on disk.
        last_used: seconds since 1970.
    """

    path: Path
    sources: tuple[str, ...]
    size: int
    last_used: float


def entries() -> list[CacheEntry]:
    """What the user's cache holds, the last used first."""
    folder = cache_folder()
    if folder is None:
        return []
    sources: dict[str, list[str]] = {}
    for file in (folder / "sources").glob("*.json"):
        note = _json(file)
        sources.setdefault(str(note.get("fingerprint")), []).append(str(note.get("source")))
    found = [
        CacheEntry(
            path,
            tuple(sorted(sources.get(path.name.partition("-")[2], ()))),
            _bytes_in(path),
            _last_used(path),
        )
        for path in (folder / "features").glob("*")
        if (path / _MANIFEST).is_file()
    ]
    return sorted(found, key=lambda entry: -entry.last_used)


def clear() -> int:
    """Empty the user's cache, leftovers included; runs that use it go on with what they mapped.

    Returns:
        Bytes that were freed.

    Raises:
        OSError: something cannot be removed.
    """
    folder = cache_folder()
    if folder is None:
        return 0
    freed = 0
    for part in (folder / "features", folder / "sources"):
        freed += _bytes_in(part)
        if part.exists():
            shutil.rmtree(part)
    return freed


@dataclass
class CachedReading:
    """The files of one reading: from the cache where it has them, else into it.

    Attributes:
        folder: of the cache.
    """

    folder: Path
    _read: dict[Path, LoadedFile] = field(default_factory=dict)
    _fresh: dict[Path, _Status] = field(default_factory=dict)

    @classmethod
    def of_user(cls) -> Self | None:
        """The user's cache; None where it is turned off."""
        folder = cache_folder()
        return None if folder is None else cls(folder)

    def load(self, path: Path) -> LoadedFile:
        """Take a file from the cache, or read it.

        Raises:
            FeatureFileError: as for `feature_layout.load_file`.
        """
        if path in self._read:
            return self._read[path]
        status = _status(path)
        if status is None or status[0] < _SMALLEST_BYTES:
            return load_file(path)
        known = self._find(path, status)
        if known is not None:
            return known
        loaded = _surveyed(load_file(path))
        if loaded.known:
            self._read[path], self._fresh[path] = loaded, status
        return loaded

    def keep(self) -> bool:
        """Put into the cache what was read from files, once it is known to be of use.

        Returns:
            Whether `load` now has maps for what it read before.
        """
        kept = False
        while self._fresh:
            path, status = self._fresh.popitem()
            mapped = self._store(self._read[path])
            if mapped is not None:
                self._read[path], kept = mapped, True
                self._note(path, status, mapped.fingerprint)
        return kept

    def _find(self, path: Path, status: _Status) -> LoadedFile | None:
        note = _json(self._note_file(path))
        if note.get("status") == status:
            return self._open(path, status[0], str(note.get("fingerprint")))
        if not any((self.folder / "features").glob(f"{status[0]}-*")):
            return None
        try:
            with path.open("rb") as file:
                fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None
        found = self._open(path, status[0], fingerprint)
        if found is not None:
            self._note(path, status, fingerprint)
        return found

    def _entry(self, size: int, fingerprint: str) -> Path:
        return self.folder / "features" / f"{size}-{fingerprint}"

    def _open(self, path: Path, size: int, fingerprint: str) -> LoadedFile | None:
        """Map an entry; None if it is absent, damaged or of another version of this package."""
        entry = self._entry(size, fingerprint)
        try:
            manifest = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != _format():
                return None
            data: dict[str, Any] = dict(manifest["values"])
            known = {}
            for name, split in manifest["splits"].items():
                data[name] = split["values"] | {
                    key: _open_array(entry, name, key, dtype, shape)
                    for key, (dtype, shape) in split["arrays"].items()
                }
                known[name] = {key: _open_findings(found) for key, found in split["known"].items()}
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
            return None
        with suppress(OSError):
            os.utime(entry / _MANIFEST)
        return LoadedFile(path, data, fingerprint, size, known)

    def _store(self, loaded: LoadedFile) -> LoadedFile | None:
        """Write an entry, unless another process does, and map it."""
        entry = self._entry(loaded.size, loaded.fingerprint)
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(entry.with_name(f".{entry.name}.lock"), timeout=0):
                mapped = self._open(loaded.path, loaded.size, loaded.fingerprint)
                if mapped is not None:  # another process was faster
                    return mapped
                _tidy(entry.parent)
                _write(entry, loaded)
        except Timeout:
            return None
        except (OSError, NotImplementedError) as error:
            logger.info(
                "%s is not kept in the cache %s, and read in full each time: %s",
                *(loaded.path, self.folder, error),
            )
            return None
        logger.info(
            "%s is kept as memory-mapped arrays in %s (%.0f MiB), where the next runs find it. "
            "`mmsa-ext cache --clear` removes them; %s=off turns the cache off.",
            *(loaded.path, entry, _nbytes(loaded) / 2**20, VARIABLE),
        )
        return self._open(loaded.path, loaded.size, loaded.fingerprint)

    def _note_file(self, path: Path) -> Path:
        name = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()
        return self.folder / "sources" / f"{name[:32]}.json"

    def _note(self, path: Path, status: _Status, fingerprint: str) -> None:
        """Remember a file's content, if the file has not changed since just before its reading."""
        _, mtime, ctime, *_ = status
        if _status(path) != status or max(mtime, ctime) + _SETTLED_NS > time.time_ns():
            return
        note = {"source": str(path.resolve()), "status": status, "fingerprint": fingerprint}
        file = self._note_file(path)
        temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_text(json.dumps(note), encoding="utf-8")
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)


def _status(path: Path) -> _Status | None:
    """Size, times of change (of content, of anything), inode and device."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


@cache
def _format() -> str:
    """Version of what is stored; mended arrays are those of the checks that mended them."""
    checks = Path(feature_checks.__file__).read_bytes().replace(b"\r\n", b"\n")
    return f"1-{hashlib.sha256(checks).hexdigest()[:12]}"


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _surveyed(loaded: LoadedFile) -> LoadedFile:
    """The values that are read of a file, its sequences surveyed and mended.

    A file that has not the usual form comes back as it was, and is read as it always was.
    """
    data = loaded.data
    if not isinstance(data, dict):
        return loaded
    splits = {name: split for name in SPLITS if (split := _plain_split(data.get(name)))}
    if len(splits) < len(SPLITS):
        return loaded
    known = {name: _survey(split) for name, split in splits.items()}
    return replace(loaded, data=_provenance(data) | splits, known=known)


def _survey(split: dict[str, Any]) -> dict[str, SequenceFindings]:
    """Look through the sequences of a split, which are mended in place."""
    known = {}
    for key in _SEQUENCES:
        if key not in split:
            continue
        split[key], found = survey_sequence(key, split[key])
        if key != "text" and f"{key}_lengths" not in split:
            found = replace(found, ends=tuple(frame_ends(split[key]).tolist()))
        known[key] = found
    return known


def _provenance(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in PROVENANCE if isinstance(raw.get(key), str)}


def _plain_split(raw: Any) -> dict[str, Any] | None:
    """What the reader takes of a split, in arrays, texts and numbers that mean the same to it.

    None if something is not of that kind.
    """
    if not isinstance(raw, dict):
        return None
    plain = _provenance(raw)
    for keys, convert in ((_SEQUENCES, _sequence), (_NUMBERS, _numbers), (_TEXTS, _texts)):
        for key in keys:
            if raw.get(key) is None:
                continue
            plain[key] = convert(raw[key])
            if plain[key] is None:
                return None
    return plain


def _sequence(value: Any) -> NDArray[Any] | None:
    usual = isinstance(value, np.ndarray) and value.ndim == 3 and value.flags.forc
    return _numbers(value) if usual else None


def _numbers(value: Any) -> NDArray[Any] | None:
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" and array.size else None


def _texts(value: Any) -> list[str | int | float] | None:
    items = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
    if not isinstance(items, list | tuple):
        return None
    texts = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in items]
    return texts if all(type(item) in (str, np.str_, int, float) for item in texts) else None


def _write(entry: Path, loaded: LoadedFile) -> None:
    """Make an entry, in place of a damaged one; all of it or nothing."""
    temporary = entry.with_name(f".{entry.name}.writing")
    for old in (entry, temporary):
        if old.exists():
            shutil.rmtree(old)
    missing = _nbytes(loaded) + _RESERVE_BYTES - shutil.disk_usage(entry.parent).free
    if missing > 0:
        raise OSError(f"the disk has {missing / 2**20:.0f} MiB too little free space")
    temporary.mkdir()
    try:
        splits = {name: _write_split(temporary, name, loaded) for name in SPLITS}
        manifest = {"format": _format(), "values": _provenance(loaded.data), "splits": splits}
        with (temporary / _MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(manifest, file)
            _settle(file)
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(folder: Path, name: str, loaded: LoadedFile) -> dict[str, Any]:
    """Save the arrays of a split; the rest is returned for the manifest."""
    values, arrays = {}, {}
    for key, value in loaded.data[name].items():
        if not isinstance(value, np.ndarray):
            values[key] = value
            continue
        with _array_file(folder, name, key).open("wb") as file:
            np.save(file, value, allow_pickle=False)
            _settle(file)
        arrays[key] = (value.dtype.str, value.shape)
    known = {key: asdict(found) for key, found in loaded.known[name].items()}
    return {"values": values, "arrays": arrays, "known": known}


def _settle(file: IO[Any]) -> None:
    """Bring a file to the disk before its folder gets the name that counts."""
    file.flush()
    os.fsync(file.fileno())


def _array_file(folder: Path, split: str, key: str) -> Path:
    return folder / f"{split}.{key}.npy"


def _open_array(
    folder: Path, split: str, key: str, dtype: str, shape: Sequence[int]
) -> NDArray[Any]:
    # What a batch is cut from is mapped; a small array is not worth an open file.
    mode: Literal["r"] | None = "r" if key in ARRAYS else None
    array = np.asarray(np.load(_array_file(folder, split, key), mmap_mode=mode))
    if (array.dtype.str, array.shape) != (dtype, tuple(shape)):
        raise ValueError(f"{split}.{key} is not the array of the manifest")
    return array


def _open_findings(stored: dict[str, Any]) -> SequenceFindings:
    lists = {key: tuple(value) for key, value in stored.items() if isinstance(value, list)}
    return SequenceFindings(**(stored | lists))


def _nbytes(loaded: LoadedFile) -> int:
    return sum(
        value.nbytes
        for name in SPLITS
        for value in loaded.data[name].values()
        if isinstance(value, np.ndarray)
    )


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # another process may be removing it
            total += file.stat().st_size if file.is_file() else 0
    return total


def _tidy(folder: Path) -> None:
    """Remove what was not used for a long time, and what a killed process left."""
    for path in folder.iterdir():
        if path.is_dir() and time.time() - _last_used(path) > _UNUSED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _last_used(entry: Path) -> float:
    manifest = entry / _MANIFEST
    try:
        return (manifest if manifest.exists() else entry).stat().st_mtime
    except OSError:  # another process is removing it
        return time.time()

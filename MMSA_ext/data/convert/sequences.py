"""Sequences by id: a folder of `.npy`, `.npz`, `.csv` or `.h5` files, or one `.h5` or `.npz`."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.convert.openface import is_openface, read_openface, recipe
from MMSA_ext.data.convert.report import UNREADABLE
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.extras import import_extra
from MMSA_ext.paths import shown

if TYPE_CHECKING:
    import h5py

    from MMSA_ext.data.convert.report import ConversionReport

__all__ = ["UNSOUND", "Sequences", "open_archive", "why"]

_SUFFIXES = (".npy", ".npz", ".csv", ".h5", ".hdf5")
_HDF5 = (".h5", ".hdf5")
# What numpy, zipfile and h5py raise of files that are damaged, foreign, or claim to be huge.
UNSOUND = (
    ValueError,
    OSError,
    KeyError,
    EOFError,
    MemoryError,
    NotImplementedError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class _Found:
    """A sequence, the number of its frames in the file, and the names of its features there."""

    frames: NDArray[Any]
    count: int
    names: tuple[str, ...] = ()
    openface: bool = False


class Sequences:
    """The sequences of one modality, each read when it is asked for."""

    def __init__(self, path: Path, modality: str, report: ConversionReport) -> None:
        """List what is there.

        Args:
            path: the folder or file.
            modality: `audio` or `vision`.
            report: receives problems.

        Raises:
            FeatureFileError: it is neither, or holds no sequence.
        """
        self._path, self._modality, self._report = path, modality, report
        self._used: set[str] = set()
        self._columns: dict[tuple[str, ...], str] = {}
        self._archive: Any = None
        self._files: dict[str, Path] = {}
        if path.is_dir():
            self._list_folder()
        elif not path.exists():
            raise FeatureFileError(f"--{modality} {shown(path)}: no such file or folder.")
        elif path.suffix.lower() in (*_HDF5, ".npz"):
            self._archive = _opened(path)
            self._names = set(_names(self._archive))
        else:
            raise FeatureFileError(
                f"--{modality} {shown(path)}: give a folder of {', '.join(_SUFFIXES)} files named "
                "by id, or one .h5 or .npz file with a dataset for each id."
            )
        if not self._names:
            raise FeatureFileError(f"--{modality} {shown(path)}: holds no sequence.")
        report.expected[modality] = f"file or dataset in {shown(path)}"

    def _list_folder(self) -> None:
        for file in sorted(self._path.rglob("*")):
            if file.suffix.lower() not in _SUFFIXES or not file.is_file():
                continue
            name = file.relative_to(self._path).with_suffix("").as_posix()
            if other := self._files.get(name):
                self._report.problem(
                    f"{self._modality}: several files of one id",
                    f"{other.name} and {file.name}",
                    "Leave one.",
                )
            self._files[name] = file
        self._names = set(self._files)

    def of(self, name: str, split: str) -> NDArray[Any] | None:
        """The sequence (L, d) of an id, `video$_$clip` being `video/clip` too.

        None where there is none, `UNREADABLE` where what is wrong with it has been said.
        """
        spellings = (name, name.replace("$_$", "/"))
        key = next((spelling for spelling in spellings if spelling in self._names), None)
        if key is None:
            return None
        self._used.add(key)
        try:
            found = self._read(key)
        except UNSOUND as error:
            self._report.problem(
                f"{self._modality} cannot be read",
                f"{key}{self._files[key].suffix if key in self._files else ''} {why(error)}",
                "Write the file again, as an array (frames, features) of numbers.",
            )
            return UNREADABLE
        if found.names and found.names not in self._columns:
            self._columns[found.names] = key
            if found.openface:
                self._report.recipe[self._modality] = recipe(len(found.names))
        self._report.arrived(split, self._modality, found.count, found.count - len(found.frames))
        return found.frames

    def finish(self) -> None:
        """Say what was not used, and what does not fit together."""
        for name in sorted(self._names - self._used):
            self._report.count(f"{self._modality}: sequences of no id in the source", name)
        if len(self._columns) > 1:
            first, other, *_ = self._columns.items()
            self._report.problem(
                f"{self._modality}: the columns differ, or their order does",
                f"{len(first[0])} in {first[1]}, {len(other[0])} in {other[1]}",
                "Make all files by one extractor with the same options.",
            )

    def _read(self, key: str) -> _Found:
        if self._archive is not None:
            return _whole(self._archive[key])
        path = self._files[key]
        if path.suffix.lower() == ".npy":
            return _npy(path)
        if path.suffix.lower() == ".csv":
            return _csv(path)
        archive = _opened(path)
        with archive:
            names = list(_names(archive))
            if self._modality in names:
                names = [self._modality]
            if len(names) != 1:
                raise ValueError(f"holds {len(names)} arrays, none called {self._modality!r}")
            return _whole(archive[names[0]])


def open_archive(path: Path) -> Any:
    """A `.npz` file, whose arrays are read when they are asked for.

    Raises:
        FeatureFileError: It is none.
    """
    if not zipfile.is_zipfile(path):  # numpy would speak of pickles
        raise FeatureFileError(f"{shown(path)} is no .npz file, or is truncated.")
    try:
        return np.load(path, allow_pickle=False)
    except UNSOUND as error:
        raise FeatureFileError(f"{shown(path)} is no .npz file: {why(error)}.") from None


def why(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _opened(path: Path) -> Any:
    if path.suffix.lower() == ".npz":
        return open_archive(path)
    h5py = import_extra("h5py", "datasets", shown(path))
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FeatureFileError(f"{shown(path)} is no HDF5 file: {error}.") from None


def _names(archive: Any) -> Iterator[str]:
    """Arrays in a `.npz`, datasets of numbers in a `.h5` at any depth."""
    if isinstance(archive, np.lib.npyio.NpzFile):
        return iter(archive.files)
    import h5py

    found: list[str] = []

    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(name)

    archive.visititems(visit)
    return iter(found)


def _npy(path: Path) -> _Found:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":  # numpy would speak of pickles
            raise ValueError("is no .npy file")
    return _whole(np.load(path, allow_pickle=False))


def _whole(value: Any) -> _Found:
    array = np.asarray(value)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not array.shape[1]:
        raise ValueError(f"holds {array.dtype} {array.shape}")
    return _Found(array, len(array))


def _csv(path: Path) -> _Found:
    """OpenFace's file, or numbers with or without a header."""
    import pandas as pd

    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    if is_openface(first):
        return _Found(*read_openface(path), openface=True)
    separator = max(",;\t", key=first.count)
    fields = [field.strip().strip('"') for field in first.split(separator)]
    header = None if all(map(_is_number, fields)) else 0
    counted = len(fields) > 2 and fields[not fields[0] :] == [
        str(i) for i in range(len(fields) - (not fields[0]))
    ]
    if counted or (header == 0 and not fields[0]):
        raise ValueError(
            "begins with row or column numbers, as pandas writes: write it with index=False and "
            "names of the features, or header=False"
        )
    table = pd.read_csv(path, sep=separator, header=header, encoding="utf-8-sig")
    found = _whole(table.to_numpy(np.float64))
    return found if header is None else replace(found, names=tuple(fields))


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True

"""Feature files reach MMSA's own loader unpickled safely, mended, and once instead of thrice."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.mmsa_bridge.patching import ModuleProxy, replace_attribute

Transform = Callable[[Any], Any]

_FileKey = tuple[Path, int, int]


@dataclass
class _Cache:
    """What was read of each file, and what was mended of it (by whether NaN stays)."""

    read: dict[_FileKey, Any] = field(default_factory=dict)
    mended: dict[tuple[_FileKey, bool], Any] = field(default_factory=dict)


# The files read inside the open `feature_cache`; empty outside of any.
_caches: list[_Cache] = []
# What the open `transformed_features` does to a file, and what it has made of each so far.
_transforms: list[tuple[Transform, dict[tuple[_FileKey, bool | None], Any]]] = []
# While MMSA's data set reads, and `mend_gaps` holds: whether NaN stays.
_nan_stays: list[bool] = []


@contextmanager
def feature_cache() -> Iterator[None]:
    """Inside, MMSA's loader unpickles each feature file once, however often it opens it.

    MMSA opens the file once for each split. It copies what it takes (`astype`), so that the splits
    may share one reading. The contents are dropped at the end; an inner cache joins the outer one.
    """
    if _caches:
        yield
        return
    _caches.append(_Cache())
    try:
        yield
    finally:
        _caches.pop()


@contextmanager
def provided_features(path: Path, content: Any) -> Iterator[None]:
    """Inside, MMSA's loader finds `content` where it opens the file at `path`."""
    with path.open("rb") as file:
        _caches.append(_Cache({_file_key(file): content}))
        try:
            yield
        finally:
            _caches.pop()


@contextmanager
def transformed_features(transform: Transform | None) -> Iterator[None]:
    """Inside, MMSA's loader gets `transform(content)` of every feature file that it opens.

    Args:
        transform: Makes new content of a file's and leaves that one, which others share, as it is;
            called once a file. None changes nothing. Of nested ones the innermost alone counts.
    """
    if transform is None:
        yield
        return
    _transforms.append((transform, {}))
    try:
        yield
    finally:
        _transforms.pop()


def _load(file: BinaryIO) -> Any:
    """Stand-in for `pickle.load` in MMSA's modules: numpy arrays and builtin containers only."""
    if not _transforms:
        return _read(file)
    transform, made = _transforms[-1]
    key = _file_key(file), _nan_stays[-1] if _nan_stays else None
    if key not in made:
        made[key] = transform(_read(file))
    return made[key]


def _read(file: BinaryIO) -> Any:
    cache, key = _caches[-1] if _caches else _Cache(), _file_key(file)
    if key not in cache.read:
        from MMSA_ext.data.safe_pickle import safe_load

        cache.read[key] = safe_load(file)
    if not _nan_stays:
        return cache.read[key]
    mended = key, _nan_stays[-1]
    if mended not in cache.mended:
        cache.mended[mended] = _mended(cache.read[key], nan_stays=_nan_stays[-1])
    return cache.mended[mended]


def _file_key(file: BinaryIO) -> _FileKey:
    status = os.fstat(file.fileno())
    return Path(file.name).resolve(), status.st_size, status.st_mtime_ns


def read_features_safely(undo: ExitStack) -> None:
    """Make MMSA's loader and `MMSA_test` unpickle feature files through `safe_load`."""
    for name in ("MMSA.data_loader", "MMSA.run"):
        replace_attribute(undo, import_module(name), "pickle", ModuleProxy(pickle, load=_load))


def mend_gaps(undo: ExitStack) -> None:
    """Let MMSA's data set read lengths and features as `data.features.read_features` repairs them.

    Absent lengths are derived, a length of 0 is 1, and NaN is 0; but where a model's configuration
    has `need_normalized`, MMSA averages over time, makes 0 of what is then NaN, and so gets a
    number already, which stays.
    """
    dataset = import_module("MMSA.data_loader").MMDataset
    read = dataset.__init__

    @wraps(read)
    def read_mended(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        _nan_stays.append(bool(args.get("need_normalized")))
        try:
            read(self, args, *rest, **options)
        finally:
            _nan_stays.pop()

    replace_attribute(undo, dataset, "__init__", read_mended)


def _mended(content: Mapping[str, Any], *, nan_stays: bool) -> dict[str, Any]:
    return {
        name: _mended_split(split, nan_stays=nan_stays) if isinstance(split, Mapping) else split
        for name, split in content.items()
    }


def _mended_split(split: Mapping[str, Any], *, nan_stays: bool) -> dict[str, Any]:
    """A copy that shares the arrays in which nothing was mended."""
    mended = dict(split)
    for key in ("text", "audio", "vision"):
        if key not in split:
            continue
        numbers = _numbers(np.asarray(split[key]))
        if not nan_stays:
            mended[key] = numbers
        if key != "text":
            known = split.get(f"{key}_lengths")
            mended[f"{key}_lengths"] = _lengths(numbers) if known is None else _positive(known)
    return mended


def _numbers(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself, or a copy with 0 for NaN."""
    # A minimum is NaN where any value is, and takes no temporary of the array's size.
    if array.dtype.kind != "f" or not np.isnan(array.min()):
        return array
    mended: NDArray[Any] = np.nan_to_num(array, nan=0.0, posinf=np.inf, neginf=-np.inf)
    return mended


def _lengths(array: NDArray[Any]) -> list[int]:
    from MMSA_ext.data.feature_checks import Scope, derive_lengths
    from MMSA_ext.data.feature_report import FeatureReport

    frames = np.where(np.isneginf(array), 0, array)  # in audio, the logarithm of silence
    lengths = derive_lengths(Scope(FeatureReport(Path()), ""), "lengths", frames)
    return [int(length) for length in lengths]


def _positive(lengths: Any) -> list[int]:
    return [max(1, int(length)) for length in np.asarray(lengths).reshape(-1)]

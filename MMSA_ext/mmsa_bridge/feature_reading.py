"""Feature files reach MMSA's own loader unpickled safely, and once instead of three times."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from MMSA_ext.mmsa_bridge.patching import ModuleProxy, replace_attribute

Transform = Callable[[Any], Any]

_FileKey = tuple[Path, int, int]

# The files read inside the open `feature_cache`; empty outside of any.
_caches: list[dict[_FileKey, Any]] = []
# What the open `transformed_features` does to a file, and what it has made of each so far.
_transforms: list[tuple[Transform, dict[_FileKey, Any]]] = []


@contextmanager
def feature_cache() -> Iterator[None]:
    """Inside, MMSA's loader unpickles each feature file once, however often it opens it.

    MMSA opens the file once for each split. It copies what it takes (`astype`), so that the splits
    may share one reading. The contents are dropped at the end; an inner cache joins the outer one.
    """
    if _caches:
        yield
        return
    _caches.append({})
    try:
        yield
    finally:
        _caches.pop()


@contextmanager
def provided_features(path: Path, content: Any) -> Iterator[None]:
    """Inside, MMSA's loader finds `content` where it opens the file at `path`."""
    with path.open("rb") as file:
        _caches.append({_file_key(file): content})
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
    key = _file_key(file)
    if key not in made:
        made[key] = transform(_read(file))
    return made[key]


def _read(file: BinaryIO) -> Any:
    from MMSA_ext.data.safe_pickle import safe_load

    if not _caches:
        return safe_load(file)
    files, key = _caches[-1], _file_key(file)
    if key not in files:
        files[key] = safe_load(file)
    return files[key]


def _file_key(file: BinaryIO) -> _FileKey:
    status = os.fstat(file.fileno())
    return Path(file.name).resolve(), status.st_size, status.st_mtime_ns


def read_features_safely(undo: ExitStack) -> None:
    """Make MMSA's loader and `MMSA_test` unpickle feature files through `safe_load`."""
    for name in ("MMSA.data_loader", "MMSA.run"):
        replace_attribute(undo, import_module(name), "pickle", ModuleProxy(pickle, load=_load))

"""Where the models of a first start are kept; this needs no model to be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["clear", "folder_of", "size"]

_PREFIX = "demo-"


def folder_of(cache: Path, digest: str) -> Path:
    """The folder, in the user's cache, of models that are made in one way."""
    return cache / f"{_PREFIX}{digest}"


def size(cache: Path) -> int:
    """Bytes of all of them."""
    return sum(file.stat().st_size for folder in _folders(cache) for file in folder.iterdir())


def clear(cache: Path) -> int:
    """Remove all of them.

    Returns:
        Bytes that they had.

    Raises:
        OSError: Something cannot be removed.
    """
    freed = size(cache)
    for folder in _folders(cache):
        shutil.rmtree(folder)
    return freed


def _folders(cache: Path) -> list[Path]:
    return [path for path in cache.glob(f"{_PREFIX}*") if path.is_dir()]

"""Samples as a feature file: padded to the longest, behind the frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_layout import LABEL_KEYS, SINGLE
from MMSA_ext.data.features import write_features
from MMSA_ext.data.recipes import Recipe
from MMSA_ext.data.samples import Sample
from MMSA_ext.names import FRAMES, MODALITIES, SPLITS

__all__ = ["write_padded"]

_ARRAYS = ("text_bert", *MODALITIES)
_LABELS = tuple(LABEL_KEYS.values())


def write_padded(samples: Iterable[Sample], path: Path, recipe: Recipe) -> Path:
    """Write samples in MMSA's layout; all splits are padded to one length a modality.

    A modality that no sample has gets no key. One sample of the split `sample` is written without
    splits, as `predict` takes it.

    Args:
        samples: complete and checked.
        path: the file.
        recipe: who made the modalities.

    Raises:
        WriteError: the disk refuses.
    """
    splits: dict[str, dict[str, list[Any]]] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    for sample in samples:
        columns = splits.setdefault(sample.split, {})
        values: dict[str, Any] = {"id": sample.id, "raw_text": sample.raw_text}
        values |= {key: array for key in _ARRAYS if (array := getattr(sample, key)) is not None}
        values |= {LABEL_KEYS[kind]: value for kind, value in sample.labels.items()}
        for key, value in values.items():
            columns.setdefault(key, []).append(value)
            if key in _ARRAYS:
                sizes[key] = tuple(map(max, value.shape, sizes.get(key, value.shape)))
    data: dict[str, Any] = {
        name: _in_layout(splits.pop(name), sizes) for name in (*SPLITS, SINGLE) if name in splits
    }
    if SINGLE in data:
        data = {key: value[0] for key, value in data[SINGLE].items()}
    return write_features(path, data | ({"recipe": recipe} if recipe else {}))


def _in_layout(
    columns: dict[str, list[Any]], sizes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """A split; what is padded leaves `columns`, so that it need not be held twice."""
    found: dict[str, Any] = {}
    for key in list(columns):
        values = columns.pop(key)
        if key in FRAMES:
            found[f"{key}_lengths"] = list(map(len, values))
        if key in sizes:
            found[key] = _padded(values, sizes[key])
        else:
            found[key] = np.array(values, np.float32) if key in _LABELS else values
    return found


def _padded(arrays: list[NDArray[Any]], size: tuple[int, ...]) -> NDArray[Any]:
    """Arrays in one, zeros behind them; tokens as float32, which MMSA's files have."""
    half = {array.dtype for array in arrays} == {np.dtype(np.float16)}
    padded = np.zeros((len(arrays), *size), np.float16 if half else np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[tuple(map(slice, array.shape))] = array
    return padded

"""Samples as a feature file: padded to the longest, behind the frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_layout import LABEL_KEYS, SINGLE
from MMSA_ext.data.features import write_features
from MMSA_ext.data.samples import Sample
from MMSA_ext.names import FRAMES, MODALITIES, SPLITS

__all__ = ["write_padded"]


def write_padded(samples: Iterable[Sample], path: Path, top: Mapping[str, Any]) -> Path:
    """Write samples in MMSA's layout; all splits are padded to one length a modality.

    A modality that no sample has gets no key. One sample of the split `sample` is written without
    splits, as `predict` takes it.

    Args:
        samples: complete and checked.
        path: the file.
        top: further top-level keys, such as `recipe`; read once the samples have come.

    Raises:
        WriteError: the disk refuses.
    """
    splits: dict[str, list[Sample]] = {}
    for sample in samples:
        splits.setdefault(sample.split, []).append(sample)
    together = [sample for own in splits.values() for sample in own]
    sizes = {key: size for key in ("text_bert", *MODALITIES) if (size := _size(together, key))}
    data = {name: _split(splits[name], sizes) for name in (*SPLITS, SINGLE) if name in splits}
    if SINGLE in data:
        data = {key: value[0] for key, value in data[SINGLE].items()}
    return write_features(path, data | {key: value for key, value in top.items() if value})


def _size(samples: Sequence[Sample], key: str) -> tuple[int, ...]:
    """Steps and features that a modality is padded to; nothing where it is absent."""
    shapes = [array.shape for sample in samples if (array := getattr(sample, key)) is not None]
    return tuple(map(max, zip(*shapes, strict=True)))


def _split(samples: Sequence[Sample], sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": [sample.id for sample in samples],
        "raw_text": [sample.raw_text for sample in samples],
    }
    for key, size in sizes.items():
        arrays = [getattr(sample, key) for sample in samples]
        found[key] = _padded(arrays, size)
        if key in FRAMES:
            found[f"{key}_lengths"] = [len(array) for array in arrays]
    for kind, key in LABEL_KEYS.items():
        if kind in samples[0].labels:
            labels = [sample.labels[kind] for sample in samples]
            found[key] = np.array(labels, np.float32)
    return found


def _padded(arrays: Sequence[NDArray[Any]], size: tuple[int, ...]) -> NDArray[Any]:
    """Arrays in one, zeros behind them; tokens as float32, which MMSA's files have."""
    kinds = {array.dtype for array in arrays}
    half = kinds == {np.dtype(np.float16)}
    padded = np.zeros((len(arrays), *size), np.float16 if half else np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[tuple(map(slice, array.shape))] = array
    return padded

"""What it means that two values are the same, and that an array is mapped."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from MMSA_ext.data.features import FeatureSet


def assert_same(found: Any, expected: Any, where: str = "it") -> None:
    """Types, values, order of keys; of arrays dtype, byte order, shape, layout and every byte."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{where}[{index}]")
    elif isinstance(expected, np.ndarray):
        _assert_same_array(found, expected, where)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert torch.equal(found, expected), where
    else:
        assert repr(found) == repr(expected), where  # NaN as well


def _assert_same_array(found: np.ndarray, expected: np.ndarray, where: str) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), where
    for layout in ("c_contiguous", "f_contiguous"):
        assert getattr(found.flags, layout) == getattr(expected.flags, layout), where
    if expected.dtype.hasobject:
        assert_same(found.ravel().tolist(), expected.ravel().tolist(), where)
    else:
        assert found.tobytes() == expected.tobytes(), where


def assert_same_features(found: FeatureSet, expected: FeatureSet) -> None:
    """Equal to the last bit: values, dtypes, report, fingerprint."""
    assert found.report == expected.report
    assert found.recipe == expected.recipe
    assert found.report.render() == expected.report.render()
    assert (found.fingerprint, found.path) == (expected.fingerprint, expected.path)
    assert list(found.splits) == list(expected.splits)
    for name, split in found.splits.items():
        for field in fields(split):
            of_both = (getattr(each, field.name) for each in (split, expected.splits[name]))
            assert_same(*of_both, f"{name} {field.name}")


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array is a part of a mapped file."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)

"""What it means that two readings are the same, and that an array is mapped."""

from dataclasses import fields
from typing import Any

import numpy as np

from MMSA_ext.data.features import FeatureSet


def assert_same(found: FeatureSet, expected: FeatureSet) -> None:
    """Equal to the last bit: values, dtypes, report, fingerprint."""
    assert found.report == expected.report
    assert found.report.render() == expected.report.render()
    assert (found.fingerprint, found.path) == (expected.fingerprint, expected.path)
    assert list(found.splits) == list(expected.splits)
    for name, split in found.splits.items():
        for field in fields(split):
            _same(getattr(split, field.name), getattr(expected.splits[name], field.name))


def _same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(found, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    elif isinstance(found, dict):
        assert list(found) == list(expected)
        for key, value in found.items():
            _same(value, expected[key])
    else:
        assert found == expected


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array is a part of a mapped file."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)

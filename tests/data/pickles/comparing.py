"""What two unpickled values must have in common to be the same."""

from typing import Any

import numpy as np


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

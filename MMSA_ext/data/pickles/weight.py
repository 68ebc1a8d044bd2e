"""How much the content of a file is to whoever reads it, which may be far more than it takes."""

import collections
from typing import Any

import numpy as np

from MMSA_ext.data.pickles.errors import RefusedError, kind_of

__all__ = ["check_weight"]

_DEEPEST = 8  # containers in one another; features as nested lists have 5
_NUMBER_WEIGHT = 8
_CONTAINER_WEIGHT = 64
# Lists of single numbers weigh 16 times what they take in the file. Small files may share more.
_WEIGHT_PER_BYTE = 16
_FREE_WEIGHT = 32 << 20

_SIZES = {"b": "1", "i": "1248", "u": "1248", "f": "248"}
_NUMBERS = {type(None), bool, int, float} | {
    np.dtype(kind + size).type for kind, sizes in _SIZES.items() for size in sizes
}
_TEXTS = {str, bytes, bytearray, np.str_, np.bytes_}
_CONTAINERS = {list, tuple, dict, collections.OrderedDict, np.ndarray}


def check_weight(value: Any, size: int) -> None:
    """Check the kinds, the depth and the weight of all that `value` holds.

    The weight is about what it would take in numpy's arrays with nothing shared: what lies in many
    places counts in each, so that a few bytes cannot stand for endless content. As every visit of a
    container weighs, the limit also bounds the time that this takes.

    Args:
        value: what was read.
        size: how many bytes it was read from.

    Raises:
        RefusedError: something is of a kind that no feature file needs, or lies too deep, as what
            holds itself does; or all of it weighs too much for a file of this size.
    """
    _Scales(_WEIGHT_PER_BYTE * size + _FREE_WEIGHT).weigh(value, 0)


class _Scales:
    def __init__(self, limit: int) -> None:
        self._left = limit

    def weigh(self, value: Any, depth: int) -> None:
        """Weigh a value that lies in `depth` containers."""
        kind = type(value)
        if kind in _NUMBERS:
            self._add(_NUMBER_WEIGHT)
        elif kind in _TEXTS:
            self._add(_NUMBER_WEIGHT + len(value))
        elif kind not in _CONTAINERS:
            raise RefusedError(f"holds {kind_of(value)}")
        elif kind is np.ndarray and not value.dtype.hasobject:
            self._add(_CONTAINER_WEIGHT + value.nbytes)
        elif depth == _DEEPEST:
            raise RefusedError(
                f"has containers in one another, more than {_DEEPEST} deep or without an end"
            )
        else:
            self._weigh_items(value, depth + 1)

    def _weigh_items(self, container: Any, depth: int) -> None:
        items = container
        if isinstance(container, dict):
            items = container.values()
        elif isinstance(container, np.ndarray):
            items = container.ravel("K").tolist()
        self._add(_CONTAINER_WEIGHT + _NUMBER_WEIGHT * len(items))
        kinds = set(map(type, items))
        if kinds <= _NUMBERS:
            return
        if kinds <= _TEXTS:
            self._add(sum(map(len, items)))
            return
        for item in items:
            self.weigh(item, depth)

    def _add(self, weight: int) -> None:
        self._left -= weight
        if self._left < 0:
            raise RefusedError("stands for far more content than a file of its size has")

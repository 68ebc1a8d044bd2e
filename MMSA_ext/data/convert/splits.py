"""Which split a sample is in: as the source says, or by a rule that is the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from MMSA_ext.names import SPLITS

__all__ = ["assigned"]


def assigned(groups: Sequence[str], seed: int, shares: tuple[float, float, float]) -> list[str]:
    """Put groups into splits at random so that no group is in two.

    The largest groups come first, each into the split that lacks most samples; which of several
    equally large ones comes first is random. The order of the samples does not matter.

    Args:
        groups: group of each of n samples; the ids where samples are on their own.
        seed: of the order.
        shares: of train, valid and test; sum 1.

    Returns:
        Split of each sample.
    """
    names, members, counts = np.unique(
        np.asarray(groups, object).astype(str), return_inverse=True, return_counts=True
    )
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    wanted = np.array(shares) * len(groups)
    split = np.empty(len(names), np.int64)
    for group in order:
        split[group] = wanted.argmax()
        wanted[split[group]] -= counts[group]
    return [SPLITS[index] for index in split[members]]

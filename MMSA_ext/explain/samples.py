"""Choose samples of a feature file by id, or some of a split."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_set import FeatureSet
from MMSA_ext.errors import FeatureFileError


def select_samples(
    features: FeatureSet,
    ids: Sequence[str] | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> FeatureSet:
    """The feature set reduced to some samples, in file order.

    Args:
        features: The whole file.
        ids: Samples of any split; None takes those of `split`.
        split: Split whose samples are taken where no ids are given. A file of one split only (one
            sample in MMSA's layout) gives that one.
        limit: At most so many samples of the split, drawn at random.
        seed: Seed of that draw.

    Raises:
        FeatureFileError: If a sample or the split is not in the file; it suggests those that are.
    """
    if ids is None:
        name = check_split(features, split)
        rows = {name: drawn(len(features.splits[name]), limit, seed)}
    else:
        known = [name for part in features.splits.values() for name in part.ids]
        check_ids(ids, known, features.path)
        wanted = set(ids)
        rows = {
            name: np.flatnonzero([sample in wanted for sample in part.ids])
            for name, part in features.splits.items()
        }
    splits = {name: features.splits[name].take(of) for name, of in rows.items() if len(of)}
    return replace(features, splits=splits)


def check_split(features: FeatureSet, split: str) -> str:
    """The split's name, or that of the only one of a file of one split.

    Raises:
        FeatureFileError: If there is no such split.
    """
    if split in features.splits:
        return split
    if list(features.splits) == ["sample"]:
        return "sample"
    raise FeatureFileError(
        f"{features.path}: has no split {split!r}; it has {', '.join(features.splits)}."
    )


def check_ids(ids: Sequence[str], known: Sequence[str], path: Path, where: str = "") -> None:
    """Refuse ids that are not known in a feature file, or `where` in it was looked.

    Raises:
        FeatureFileError: Naming the first unknown id, and those that come close.
    """
    present = set(known)
    for name in ids:
        if name not in present:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"its first is {known[0]}."
            raise FeatureFileError(f"{path}{where}: has no sample {name!r}; {hint}")


def drawn(count: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """At most `limit` of the numbers below `count`, rising, drawn at random."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))

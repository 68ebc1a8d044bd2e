"""Samples that are longer than those a model was trained on: cut, averaged, or an error."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_checks import frame_ends
from MMSA_ext.data.feature_set import FeatureSet, FeatureSplit
from MMSA_ext.errors import ConfigError, FeatureFileError

__all__ = ["TooLong", "check_too_long", "fit_lengths", "fitted"]

TooLong = Literal["cut", "pool", "error"]

_AT_ONCE = 256  # samples that are averaged together


def fit_lengths(
    features: FeatureSet,
    lengths: Mapping[str, int],
    checkpoint: str | Path,
    too_long: TooLong = "error",
) -> FeatureSet:
    """Bring sequences to at most the lengths that a model was trained on.

    Padding beyond them goes; what happens to samples that are longer is for the user to say.

    Args:
        features: what is to be predicted.
        lengths: `text_bert`, `text`, `audio`, `vision` -> most steps; what is left out stays.
        checkpoint: the trained model, to be named.
        too_long: such a sample is an `error`; `cut` keeps its first steps (and the last token of
            `text_bert`); `pool` averages its frames to as many as the model reads (tokens are
            cut).

    Returns:
        Features that share what did not change.

    Raises:
        FeatureFileError: a sample is longer, which is an error.
        ConfigError: `too_long` is none of these.
    """
    check_too_long(too_long)
    problems: list[str] = []
    splits = {}
    for name, split in features.splits.items():
        changed: dict[str, Any] = {}
        for key, limit in lengths.items():
            array = getattr(split, key)
            if array is None or array.shape[2 if key == "text_bert" else 1] <= limit:
                continue
            steps = _steps(split, key)
            if (steps > limit).any() and too_long == "error":
                problems.append(f"split {name!r}, key {key!r}: {_said(split, steps, limit)}")
            changed[key] = fitted(key, array, steps, limit, pool=too_long == "pool")
            if key in ("audio", "vision"):
                changed[f"{key}_lengths"] = np.minimum(steps, limit)
        splits[name] = replace(split, **changed)
    if problems:
        raise FeatureFileError(
            f"{features.path} does not fit {checkpoint}:\n  " + "\n  ".join(problems) + "\n"
            "--too-long cut keeps the first steps of such a sample, --too-long pool averages its "
            "frames (too_long= in Python)."
        )
    return replace(features, splits=splits)


def check_too_long(value: str) -> None:
    """Check what is to be done with samples that are too long.

    Raises:
        ConfigError: it is none of `TooLong`.
    """
    if value not in get_args(TooLong):
        raise ConfigError(f"too_long is {value!r}; use 'cut', 'pool' or 'error'.")


def _steps(split: FeatureSplit, key: str) -> NDArray[np.int64]:
    """Valid steps (n,) of each sample."""
    if key == "text_bert":
        return np.asarray((getattr(split, key)[:, 1] != 0).sum(axis=1), np.int64)
    if key == "text":
        return frame_ends(getattr(split, key))
    lengths: NDArray[np.int64] = getattr(split, f"{key}_lengths")
    return lengths


def _said(split: FeatureSplit, steps: NDArray[np.int64], limit: int) -> str:
    longest = int(steps.argmax())
    return (
        f"{(steps > limit).sum()} of {len(steps)} samples have more than the {limit} steps that "
        f"the model was trained on, the longest {steps[longest]} ({split.ids[longest]!r})"
    )


def fitted(
    key: str, array: NDArray[Any], steps: NDArray[np.int64], limit: int, *, pool: bool
) -> NDArray[Any]:
    """At most `limit` steps of every sample.

    Args:
        key: `text_bert`, (n, 3, L); or `text`, `audio`, `vision`, (n, L, d).
        array: the array.
        steps: valid steps (n,) of each sample.
        limit: most steps.
        pool: average frames instead of leaving them out (tokens are cut).
    """
    rows = np.flatnonzero(steps > limit)
    if key == "text_bert":
        fitted: NDArray[Any] = array[:, :, :limit].copy()
        fitted[rows, :, limit - 1] = array[rows, :, steps[rows] - 1]
        return fitted
    fitted = array[:, :limit]
    if not pool or not len(rows):
        return fitted
    kept = array.dtype if array.dtype.kind == "f" else np.float32
    fitted = fitted.astype(kept)
    for some in np.array_split(rows, range(_AT_ONCE, len(rows), _AT_ONCE)):
        fitted[some] = _averages(array[some], steps[some], limit)
    return fitted


def _averages(frames: NDArray[Any], lengths: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Means (b, count, d) of as many parts of about one length; parts may share a frame."""
    part = np.arange(count)
    first = part * lengths[:, None] // count
    end = -(-(part + 1) * lengths[:, None] // count)
    sums = np.zeros((len(frames), frames.shape[1] + 1, frames.shape[2]))
    np.cumsum(frames, axis=1, dtype=np.float64, out=sums[:, 1:])
    rows = np.arange(len(frames))[:, None]
    means: NDArray[np.float64] = (sums[rows, end] - sums[rows, first]) / (end - first)[..., None]
    return means

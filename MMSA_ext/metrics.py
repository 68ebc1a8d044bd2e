"""Regression metrics over the last axis, so that thousands of resamples are one call.

Those of MOSI and SIMS are MMSA's (`MetricsTop`), without its rounding to four digits; a test
compares the two. They serve statistics over test samples alone: what a run scores on such a data
set is computed by MMSA. The `generic` ones are those of MOSI for labels in any range, and have its
names; with them runs are scored too. Labels and predictions are compared as float32, as in MMSA, or
those that lie on the border of a class would change sides.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from MMSA_ext.datasets import Dataset

__all__ = [
    "SIMS_BORDERS",
    "Classes",
    "FloatArray",
    "SampleMetric",
    "bordered_classes",
    "label_classes",
    "metrics_of",
    "neutral_label",
    "rounded_classes",
    "whole_labels",
]

FloatArray = npt.NDArray[np.float64]
# Of predictions and labels of shape (..., n) to values of shape (...); NaN where undefined.
SampleMetric = Callable[[npt.NDArray[Any], npt.NDArray[Any]], FloatArray]
Classes = npt.NDArray[np.int64]

# Upper borders of SIMS' classes but the last; a value on a border belongs to the class below it.
SIMS_BORDERS = {2: (0.0,), 3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}


def metrics_of(dataset: Dataset) -> Mapping[str, SampleMetric]:
    """The metrics of a data set, by MMSA's names and in its order.

    The `generic` ones take `neutral_label` for the 0 of `Has0` and `Non0`, and `label_classes` for
    the classes of `Mult_acc_k`, which is left out where there is one class alone.

    Returns:
        Functions of predictions and labels of shape (..., n) to values of shape (...); NaN where
        one is undefined.
    """
    if dataset.metrics == "sims":
        return _SIMS
    return _MOSI if dataset.metrics == "mosi" else _generic(dataset)


def neutral_label(dataset: Dataset) -> float:
    """The label that is neither positive nor negative: 0, or the middle of a range without it."""
    low, high = dataset.label_range
    return 0.0 if dataset.metrics != "generic" or low < 0 < high else (low + high) / 2


def whole_labels(dataset: Dataset) -> tuple[int, int]:
    """Lowest and highest whole number in the range of labels."""
    low, high = dataset.label_range
    return math.ceil(low), math.floor(high)


def label_classes(dataset: Dataset, values: FloatArray) -> Classes:
    """Classes of labels of a data set: between its borders, or of the same whole number.

    Args:
        dataset: The data set.
        values: Shape (..., n); what is beyond the range is of the outermost class.

    Returns:
        Classes from 0, of the same shape.
    """
    if dataset.classes is not None:
        return bordered_classes(dataset.classes, values)
    low, high = whole_labels(dataset)
    return rounded_classes(low, high, values) - low


def _mean_absolute_error(predictions: FloatArray, labels: FloatArray) -> FloatArray:
    return np.asarray(np.abs(predictions - labels).mean(axis=-1))


def _pearson_correlation(predictions: FloatArray, labels: FloatArray) -> FloatArray:
    """NaN where a side is constant."""
    x = predictions - predictions.mean(axis=-1, keepdims=True)
    y = labels - labels.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    # The mean of equal numbers is theirs only up to rounding, so a constant is asked for itself.
    constant = (np.ptp(predictions, axis=-1) == 0) | (np.ptp(labels, axis=-1) == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(constant, math.nan, (x * y).sum(axis=-1) / scale)


def _accuracy(predicted: npt.NDArray[Any], true: npt.NDArray[Any]) -> FloatArray:
    return np.asarray((predicted == true).mean(axis=-1))


def _weighted_f1(
    predicted: npt.NDArray[Any], true: npt.NDArray[Any], counted: npt.NDArray[Any] | None = None
) -> FloatArray:
    """F1 of both classes, weighted by their shares of the labels; only over what is counted."""
    weights = np.ones(true.shape, bool) if counted is None else counted
    scores = np.zeros(true.shape[:-1])
    for positive in (True, False):
        hits = (weights & (predicted == positive) & (true == positive)).sum(axis=-1)
        found = (weights & (predicted == positive)).sum(axis=-1)
        support = (weights & (true == positive)).sum(axis=-1)
        scores += support * 2 * hits / np.maximum(found + support, 1)
    with np.errstate(invalid="ignore"):
        return np.asarray(scores / weights.sum(axis=-1))


def _has0(
    metric: SampleMetric, zero: float, predictions: FloatArray, labels: FloatArray
) -> FloatArray:
    return metric(_single(predictions) >= zero, _single(labels) >= zero)


def _non0_accuracy(zero: float, predictions: FloatArray, labels: FloatArray) -> FloatArray:
    predicted, true = _single(predictions), _single(labels)
    counted = true != zero
    hits = (counted & ((predicted > zero) == (true > zero))).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(hits / counted.sum(axis=-1))


def _non0_f1(zero: float, predictions: FloatArray, labels: FloatArray) -> FloatArray:
    predicted, true = _single(predictions), _single(labels)
    return _weighted_f1(predicted > zero, true > zero, true != zero)


def _class_accuracy(
    classes: Callable[[FloatArray], Classes], predictions: FloatArray, labels: FloatArray
) -> FloatArray:
    return _accuracy(classes(predictions), classes(labels))


def rounded_classes(low: int, high: int, values: FloatArray) -> Classes:
    """Classes of width one, as MMSA's of MOSI and MOSEI; halves are rounded to even.

    Args:
        low: Lowest class, in MMSA -3 for Acc-7 and -2 for Acc-5.
        high: Highest; values beyond the two are of the outermost class.
        values: Shape (..., n).

    Returns:
        Classes from low to high, of the same shape.
    """
    return np.round(np.clip(_single(values), low, high)).astype(np.int64)


def _sims(metric: SampleMetric, predictions: FloatArray, labels: FloatArray) -> FloatArray:
    """MMSA clips SIMS' predictions and labels to [-1, 1] first."""
    return metric(np.clip(predictions, -1.0, 1.0), np.clip(labels, -1.0, 1.0))


def bordered_classes(borders: tuple[float, ...], values: FloatArray) -> Classes:
    """Classes between borders; a value on a border is of the class below, as MMSA's of SIMS.

    Args:
        borders: Rising, such as those of `SIMS_BORDERS`.
        values: Shape (..., n).

    Returns:
        Classes from 0 to the number of borders, of the same shape.
    """
    return np.searchsorted(np.array(borders, np.float32), _single(values), side="left")


def _sims_f1(predictions: FloatArray, labels: FloatArray) -> FloatArray:
    predicted, true = (bordered_classes(SIMS_BORDERS[2], side) for side in (predictions, labels))
    return _weighted_f1(predicted == 1, true == 1)


def _single(values: FloatArray) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def _polarity_metrics(zero: float) -> dict[str, SampleMetric]:
    return {
        "Has0_acc_2": partial(_has0, _accuracy, zero),
        "Has0_F1_score": partial(_has0, _weighted_f1, zero),
        "Non0_acc_2": partial(_non0_accuracy, zero),
        "Non0_F1_score": partial(_non0_f1, zero),
    }


def _generic(dataset: Dataset) -> Mapping[str, SampleMetric]:
    low, high = whole_labels(dataset)
    count = high - low + 1 if dataset.classes is None else len(dataset.classes) + 1
    accuracy = partial(_class_accuracy, partial(label_classes, dataset))
    return {
        **_polarity_metrics(neutral_label(dataset)),
        **({f"Mult_acc_{count}": accuracy} if count > 1 else {}),
        **_ERRORS,
    }


_ERRORS: Mapping[str, SampleMetric] = {"MAE": _mean_absolute_error, "Corr": _pearson_correlation}
_MOSI: Mapping[str, SampleMetric] = {
    **_polarity_metrics(0.0),
    "Mult_acc_5": partial(_class_accuracy, partial(rounded_classes, -2, 2)),
    "Mult_acc_7": partial(_class_accuracy, partial(rounded_classes, -3, 3)),
    **_ERRORS,
}
_OF_SIMS: Mapping[str, SampleMetric] = {
    **{
        f"Mult_acc_{count}": partial(_class_accuracy, partial(bordered_classes, borders))
        for count, borders in SIMS_BORDERS.items()
    },
    "F1_score": _sims_f1,
    **_ERRORS,
}
_SIMS = {name: partial(_sims, metric) for name, metric in _OF_SIMS.items()}

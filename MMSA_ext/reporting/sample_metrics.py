"""MMSA's regression metrics over the last axis, so that thousands of resamples are one call.

The definitions are MMSA's (`MetricsTop`), without its rounding to four digits; a test compares the
two. They are here for statistics over test samples alone: what a run scores is computed by MMSA.
Labels and predictions are compared as float32, as in MMSA, or those that lie on the border of a
class would change sides.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from MMSA_ext.reporting.statistics import FloatArray, SampleMetric, StatisticsError

Classes = npt.NDArray[np.int64]

# Upper borders of SIMS' classes but the last; a value on a border belongs to the class below it.
SIMS_BORDERS = {2: (0.0,), 3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}


def sample_metrics(dataset: str) -> Mapping[str, SampleMetric]:
    """MMSA's metrics of a data set, by name and in MMSA's order.

    Args:
        dataset: mosi, mosei, sims or simsv2; others have MOSI's metrics, as labels in [-3, 3] do.

    Returns:
        Functions of predictions and labels of shape (..., n) to values of shape (...); NaN where
        one is undefined.
    """
    return _SIMS if dataset.lower().startswith("sims") else _MOSI


def sample_metric(dataset: str, metric: str) -> SampleMetric:
    """One of `sample_metrics`.

    Raises:
        StatisticsError: The data set has no such metric.
    """
    known = sample_metrics(dataset)
    if metric not in known:
        raise StatisticsError(
            f"{dataset} has no metric {metric!r} over samples; known: {', '.join(known)}."
        )
    return known[metric]


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


def _has0(metric: SampleMetric, predictions: FloatArray, labels: FloatArray) -> FloatArray:
    return metric(_single(predictions) >= 0, _single(labels) >= 0)


def _non0_accuracy(predictions: FloatArray, labels: FloatArray) -> FloatArray:
    predicted, true = _single(predictions), _single(labels)
    counted = true != 0
    hits = (counted & ((predicted > 0) == (true > 0))).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(hits / counted.sum(axis=-1))


def _non0_f1(predictions: FloatArray, labels: FloatArray) -> FloatArray:
    predicted, true = _single(predictions), _single(labels)
    return _weighted_f1(predicted > 0, true > 0, true != 0)


def _rounded_accuracy(limit: float, predictions: FloatArray, labels: FloatArray) -> FloatArray:
    return _accuracy(rounded_classes(limit, predictions), rounded_classes(limit, labels))


def rounded_classes(limit: float, values: FloatArray) -> Classes:
    """MMSA's classes of MOSI and MOSEI: of width one; halves are rounded to even.

    Args:
        limit: 3 for Acc-7, 2 for Acc-5; values beyond it are of the outermost class.
        values: Shape (..., n).

    Returns:
        Classes from -limit to limit, of the same shape.
    """
    return np.round(np.clip(_single(values), -limit, limit)).astype(np.int64)


def _sims(metric: SampleMetric, predictions: FloatArray, labels: FloatArray) -> FloatArray:
    """MMSA clips SIMS' predictions and labels to [-1, 1] first."""
    return metric(np.clip(predictions, -1.0, 1.0), np.clip(labels, -1.0, 1.0))


def sims_classes(count: int, values: FloatArray) -> Classes:
    """MMSA's classes of SIMS, after its clipping to [-1, 1].

    Args:
        count: 2, 3 or 5, see `SIMS_BORDERS`.
        values: Shape (..., n).

    Returns:
        Classes from 0 to count - 1, of the same shape.
    """
    borders = np.array(SIMS_BORDERS[count], np.float32)
    return np.searchsorted(borders, _single(values), side="left")


def _sims_accuracy(count: int, predictions: FloatArray, labels: FloatArray) -> FloatArray:
    return _accuracy(sims_classes(count, predictions), sims_classes(count, labels))


def _sims_f1(predictions: FloatArray, labels: FloatArray) -> FloatArray:
    return _weighted_f1(sims_classes(2, predictions) == 1, sims_classes(2, labels) == 1)


def _single(values: FloatArray) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


_MOSI: Mapping[str, SampleMetric] = {
    "Has0_acc_2": partial(_has0, _accuracy),
    "Has0_F1_score": partial(_has0, _weighted_f1),
    "Non0_acc_2": _non0_accuracy,
    "Non0_F1_score": _non0_f1,
    "Mult_acc_5": partial(_rounded_accuracy, 2.0),
    "Mult_acc_7": partial(_rounded_accuracy, 3.0),
    "MAE": _mean_absolute_error,
    "Corr": _pearson_correlation,
}
_SIMS: Mapping[str, SampleMetric] = {
    "Mult_acc_2": partial(_sims, partial(_sims_accuracy, 2)),
    "Mult_acc_3": partial(_sims, partial(_sims_accuracy, 3)),
    "Mult_acc_5": partial(_sims, partial(_sims_accuracy, 5)),
    "F1_score": partial(_sims, _sims_f1),
    "MAE": partial(_sims, _mean_absolute_error),
    "Corr": partial(_sims, _pearson_correlation),
}

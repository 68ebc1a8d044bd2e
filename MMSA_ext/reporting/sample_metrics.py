"""The metrics of a data set over test samples, by name."""

from collections.abc import Mapping

from MMSA_ext.datasets import Dataset, get_dataset
from MMSA_ext.metrics import SampleMetric, metrics_of
from MMSA_ext.reporting.statistics import StatisticsError

__all__ = ["sample_metric", "sample_metrics"]


def sample_metrics(dataset: Dataset | str) -> Mapping[str, SampleMetric]:
    """The metrics of a data set, see `metrics.metrics_of`.

    Args:
        dataset: The data set, or the name of one that is known.
    """
    return metrics_of(dataset if isinstance(dataset, Dataset) else get_dataset(dataset))


def sample_metric(dataset: Dataset | str, metric: str) -> SampleMetric:
    """One of `sample_metrics`.

    Raises:
        StatisticsError: The data set has no such metric.
    """
    known = sample_metrics(dataset)
    if metric not in known:
        name = dataset.name if isinstance(dataset, Dataset) else dataset
        raise StatisticsError(
            f"{name} has no metric {metric!r} over samples; known: {', '.join(known)}."
        )
    return known[metric]

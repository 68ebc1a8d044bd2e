"""MMSA's code on data sets that it has no name for: its loader, its trainers and its metrics.

MMSA branches by the name of a data set in three places. Its loader reads labels of the single
modalities on sims alone, the trainers that learn from these refuse any other name, and `MetricsTop`
has a function for each name. What its reader of configurations is told stands in `registration`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from importlib import import_module
from typing import Any

from torch import Tensor

from MMSA_ext import mmsa_files
from MMSA_ext.datasets import DEFINITION, Dataset, dataset_of, get_dataset
from MMSA_ext.metrics import metrics_of
from MMSA_ext.mmsa_bridge.patching import replace_attribute

_DIGITS = 4  # to which MMSA rounds its metrics
_UNIMODAL = frozenset("TAV")
# Of the trainers that are being made, which ask for its metrics by its name alone.
_asked_for: list[Dataset] = []


def data_set(args: Mapping[str, Any]) -> Dataset:
    """The data set of a configuration.

    Raises:
        ConfigError: It is not known.
    """
    return dataset_of(str(args["dataset_name"]), args.get(DEFINITION))


@contextmanager
def as_sims(args: Any, *, when: bool) -> Iterator[None]:
    """Inside, the data set of a configuration has the one name on which MMSA reads labels T, A, V.

    Args:
        args: MMSA's configuration.
        when: Whether it is to read them; else the name is that of a data set without them.
    """
    name = args["dataset_name"]
    args["dataset_name"] = "sims" if when else "mosi"
    try:
        yield
    finally:
        args["dataset_name"] = name


def has_unimodal_labels(args: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    """Whether MMSA's loader is to read the labels of single modalities, where a split has them."""
    learns = args.get("model_name") in mmsa_files.UNIMODAL_TASKS
    return (learns or data_set(args).metrics == "sims") and labels.keys() >= _UNIMODAL


def scored_by(dataset: Dataset, top: Any) -> Callable[[Tensor, Tensor], Mapping[str, float]]:
    """The function by which runs on a data set are scored.

    Args:
        dataset: The data set.
        top: MMSA's `MetricsTop` for regression, which has the functions of its own data sets.
    """
    if dataset.metrics != "generic":
        scored: Callable[[Tensor, Tensor], Mapping[str, float]] = top.metrics_dict[
            dataset.metrics.upper()
        ]
        return scored
    functions = metrics_of(dataset)

    def generic(predictions: Tensor, labels: Tensor) -> dict[str, float]:
        sides = [side.detach().reshape(-1).cpu().numpy() for side in (predictions, labels)]
        return {name: round(float(of(*sides)), _DIGITS) for name, of in functions.items()}

    return generic


def know_data_sets(undo: ExitStack) -> None:
    """Let MMSA's trainers and metrics take every data set."""
    trainers = import_module("MMSA.trains.ATIO").ATIO
    top = import_module("MMSA.utils.metricsTop").MetricsTop
    find_trainer, find_metrics = trainers.getTrain, top.getMetics

    @wraps(find_trainer)
    def trainer_of(self: Any, args: Any) -> Any:
        learns = args["model_name"] in mmsa_files.UNIMODAL_TASKS
        _asked_for.append(data_set(args))
        try:
            with as_sims(args, when=True) if learns else nullcontext():
                return find_trainer(self, args)
        finally:
            _asked_for.pop()

    @wraps(find_metrics)
    def metrics_by_name(self: Any, dataset_name: str) -> Any:
        if _asked_for:
            return scored_by(_asked_for[-1], self)
        if dataset_name.upper() in self.metrics_dict:
            return find_metrics(self, dataset_name)
        return scored_by(get_dataset(dataset_name), self)

    replace_attribute(undo, trainers, "getTrain", trainer_of)
    replace_attribute(undo, top, "getMetics", metrics_by_name)

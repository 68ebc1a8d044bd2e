"""Whether a run would go: two batches of each split, one epoch, and nothing of it is for keeping.

The whole feature file is read and checked and the configuration is the run's, so that what is
refused here would be refused there. The numbers say nothing of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from MMSA_ext.config.resolve import unread
from MMSA_ext.data.features import FeatureSet
from MMSA_ext.records.store import RunRecord
from MMSA_ext.runs.api import open_run
from MMSA_ext.runs.options import RunOptions

BATCHES = 2


def smoke_run(
    model_name: str,
    dataset_name: str,
    options: RunOptions,
    folder: str | Path,
    *,
    seed: int = 1111,
    config_file: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Train a model for one epoch on two batches, and test it on two.

    Arguments and errors are those of `MMSA_run`; the folders of `options` are not used.

    Returns:
        The record of the run, whose files are below `folder`; the caller throws it away.
    """
    with open_run(
        model_name, dataset_name, options.inside(folder), config_file=config_file, config=config
    ) as run:
        features = few(run.features, BATCHES * int(run.args.batch_size))
        return run.with_overrides(one_epoch(run.args), features=features).seed(seed).record


def few(features: FeatureSet, samples: int) -> FeatureSet:
    """At most so many samples of each split, from all over it; the report stays the file's."""
    splits = {name: split.thinned(samples) for name, split in features.splits.items()}
    return replace(features, splits=splits)


def one_epoch(args: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides that let a configured model train for one epoch, whoever's loop it trains in.

    Models trained in stages train one epoch in each.
    """
    overrides = {"num_epochs": 1} | _single_epochs(args)
    # Few samples make too few batches for MMSA's step.
    return overrides | ({} if unread(args, ["update_epochs"]) else {"update_epochs": 1})


def _single_epochs(args: Mapping[str, Any]) -> dict[str, Any]:
    overrides: dict[str, Any] = {"epochs": 1} if "epochs" in args else {}
    for key, value in args.items():
        if isinstance(value, Mapping) and (nested := _single_epochs(value)):
            overrides[key] = nested
    return overrides

"""Which records of a store belong to which row of an experiment."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from MMSA_ext.config import resolve
from MMSA_ext.errors import TextEncoderError
from MMSA_ext.experiments.files import Experiment, Row
from MMSA_ext.reporting.store import RunRecord, RunStore, content_digest
from MMSA_ext.run import identifying_configuration

logger = logging.getLogger("MMSA")

# What a run takes over from its feature file, whatever the configuration says.
_SHAPES = ("feature_dims", "seq_lens", "train_samples")


@dataclass(frozen=True)
class Expected:
    """What the runs of a row on a data set have in common, known before any data are read.

    Attributes:
        model: Model name.
        digest: Of the configuration without the shapes of the data.
        feature_path: Feature file of the configuration.
        aligned: Whether MMSA's aligned features are read, which are a file of their own.
    """

    model: str
    digest: str
    feature_path: str
    aligned: bool


@dataclass(frozen=True)
class RowRecords:
    """The records of one row on one data set.

    Attributes:
        records: Those that count, at most one a seed, in the order of the seeds.
        remarks: What was left out, as sentences.
    """

    records: tuple[RunRecord, ...] = ()
    remarks: tuple[str, ...] = ()


def expected_runs(experiment: Experiment, row: Row, dataset: str) -> Expected:
    """What a run of `row` on `dataset` would have.

    Raises:
        ConfigError: If the row's configuration is not usable.
        TextEncoderError: If its text encoder is a folder that is not there.
    """
    args = resolve(str(row.model), dataset, overrides=experiment.overrides(row))
    return Expected(
        args.model_name,
        configuration_digest(identifying_configuration(args)),
        str(args.featurePath),
        bool(args.get("need_data_aligned")),
    )


def configuration_digest(configuration: Mapping[str, Any]) -> str:
    """Digest of a configuration without what a run takes over from its feature file."""
    return content_digest({k: v for k, v in configuration.items() if k not in _SHAPES})


def matching(experiment: Experiment, dataset: str, store: RunStore) -> dict[str, RowRecords]:
    """The records of each row that can be run.

    A record belongs to a row if model, configuration and seed are the row's. Where rows were run on
    several feature files, the one with the newest record is taken, the same for all rows that read
    unaligned features, and likewise for those that read aligned ones. Of several versions of the
    code, the newest record of a row decides. What is left out so is said in the remarks.

    Args:
        experiment: From `load`, `narrowed` as it was for the run.
        dataset: One of its data sets.
        store: Where the records are.

    Returns:
        By row label.
    """
    stored: dict[tuple[str, str], list[RunRecord]] = {}
    for record in store.records(dataset):
        if record.identity.seed in experiment.seeds:
            digest = configuration_digest(record.identity.configuration)
            stored.setdefault((record.identity.model, digest), []).append(record)
    found: dict[str, tuple[bool, list[RunRecord]]] = {}
    for row in (row for row in experiment.rows if row.model is not None):
        try:
            expected = expected_runs(experiment, row, dataset)
            records = stored.get((expected.model, expected.digest), [])
            found[row.label] = expected.aligned, records
        except TextEncoderError as error:
            logger.warning("%s: its runs cannot be told from others. %s", row.label, error)
            found[row.label] = False, []
    files = {
        aligned: _newest(r for flag, records in found.values() if flag == aligned for r in records)
        for aligned in (False, True)
    }
    return {
        label: _counting(records, files[aligned], experiment.seeds)
        for label, (aligned, records) in found.items()
    }


def _counting(
    records: Sequence[RunRecord], newest_of_all: RunRecord | None, seeds: Sequence[int]
) -> RowRecords:
    """Records on the feature file of `newest_of_all`, by the newest code."""
    if newest_of_all is None or not records:
        return RowRecords()
    file = newest_of_all.identity.dataset_fingerprint
    on_file = [r for r in records if r.identity.dataset_fingerprint == file]
    newest = _newest(on_file)
    code = newest.identity.code_version if newest is not None else ""
    kept = [record for record in on_file if record.identity.code_version == code]
    kept.sort(key=lambda record: list(seeds).index(record.identity.seed))
    files = Counter(r.identity.dataset_fingerprint for r in records)
    versions = Counter(r.identity.code_version for r in on_file)
    del files[file], versions[code]
    return RowRecords(
        tuple(kept),
        (
            *(f"{n} run(s) on other data, sha256 {f[:12]}, not shown" for f, n in files.items()),
            *(f"{n} older run(s) by MMSA_ext {v} not shown" for v, n in versions.items()),
        ),
    )


def _newest(records: Iterable[RunRecord]) -> RunRecord | None:
    return max(records, key=_age, default=None)


def _age(record: RunRecord) -> datetime:
    return record.created

"""Which records of a store belong to which row of an experiment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from MMSA_ext.config.files import defaults
from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import TextEncoderError
from MMSA_ext.experiments.files import Experiment, Row, Shown
from MMSA_ext.records.store import RunRecord, RunStore, content_digest
from MMSA_ext.registry import get_model, is_registered
from MMSA_ext.runs.seeds import identifying_configuration

logger = logging.getLogger("MMSA")

# What a run takes over from its feature file, whatever the configuration says.
_SHAPES = ("feature_dims", "seq_lens", "train_samples")
# What decides the time of a run, and of its numbers the rounding and the draws of dropout.
_PACE = ("length_groups",)

_Score = tuple[int, datetime]
_NO_SCORE: _Score = (0, datetime.min.replace(tzinfo=UTC))


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
        configuration_digest(args.model_name, identifying_configuration(args)),
        str(args.featurePath),
        bool(args.get("need_data_aligned")),
    )


def configuration_digest(model: str, configuration: Mapping[str, Any]) -> str:
    """Digest of what in a configuration sets runs of a model apart.

    That is not what a run takes over from its feature file, nor what decides its time only. A run
    from before a key was there did what is the key's default now.
    """
    known = defaults(get_model(model)) if is_registered(model) else {}
    complete = {**known, **configuration}
    return content_digest({k: v for k, v in complete.items() if k not in (*_SHAPES, *_PACE)})


def matching(experiment: Experiment, dataset: str, store: RunStore) -> dict[str, RowRecords]:
    """The records of each row that can be run.

    A record belongs to a row if model, configuration and seed are the row's. Where rows were run on
    several feature files, the one with the most finished seeds is taken, the same for all rows that
    read unaligned features, and likewise for those that read aligned ones; then of several versions
    of the code, by row, the one with the most finished seeds. Where several have as many, it is the
    one with the newest record. `experiment.shown` chooses otherwise. What is left out is said in
    the remarks.

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
            digest = configuration_digest(record.identity.model, record.identity.configuration)
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
    files = _files(found.values(), experiment.shown)
    return {
        label: _counting(records, files[aligned], experiment.seeds, experiment.shown)
        for label, (aligned, records) in found.items()
    }


def _files(rows: Iterable[tuple[bool, Sequence[RunRecord]]], shown: Shown) -> dict[bool, str]:
    """Fingerprint of the feature file of unaligned (False) and of aligned rows; empty for none.

    A file that is asked for is one of the two kinds; rows that read the other keep theirs.
    """
    scores: dict[bool, dict[str, _Score]] = {False: {}, True: {}}
    for aligned, records in rows:
        asked = [record for record in records if _code(record).startswith(shown.code)]
        for file, on_file in _grouped(asked, _file).items():
            best = max(_score(made) for made in _grouped(on_file, _code).values())
            known = scores[aligned].get(file, _NO_SCORE)
            scores[aligned][file] = known[0] + best[0], max(known[1], best[1])
    wanted = shown.fingerprint
    there = any(wanted in of_kind for of_kind in scores.values())
    return {
        aligned: wanted
        if wanted is not None and (wanted in of_kind or not there)
        else max(of_kind, key=of_kind.__getitem__, default="")
        for aligned, of_kind in scores.items()
    }


def _counting(
    records: Sequence[RunRecord], file: str, seeds: Sequence[int], shown: Shown
) -> RowRecords:
    """Records on a feature file, by one version of the code."""
    by_file = _grouped(records, _file)
    on_file = by_file.pop(file, [])
    by_code = _grouped(on_file, _code)
    chosen = {code: made for code, made in by_code.items() if code.startswith(shown.code)}
    code = max(chosen, key=lambda code: _score(chosen[code]), default="")
    kept = sorted(by_code.pop(code, []), key=lambda r: list(seeds).index(r.identity.seed))
    left_out = [
        *((made, f"on other data, sha256 {other[:12]}") for other, made in by_file.items()),
        *((made, f"by MMSA_ext {version}") for version, made in by_code.items()),
    ]
    remarks = (f"{_compared(made, kept)} {what}, not shown" for made, what in left_out)
    return RowRecords(tuple(kept), tuple(remarks))


def _compared(made: Sequence[RunRecord], kept: Sequence[RunRecord]) -> str:
    """How many runs there are, and why others of the row are shown."""
    if not kept:
        return f"{len(made)} run(s)"
    (ours, made_at), (theirs, kept_at) = _score(made), _score(kept)
    age = "newer" if made_at > kept_at else "older"
    return f"{len(made)} {age} run(s)" + (" with fewer finished seeds" if ours < theirs else "")


def _score(records: Sequence[RunRecord]) -> _Score:
    """Finished seeds, then the newest record."""
    finished = {record.identity.seed for record in records if record.finished}
    return len(finished), max(record.created for record in records)


def _grouped(
    records: Iterable[RunRecord], key: Callable[[RunRecord], str]
) -> dict[str, list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _file(record: RunRecord) -> str:
    return record.identity.dataset_fingerprint


def _code(record: RunRecord) -> str:
    return record.identity.code_version

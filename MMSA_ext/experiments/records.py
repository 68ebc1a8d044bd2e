"""Which records of a store belong to which row of an experiment."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import TextEncoderError
from MMSA_ext.experiments.files import Experiment
from MMSA_ext.records.store import RunRecord, RunStore
from MMSA_ext.reporting.groups import grouped
from MMSA_ext.runs.identity import run_identity

logger = logging.getLogger("MMSA")

# Stands for data that are not on this machine in the name of a planned run.
UNKNOWN_DATA = "0" * 64

_Score = tuple[int, datetime]
_NO_SCORE: _Score = (0, datetime.min.replace(tzinfo=UTC))


@dataclass(frozen=True)
class RowRecords:
    """The records of one row on one data set that count, at most one a seed, in the seeds' order.

    What was left out is said in the remarks, as sentences.
    """

    records: tuple[RunRecord, ...] = ()
    remarks: tuple[str, ...] = ()


def matching(experiment: Experiment, dataset: str, store: RunStore) -> dict[str, RowRecords]:
    """The records of each row that can be run.

    A record belongs to a row if model, configuration and seed are the row's. Where rows were run on
    several feature files, the one with the most finished seeds is taken, the same for all rows that
    read unaligned features, and likewise for those that read aligned ones; then of several versions
    of the code, by row, the one with the most finished seeds. Where several have as many, it is the
    one with the newest record. `experiment.fingerprint` and `experiment.code` choose otherwise.
    What is left out is said in the remarks.
    """
    seeds = experiment.seeds
    stored = (record for record in store.records(dataset) if record.identity.seed in seeds)
    by_setting = grouped(stored, lambda record: record.identity.setting)
    found: dict[str, tuple[bool, list[RunRecord]]] = {}
    for row in (row for row in experiment.rows if row.model is not None):
        try:
            args = resolve(str(row.model), dataset, overrides=experiment.overrides(row))
            setting = run_identity(args, UNKNOWN_DATA, seeds[0]).setting
            aligned = bool(args.get("need_data_aligned"))  # MMSA's are a file of their own
            found[row.label] = aligned, by_setting.get(setting, [])
        except TextEncoderError as error:
            logger.warning("%s: its runs cannot be told from others. %s", row.label, error)
            found[row.label] = False, []
    # A digest is one model's: rows of others keep theirs, unless nothing is of the code asked for.
    asked = {
        label: any(_code(record).startswith(experiment.code) for record in records)
        for label, (_, records) in found.items()
    }
    code = {
        label: experiment.code if is_of or not any(asked.values()) else ""
        for label, is_of in asked.items()
    }
    rows = ((*found[label], code[label]) for label in found)
    files = _files(rows, experiment.fingerprint)
    return {
        label: _counting(records, files[aligned], code[label], seeds)
        for label, (aligned, records) in found.items()
    }


def _files(
    rows: Iterable[tuple[bool, Sequence[RunRecord], str]], wanted: str | None
) -> dict[bool, str]:
    """Fingerprint of the feature file of unaligned (False) and of aligned rows; empty for none.

    A file that is asked for is one of the two kinds; rows that read the other keep theirs.
    """
    scores: dict[bool, dict[str, _Score]] = {False: {}, True: {}}
    for aligned, records, code in rows:
        asked = [record for record in records if _code(record).startswith(code)]
        for file, on_file in grouped(asked, _file).items():
            best = max(_score(made) for made in grouped(on_file, _code).values())
            known = scores[aligned].get(file, _NO_SCORE)
            scores[aligned][file] = known[0] + best[0], max(known[1], best[1])
    there = any(wanted in of_kind for of_kind in scores.values())
    return {
        aligned: wanted
        if wanted is not None and (wanted in of_kind or not there)
        else max(of_kind, key=of_kind.__getitem__, default="")
        for aligned, of_kind in scores.items()
    }


def _counting(
    records: Sequence[RunRecord], file: str, asked: str, seeds: Sequence[int]
) -> RowRecords:
    """Records on a feature file, by one version of the code, which begins as asked for."""
    by_file = grouped(records, _file)
    by_code = grouped(by_file.pop(file, []), _code)
    chosen = {code: made for code, made in by_code.items() if code.startswith(asked)}
    code = max(chosen, key=lambda code: _score(chosen[code]), default="")
    kept = sorted(by_code.pop(code, []), key=lambda r: seeds.index(r.identity.seed))
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


def _file(record: RunRecord) -> str:
    return record.identity.dataset_fingerprint


def _code(record: RunRecord) -> str:
    return record.identity.code_version

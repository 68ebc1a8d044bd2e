"""What an experiment consists of, what of it is done, and how long the rest will take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from filelock import FileLock, Timeout

from MMSA_ext.data import features
from MMSA_ext.errors import TextEncoderError
from MMSA_ext.experiments.files import Experiment, Row
from MMSA_ext.experiments.records import configuration_digest, expected_runs
from MMSA_ext.files import write_error
from MMSA_ext.paths import expand
from MMSA_ext.records.store import RunRecord, RunStore, content_digest
from MMSA_ext.runs.seeds import model_code_version

# Arguments of `MMSA_run` that name feature files.
FEATURE_FILES = ("custom_feature", "feature_T", "feature_A", "feature_V")

State = Literal["done", "diverged", "running", "missing"]
_STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class Unit:
    """One row on one data set with one seed: one record.

    Attributes:
        label: The row; of rows that are the same run, the first.
        model: Its model.
        dataset: The data set.
        seed: The seed.
        digest: Of the configuration, see `configuration_digest`.
        key: All that identifies the run, known before data are read; the same in every process
            that has the feature file, and in every one that has not.
        overrides: What the model is run with.
    """

    label: str
    model: str
    dataset: str
    seed: int
    digest: str
    key: str
    overrides: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def cell(self) -> tuple[str, str, str]:
        """What the unit shares with its other seeds."""
        return self.dataset, self.model, self.digest

    def made(self, record: RunRecord) -> bool:
        """Whether a record is of this run; on any data, where the unit's are not known."""
        return self.key in record_keys(record)

    def __str__(self) -> str:
        """Name of the unit for people."""
        return f"{self.label} on {self.dataset}, seed {self.seed}"


class Claims:
    """Which units are being run, by any process on this store.

    A claim is a locked file, so it ends with the process that holds it, however that ends.

    Args:
        store: The store that the units' records go to.
    """

    def __init__(self, store: RunStore) -> None:
        self._folder = store.root / ".claims"

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold the claim on a unit; its file goes when the block ends without an error.

        Yields:
            Whether it is held; False where another process has it.

        Raises:
            WriteError: The file cannot be made or locked.
        """
        lock = FileLock(self._path(key), timeout=0)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            yield False
            return
        except (OSError, NotImplementedError) as error:
            raise write_error(self._path(key), error) from error
        try:
            yield True
            with suppress(OSError):  # it may stay, and is empty
                self._path(key).unlink(missing_ok=True)
        finally:
            lock.release()

    def held(self, key: str) -> bool:
        """Whether a process is running the unit."""
        lock = FileLock(self._path(key), timeout=0)
        try:
            if not self._path(key).is_file():
                return False
            lock.acquire()
        except Timeout:
            return True
        except (OSError, NotImplementedError):  # of another user, or a disk that is only read
            return False  # nobody can tell
        lock.release()
        return False

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.lock"


class Durations:
    """Seconds of finished runs, from which those of others are estimated."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}

    def add(self, cell: tuple[str, str, str], seconds: float | None) -> None:
        """Count a run of a cell (data set, model, configuration) that took so long."""
        if seconds is not None:
            for part in (cell, cell[:2]):
                self._seconds.setdefault(part, []).append(seconds)

    def estimate(self, cell: tuple[str, str, str]) -> float | None:
        """Median of the cell's runs, else of its model's on the data set; None without any."""
        known = self._seconds.get(cell) or self._seconds.get(cell[:2])
        return statistics.median(known) if known else None


@dataclass(frozen=True)
class TimeLeft:
    """How long runs will take, one after another.

    Attributes:
        seconds: Of the runs of which others like them are finished.
        unknown: Runs of which none is.
    """

    seconds: float
    unknown: int

    def __str__(self) -> str:
        """The time for people."""
        if not self.unknown:
            return format_seconds(self.seconds)
        more = f"{self.unknown} run(s) of unknown length"
        return f"{format_seconds(self.seconds)} and {more}" if self.seconds else more


class Plan:
    """The units of an experiment, and which of them a store has.

    A unit is done if the store has its record: same configuration, seed, feature file and code. The
    feature file is the one given or configured; where it is not on this machine, its content is not
    known, and a record on any data counts.

    Args:
        experiment: From `load`, `narrowed` where needed.
        store: Where records are.
        files: Feature files, by the names of `MMSA_run`'s arguments (`FEATURE_FILES`).

    Attributes:
        units: Every run once, in the order in which they are run.
        rows: By row label and data set, the row's units.
        store: The store.
        claims: Which units are being run.

    Raises:
        ConfigError: If a configuration is not usable.
        FeatureFileError: If a feature file that is given cannot be read.
    """

    def __init__(
        self, experiment: Experiment, store: RunStore, files: Mapping[str, Any] | None = None
    ) -> None:
        self.store = store
        self._files = {key: (files or {}).get(key) or None for key in FEATURE_FILES}
        self.claims = Claims(store)
        self._durations = Durations()
        self._records: dict[str, RunRecord] = {}  # by all that `record_keys` gives
        self._each: dict[str, RunRecord] = {}
        for dataset in experiment.datasets:
            for record in store.records(dataset):
                self._add(record)
        self.rows: dict[tuple[str, str], list[Unit]] = {}
        by_key: dict[str, Unit] = {}
        for row, dataset in experiment.cells():
            units = self._units(experiment, row, dataset)
            self.rows[row.label, dataset] = [by_key.setdefault(u.key, u) for u in units]
        self.units = tuple(by_key.values())

    def record(self, unit: Unit) -> RunRecord | None:
        """The record of a unit, as far as it was there when the plan was made, or added."""
        return self._records.get(unit.key)

    def look(self, unit: Unit) -> RunRecord | None:
        """The record of a unit as it is now: another process may have made it since."""
        stored = self.store.records(unit.dataset, unit.model)
        return max((r for r in stored if unit.made(r)), key=lambda r: r.created, default=None)

    def add(self, record: RunRecord) -> None:
        """Take a new record into account; one that repeats another's run changes nothing."""
        if record_keys(record)[0] not in self._each:
            self._add(record)

    def state(self, unit: Unit) -> State:
        """Where a unit stands."""
        record = self.record(unit)
        if record is not None:
            return "done" if record.finished else "diverged"
        return "running" if self.claims.held(unit.key) else "missing"

    def older(self, units: Iterable[Unit]) -> int:
        """Records of these units' runs by other code or on other data, which do not count."""
        wanted = {(*unit.cell, unit.seed): unit for unit in units}
        others = ((wanted.get((*_cell(r), r.identity.seed)), r) for r in self._each.values())
        return sum(unit is not None and not unit.made(record) for unit, record in others)

    def time_left(self, units: Iterable[Unit]) -> TimeLeft:
        """Estimate for units without a record, one after another."""
        known = [self._durations.estimate(unit.cell) for unit in units]
        return TimeLeft(sum(t for t in known if t is not None), known.count(None))

    def _add(self, record: RunRecord) -> None:
        exact, any_file = record_keys(record)
        self._each[exact] = self._records[exact] = record
        known = self._records.get(any_file)
        if known is None or known.created <= record.created:
            self._records[any_file] = record
        self._durations.add(_cell(record), record.seconds)

    def _units(self, experiment: Experiment, row: Row, dataset: str) -> list[Unit]:
        overrides = experiment.overrides(row)
        model = str(row.model)
        try:
            expected = expected_runs(experiment, row, dataset)
            model, digest = expected.model, expected.digest
            file = self._fingerprint(expected.feature_path)
        except TextEncoderError:  # said where the run is refused
            digest = file = content_digest({"encoder": "missing", "of": overrides})
        code = model_code_version(model)
        return [
            Unit(
                row.label,
                model,
                dataset,
                seed,
                digest,
                unit_key(dataset, model, digest, file, seed, code),
                overrides,
            )
            for seed in experiment.seeds
        ]

    def _fingerprint(self, configured: str) -> str:
        """Of the feature files; empty where the configured one is not on this machine."""
        given, *others = (file and expand(file) for file in self._files.values())
        base = features.base_file(given, expand(configured), others)
        if not any(self._files.values()) and not Path(expand(configured)).is_file():
            return ""
        return _hashed(*(_stamp(str(file)) if file else None for file in (base, *others)))


def unit_key(dataset: str, model: str, digest: str, file: str, seed: int, code: str) -> str:
    """Name of a run by what identifies it, without what it takes over from its feature file.

    Args:
        dataset: Data set.
        model: Model name.
        digest: From `configuration_digest`.
        file: Fingerprint of the feature files; empty where they are not known.
        seed: Seed.
        code: Version of the code.
    """
    parts = {"dataset": dataset, "model": model, "digest": digest, "file": file}
    return content_digest({**parts, "seed": seed, "code": code})[:32]


def record_keys(record: RunRecord) -> tuple[str, str]:
    """`unit_key` of the run that made a record: with its feature file, and with an unknown one."""
    identity = record.identity
    cell, rest = _cell(record), (identity.seed, identity.code_version)
    return unit_key(*cell, identity.dataset_fingerprint, *rest), unit_key(*cell, "", *rest)


def _cell(record: RunRecord) -> tuple[str, str, str]:
    identity = record.identity
    return (
        identity.dataset,
        identity.model,
        configuration_digest(identity.model, identity.configuration),
    )


def _stamp(path: str) -> tuple[str, int, int]:
    """A file as it is now, so that a changed one is hashed again."""
    try:
        found = Path(path).stat()
    except OSError:
        return path, -1, -1  # reading it says what is wrong
    return path, found.st_size, found.st_mtime_ns


@cache
def _hashed(*files: tuple[str, int, int] | None) -> str:
    """Fingerprint of the base file, text, audio and vision; None for those that are not given."""
    base, t, a, v = (file and file[0] for file in files)
    return features.fingerprint(base, feature_T=t, feature_A=a, feature_V=v)


def status(experiment: Experiment, store: RunStore, **files: Any) -> pd.DataFrame:
    """How far an experiment is.

    Args:
        experiment: From `load`, `narrowed` as for the run.
        store: Where the records are.
        files: Feature files that the run is given, see `FEATURE_FILES`.

    Returns:
        One line a row and data set: row, dataset; the seeds `done`, `diverged`, `running` (by any
        process on this store) and `missing`; `older`, records of the row by other code or on
        other data, which a run does not count; `used`, seconds of the runs that count; `left`,
        an estimate of the others' seconds, one after another, and `unknown`, how many of them it
        leaves out.
    """
    plan = Plan(experiment, store, files)
    lines = []
    for (label, dataset), units in plan.rows.items():
        states = [plan.state(unit) for unit in units]
        records = [record for unit in units if (record := plan.record(unit)) is not None]
        left = plan.time_left(unit for unit in units if plan.record(unit) is None)
        lines.append(
            {
                "row": label,
                "dataset": dataset,
                **{str(state): states.count(state) for state in _STATES},
                "older": plan.older(units),
                "used": sum(record.seconds or 0.0 for record in records),
                "left": left.seconds,
                "unknown": left.unknown,
            }
        )
    return pd.DataFrame(lines)


def render_status(lines: pd.DataFrame) -> str:
    """`status` for a terminal; no final newline."""
    table = lines.assign(
        used=[format_seconds(seconds) for seconds in lines["used"]],
        left=[
            str(TimeLeft(seconds, unknown))
            for seconds, unknown in zip(lines["left"], lines["unknown"], strict=True)
        ],
    ).drop(columns="unknown")
    if not lines["older"].any():
        table = table.drop(columns="older")
    left = TimeLeft(float(lines["left"].sum()), int(lines["unknown"].sum()))
    counts = [f"{lines[state].sum()} {state}" for state in _STATES]
    said = [f"{', '.join(counts)}; left, one run after another: {left}"]
    if lines["older"].any():
        said.append("older: by other code or on other data; shown by `table`, not counted by `run`")
    return "\n".join([table.to_string(index=False), "", *said])


def format_seconds(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

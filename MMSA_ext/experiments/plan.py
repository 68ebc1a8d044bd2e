"""What an experiment consists of, what of it is done, and how long the rest will take."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from filelock import FileLock, Timeout

from MMSA_ext.config.resolve import identity_config
from MMSA_ext.data.features import base_file, fingerprint
from MMSA_ext.datasets import Dataset, get_dataset
from MMSA_ext.errors import TextEncoderError
from MMSA_ext.experiments.files import Experiment, Setting, settings
from MMSA_ext.experiments.records import UNKNOWN_DATA
from MMSA_ext.files import write_error
from MMSA_ext.names import MODALITY_FILES
from MMSA_ext.paths import expand
from MMSA_ext.records.store import RunIdentity, RunRecord, RunStore, StoreError
from MMSA_ext.reporting.render import frame_table, to_text
from MMSA_ext.runs.identity import run_identity

# Arguments of `MMSA_run` that name feature files.
FEATURE_FILES = ("custom_feature", *MODALITY_FILES)

State = Literal["done", "diverged", "running", "missing"]
_STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class Unit:
    """One row on one data set with one seed: one record.

    Attributes:
        label: The row; of rows that are the same run, the first.
        identity: The run's name, which its record will have; with `UNKNOWN_DATA` where the feature
            file is not on this machine.
        overrides: What the model is run with.
        data_set: What it is run on, which another process need not know by its name.
    """

    label: str
    identity: RunIdentity
    overrides: Mapping[str, Any] = field(compare=False, repr=False)
    data_set: Dataset = field(compare=False, repr=False)

    @property
    def key(self) -> str:
        """The run's name, for claims."""
        return self.identity.digest[:32]

    def is_of(self, identity: RunIdentity) -> bool:
        """Whether a run is this one; on any data, where the unit's are not known."""
        if self.identity.dataset_fingerprint == UNKNOWN_DATA:
            identity = identity.model_copy(update={"dataset_fingerprint": UNKNOWN_DATA})
        return identity == self.identity

    def __str__(self) -> str:
        """Name of the unit for people."""
        return f"{self.label} on {self.identity.dataset}, seed {self.identity.seed}"


class Claims:
    """Which units are being run, by any process on the store that their records go to.

    A claim is a locked file, so it ends with the process that holds it, however that ends.
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


@dataclass(frozen=True)
class TimeLeft:
    """How long runs will take, one after another; `unknown` others are like no finished run."""

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

    A unit is done if the store has the record of its name. The feature file is the one given or
    configured; where it is not on this machine, its content is not known, and a record on any data
    counts.

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
        ConfigError: If configurations are not usable, all of them named.
        FeatureFileError: If a feature file that is given cannot be read.
    """

    def __init__(
        self, experiment: Experiment, store: RunStore, files: Mapping[str, Any] | None = None
    ) -> None:
        self.store, self.claims = store, Claims(store)
        self._files = {key: (files or {}).get(key) or None for key in FEATURE_FILES}
        self._records: dict[str, dict[str, RunRecord]] = {}  # by setting, then by name
        for dataset in experiment.datasets:
            for record in store.records(dataset):
                self.add(record)
        self.rows: dict[tuple[str, str], list[Unit]] = {}
        by_key: dict[str, Unit] = {}
        for setting in settings(experiment):
            units = self._units(setting, experiment.seeds)
            where = setting.row.label, setting.args.dataset_name
            self.rows[where] = [by_key.setdefault(unit.key, unit) for unit in units]
        self.units = tuple(by_key.values())

    def record(self, unit: Unit) -> RunRecord | None:
        """The record of a unit, as far as it was there when the plan was made, or added."""
        return _newest(unit, self._alike(unit))

    def look(self, unit: Unit) -> RunRecord | None:
        """The record of a unit as it is now: another process may have made it since."""
        identity = unit.identity
        if identity.dataset_fingerprint == UNKNOWN_DATA:
            return _newest(unit, self.store.records(identity.dataset, identity.model))
        try:
            return self.store.find(identity)
        except StoreError:  # damaged: it is run again, and says so
            return None

    def add(self, record: RunRecord) -> None:
        """Take a record into account."""
        identity = record.identity
        self._records.setdefault(identity.setting, {})[identity.digest] = record

    def state(self, unit: Unit) -> State:
        """Where a unit stands."""
        record = self.record(unit)
        if record is not None:
            return "done" if record.finished else "diverged"
        return "running" if self.claims.held(unit.key) else "missing"

    def older(self, units: Iterable[Unit]) -> int:
        """Records of these units' runs by other code or on other data, which do not count."""
        return sum(
            record.identity.seed == unit.identity.seed and not unit.is_of(record.identity)
            for unit in units
            for record in self._alike(unit)
        )

    def time_left(self, units: Iterable[Unit]) -> TimeLeft:
        """Estimate for units without a record, one after another.

        Of each the median of its setting's runs, else of its model's on the data set.
        """
        known = [
            _median(self._alike(unit)) or _median(self._of_model(unit.identity)) for unit in units
        ]
        return TimeLeft(sum(t for t in known if t is not None), known.count(None))

    def _alike(self, unit: Unit) -> Iterable[RunRecord]:
        return self._records.get(unit.identity.setting, {}).values()

    def _of_model(self, identity: RunIdentity) -> Iterator[RunRecord]:
        for records in self._records.values():
            for record in records.values():
                found = record.identity
                if (found.dataset, found.model) == (identity.dataset, identity.model):
                    yield record

    def _units(self, setting: Setting, seeds: Sequence[int]) -> list[Unit]:
        row, overrides, args = setting
        data = self._fingerprint(args.featurePath)
        try:
            first = run_identity(args, data, seeds[0])
        except TextEncoderError:  # said where the run is refused
            first = RunIdentity(
                dataset=args.dataset_name,
                dataset_fingerprint=data,
                model=args.model_name,
                configuration=identity_config(args),
                seed=seeds[0],
                code_version="no text encoder",
            )
        names = (first.model_copy(update={"seed": seed}) for seed in seeds)
        data_set = get_dataset(args.dataset_name)
        return [Unit(row.label, name, overrides, data_set) for name in names]

    def _fingerprint(self, configured: str) -> str:
        """Of the feature files; unknown where the configured one is not on this machine."""
        given, *others = (file and expand(file) for file in self._files.values())
        base = base_file(given, expand(configured), others)
        if not any(self._files.values()) and not Path(expand(configured)).is_file():
            return UNKNOWN_DATA
        return fingerprint(base, **dict(zip(FEATURE_FILES[1:], others, strict=True)))


def _newest(unit: Unit, records: Iterable[RunRecord]) -> RunRecord | None:
    made = (record for record in records if unit.is_of(record.identity))
    return max(made, key=lambda record: record.created, default=None)


def _median(records: Iterable[RunRecord]) -> float | None:
    """Median of the seconds that runs took; None where none is known."""
    known = [record.seconds for record in records if record.seconds is not None]
    return statistics.median(known) if known else None


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
    return "\n".join([to_text(frame_table(table)), "", *said])


def format_seconds(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

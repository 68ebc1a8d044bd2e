"""What the report shows, from records to lines of tables; `report` puts it into HTML.

A section is one data set in one feature file, because numbers of different files do not compare.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from functools import cached_property
from typing import Any, Final, NamedTuple

import pandas as pd

from MMSA_ext.records.store import RunRecord
from MMSA_ext.reporting.comparison import (
    Comparison,
    SystemRuns,
    compare,
    lower_is_better,
    text_encoder,
)
from MMSA_ext.reporting.groups import Data, by_data, by_experiment, data_titles, differences, rows
from MMSA_ext.reporting.render import NOTHING, Column, number, x100
from MMSA_ext.reporting.tables import ordered_metrics

SPLIT: Final = "test"
# Differing keys shown beside a model; the configuration itself shows all of them.
KEYS_SHOWN: Final = 6
# In the order of preference: by what the experiments to be drawn are chosen, on validation data.
CHOOSING_METRICS: Final = ("MAE", "Loss")


@dataclass(frozen=True)
class SeedGroup(SystemRuns):
    """Runs that differ by their seed only, as a row.

    Attributes:
        differing: Configuration keys (dotted), and "code version", in which it differs from the
            other experiments of its model in the section, with its own value as text.
    """

    differing: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`RunIdentity.experiment`, 16 hex digits."""
        return self.records[0].identity.experiment

    @property
    def difference(self) -> str:
        """What sets it apart from its model's other experiments, as short text."""
        shown = [f"{key} {value}" for key, value in list(self.differing.items())[:KEYS_SHOWN]]
        more = len(self.differing) - len(shown)
        return ", ".join([*shown, *([f"{more} more"] if more else [])])

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """The notes that all runs have; those of single seeds stay with their runs."""
        common = set.intersection(*(set(run.notes) for run in self.records))
        return tuple(note for note in dict.fromkeys(self.records[0].notes) if note in common)


class ResultCell(NamedTuple):
    """Mean, spread and interval of a metric, x100, as text; `own_n` where n is not the row's."""

    mean: str
    std: str = ""
    interval: str = ""
    own_n: str = ""
    best: str = ""


class ResultRow(NamedTuple):
    """One experiment in the results table."""

    experiment: SeedGroup
    n: str
    basis: list[str]
    cells: list[ResultCell]


class SeedRow(NamedTuple):
    """One run in the table by seed; texts, x100 for metrics."""

    experiment: SeedGroup
    record: RunRecord
    cells: list[str]
    basis: list[str]
    seconds: str
    memory: str
    created: str


class LegendEntry(NamedTuple):
    """What a mark of the `basis` columns stands for."""

    mark: str
    name: str
    text: str


class Legend:
    """Marks such as "S1" for what numbers depend on: each text once, however many share it."""

    _NAMES: Final = {
        "S": "selection rule",
        "T": "text",
        "E": "environment",
        "C": "code version",
        "N": "note of all seeds",
    }

    def __init__(self) -> None:
        self._marks: dict[str, dict[str, str]] = {kind: {} for kind in self._NAMES}

    def basis(self, records: Sequence[RunRecord], notes: Sequence[str]) -> list[str]:
        """Mark what the numbers of these runs depend on, and the given notes on them."""
        said = [
            *(("S", run.selection) for run in records),
            *(("T", text_encoder(run)) for run in records),
            *(("E", run.environment.describe()) for run in records),
            *(("C", f"MMSA_ext {run.identity.code_version}") for run in records),
            *(("N", note) for note in notes),
        ]
        marks = self._marks
        return [
            marks[kind].setdefault(text, f"{kind}{len(marks[kind]) + 1}")
            for kind, text in dict.fromkeys(said)
        ]

    @property
    def entries(self) -> list[LegendEntry]:
        """All marks, by kind and number."""
        return [
            LegendEntry(mark, self._NAMES[kind], text)
            for kind, marks in self._marks.items()
            for text, mark in marks.items()
        ]


@dataclass(frozen=True)
class Section:
    """All runs on one data set in one feature file.

    Attributes:
        dataset: Name of the data set.
        fingerprint: SHA-256 of the feature files.
        title: The data set's name; with the fingerprint's start where it has several files.
        experiments: By model, then by id.
        comparison: The numbers, one line an experiment and metric; None where no run finished.
    """

    dataset: str
    fingerprint: str
    title: str
    experiments: tuple[SeedGroup, ...]
    comparison: Comparison | None

    @property
    def anchor(self) -> str:
        """Id of the section in the page."""
        return f"{self.dataset}-{self.fingerprint[:12]}"

    @cached_property
    def records(self) -> tuple[RunRecord, ...]:
        """All runs, by experiment and seed."""
        return tuple(run for experiment in self.experiments for run in experiment.records)

    @property
    def diverged(self) -> tuple[tuple[SeedGroup, RunRecord], ...]:
        """Runs without a result, each with its experiment."""
        return tuple((e, run) for e in self.experiments for run in e.records if not run.finished)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, each once."""
        return tuple(dict.fromkeys(experiment.model for experiment in self.experiments))

    @property
    def newest(self) -> str:
        """When the newest run was recorded."""
        return timestamp(max(self.records, key=lambda run: run.created))

    @cached_property
    def metrics(self) -> tuple[Column, ...]:
        """Columns of numbers."""
        names = () if self.comparison is None else self.comparison.metrics
        return tuple(Column(m, better="lower" if lower_is_better(m) else "higher") for m in names)

    @cached_property
    def legend(self) -> Legend:
        """Marks of everything that the section's numbers depend on."""
        legend = Legend()
        for experiment in self.experiments:
            legend.basis(experiment.records, experiment.notes)
        return legend

    @cached_property
    def result_rows(self) -> list[ResultRow]:
        """The results table."""
        lines = [] if self.comparison is None else self.comparison.numbers.to_dict("records")
        cells: dict[str, list[ResultCell]] = {}
        for line in lines:
            cells.setdefault(line["row"], []).append(_cell({str(key): line[key] for key in line}))
        return [
            ResultRow(e, _count(e), self.legend.basis(e.records, e.notes), cells.get(e.label, []))
            for e in self.experiments
        ]

    @cached_property
    def seed_rows(self) -> list[SeedRow]:
        """The table by seed."""
        return [
            SeedRow(
                experiment,
                run,
                [x100(_scores(run).get(metric.name)) for metric in self.metrics],
                self.legend.basis([run], experiment.notes),
                number(run.seconds, ".1f"),
                number(run.peak_memory_mb, ".0f"),
                timestamp(run),
            )
            for experiment in self.experiments
            for run in experiment.records
        ]

    def best_on_validation(self, count: int) -> tuple[SeedGroup, ...]:
        """Choose the experiments to draw: those with finished runs, the best by validation data.

        Args:
            count: How many at most.

        Returns:
            They, in the section's order.
        """
        finished = [experiment for experiment in self.experiments if experiment.finished]
        best = {experiment.id for experiment in sorted(finished, key=_validation_error)[:count]}
        return tuple(experiment for experiment in finished if experiment.id in best)


def sections(records: Iterable[RunRecord]) -> list[Section]:
    """Sort runs into sections and experiments.

    Args:
        records: Runs in any order; a run given twice counts once.

    Returns:
        Sections by data set and fingerprint; equal for equal records in any order.
    """
    data = by_data(records)
    titles = data_titles(data)
    return [_section(key, titles[key], data[key]) for key in sorted(data)]


def _section(data: Data, title: str, runs: list[RunRecord]) -> Section:
    groups = by_experiment(runs)
    differing = differences(groups)
    experiments = tuple(
        SeedGroup(row.label, row.model, row.records, row.seeds, differing=differing[key])
        for key, row in zip(groups, rows(groups), strict=True)
    )
    return Section(data.dataset, data.fingerprint, title, experiments, comparison_of(experiments))


def comparison_of(experiments: Sequence[SeedGroup]) -> Comparison | None:
    """Put experiments of one section side by side, compared with none of them.

    Args:
        experiments: Of one section.

    Returns:
        The numbers; None where no run has a metric.
    """
    metrics = ordered_metrics(
        name for e in experiments for run in e.records for name in _scores(run)
    )
    return compare(experiments, metrics, split=SPLIT) if metrics else None


def _scores(run: RunRecord) -> Mapping[str, float | None]:
    return run.metrics.get(SPLIT, {}) if run.finished else {}


def _cell(line: Mapping[str, Any]) -> ResultCell:
    n, finished = int(line["n"]), int(line["seeds"]) - int(line["diverged"])
    if n == 0:
        return ResultCell(NOTHING)
    spread = n > 1 and not pd.isna(line["std"])
    return ResultCell(
        mean=x100(line["mean"]),
        std=x100(line["std"]) if spread else "",
        interval=f"{x100(line['ci_low'])}, {x100(line['ci_high'])}" if spread else "",
        own_n=f"n = {n}" if n != finished else "",
        best=line["best"],
    )


def _count(experiment: SeedGroup) -> str:
    """Say how many seeds count, and of how many where some diverged."""
    finished, all_runs = len(experiment.finished), len(experiment.records)
    return str(finished) if finished == all_runs else f"{finished} of {all_runs}"


def _validation_error(experiment: SeedGroup) -> float:
    """Mean validation MAE, or Loss where there is none; experiments without come last."""
    for name in CHOOSING_METRICS:
        scores = [run.metrics.get("valid", {}).get(name) for run in experiment.finished.values()]
        values = [score for score in scores if score is not None]
        if values:
            return sum(values) / len(values)
    return math.inf


def timestamp(run: RunRecord) -> str:
    """Say when a run was recorded, in UTC."""
    return f"{run.created.astimezone(UTC):%Y-%m-%d %H:%M}"

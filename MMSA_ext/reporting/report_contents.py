"""What the report shows, from records to lines of tables; `report` puts it into HTML.

A section is one data set in one feature file, because numbers of different files do not compare.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import Any, Final, NamedTuple

from MMSA_ext.records.store import RunRecord
from MMSA_ext.reporting.comparison import Comparison, SystemRuns, compare
from MMSA_ext.reporting.comparison_table import metric_column
from MMSA_ext.reporting.groups import (
    CONTROL,
    Data,
    by_data,
    by_experiment,
    data_titles,
    differences,
    labels,
)
from MMSA_ext.reporting.metric_names import ordered_metrics
from MMSA_ext.reporting.render import NOTHING, Column, Fact, csv_text, number, x100
from MMSA_ext.reporting.tables import scores, seed_table

SPLIT: Final = "test"
# Of `Comparison.numbers`, what a file of results needs beside the table by seed.
_CSV_COLUMNS: Final = [
    *("row", "model", "dataset", "split", "metric"),
    *("mean", "std", "n", "ci_low", "ci_high", "confidence", "seeds", "diverged"),
]


@dataclass(frozen=True)
class SeedGroup(SystemRuns):
    """Runs that differ by their seed only, as a row.

    `differing` are the settings in which it is unlike others of its model in the section.
    """

    differing: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """`RunIdentity.experiment`, 16 hex digits."""
        return self.records[0].identity.experiment


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
    cells: list[ResultCell]


class SeedRow(NamedTuple):
    """One run in the table by seed; texts, x100 for metrics."""

    experiment: SeedGroup
    record: RunRecord
    cells: list[str]


@dataclass(frozen=True)
class Section:
    """All runs on one data set in one feature file, its experiments as `by_experiment` orders them.

    The title tells it from other sections on the data set.
    """

    dataset: str
    fingerprint: str
    title: str
    experiments: tuple[SeedGroup, ...]
    comparison: Comparison

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
        """When the newest run was recorded, in UTC."""
        newest = max(run.created for run in self.records)
        return f"{newest.astimezone(UTC):%Y-%m-%d %H:%M}"

    @property
    def metrics(self) -> tuple[Column, ...]:
        """Columns of numbers."""
        return tuple(map(metric_column, self.comparison.metrics))

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What the numbers depend on; runs that diverged are listed apart."""
        return tuple(fact for fact in self.comparison.facts if fact.name != "diverged")

    @property
    def result_rows(self) -> list[ResultRow]:
        """The results table."""
        cells: dict[str, list[ResultCell]] = {}
        for line in self.comparison.numbers.to_dict("records"):
            cells.setdefault(line["row"], []).append(_cell(line))
        return [ResultRow(e, _count(e), cells[e.label]) for e in self.experiments]

    @property
    def seed_rows(self) -> list[SeedRow]:
        """The table by seed."""
        return [
            SeedRow(
                e, run, [x100(scores(run, SPLIT).get(name)) for name in self.comparison.metrics]
            )
            for e in self.experiments
            for run in e.records
        ]

    @property
    def results_csv(self) -> str:
        """The results table with full digits and MMSA's keys, one line a row and metric."""
        return csv_text(self.comparison.numbers[_CSV_COLUMNS])

    @property
    def seeds_csv(self) -> str:
        """The table by seed with full digits and MMSA's keys."""
        return csv_text(seed_table(self.records, SPLIT))

    def best_on_validation(self, count: int) -> tuple[SeedGroup, ...]:
        """The `count` experiments with the lowest validation MAE, in the section's order."""
        finished = [experiment for experiment in self.experiments if experiment.finished]
        best = {experiment.id for experiment in sorted(finished, key=_validation_error)[:count]}
        return tuple(experiment for experiment in finished if experiment.id in best)


def sections(records: Iterable[RunRecord]) -> list[Section]:
    """Sort runs into sections by data set and feature file, equal for equal records in any order.

    A run given twice counts once.
    """
    data = by_data(records)
    titles = data_titles(data)
    return [_section(key, titles[key], data[key]) for key in sorted(data)]


def _section(data: Data, title: str, runs: list[RunRecord]) -> Section:
    groups = by_experiment(runs)
    named, differing = labels(groups), differences(groups)
    experiments = tuple(
        SeedGroup(
            named[key],
            group[0].identity.model,
            tuple(group),
            tuple(run.identity.seed for run in group),
            role="control" if group[0].identity.model == CONTROL else "system",
            differing=frozenset(differing[key]),
        )
        for key, group in groups.items()
    )
    return Section(data.dataset, data.fingerprint, title, experiments, comparison_of(experiments))


def comparison_of(experiments: Sequence[SeedGroup]) -> Comparison:
    """Put experiments of one section side by side, compared with none of them.

    The loss is left out: models differ in what it is.
    """
    names = (name for e in experiments for run in e.records for name in scores(run, SPLIT))
    # Of runs without a result there is nothing to say but that.
    return compare(experiments, ordered_metrics(names, loss=False) or ["MAE"], split=SPLIT)


def _cell(line: Mapping[Any, Any]) -> ResultCell:
    n, finished = int(line["n"]), int(line["seeds"]) - int(line["diverged"])
    if n == 0:
        return ResultCell(NOTHING)
    return ResultCell(
        mean=x100(line["mean"]),
        std=number(100 * line["std"]) if n > 1 else "",
        interval=f"{x100(line['ci_low'])}, {x100(line['ci_high'])}" if n > 1 else "",
        own_n=f"n = {n}" if n != finished else "",
        best=line["best"],
    )


def _count(experiment: SeedGroup) -> str:
    """Say how many seeds count, and of how many where some diverged."""
    finished, all_runs = len(experiment.finished), len(experiment.records)
    return str(finished) if finished == all_runs else f"{finished} of {all_runs}"


def _validation_error(experiment: SeedGroup) -> float:
    """Mean validation MAE; experiments without come last."""
    values = experiment.values("MAE", "valid").values()
    return sum(values) / len(values) if values else math.inf

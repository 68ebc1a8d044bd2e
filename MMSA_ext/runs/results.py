"""What `MMSA_run` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from MMSA_ext.records.store import RunRecord
from MMSA_ext.reporting import render
from MMSA_ext.reporting.statistics import summarise
from MMSA_ext.reporting.tables import render_table, run_tables, seed_table


class MetricSummary(NamedTuple):
    """A metric over the seeds that finished.

    Attributes:
        mean: Mean, in MMSA's units before its x100.
        std: Sample standard deviation (divisor n - 1); NaN for a single seed.
        n: Number of seeds.
    """

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class SeedResult:
    """One seed of a run.

    Attributes:
        seed: The seed.
        metrics: Test metrics in MMSA's keys, before its x100; empty if diverged.
        diverged: Whether training diverged; `record.reason` says how.
        checkpoint: File for `MMSA_test` and `mmsa-ext predict`; None if diverged or deleted.
        record_path: JSON record with configuration, environment and history.
        record: The record itself.
        reused: Whether the record was found in the store rather than computed now.
    """

    seed: int
    metrics: Mapping[str, float | None]
    diverged: bool
    checkpoint: Path | None
    record_path: Path
    record: RunRecord
    reused: bool


@dataclass(frozen=True)
class RunResults:
    """Results of one call of `MMSA_run`.

    Attributes:
        model: Model name.
        dataset: Data set name.
        seeds: One result a seed, in the order asked for.
        csv_path: MMSA's table, to which this call added one row.
        seed_csv_path: Tidy table with one row a seed and plain numbers.
        figures: Pictures of the training curves (PNG and vector).
    """

    model: str
    dataset: str
    seeds: tuple[SeedResult, ...]
    csv_path: Path
    seed_csv_path: Path
    figures: tuple[Path, ...]

    @property
    def summary(self) -> dict[str, MetricSummary]:
        """Mean, standard deviation and n of each test metric, over the seeds that finished."""
        finished = [result.metrics for result in self.seeds if not result.diverged]
        names = dict.fromkeys(name for metrics in finished for name in metrics)
        summaries = {}
        for name in names:
            values = [value for m in finished if (value := m.get(name)) is not None]
            if values:
                whole = summarise(values)
                summaries[name] = MetricSummary(whole.mean, whole.std, whole.n)
        return summaries

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """The records of all seeds."""
        return tuple(result.record for result in self.seeds)

    def to_frame(self) -> pd.DataFrame:
        """One row a seed with plain numbers, as in the CSV of seeds."""
        return seed_table(self.records)

    def to_markdown(self) -> str:
        """The table of this call in Markdown."""
        return "\n".join(map(render.to_markdown, run_tables(self.records)))

    def to_latex(self) -> str:
        """The table of this call in LaTeX, for the packages booktabs and adjustbox."""
        return "\n".join(map(render.to_latex, run_tables(self.records)))

    def __str__(self) -> str:
        """The table of this call, with n, selection rule and environment."""
        return render_table(self.records)

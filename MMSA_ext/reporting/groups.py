"""Groups of runs by what a user calls them, and which runs of two groups pair.

A group is the seeds of one experiment: model, configuration, features and code. Pairs are the seeds
that both groups finished on the same features.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from MMSA_ext.errors import suggest
from MMSA_ext.records.store import RunRecord
from MMSA_ext.reporting.comparison import SystemRuns
from MMSA_ext.reporting.statistics import StatisticsError

_PREFIX: Final = re.compile(r"[0-9a-f]{4,16}")


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ by their seed only.

    Attributes:
        label: What it is called: the model, or the model and the experiment's first digits.
        records: The runs, by seed; diverged ones included.
    """

    label: str
    records: tuple[RunRecord, ...]

    @property
    def finished(self) -> dict[int, RunRecord]:
        """Seed to run, where there is a result."""
        return {run.identity.seed: run for run in self.records if run.finished}

    @property
    def system(self) -> SystemRuns:
        """The group as a row of a comparison table."""
        seeds = tuple(run.identity.seed for run in self.records)
        return SystemRuns(self.label, self.records[0].identity.model, self.records, seeds, {})


def select_groups(
    records: Iterable[RunRecord], names: Sequence[str], dataset: str | None = None
) -> list[RunGroup]:
    """Find groups of runs by what a user calls them.

    Args:
        records: Runs to choose from.
        names: Of each group, a model name, or the first digits (four or more) of an experiment's
            or of a single run's id.
        dataset: Only runs on this data set.

    Returns:
        The groups, in the order of `names`, with labels that tell them apart.

    Raises:
        StatisticsError: A name fits no run or several experiments (they are listed), or the groups
            are not of one data set.
    """
    runs = list(records)
    chosen = [_select(runs, name, dataset) for name in names]
    found = {group[0].identity.dataset for group in chosen}
    if len(found) > 1:
        raise StatisticsError(
            f"these runs are of several data sets, {', '.join(sorted(found))}; give one with "
            "--dataset, or ids of runs on the same one."
        )
    models = [group[0].identity.model for group in chosen]
    return [
        RunGroup(_label(group[0], alone=models.count(group[0].identity.model) == 1), tuple(group))
        for group in chosen
    ]


def _select(runs: Sequence[RunRecord], name: str, dataset: str | None) -> list[RunRecord]:
    found = [run for run in runs if run.identity.model == name]
    if not found and _PREFIX.fullmatch(name):
        found = [run for run in runs if run.identity.experiment.startswith(name)]
        found = found or [run for run in runs if run.identity.short_id.startswith(name)]
    on_dataset = [run for run in found if dataset in (None, run.identity.dataset)]
    if not on_dataset:
        raise StatisticsError(_not_found(runs, found, name, dataset))
    experiments: dict[str, list[RunRecord]] = {}
    for run in sorted(on_dataset, key=lambda run: run.identity.seed):
        experiments.setdefault(run.identity.experiment, []).append(run)
    if len(experiments) > 1:
        raise StatisticsError(_ambiguous(name, list(experiments.values())))
    return next(iter(experiments.values()))


def _not_found(
    runs: Sequence[RunRecord], named: Sequence[RunRecord], name: str, dataset: str | None
) -> str:
    """Say what there is in place of runs of `name` on `dataset`."""
    where = f" on {dataset}" if dataset else ""
    if not runs:
        return f"no runs of {name!r}{where}; there are no runs here at all."
    there = sorted({run.identity.dataset for run in named or runs})
    if named or (dataset and dataset not in there):
        return f"no runs of {name!r}{where}; there are runs on {', '.join(there)}."
    models = {run.identity.model for run in runs if dataset in (None, run.identity.dataset)}
    return f"no runs of {name!r}{where}; {suggest(name, sorted(models))}"


def _ambiguous(name: str, groups: Sequence[Sequence[RunRecord]]) -> str:
    newest_first = sorted(groups, key=lambda group: max(run.created for run in group), reverse=True)
    lines = [
        f"  {group[0].identity.experiment[:8]}  {group[0].identity.dataset}, seeds "
        f"{', '.join(str(run.identity.seed) for run in group)}, "
        f"features {group[0].identity.dataset_fingerprint[:8]}, "
        f"code {group[0].identity.code_version}, {max(run.created for run in group):%Y-%m-%d %H:%M}"
        for group in newest_first
    ]
    return (
        f"{name!r} has runs of {len(groups)} experiments (other settings, features or code); "
        "give the first digits of one:\n" + "\n".join(lines)
    )


def _label(record: RunRecord, *, alone: bool) -> str:
    identity = record.identity
    return identity.model if alone else f"{identity.model} #{identity.experiment[:6]}"


def shared_seeds(a: RunGroup, b: RunGroup) -> tuple[int, ...]:
    """Seeds that both groups finished.

    Raises:
        StatisticsError: The groups are one, were made on other feature files, or share no seed.
    """
    first, second = a.records[0].identity, b.records[0].identity
    if first.experiment == second.experiment:
        raise StatisticsError(f"{a.label} and {b.label} are the same runs; give two others.")
    if first.dataset_fingerprint != second.dataset_fingerprint:
        raise StatisticsError(
            f"{a.label} and {b.label} were run on other features (sha256 "
            f"{first.dataset_fingerprint[:12]} and {second.dataset_fingerprint[:12]}); runs pair "
            "on one feature file only."
        )
    shared = tuple(sorted(a.finished.keys() & b.finished.keys()))
    if not shared:
        raise StatisticsError(
            f"{a.label} and {b.label} share no finished seed: "
            f"{_listed(a.finished)} against {_listed(b.finished)}."
        )
    return shared


def check_split(a: RunGroup, b: RunGroup, split: str) -> None:
    """Refuse a split that no finished run of either group was scored on.

    Raises:
        StatisticsError: Naming the splits that there are.
    """
    runs = (*a.finished.values(), *b.finished.values())
    known = dict.fromkeys(name for run in runs for name in run.metrics)
    if split not in known:
        raise StatisticsError(
            f"no run has metrics of a split {split!r}; there are {', '.join(known) or 'none'}."
        )


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds))) or "none"

"""Which runs may be averaged: the seeds of one experiment, as rows of a comparison.

An experiment is a model, a configuration, features and code. A user calls it by its model, or by
the first digits of its id or of a run's.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from pydantic import JsonValue

from MMSA_ext.errors import suggest
from MMSA_ext.records.store import RunRecord, content_digest
from MMSA_ext.reporting.comparison import SystemRuns
from MMSA_ext.reporting.statistics import StatisticsError

Groups = dict[str, list[RunRecord]]

_PREFIX: Final = re.compile(r"[0-9a-f]{4,16}")
# Digits of an experiment's id beside its model; more where two would be the same.
_ID_DIGITS: Final = 6


class Data(NamedTuple):
    """What runs of one table share.

    Attributes:
        dataset: Name of the data set.
        fingerprint: Of the feature file.
        definition: Of a data set that is not shipped, see `RunIdentity.definition`.
    """

    dataset: str
    fingerprint: str
    definition: str


def by_data(records: Iterable[RunRecord]) -> dict[Data, list[RunRecord]]:
    """Sort runs by what they were made on."""
    found: dict[Data, list[RunRecord]] = {}
    for run in records:
        of = run.identity
        key = Data(of.dataset, of.dataset_fingerprint, of.definition)
        found.setdefault(key, []).append(run)
    return found


def data_titles(keys: Iterable[Data]) -> dict[Data, str]:
    """Name them: the data set, with what tells several of one name apart."""
    titles = {}
    for key in (known := list(keys)):
        alike = [other for other in known if other.dataset == key.dataset]
        files, definitions = ({other[place] for other in alike} for place in (1, 2))
        titles[key] = (
            key.dataset
            + f", features {key.fingerprint[:12]}" * (len(files) > 1)
            + f", definition {key.definition}" * (len(definitions) > 1)
        )
    return titles


def by_experiment(records: Iterable[RunRecord]) -> Groups:
    """Sort runs into experiments.

    Args:
        records: Runs in any order; a run given twice counts once.

    Returns:
        By id of the experiment, its runs by seed; in the order of model and id.
    """
    runs = {run.identity.digest: (run.identity.experiment, run) for run in records}
    groups: Groups = {}
    for experiment, run in sorted(
        runs.values(), key=lambda one: (one[1].identity.model, one[0], one[1].identity.seed)
    ):
        groups.setdefault(experiment, []).append(run)
    return groups


def newest_code(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Of runs that differ by seed and code only, those of the code with the newest record."""
    runs = sorted(records, key=lambda run: run.created)
    settings = [
        content_digest(run.identity.model_dump(exclude={"seed", "code_version"})) for run in runs
    ]
    newest = {key: run.identity.code_version for key, run in zip(settings, runs, strict=True)}
    return [
        run
        for key, run in zip(settings, runs, strict=True)
        if run.identity.code_version == newest[key]
    ]


def labels(groups: Mapping[str, Sequence[RunRecord]]) -> dict[str, str]:
    """Name experiments: the model, with the start of the id where it has several."""
    models = [runs[0].identity.model for runs in groups.values()]
    digits = next(
        (n for n in range(_ID_DIGITS, 16) if len({key[:n] for key in groups}) == len(groups)), 16
    )
    return {
        key: model if models.count(model) == 1 else f"{model} #{key[:digits]}"
        for key, model in zip(groups, models, strict=True)
    }


def rows(groups: Mapping[str, Sequence[RunRecord]]) -> list[SystemRuns]:
    """Experiments as rows of a comparison, all their seeds being planned ones."""
    return [
        SystemRuns(
            label,
            groups[key][0].identity.model,
            tuple(groups[key]),
            tuple(run.identity.seed for run in groups[key]),
        )
        for key, label in labels(groups).items()
    ]


def differences(groups: Mapping[str, Sequence[RunRecord]]) -> dict[str, dict[str, str]]:
    """What tells the experiments of each model apart.

    Args:
        groups: Runs by experiment, such as from `by_experiment`.

    Returns:
        By experiment, the keys (dotted; and "code version") whose values are not the same in all
        experiments of its model, with its own value as text, "not set" for none.
    """
    settings: dict[str, dict[str, dict[str, str]]] = {}
    for key, runs in groups.items():
        identity = runs[0].identity
        own = {**flatten(identity.configuration), "code version": identity.code_version}
        settings.setdefault(identity.model, {})[key] = own
    found: dict[str, dict[str, str]] = {}
    for of_model in settings.values():
        names = dict.fromkeys(name for own in of_model.values() for name in own)
        differ = [n for n in names if len({own.get(n) for own in of_model.values()}) > 1]
        found |= {key: {n: own.get(n, "not set") for n in differ} for key, own in of_model.items()}
    return found


def flatten(configuration: Mapping[str, JsonValue], prefix: str = "") -> dict[str, str]:
    """Lay a configuration out as dotted keys and values as text; lists stay whole.

    Args:
        configuration: Nested configuration.
        prefix: Put in front of each key.

    Returns:
        In the order of the configuration.
    """
    flat: dict[str, str] = {}
    for key, value in configuration.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def select_groups(
    records: Iterable[RunRecord], names: Sequence[str], dataset: str | None = None
) -> list[SystemRuns]:
    """Find experiments by what a user calls them.

    Args:
        records: Runs to choose from.
        names: Of each, a model name, or the first digits (four or more) of an experiment's or of a
            single run's id.
        dataset: Only runs on this data set.

    Returns:
        They as rows, in the order of `names`, with labels that tell them apart.

    Raises:
        StatisticsError: A name fits no run or several experiments (they are listed), they are not
            of one data set, or two names are the same experiment.
    """
    runs = list(records)
    chosen = [_select(runs, name, dataset) for name in names]
    _one_dataset(group[0] for group in chosen)
    groups = {group[0].identity.experiment: group for group in chosen}
    if len(groups) < len(chosen):
        raise StatisticsError(f"{' and '.join(names)} are the same runs; give two others.")
    return rows(groups)


def named_runs(
    records: Iterable[RunRecord], names: Sequence[str] = (), dataset: str | None = None
) -> list[RunRecord]:
    """Find all runs of one data set that a user names, of several experiments too.

    Args:
        records: Runs to choose from.
        names: Model names, or first digits as for `select_groups`; none for every run.
        dataset: Only runs on this data set.

    Returns:
        The runs in the order of `names`, each once.

    Raises:
        StatisticsError: A name fits no run, or they are of several data sets.
    """
    runs = list(records)
    chosen = [_named(runs, name, dataset) for name in names]
    if not names:
        chosen = [[run for run in runs if dataset in (None, run.identity.dataset)]]
        if not chosen[0]:
            raise StatisticsError(_not_found(runs, [], "any model", dataset))
    found = {run.identity.digest: run for group in chosen for run in group}
    _one_dataset(found.values())
    return list(found.values())


def _named(runs: Sequence[RunRecord], name: str, dataset: str | None) -> list[RunRecord]:
    found = [run for run in runs if run.identity.model == name]
    if not found and _PREFIX.fullmatch(name):
        found = [run for run in runs if run.identity.experiment.startswith(name)]
        found = found or [run for run in runs if run.identity.short_id.startswith(name)]
    here = [run for run in found if dataset in (None, run.identity.dataset)]
    if not here:
        raise StatisticsError(_not_found(runs, found, name, dataset))
    return here


def _one_dataset(runs: Iterable[RunRecord]) -> None:
    found = sorted({run.identity.dataset for run in runs})
    if len(found) > 1:
        raise StatisticsError(
            f"these runs are of several data sets, {', '.join(found)}; give one with --dataset, or "
            "ids of runs on the same one."
        )


def _select(runs: Sequence[RunRecord], name: str, dataset: str | None) -> list[RunRecord]:
    groups = by_experiment(_named(runs, name, dataset))
    if len(groups) > 1:
        raise StatisticsError(_ambiguous(name, groups))
    return next(iter(groups.values()))


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


def _ambiguous(name: str, groups: Groups) -> str:
    newest = {key: max(run.created for run in group) for key, group in groups.items()}
    lines = [
        f"  {key[:8]}  {group[0].identity.dataset}, seeds "
        f"{', '.join(str(run.identity.seed) for run in group)}, "
        f"features {group[0].identity.dataset_fingerprint[:8]}, "
        f"code {group[0].identity.code_version}, {newest[key]:%Y-%m-%d %H:%M}"
        for key, group in sorted(groups.items(), key=lambda one: newest[one[0]], reverse=True)
    ]
    return (
        f"{name!r} has runs of {len(groups)} experiments (other settings, features or code); "
        "give the first digits of one:\n" + "\n".join(lines)
    )


def shared_seeds(a: SystemRuns, b: SystemRuns) -> tuple[int, ...]:
    """Seeds that both finished.

    Raises:
        StatisticsError: They were made on other feature files, or share no seed.
    """
    first, second = a.records[0].identity, b.records[0].identity
    if first.dataset_fingerprint != second.dataset_fingerprint:
        raise StatisticsError(
            f"{a.label} and {b.label} were run on other features (sha256 "
            f"{first.dataset_fingerprint[:12]} and {second.dataset_fingerprint[:12]}); runs pair "
            "on one feature file only."
        )
    shared = tuple(sorted(a.finished.keys() & b.finished.keys()))
    if not shared:
        listed = (", ".join(map(str, sorted(side.finished))) or "none" for side in (a, b))
        raise StatisticsError(
            f"{a.label} and {b.label} share no finished seed: {' against '.join(listed)}."
        )
    return shared


def check_split(a: SystemRuns, b: SystemRuns, split: str) -> None:
    """Refuse a split that no finished run of either was scored on.

    Raises:
        StatisticsError: Naming the splits that there are.
    """
    runs = (*a.finished.values(), *b.finished.values())
    known = dict.fromkeys(name for run in runs for name in run.metrics)
    if split not in known:
        raise StatisticsError(
            f"no run has metrics of a split {split!r}; there are {', '.join(known) or 'none'}."
        )

"""Which runs may be averaged: the seeds of one experiment, as rows of a comparison.

An experiment is a model, a configuration, features and code. A user calls it by its model, or by
the first digits of its id or of a run's; tables and pictures call it by its model and by what sets
it apart from the model's other experiments.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from pydantic import JsonValue

from MMSA_ext.catalogue import MODELS, NO_HOSTS
from MMSA_ext.errors import suggest
from MMSA_ext.records.store import RunRecord, content_digest
from MMSA_ext.reporting.comparison import SystemRuns
from MMSA_ext.reporting.render import Fact
from MMSA_ext.reporting.statistics import StatisticsError

Groups = dict[str, list[RunRecord]]
K = TypeVar("K")

_PREFIX: Final = re.compile(r"[0-9a-f]{4,16}")
# Of settings that tell two experiments apart, a label has so many, and of their values so much.
_KEYS_SHOWN, _VALUE_SHOWN = 3, 32
# Values that say little where there is not room for all.
_NOT_SET: Final = "not set"
_EMPTY: Final = ("null", "[]", "{}", "", "0", "0.0")
# The model that stands beside every result: what the text alone gives.
CONTROL: Final = "text_only"
_MMSA_MODELS: Final = {*NO_HOSTS, *(model.host for model in MODELS.values() if model.host)}


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


def grouped(
    records: Iterable[RunRecord], key: Callable[[RunRecord], K]
) -> dict[K, list[RunRecord]]:
    """Sort runs by a key, both in the order in which they come."""
    found: dict[K, list[RunRecord]] = {}
    for run in records:
        found.setdefault(key(run), []).append(run)
    return found


def by_data(records: Iterable[RunRecord]) -> dict[Data, list[RunRecord]]:
    """Sort runs by what they were made on."""
    return grouped(
        records,
        lambda run: Data(
            run.identity.dataset, run.identity.dataset_fingerprint, run.identity.definition
        ),
    )


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
    """Sort runs into experiments, by id, the runs of each by seed; one given twice counts once.

    The text-only control comes first, then MMSA's models, then all others; of these by model, and
    by what sets its experiments apart.
    """
    runs = {run.identity.digest: run for run in records}.values()
    in_order = sorted(runs, key=lambda run: (run.identity.seed, run.identity.experiment))
    groups = grouped(in_order, lambda run: run.identity.experiment)
    named = labels(groups)
    return {key: groups[key] for key in sorted(groups, key=lambda key: _order(groups[key], named))}


def _order(runs: Sequence[RunRecord], named: Mapping[str, str]) -> tuple[object, ...]:
    """Where an experiment stands; numbers in labels count as numbers."""
    of = runs[0].identity
    kind = 0 if of.model == CONTROL else 1 if of.model in _MMSA_MODELS else 2
    parts = re.split(r"(\d+\.?\d*(?:e-?\d+)?)", named[of.experiment])
    numbers = [(float(part), "") if i % 2 else (0.0, part) for i, part in enumerate(parts)]
    return kind, of.dataset, of.model, numbers, of.experiment


def newest_code(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Of runs that differ by seed and code only, those of the code with the newest record."""
    alike = grouped(
        sorted(records, key=lambda run: run.created),
        lambda run: content_digest(run.identity.model_dump(exclude={"seed", "code_version"})),
    )
    return [
        run
        for runs in alike.values()
        for run in runs
        if run.identity.code_version == runs[-1].identity.code_version
    ]


def labels(groups: Mapping[str, Sequence[RunRecord]]) -> dict[str, str]:
    """Name experiments: the model, and what differs where it has several.

    Such as `dashfusion (feature_scaling = none)`. Of many settings that differ, three are named.
    """
    models = [runs[0].identity.model for runs in groups.values()]
    said = {
        key: model + _shown(own)
        for (key, own), model in zip(differences(groups).items(), models, strict=True)
    }
    once = Counter(said.values())
    # More digits where two ids begin alike.
    digits = next((n for n in range(6, 16) if len({key[:n] for key in said}) == len(said)), 16)
    return {
        key: label if once[label] == 1 else f"{label} #{key[:digits]}"
        for key, label in said.items()
    }


def _shown(own: Mapping[str, str]) -> str:
    keys = list(own)
    if len(keys) > _KEYS_SHOWN:
        keys = [key for key in keys if own[key] not in _EMPTY] or keys
    said = [_said(key, _value(own[key])) for key in keys[:_KEYS_SHOWN]]
    more = [f"{len(keys) - _KEYS_SHOWN} more"] if len(keys) > _KEYS_SHOWN else []
    return f" ({', '.join([*said, *more])})" if said else ""


def _said(key: str, value: str) -> str:
    return f"{key} {value}" if value == _NOT_SET else f"{key} = {value}"


def _value(text: str) -> str:
    text = "none" if text == "null" else text.replace('"', "")
    return text if len(text) <= _VALUE_SHOWN else f"{text[: _VALUE_SHOWN - 1]}…"


def settings_facts(groups: Mapping[str, Sequence[RunRecord]]) -> list[Fact]:
    """Say the ids of the experiments of models that have several, and settings not in a label."""
    named = labels(groups)
    facts = []
    for key, own in differences(groups).items():
        said = [_said(name, value) for name, value in own.items()]
        rest = ", ".join(said if any(text not in named[key] for text in said) else [])
        facts += [Fact("id", f"{key[:8]}{': ' * bool(rest)}{rest}", (named[key],))] if own else []
    return facts


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

    Returns:
        By experiment, in the order given: the keys (dotted; and "features" and "code version")
        whose values are not the same in all experiments of its model, with its own value as text,
        "not set" for none (of a whole part of it, once); those that most tell apart come first.
    """
    settings: dict[str, dict[str, dict[str, str]]] = {}
    for key, runs in groups.items():
        of = runs[0].identity
        own = {**flatten(of.configuration), "features": of.dataset_fingerprint[:12]}
        own["code version"] = of.code_version
        settings.setdefault(of.model, {})[key] = own
    found: dict[str, dict[str, str]] = {}
    for of_model in settings.values():
        names = dict.fromkeys(name for own in of_model.values() for name in own)
        kinds = {n: len({own.get(n) for own in of_model.values()}) for n in names}
        differ = sorted((n for n in names if kinds[n] > 1), key=lambda n: -kinds[n])
        found |= {key: _own(own, differ) for key, own in of_model.items()}
    return {key: found[key] for key in groups}


def _own(settings: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Values of `names`; of what is not set at all, only the outermost name."""
    own = {}
    for name in names:
        if name in settings:
            own[name] = settings[name]
        elif not any(_within(name, other) or _within(other, name) for other in settings):
            outer = name.partition(".")[0]
            there = any(_within(other, outer) for other in settings)
            own[name if there else outer] = _NOT_SET
    return own


def _within(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.")


def flatten(configuration: Mapping[str, JsonValue], prefix: str = "") -> dict[str, str]:
    """Lay a configuration out as dotted keys and values as text; lists stay whole."""
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

    They are rows in the order of `names`, with labels that tell them apart.

    Args:
        records: Runs to choose from.
        names: Of each, a model name, or the first digits (four or more) of an experiment's or of a
            single run's id.
        dataset: Only runs on this data set.

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
    """Find all runs of one data set that a user names, of several experiments too, each once.

    Arguments and order as for `select_groups`; without names every run.

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

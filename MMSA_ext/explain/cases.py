"""Case studies: single samples through several systems, with their text.

Both papers show such cases (InfoEnh's Fig. 5: the host, with one part, with both). They work from
the stored predictions and the feature file, which gives text and label; nothing is computed by a
model. A case is chosen by a rule and never by hand, and with the cases stands on how many samples
of the split the one or the other system is nearer to the label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from MMSA_ext.data.features import FeatureSet
from MMSA_ext.errors import ConfigError, FeatureFileError, suggest
from MMSA_ext.explain.samples import check_ids, check_split
from MMSA_ext.records.store import RunRecord, RunStore, StoreError
from MMSA_ext.reporting import render
from MMSA_ext.reporting.groups import by_experiment, differences
from MMSA_ext.reporting.render import Cell, Column, Row, Table, mean_std, number
from MMSA_ext.reporting.sample_predictions import by_sample

Rule = Literal["difference", "gain", "loss"]

FIXED_COLUMNS = ("id", "split", "text", "label")
_ABSENT = object()
_TOLERANCE = 1e-5
# Of settings in which runs differ, so many are named in an error.
_KEYS_NAMED = 6


@dataclass(frozen=True)
class CaseStudy:
    """Chosen samples and what several systems predict for them.

    Attributes:
        table: One row a case, in order of rank: `id`, `split`, `text`, `label`, then for every
            system its prediction (mean over seeds) under its label, and `<label> std` (over seeds,
            sample form; NaN for a single seed).
        systems: Labels of the systems, in order.
        seeds: Seeds behind each system's mean.
        summary: What was compared, and on how many of all samples each of the two is nearer to the
            label, as a sentence.
    """

    table: pd.DataFrame
    systems: tuple[str, ...]
    seeds: dict[str, tuple[int, ...]]
    summary: str


def find_records(
    store: RunStore,
    model: str,
    fingerprint: str,
    settings: Mapping[str, Any] | None = None,
) -> tuple[RunRecord, ...]:
    """The finished runs of one configuration of a model on one feature file.

    Args:
        store: Run records.
        model: Registered name.
        fingerprint: Of the feature file, `FeatureSet.fingerprint`.
        settings: Configuration values that the runs must have; a dot leads into a nested one, as in
            `infoenh.bottleneck`.

    Returns:
        One record a seed.

    Raises:
        StoreError: There are none, they were made from other features, or they belong to several
            configurations; the message says which and what to do.
    """
    wanted = dict(settings or {})
    of_model = [run for run in store.records(model=model) if run.finished]
    if not of_model:
        raise StoreError(f"{store.root}: holds no finished run of {model!r}; train it first.")
    matching = [
        run for run in of_model if all(_setting(run, key) == value for key, value in wanted.items())
    ]
    if not matching:
        raise StoreError(
            f"{store.root}: no run of {model!r} has "
            f"{', '.join(f'{k}={v}' for k, v in wanted.items())}; "
            f"there is {_differences(of_model) or 'one configuration, with other values'}."
        )
    on_these = [run for run in matching if run.identity.dataset_fingerprint == fingerprint]
    if not on_these:
        made_from = sorted({run.identity.dataset_fingerprint[:12] for run in matching})
        raise StoreError(
            f"{store.root}: the runs of {model!r} were made from another feature file (fingerprint "
            f"{', '.join(made_from)}) than the one given ({fingerprint[:12]}); give the file that "
            "they were made from."
        )
    if len(by_experiment(on_these)) > 1:
        raise StoreError(
            f"{store.root}: the runs of {model!r} belong to several configurations, which must not "
            f"be averaged; choose one by its values: {_differences(on_these)}."
        )
    return tuple(sorted(on_these, key=lambda run: run.identity.seed))


def _setting(run: RunRecord, key: str) -> Any:
    value: Any = run.identity.configuration
    for part in key.split("."):
        value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _differences(runs: Sequence[RunRecord]) -> str:
    """The settings in which runs differ, with their values."""
    differing = differences(by_experiment(runs)).values()
    names = list(dict.fromkeys(name for own in differing for name in own))[:_KEYS_NAMED]
    values = {
        name: list(dict.fromkeys(own[name] for own in differing if name in own)) for name in names
    }
    return "; ".join(f"{name}={' or '.join(found[:4])}" for name, found in values.items())


def case_study(
    store: RunStore,
    systems: Mapping[str, Sequence[RunRecord]],
    features: FeatureSet,
    *,
    split: str = "test",
    count: int = 8,
    rule: Rule = "difference",
    compared: tuple[str, str] | None = None,
    ids: Sequence[str] | None = None,
) -> CaseStudy:
    """Choose samples and put the predictions of all systems beside their text and label.

    Args:
        store: Where the records are.
        systems: Label -> runs, two or more; the host first, what was added to it after it.
        features: The feature file from which the runs were made.
        split: Split that the samples come from.
        count: Number of cases.
        rule: Of the two compared systems: `difference`, the samples on which their predictions
            differ most; `gain`, those on which the second is nearer to the label by most; `loss`,
            those on which it is farther by most. `gain` alone shows one side.
        compared: Labels of the two systems; by default the first and the last.
        ids: These samples instead, in this order.

    Returns:
        The cases.

    Raises:
        ConfigError: Fewer than two systems, an unknown label, or no positive count.
        StoreError: A run was made from other features, or a system has no usable predictions.
        StatisticsError: The systems predict other samples, or of other labels.
        FeatureFileError: A sample or the split is not in the file, or it has other labels than the
            runs.
    """
    compared = _check_systems(systems, compared, count)
    for label, records in systems.items():
        _check_fingerprint(label, records, features)
    labels, predictions = by_sample(store, systems, split)
    columns = {"label": labels}
    for label, values in predictions.items():
        columns |= {label: values.mean(axis=1), f"{label} std": values.std(axis=1, ddof=1)}
    table = _with_text(pd.DataFrame(columns), features, split)
    error = {name: (table[name] - table["label"]).abs() for name in compared}
    gain = error[compared[0]] - error[compared[1]]
    if ids is None:
        difference = (table[compared[1]] - table[compared[0]]).abs()
        score = {"difference": difference, "gain": gain, "loss": -gain}[rule]
        ranked = score.sort_values(ascending=False, kind="stable")
        chosen = ranked.index[:count].tolist()
    else:
        chosen = _rows_of(table, ids, features, split)
    return CaseStudy(
        table.loc[chosen].reset_index(drop=True),
        tuple(systems),
        {label: tuple(map(int, values.columns)) for label, values in predictions.items()},
        _summary(error, split),
    )


def _check_systems(
    systems: Mapping[str, Sequence[RunRecord]], compared: tuple[str, str] | None, count: int
) -> tuple[str, str]:
    labels = list(systems)
    if len(labels) < 2:
        raise ConfigError("a case study compares systems; give two or more.")
    if count < 1:
        raise ConfigError(f"{count} cases cannot be shown; ask for one or more.")
    compared = compared or (labels[0], labels[-1])
    for label in compared:
        if label not in systems:
            raise ConfigError(f"there is no system {label!r}; {suggest(label, labels)}")
    if taken := [name for name in labels if name in FIXED_COLUMNS or name.endswith(" std")]:
        raise ConfigError(f"{taken[0]!r} is a column of the table; give the system another label.")
    return compared


def _check_fingerprint(label: str, records: Sequence[RunRecord], features: FeatureSet) -> None:
    if not records:
        raise StoreError(f"{label}: there are no runs.")
    for run in records:
        if run.identity.dataset_fingerprint != features.fingerprint:
            raise StoreError(
                f"{label}: its run with seed {run.identity.seed} was made from another feature "
                f"file (fingerprint {run.identity.dataset_fingerprint[:12]}) than {features.path} "
                f"({features.fingerprint[:12]}), so that texts and predictions need not belong "
                "together; give the file that it was made from."
            )


def _with_text(table: pd.DataFrame, features: FeatureSet, split: str) -> pd.DataFrame:
    part = features.splits[check_split(features, split)]
    known = pd.DataFrame({"text": part.raw_text}, index=pd.Index(part.ids, name="id"))
    known["stored"] = part.labels.get("M", np.full(len(part), np.nan))
    if missing := [name for name in table.index if name not in known.index]:
        raise FeatureFileError(
            f"{features.path}: split {split!r} lacks {len(missing)} of the predicted samples, such "
            f"as {missing[0]!r}."
        )
    known = known.loc[table.index]
    if not any(known["text"]):
        raise FeatureFileError(
            f"{features.path}: split {split!r} has no transcripts ('raw_text') to "
            "show beside the predictions; use the file that holds them."
        )
    if (known["stored"] - table["label"]).abs().max() > _TOLERANCE:
        raise FeatureFileError(
            f"{features.path}: its labels of {split!r} are not those of the runs; give the file "
            "from which they were made."
        )
    shown = table.assign(text=known["text"], split=split).reset_index()
    order = [*FIXED_COLUMNS, *(name for name in table.columns if name not in FIXED_COLUMNS)]
    return shown[order]


def _rows_of(
    table: pd.DataFrame, ids: Sequence[str], features: FeatureSet, split: str
) -> list[int]:
    rows = {name: row for row, name in enumerate(table["id"])}
    check_ids(ids, list(rows), features.path, f", split {split!r}")
    return [rows[name] for name in ids]


def _summary(error: Mapping[str, pd.Series], split: str) -> str:
    (first, before), (second, after) = error.items()
    nearer, farther = int((after < before).sum()), int((after > before).sum())
    return (
        f"Over all {len(before)} samples of the {split} split, {second} is nearer to the label "
        f"than {first} on {nearer} and farther on {farther}; mean absolute error "
        f"{before.mean():.3f} ({first}), {after.mean():.3f} ({second})."
    )


def to_markdown(study: CaseStudy) -> str:
    """The cases as a Markdown table, with what they were chosen from below it."""
    rows = [
        Row(
            (
                case["id"],
                case["text"],
                Cell(number(case["label"])),
                *(mean_std(case[name], case[f"{name} std"], scale=1) for name in study.systems),
            )
        )
        for _, case in study.table.iterrows()
    ]
    seeds = "; ".join(f"{label} {len(of)}" for label, of in study.seeds.items())
    table = Table(
        (
            *(Column("id", "left"), Column("text", "left"), Column("label")),
            *map(Column, study.systems),
        ),
        tuple(rows),
        legend=f"Mean over seeds ± standard deviation (sample); seeds: {seeds}",
    )
    return f"{render.to_markdown(table)}\n{study.summary}\n"

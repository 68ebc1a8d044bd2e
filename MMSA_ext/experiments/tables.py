"""The tables and figures of an experiment, from records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from MMSA_ext import text_encoders as encoders
from MMSA_ext.config.schema import PLACES
from MMSA_ext.errors import TextEncoderError
from MMSA_ext.experiments.files import Experiment, Row, published_numbers
from MMSA_ext.experiments.records import RowRecords, matching
from MMSA_ext.mmsa_bridge.values import leaves
from MMSA_ext.records.store import RunStore
from MMSA_ext.reporting.comparison import (
    TABLE_BASELINE,
    Comparison,
    PublishedNumber,
    SystemRuns,
    compare,
)
from MMSA_ext.reporting.comparison_table import write_comparison
from MMSA_ext.reporting.metric_names import PRINTED_PLAIN
from MMSA_ext.reporting.render import Fact, said_once

# Settings that say where things are on one machine, and nothing of the numbers.
_PLACES = PLACES | {"dataset_root_dir"}


@dataclass(frozen=True)
class Collected:
    """The table of an experiment on one data set, and by label the records of its rows."""

    comparison: Comparison
    rows: Mapping[str, RowRecords]


def collect(experiment: Experiment, store: RunStore) -> list[Collected]:
    """What the store has of an experiment, `narrowed` as it was for the run, by data set.

    Which records count is said at `records.matching`. A system that cannot be run here has the
    paper's numbers alone.

    Raises:
        ConfigError: If the file of the published numbers is not usable.
    """
    printed = _printed(published_numbers(experiment))
    collected = []
    for dataset in experiment.datasets:
        found = matching(experiment, dataset, store)
        systems = []
        for row in experiment.rows:
            numbers = printed.get((row.published, dataset), {})
            systems.append(_system(experiment, row, found.get(row.label), numbers))
        comparison = compare(
            systems,
            experiment.columns[dataset],
            baseline=experiment.baseline,
            title=experiment.title,
            dataset=dataset,
            facts=_facts(experiment),
        )
        collected.append(Collected(comparison, found))
    return collected


def table(experiment: Experiment, store: RunStore) -> list[Comparison]:
    """The tables of an experiment, one a data set; arguments and errors as of `collect`."""
    return [part.comparison for part in collect(experiment, store)]


def write_tables(
    comparisons: Sequence[Comparison],
    experiment: Experiment,
    folder: Path,
    formats: Sequence[str] = ("csv", "md", "tex", "html"),
) -> list[Path]:
    """Write each comparison as `<folder>/<experiment>-<data set>.<format>`; returns the paths."""
    paths: list[Path] = []
    for comparison in comparisons:
        stem = f"{experiment.name}-{comparison.dataset}"
        paths += write_comparison(comparison, folder, stem, formats)
    return paths


def _printed(
    numbers: pd.DataFrame,
) -> dict[tuple[str | None, str], dict[str, PublishedNumber]]:
    """By row and data set, then by metric."""
    found: dict[tuple[str | None, str], dict[str, PublishedNumber]] = {}
    for line in numbers.to_dict("records"):
        scale = 1 if line["metric"] in PRINTED_PLAIN else 100
        number = PublishedNumber(line["value"] / scale, line["mark"], line["source"])
        found.setdefault((line["row"], line["dataset"]), {})[line["metric"]] = number
    return found


def _system(
    experiment: Experiment,
    row: Row,
    found: RowRecords | None,
    published: dict[str, PublishedNumber],
) -> SystemRuns:
    runs = found or RowRecords()
    return SystemRuns(
        row.label,
        row.model or "",
        runs.records,
        experiment.seeds if row.model is not None else (),
        published,
        row.role,
        (*row.remarks, *runs.remarks),
        row.compared_with if "compared_with" in row.model_fields_set else TABLE_BASELINE,
    )


def _facts(experiment: Experiment) -> list[Fact]:
    source = experiment.source
    after = source.paper + (f", {source.table}" if source.table else "")
    shown_only = tuple(row.label for row in experiment.rows if row.model is None)
    return [
        Fact("after", after),
        *_settings(experiment),
        *([Fact("not run", "published numbers alone", shown_only)] if shown_only else []),
    ]


def _settings(experiment: Experiment) -> list[Fact]:
    """What the rows are run with: what all of them share, then the rest of each row."""
    runnable = [row for row in experiment.rows if row.model is not None]
    of_row = {row.label: _shown(experiment.overrides(row)) for row in runnable}
    others = list(of_row.values())
    shared = [said for said in next(iter(others), ()) if all(said in other for other in others)]
    own = {row: [text for text in said if text not in shared] for row, said in of_row.items()}
    return [
        *([Fact("settings", _object(shared))] if shared else []),
        *said_once(
            "settings", [(r, [_object(o)] if o else []) for r, o in own.items()], named=True
        ),
    ]


def _object(members: Sequence[str]) -> str:
    return f"{{{', '.join(members)}}}"


def _shown(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as members of a JSON object with dotted keys, without places on this machine."""
    shown = {key: value for key, value in overrides.items() if key not in _PLACES}
    if isinstance(pretrained := shown.get("pretrained"), str):
        shown["pretrained"] = _encoder(pretrained)
    return [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in leaves(shown)]


def _encoder(pretrained: str) -> str:
    """Its name without its folder; an encoder that is not here is named only."""
    try:
        return encoders.identity(pretrained)
    except TextEncoderError:
        return Path(pretrained).name

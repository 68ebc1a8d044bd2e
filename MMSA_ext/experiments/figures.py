"""The figures of an experiment, from records alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.experiments.files import FIGURE_KINDS, Experiment
from MMSA_ext.experiments.tables import Collected, collect
from MMSA_ext.records.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from MMSA_ext.reporting.figures import SweepPoint


def draw(
    experiment: Experiment, store: RunStore, folder: Path, *, kind: str | None = None
) -> list[Path]:
    """Draw an experiment, a picture a data set (`curves`: a picture a row), as PNG and PDF.

    Args:
        experiment: From `load`, `narrowed` as it was for the run.
        store: Where the records are.
        folder: Where `<experiment>-<data set>-<kind>` goes; made where it is missing.
        kind: Another kind than the file's.

    Returns:
        The files written; data sets without a finished run are left out.

    Raises:
        ConfigError: If the kind is not known or the experiment has no rows for it, or if nothing
            has been run.
    """
    from MMSA_ext.reporting.figures import save  # matplotlib takes a second to import

    wanted = kind or experiment.figure.kind
    if wanted not in FIGURE_KINDS:
        raise ConfigError(f"no figure {wanted!r}; {suggest(wanted, list(FIGURE_KINDS))}")
    written: list[Path] = []
    for part in collect(experiment, store):
        if (part.comparison.numbers["n"] > 0).any():
            path = folder / f"{experiment.name}-{part.comparison.dataset}-{wanted}"
            for ending, figure in _drawn(wanted, experiment, part, store).items():
                written += save(figure, path.with_name(f"{path.name}{ending}.png"))
    if not written:
        raise ConfigError(
            f"experiment {experiment.name!r} has no finished runs to draw; run it first, and give "
            "the options that it was run with."
        )
    return written


def _drawn(
    kind: str, experiment: Experiment, part: Collected, store: RunStore
) -> dict[str, Figure]:
    """The figures of one data set, by what follows the kind in their files' names."""
    from MMSA_ext.reporting import figures

    comparison, figure = part.comparison, experiment.figure
    metrics = figure.metrics or comparison.metrics
    if kind == "comparison":
        numbers = comparison.numbers
        shown = numbers[numbers["metric"].isin(metrics)]
        return {"": figures.comparison_figure(replace(comparison, metrics=metrics, numbers=shown))}
    if kind == "sweep":
        points, label = _points(experiment, kind), figure.x_label
        return {"": figures.sweep_figure(points, comparison, metrics, label, figure.reference)}
    if kind == "robustness":
        points = _points(experiment, kind)
        return {"": figures.robustness_figure(points, comparison, metrics, figure.x_label)}
    if kind == "confusion":
        return {"": _confusion(part, store)}
    drawn = {}
    for number, (label, runs) in enumerate(part.rows.items(), start=1):
        if runs.records:
            name = re.sub(r"[^a-z0-9]+", "-", f"{number:02d} {label}".lower()).strip("-")
            drawn[f"-{name}"] = figures.curves_overview(runs.records)
    return drawn


def _confusion(part: Collected, store: RunStore) -> Figure:
    from MMSA_ext.reporting.figures import confusion_figure

    finished = [run for runs in part.rows.values() for run in runs.records if run.finished]
    usable = {run.identity.digest: table for run, table in store.usable_predictions(finished)}
    predictions = {}
    for label, runs in part.rows.items():
        digests = [run.identity.digest for run in runs.records]
        if tables := [usable[digest] for digest in digests if digest in usable]:
            predictions[label] = pd.concat(tables)
    known = [run.identity.data_set for run in finished]
    return confusion_figure(predictions, known[0] if known else part.comparison.dataset)


def _points(experiment: Experiment, kind: str) -> list[SweepPoint]:
    from MMSA_ext.reporting.figures import SweepPoint

    points = [
        SweepPoint(row.series, row.x, row.label)
        for row in experiment.rows
        if row.series is not None and row.x is not None
    ]
    if not points:
        raise ConfigError(
            f"experiment {experiment.name!r} has no rows with series and x, which a {kind} draws."
        )
    return points

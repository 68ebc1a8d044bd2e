"""The figures of an experiment, from records alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.experiments.files import FIGURE_KINDS, Experiment
from MMSA_ext.experiments.tables import Collected, collect
from MMSA_ext.records.store import RunRecord, RunStore


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
    wanted = kind or experiment.figure.kind
    if wanted not in FIGURE_KINDS:
        raise ConfigError(f"no figure {wanted!r}; {suggest(wanted, list(FIGURE_KINDS))}")
    written: list[Path] = []
    for part in collect(experiment, store):
        if (part.comparison.numbers["n"] > 0).any():
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{experiment.name}-{part.comparison.dataset}-{wanted}.png"
            written += _DRAWN[wanted](experiment, part, store, path)
    if not written:
        raise ConfigError(
            f"experiment {experiment.name!r} has no finished runs to draw; run it first, and give "
            "the options that it was run with."
        )
    return written


def _comparison(experiment: Experiment, part: Collected, store: RunStore, path: Path) -> list[Path]:
    from MMSA_ext.reporting.figures import comparison_figure, save

    metrics = _metrics(experiment, part)
    numbers = part.comparison.numbers
    drawn = numbers[numbers["metric"].isin(metrics)]
    shown = replace(part.comparison, metrics=metrics, numbers=drawn)
    return save(comparison_figure(shown), path)


def _sweep(experiment: Experiment, part: Collected, store: RunStore, path: Path) -> list[Path]:
    from MMSA_ext.reporting.figures import SweepPoint, save, sweep_figure

    points = [SweepPoint(*point) for point in _points(experiment, "sweep")]
    figure = experiment.figure
    metrics = _metrics(experiment, part)
    return save(
        sweep_figure(points, part.comparison, metrics, figure.x_label, figure.reference), path
    )


def _robustness(experiment: Experiment, part: Collected, store: RunStore, path: Path) -> list[Path]:
    from MMSA_ext.reporting.figures import SweepPoint, robustness_figure, save

    points = [SweepPoint(*point) for point in _points(experiment, "robustness")]
    metrics = _metrics(experiment, part)
    return save(
        robustness_figure(points, part.comparison, metrics, experiment.figure.x_label), path
    )


def _curves(experiment: Experiment, part: Collected, store: RunStore, path: Path) -> list[Path]:
    from MMSA_ext.reporting.figures import curves_overview, save

    written: list[Path] = []
    for number, (label, runs) in enumerate(part.rows.items(), start=1):
        if runs.records:
            name = re.sub(r"[^a-z0-9]+", "-", f"{number:02d} {label}".lower()).strip("-")
            written += save(
                curves_overview(runs.records), path.with_name(f"{path.stem}-{name}.png")
            )
    return written


def _confusion(experiment: Experiment, part: Collected, store: RunStore, path: Path) -> list[Path]:
    from MMSA_ext.reporting.figures import confusion_figure, save

    finished = [run for runs in part.rows.values() for run in runs.records if run.finished]
    usable = {_digest(run): table for run, table in store.usable_predictions(finished)}
    predictions = {
        label: pd.concat(tables)
        for label, runs in part.rows.items()
        if (tables := [usable[run] for run in map(_digest, runs.records) if run in usable])
    }
    known = [run.identity.data_set for run in finished]
    return save(confusion_figure(predictions, known[0] if known else part.comparison.dataset), path)


def _digest(run: RunRecord) -> str:
    return run.identity.digest


_DRAWN: dict[str, Callable[[Experiment, Collected, RunStore, Path], list[Path]]] = {
    "comparison": _comparison,
    "sweep": _sweep,
    "robustness": _robustness,
    "curves": _curves,
    "confusion": _confusion,
}


def _points(experiment: Experiment, kind: str) -> list[tuple[str, float, str]]:
    """Series, x and label of the rows on a line."""
    points = [
        (row.series, row.x, row.label)
        for row in experiment.rows
        if row.series is not None and row.x is not None
    ]
    if not points:
        raise ConfigError(
            f"experiment {experiment.name!r} has no rows with series and x, which a {kind} draws."
        )
    return points


def _metrics(experiment: Experiment, part: Collected) -> tuple[str, ...]:
    return experiment.figure.metrics or part.comparison.metrics

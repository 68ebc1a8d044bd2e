"""Tables of run results: MMSA's CSV, a tidy CSV of plain numbers, and one for people.

MMSA's units are its metrics times one hundred, for every metric alike (MAE, Corr and Loss
included). The standard deviation is the *population's* in MMSA's CSV, and nowhere else.

Texts that a spreadsheet would take for a formula have an apostrophe in front in every CSV that is
written for people; those that hold predictions are for programs, and have ids as they are.
"""

import csv
import io
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from MMSA_ext.errors import ConfigError
from MMSA_ext.files import exclusive, move_aside, read_regular, write_atomically
from MMSA_ext.paths import Places
from MMSA_ext.records.store import RunRecord, RunStore, StoreWarning
from MMSA_ext.reporting.comparison import Comparison, compare
from MMSA_ext.reporting.comparison_table import comparison_table
from MMSA_ext.reporting.groups import (
    by_experiment,
    grouped,
    named_runs,
    newest_code,
    rows,
    settings_facts,
)
from MMSA_ext.reporting.metric_names import ordered_metrics
from MMSA_ext.reporting.render import Fact, Table, csv_text, harmless, quoting, to_text
from MMSA_ext.reporting.statistics import StatisticsError

# More than the largest table of MMSA's has.
_TABLE_BYTES = 64 * 2**20


def mmsa_row(model: str, results: Sequence[Mapping[str, float | None]]) -> dict[str, str]:
    """Write one row of MMSA's table.

    Args:
        model: Name for the `Model` column.
        results: Metrics of each seed that counts, before MMSA's x100. Diverged seeds are left out
            by the caller.

    Returns:
        Column to cell: `"(mean, std)"`, both times one hundred and rounded to two digits by MMSA's
        own expression. A metric that no seed defines has an empty cell.
    """
    row = {"Model": model}
    for name in ordered_metrics(name for result in results for name in result):
        found = (result.get(name) for result in results)
        values = [value for value in found if value is not None and math.isfinite(value)]
        # numpy's rounding, as in MMSA: it differs from Python's in the last digit at times.
        mean = float(round(np.mean(values) * 100, 2)) if values else math.nan
        std = float(round(np.std(values) * 100, 2)) if values else math.nan
        row[name] = str((mean, std)) if values else ""
    return row


def append_mmsa_csv(
    path: str | os.PathLike[str], model: str, results: Sequence[Mapping[str, float | None]]
) -> None:
    """Append one row to MMSA's `normal/<dataset>.csv`.

    Columns are matched by name; a metric that the file does not know becomes a new last column.
    Earlier rows stay as they are, those that MMSA wrote as `(np.float64(87.5), ...)` included. A
    file that is no such table is moved aside to `<name>.damaged`, with a `StoreWarning`, and a new
    one begun. Several processes may append at once.

    The file is made with its folder where missing. The other arguments are those of `mmsa_row`; no
    results, where every seed diverged, give empty cells.

    Raises:
        WriteError: The disk refuses, or another process held the file for two minutes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f".{path.name}.lock")):
        try:
            head, *known = _read_mmsa_csv(path)
        except (ValueError, OSError, csv.Error) as error:
            aside = move_aside(path)
            said = f"{path}: no results table of MMSA ({error}); moved to {aside.name}, begun anew."
            warnings.warn(said, StoreWarning, stacklevel=2)
            head, known = ["Model"], []
        row = mmsa_row(harmless(model), results)
        head += [name for name in row if name not in head]
        cells = [row.pop(name, "") for name in head]
        buffer = io.StringIO(newline="")
        for line in (head, *known, cells):
            whole = line + [""] * (len(head) - len(line))
            writer = csv.writer(buffer, lineterminator="\n", quoting=quoting(whole))
            writer.writerow(whole)
        write_atomically(path, buffer.getvalue())


def _read_mmsa_csv(path: Path) -> list[list[str]]:
    """Head and rows, every cell as the text it is.

    Raises:
        ValueError, OSError, csv.Error: It is no such table.
    """
    if not os.path.lexists(path):
        return [["Model"]]
    text = read_regular(path, _TABLE_BYTES).decode("utf-8-sig")
    lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    if not lines:
        return [["Model"]]
    if "Model" not in lines[0]:
        raise ValueError("it has no column 'Model'")
    if any(len(line) > len(lines[0]) for line in lines):
        raise ValueError("a row has more cells than the head")
    return lines


def seed_table(records: Iterable[RunRecord], split: str = "test") -> pd.DataFrame:
    """Lay records in any order out as one row a run, with the plain numbers of a split.

    Returns:
        Columns model, dataset, seed, status, split, one a metric (before MMSA's x100; missing
        where undefined or diverged), then chosen_epoch, run, experiment, selection, code_version,
        device, seconds, notes. Runs of one `experiment` differ by their seed only. Sorted by data
        set, model, experiment and seed.
    """
    runs = sorted(records, key=_order)
    metrics = ordered_metrics(name for run in runs for name in scores(run, split))
    lines = [_seed_row(run, split, metrics) for run in runs]
    table = pd.DataFrame(lines, columns=[*_LEADING, *metrics, *_TRAILING])
    return table.astype(dict.fromkeys((*metrics, "seconds"), "float64") | _INTEGERS)


_LEADING = ("model", "dataset", "seed", "status", "split")
_TRAILING = (
    *("chosen_epoch", "run", "experiment", "selection"),
    *("code_version", "device", "seconds", "notes"),
)
_INTEGERS = {"seed": "int64", "chosen_epoch": "Int64"}


def _order(run: RunRecord) -> tuple[str, str, str, int]:
    identity = run.identity
    return identity.dataset, identity.model, identity.experiment, identity.seed


def scores(run: RunRecord, split: str) -> dict[str, float | None]:
    """The metrics that count: none of a diverged run."""
    return run.metrics.get(split, {}) if run.finished else {}


def _seed_row(run: RunRecord, split: str, metrics: Sequence[str]) -> dict[str, Any]:
    found = scores(run, split)
    return {
        "model": run.identity.model,
        "dataset": run.identity.dataset,
        "seed": run.identity.seed,
        "status": run.status,
        "split": split,
        **{name: found.get(name) for name in metrics},
        "chosen_epoch": run.chosen_epoch,
        "run": run.identity.short_id,
        "experiment": run.identity.experiment,
        "selection": run.selection,
        "code_version": run.identity.code_version,
        "device": run.environment.device,
        "seconds": run.seconds,
        "notes": "; ".join(run.notes),
    }


def runs_frame(results: str | Path | None = None, split: str = "test") -> pd.DataFrame:
    """All recorded runs with their settings, one row a run, for an analysis of one's own.

    Args:
        results: Folder of results; None for the default one.
        split: Split whose metrics are shown.

    Returns:
        The columns of `seed_table`, then the feature file's `fingerprint`, and each key of the
        configurations with its value: nested ones with a dot, missing where a run has no such key.

    Raises:
        ConfigError: The folder has no runs.
    """
    root = Places.resolved(results=results).results / "runs"
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder, so there are no runs; name the folder.")
    runs = sorted(RunStore(root).records(), key=_order)
    settings = pd.json_normalize([run.identity.configuration for run in runs])
    settings = settings.drop(columns=["model_name", "dataset_name"], errors="ignore")
    settings.insert(0, "fingerprint", [run.identity.dataset_fingerprint for run in runs])
    return seed_table(runs, split).join(settings)


def write_seed_csv(path: str | os.PathLike[str], records: Iterable[RunRecord]) -> None:
    """Write `seed_table` of the test split as CSV, whole and atomically."""
    write_atomically(Path(path), csv_text(seed_table(records)))


def compare_models(
    records: Iterable[RunRecord],
    models: Sequence[str] = (),
    *,
    dataset: str | None = None,
    baseline: str | None = None,
    metrics: Sequence[str] | None = None,
    split: str = "test",
) -> list[Comparison]:
    """Compare what a store has of some models; no experiment file is needed.

    A row is an experiment: a model with one configuration, so a model may have several. Where
    several versions of the code ran one, that with the newest record counts. Every feature file
    has a table of its own.

    Args:
        records: Runs to choose from.
        models: As the names of `groups.select_groups`; all by default.
        dataset: Only runs on this data set; needed where there are several.
        baseline: As one of `models`; the row of each table that the others are tested against.
        metrics: Metrics to show; all by default, but the loss, which differs between models.
        split: Split whose metrics count.

    Raises:
        StatisticsError: A name fits no run, the runs are of several data sets, no run has metrics
            of the split, or the baseline is several rows of a table, or no row of any.
    """
    records = list(records)
    names = [*([baseline] if baseline and models and baseline not in models else []), *models]
    chosen = named_runs(records, names, dataset)
    counted = {run.identity.digest for run in newest_code(chosen)}
    files = grouped(chosen, lambda run: run.identity.dataset_fingerprint)
    there = (name for run in chosen for name in scores(run, split))
    shown = metrics or ordered_metrics(there, loss=False)
    if not shown:
        raise StatisticsError(f"no run has metrics of a split {split!r}.")
    based = named_runs(records, [baseline], dataset) if baseline else []
    base = {run.identity.digest for run in based}
    tables = []
    for fingerprint, runs in files.items():
        kept = [run for run in runs if run.identity.digest in counted]
        groups = by_experiment(kept)
        if models:
            groups = {key: groups[key] for key in dict.fromkeys(map(_experiment, kept))}
        systems = rows(groups)
        named = [s for s in systems if base & {run.identity.digest for run in s.records}]
        if len(named) > 1:
            listed = "; ".join(f"{s.label}, id {_experiment(s.records[0])[:8]}" for s in named)
            raise StatisticsError(
                f"the baseline {baseline!r} is {len(named)} rows: {listed}. Name one by the first "
                "digits of its id."
            )
        facts = settings_facts(groups)
        if older := len(runs) - len(kept):
            facts.append(Fact("left out", f"{older} run(s) by older code of the same rows"))
        if baseline and not named:
            facts.append(Fact("baseline", f"{baseline} has no runs on these features"))
        title = f"Features {fingerprint[:12]}" if len(files) > 1 else ""
        tables.append(
            compare(
                systems,
                shown,
                baseline=named[0].label if named else None,
                split=split,
                title=title,
                facts=facts,
            )
        )
    return tables


def _experiment(run: RunRecord) -> str:
    return run.identity.experiment


def render_table(records: Iterable[RunRecord]) -> str:
    """Render results for a terminal: `run_tables` as text, without a final newline."""
    return "\n\n".join(map(to_text, run_tables(records))) or "No runs to show."


def run_tables(records: Iterable[RunRecord]) -> list[Table]:
    """Lay test results out, a table a data set: mean ± sample deviation over seeds, in MMSA's x100.

    One row an experiment (model and configuration), n beside it, and below the table what the
    numbers depend on: diverged seeds, selection rule, data, code, environment and notes. Data sets
    of one name that are defined otherwise are several.
    """
    runs = sorted(records, key=_order)
    tables = []
    for data_set in dict.fromkeys(run.identity.data_set for run in runs):
        here = [run for run in runs if run.identity.data_set == data_set]
        shown = ordered_metrics(name for run in here for name in scores(run, "test"))
        # Of diverged runs alone there is nothing but that they diverged.
        found = compare(rows(by_experiment(here)), shown or ["MAE"], seed_notes=True)
        tables.append(comparison_table(found, details=()))
    return tables

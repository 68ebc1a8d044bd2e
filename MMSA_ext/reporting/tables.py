"""Tables of run results: MMSA's CSV, a tidy CSV of plain numbers, and text for a terminal.

MMSA's units are its metrics times one hundred, mean and *population* standard deviation over seeds,
for every metric alike (MAE, Corr and Loss included).

Texts that a spreadsheet would take for a formula have an apostrophe in front in every CSV that is
written for people; those that hold predictions are for programs, and have ids as they are.
"""

import csv
import io
import math
import os
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from MMSA_ext.errors import NOT_BETTER
from MMSA_ext.files import exclusive, move_aside, read_regular, write_atomically
from MMSA_ext.records.store import RunRecord, StoreWarning
from MMSA_ext.reporting.statistics import Summary, summarise

# The order in which MMSA's trainers return their metrics, over its three data sets.
MMSA_METRICS = (
    "Has0_acc_2",
    "Has0_F1_score",
    "Non0_acc_2",
    "Non0_F1_score",
    "Mult_acc_2",
    "Mult_acc_3",
    "Mult_acc_5",
    "Mult_acc_7",
    "F1_score",
    "MAE",
    "Corr",
    "Loss",
)
TABLE_WIDTH = 100
GAP = "  "
# More than the largest table of MMSA's has.
_TABLE_BYTES = 64 * 2**20
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def ordered_metrics(names: Iterable[str]) -> list[str]:
    """Sort metric names as MMSA writes them; others follow in the order they come.

    Args:
        names: Metric names, repeats allowed.

    Returns:
        Each name once.
    """
    unique = list(dict.fromkeys(names))
    known = [name for name in MMSA_METRICS if name in unique]
    return known + [name for name in unique if name not in MMSA_METRICS]


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
        values = _defined(result.get(name) for result in results)
        # numpy's rounding, as in MMSA: it differs from Python's in the last digit at times.
        mean = float(round(np.mean(values) * 100, 2)) if values else math.nan
        std = float(round(np.std(values) * 100, 2)) if values else math.nan
        row[name] = str((mean, std)) if values else ""
    return row


def _defined(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def append_mmsa_csv(
    path: str | os.PathLike[str], model: str, results: Sequence[Mapping[str, float | None]]
) -> None:
    """Append one row to MMSA's `normal/<dataset>.csv`.

    Columns are matched by name; a metric that the file does not know becomes a new last column.
    Earlier rows stay as they are, those that MMSA wrote as `(np.float64(87.5), ...)` included. A
    file that is no such table is moved aside to `<name>.damaged`, with a `StoreWarning`, and a new
    one begun. Several processes may append at once.

    Args:
        path: The CSV file; made with its folder where missing.
        model: Name for the `Model` column.
        results: As for `mmsa_row`; none, where every seed diverged, gives empty cells.

    Raises:
        WriteError: The disk refuses, or another process held the file for two minutes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f".{path.name}.lock")):
        try:
            head, *rows = _read_mmsa_csv(path)
        except (ValueError, OSError, csv.Error) as error:
            aside = move_aside(path)
            said = f"{path}: no results table of MMSA ({error}); moved to {aside.name}, begun anew."
            warnings.warn(said, StoreWarning, stacklevel=2)
            head, rows = ["Model"], []
        row = mmsa_row(_harmless(model), results)
        head += [name for name in row if name not in head]
        cells = [row.pop(name, "") for name in head]
        buffer = io.StringIO(newline="")
        for line in (head, *rows, cells):
            whole = line + [""] * (len(head) - len(line))
            writer = csv.writer(buffer, lineterminator="\n", quoting=_quoting(whole))
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


def csv_text(table: pd.DataFrame, *, exact: bool = False) -> str:
    """Write a table as CSV, for people and their spreadsheets or for programs.

    Args:
        table: Without an index that says something.
        exact: Write every text as it is. By default one that begins like a formula (`=`, `+`, `-`,
            `@`, tab, line end) and is no number gets an apostrophe in front.

    Returns:
        CSV with a head and a final newline.
    """
    texts = table.select_dtypes(["object", "string", "category"])
    quoting = _quoting(chain(table.columns, *(texts[name] for name in texts)))
    if not exact:
        harmless = {str(name): [_harmless(cell) for cell in texts[name]] for name in texts}
        table = table.assign(**harmless).rename(columns=_harmless)
    buffer = io.StringIO(newline="")
    table.to_csv(buffer, index=False, lineterminator="\n", quoting=quoting)
    return buffer.getvalue()


def _quoting(cells: Iterable[Any]) -> Literal[0, 2]:
    """How to keep a carriage return inside its cell, which `csv` does not by itself."""
    odd = any(isinstance(cell, str) and "\r" in cell for cell in cells)
    return csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL


def _harmless(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def seed_table(records: Iterable[RunRecord], split: str = "test") -> pd.DataFrame:
    """Lay records out as one row a run, with plain numbers.

    Args:
        records: Runs, in any order.
        split: Split whose metrics are shown.

    Returns:
        Columns model, dataset, seed, status, split, one a metric (before MMSA's x100; missing
        where undefined or diverged), then chosen_epoch, run, experiment, selection, code_version,
        device, seconds, notes. Runs of one `experiment` differ by their seed only. Sorted by data
        set, model, experiment and seed.
    """
    runs = sorted(records, key=_order)
    metrics = ordered_metrics(name for run in runs for name in _scores(run, split))
    rows = [_seed_row(run, split, metrics) for run in runs]
    table = pd.DataFrame(rows, columns=[*_LEADING, *metrics, *_TRAILING])
    return table.astype(dict.fromkeys((*metrics, "seconds"), "float64") | _INTEGERS)


_LEADING = ("model", "dataset", "seed", "status", "split")
_TRAILING = (
    *(
        "chosen_epoch",
        "run",
        "experiment",
        "selection",
        "code_version",
        "device",
        "seconds",
        "notes",
    ),
)
_INTEGERS = {"seed": "int64", "chosen_epoch": "Int64"}


def _order(run: RunRecord) -> tuple[str, str, str, int]:
    identity = run.identity
    return identity.dataset, identity.model, identity.experiment, identity.seed


def _scores(run: RunRecord, split: str) -> dict[str, float | None]:
    """Give the metrics that count: none of a diverged run."""
    return run.metrics.get(split, {}) if run.finished else {}


def _seed_row(run: RunRecord, split: str, metrics: Sequence[str]) -> dict[str, Any]:
    scores = _scores(run, split)
    return {
        "model": run.identity.model,
        "dataset": run.identity.dataset,
        "seed": run.identity.seed,
        "status": run.status,
        "split": split,
        **{name: scores.get(name) for name in metrics},
        "chosen_epoch": run.chosen_epoch,
        "run": run.identity.short_id,
        "experiment": run.identity.experiment,
        "selection": run.selection,
        "code_version": run.identity.code_version,
        "device": run.environment.device,
        "seconds": run.seconds,
        "notes": "; ".join(run.notes),
    }


def write_seed_csv(
    path: str | os.PathLike[str], records: Iterable[RunRecord], split: str = "test"
) -> None:
    """Write `seed_table` as CSV, whole and atomically.

    Args:
        path: Target file; replaced.
        records: Runs, in any order; the file depends on nothing else.
        split: Split whose metrics are shown.
    """
    write_atomically(Path(path), csv_text(seed_table(records, split)))


@dataclass(frozen=True)
class _Row:
    """One line of the terminal table: the seeds of one experiment."""

    label: str
    runs: tuple[RunRecord, ...]
    scores: dict[str, Summary]

    @property
    def finished(self) -> int:
        return sum(run.finished for run in self.runs)

    def cell(self, metric: str) -> str:
        summary = self.scores.get(metric)
        if summary is None or summary.n == 0:
            return "-"
        spread = f" ± {100 * summary.std_population:.2f}" if summary.n > 1 else ""
        # A metric that some seed leaves undefined has an n of its own.
        count = f" (n={summary.n})" if summary.n != self.finished else ""
        return f"{100 * summary.mean:.2f}{spread}{count}"


def render_table(
    records: Iterable[RunRecord],
    *,
    metrics: Sequence[str] | None = None,
    split: str = "test",
    width: int = TABLE_WIDTH,
) -> str:
    """Render results for a terminal: mean ± population std over seeds, in MMSA's x100 units.

    One table a data set, one row an experiment (model and configuration), n beside it, and below
    it what the numbers depend on: diverged seeds, selection rule, data, code and environment.

    Args:
        records: Runs, in any order.
        metrics: Metrics to show; all by default.
        split: Split whose metrics are shown.
        width: Columns of the terminal; wider tables are broken into blocks of metrics.

    Returns:
        Text without a final newline.
    """
    runs = sorted(records, key=_order)
    if not runs:
        return "No runs to show."
    datasets = dict.fromkeys(run.identity.dataset for run in runs)
    return "\n\n".join(
        _render_dataset([r for r in runs if r.identity.dataset == name], metrics, split, width)
        for name in datasets
    )


def _render_dataset(
    runs: Sequence[RunRecord], metrics: Sequence[str] | None, split: str, width: int
) -> str:
    rows = _rows(runs, split)
    shown = metrics or ordered_metrics(name for row in rows for name in row.scores)
    title = f"{runs[0].identity.dataset}, {split} split: mean ± std (population) over n seeds, x100"
    return "\n\n".join([title, *_blocks(rows, shown, width), _notes(rows, width)])


def _rows(runs: Sequence[RunRecord], split: str) -> list[_Row]:
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(run.identity.experiment, []).append(run)
    models = [group[0].identity.model for group in groups.values()]
    rows = []
    for experiment, group in groups.items():
        model = group[0].identity.model
        label = model if models.count(model) == 1 else f"{model} #{experiment[:6]}"
        scores = [_scores(run, split) for run in group]
        names = ordered_metrics(name for score in scores for name in score)
        summaries = {n: summarise(_defined(score.get(n) for score in scores)) for n in names}
        rows.append(_Row(label, tuple(group), summaries))
    return rows


def text_blocks(
    front: Sequence[Sequence[str]], columns: Iterable[Sequence[str]], width: int
) -> list[str]:
    """Align columns of text, broken into blocks that fit a terminal.

    Args:
        front: Columns that every block starts with; of each, the head and one cell a row.
        columns: The other columns, in the same form.
        width: Columns of the terminal; a block with one column may be wider.

    Returns:
        The blocks: first column left, the others right, a rule under the head.
    """
    blocks = [[*front]]
    for column in columns:
        if len(blocks[-1]) > len(front) and _width([*blocks[-1], column]) > width:
            blocks.append([*front])
        blocks[-1].append(column)
    return [_grid([list(line) for line in zip(*block, strict=True)]) for block in blocks]


def _blocks(rows: Sequence[_Row], metrics: Sequence[str], width: int) -> list[str]:
    """Break the metrics into tables that fit, each with the model and n in front."""
    front = [["model", *(row.label for row in rows)], ["n", *(str(row.finished) for row in rows)]]
    return text_blocks(
        front, ([name, *(row.cell(name) for row in rows)] for name in metrics), width
    )


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + len(GAP) * (len(columns) - 1)


def _grid(lines: Sequence[Sequence[str]]) -> str:
    """Align lines of cells: the first column left, the others right, a rule under the head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        GAP.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def _notes(rows: Sequence[_Row], width: int) -> str:
    """Say what the numbers depend on, each fact once, with the rows it holds for."""
    facts = [
        *_fact("seeds", rows, lambda row: [_seeds(row.runs)]),
        *_fact("diverged", rows, lambda row: _divergences(row.runs), always_named=True),
        *_fact("selection", rows, lambda row: [run.selection for run in row.runs]),
        *_fact("data", rows, lambda row: [_provenance(run) for run in row.runs]),
        *_fact("environment", rows, lambda row: [run.environment.describe() for run in row.runs]),
        *_fact("note", rows, lambda row: [said for run in row.runs for said in _said(run)]),
    ]
    return text_notes(facts, width)


def text_notes(notes: Sequence[tuple[str, str]], width: int) -> str:
    """Lay named notes out below a table, wrapped and indented.

    Args:
        notes: Name and text of each.
        width: Columns of the terminal.

    Returns:
        Text without a final newline; empty for no notes.
    """
    indent = " " * (max((len(name) for name, _ in notes), default=0) + len(GAP))
    return "\n".join(
        textwrap.fill(text, width, initial_indent=name.ljust(len(indent)), subsequent_indent=indent)
        for name, text in notes
    )


def _fact(
    name: str,
    rows: Sequence[_Row],
    values: Callable[[_Row], Iterable[str]],
    *,
    always_named: bool = False,
) -> list[tuple[str, str]]:
    """Gather what the rows say; rows are named where they do not all say the same."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for value in dict.fromkeys(values(row)):
            said.setdefault(value, []).append(row.label)
    shared = not always_named and all(len(labels) == len(rows) for labels in said.values())
    return [
        (name, value if shared else f"{', '.join(labels)}: {value}")
        for value, labels in said.items()
    ]


def _seeds(runs: Sequence[RunRecord]) -> str:
    return ", ".join(str(run.identity.seed) for run in runs if run.finished) or "none finished"


def _divergences(runs: Sequence[RunRecord]) -> list[str]:
    return [f"seed {run.identity.seed}, {run.reason}" for run in runs if not run.finished]


def _said(run: RunRecord) -> list[str]:
    """Its notes; what is true of one seed alone names it."""
    seed = f"seed {run.identity.seed}, "
    return [seed + note if note.startswith(NOT_BETTER) else note for note in run.notes]


def _provenance(run: RunRecord) -> str:
    identity = run.identity
    return f"sha256 {identity.dataset_fingerprint[:12]}, MMSA_ext {identity.code_version}"

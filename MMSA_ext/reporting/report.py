"""The report: every record of a store in one HTML file that needs no network and no other file.

A pure function of the records: equal records give equal bytes. Everything is plain HTML; a small
script sorts and filters it.
"""

import base64
import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from MMSA_ext.files import write_atomically
from MMSA_ext.records.store import RunRecord, RunStore, StoreError, StoreWarning
from MMSA_ext.reporting import report_details
from MMSA_ext.reporting.figures import comparison_figure, confusion_figure, curves_overview, save
from MMSA_ext.reporting.groups import flatten
from MMSA_ext.reporting.report_contents import SPLIT, Section, SeedGroup, comparison_of, sections

# More systems than this cannot be told apart in one picture; the caption says what is shown.
SYSTEMS_DRAWN: Final = 8
CONFUSIONS_DRAWN: Final = 6
_PATH, _DIGITS = re.compile(r' d="[^"]*"'), re.compile(r"(\.\d\d)\d+")
# Inches of the comparison, whose panels are beside each other as far as they fit: a page's text.
COMPARISON_WIDTH: Final = 10.0


class WrittenReport(NamedTuple):
    """A report on disk, its number of runs, which files were not read and why, and its bytes."""

    path: Path
    runs: int
    passed_over: list[str]
    size: int


class _Picture(NamedTuple):
    """An image as a `data:` address; a caption alone where it cannot be drawn."""

    title: str
    caption: str
    address: str = ""


def read_store(root: Path) -> tuple[list[RunRecord], list[str]]:
    """Read all records of a store (`<results>/runs`), and say what was passed over.

    Each file that is damaged or misnamed has a sentence, without the folder: a report may be given
    away, and the machine's folders are nobody's business.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StoreWarning)
        records = list(RunStore(root).records())
    for w in caught:
        if not issubclass(w.category, StoreWarning):
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    said = [str(w.message) for w in caught if issubclass(w.category, StoreWarning)]
    return records, [_without_folder(text, root) for text in said]


def _without_folder(text: str, root: Path) -> str:
    return text.replace(f"{root}{os.sep}", "")


def write_report(
    root: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    datasets: Sequence[str] = (),
    figures: bool = True,
) -> WrittenReport:
    """Write the report of a store, whole and atomically.

    Args:
        root: Folder of the store (`<results>/runs`); only read.
        path: The HTML file; replaced.
        datasets: Only these data sets; all by default.
        figures: Draw the comparison of experiments, validation curves and, of runs whose
            predictions are there, confusion matrices.

    Returns:
        Where it is and what is in it.

    Raises:
        StoreError: There is no store, no run in it, or none of a data set that was asked for.
        WriteError: The file cannot be written.
    """
    root, path = Path(root), Path(path)
    found, passed_over = read_store(root)
    records = _chosen(found, passed_over, root, datasets)
    page = render_report(records, passed_over=passed_over, figures=figures, store=RunStore(root))
    content = page.encode()
    write_atomically(path, content)
    return WrittenReport(path, len(records), passed_over, len(content))


def _chosen(
    records: Sequence[RunRecord], passed_over: Sequence[str], root: Path, datasets: Sequence[str]
) -> list[RunRecord]:
    """Keep the data sets asked for, or say what there is instead."""
    if not root.is_dir():
        raise StoreError(
            f"{root}: there is no such folder of run records. Train a model first, or give the "
            "results folder of the runs, the one that holds 'runs' (--res-save-dir)."
        )
    there = sorted({run.identity.dataset for run in records})
    if not there:
        unread = " ".join(f"Not readable: {text}" for text in passed_over)
        raise StoreError(f"{root}: no run is recorded here yet. Train a model first. {unread}")
    if missing := [name for name in datasets if name not in there]:
        raise StoreError(
            f"{root}: no run on {', '.join(missing)}; there are runs on {', '.join(there)}."
        )
    return [run for run in records if not datasets or run.identity.dataset in datasets]


def render_report(
    records: Iterable[RunRecord],
    *,
    passed_over: Sequence[str] = (),
    figures: bool = True,
    store: RunStore | None = None,
) -> str:
    """Render records as one HTML page.

    Numbers are those of the test split, x100 as MMSA prints them: mean, sample standard deviation,
    n and the 95 % t-interval over seeds, with the selection rule, environment and code version of
    every row. The loss is in the details alone: models differ in what it is. Time and size grow
    linearly with the number of runs; pictures do not.

    Args:
        records: Runs in any order.
        passed_over: Sentences on files that could not be read; the page shows them.
        figures: Draw pictures.
        store: Where the predictions are; None for no confusion matrices.

    Returns:
        The page. Without records it says so in one sentence.
    """
    shown = sections(records)
    pictures = {s.anchor: _pictures(s, store) if figures else [] for s in shown}
    style, script = (Markup(_source(name)) for name in ("report.css", "report.js"))
    return (
        _templates()
        .get_template("report.html")
        .render(
            sections=shown,
            pictures=pictures,
            passed_over=passed_over,
            style=style,
            script=script,
            policy=_policy(style, script),
        )
    )


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("MMSA_ext.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"details": report_details, "flatten": flatten}
    environment.filters["csv_address"] = _csv_address
    return environment


@cache
def _source(name: str) -> str:
    return (files("MMSA_ext.reporting") / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Allow this page its own style, script and images, and nothing else from anywhere."""
    own_style, own_script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{own_style}'; "
        f"script-src 'sha256-{own_script}'; base-uri 'none'; form-action 'none'"
    )


def _pictures(section: Section, store: RunStore | None) -> list[_Picture]:
    """Draw the section's comparison, curves and confusions, as far as it has runs for them."""
    pictures = []
    chosen = section.best_on_validation(SYSTEMS_DRAWN)
    if chosen and (comparison := comparison_of(chosen)).numbers["mean"].notna().any():
        pictures.append(
            _Picture(
                f"Results on {section.title}",
                "Mean over seeds, its 95 % t-interval and single seeds, test split; accuracies and "
                f"F1 scores in percent, MAE and Corr as they are; {_choice(chosen, section)}.",
                _address(comparison_figure(comparison, COMPARISON_WIDTH)),
            )
        )
    runs = [run for experiment in chosen for run in experiment.records if run.history]
    if runs:
        pictures.append(
            _Picture(
                f"Validation curves on {section.title}",
                f"One line a seed, {_choice(chosen, section)}.",
                _address(curves_overview(runs, {e.id: e.label for e in chosen})),
            )
        )
    return [*pictures, *(_confusions(section, store) if store else [])]


def _confusions(section: Section, store: RunStore) -> list[_Picture]:
    """Which classes are taken for which, of the experiments whose predictions are there."""
    chosen = section.best_on_validation(CONFUSIONS_DRAWN)
    runs = [run for experiment in chosen for run in experiment.finished.values()]
    there = [run for run in runs if store.predictions_path(run.identity).is_file()]
    if not there:
        return []
    title = f"Confusion on {section.title}"
    said = "True and predicted classes, counts summed over the seeds whose predictions are there."
    names = {run.identity.digest: e.label for e in chosen for run in e.records}
    try:
        tables: dict[str, list[pd.DataFrame]] = {}
        for run, table in store.usable_predictions(there, SPLIT):
            tables.setdefault(names[run.identity.digest], []).append(table)
        found = {name: pd.concat(some) for name, some in tables.items()}
        figure = confusion_figure(found, there[0].identity.data_set, split=SPLIT)
    except StoreError as error:
        return [_Picture(title, f"Not drawn: {_without_folder(str(error), store.root)}")]
    return [_Picture(title, said, _address(figure))]


def _choice(chosen: Sequence[SeedGroup], section: Section) -> str:
    """Say which experiments a picture shows."""
    there = sum(bool(experiment.finished) for experiment in section.experiments)
    if len(chosen) == there:
        return "all experiments that finished a run"
    return f"the {len(chosen)} of {there} experiments with the lowest validation MAE"


def _address(figure: Figure) -> str:
    """Take a figure in as SVG: sharp in print, and half the bytes of a PNG.

    As an image, and not as elements of the page, because ids repeat between figures. Hundredths of
    a point are enough of every path: a third fewer bytes.
    """
    with TemporaryDirectory() as folder:
        (image,) = save(figure, Path(folder) / "figure", ["svg"])
        svg = image.read_text(encoding="utf-8")
    shorter = _PATH.sub(lambda path: _DIGITS.sub(r"\1", path[0]), svg)
    return _data_address("image/svg+xml", shorter.encode())


def _csv_address(text: str) -> str:
    return _data_address("text/csv", text.encode())


def _data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

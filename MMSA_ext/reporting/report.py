"""The report: every record of a store in one HTML file that needs no network and no other file.

A pure function of the records: equal records give equal bytes. The tables are plain HTML; a small
script sorts and filters them and writes out the details of an experiment when they are opened,
from one block of JSON that holds each configuration once.
"""

import base64
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from MMSA_ext.files import write_atomically
from MMSA_ext.records.store import RunRecord, RunStore, StoreError, StoreWarning
from MMSA_ext.reporting.figures import curves_overview
from MMSA_ext.reporting.figures.comparison import comparison_figure
from MMSA_ext.reporting.report_contents import Experiment, Section, comparison_of, flatten, sections

# More rows or lines than this cannot be told apart in one picture; the caption says what is shown.
ROWS_DRAWN: Final = 16
CURVES_DRAWN: Final = 8
# Inches of the comparison, whose panels are beside each other as far as they fit: a page's text.
COMPARISON_WIDTH: Final = 10.0
# Validation curves that the details of an experiment draw, where the history has them.
CURVE_METRICS: Final = ("MAE", "Corr", "Loss")
CURVE_DIGITS: Final = 4


@dataclass(frozen=True)
class StoreContents:
    """What a store holds.

    Attributes:
        records: All runs that can be read, in the order of their files.
        passed_over: Which files were not read and why, one sentence each, without the folder.
    """

    records: tuple[RunRecord, ...]
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class WrittenReport:
    """A report on disk.

    Attributes:
        path: The HTML file.
        runs: Number of runs in it.
        passed_over: As in `StoreContents`; the report names them too.
        size: Bytes.
    """

    path: Path
    runs: int
    passed_over: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class _Picture:
    """An image as a `data:` address."""

    title: str
    caption: str
    address: str


def read_store(root: str | os.PathLike[str]) -> StoreContents:
    """Read all records of a store and keep what was passed over.

    Args:
        root: Folder of the store (`<results>/runs`).

    Returns:
        The records, and a sentence for each file that is damaged or misnamed.
    """
    root = Path(root)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StoreWarning)
        records = tuple(RunStore(root).records())
    passed_over = []
    for warning in caught:
        if issubclass(warning.category, StoreWarning):
            # A report may be given away; the machine's folders are nobody's business.
            passed_over.append(str(warning.message).replace(f"{root}{os.sep}", ""))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return StoreContents(records, tuple(passed_over))


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
        figures: Draw validation curves and the comparison of experiments.

    Returns:
        Where it is and what is in it.

    Raises:
        StoreError: There is no store, no run in it, or none of a data set that was asked for.
        WriteError: The file cannot be written.
    """
    contents = read_store(root)
    records = _chosen(contents, Path(root), datasets)
    page = render_report(records, passed_over=contents.passed_over, figures=figures)
    content = page.encode()
    write_atomically(Path(path), content)
    return WrittenReport(Path(path), len(records), contents.passed_over, len(content))


def _chosen(contents: StoreContents, root: Path, datasets: Sequence[str]) -> list[RunRecord]:
    """Keep the data sets asked for, or say what there is instead."""
    if not root.is_dir():
        raise StoreError(
            f"{root}: there is no such folder of run records. Train a model first, or give the "
            "results folder of the runs, the one that holds 'runs' (--res-save-dir)."
        )
    there = sorted({run.identity.dataset for run in contents.records})
    if not there:
        unread = " ".join(f"Not readable: {text}" for text in contents.passed_over)
        raise StoreError(f"{root}: no run is recorded here yet. Train a model first. {unread}")
    if missing := [name for name in datasets if name not in there]:
        raise StoreError(
            f"{root}: no run on {', '.join(missing)}; there are runs on {', '.join(there)}."
        )
    return [run for run in contents.records if not datasets or run.identity.dataset in datasets]


def render_report(
    records: Iterable[RunRecord], *, passed_over: Sequence[str] = (), figures: bool = True
) -> str:
    """Render records as one HTML page.

    Numbers are those of the test split, x100 as MMSA prints them: mean, sample standard deviation,
    n and the 95 % t-interval over seeds, with the selection rule, environment and code version of
    every row. Time and size grow linearly with the number of runs; pictures do not.

    Args:
        records: Runs in any order.
        passed_over: Sentences on files that could not be read; the page shows them.
        figures: Draw validation curves and the comparison of experiments.

    Returns:
        The page. Without records it says so in one sentence.
    """
    shown = sections(records)
    style, script = (Markup(_source(name)) for name in ("report.css", "report.js"))
    return (
        _templates()
        .get_template("report.html")
        .render(
            sections=shown,
            pictures={section.anchor: _pictures(section) if figures else [] for section in shown},
            passed_over=passed_over,
            details=_details(shown),
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
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
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


def _pictures(section: Section) -> list[_Picture]:
    """Draw the section's comparison and validation curves, as far as it has runs for them."""
    pictures = []
    compared = section.best_on_validation(ROWS_DRAWN)
    comparison = comparison_of(compared)
    if comparison is not None and comparison.numbers["mean"].notna().any():
        pictures.append(
            _Picture(
                f"Results on {section.title}",
                "Mean over seeds, its 95 % t-interval and single seeds, test split; accuracies and "
                "F1 scores in percent, MAE, Corr and Loss as they are, not x100; "
                f"{_choice(compared, section)}.",
                _drawn(
                    lambda path: comparison_figure(
                        comparison, path, formats=("svg",), width=COMPARISON_WIDTH
                    )
                ),
            )
        )
    curves = section.best_on_validation(CURVES_DRAWN)
    runs = [run for experiment in curves for run in experiment.records if run.history]
    if runs:
        pictures.append(
            _Picture(
                f"Validation curves on {section.title}",
                f"One line a seed, {_choice(curves, section)}.",
                _drawn(lambda path: curves_overview(runs, path, formats=("svg",))),
            )
        )
    return pictures


def _choice(chosen: Sequence[Experiment], section: Section) -> str:
    """Say which experiments a picture shows."""
    there = sum(bool(experiment.finished) for experiment in section.experiments)
    if len(chosen) == there:
        return "all experiments that finished a run"
    return f"the {len(chosen)} of {there} experiments with the lowest validation error"


def _drawn(draw: Callable[[Path], Sequence[Path]]) -> str:
    """Draw an SVG file and take it in: sharp in print, and half the bytes of a PNG.

    As an image, and not as elements of the page, because ids repeat between figures.
    """
    with TemporaryDirectory() as folder:
        (image,) = draw(Path(folder) / "figure")
        return f"data:image/svg+xml;base64,{base64.b64encode(image.read_bytes()).decode()}"


def _details(shown: Sequence[Section]) -> dict[str, Any]:
    """Lay out what the page writes when details are opened; environments are kept once."""
    environments: dict[str, int] = {}
    experiments = {
        experiment.id: {
            "configuration": flatten(experiment.records[0].identity.configuration),
            "differing": list(experiment.differing),
            "code": experiment.records[0].identity.code_version,
            "runs": [_run_details(run, environments) for run in experiment.records],
        }
        for section in shown
        for experiment in section.experiments
    }
    return {"experiments": experiments, "environments": list(environments)}


def _run_details(run: RunRecord, environments: dict[str, int]) -> dict[str, Any]:
    environment = environments.setdefault(run.environment.describe(), len(environments))
    return {
        "seed": run.identity.seed,
        "run": run.identity.short_id,
        "status": run.status,
        "reason": run.reason,
        "chosen": run.chosen_epoch,
        "epochs": [entry.epoch for entry in run.history],
        "curves": _curves(run),
        "selection": run.selection,
        "environment": environment,
        "created": run.created.isoformat(),
        "timings": run.timings,
        "memory": run.peak_memory_mb,
        "checkpoint": run.checkpoint,
        "notes": run.notes,
        "metrics": run.metrics,
    }


def _curves(run: RunRecord) -> dict[str, list[float | None]]:
    """Take the validation curves, to as many digits as a picture can show."""
    curves = {
        name: [_rounded(entry.valid.get(name)) for entry in run.history] for name in CURVE_METRICS
    }
    return {name: curve for name, curve in curves.items() if any(v is not None for v in curve)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{CURVE_DIGITS}g}")

"""Commands on all records of a store: `report`, `verify`, `records publish` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from MMSA_ext.cli.options import ResultDir, feature_sources, run_store, takes_imports

if TYPE_CHECKING:
    from MMSA_ext.records.publishing import Copied
    from MMSA_ext.records.store import RunStore

records = typer.Typer(
    no_args_is_help=True,
    help="Copy records for others, without the labels of their data set, and put these back.",
)

Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="HTML file. Default: report.html in the results folder."),
]
OnlyDatasets = Annotated[
    list[str] | None,
    typer.Option("-d", "--dataset", help="Only this data set; repeatable."),
]
Figures = Annotated[
    bool, typer.Option("--figures/--no-figures", help="Draw the figures, or leave them out.")
]
FeatureOption = typer.Option(
    "-f",
    "--features",
    callback=feature_sources,
    help="Feature file of runs whose labels are withheld, or folder of shards; repeatable.",
)
Destination = Annotated[
    Path, typer.Argument(help="Folder of results; the records are written to its `runs`.")
]


def report(
    res_save_dir: ResultDir = "",
    output: Output = None,
    datasets: OnlyDatasets = None,
    figures: Figures = True,
) -> None:
    """Write every recorded run into one HTML file that needs no network and no other file."""
    from MMSA_ext.paths import Places, expand
    from MMSA_ext.reporting.report import write_report

    folder = Places.resolved(results=res_save_dir or None).results
    target = Path(expand(output)) if output else folder / "report.html"
    written = write_report(folder / "runs", target, datasets=datasets or (), figures=figures)
    for sentence in written.passed_over:
        typer.echo(f"passed over: {sentence}", err=True)
    typer.echo(f"report: {written.path} (runs: {written.runs}, {written.size / 1e6:.1f} MB)")


@takes_imports
def verify(
    res_save_dir: ResultDir = "", features: Annotated[list[Path] | None, FeatureOption] = None
) -> None:
    """Compute MMSA's metrics again from the stored predictions of every record.

    Exit code 1 if a record differs or is damaged. Records whose labels are withheld are left out
    unless the feature file is given that they were made from.
    """
    from MMSA_ext.explain.verification import problems, render, verify_store

    checks = list(verify_store(run_store(res_save_dir), features or ()))
    typer.echo(render(checks))
    if problems(checks):
        raise typer.Exit(1)


@records.command()
def publish(
    destination: Destination,
    res_save_dir: ResultDir = "",
    datasets: OnlyDatasets = None,
) -> None:
    """Copy records with their predictions, but without the labels, and without checkpoints.

    Who has the feature file verifies them by `mmsa-ext verify -f FILE`.
    """
    from MMSA_ext.records.publishing import publish

    copied = publish(run_store(res_save_dir), _destination(destination), datasets or ())
    _say(copied, destination)


@records.command()
def restore(
    destination: Destination,
    features: Annotated[list[Path], FeatureOption],
    res_save_dir: ResultDir = "",
) -> None:
    """Copy records with their predictions, and put the labels of feature files back."""
    from MMSA_ext.records.publishing import restore

    copied = restore(run_store(res_save_dir), _destination(destination), features)
    _say(copied, destination)


def _destination(folder: Path) -> RunStore:
    from MMSA_ext.paths import Places
    from MMSA_ext.records.store import RunStore

    return RunStore(Places.resolved(results=str(folder)).results / "runs")


def _say(copied: Copied, destination: Path) -> None:
    for data, n in copied.left_out.items():
        typer.echo(
            f"left out: {n}, whose labels are withheld; give the feature file with SHA-256 {data}: "
            "-f FILE.",
            err=True,
        )
    typer.echo(f"{destination / 'runs'}: {copied.written} written, {copied.there} there already")

"""Commands on all records of a store: `report`, `verify`."""

from pathlib import Path
from typing import Annotated

import typer

from MMSA_ext.cli.options import ResultDir, run_store, takes_imports

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
def verify(res_save_dir: ResultDir = "") -> None:
    """Compute MMSA's metrics again from the stored predictions of every record.

    Exit code 1 if a record differs or is damaged.
    """
    from MMSA_ext.explain.verification import problems, render, verify_store

    checks = list(verify_store(run_store(res_save_dir)))
    typer.echo(render(checks))
    if problems(checks):
        raise typer.Exit(1)

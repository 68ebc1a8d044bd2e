"""Commands of `mmsa-ext experiment`: `run`, `table`."""

from typing import Annotated

import typer

from MMSA_ext.cli.options import (
    Audio,
    Features,
    Gpus,
    LogDir,
    ModelDir,
    Overrides,
    Repeat,
    ResultDir,
    Text,
    Verbose,
    Vision,
    Workers,
    parse_overrides,
)

Experiment = Annotated[
    str, typer.Argument(help="Name of a shipped experiment, or a file (docs/experiments.md).")
]
OnlyDatasets = Annotated[
    list[str] | None,
    typer.Option("-d", "--dataset", help="Only this data set of the experiment; repeatable."),
]
OtherSeeds = Annotated[
    list[int] | None,
    typer.Option("-s", "--seeds", help="Seed; repeatable. Default: the experiment's."),
]


def run(
    experiment: Experiment,
    datasets: OnlyDatasets = None,
    overrides: Overrides = None,
    seeds: OtherSeeds = None,
    features: Features = "",
    feature_t: Text = "",
    feature_a: Audio = "",
    feature_v: Vision = "",
    gpu_ids: Gpus = None,
    num_workers: Workers = 4,
    verbose: Verbose = 1,
    model_save_dir: ModelDir = "",
    res_save_dir: ResultDir = "",
    log_dir: LogDir = "",
    repeat: Repeat = False,
) -> None:
    """Run what is missing of an experiment and show its table; exit code 1 if a row is refused."""
    from MMSA_ext import experiments

    chosen = experiments.load(experiment).narrowed(
        datasets=datasets, seeds=seeds, config=parse_overrides(overrides or [])
    )
    done = experiments.run(
        chosen,
        progress=lambda number, count, row, dataset: typer.echo(
            f"row {number} of {count}: {row.label} on {dataset}"
        ),
        custom_feature=features or None,
        feature_T=feature_t or None,
        feature_A=feature_a or None,
        feature_V=feature_v or None,
        gpu_ids=gpu_ids or [],
        num_workers=num_workers,
        verbose_level=verbose,
        model_save_dir=model_save_dir or None,
        res_save_dir=res_save_dir or None,
        log_dir=log_dir or None,
        reuse=not repeat,
    )
    table(experiment, datasets, overrides, seeds, res_save_dir)
    refused = [cell for cell in done if cell.error is not None]
    for cell in refused:
        typer.echo(f"not run: {cell.row.label} on {cell.dataset}: {cell.error}", err=True)
    if refused:
        raise typer.Exit(1)


def table(
    experiment: Experiment,
    datasets: OnlyDatasets = None,
    overrides: Overrides = None,
    seeds: OtherSeeds = None,
    res_save_dir: ResultDir = "",
) -> None:
    """Write and show the table of what has been run; give the options that it was run with."""
    from MMSA_ext import experiments
    from MMSA_ext.reporting.store import RunStore

    chosen = experiments.load(experiment).narrowed(
        datasets=datasets, seeds=seeds, config=parse_overrides(overrides or [])
    )
    folder = experiments.results_folder(res_save_dir or None)
    numbers = experiments.table(chosen, RunStore(folder / "runs"))
    csv, text = experiments.write(chosen, numbers, folder / "experiments")
    typer.echo(f"\n{experiments.render(chosen, numbers)}\n")
    typer.echo(f"numbers: {csv}")
    typer.echo(f"text:    {text}")

"""Commands of `mmsa-ext experiment`: `run`, `status`, `table`, `figure`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from MMSA_ext.cli.options import (
    Audio,
    DatasetFile,
    Features,
    Overrides,
    ResultDir,
    Text,
    Vision,
    known_experiment,
    parse_overrides,
    say_written,
    takes_imports,
    takes_run_options,
)
from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.stopping import Stopped

if TYPE_CHECKING:
    from MMSA_ext import experiments

app = typer.Typer(
    no_args_is_help=True, help="Run the rows of a table or figure, and show what they gave."
)

ExperimentFile = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        callback=known_experiment,
        help="Name of a shipped experiment, or a file (docs/experiments.md).",
    ),
]
OnlyRows = Annotated[
    list[str] | None,
    typer.Option("--row", metavar="LABEL", help="Only this row of the experiment; repeatable."),
]
OnlyModels = Annotated[
    list[str] | None,
    typer.Option("-m", "--model", help="Only the rows of this model; repeatable."),
]
OnlyDatasets = Annotated[
    list[str] | None,
    typer.Option("-d", "--dataset", help="Only this data set of the experiment; repeatable."),
]
OtherSeeds = Annotated[
    list[int] | None,
    typer.Option("-s", "--seeds", help="Seed; repeatable. Default: the experiment's."),
]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", help="csv, md, tex, html or txt; repeatable. Default: all but txt."),
]
Baseline = Annotated[
    str, typer.Option(help="Row that the others are compared with. Default: the experiment's.")
]
ShownFeatures = Annotated[
    str,
    typer.Option(
        "-f",
        "--features",
        help="Show the runs on this feature file. Default: the one with the most finished seeds.",
    ),
]
ShownCode = Annotated[
    str,
    typer.Option(
        "--code",
        metavar="DIGEST",
        help="Show the runs by this code, as a table names it, or by its first characters; each "
        "model has code of its own. Default: of each row, the one with the most finished seeds.",
    ),
]
FORMATS = ("csv", "md", "tex", "html")


@app.command("run")
@takes_run_options
def run(
    options: RunOptions,
    experiment: ExperimentFile,
    rows: OnlyRows = None,
    models: OnlyModels = None,
    datasets: OnlyDatasets = None,
    overrides: Overrides = None,
    seeds: OtherSeeds = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "-j", "--jobs", min=1, help="Runs at once. Default: 1; on a cluster, all that fit."
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Where runs are made (docs/experiments.md).")
    ] = "local",
    address: Annotated[
        str, typer.Option(help="Ray cluster, such as auto or ray://HOST:10001; with --engine ray.")
    ] = "",
    cpus: Annotated[float, typer.Option(help="CPUs of a run; with --engine ray.")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of a run; with --engine ray.")] = 0,
    checkpoints: Annotated[
        bool, typer.Option(help="Bring checkpoints back from the cluster; with --engine ray.")
    ] = False,
    draw: Annotated[bool, typer.Option("--figure", help="Draw its figure, too.")] = False,
) -> None:
    """Run what is missing of an experiment and show its tables.

    It may be stopped and started again, and started several times at once. Exit code 1 if a run is
    refused or fails.
    """
    from MMSA_ext import experiments
    from MMSA_ext.experiments import ray_engine

    chosen = _load(experiment, datasets, overrides, seeds, rows=rows, models=models)
    if engine != "ray" and address:
        raise ConfigError("--address is of a Ray cluster; add --engine ray.")
    try:
        outcomes = experiments.run(
            chosen,
            jobs=jobs or 1,
            engine=ray_engine.connect(
                address or None, slots=jobs, cpus=cpus, gpus=gpus, checkpoints=checkpoints
            )
            if engine == "ray"
            else None,
            progress=lambda progress: typer.echo(str(progress)),
            **vars(options),
        )
    except (KeyboardInterrupt, Stopped) as stopped:
        again = "goes on after" if options.reuse else "starts over; without --repeat it looks up"
        typer.echo(f"stopped; the same command {again} what was finished.", err=True)
        code = stopped.code if isinstance(stopped, Stopped) else 130
        raise typer.Exit(int(code or 130)) from None
    if any(outcome.record is not None for outcome in outcomes):
        found = _fingerprint(options.custom_feature, **options.modality_files)
        shown = chosen.narrowed(fingerprint=found)
        _show_tables(shown, options.res_save_dir, FORMATS)
        if draw:
            _draw(shown, options.res_save_dir)
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.record is None:
            reasons.setdefault(outcome.error, []).append(str(outcome.unit))
    for reason, units in reasons.items():
        typer.echo(f"not run: {'; '.join(units)}: {reason}", err=True)
    if reasons:
        raise typer.Exit(1)


@app.command("status")
@takes_imports
def status(
    experiment: ExperimentFile,
    rows: OnlyRows = None,
    models: OnlyModels = None,
    datasets: OnlyDatasets = None,
    overrides: Overrides = None,
    seeds: OtherSeeds = None,
    features: Features = "",
    feature_t: Text = "",
    feature_a: Audio = "",
    feature_v: Vision = "",
    res_save_dir: ResultDir = "",
    dataset_file: DatasetFile = "",
) -> None:
    """Show which seeds of each row are done, running or missing, and the time used and left."""
    from MMSA_ext import experiments
    from MMSA_ext.records.store import RunStore

    chosen = _load(experiment, datasets, overrides, seeds, rows=rows, models=models)
    store = RunStore(experiments.results_folder(res_save_dir or None) / "runs")
    lines = experiments.status(
        chosen,
        store,
        custom_feature=features,
        feature_T=feature_t,
        feature_A=feature_a,
        feature_V=feature_v,
    )
    typer.echo(experiments.render_status(lines))


@app.command("table")
@takes_imports
def table(
    experiment: ExperimentFile,
    datasets: OnlyDatasets = None,
    overrides: Overrides = None,
    seeds: OtherSeeds = None,
    baseline: Baseline = "",
    formats: Formats = None,
    features: ShownFeatures = "",
    code: ShownCode = "",
    res_save_dir: ResultDir = "",
    dataset_file: DatasetFile = "",
) -> None:
    """Write and show the tables of what has been run; give the options that it was run with."""
    known = [*FORMATS, "txt"]
    if unknown := [name for name in formats or () if name not in known]:
        raise ConfigError(f"no format {unknown[0]!r} of a table; {suggest(unknown[0], known)}")
    chosen = _load(experiment, datasets, overrides, seeds, baseline)
    _show_tables(_choose(chosen, features, code), res_save_dir, tuple(formats or FORMATS))


@app.command("figure")
@takes_imports
def figure(
    experiment: ExperimentFile,
    datasets: OnlyDatasets = None,
    overrides: Overrides = None,
    seeds: OtherSeeds = None,
    baseline: Baseline = "",
    kind: Annotated[
        str,
        typer.Option(help="comparison, sweep, robustness, curves or confusion; the file's."),
    ] = "",
    features: ShownFeatures = "",
    code: ShownCode = "",
    res_save_dir: ResultDir = "",
    dataset_file: DatasetFile = "",
) -> None:
    """Draw what has been run, as PNG and PDF; give the options that it was run with."""
    chosen = _load(experiment, datasets, overrides, seeds, baseline)
    _draw(_choose(chosen, features, code), res_save_dir, kind or None)


def _load(
    experiment: str,
    datasets: list[str] | None,
    overrides: list[str] | None,
    seeds: list[int] | None,
    baseline: str = "",
    rows: list[str] | None = None,
    models: list[str] | None = None,
) -> experiments.Experiment:
    from MMSA_ext.experiments import load

    return load(experiment).narrowed(
        rows=rows,
        models=models,
        datasets=datasets,
        seeds=seeds,
        config=parse_overrides(overrides or []),
        baseline=baseline or None,
    )


def _choose(experiment: experiments.Experiment, features: str, code: str) -> experiments.Experiment:
    """The experiment with the records that the options ask for."""
    if features and len(experiment.datasets) > 1:
        raise ConfigError(
            f"one feature file cannot be that of {', '.join(experiment.datasets)}: choose one of "
            "them with --dataset."
        )
    version = code.removeprefix("MMSA_ext").strip()
    return experiment.narrowed(fingerprint=_fingerprint(features), code=version)


def _fingerprint(features: str | Path | None, **others: str | None) -> str | None:
    from MMSA_ext.data.features import fingerprint
    from MMSA_ext.paths import expand

    if not features:
        return None
    paths = {name: expand(path) for name, path in others.items() if path}
    return fingerprint(expand(features), **paths)


def _show_tables(
    experiment: experiments.Experiment,
    res_save_dir: str | Path | None,
    formats: tuple[str, ...],
) -> None:
    from MMSA_ext import experiments
    from MMSA_ext.records.store import RunStore
    from MMSA_ext.reporting.comparison_table import comparison_table
    from MMSA_ext.reporting.render import to_text

    folder: Path = experiments.results_folder(res_save_dir or None)
    comparisons = experiments.table(experiment, RunStore(folder / "runs"))
    if not any((c.numbers[["n", "diverged"]] > 0).any(axis=None) for c in comparisons):
        raise ConfigError(
            f"{folder / 'runs'} has no such runs of experiment {experiment.name!r}; run it first, "
            "and give the options that it was run with."
        )
    for comparison in comparisons:
        typer.echo(f"\n{to_text(comparison_table(comparison))}\n")
    with _writing(folder):
        written = experiments.write_tables(comparisons, experiment, folder / "experiments", formats)
    say_written(written)


def _draw(
    experiment: experiments.Experiment, res_save_dir: str | Path | None, kind: str | None = None
) -> None:
    from MMSA_ext import experiments
    from MMSA_ext.records.store import RunStore

    folder: Path = experiments.results_folder(res_save_dir or None)
    store = RunStore(folder / "runs")
    with _writing(folder):
        written = experiments.draw(experiment, store, folder / "experiments", kind=kind)
    say_written(written)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say where nothing can be written in one sentence."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written to ({error.strerror or error}); copy the folder to where "
            "it can be, and give that with --res-save-dir."
        ) from error

"""Commands that train, tune and score: `run`, `tune`, `predict`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from MMSA_ext.cli.options import (
    Audio,
    Checkpoint,
    ConfigFile,
    Dataset,
    Features,
    FrontPadding,
    Gpus,
    LogDir,
    Model,
    ModelDir,
    Overrides,
    Repeat,
    ResultDir,
    Seeds,
    Text,
    Verbose,
    Vision,
    Workers,
    feature_file,
    parse_overrides,
)
from MMSA_ext.errors import ConfigError

if TYPE_CHECKING:
    from MMSA_ext.data.fit_lengths import Longer
    from MMSA_ext.runs.results import RunResults

Synthetic = Annotated[
    bool,
    typer.Option("--synthetic", help="Use generated data with known structure; needs no file."),
]


def run(
    model: Model = "dashfusion",
    dataset: Dataset = "mosi",
    config: ConfigFile = "",
    overrides: Overrides = None,
    tune: Annotated[bool, typer.Option("-t", "--tune", help="Tune first.")] = False,
    tune_times: Annotated[
        int | None, typer.Option("-tt", "--tune-times", help="Trials, with --tune. Default: 50.")
    ] = None,
    tune_on_test: Annotated[
        bool, typer.Option("--tune-on-test", help="Select by the TEST split, as MMSA does.")
    ] = False,
    seeds: Seeds = None,
    features: Features = "",
    synthetic: Synthetic = False,
    feature_t: Text = "",
    feature_a: Audio = "",
    feature_v: Vision = "",
    front_padding: FrontPadding = "",
    gpu_ids: Gpus = None,
    num_workers: Workers = 4,
    verbose: Verbose = 1,
    model_save_dir: ModelDir = "",
    res_save_dir: ResultDir = "",
    log_dir: LogDir = "",
    repeat: Repeat = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="See whether it runs: two batches, one epoch, and nothing is kept."
        ),
    ] = False,
) -> None:
    """Train and test a model, with MMSA's flags; prints a table and where everything is."""
    from MMSA_ext import MMSA_run

    values = parse_overrides(overrides or [])
    if front_padding:
        values["front_padding"] = front_padding
    if tune_times is not None and not tune:
        raise ConfigError("--tune-times has no effect without a search; add --tune.")
    if synthetic and features:
        raise ConfigError("--synthetic and --features both name the data; leave one out.")
    options: dict[str, Any] = {
        "config_file": config or None,
        "config": values,
        "feature_T": feature_t or None,
        "feature_A": feature_a or None,
        "feature_V": feature_v or None,
        "gpu_ids": gpu_ids or [],
        "num_workers": num_workers,
        "verbose_level": verbose,
    }
    if smoke:
        useless = {
            "--tune": tune,
            "--tune-on-test": tune_on_test,
            "--repeat": repeat,
            "--model-save-dir": model_save_dir,
            "--res-save-dir": res_save_dir,
            "--log-dir": log_dir,
            "more than one --seeds": len(set(seeds or ())) > 1,
        }
        if given := [option for option, value in useless.items() if value]:
            raise ConfigError(
                f"--smoke trains one seed and keeps nothing: leave out {', '.join(given)}."
            )
        _smoke(model, dataset, seeds, features, synthetic, options)
        return
    if synthetic:
        from MMSA_ext.data.demo import demo_features

        features = str(demo_features(dataset, res_save_dir or None))
    results = MMSA_run(
        model,
        dataset,
        **options,
        seeds=seeds,
        is_tune=tune,
        tune_times=50 if tune_times is None else tune_times,
        custom_feature=features or None,
        model_save_dir=model_save_dir or None,
        res_save_dir=res_save_dir or None,
        log_dir=log_dir or None,
        reuse=not repeat,
        tune_on_test=tune_on_test,
    )
    if verbose > 0:
        _show(results)


def tune(
    model: Model = "dashfusion",
    dataset: Dataset = "mosi",
    config: ConfigFile = "",
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option("-tt", "--tune-times", help="Trials.")] = 50,
    seeds: Seeds = None,
    features: Features = "",
    synthetic: Synthetic = False,
    gpu_ids: Gpus = None,
    verbose: Verbose = 1,
    model_save_dir: ModelDir = "",
    res_save_dir: ResultDir = "",
    log_dir: LogDir = "",
) -> None:
    """Search hyper-parameters on the validation split; `run --tune` has every option."""
    run(
        model,
        dataset,
        config,
        overrides,
        tune=True,
        tune_times=trials,
        seeds=seeds,
        features=features,
        synthetic=synthetic,
        gpu_ids=gpu_ids,
        verbose=verbose,
        model_save_dir=model_save_dir,
        res_save_dir=res_save_dir,
        log_dir=log_dir,
    )


def predict(
    checkpoint: Checkpoint,
    features: Annotated[
        Path,
        typer.Argument(callback=feature_file, help="Feature file, or features of one sample."),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="CSV file.")] = None,
    front_padding: FrontPadding = "",
    longer: Annotated[
        str,
        typer.Option(
            help="Samples longer than any in training: refuse, cut (keep the first steps) or pool "
            "(average frames)."
        ),
    ] = "refuse",
    gpu_ids: Gpus = None,
    overrides: Overrides = None,
) -> None:
    """Score samples with a trained checkpoint; writes CSV to the output or the terminal."""
    from MMSA_ext import predict_file
    from MMSA_ext.files import write_atomically
    from MMSA_ext.reporting.render import csv_text

    values = parse_overrides(overrides or [])
    if front_padding:
        values["front_padding"] = front_padding
    table = predict_file(
        checkpoint,
        features,
        gpu_ids=gpu_ids or [],
        overrides=values,
        longer=cast("Longer", longer),
    )
    text = csv_text(table, exact=True)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(output, text)
        typer.echo(f"{len(table)} predictions written to {output}")


def _smoke(
    model: str,
    dataset: str,
    seeds: list[int] | None,
    features: str,
    synthetic: bool,
    options: dict[str, Any],
) -> None:
    """`run --smoke`: everything is in a folder that is gone afterwards."""
    from MMSA_ext.data.demo import demo_features
    from MMSA_ext.reporting.tables import render_table
    from MMSA_ext.runs.api import DEFAULT_SEEDS
    from MMSA_ext.runs.smoke import smoke_run
    from MMSA_ext.validation import distinct_seeds

    seed = distinct_seeds(seeds or DEFAULT_SEEDS)[0]
    with tempfile.TemporaryDirectory(prefix="mmsa-ext-smoke-") as folder:
        if synthetic:
            features = str(demo_features(dataset, folder))
        record = smoke_run(
            model, dataset, folder, seed=seed, custom_feature=features or None, **options
        )
    if options["verbose_level"] > 0:
        typer.echo(f"\n{render_table([record])}\n")
        typer.echo("One epoch on two batches: the numbers mean nothing, and nothing was kept.")
    if not record.finished:
        typer.echo(f"{model} diverged: {record.reason}", err=True)
        raise typer.Exit(1)


def _show(results: "RunResults") -> None:
    typer.echo(f"\n{results}\n")
    typer.echo(f"MMSA's table: {results.csv_path}")
    typer.echo(f"per seed:     {results.seed_csv_path}")
    for result in results.seeds:
        typer.echo(f"record:       {result.record_path}")
        if result.checkpoint is not None:
            typer.echo(f"checkpoint:   {result.checkpoint}")
    for figure in results.figures:
        if figure.suffix == ".png":
            typer.echo(f"picture:      {figure}")

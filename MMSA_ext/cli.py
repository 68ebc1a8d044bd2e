"""The command line, `mmsa-ext COMMAND`; thin over the functions that each command names.

Importing the package registers it in MMSA and so takes torch's time to load, here too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from MMSA_ext.errors import ConfigError, MMSAExtError

if TYPE_CHECKING:
    from MMSA_ext.results import RunResults

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="DashFusion and InfoEnh in the MMSA toolkit.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
experiments = typer.Typer(
    no_args_is_help=True, help="Run the rows of a table or figure, and show what they gave."
)
app.add_typer(experiments, name="experiment")

Model = Annotated[str, typer.Option("-m", "--model", help="Model, see `mmsa-ext list`.")]
Dataset = Annotated[str, typer.Option("-d", "--dataset", help="mosi, mosei or sims.")]
ConfigFile = Annotated[str, typer.Option("-c", "--config", help="Configuration file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration value; repeatable."),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option("-s", "--seeds", help="Seed; repeatable. Default: 1111 to 1115."),
]
Workers = Annotated[int, typer.Option("-n", "--num-workers", help="Loader processes (MMSA's).")]
Verbose = Annotated[int, typer.Option("-v", "--verbose", help="0 errors, 1 information, 2 all.")]
ModelDir = Annotated[str, typer.Option("--model-save-dir", help="Checkpoints.")]
ResultDir = Annotated[str, typer.Option("--res-save-dir", help="Records, tables, pictures.")]
LogDir = Annotated[str, typer.Option("--log-dir", help="Logs.")]
Gpus = Annotated[
    list[str] | None,
    typer.Option("-g", "--gpu-ids", help="CUDA device, or 'cpu'. Default: the most free one."),
]
Text = Annotated[str, typer.Option("-Ft", "--feature-T", help="Feature file for text.")]
Audio = Annotated[str, typer.Option("-Fa", "--feature-A", help="Feature file for audio.")]
Vision = Annotated[str, typer.Option("-Fv", "--feature-V", help="Feature file for vision.")]
Features = Annotated[
    str, typer.Option("-f", "--features", help="Feature file with all three modalities.")
]
Repeat = Annotated[bool, typer.Option("--repeat", help="Run again what is in the store already.")]
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
Synthetic = Annotated[
    bool,
    typer.Option("--synthetic", help="Use generated data with known structure; needs no file."),
]


@app.command()
def run(
    model: Model = "dashfusion",
    dataset: Dataset = "mosi",
    config: ConfigFile = "",
    overrides: Overrides = None,
    tune: Annotated[bool, typer.Option("-t", "--tune", help="Tune first.")] = False,
    tune_times: Annotated[int, typer.Option("-tt", "--tune-times", help="Trials.")] = 50,
    tune_on_test: Annotated[
        bool, typer.Option("--tune-on-test", help="Select by the TEST split, as MMSA does.")
    ] = False,
    seeds: Seeds = None,
    features: Features = "",
    synthetic: Synthetic = False,
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
    """Train and test a model, with MMSA's flags; prints a table and where everything is."""
    from MMSA_ext import MMSA_run

    values = parse_overrides(overrides or [])
    if synthetic:
        from MMSA_ext.data.demo import demo_features

        features = str(demo_features(dataset, res_save_dir or None))
    results = MMSA_run(
        model,
        dataset,
        config_file=config or None,
        config=values,
        seeds=seeds,
        is_tune=tune,
        tune_times=tune_times,
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
        tune_on_test=tune_on_test,
    )
    if verbose > 0:
        _show(results)


@app.command()
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


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint written by `run`.")],
    features: Annotated[Path, typer.Argument(help="Feature file, or features of one sample.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="CSV file.")] = None,
    gpu_ids: Gpus = None,
    overrides: Overrides = None,
) -> None:
    """Score samples with a trained checkpoint; writes CSV to the output or the terminal."""
    from MMSA_ext import predict_file

    table = predict_file(
        checkpoint, features, gpu_ids=gpu_ids or [], overrides=parse_overrides(overrides or [])
    )
    if output is None:
        typer.echo(table.to_csv(index=False), nl=False)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(output, index=False)
        typer.echo(f"{len(table)} predictions written to {output}")


@app.command("check-data")
def check_data(
    file: Annotated[Path, typer.Argument(help="Feature file in MMSA's layout.")],
    dataset: Annotated[
        str | None, typer.Option("-d", "--dataset", help="Check the labels' range for this one.")
    ] = None,
) -> None:
    """Check a feature file and summarise what is in it; exit code 1 if it has problems."""
    from MMSA_ext.data.features import check_features

    report = check_features(file, dataset)
    typer.echo(report.render())
    if report.problems:
        raise typer.Exit(1)


@app.command("encode-text")
def encode_text(
    file: Annotated[Path, typer.Argument(help="Feature file with 'raw_text'.")],
    output: Annotated[Path, typer.Argument(help="New feature file.")],
    pretrained: Annotated[
        str, typer.Option("-p", "--pretrained", help="Hugging Face name, folder, or 'minilm'.")
    ] = "minilm",
    max_length: Annotated[int, typer.Option(help="Longest text in tokens.")] = 50,
    batch_size: Annotated[int, typer.Option(help="Texts encoded at a time.")] = 64,
    gpu_ids: Gpus = None,
) -> None:
    """Fill 'text_bert' and 'text' of a feature file from its 'raw_text'."""
    from MMSA_ext.data.encode_text import encode_text as encode
    from MMSA_ext.mmsa_bridge import assign_device

    device = str(assign_device(gpu_ids or []))
    encode(file, output, pretrained, max_length=max_length, batch_size=batch_size, device=device)
    typer.echo(f"written: {output}")


@app.command()
def complexity(
    model: Annotated[str, typer.Argument(help="Model of this package.")] = "dashfusion",
    dataset: Annotated[str, typer.Argument(help="mosi, mosei or sims.")] = "sims",
    text_length: Annotated[
        int | None, typer.Option(help="Text tokens of the sample. Default: the longest.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Multiply-adds and parameters of a model on one sample, by module, and Table V."""
    from MMSA_ext.analysis.complexity import report

    typer.echo(report(model, dataset, text_length, parse_overrides(overrides or [])))


@experiments.command("run")
def run_experiment(
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
    from MMSA_ext.experiments import load, run

    chosen = load(experiment).narrowed(
        datasets=datasets, seeds=seeds, config=parse_overrides(overrides or [])
    )
    done = run(
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
    experiment_table(experiment, datasets, overrides, seeds, res_save_dir)
    refused = [cell for cell in done if cell.error is not None]
    for cell in refused:
        typer.echo(f"not run: {cell.row.label} on {cell.dataset}: {cell.error}", err=True)
    if refused:
        raise typer.Exit(1)


@experiments.command("table")
def experiment_table(
    experiment: Experiment,
    datasets: OnlyDatasets = None,
    overrides: Overrides = None,
    seeds: OtherSeeds = None,
    res_save_dir: ResultDir = "",
) -> None:
    """Write and show the table of what has been run; give the options that it was run with."""
    from MMSA_ext.experiments import load, render, results_folder, table, write
    from MMSA_ext.reporting.store import RunStore

    chosen = load(experiment).narrowed(
        datasets=datasets, seeds=seeds, config=parse_overrides(overrides or [])
    )
    folder = results_folder(res_save_dir or None)
    numbers = table(chosen, RunStore(folder / "runs"))
    csv, text = write(chosen, numbers, folder / "experiments")
    typer.echo(f"\n{render(chosen, numbers)}\n")
    typer.echo(f"numbers: {csv}")
    typer.echo(f"text:    {text}")


@app.command("list")
def list_() -> None:
    """List models, the data sets they are configured for, and experiments."""
    from MMSA_ext import mmsa_bridge, registry
    from MMSA_ext.experiments import list_experiments, load

    typer.echo("Models of MMSA_ext:")
    for name in registry.list_models():
        datasets = ", ".join(mmsa_bridge.supported_datasets(name))
        typer.echo(f"  {name:22s} {datasets:20s} {registry.get_model(name).paper}")
    typer.echo("Models of MMSA:")
    for name in mmsa_bridge.mmsa_models():
        typer.echo(f"  {name:22s} {', '.join(mmsa_bridge.supported_datasets(name))}")
    typer.echo("Experiments:")
    for name in list_experiments():
        typer.echo(f"  {name:22s} {load(name).title}")


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs to a dictionary; values are JSON where they parse, else strings.

    Raises:
        ConfigError: If a pair has no `=`.
    """
    import json

    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator:
            raise ConfigError(f"--set {pair}: write KEY=VALUE, such as --set num_epochs=20.")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return values


def _show(results: RunResults) -> None:
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


def main() -> None:
    """Entry point: errors meant for users are printed as one message, without a traceback."""
    try:
        app()
    except MMSAExtError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()

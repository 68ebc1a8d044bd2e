"""Commands about models: `list`, `config`, `complexity`."""

import json
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from MMSA_ext.cli.options import (
    ConfigFile,
    DatasetFile,
    Overrides,
    known_dataset,
    known_model,
    parse_overrides,
    takes_imports,
)

if TYPE_CHECKING:
    from MMSA_ext.datasets import Dataset


@takes_imports
def list_(dataset_file: DatasetFile = "") -> None:
    """List data sets, models and the data sets they are configured for, and experiments."""
    from MMSA_ext import mmsa_files, registry
    from MMSA_ext.config.files import supported_datasets
    from MMSA_ext.datasets import get_dataset, list_datasets
    from MMSA_ext.json_files import read_json
    from MMSA_ext.paths import experiment_files

    typer.echo("Data sets:")
    for name in list_datasets():
        typer.echo(f"  {name:22s} {_described(get_dataset(name))}")
    typer.echo("Models of MMSA_ext:")
    for name in registry.list_models():
        datasets = ", ".join(supported_datasets(name))
        typer.echo(f"  {name:22s} {datasets:28s} {registry.paper_of(name)}")
    typer.echo("Models of MMSA:")
    for name in mmsa_files.models():
        typer.echo(f"  {name:22s} {', '.join(supported_datasets(name))}")
    typer.echo("Experiments:")
    for name, path in experiment_files().items():
        typer.echo(f"  {name:22s} {read_json(path)['title']}")


@takes_imports
def config(
    model: Annotated[str, typer.Argument(callback=known_model, help="Model.")],
    dataset: Annotated[str, typer.Argument(callback=known_dataset, help="Data set.")] = "mosi",
    config_file: ConfigFile = "",
    overrides: Overrides = None,
    dataset_file: DatasetFile = "",
) -> None:
    """Every key of a model's configuration: its value, what it means, and where it is from."""
    from MMSA_ext.config.described import described
    from MMSA_ext.reporting.render import TABLE_WIDTH

    keys = described(model, dataset, config_file, parse_overrides(overrides or []))
    for found in keys:
        value = typer.style(json.dumps(found.value), bold=True)
        typer.echo(f"{found.key} = {value}  [{found.source}]")
        if found.meaning:
            typer.echo(textwrap.indent(textwrap.fill(found.meaning, TABLE_WIDTH - 4), "    "))
    if any(not found.meaning for found in keys):
        typer.echo("Keys without a meaning are read by MMSA's own code of the model.")


@takes_imports
def complexity(
    model: Annotated[str, typer.Argument(callback=known_model, help="Model.")] = "dashfusion",
    dataset: Annotated[str, typer.Argument(callback=known_dataset, help="Data set.")] = "sims",
    text_length: Annotated[
        int | None, typer.Option(help="Text tokens of the sample. Default: the longest.")
    ] = None,
    overrides: Overrides = None,
    dataset_file: DatasetFile = "",
) -> None:
    """Multiply-adds and parameters of a model on one sample, by module, and Table V."""
    from MMSA_ext.explain.complexity import report

    typer.echo(report(model, dataset, text_length, parse_overrides(overrides or [])))


def _described(dataset: "Dataset") -> str:
    low, high = dataset.label_range
    like = "" if dataset.like == dataset.name else f"; hyper-parameters of {dataset.like}"
    return f"labels in [{low:g}, {high:g}], {dataset.metrics} metrics{like}"

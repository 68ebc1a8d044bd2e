"""Commands that compare runs in a store: `table`, `compare`, `power`, `result-stat`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from MMSA_ext.cli.options import ResultDir, run_store
from MMSA_ext.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from MMSA_ext.records.store import RunStore
    from MMSA_ext.reporting.comparison import SystemRuns

Group = Annotated[
    str, typer.Argument(help="Model, or first digits of an experiment's or a run's id.")
]
OneDataset = Annotated[
    str, typer.Option("-d", "--dataset", help="mosi, mosei or sims; needed where both have runs.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("-m", "--metric", help="MMSA's name; repeatable. Default: all of them."),
]
Split = Annotated[str, typer.Option("--split", help="Split whose samples and metrics count.")]
Output = Annotated[str, typer.Option("-o", "--output", help="Write the numbers as CSV, too.")]


Format = Literal["txt", "md", "tex", "html", "csv"]


def table(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            help="Model, or first digits of an experiment's or a run's id; repeatable. Default: "
            "all.",
        ),
    ] = None,
    dataset: OneDataset = "",
    baseline: Annotated[
        str, typer.Option("--baseline", help="As --model: the row that the others are tested with.")
    ] = "",
    style: Annotated[
        Literal["full", "paper"],
        typer.Option(
            help="full: intervals, differences and notes, metrics x100. paper: as papers print."
        ),
    ] = "full",
    std: Annotated[bool, typer.Option("--std/--no-std", help="With --style paper: mean ± std.")] = (
        True
    ),
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", help="MMSA's name; repeatable. Default: all but Loss."),
    ] = None,
    split: Split = "test",
    form: Annotated[Format, typer.Option("--format", help="Of what is shown or written.")] = "txt",
    output: Annotated[
        str,
        typer.Option("-o", "--output", help="File; its ending, .tex or other, decides the format."),
    ] = "",
    res_save_dir: ResultDir = "",
) -> None:
    """A table of what the store has of some models; needs no experiment file."""
    from MMSA_ext.files import write_atomically
    from MMSA_ext.reporting.comparison_table import comparison_text
    from MMSA_ext.reporting.tables import compare_models

    _check_output(output)
    ending: Any = Path(output).suffix.lstrip(".")
    if output and ending not in get_args(Format):
        raise ConfigError(f"--output {output}: end it in .{', .'.join(get_args(Format))}.")
    found = compare_models(
        run_store(res_save_dir).records(),
        models or (),
        dataset=dataset.lower() or None,
        baseline=baseline or None,
        metrics=metrics,
        split=split,
    )
    text = comparison_text(found, ending or form, paper=style == "paper", spread=std)
    if output:
        write_atomically(Path(output), text)
        typer.echo(f"written: {output}")
    else:
        typer.echo(text, nl=False)


def compare(
    a: Group,
    b: Group,
    dataset: OneDataset = "",
    metrics: Metrics = None,
    split: Split = "test",
    resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap.", min=100)] = 10_000,
    output: Output = "",
    res_save_dir: ResultDir = "",
) -> None:
    """Test run A against run B: over their shared seeds, and over the samples that both predict."""
    from MMSA_ext.metrics import metrics_of
    from MMSA_ext.reporting.comparison import compare as compare_systems
    from MMSA_ext.reporting.comparison_table import comparison_table
    from MMSA_ext.reporting.groups import check_split, shared_seeds
    from MMSA_ext.reporting.pairs import bootstrap_groups, bootstrap_table, sample_metric
    from MMSA_ext.reporting.render import to_text

    _check_output(output)
    store, first, second = _groups(a, b, dataset, res_save_dir)
    shared_seeds(first, second)
    data_set = first.records[0].identity.data_set
    shown = metrics or list(metrics_of(data_set))
    for metric in shown:
        sample_metric(data_set, metric)
    check_split(first, second, split)
    table = compare_systems(
        (first, second),
        shown,
        baseline=second.label,
        split=split,
        title=f"{first.label} - {second.label}",
    )
    typer.echo(to_text(comparison_table(table)))
    # After the table: it needs no predictions, which may be missing.
    found = bootstrap_groups(store, first, second, shown, split=split, n_resamples=resamples)
    typer.echo(f"\n{to_text(bootstrap_table(found))}")
    _write(found, output)


def power(
    a: Group,
    b: Group,
    dataset: OneDataset = "",
    gain: Annotated[
        float, typer.Option(help="True difference to be found, in points (x100).")
    ] = 0.3,
    wanted: Annotated[float, typer.Option("--power", help="Probability of finding it.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Level of the test.")] = 0.05,
    metrics: Metrics = None,
    split: Split = "test",
    output: Output = "",
    res_save_dir: ResultDir = "",
) -> None:
    """How many seeds a paired t-test of A against B needs, by the spread that their runs have."""
    from MMSA_ext.metrics import metrics_of
    from MMSA_ext.reporting.comparison import compare as compare_systems
    from MMSA_ext.reporting.pairs import power_of_groups, power_table
    from MMSA_ext.reporting.render import to_text

    _check_output(output)
    _, first, second = _groups(a, b, dataset, res_save_dir)
    shown = metrics or list(metrics_of(first.records[0].identity.data_set))
    found = power_of_groups(
        first, second, shown, gain=gain / 100, power=wanted, alpha=alpha, split=split
    )
    facts = compare_systems((first, second), shown, split=split).facts
    typer.echo(to_text(power_table(found, facts)))
    _write(found, output)


def result_stat(
    output: Annotated[str, typer.Option("-o", "--output", help="File; else it is shown.")] = "",
    res_save_dir: ResultDir = "",
) -> None:
    """All records as a table in the form of MMSA's result-stat.md."""
    from MMSA_ext.files import write_atomically
    from MMSA_ext.reporting.result_stat import result_stat as render

    _check_output(output)
    text = render(run_store(res_save_dir).records())
    if not output:
        typer.echo(text, nl=False)
        return
    write_atomically(Path(output), text)
    typer.echo(f"written: {output}")


def _groups(
    a: str, b: str, dataset: str, res_save_dir: str
) -> tuple[RunStore, SystemRuns, SystemRuns]:
    from MMSA_ext.reporting.groups import select_groups

    store = run_store(res_save_dir)
    first, second = select_groups(store.records(), (a, b), dataset.lower() or None)
    return store, first, second


def _check_output(output: str) -> None:
    """Make the folder of `output` and see whether it can be written, before work is done."""
    if not output:
        return
    path = Path(output)
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder; name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(
            f"--output {path}: its folder cannot be written ({error.strerror}); name another."
        ) from None


def _write(numbers: pd.DataFrame, output: str) -> None:
    from MMSA_ext.files import write_atomically
    from MMSA_ext.reporting.render import csv_text

    if output:
        write_atomically(Path(output), csv_text(numbers))
        typer.echo(f"written: {output}")

"""Commands that look into trained models: `explain embeddings | attention | attribution | cases`.

Each writes the numbers as CSV and draws its pictures from them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from MMSA_ext.cli.options import (
    AnyRecipe,
    Checkpoint,
    DatasetFile,
    Gpus,
    Overrides,
    ResultDir,
    feature_source,
    parse_overrides,
    run_store,
    say_written,
    takes_imports,
)
from MMSA_ext.errors import ConfigError
from MMSA_ext.json_files import json_or_text

if TYPE_CHECKING:
    import pandas as pd

    from MMSA_ext.explain.trained_model import TrainedModel

app = typer.Typer(
    no_args_is_help=True, help="Look into trained models: representations, attention, words, cases."
)

FeatureFile = Annotated[Path, typer.Argument(callback=feature_source, help="Feature file.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for pictures and CSV.")]
Samples = Annotated[
    list[str] | None, typer.Option("--sample", help="Sample id, of any split; repeatable.")
]
Split = Annotated[str, typer.Option("--split", help="Split of the samples.")]

DEFAULT_SAMPLES = 4


@app.command()
@takes_imports
def embeddings(
    checkpoint: Checkpoint,
    features: FeatureFile,
    output: Output = Path("explain"),
    split: Split = "test",
    limit: Annotated[int, typer.Option(help="At most so many samples, drawn.", min=1)] = 500,
    perplexity: Annotated[float, typer.Option(help="Of t-SNE, at most.", min=1)] = 30.0,
    seed: Annotated[int, typer.Option(help="Of t-SNE and of the draw.", min=0)] = 0,
    any_recipe: AnyRecipe = False,
    gpu_ids: Gpus = None,
    overrides: Overrides = None,
) -> None:
    """t-SNE of the modalities' representations, before and after InfoEnh, with distances."""
    from MMSA_ext.explain import embeddings as analysis
    from MMSA_ext.reporting.figures import save
    from MMSA_ext.reporting.figures.embeddings import embedding_figure
    from MMSA_ext.reporting.render import frame_table, to_text

    given = (checkpoint, features, gpu_ids, overrides)
    trained = _load(*given, split=split, limit=limit, seed=seed, any_recipe=any_recipe)
    found = analysis.representations(trained)
    points = analysis.project(found, trained.samples, perplexity=perplexity, seed=seed)
    distances = analysis.distances(found, seed=seed)
    title = f"{trained.name} on {trained.args.dataset_name}"
    written = [
        _write(points, output / "embeddings.csv"),
        _write(distances, output / "distances.csv"),
        *save(embedding_figure(points, distances, title=title), output / "embeddings"),
    ]
    typer.echo(to_text(frame_table(distances)))
    say_written(written)


@app.command()
@takes_imports
def attention(
    checkpoint: Checkpoint,
    features: FeatureFile,
    output: Output = Path("explain"),
    samples: Samples = None,
    split: Split = "test",
    any_recipe: AnyRecipe = False,
    gpu_ids: Gpus = None,
    overrides: Overrides = None,
) -> None:
    """Attention of DashFusion's temporal alignment, words by frames, mean and head by head."""
    from MMSA_ext.explain.attention_maps import attention_maps
    from MMSA_ext.reporting.figures import save
    from MMSA_ext.reporting.figures.attention import attention_figure, head_figure

    given = (checkpoint, features, gpu_ids, overrides)
    trained = _load(*given, ids=samples, split=split, any_recipe=any_recipe)
    maps = attention_maps(trained)
    written = [_write(maps, output / "attention.csv")]
    for stem, sample in _stems(trained.samples, "attention"):
        of_sample = maps[maps["id"] == sample["id"]]
        written += save(attention_figure(of_sample, sample), output / stem)
        written += save(head_figure(of_sample, sample), output / f"{stem}-heads")
    say_written(written)


@app.command()
@takes_imports
def attribution(
    checkpoint: Checkpoint,
    features: FeatureFile,
    output: Output = Path("explain"),
    samples: Samples = None,
    split: Split = "test",
    steps: Annotated[int, typer.Option(help="Points of the integral.", min=2)] = 64,
    baseline: Annotated[
        Literal["mean", "zero"], typer.Option(help="Frames of the baseline.")
    ] = "mean",
    free_selection: Annotated[
        bool, typer.Option("--free-selection", help="Do not hold InfoEnh's choices.")
    ] = False,
    any_recipe: AnyRecipe = False,
    gpu_ids: Gpus = None,
    overrides: Overrides = None,
) -> None:
    """What words and frames contribute to a prediction (integrated gradients)."""
    from MMSA_ext.explain.attribution import attribute
    from MMSA_ext.reporting.figures import save
    from MMSA_ext.reporting.figures.attribution import attribution_figure
    from MMSA_ext.reporting.render import frame_table, to_text

    given = (checkpoint, features, gpu_ids, overrides)
    trained = _load(*given, ids=samples, split=split, any_recipe=any_recipe)
    found = attribute(trained, steps=steps, baseline=baseline, hold_selection=not free_selection)
    written = [
        _write(found.parts, output / "attribution.csv"),
        _write(found.samples, output / "attribution_samples.csv"),
    ]
    for stem, sample in _stems(found.samples, "attribution"):
        of_sample = found.parts[found.parts["id"] == sample["id"]]
        written += save(attribution_figure(of_sample, sample), output / stem)
    shown = ["id", "label", "prediction", "baseline", "text_sum", "audio_sum", "vision_sum", "gap"]
    typer.echo(to_text(frame_table(found.samples[shown])))
    say_written(written)


@app.command()
@takes_imports
def cases(
    features: FeatureFile,
    rows: Annotated[
        list[str],
        typer.Option(
            "--row",
            metavar="LABEL=MODEL[:KEY=VALUE,...]",
            help="A system; repeatable, two or more. The settings choose among its runs.",
        ),
    ],
    output: Output = Path("explain"),
    samples: Samples = None,
    split: Split = "test",
    count: Annotated[int, typer.Option(help="Number of cases.", min=1)] = 8,
    by: Annotated[
        Literal["difference", "gain", "loss"],
        typer.Option(
            help="difference: predictions differ most; gain, loss: the second system is nearer to "
            "the label, or farther, by most."
        ),
    ] = "difference",
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Labels of the two systems that choose; default: first and last."),
    ] = None,
    dataset: Annotated[str, typer.Option("-d", "--dataset", help="Data set.")] = "",
    res_save_dir: ResultDir = "",
    dataset_file: DatasetFile = "",
) -> None:
    """Single samples with their text through several systems, from the stored predictions."""
    from MMSA_ext.data.features import read_features
    from MMSA_ext.explain.cases import case_study, find_records, to_markdown
    from MMSA_ext.files import write_atomically
    from MMSA_ext.reporting.figures import save
    from MMSA_ext.reporting.figures.cases import case_figure

    wanted = dict(parse_row(row) for row in rows)
    if len(wanted) < len(rows):
        raise ConfigError("two --row options have the same label; give each its own.")
    runs = run_store(res_save_dir)
    # Only ids and texts are shown, whatever the frames.
    file = read_features(features, dataset or None, require_labels=False, front_padding="keep")
    systems = {
        label: find_records(runs, model, file.fingerprint, settings)
        for label, (model, settings) in wanted.items()
    }
    study = case_study(
        runs, systems, file, split=split, count=count, rule=by, compared=compare, ids=samples
    )
    markdown = to_markdown(study)
    write_atomically(output / "cases.md", markdown)
    written = [
        _write(study.table, output / "cases.csv"),
        output / "cases.md",
        *save(case_figure(study.table, study.systems, summary=study.summary), output / "cases"),
    ]
    typer.echo(markdown)
    say_written(written)


def parse_row(text: str) -> tuple[str, tuple[str, dict[str, Any]]]:
    """`LABEL=MODEL[:KEY=VALUE,...]` to label, model and settings; values are JSON, else strings."""
    label, separator, rest = text.partition("=")
    model, _, listed = rest.partition(":")
    if not (label.strip() and separator and model.strip()):
        raise ConfigError(
            f"--row {text}: write LABEL=MODEL or LABEL=MODEL:KEY=VALUE, such as "
            "--row 'Self-MM + FIA=self_mm_infoenh:infoenh.bottleneck=false'."
        )
    settings: dict[str, Any] = {}
    for pair in filter(None, listed.split(",")):
        key, separator, value = pair.partition("=")
        if not separator:
            raise ConfigError(f"--row {text}: {pair!r} is no setting; write KEY=VALUE.")
        settings[key.strip()] = json_or_text(value, f"--row {text}")
    return label.strip(), (model.strip(), settings)


def _load(
    checkpoint: Path,
    features: Path,
    gpu_ids: list[str] | None,
    overrides: list[str] | None,
    *,
    ids: Sequence[str] | None = None,
    limit: int | None = None,
    **options: Any,
) -> TrainedModel:
    from MMSA_ext.explain.trained_model import load_trained

    if ids is None and limit is None:
        limit = DEFAULT_SAMPLES
    return load_trained(
        checkpoint,
        features,
        ids=ids or None,
        limit=limit,
        gpu_ids=gpu_ids or [],
        overrides=parse_overrides(overrides or []),
        **options,
    )


def _stems(samples: pd.DataFrame, prefix: str) -> list[tuple[str, pd.Series]]:
    """A file name for each sample; its number keeps apart ids that differ in odd characters."""
    return [
        (f"{prefix}-{number:02d}-{re.sub(r'[^0-9A-Za-z-]+', '_', str(sample['id']))}", sample)
        for number, (_, sample) in enumerate(samples.iterrows(), start=1)
    ]


def _write(table: pd.DataFrame, path: Path) -> Path:
    from MMSA_ext.files import write_atomically
    from MMSA_ext.reporting.render import csv_text

    # With a byte order mark, without which spreadsheets misread Chinese text.
    write_atomically(path, f"\ufeff{csv_text(table)}")
    return path

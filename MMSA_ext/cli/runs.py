"""Commands that train, tune and score: `run`, `tune`, `predict`."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from MMSA_ext.cli.options import (
    AnyRecipe,
    Checkpoint,
    ConfigFile,
    Dataset,
    DatasetArgument,
    FrontPadding,
    Gpus,
    Model,
    ModelArgument,
    Overrides,
    Seeds,
    feature_sources,
    given_once,
    parse_overrides,
    split_pairs,
    takes_imports,
    takes_run_options,
)
from MMSA_ext.cli.video import Asr, Cache, Subtitles, score_videos
from MMSA_ext.errors import ConfigError
from MMSA_ext.paths import check_output
from MMSA_ext.runs.options import RunOptions

if TYPE_CHECKING:
    from MMSA_ext import Scorer
    from MMSA_ext.data.fit_lengths import TooLong
    from MMSA_ext.runs.results import RunResults

Synthetic = Annotated[
    bool,
    typer.Option("--synthetic", help="Use generated data with known structure; needs no file."),
]
OnTest = Annotated[
    bool, typer.Option("--tune-on-test", help="Select by the TEST split, as MMSA does.")
]


@takes_run_options
def run(
    options: RunOptions,
    model_argument: ModelArgument = None,
    dataset_argument: DatasetArgument = None,
    model_option: Model = None,
    dataset_option: Dataset = None,
    config: ConfigFile = "",
    overrides: Overrides = None,
    tune: Annotated[bool, typer.Option("-t", "--tune", help="Tune first.")] = False,
    tune_times: Annotated[
        int | None, typer.Option("-tt", "--tune-times", help="Trials, with --tune. Default: 50.")
    ] = None,
    tune_on_test: OnTest = False,
    seeds: Seeds = None,
    synthetic: Synthetic = False,
    front_padding: FrontPadding = "",
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="See whether it runs: two batches, one epoch, and nothing is kept."
        ),
    ] = False,
) -> None:
    """Train and test a model, with MMSA's flags; prints a table and where everything is."""
    model = given_once(model_argument, model_option, "--model", "dashfusion")
    dataset = given_once(dataset_argument, dataset_option, "--dataset", "mosi")
    values = parse_overrides(overrides or [])
    if front_padding:
        values["front_padding"] = front_padding
    if tune_times is not None and not tune:
        raise ConfigError("--tune-times has no effect without a search; add --tune.")
    if smoke:
        useless = {
            "--tune": tune,
            "--tune-on-test": tune_on_test,
            "--repeat": not options.reuse,
            "--model-save-dir": options.model_save_dir,
            "--res-save-dir": options.res_save_dir,
            "--log-dir": options.log_dir,
            "--track": options.track,
            "more than one --seeds": len(set(seeds or ())) > 1,
        }
        if given := [option for option, value in useless.items() if value]:
            raise ConfigError(
                f"--smoke trains one seed and keeps nothing: leave out {', '.join(given)}."
            )
        _smoke(model, dataset, options, seeds, config, values, synthetic)
    else:
        _run(
            model,
            dataset,
            _with_data(options, dataset, options.res_save_dir) if synthetic else options,
            config_file=config or None,
            config=values,
            seeds=seeds,
            is_tune=tune,
            tune_times=50 if tune_times is None else tune_times,
            tune_on_test=tune_on_test,
        )


@takes_run_options
def tune(
    options: RunOptions,
    model_argument: ModelArgument = None,
    dataset_argument: DatasetArgument = None,
    model_option: Model = None,
    dataset_option: Dataset = None,
    config: ConfigFile = "",
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option("-tt", "--tune-times", help="Trials.")] = 50,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="Search this key, and of others only those given likewise: choices 8,16,32 or a "
            "JSON list; a range 1..4, 0.0..0.5 or 1e-5..1e-3:log; repeatable.",
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune/--no-prune",
            help="End trials whose validation is worse than that of most after as many epochs.",
        ),
    ] = False,
    jobs: Annotated[int, typer.Option("-j", "--jobs", help="Processes that make trials.")] = 1,
    tune_on_test: OnTest = False,
    seeds: Annotated[
        list[int] | None, typer.Option("-s", "--seeds", help="Seed; repeatable. Default: 1111.")
    ] = None,
    synthetic: Synthetic = False,
) -> None:
    """Search hyper-parameters on the validation split; the best are then tested, as by `run`.

    Trials are kept in an SQLite file; the same command goes on until there are as many as asked
    for. They run on the first seed, the best configuration on all seeds that are given.
    """
    model = given_once(model_argument, model_option, "--model", "dashfusion")
    dataset = given_once(dataset_argument, dataset_option, "--dataset", "mosi")
    _run(
        model,
        dataset,
        _with_data(options, dataset, options.res_save_dir) if synthetic else options,
        config_file=config or None,
        config=parse_overrides(overrides or []),
        seeds=seeds,
        is_tune=True,
        tune_times=trials,
        tune_on_test=tune_on_test,
        space=split_pairs("--space", "batch_size=8,16,32", space) if space else None,
        prune=prune,
        jobs=jobs,
    )


@takes_imports
def predict(
    checkpoint: Checkpoint,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT",
            callback=feature_sources,
            help="Feature file, features of one sample, folder of shards, CSV of texts (columns "
            "id, text), or videos: files or a folder of them.",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", help="One text, in place of the input; of a video what is said."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="CSV file, of videos also JSON; for shards a folder."),
    ] = None,
    front_padding: FrontPadding = "",
    too_long: Annotated[
        str | None,
        typer.Option(
            help="Samples longer than any in training: cut (keep the first steps), pool (average "
            "frames) or error. Default: error; of videos pool."
        ),
    ] = None,
    any_recipe: AnyRecipe = False,
    subtitles: Subtitles = "",
    asr: Asr = None,
    split: Annotated[
        str | None,
        typer.Option(help="Utterances of a video: whole, pauses, subtitles or auto (default)."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Picture of the sentiment over a video's time.")
    ] = None,
    cache: Cache = True,
    gpu_ids: Gpus = None,
    overrides: Overrides = None,
) -> None:
    """Score samples with a trained checkpoint; writes CSV to the output or the terminal.

    Of a folder of shards, each part has a result of its own in the output folder; what is finished
    there is not computed again. A video is extracted as the features of training were.
    """
    from MMSA_ext import Scorer
    from MMSA_ext.data.shards import is_sharded

    given = sources or []
    videos = bool(given) and all(map(_holds_media, given))
    if len(given) > 1 and not videos:
        raise ConfigError("give one input; several may be given of videos alone.")
    source = given[0] if given and not videos else None
    if not videos and (source is None) == (text is None):
        raise ConfigError(
            "give an input or --text, one of them; both go together for videos alone, told by "
            "their endings, such as .mp4."
        )
    if text is not None and not text.strip():
        raise ConfigError("--text is empty; write what was said.")
    of_videos = {
        "--subtitles": subtitles,
        "--asr": asr,
        "--split": split,
        "--plot": plot,
        "--no-cache": not cache,
    }
    if not videos and (useless := [option for option, value in of_videos.items() if value]):
        raise ConfigError(f"{useless[0]} has no effect but on a video; leave it out.")
    if text is not None and output is not None and not videos:
        raise ConfigError(
            "-o has no effect on --text, whose score is printed; leave it out, or give a CSV."
        )
    values = parse_overrides(overrides or [])
    sharded, texts = source and is_sharded(source), source and source.suffix.lower() == ".csv"
    if front_padding:
        if text is not None or sharded or texts or videos:
            raise ConfigError("--front-padding has no effect but on a feature file; leave it out.")
        values["front_padding"] = front_padding
    if sharded and output is None:
        raise ConfigError("the results of shards go to a folder; name it with -o.")
    for target in (path for path in (output, plot) if path is not None):
        check_output(target, checkpoint, *given)
        if checkpoint.is_dir():
            check_output(target.parent, checkpoint, checkpoint / "text_encoder")
    if output is not None and output.is_dir() and not sharded:
        raise ConfigError(f"{output} is a folder; name a file in it.")
    scorer = Scorer(
        checkpoint,
        values,
        gpu_ids=gpu_ids or [],
        too_long=cast("TooLong", too_long or ("pool" if videos else "error")),
        any_recipe=any_recipe,
    )
    if videos:
        score_videos(
            scorer,
            given,
            output,
            text=text,
            subtitles=subtitles,
            asr=asr,
            split=split or "auto",
            plot=plot,
            cache=cache,
        )
    elif source is None:
        typer.echo(f"{scorer({'raw_text': [text]})['prediction'][0]:.6g}")
    elif sharded:
        assert output is not None
        _score_shards(scorer, source, output)
    else:
        _score_file(scorer, source, output, texts=bool(texts))


def _holds_media(path: Path) -> bool:
    """Whether a path is a video or audio file, or a folder with some and no shards."""
    from MMSA_ext.video.corpus import is_media, media_files

    if path.is_dir():
        return not any(path.glob("*.parquet")) and bool(media_files(path))
    return is_media(path)


def _score_file(scorer: "Scorer", source: Path, output: Path | None, *, texts: bool) -> None:
    from MMSA_ext.files import write_atomically
    from MMSA_ext.reporting.render import csv_text
    from MMSA_ext.runs.scoring import score_texts

    table = score_texts(scorer, source) if texts else scorer.predict(scorer.read(source))
    written = csv_text(table, exact=True)
    if output is None:
        typer.echo(written, nl=False)
    else:
        write_atomically(output, written)
        typer.echo(f"{len(table)} predictions written to {output}")
    if texts and (failed := int((table["error"] != "").sum())):
        typer.echo(f"{failed} of {len(table)} texts could not be scored: see 'error'.", err=True)
        if failed == len(table):
            raise typer.Exit(1)


def _score_shards(scorer: "Scorer", folder: Path, output: Path) -> None:
    from MMSA_ext.runs.scoring import PartScores, score_shards

    def report(part: PartScores) -> None:
        if part.error:
            typer.echo(part.error, err=True)
            return
        failed = f", {part.failed} failed" if part.failed else ""
        there = ", finished before" if part.found else ""
        typer.echo(f"{part.result}: {part.samples} samples{failed}{there}")

    parts = score_shards(scorer, folder, output, report)
    samples, failed = sum(part.samples for part in parts), sum(part.failed for part in parts)
    typer.echo(f"{samples - failed} predictions of {samples} samples in {output}")
    if failed:
        typer.echo(f"{failed} samples could not be scored: see the column 'error'.", err=True)
        if failed == samples:
            raise typer.Exit(1)
    if unread := sum(bool(part.error) for part in parts):
        typer.echo(f"{unread} of {len(parts)} parts could not be read or are missing.", err=True)
        raise typer.Exit(1)


def _run(model: str, dataset: str, options: RunOptions, **arguments: Any) -> None:
    from MMSA_ext.runs.api import run_model

    results = run_model(model, dataset, options, **arguments)
    if options.verbose_level > 0:
        _show(results)


def _smoke(
    model: str,
    dataset: str,
    options: RunOptions,
    seeds: list[int] | None,
    config_file: str,
    config: dict[str, Any],
    synthetic: bool,
) -> None:
    """`run --smoke`: everything is in a folder that is gone afterwards."""
    from MMSA_ext.reporting.tables import render_table
    from MMSA_ext.runs.api import DEFAULT_SEEDS
    from MMSA_ext.runs.smoke import smoke_run
    from MMSA_ext.validation import distinct_seeds

    seed = distinct_seeds(seeds or DEFAULT_SEEDS)[0]
    with tempfile.TemporaryDirectory(prefix="mmsa-ext-smoke-") as folder:
        record = smoke_run(
            model,
            dataset,
            _with_data(options, dataset, folder) if synthetic else options,
            folder,
            seed=seed,
            config_file=config_file or None,
            config=config,
        )
    if options.verbose_level > 0:
        typer.echo(f"\n{render_table([record])}\n")
        typer.echo("One epoch on two batches: the numbers mean nothing, and nothing was kept.")
    if not record.finished:
        typer.echo(f"{model} diverged: {record.reason}", err=True)
        raise typer.Exit(1)


def _with_data(options: RunOptions, dataset: str, folder: str | Path | None) -> RunOptions:
    """The options with generated data, which are kept below a folder."""
    from MMSA_ext.data.demo import demo_features

    if options.custom_feature:
        raise ConfigError("--synthetic and --features both name the data; leave one out.")
    return replace(options, custom_feature=demo_features(dataset, folder))


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

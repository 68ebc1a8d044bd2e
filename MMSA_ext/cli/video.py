"""Command `extract`, and what `predict` does with videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from MMSA_ext.cli.data import (
    Columns,
    Group,
    IncompleteSamples,
    MaxLength,
    Seed,
    Shards,
    Shares,
    Tokenizer,
    TooLongToWrite,
    columns_of,
    lengths_of,
    shares_of,
)
from MMSA_ext.cli.options import readable, split_pairs, takes_imports
from MMSA_ext.errors import ConfigError, MediaError
from MMSA_ext.json_files import json_or_text
from MMSA_ext.paths import check_output

if TYPE_CHECKING:
    from MMSA_ext import Scorer
    from MMSA_ext.data.convert.writing import Incomplete
    from MMSA_ext.data.fit_lengths import TooLong
    from MMSA_ext.runs.video_scoring import VideoScore
    from MMSA_ext.video.contract import Extractor
    from MMSA_ext.video.splitting import Split

Asr = Annotated[
    str | None,
    typer.Option(
        "--asr",
        metavar="NAME",
        help="Recognises speech where there is no transcript: whisper or pocketsphinx.",
    ),
]
Subtitles = Annotated[
    str,
    typer.Option(
        "--subtitles",
        callback=readable("subtitle file", MediaError),
        help="SRT or WebVTT file of the one video.",
    ),
]
Cache = Annotated[
    bool,
    typer.Option("--cache/--no-cache", help="Keep what is extracted, and go on from there."),
]


@takes_imports
def extract(
    source: Annotated[
        Path,
        typer.Argument(
            help="CSV of clips (id, path, start, end, text, label, split), folder, or one video."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="New feature file; with --shards a folder.")
    ],
    audio: Annotated[
        str, typer.Option(metavar="NAME", help="Extractor: sims33, egemaps25; or none.")
    ] = "sims33",
    vision: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="facemesh, openface; or none. With options: facemesh:rate=10, openface:width=177.",
        ),
    ] = "facemesh",
    asr: Asr = None,
    pretrained: Tokenizer = None,
    text: Annotated[str | None, typer.Option(help="Transcript of the one video.")] = None,
    subtitles: Subtitles = "",
    split: Annotated[
        str, typer.Option(help="Samples of the one video: whole, pauses, subtitles or auto.")
    ] = "whole",
    jobs: Annotated[int, typer.Option("-j", "--jobs", help="Processes that extract.")] = 1,
    cache: Cache = True,
    columns: Columns = None,
    group: Group = None,
    seed: Seed = None,
    shares: Shares = None,
    max_length: MaxLength = None,
    too_long: TooLongToWrite = "cut",
    incomplete: IncompleteSamples = "error",
    shards: Shards = None,
) -> None:
    """Make a feature file of videos; stopped and started again, it goes on where it was."""
    from MMSA_ext.video import extract as extract_corpus

    report = extract_corpus(
        source,
        output,
        audio=_extractor(audio),
        vision=_extractor(vision),
        recogniser=asr,
        pretrained=pretrained,
        text=text,
        subtitles=subtitles or None,
        split=cast("Split", split),
        jobs=jobs,
        cache=cache,
        columns=columns_of(columns),
        group=group,
        seed=seed,
        shares=shares_of(shares),
        max_length=lengths_of(max_length),
        too_long=cast("TooLong", too_long),
        incomplete=cast("Incomplete", incomplete),
        shards=shards,
    )
    typer.echo(report.render())
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _extractor(told: str) -> Extractor | None:
    """What `NAME:OPTION=VALUE,...` says; None of `none`."""
    from MMSA_ext.video.extractors import extractor

    name, _, options = told.partition(":")
    if told == "none":
        return None
    values = split_pairs(f"{name}:", "rate=10", options.split(",") if options else [])
    return extractor(name, **{key: json_or_text(text, told) for key, text in values.items()})


def score_videos(
    scorer: Scorer,
    sources: list[Path],
    output: Path | None,
    *,
    text: str | None,
    subtitles: str,
    asr: str | None,
    split: str,
    plot: Path | None,
    cache: bool,
) -> None:
    """Score videos for `predict`; one that cannot be scored is named, and the others are scored."""
    from MMSA_ext.runs.video_scoring import score_video
    from MMSA_ext.video.corpus import beside, media_files

    files: list[Path] = []
    for source in sources:
        files += media_files(source) if source.is_dir() else [source]
    if len(files) > 1 and (text is not None or subtitles or plot):
        raise ConfigError("--text, --subtitles and --plot are of one video; score it alone.")
    for target in (path for path in (output, plot) if path is not None):
        check_output(target, *files, *([Path(subtitles)] if subtitles else []))
    if plot is not None and plot == output:
        raise ConfigError("-o and --plot name one file; give each its own.")
    scores: list[VideoScore] = []
    for file in files:
        try:
            known = (text, subtitles or None) if text or subtitles else beside(file)
            scores.append(
                score_video(
                    scorer,
                    file,
                    text=known[0],
                    subtitles=known[1],
                    recogniser=asr,
                    split=cast("Split", split),
                    cache=cache,
                )
            )
        except MediaError as error:
            typer.echo(f"error: {error}", err=True)
    if scores:
        _write(scores, output)
    if plot is not None and scores:
        typer.echo(f"picture: {_draw(scores[0], plot)}", err=output is None)
    if failed := len(files) - len(scores):
        typer.echo(f"{failed} of {len(files)} videos could not be scored.", err=True)
        raise typer.Exit(1)


def _write(scores: list[VideoScore], output: Path | None) -> None:
    import pandas as pd

    from MMSA_ext.files import write_atomically
    from MMSA_ext.reporting.render import csv_text

    for score in scores:
        if score.features.damage:
            typer.echo(f"warning: {score.features.path}: {score.features.damage}.", err=True)
    if output is not None and output.suffix.lower() == ".json":
        content = json.dumps([score.as_json() for score in scores], ensure_ascii=False, indent=1)
    else:
        content = csv_text(pd.concat([score.table() for score in scores]), exact=True)
    if output is None:
        typer.echo(content, nl=False)
        return
    write_atomically(output, content)
    count = sum(not one.error for score in scores for one in score.utterances)
    typer.echo(f"{count} predictions written to {output}")


def _draw(score: VideoScore, path: Path) -> Path:
    from MMSA_ext.reporting.figures import save
    from MMSA_ext.reporting.figures.timeline import timeline_figure

    figure = timeline_figure(score.table(), score.features.path.name)
    (written,) = save(figure, path, [path.suffix[1:].lower() or "png"])
    return written

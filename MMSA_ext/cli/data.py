"""Commands that make, check and change feature files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from MMSA_ext.cli.options import (
    Audio,
    DatasetFile,
    FrontPadding,
    Gpus,
    Text,
    Vision,
    feature_file,
    feature_source,
    known_dataset,
    split_pairs,
)
from MMSA_ext.errors import ConfigError

_Number = TypeVar("_Number", int, float)

if TYPE_CHECKING:
    from MMSA_ext.data import front_padding as padding_in_front
    from MMSA_ext.data.convert.writing import Incomplete
    from MMSA_ext.data.encode_text import Padding, TextCoverage
    from MMSA_ext.data.fit_lengths import TooLong

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="OURS=THEIRS",
        help="What a column is called, such as text=utterance; split= leaves it out. Repeatable.",
    ),
]
Group = Annotated[str | None, typer.Option(help="Column whose values are not to be in two splits.")]
Seed = Annotated[int | None, typer.Option(help="Of splits that are made at random. Default: 1111.")]
Shares = Annotated[
    str | None,
    typer.Option(
        metavar="TRAIN,VALID,TEST", help="Where the source has no splits. Default: 0.7,0.1,0.2."
    ),
]
MaxLength = Annotated[
    list[str] | None,
    typer.Option(metavar="MODALITY=N", help="Most steps, such as audio=375; text counts tokens."),
]
TooLongToWrite = Annotated[
    str, typer.Option(help="Longer ones: cut, pool (frames are averaged) or error.")
]
IncompleteSamples = Annotated[
    str, typer.Option(help="Samples that lack what others have: error, or drop them.")
]
Tokenizer = Annotated[
    str | None,
    typer.Option("-p", "--pretrained", help="Encoder whose tokenizer fills 'text_bert'."),
]
Shards = Annotated[
    int | None, typer.Option(help="Write so many Parquet files instead of one feature file.")
]


def check_data(
    file: Annotated[
        Path | None,
        typer.Argument(
            callback=feature_source,
            help="Feature file in MMSA's layout; needless beside -Ft, -Fa and -Fv.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "-d", "--dataset", callback=known_dataset, help="Check the labels' range for this one."
        ),
    ] = None,
    feature_t: Text = "",
    feature_a: Audio = "",
    feature_v: Vision = "",
    front_padding: FrontPadding = "",
    dataset_file: DatasetFile = "",
) -> None:
    """Check a feature file and summarise what is in it; exit code 1 if it has problems."""
    from MMSA_ext.data.features import check_features

    report = check_features(
        file,
        dataset,
        feature_T=feature_t or None,
        feature_A=feature_a or None,
        feature_V=feature_v or None,
        front_padding=cast("padding_in_front.FrontPadding", front_padding or None),
    )
    typer.echo(report.render())
    if report.problems:
        raise typer.Exit(1)


def convert(
    source: Annotated[Path, typer.Argument(help="File or folder in another form.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="New feature file; with --shards a folder.")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            help="table (CSV), arrays, hugging_face, mult, mag_bert, mmsa_fet or openface. "
            "Default: recognised by the content."
        ),
    ] = None,
    columns: Columns = None,
    audio: Annotated[
        str, typer.Option(help="Beside a CSV: folder or file with a sequence for each id.")
    ] = "",
    vision: Annotated[str, typer.Option(help="Likewise; OpenFace's CSV files too.")] = "",
    group: Group = None,
    seed: Seed = None,
    shares: Shares = None,
    max_length: MaxLength = None,
    too_long: TooLongToWrite = "cut",
    incomplete: IncompleteSamples = "error",
    front_padding: FrontPadding = "",
    pretrained: Tokenizer = None,
    recipe: Annotated[str, typer.Option(help="JSON file that says who made the features.")] = "",
    shards: Shards = None,
) -> None:
    """Make a feature file of a CSV, arrays, a Hugging Face data set, others' pickles, OpenFace."""
    from MMSA_ext.data.convert import convert as into_features

    report = into_features(
        source,
        output,
        form=form,
        columns=columns_of(columns),
        audio=audio or None,
        vision=vision or None,
        group=group,
        seed=seed,
        shares=shares_of(shares),
        max_length=lengths_of(max_length),
        too_long=cast("TooLong", too_long),
        incomplete=cast("Incomplete", incomplete),
        front_padding=cast("padding_in_front.FrontPadding", front_padding or None),
        pretrained=pretrained,
        recipe=recipe or None,
        shards=shards,
    )
    typer.echo(report.render())
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)


def columns_of(given: list[str] | None) -> dict[str, str]:
    """What `--column` says: our names and the source's."""
    return split_pairs("--column", "text=utterance", given or [])


def shares_of(given: str | None) -> list[float] | None:
    """What `--shares` says."""
    return None if given is None else [_number("--shares", x, float) for x in given.split(",")]


def lengths_of(given: list[str] | None) -> dict[str, int]:
    """What `--max-length` says, by modality."""
    return {
        modality: _number(f"--max-length {modality}", limit, int)
        for modality, limit in split_pairs("--max-length", "audio=375", given or []).items()
    }


def _number(option: str, text: str, kind: type[_Number]) -> _Number:
    try:
        return kind(text)
    except ValueError:
        what = "whole number" if kind is int else "number"
        raise ConfigError(f"{option}: {text!r} is no {what}.") from None


def encode_text(
    file: Annotated[
        Path, typer.Argument(callback=feature_file, help="Feature file with 'raw_text'.")
    ],
    output: Annotated[Path, typer.Argument(help="New feature file.")],
    pretrained: Annotated[
        str, typer.Option("-p", "--pretrained", help="Hugging Face name, folder, or 'minilm'.")
    ] = "minilm",
    max_length: Annotated[int, typer.Option(help="Longest text in tokens.")] = 50,
    batch_size: Annotated[int, typer.Option(help="Texts encoded at a time.")] = 64,
    padding: Annotated[
        str,
        typer.Option(
            help="What 'text' holds behind a text: zero, or what the encoder computes there, "
            "which MMSA's lf_dnn, lmf and tfn need to learn."
        ),
    ] = "zero",
    gpu_ids: Gpus = None,
) -> None:
    """Fill 'text_bert' and 'text' of a feature file from its 'raw_text'."""
    from MMSA_ext.data.encode_text import encode_text as encode
    from MMSA_ext.mmsa_bridge import assign_device

    device = str(assign_device(gpu_ids or []))
    encode(
        file,
        output,
        pretrained,
        max_length=max_length,
        batch_size=batch_size,
        padding=cast("Padding", padding),
        device=device,
        report=_show_coverage,
    )
    typer.echo(f"written: {output}")


def _show_coverage(coverage: "TextCoverage") -> None:
    typer.echo(str(coverage))
    for warning in coverage.warnings:
        typer.echo(f"warning: {warning}", err=True)


def standardise(
    file: Annotated[
        Path, typer.Argument(callback=feature_file, help="Feature file in MMSA's layout.")
    ],
    output: Annotated[Path, typer.Argument(help="New feature file.")],
    modalities: Annotated[
        list[str] | None, typer.Option("-m", "--modality", help="audio or vision. Default: both.")
    ] = None,
    front_padding: FrontPadding = "",
) -> None:
    """Give each audio and vision feature mean 0 and deviation 1, by the training split."""
    from MMSA_ext.data.standardise import standardise as scale
    from MMSA_ext.names import FRAMES

    written = scale(
        file,
        output,
        modalities or FRAMES,
        front_padding=cast("padding_in_front.FrontPadding", front_padding or None),
    )
    typer.echo(f"written: {written}")

"""Commands on feature files: `check-data`, `encode-text`, `standardise`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from MMSA_ext.cli.options import (
    Audio,
    FrontPadding,
    Gpus,
    Text,
    Vision,
    feature_file,
    feature_source,
)

if TYPE_CHECKING:
    from MMSA_ext.data import front_padding as padding_in_front
    from MMSA_ext.data.encode_text import Padding, TextCoverage


def check_data(
    file: Annotated[
        Path | None,
        typer.Argument(
            callback=feature_source,
            help="Feature file in MMSA's layout; needless beside -Ft, -Fa and -Fv.",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("-d", "--dataset", help="Check the labels' range for this one.")
    ] = None,
    feature_t: Text = "",
    feature_a: Audio = "",
    feature_v: Vision = "",
    front_padding: FrontPadding = "",
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

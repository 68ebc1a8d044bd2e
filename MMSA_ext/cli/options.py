"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from MMSA_ext.errors import ConfigError

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
FrontPadding = Annotated[
    str,
    typer.Option(
        "--front-padding",
        help="Where zeros are in front of the frames: turn moves them behind, keep reads the "
        "frames as they are. Default: such a file is refused.",
    ),
]
Repeat = Annotated[bool, typer.Option("--repeat", help="Run again what is in the store already.")]


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs to a dictionary; values are JSON where they parse, else strings.

    Raises:
        ConfigError: If a pair has no `=`.
    """
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

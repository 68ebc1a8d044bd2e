"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.json_files import json_or_text
from MMSA_ext.registry import list_models


def _known_model(name: str) -> str:
    """Refuse a misspelt model at once; what may have a reason not to exist is left to `resolve`."""
    known = [*list_models(), *_mmsa_sections()]
    lower = name.lower()
    may_be_refused = lower.endswith("_infoenh") or any(k.startswith(f"{lower}_") for k in known)
    if lower not in known and not may_be_refused:
        raise ConfigError(f"unknown model {name!r}; {suggest(name, sorted(known))}")
    return name


def _known_dataset(name: str) -> str:
    known = [key for key in _mmsa_sections("datasetCommonParams") if key != "dataset_root_dir"]
    if known and name.lower() not in known:
        raise ConfigError(f"unknown data set {name!r}; {suggest(name, known)}")
    return name


def _mmsa_sections(section: str = "") -> list[str]:
    """Keys of MMSA's configuration file, which says without torch what MMSA knows."""
    found = importlib.util.find_spec("MMSA")
    folders = (found and found.submodule_search_locations) or []
    files = [Path(folder, "config", "config_regression.json") for folder in folders]
    content = json.loads(files[0].read_text(encoding="utf-8")) if files else {}
    return sorted(set(content.get(section, {}) if section else content) - {"datasetCommonParams"})


Model = Annotated[
    str,
    typer.Option("-m", "--model", callback=_known_model, help="Model, see `mmsa-ext list`."),
]
Dataset = Annotated[
    str, typer.Option("-d", "--dataset", callback=_known_dataset, help="mosi, mosei or sims.")
]
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
        ConfigError: If a pair is none, a key is given twice, or a value is JSON without a meaning.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not all(key.split(".")):
            raise ConfigError(f"--set {pair}: write KEY=VALUE, such as --set num_epochs=20.")
        if key in values:
            raise ConfigError(f"--set {key} is given twice; leave one out.")
        values[key] = json_or_text(text, f"--set {key}")
    return values

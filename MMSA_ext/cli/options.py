"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from MMSA_ext.datasets import get_dataset, known_from
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError, MMSAExtError, suggest
from MMSA_ext.json_files import json_or_text
from MMSA_ext.own_models import import_modules
from MMSA_ext.paths import Places, expand, experiment_files, shown, why_no_file, why_no_model
from MMSA_ext.registry import check_names
from MMSA_ext.runs.options import RunOptions

if TYPE_CHECKING:
    from MMSA_ext.records.store import RunStore

_Path = TypeVar("_Path", str, Path, None)
_Name = TypeVar("_Name", str, None)


def known_model(name: _Name) -> _Name:
    """Refuse a misspelt model; one that is not given is left."""
    if name is not None:
        check_names(name.lower())
    return name


def known_dataset(name: _Name) -> _Name:
    """Refuse a misspelt data set; one that is not given is left."""
    if name is not None:
        get_dataset(name)
    return name


def _define_data_sets(context: typer.Context, path: str) -> str:
    """Make the data sets of a file known while the command runs."""
    context.with_resource(known_from(readable("data set file")(path)))
    return path


def given_once(argument: str | None, option: str | None, flag: str, default: str) -> str:
    """What a user gave as an argument or as an option, or else the default."""
    if argument and option and argument.lower() != option.lower():
        raise ConfigError(f"{argument!r} and {flag} {option!r} both name one; leave one out.")
    return argument or option or default


def say_written(paths: Iterable[Path]) -> None:
    """Name the files that a command has written."""
    for path in paths:
        typer.echo(f"written: {path}")


def known_experiment(name: str) -> str:
    """Refuse an experiment that is neither shipped nor a file."""
    if Path(name).suffix == ".json":
        return readable("experiment file")(name)
    if name not in (known := experiment_files()):
        raise ConfigError(f"no experiment {name!r}; {suggest(name, list(known))}")
    return name


def imported(names: list[str] | None) -> list[str] | None:
    """Import modules of the user's models."""
    import_modules(names or ())
    return names


def readable(kind: str, error: type[MMSAExtError] = ConfigError) -> Callable[[_Path], _Path]:
    """Refuse a path that no file of a kind can be read from; one that is not given is left."""

    def check(path: _Path) -> _Path:
        if path and (reason := why_no_file(expand(path), kind)):
            raise error(f"{shown(expand(path))}: {reason}.")
        return path

    return check


Model = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        callback=known_model,
        help="Model, see `mmsa-ext list`. Default: dashfusion.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "-d",
        "--dataset",
        callback=known_dataset,
        help="Data set, see `mmsa-ext list`. Default: mosi.",
    ),
]
DatasetFile = Annotated[
    str,
    typer.Option(
        "--dataset-file",
        is_eager=True,  # before what takes the name of a data set
        callback=_define_data_sets,
        help="JSON file that defines data sets of your own (docs/data.md).",
    ),
]
ModelArgument = Annotated[
    str | None, typer.Argument(metavar="MODEL", callback=known_model, help="As --model.")
]
DatasetArgument = Annotated[
    str | None, typer.Argument(metavar="DATASET", callback=known_dataset, help="As --dataset.")
]
ConfigFile = Annotated[
    str,
    typer.Option(
        "-c", "--config", callback=readable("configuration file"), help="Configuration file."
    ),
]
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
feature_file = readable("feature file", FeatureFileError)


def feature_source(path: _Path) -> _Path:
    """Refuse what is neither a feature file nor a folder, as of shards."""
    return path if path and Path(expand(path)).is_dir() else feature_file(path)


def feature_sources(paths: list[Path] | None) -> list[Path] | None:
    """`feature_source`, of several."""
    for path in paths or ():
        feature_source(path)
    return paths


Text = Annotated[
    str,
    typer.Option("-Ft", "--feature-T", callback=feature_source, help="Feature file for text."),
]
Audio = Annotated[
    str,
    typer.Option("-Fa", "--feature-A", callback=feature_source, help="Feature file for audio."),
]
Vision = Annotated[
    str,
    typer.Option("-Fv", "--feature-V", callback=feature_source, help="Feature file for vision."),
]
Features = Annotated[
    str,
    typer.Option(
        "-f",
        "--features",
        callback=feature_source,
        help="Feature file, or folder of shards, with all three modalities.",
    ),
]


def trained_model(path: Path) -> Path:
    """Refuse what is neither a checkpoint nor a folder, such as a name of the hub."""
    if reason := why_no_model(expand(path)):
        raise CheckpointError(f"{shown(expand(path))}: {reason}.")
    return path


Checkpoint = Annotated[
    Path,
    typer.Argument(
        callback=trained_model, help="Checkpoint written by `run`, or folder of a shared model."
    ),
]


def folder_there(path: _Path) -> _Path:
    """Refuse what is no folder; one that is not given is left."""
    if path and not Path(expand(path)).is_dir():
        raise ConfigError(f"{shown(expand(path))}: no such folder.")
    return path


FrontPadding = Annotated[
    str,
    typer.Option(
        "--front-padding",
        help="Where zeros are in front of the frames: turn moves them behind, keep reads the "
        "frames as they are. Default: such a file is refused.",
    ),
]
AnyRecipe = Annotated[
    bool,
    typer.Option("--any-recipe", help="Take features made otherwise than those of training."),
]
Repeat = Annotated[
    bool,
    typer.Option(
        "--repeat",
        help="Run again what is in the store already; stopped and started again, it starts over.",
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        is_eager=True,  # the names of models are looked at afterwards
        callback=imported,
        help="Import models of your own: the module's name, or its .py file; repeatable.",
    ),
]

Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER",
        help="Log to tensorboard, wandb or mlflow too, below the results (docs/training.md); "
        "repeatable.",
    ),
]


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs to a dictionary; values are JSON where they parse, else strings."""
    values = split_pairs("--set", "num_epochs=20", pairs)
    return {key: json_or_text(text, f"--set {key}") for key, text in values.items()}


def split_pairs(option: str, example: str, pairs: list[str]) -> dict[str, str]:
    """`KEY=TEXT` pairs of an option to a dictionary."""
    values: dict[str, str] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not all(key.split(".")):
            raise ConfigError(f"{option} {pair}: write KEY=VALUE, such as {option} {example}.")
        if key in values:
            raise ConfigError(f"{option} {key} is given twice; leave one out.")
        values[key] = text
    return values


def run_store(res_save_dir: str) -> RunStore:
    """The records in a folder of results, the default one where none is given."""
    from MMSA_ext.records.store import RunStore

    root = Places.resolved(results=res_save_dir or None).results / "runs"
    if not root.is_dir():
        raise ConfigError(
            f"{root}: no such folder, so there are no runs; give the folder that they were saved "
            "to with --res-save-dir."
        )
    return RunStore(root)


def _run_options(
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
    dataset_file: DatasetFile = "",
    imports: Imports = None,
    track: Track = None,
) -> RunOptions:
    return RunOptions(
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
        dataset_file=dataset_file or None,
        imports=imports or (),
        track=track or (),
    )


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take the options of `_run_options`; it is given `options`, which they make."""
    return _taking(command, _run_options, lambda **given: {"options": _run_options(**given)})


def takes_imports(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take `--import`, which has been carried out when the command is."""
    return _taking(command, _imports_alone, lambda **_: {})


def _imports_alone(imports: Imports = None) -> None: ...


def _taking(
    command: Callable[..., None],
    shared_by: Callable[..., Any],
    made: Callable[..., dict[str, Any]],
) -> Callable[..., None]:
    """A command that takes the options of another function, of which it is given what is `made`."""
    shared = inspect.signature(shared_by, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters
    parameters = [*(p for name, p in own.items() if name != "options"), *shared.values()]

    @wraps(command)
    def collected(*arguments: Any, **given: Any) -> None:
        taken = {name: given.pop(name) for name in shared if name in given}
        command(*arguments, **made(**taken), **given)

    collected.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collected.__annotations__ = {p.name: p.annotation for p in parameters}
    return collected

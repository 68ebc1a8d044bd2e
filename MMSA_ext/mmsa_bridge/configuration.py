"""What MMSA is configured for: models, data sets, and the configuration of one on the other."""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from easydict import EasyDict

from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.mmsa_bridge.extension import Kind
from MMSA_ext.mmsa_bridge.registration import CONFIG_FOLDER, registered, stock_datasets

# Models of MMSA that learn from labels of the single modalities too.
UNIMODAL_TASKS = ("mlf_dnn", "mlmf", "mtfn")


@cache
def mmsa_models() -> list[str]:
    """Names of MMSA's own models, sorted."""
    trainers = import_module("MMSA.trains.ATIO").ATIO()
    return sorted(vars(trainers)["TRAIN_MAP"])  # the instance's own map, without additions


def stock_section(model_name: str, kind: Kind = "regression") -> dict[str, Any]:
    """What MMSA's own configuration file says of one of its models; a fresh copy.

    Args:
        model_name: Lower-case name of a model of MMSA.
        kind: Which of MMSA's configuration files.

    Returns:
        `commonParams`, `datasetParams` and, for `tune`, `debugParams`.
    """
    return _model_section(_stock_file(kind), model_name, kind)


def _stock_file(kind: Kind) -> dict[str, Any]:
    path = _path(kind, "")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def is_mmsa_model(name: str) -> bool:
    """Whether `name` (lower case) is a model that MMSA itself ships."""
    return name in mmsa_models()


def supported_datasets(
    model_name: str, kind: Kind = "regression", config_file: str | Path = ""
) -> list[str]:
    """Data sets that a model has a configuration for.

    Args:
        model_name: Lower-case name of a model, of MMSA or added.
        kind: Which of MMSA's configuration files: `regression` or `tune`.
        config_file: File to read in its place.

    Returns:
        Lower-case names, in the file's order.

    Raises:
        ConfigError: If the model is not configured there, or the file is not readable.
    """
    section = _model_section(_read(kind, config_file), model_name, kind)
    return list(section.get("datasetParams", _stock_dataset_names()))


def read_config(
    kind: Kind,
    model_name: str,
    dataset_name: str,
    config_file: str | Path = "",
    **options: Any,
) -> EasyDict:
    """Read the configuration of a model on a data set with MMSA's own reader.

    Args:
        kind: `regression`, or `tune` for a search space.
        model_name: Lower-case name of a model, of MMSA or added.
        dataset_name: Lower-case name of a data set.
        config_file: File in MMSA's schema; empty for the shipped ones.
        options: For `tune`: `random_choice`, whether to draw one point of the space.

    Returns:
        EasyDict with the data set's and the model's keys.

    Raises:
        ConfigError: If the model or the data set is not configured there, with the closest names,
            or the file is not readable.
    """
    known = supported_datasets(model_name, kind, config_file)
    if dataset_name not in known:
        way_out = (
            "its unimodal tasks need labels that MMSA's loader reads on sims alone."
            if model_name in UNIMODAL_TASKS
            else "run it there, or give a configuration file of your own that has one "
            "(config_file, --config)."
        )
        raise ConfigError(
            f"model {model_name!r} has no {kind} configuration for data set {dataset_name!r}, only "
            f"for {', '.join(known)}; {way_out}"
        )
    reader = getattr(import_module("MMSA.config"), f"get_config_{kind}")
    try:
        with registered():
            return reader(model_name, dataset_name, config_file and str(config_file), **options)
    except KeyError as missing:
        raise ConfigError(
            f"{_path(kind, config_file)}: the configuration of {model_name!r} on {dataset_name!r} "
            f"lacks the key {missing}; add it."
        ) from None


def _path(kind: Kind, config_file: str | Path) -> Path:
    return Path(config_file) if config_file else CONFIG_FOLDER / f"config_{kind}.json"


def _read(kind: Kind, config_file: str | Path) -> dict[str, Any]:
    path = _path(kind, config_file)
    try:
        with registered(), path.open(encoding="utf-8") as file:
            return dict(import_module("MMSA.config").json.load(file))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None


def _model_section(content: dict[str, Any], model_name: str, kind: Kind) -> dict[str, Any]:
    models = sorted(set(content) - {"datasetCommonParams"})
    if model_name not in models:
        raise ConfigError(
            f"model {model_name!r} has no {kind} configuration; {suggest(model_name, models)}"
        )
    return dict(content[model_name])


def _stock_dataset_names() -> list[str]:
    return [name for name in stock_datasets() if name != "dataset_root_dir"]

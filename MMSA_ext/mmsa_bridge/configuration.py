"""What MMSA is configured for: models, data sets, and the configuration of one on the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from easydict import EasyDict

from MMSA_ext import mmsa_files
from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.mmsa_bridge.registration import registered
from MMSA_ext.mmsa_files import Kind
from MMSA_ext.paths import shown, why_no_file


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
    return _datasets(_read(kind, config_file), model_name, kind)


def _datasets(file: _File, model_name: str, kind: Kind) -> list[str]:
    if "datasetParams" not in _model_section(file.content, model_name, kind):
        return [name for name in mmsa_files.datasets() if name != "dataset_root_dir"]
    return list(file.section(model_name, "datasetParams"))


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
            the file is not readable, or lacks what MMSA's reader takes out of it.
    """
    file = _read(kind, config_file)
    known = _datasets(file, model_name, kind)
    if dataset_name not in known:
        way_out = (
            "its unimodal tasks need labels that MMSA's loader reads on sims alone."
            if model_name in mmsa_files.UNIMODAL_TASKS
            else "run it there, or give a configuration file of your own that has one "
            "(config_file, --config)."
        )
        raise ConfigError(
            f"model {model_name!r} has no {kind} configuration for data set {dataset_name!r}, only "
            f"for {', '.join(known)}; {way_out}"
        )
    _check_form(file, model_name, dataset_name, kind)
    reader = getattr(import_module("MMSA.config"), f"get_config_{kind}")
    with registered():
        return reader(model_name, dataset_name, config_file and str(config_file), **options)


def _path(kind: Kind, config_file: str | Path) -> Path:
    return Path(config_file) if config_file else mmsa_files.folder() / f"config_{kind}.json"


def _read(kind: Kind, config_file: str | Path) -> _File:
    path = _path(kind, config_file)
    if reason := why_no_file(path, "configuration file"):  # MMSA would wait for a pipe
        raise ConfigError(f"{shown(path)}: {reason}.")
    with registered(), path.open(encoding="utf-8") as file:
        return _File(shown(path), dict(import_module("MMSA.config").json.load(file)))


@dataclass(frozen=True)
class _File:
    """A configuration file and what it says."""

    name: str
    content: dict[str, Any]

    def section(self, *keys: str) -> Mapping[str, Any]:
        """A section, which must be an object.

        Raises:
            ConfigError: Naming the file, the section and the key that it lacks.
        """
        section: Mapping[str, Any] = self.content
        for depth, key in enumerate(keys):
            if key not in section:
                above = ".".join(keys[:depth])
                raise ConfigError(f"{self.name}: section {above} lacks the key {key!r}; add it.")
            section = section[key]
            if not isinstance(section, Mapping):
                raise ConfigError(
                    f"{self.name}: {'.'.join(keys[: depth + 1])} is {section!r:.60}; it must be an "
                    'object of keys and values, {"key": value, ...}.'
                )
        return section


def _check_form(file: _File, model_name: str, dataset_name: str, kind: Kind) -> None:
    """Refuse a file without what MMSA's reader takes out of it for a model on a data set."""
    common = file.section(model_name, "commonParams")
    own: Mapping[str, Any] = {}
    if kind == "regression" or "datasetParams" in file.content[model_name]:
        own = file.section(model_name, "datasetParams", dataset_name)
    if "need_data_aligned" not in common:
        raise ConfigError(
            f"{file.name}: section {model_name}.commonParams lacks the key 'need_data_aligned'; "
            "add it, true or false."
        )
    data = file.section("datasetCommonParams", dataset_name)
    aligned = "aligned" if common["need_data_aligned"] and "aligned" in data else "unaligned"
    stated = file.section("datasetCommonParams", dataset_name, aligned)
    path = {**stated, **common, **own}.get("featurePath")
    root = file.content["datasetCommonParams"].get("dataset_root_dir")
    for name, value in (("featurePath", path), ("dataset_root_dir", root)):
        if not isinstance(value, str):
            raise ConfigError(
                f"{file.name}: section datasetCommonParams has {name} {value!r} for "
                f"{dataset_name!r}; write a path."
            )
    if kind == "tune":
        _check_space(file, model_name)


def _check_space(file: _File, model_name: str) -> None:
    """Refuse a search space without choices; a key with a single value is not searched."""
    space = file.section(model_name, "debugParams")
    searched = space.get("d_paras")
    where = f"{file.name}: section {model_name}.debugParams"
    if not isinstance(searched, list) or not all(isinstance(key, str) for key in searched):
        raise ConfigError(f"{where} needs 'd_paras', a list of the keys that are searched.")
    for key in searched:
        if key not in space:
            raise ConfigError(f"{where} lacks the choices of {key!r}, which d_paras names; add it.")
        choices = space[key] if isinstance(space[key], dict) else {"": space[key]}
        for inner, values in choices.items():
            if values == [] or (inner and not isinstance(values, list)):
                name = f"{key}.{inner}" if inner else key
                raise ConfigError(f"{where}: {name} is {values!r}; give a list of choices.")


def _model_section(content: dict[str, Any], model_name: str, kind: Kind) -> dict[str, Any]:
    models = sorted(set(content) - {"datasetCommonParams"})
    if model_name not in models:
        raise ConfigError(
            f"model {model_name!r} has no {kind} configuration; {suggest(model_name, models)}"
        )
    return dict(content[model_name])

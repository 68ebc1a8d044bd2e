"""Configuration files in MMSA's schema: what they say of a model on a data set.

MMSA's own readers, once this package is registered, say the same (`mmsa_bridge.registration`), of
all models at once; here the module of one model is imported, and errors name the mend.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from easydict import EasyDict
from pydantic import BaseModel

from MMSA_ext import mmsa_files
from MMSA_ext.datasets import DEFINITION, SHIPPED, get_dataset, list_datasets
from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.json_files import read_json
from MMSA_ext.mmsa_files import Kind
from MMSA_ext.paths import config_folder, shown
from MMSA_ext.registry import ModelEntry, get_model, host_of, is_registered, list_models

__all__ = ["defaults", "extension_config", "layers", "read_config", "supported_datasets"]


def read_config(
    kind: Kind,
    model_name: str,
    dataset_name: str,
    config_file: str | Path = "",
    *,
    random_choice: bool = True,
) -> EasyDict:
    """The configuration of a model on a data set.

    Args:
        kind: `regression`, or `tune` for a search space.
        model_name: Lower-case name of a model, of MMSA or added.
        dataset_name: Lower-case name of a data set.
        config_file: File in MMSA's schema; empty for the shipped ones.
        random_choice: Whether to draw one point of a search space, as MMSA does.

    Returns:
        EasyDict with the data set's and the model's keys, as MMSA's reader gives them.

    Raises:
        ConfigError: If the model or the data set is not configured there, with the closest names,
            or the file is not readable or lacks a part.
    """
    file = _file(kind, model_name, config_file)
    common, own = _model_parts(file, model_name, dataset_name, kind)
    stated = _facts(file, model_name, common, dataset_name)
    values = {**stated, **common, **own}
    path, root = values.get("featurePath"), file.content["datasetCommonParams"]["dataset_root_dir"]
    for name, value in (("featurePath", path), ("dataset_root_dir", root)):
        if not isinstance(value, str):
            raise ConfigError(
                f"{file.name}: section datasetCommonParams has {name} {value!r} for "
                f"{dataset_name!r}; write a path."
            )
    if kind == "tune":
        values |= _space(file, model_name, random_choice)
    if path:  # a data set of one's own need not name a file
        values["featurePath"] = os.path.join(root, path)  # noqa: PTH118 (MMSA's)
    if dataset_name not in SHIPPED:
        values[DEFINITION] = get_dataset(dataset_name).definition()
    return EasyDict({"model_name": model_name, "dataset_name": dataset_name, **values})


def layers(
    model_name: str, dataset_name: str, config_file: str | Path = ""
) -> list[tuple[str, Mapping[str, Any]]]:
    """What `read_config` puts together: where it stands, and the keys there; the last counts.

    Arguments and errors are those of `read_config`.
    """
    file = _file("regression", model_name, config_file)
    common, own = _model_parts(file, model_name, dataset_name, "regression")
    where, of_mmsa = shown(config_file), "MMSA's file"
    if not config_file:
        where = "shipped file" if is_registered(model_name) else of_mmsa
    parts = [
        (
            f"{where if config_file else of_mmsa}, facts of {dataset_name}",
            _facts(file, model_name, common, dataset_name),
        ),
        (f"{where}, any data set", common),
        (f"{where}, {dataset_name}", own),
    ]
    host = host_of(model_name)
    if is_registered(model_name) and host is not None and not config_file:
        added = _shipped("regression").get(model_name, {})
        parts[1:] = [
            (f"{of_mmsa}, {host}", {**common, **own}),
            ("default of the variant", defaults(get_model(model_name))),
            (f"{where}, any data set", added.get("commonParams", {})),
            (f"{where}, {dataset_name}", added.get("datasetParams", {}).get(dataset_name, {})),
        ]
    return parts


def supported_datasets(model_name: str) -> list[str]:
    """Data sets that the shipped files configure a model for; its module is not imported.

    Args:
        model_name: Lower-case name of a model, of MMSA or added.

    Raises:
        ConfigError: If there is no such model.
    """
    own = _shipped("regression").get(model_name, {}) if is_registered(model_name) else {}
    configured, host = own.get("datasetParams"), host_of(model_name)
    if host is not None:
        configured = mmsa_files.section(host)["datasetParams"]
    if configured is None:
        return list_datasets()
    like = {name: get_dataset(name).like for name in list_datasets()}
    return [name for name in like if {name, like[name], like[like[name]]} & configured.keys()]


def extension_config(kind: Kind) -> dict[str, Any]:
    """Configuration of all of this package's models, in MMSA's schema."""
    return {name: _own_section(kind, name) for name in list_models()}


def defaults(entry: ModelEntry) -> dict[str, Any]:
    """Defaults of a model's configuration class, as plain values."""
    values = {
        key: field.get_default(call_default_factory=True)
        for key, field in entry.config.model_fields.items()
        if not field.is_required() and key not in ("missing_rate", "missing_seed", DEFINITION)
    }
    return {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in values.items()}


@cache
def _shipped(kind: Kind) -> dict[str, Any]:
    """What the shipped files say; of a search, the other file has all but what is searched."""
    content = read_json(config_folder() / f"config_{kind}.json")
    if kind == "regression":
        return content
    usual = _shipped("regression")
    return {name: {**usual.get(name, {}), **section} for name, section in content.items()}


def _own_section(kind: Kind, name: str) -> dict[str, Any]:
    """What the shipped files say of one of this package's models; a fresh copy.

    A registered model without an entry is configured by the defaults of its configuration class,
    on every data set. A variant of a model of MMSA starts from what MMSA's own file says of the
    host.
    """
    entry, own = get_model(name), copy.deepcopy(_shipped(kind).get(name, {}))
    if entry.host is not None:
        return _variant_section(entry, mmsa_files.section(entry.host, kind), own)
    section: dict[str, Any] = own or {
        "commonParams": defaults(entry),
        "datasetParams": {dataset: {} for dataset in SHIPPED},
        "debugParams": {"d_paras": []},
    }
    for dataset, params in section["datasetParams"].items():
        # MMSA's own are in another order than the files.
        known = SHIPPED[dataset]
        lengths = known.seq_lens or SHIPPED[known.like].seq_lens
        if lengths is not None:
            params.setdefault("seq_lens", list(lengths))
    return section


def _variant_section(
    entry: ModelEntry, host: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    """MMSA's section of the host, the variant's defaults, and on top what our file says."""
    searched = host.get("debugParams", {"d_paras": []})
    added = own.get("debugParams", {"d_paras": []})
    parts = {
        "commonParams": host["commonParams"] | defaults(entry) | own.get("commonParams", {}),
        "debugParams": searched | added | {"d_paras": [*searched["d_paras"], *added["d_paras"]]},
    }
    if "datasetParams" in host:
        datasets = own.get("datasetParams", {})
        parts["datasetParams"] = {
            name: params | datasets.get(name, {}) for name, params in host["datasetParams"].items()
        }
    return parts


@dataclass(frozen=True)
class _File:
    """A configuration file and what it says, a fresh copy."""

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


def _file(kind: Kind, model_name: str, config_file: str | Path) -> _File:
    """What a file says of a model and of the data sets, the rest by the shipped files."""
    if not config_file:
        known = is_registered(model_name)
        section = _own_section(kind, model_name) if known else mmsa_files.section(model_name, kind)
        content = {"datasetCommonParams": mmsa_files.datasets(kind), model_name: section}
        name = shown(mmsa_files.folder() / f"config_{kind}.json")
    else:
        name, content = shown(config_file), mmsa_files.read_sections(config_file)
        if is_registered(model_name) and model_name not in content:
            searched = any("debugParams" in section for section in content.values())
            content[model_name] = _own_section("tune" if searched else "regression", model_name)
        if model_name not in content:
            models = sorted({*content, *list_models()} - {"datasetCommonParams"})
            raise ConfigError(
                f"model {model_name!r} has no {kind} configuration; {suggest(model_name, models)}"
            )
    mmsa_files.complete_datasets(content)
    return _File(name, content)


def _model_parts(
    file: _File, model_name: str, dataset_name: str, kind: Kind
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Keys of a model on any data set, and those on this one."""
    section = file.content[model_name]
    if kind == "regression" or "datasetParams" in section:
        known = list(file.section(model_name, "datasetParams"))
    else:
        known = list_datasets()
    if dataset_name not in known:
        way_out = (
            "its unimodal tasks need labels of the single modalities."
            if model_name in mmsa_files.UNIMODAL_TASKS
            else "run it there, or give a configuration file of your own that has one "
            "(config_file, --config)."
        )
        raise ConfigError(
            f"model {model_name!r} has no {kind} configuration for data set {dataset_name!r}, only "
            f"for {', '.join(known)}; {way_out}"
        )
    common = file.section(model_name, "commonParams")
    if "datasetParams" not in section:
        return common, {}
    return common, file.section(model_name, "datasetParams", dataset_name)


def _facts(
    file: _File, model_name: str, common: Mapping[str, Any], dataset_name: str
) -> Mapping[str, Any]:
    """What is so of a data set, aligned or not as the model wants it."""
    if "need_data_aligned" not in common:
        raise ConfigError(
            f"{file.name}: section {model_name}.commonParams lacks the key 'need_data_aligned'; "
            "add it, true or false."
        )
    there = file.section("datasetCommonParams", dataset_name)
    aligned = "aligned" if common["need_data_aligned"] and "aligned" in there else "unaligned"
    return file.section("datasetCommonParams", dataset_name, aligned)


def _space(file: _File, model_name: str, random_choice: bool) -> dict[str, Any]:
    """The search space, or one point of it; a key with a single value is not searched.

    Raises:
        ConfigError: Of a key without choices.
    """
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
    if not random_choice:
        return dict(space)
    # The draws of MMSA's reader, in its order.
    drawn: dict[str, Any] = copy.deepcopy(dict(space))
    for key in searched:
        if isinstance(drawn[key], dict):
            drawn[key] = {inner: random.choice(values) for inner, values in drawn[key].items()}
        elif isinstance(drawn[key], list):
            drawn[key] = random.choice(drawn[key])
    return drawn

"""From configuration files and overrides to one validated configuration.

Files follow MMSA's schema (`commonParams`, `datasetParams`); overrides are MMSA's `config=`
dictionary. A model of this package binds the result to its typed configuration class, and every
problem is reported at once.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from easydict import EasyDict
from pydantic import BaseModel

from MMSA_ext import mmsa_files
from MMSA_ext.config import mmsa_keys
from MMSA_ext.config.files import read_config
from MMSA_ext.config.schema import ARGUMENTS, PLACES, UNREAD, VariantConfig, problems
from MMSA_ext.data.corruption import normalise
from MMSA_ext.data.front_padding import check_choice
from MMSA_ext.data.scaling import check_scaling, wants_scaling
from MMSA_ext.datasets import DEFINITION, get_dataset
from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.json_files import check_depth
from MMSA_ext.mmsa_files import Kind
from MMSA_ext.paths import expand, expand_given, shown
from MMSA_ext.registry import (
    check_names,
    get_model,
    is_registered,
    trains_in_mmsa,
)
from MMSA_ext.validation import meant


def get_config_regression(
    model_name: str, dataset_name: str, config_file: str | Path | None = ""
) -> EasyDict:
    """Configuration of a model on a data set, for this package's models and MMSA's own.

    Args:
        model_name: Name of the model, any case.
        dataset_name: A data set that is known, any case.
        config_file: File in MMSA's schema; empty for the shipped ones.

    Returns:
        EasyDict with MMSA's keys and the model's.

    Raises:
        ConfigError: If the model, the data set or the file is not known or not readable.
    """
    return _get_config("regression", model_name, dataset_name, config_file)


def get_config_tune(
    model_name: str,
    dataset_name: str,
    config_file: str | Path | None = "",
    random_choice: bool = True,
) -> EasyDict:
    """Search space of a model, or with `random_choice` one random point of it, as MMSA gives it.

    Raises:
        ConfigError: If the model, the data set or the file is not known or not readable.
    """
    return _get_config("tune", model_name, dataset_name, config_file, random_choice=random_choice)


def _get_config(
    kind: Kind,
    model_name: str,
    dataset_name: str,
    config_file: str | Path | None,
    **options: Any,
) -> EasyDict:
    for name, value in (("model_name", model_name), ("dataset_name", dataset_name)):
        if not isinstance(value, str):
            raise ConfigError(
                f"{name} is {value!r:.80}; give a name, such as 'dashfusion' or 'mosi'."
            )
    model, dataset = model_name.lower(), dataset_name.lower()
    check_names(model, dataset)
    path = expand_given(config_file) or ""
    return read_config(kind, model, dataset, path, **options)


def resolve(
    model_name: str,
    dataset_name: str,
    config_file: str | Path | None = "",
    overrides: Mapping[str, Any] | None = None,
    *,
    searched: Mapping[str, list[Any]] | None = None,
) -> EasyDict:
    """Files and overrides to one checked configuration.

    Keys that nothing reads, wrong types and values out of range are reported together. A model of
    this package is bound to its typed class; of MMSA's own models, and variants of them, the keys
    are those that MMSA's code reads. What has the value of the shipped files is let through, so
    that a whole configuration can be given.

    Args:
        model_name: Name of the model, any case.
        dataset_name: A data set that is known, any case.
        config_file: File in MMSA's schema; empty for the shipped ones.
        overrides: Values that replace the file's; nested keys as in `merge`.
        searched: Choices of the keys that a search will set; those that the configuration lacks
            have the first.

    Raises:
        ConfigError: With every problem in one message.
    """
    args = get_config_regression(model_name, dataset_name, config_file)
    args = merge(args, _given(args, overrides))
    try:
        return _settled(args, searched or {}, own_file=bool(config_file))
    except ConfigError as error:
        if not config_file:
            raise
        raise ConfigError(f"with {shown(config_file)}: {error}") from None


def _given(args: EasyDict, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Overrides without those that say what is known, or belong elsewhere."""
    given = _plain_overrides(overrides)
    definition = given.pop(DEFINITION, None)
    if definition is not None and definition != args.get(DEFINITION):
        raise ConfigError(
            f"config: {DEFINITION} is not that of the data set {args.dataset_name!r}, "
            f"{args.get(DEFINITION)}; leave it out, and define data sets by --dataset-file."
        )
    for key in ("model_name", "dataset_name"):
        name = given.pop(key, None)
        if name is not None and str(name).lower() != args[key]:
            raise ConfigError(
                f"config: {key!r} is {name!r:.80} but the run is for {args[key]!r}; leave it out."
            )
    misplaced = sorted(ARGUMENTS & given.keys())
    if misplaced:
        raise ConfigError(
            f"config: {', '.join(misplaced)} would have no effect here; pass it as an argument of "
            "MMSA_run (the device as gpu_ids, the checkpoint's folder as model_save_dir, the seed "
            "as seeds)."
        )
    root = given.pop("dataset_root_dir", None)
    if root is not None and "featurePath" not in given:
        given["featurePath"] = str(Path(expand(root), _relative_feature_path(args)))
    return given


def _settled(args: EasyDict, searched: Mapping[str, list[Any]], *, own_file: bool) -> EasyDict:
    """`checked`, once what is no key of a model is taken out, and first choices are put in."""
    mode = args.pop("train_mode", "regression")
    if mode != "regression":
        raise ConfigError(
            f"train_mode is {mode!r:.80}; models are trained for regression here, and scored for "
            "classes by rounding (docs/protocol.md): leave it out."
        )
    drawn = args.pop("d_paras", None) is not None
    if args.featurePath:
        args.featurePath = expand(args.featurePath)
    corruption = normalise(args.pop("corruption", None))
    if corruption is not None:
        args.corruption = corruption
    check_choice(args.get("front_padding"))
    _settle_options(args)
    args = merge(merge({}, {key: choices[0] for key, choices in searched.items()}), args)
    if own_file and (idle := unread(args, searched)):
        name = str(args.model_name)
        told = f"is searched (d_paras), but {name} does not read it; take it out"
        if trains_in_mmsa(name):
            raise problems(name, [f"{key}: {told}" for key in idle])
        cls = get_model(name).config
        raise problems(name, [f"{key}: {told}, or {meant(key, cls)}" for key in idle])
    return checked(args, drawn=drawn or bool(searched))


def _settle_options(args: EasyDict) -> None:
    """Of models in MMSA's loop these keys are there only if they ask for something."""
    if "feature_scaling" in args:
        check_scaling(args.feature_scaling)
    if not trains_in_mmsa(str(args.model_name)):
        return
    if not wants_scaling(args):
        args.pop("feature_scaling", None)
    if args.get("fast") is False:
        args.pop("fast")


def checked(args: EasyDict, *, drawn: bool = False) -> EasyDict:
    """A complete configuration, if it can be used; values that it leaves open are filled in.

    Args:
        args: The configuration; changed.
        drawn: Whether its values may be those of a search space of MMSA.

    Raises:
        ConfigError: With every problem in one message.
    """
    name = str(args.model_name)
    if trains_in_mmsa(name):
        found = mmsa_keys.problems(args, drawn=drawn)
    else:
        usual = mmsa_files.facts(get_dataset(args.dataset_name))["unaligned"]
        found = [
            f"{key}: {name} does not read it; leave it at {usual[key]!r} (given: {args[key]!r:.80})"
            for key in UNREAD
            if args.get(key, usual[key]) != usual[key]
        ]
    if found:
        raise problems(name, found)
    if is_registered(name):
        bound = get_model(name).config.from_args(args)
        args.update(bound.keys())
        if isinstance(bound, VariantConfig):
            bound.check(args)
    return args


def unread(args: Mapping[str, Any], keys: Collection[str]) -> list[str]:
    """Those of some keys that a configured model does not read, sorted; nested ones have a dot."""
    name = str(args["model_name"])
    if trains_in_mmsa(name):
        return mmsa_keys.unread(args, keys)
    known = get_model(name).config.model_fields.keys() - set(UNREAD)
    return sorted(key for key in keys if key.partition(".")[0] not in known)


def check_replaces(overrides: Mapping[str, Any] | None, configuration: Mapping[str, Any]) -> None:
    """Refuse overrides of a trained model's configuration that replace nothing in it.

    What its model is configured by may be added where the checkpoint lacks it.

    Raises:
        ConfigError: Naming a key that it does not have, with the closest.
    """
    known = {*configuration}
    with suppress(ConfigError):
        name, dataset = (str(configuration.get(key)) for key in ("model_name", "dataset_name"))
        known |= get_config_regression(name, dataset).keys()
    options = {*PLACES, *mmsa_keys.OPTIONS, "d_paras"}
    given = {key.partition(".")[0] for key in _plain_overrides(overrides)}
    unknown = sorted(given - known - options)
    if unknown:
        raise ConfigError(
            f"config: the checkpoint's configuration has no key {unknown[0]!r:.80}; "
            + suggest(unknown[0], sorted(known))
        )


def _plain_overrides(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Overrides as plain values: paths as texts, numpy's numbers and arrays as Python's.

    Raises:
        ConfigError: If they are no dictionary with texts for keys.
    """
    if not isinstance(overrides, Mapping | None):
        raise ConfigError(f"config is {overrides!r:.80}; give a dictionary of keys and values.")
    check_depth(overrides, "config")
    return {key: _plain(value) for key, value in (overrides or {}).items() if _is_key(key)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if _is_key(key)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise ConfigError(
        f"config: {value!r:.80} is a {type(value).__name__}; values are numbers, texts, true, "
        "false, null, and lists and dictionaries of these."
    )


def _is_key(key: object) -> bool:
    if isinstance(key, str):
        return True
    raise ConfigError(f"config: {key!r:.80} is no key; keys are texts.")


def merge(args: Mapping[str, Any], overrides: Mapping[str, Any]) -> EasyDict:
    """A configuration with some of its values replaced.

    Nested keys are reached by nested dictionaries, `{"infoenh": {"k": 4}}`, or by a dot,
    `{"infoenh.k": 4}`; the values beside them stay. None in place of a nested dictionary turns off
    what it configures.

    Returns:
        A copy.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(args))
    for path, value in overrides.items():
        key, _, rest = path.partition(".")
        given = {rest: value} if rest else value
        if isinstance(given, Mapping):
            below = merged.get(key)
            given = merge(below if isinstance(below, Mapping) else {}, given)
        merged[key] = given
    return EasyDict(merged)


def _relative_feature_path(args: EasyDict) -> str:
    """The feature file below the data root, as MMSA's files name it."""
    return "/".join(Path(args.featurePath).parts[-3:])  # <DATA SET>/Processed/<file>


def identity_config(args: Any) -> dict[str, Any]:
    """The part of a configuration that decides the numbers: plain JSON, without places."""
    plain = {key: value for key, value in dict(args).items() if key not in PLACES}
    for key in (*mmsa_keys.OPTIONS, DEFINITION):
        if plain.get(key) is None:
            plain.pop(key, None)  # not every model's configuration has the key
    return dict(json.loads(json.dumps(plain, default=str)))

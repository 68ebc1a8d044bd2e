"""Configurations of models that train in MMSA's loop, against what MMSA's code makes of them.

MMSA takes any key, and of most says nothing: a key that nothing reads has no effect, one that is
missing or does not fit ends in an error of torch, or of Python, inside a model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from MMSA_ext import mmsa_bridge, mmsa_files
from MMSA_ext.catalogue import FAST
from MMSA_ext.config.files import read_config, supported_datasets
from MMSA_ext.config.schema import FACTS, STEP_OPTIONS
from MMSA_ext.datasets import DEFINITION, Dataset, get_dataset
from MMSA_ext.errors import ConfigError, MMSAExtError, suggest
from MMSA_ext.registry import ModelEntry, get_model, host_of, is_registered, refusal
from MMSA_ext.validation import integer

# Options of this package that every model takes, and that MMSA knows nothing of.
OPTIONS = ("corruption", "front_padding", "num_epochs", "feature_scaling", "fast")
# Keys of every configuration that this package reads, whoever's model it is.
_READ_HERE = ("model_name", "dataset_name", DEFINITION, *OPTIONS, *FACTS)
# What a run adds to the configuration before MMSA sees it.
_ADDED = frozenset({"device", "model_save_path", "train_mode", "cur_seed", "custom_feature"}) | {
    f"feature_{modality}" for modality in "TAV"
}
# Arguments of their own.
_GIVEN = frozenset({"model_name", "dataset_name"})


def _host(model_name: str) -> str:
    """The model of MMSA whose code reads the configuration."""
    return host_of(model_name) or model_name


def own_keys(model_name: str) -> frozenset[str]:
    """Keys that a variant adds to its host's."""
    return frozenset(get_model(model_name).config.model_fields if is_registered(model_name) else ())


def problems(args: Mapping[str, Any], *, drawn: bool = False) -> list[str]:
    """What is wrong with a configuration, one sentence a key; a variant's own keys aside.

    Args:
        args: The complete configuration.
        drawn: Whether its values may be those of a search space of MMSA.
    """
    model, host = str(args["model_name"]), _host(str(args["model_name"]))
    read = mmsa_bridge.keys_read(host, args)
    shipped, known = mmsa_bridge.shipped_values(host), _shipped(args, drawn)
    own = own_keys(model)
    found = _cap_problems(args) + _fast_problems(args)
    for key, value in args.items():
        if key in own or key in OPTIONS:
            continue
        nested = any(path.startswith(f"{key}.") for path in shipped)
        if nested and not isinstance(value, Mapping):
            found.append(f"{key}: give an object of keys and values (given: {value!r:.80})")
            continue
        values = mmsa_bridge.leaves({key: value}) if nested else [(key, value)]
        for path, given in values:
            if not (key in _READ_HERE or read.reads(path)):
                if not any(_same(given, usual) for usual in known.get(path, ())):
                    found.append(f"{path}: {_unread(path, args, read, known)}")
            elif mend := mmsa_bridge.misfit(path, given, shipped.get(path, [])):
                found.append(f"{path}: {mend} (given: {given!r:.80})")
    if args.get("KeyEval") == "MAE":
        told = "MMSA's loop takes the highest value of all but Loss, of MAE the worst; use Loss"
        found.append(f"KeyEval: {told} (given: 'MAE')")
    there = {path for path, _ in mmsa_bridge.leaves(args)} | args.keys() | _ADDED
    found += [
        f"{path}: is missing; {_add(path, args, host, known)}"
        for path in sorted(read.needed - there)
    ]
    return found


def _cap_problems(args: Mapping[str, Any]) -> list[str]:
    """What is wrong with `num_epochs`, which is this package's: MMSA's loops have no such cap."""
    cap = args.get("num_epochs")
    if cap is None or (integer(cap) or 0) >= 1:
        return []
    return [f"num_epochs: give a whole number from 1, or null for no cap (given: {cap!r:.80})"]


def _fast_problems(args: Mapping[str, Any]) -> list[str]:
    """What is wrong with `fast`, which is this package's: only some models have such a form."""
    fast, host = args.get("fast"), _host(str(args["model_name"]))
    if not isinstance(fast, bool | None):
        return [f"fast: give true or false (given: {fast!r:.80})"]
    if fast and host not in FAST:
        named = ", ".join(sorted(FAST))
        return [f"fast: there is no faster form of {host}; leave it out ({named} have one)"]
    return []


def unread(args: Mapping[str, Any], keys: Collection[str]) -> list[str]:
    """Those of some keys, nested ones joined by a dot, that nothing reads, sorted."""
    model = str(args["model_name"])
    read, own = mmsa_bridge.keys_read(_host(model), args), own_keys(model) | set(_READ_HERE)
    return sorted(k for k in keys if k.partition(".")[0] not in own and not read.reads(k))


def _shipped(args: Mapping[str, Any], drawn: bool) -> dict[str, list[Any]]:
    """Values that the shipped files give to keys, which say nothing of what the user wants."""
    model, dataset = str(args["model_name"]), str(args["dataset_name"])
    entry = get_model(model) if is_registered(model) else None
    own = None if drawn else _shipped_for(model, get_dataset(dataset), entry)
    return dict(mmsa_bridge.shipped_values(_host(model))) if own is None else own


@cache
def _shipped_for(
    model: str, dataset: Dataset, entry: ModelEntry | None
) -> dict[str, list[Any]] | None:
    """Values of the shipped file for a model, whose entry tells it from one of the same name."""
    if dataset.name not in supported_datasets(model):
        return None
    values = mmsa_bridge.leaves(read_config("regression", model, dataset.name))
    return {path: [value] for path, value in values}


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_same, value, other))
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _unread(
    path: str,
    args: Mapping[str, Any],
    read: mmsa_bridge.KeysRead,
    known: Mapping[str, list[Any]],
) -> str:
    """Why a key has no effect, and what may be meant."""
    model, (key, _, inner) = str(args["model_name"]), path.partition(".")
    if deciding := read.otherwise.get(path, read.otherwise.get(key)):
        decided = ", ".join(f"{name}={args.get(name)!r}" for name in sorted(deciding))
        return f"{model} does not read it with {decided}; leave it out, or change that"
    if path in known:
        return f"{model} does not read it; leave it at {known[path][0]!r}, as in the shipped file"
    if key in STEP_OPTIONS:
        return (
            f"{model} trains in MMSA's own loop, which computes as MMSA does; leave it out "
            "(this package's own models have it)"
        )
    if key == "infoenh":
        variant = f"{model}_infoenh"
        reason = f"{model} is MMSA's model alone; run {variant}"
        return reason if is_registered(variant) else refusal(variant) or reason
    if inner and any(name.startswith(f"{key}.") for name in read.read):
        names = sorted(n.partition(".")[2] for n in read.read if n.startswith(f"{key}."))
        return f"no such key; {suggest(inner, names)}"
    own = own_keys(model)
    nested = [f"{outer}.{name}" for outer in own for name in _keys_of(args.get(outer))]
    if meant := [name for name in nested if name.endswith(f".{key}")]:
        return f"{model} has no such key; did you mean {' or '.join(meant)}?"
    names = sorted({*read.names, *own, *OPTIONS, "featurePath"} - _ADDED - _GIVEN)
    return f"{model} has no such key; {suggest(key, names)}"


def _keys_of(value: object) -> Collection[str]:
    return value.keys() if isinstance(value, Mapping) else ()


def _add(path: str, args: Mapping[str, Any], host: str, known: Mapping[str, list[Any]]) -> str:
    """Where a missing key belongs, and what MMSA has there."""
    model, dataset = str(args["model_name"]), str(args["dataset_name"])
    common = path.partition(".")[0] in mmsa_files.section(host)["commonParams"]
    section = f"{model}.{'commonParams' if common else f'datasetParams.{dataset}'}"
    usual = known.get(path)
    example = f" (MMSA's file has {usual[0]!r})" if usual else ""
    return f"MMSA's {host} reads it; add it to section {section}, or to config={example}"


@contextmanager
def explained(args: Mapping[str, Any]) -> Iterator[None]:
    """Name the values that were changed, where MMSA's own code fails with them.

    Raises:
        ConfigError: In place of an error of MMSA's or torch's, if the configuration differs from
            the shipped one in keys that are read.
    """
    try:
        yield
    except (MMSAExtError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        changed = _changed(args)
        if not changed:
            raise
        raise ConfigError(
            f"{args['model_name']} fails with this configuration ({type(error).__name__}: {error})."
            f" It differs from the shipped one in {', '.join(changed)}: set that back, or give "
            "values that fit together."
        ) from error


def _changed(args: Mapping[str, Any]) -> list[str]:
    model = str(args["model_name"])
    own, read = own_keys(model), mmsa_bridge.keys_read(_host(model), args)
    known = _shipped(args, drawn=False)
    return [
        f"{path}={value!r:.60}"
        for path, value in mmsa_bridge.leaves(args)
        if path.partition(".")[0] not in {*own, *_READ_HERE, *_ADDED, "pretrained", "KeyEval"}
        and read.reads(path)
        and not any(_same(value, usual) for usual in known.get(path, ()))
    ]

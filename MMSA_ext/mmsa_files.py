"""MMSA's own configuration files, read as data: neither MMSA nor torch is imported for them."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal

from MMSA_ext.datasets import SHIPPED, Dataset, get_dataset, list_datasets
from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.json_files import read_json
from MMSA_ext.paths import DATA_ROOT_VARIABLE, expand, shown

__all__ = [
    "UNIMODAL_TASKS",
    "Kind",
    "complete_datasets",
    "datasets",
    "facts",
    "folder",
    "is_model",
    "models",
    "read_sections",
    "section",
]

Kind = Literal["regression", "tune"]

# Models of MMSA that learn from labels of the single modalities too.
UNIMODAL_TASKS = ("mlf_dnn", "mlmf", "mtfn")

_DATA = "datasetCommonParams"
# Keys of models that cut labels which they generate at plus and minus this: self_mm's, and tetfn's.
_LABEL_LIMITS = ("H", "label_limit")


def folder() -> Path:
    """Where MMSA's configuration files are.

    Raises:
        ConfigError: If MMSA is not installed.
    """
    found = importlib.util.find_spec("MMSA")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("MMSA is not installed; install it with `pip install MMSA==2.2.1`.")
    return Path(found.submodule_search_locations[0], "config")


@cache
def _content(kind: Kind) -> dict[str, Any]:
    return dict(json.loads((folder() / f"config_{kind}.json").read_text(encoding="utf-8")))


def models() -> list[str]:
    """Names of MMSA's own models, sorted."""
    return sorted(_content("regression").keys() - {_DATA})


def is_model(name: str) -> bool:
    """Whether `name` (lower case) is a model that MMSA itself ships."""
    return name != _DATA and name in _content("regression")


def datasets(kind: Kind = "regression") -> dict[str, Any]:
    """`datasetCommonParams` of one of MMSA's configuration files; a fresh copy."""
    return copy.deepcopy(dict(_content(kind)[_DATA]))


def facts(dataset: Dataset) -> dict[str, Any]:
    """What MMSA's files say of a data set, or would say; a fresh copy.

    Returns:
        Under `unaligned` and, of an aligned one, `aligned`: the feature file, an empty text if none
        is named, and shapes, which stand in until the file is read where they are not known.
    """
    known = datasets()
    if dataset.name in known:
        return dict(known[dataset.name])
    shapes = {"seq_lens": dataset.seq_lens, "feature_dims": dataset.feature_dims}
    form = {
        **known.get(dataset.like, known[SHIPPED[dataset.like].like])["unaligned"],
        "featurePath": dataset.features or "",
        "language": dataset.language,
        **{key: list(value) for key, value in shapes.items() if value is not None},
    }
    return {"unaligned": form} | ({"aligned": copy.deepcopy(form)} if dataset.aligned else {})


def section(model_name: str, kind: Kind = "regression") -> dict[str, Any]:
    """What MMSA's own configuration file says of one of its models; a fresh copy.

    Args:
        model_name: Lower-case name of a model of MMSA.
        kind: Which of MMSA's configuration files.

    Returns:
        `commonParams`, `datasetParams` and, for `tune`, `debugParams`.

    Raises:
        ConfigError: If the file does not have it.
    """
    known = sorted(_content(kind).keys() - {_DATA})
    if model_name not in known:
        raise ConfigError(
            f"model {model_name!r} has no {kind} configuration; {suggest(model_name, known)}"
        )
    return copy.deepcopy(dict(_content(kind)[model_name]))


def read_sections(path: str | Path) -> dict[str, Any]:
    """A user's file in MMSA's schema.

    Raises:
        ConfigError: If it is not readable, or a part of it is no object.
    """
    content = read_json(path)
    for name, keys in content.items():
        if not isinstance(keys, dict):
            raise ConfigError(
                f"{shown(path)}: is not a configuration in MMSA's schema: {name} is {keys!r:.60}; "
                f"it must be an object, as every model and `{_DATA}`."
            )
    return content


def complete_datasets(content: dict[str, Any]) -> None:
    """Add the data sets that a file does not define, and how it configures models on them.

    On a data set that it says nothing of, a model has its values on the one that it is `like`.
    MMSA's root folder of the data, which exists on its authors' machine, becomes the user's.
    """
    known, usual = content.setdefault(_DATA, {}), datasets()
    known.setdefault("dataset_root_dir", usual["dataset_root_dir"])
    for dataset in map(get_dataset, list_datasets()):
        known.setdefault(dataset.name, facts(dataset))
        for section in content.values():
            params = section.get("datasetParams") if isinstance(section, dict) else None
            if isinstance(params, dict) and isinstance(params.get(dataset.like), dict):
                params.setdefault(dataset.name, _like(params[dataset.like], dataset))
    root = os.environ.get(DATA_ROOT_VARIABLE)
    if root and known["dataset_root_dir"] == usual["dataset_root_dir"]:
        known["dataset_root_dir"] = expand(root)


def _like(values: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    """A model's values on a data set that has those of another, but its own scale of labels."""
    own: dict[str, Any] = {}
    if dataset.label_range != SHIPPED[dataset.like].label_range:
        own |= dict.fromkeys(_LABEL_LIMITS, max(map(abs, dataset.label_range)))
    if dataset.seq_lens is not None:
        own["seq_lens"] = list(dataset.seq_lens)
    if dataset.classes is not None:
        own["contrast_classes"] = "borders"
    return {key: own.get(key, value) for key, value in copy.deepcopy(values).items()}

"""Make MMSA know the models of this package, and forget them again."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from MMSA_ext import mmsa_files
from MMSA_ext.errors import ConfigError
from MMSA_ext.json_files import read_json
from MMSA_ext.mmsa_bridge.extension import Extension
from MMSA_ext.mmsa_bridge.feature_reading import read_features_safely
from MMSA_ext.mmsa_bridge.patching import ModuleProxy, replace_attribute
from MMSA_ext.mmsa_bridge.shims import apply_shims
from MMSA_ext.paths import DATA_ROOT_VARIABLE, expand, shown


@dataclass(frozen=True)
class _Registration:
    """A registration in force: how to undo it, and what it added."""

    undo: ExitStack
    extension: Extension
    stock_names: tuple[str, ...]


_registration: _Registration | None = None
_ours: Extension | None = None


def introduce(extension: Extension) -> None:
    """Say what `register` adds where nothing else is given, and register it."""
    global _ours
    _ours = extension
    register()


def register(extension: Extension | None = None) -> None:
    """Let MMSA know this package's models, and run on current libraries.

    Afterwards `MMSA_run`, also MMSA's own and also one imported earlier, accepts the added models;
    so do `get_config_regression`, `get_config_tune`, `get_config_all` and `get_citations`;
    `SUPPORTED_MODELS` lists them; `MMSA.MMSA_run` and `MMSA.MMSA_test` are this package's. Feature
    files are unpickled safely and the shims of `shims.py` hold. A second call changes nothing but
    brings `SUPPORTED_MODELS` up to date.

    `python -m MMSA` neither imports this package nor reads `SUPPORTED_MODELS`: the command line for
    the added models is `mmsa-ext`.

    Args:
        extension: What to add; by default what was introduced, which is this package.
    """
    global _registration
    if _registration is None:
        added = extension or _ours
        assert added is not None, "MMSA_ext/__init__.py introduces it once MMSA is imported"
        _registration = _patch_mmsa(added)
    _list_models(_registration)


def unregister() -> None:
    """Restore MMSA exactly as it was before `register`; without registration, do nothing."""
    global _registration
    if _registration is not None:
        _registration.undo.close()
        _registration = None


def is_registered() -> bool:
    """Whether `register` is in force."""
    return _registration is not None


@contextmanager
def registered() -> Iterator[None]:
    """Inside, `register` is in force; at the end it is in force only if it was before."""
    before = is_registered()
    register()
    try:
        yield
    finally:
        if not before:
            unregister()


def _patch_mmsa(extension: Extension) -> _Registration:
    supported: list[str] = import_module("MMSA.run").SUPPORTED_MODELS
    stock_names = tuple(supported)
    with ExitStack() as undo:
        apply_shims(undo)
        read_features_safely(undo)
        _extend_class_maps(undo, extension)
        _extend_configuration(undo, extension)
        _replace_entry_points(undo, extension)
        undo.callback(supported.__setitem__, slice(None), stock_names)
        return _Registration(undo.pop_all(), extension, stock_names)


def _list_models(registration: _Registration) -> None:
    """Change the one list that both `MMSA` and `MMSA.run` hold, in place."""
    names = registration.extension.list_models()
    import_module("MMSA.run").SUPPORTED_MODELS[:] = [*registration.stock_names, *names]


class _ExtendedMap:
    """Attribute whose instances see the dictionary they were given plus the added models.

    `AMIO` and `ATIO` build their maps inside `__init__`, where nothing can be added; a data
    descriptor on the class stands before the instance's attribute.
    """

    def __init__(self, name: str, added: Callable[[], dict[str, Callable[[Any], Any]]]) -> None:
        self._name = name
        self._added = added

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        return {**self._added(), **vars(instance)[self._name]}

    def __set__(self, instance: object, value: dict[str, Callable[[Any], Any]]) -> None:
        vars(instance)[self._name] = value


def _extend_class_maps(undo: ExitStack, extension: Extension) -> None:
    def builders() -> dict[str, Callable[[Any], Any]]:
        return {name: extension.get_model(name).build for name in extension.list_models()}

    def trainers() -> dict[str, Callable[[Any], Any]]:
        return {name: extension.get_model(name).trainer for name in extension.list_models()}

    model_class = import_module("MMSA.models.AMIO").AMIO
    trainer_class = import_module("MMSA.trains.ATIO").ATIO
    replace_attribute(undo, model_class, "MODEL_MAP", _ExtendedMap("MODEL_MAP", builders))
    replace_attribute(undo, trainer_class, "TRAIN_MAP", _ExtendedMap("TRAIN_MAP", trainers))


def _extend_configuration(undo: ExitStack, extension: Extension) -> None:
    """Merge the extension into every JSON file that `MMSA.config` reads.

    The readers take `json` from their module's globals, so that this reaches them also where they
    were imported before.
    """

    def load(file: IO[str]) -> Any:
        content = read_json(file.name)  # MMSA opened it in whatever encoding this machine prefers
        for section, keys in content.items():
            if not isinstance(keys, dict):
                raise ConfigError(
                    f"{shown(file.name)}: is not a configuration in MMSA's schema: {section} is "
                    f"{keys!r:.60}; it must be an object, as every model and `datasetCommonParams`."
                )
        if Path(file.name).resolve() == (mmsa_files.folder() / "citations.json").resolve():
            _add_citations(content["models"], extension)
        else:
            _add_models(content, extension)
            _set_data_root(content["datasetCommonParams"])
        return content

    replace_attribute(undo, import_module("MMSA.config"), "json", ModuleProxy(json, load=load))


def _add_models(content: dict[str, Any], extension: Extension) -> None:
    """Add what the file does not define itself: models, and data sets."""
    tuned = any(isinstance(part, dict) and "debugParams" in part for part in content.values())
    added = copy.deepcopy(dict(extension.configuration("tune" if tuned else "regression")))
    datasets = {**mmsa_files.datasets(), **added.pop("datasetCommonParams", {})}
    for model, parameters in added.items():
        content.setdefault(model, parameters)
    known = content.setdefault("datasetCommonParams", {})
    for dataset, parameters in datasets.items():
        known.setdefault(dataset, parameters)


def _set_data_root(datasets: dict[str, Any]) -> None:
    """Point MMSA's built-in root folder, which exists on its authors' machine, to the user's."""
    root = os.environ.get(DATA_ROOT_VARIABLE)
    if root and datasets["dataset_root_dir"] == mmsa_files.datasets()["dataset_root_dir"]:
        datasets["dataset_root_dir"] = expand(root)


def _add_citations(models: dict[str, Any], extension: Extension) -> None:
    for name in extension.list_models():
        paper = extension.get_model(name).paper
        url = re.search(r"https?://\S+", paper)
        models.setdefault(
            name.upper(),
            {
                "title": paper,
                "paper_url": url.group() if url else "",
                "citation": "",
                "description": "",
            },
        )


def _replace_entry_points(undo: ExitStack, extension: Extension) -> None:
    """Replace the package's `MMSA_run` and `MMSA_test`; `MMSA.run` keeps MMSA's own."""
    package = import_module("MMSA")
    for name, function in (("MMSA_run", extension.run), ("MMSA_test", extension.test)):
        replace_attribute(undo, package, name, _in_place_of(getattr(package, name), function))


def _in_place_of(stock: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(stock)
    def replacement(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return replacement

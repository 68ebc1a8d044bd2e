"""Make MMSA know the models of this package, and forget them again."""

from __future__ import annotations

import copy
import json
import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from MMSA_ext import mmsa_files
from MMSA_ext.mmsa_bridge.data_sets import know_data_sets
from MMSA_ext.mmsa_bridge.extension import Extension
from MMSA_ext.mmsa_bridge.feature_reading import read_features_safely
from MMSA_ext.mmsa_bridge.patching import ModuleProxy, replace_attribute
from MMSA_ext.mmsa_bridge.shims import apply_shims


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


def in_force() -> bool:
    """Whether `register` is in force."""
    return _registration is not None


@contextmanager
def registered() -> Iterator[None]:
    """Inside, `register` is in force; at the end it is in force only if it was before."""
    before = in_force()
    register()
    try:
        yield
    finally:
        if not before:
            unregister()


def building(args: Any) -> AbstractContextManager[None]:
    """Inside, MMSA builds a model of `args` as the registration in force wants it."""
    assert _registration is not None
    return _registration.extension.building(args)


def _patch_mmsa(extension: Extension) -> _Registration:
    supported: list[str] = import_module("MMSA.run").SUPPORTED_MODELS
    stock_names = tuple(supported)
    with ExitStack() as undo:
        apply_shims(undo)
        read_features_safely(undo)
        know_data_sets(undo)
        _extend_class_maps(undo, extension)
        _extend_configuration(undo, extension)
        _replace_entry_points(undo, extension)
        undo.callback(supported.__setitem__, slice(None), stock_names)
        return _Registration(undo.pop_all(), extension, stock_names)


def _list_models(registration: _Registration) -> None:
    """Change the one list that both `MMSA` and `MMSA.run` hold, in place."""
    names = registration.extension.list_models()
    import_module("MMSA.run").SUPPORTED_MODELS[:] = [*registration.stock_names, *names]


class _AddedMap(Mapping[str, Callable[[Any], Any]]):
    """Builders or trainers of the added models; of a model that is not asked for nothing is."""

    def __init__(self, extension: Extension, attribute: str) -> None:
        self._extension, self._attribute = extension, attribute

    def __getitem__(self, name: str) -> Callable[[Any], Any]:
        if name not in self._extension.list_models():
            raise KeyError(name)
        found: Callable[[Any], Any] = getattr(self._extension.get_model(name), self._attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._extension.list_models())

    def __len__(self) -> int:
        return len(list(self))


class _ExtendedMap:
    """Attribute whose instances see the dictionary they were given, then the added models.

    `AMIO` and `ATIO` build their maps inside `__init__`, where nothing can be added; a data
    descriptor on the class stands before the instance's attribute.
    """

    def __init__(self, name: str, added: _AddedMap) -> None:
        self._name, self._added = name, added

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self
        return ChainMap(vars(instance)[self._name], self._added)  # type: ignore[arg-type]

    def __set__(self, instance: object, value: dict[str, Callable[[Any], Any]]) -> None:
        vars(instance)[self._name] = value


def _extend_class_maps(undo: ExitStack, extension: Extension) -> None:
    for home, owner, name, attribute in (
        ("MMSA.models.AMIO", "AMIO", "MODEL_MAP", "build"),
        ("MMSA.trains.ATIO", "ATIO", "TRAIN_MAP", "trainer"),
    ):
        extended = _ExtendedMap(name, _AddedMap(extension, attribute))
        replace_attribute(undo, getattr(import_module(home), owner), name, extended)


def _extend_configuration(undo: ExitStack, extension: Extension) -> None:
    """Merge the extension into every JSON file that `MMSA.config` reads.

    The readers take `json` from their module's globals, so that this reaches them also where they
    were imported before.
    """

    def load(file: IO[str]) -> Any:
        # MMSA opened it in whatever encoding this machine prefers.
        content = mmsa_files.read_sections(file.name)
        if Path(file.name).resolve() == (mmsa_files.folder() / "citations.json").resolve():
            _add_citations(content["models"], extension)
            return content
        tuned = any("debugParams" in section for section in content.values())
        for model, section in extension.configuration("tune" if tuned else "regression").items():
            content.setdefault(model, copy.deepcopy(section))
        mmsa_files.complete_datasets(content)
        return content

    replace_attribute(undo, import_module("MMSA.config"), "json", ModuleProxy(json, load=load))


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

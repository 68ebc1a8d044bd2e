"""The registry of models: one decorator makes a model known everywhere.

A registered model is accepted by `MMSA_run`, by MMSA itself (through `mmsa_bridge`), by the command
line, and is tested by the parametrised test suite, which reads `list_models()`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from MMSA_ext import models
from MMSA_ext.errors import ConfigError, suggest

if TYPE_CHECKING:
    from torch import nn

    from MMSA_ext.config.schema import RunConfig, VariantConfig

Builder = Callable[[Any], "nn.Module"]


@dataclass(frozen=True)
class ModelEntry:
    """What the package knows of one model.

    Attributes:
        name: Lower-case name, as given to `MMSA_run`.
        build: Makes the model from MMSA's `args` (an EasyDict with every configuration key).
        config: Typed configuration; its fields are the keys that the model accepts.
        trainer: Class with MMSA's trainer contract (`do_train`, `do_test`).
        paper: Title and place of the paper.
        host: MMSA's model whose trainer, batches and configuration this one uses: a variant of it.
            None for models on this package's trainer.
    """

    name: str
    build: Builder
    config: type[RunConfig] | type[VariantConfig]
    trainer: type
    paper: str
    host: str | None = None


# One of the package's own is None until its module is imported, when it is first looked up.
_MODELS: dict[str, ModelEntry | None] = dict.fromkeys(models.HOMES)
_REFUSED: dict[str, str] = {}


def register_model(
    name: str,
    *,
    config: type[RunConfig] | type[VariantConfig],
    trainer: type,
    paper: str,
    host: str | None = None,
) -> Callable[[Builder], Builder]:
    """Register the decorated builder as model `name`.

    Args:
        name: Lower-case name of the model.
        config: Typed configuration class of the model.
        trainer: Trainer class, see `MMSA_ext.training.trainer.Trainer`.
        paper: Title and place of the paper, shown by `mmsa-ext list` and MMSA's citations.
        host: For a variant of one of MMSA's models: that model. `trainer` is MMSA's then, the
            batches and the configuration that `config` does not name too.

    Returns:
        A decorator that leaves the builder as it is.

    Raises:
        ConfigError: If the name is taken, by MMSA too, or not lower-case, or MMSA has no such host.
    """
    from MMSA_ext import mmsa_bridge

    if host is not None and not mmsa_bridge.is_mmsa_model(host):
        raise ConfigError(f"model {name!r}: its host {host!r} is no model of MMSA.")
    if name != name.lower():
        raise ConfigError(f"model name {name!r}: use lower case, MMSA lower-cases what users type.")

    def decorate(build: Builder) -> Builder:
        if _entry(name) is not None or mmsa_bridge.is_mmsa_model(name):
            raise ConfigError(
                f"model {name!r} exists already; choose another name, or forget your own first "
                "with MMSA_ext.unregister_model."
            )
        _MODELS[name] = ModelEntry(name, build, config, trainer, paper, host)
        return build

    return decorate


def refuse_model(name: str, reason: str) -> None:
    """Say why there is no model of a name that users may expect.

    Args:
        name: Lower-case name.
        reason: A sentence that says why, and what there is instead.
    """
    _REFUSED[name] = reason


def refusal(name: str) -> str | None:
    """Why there is no model `name`; None if nothing is known of it."""
    models.import_all()  # the modules say what they refuse
    return _REFUSED.get(name)


def unregister_model(name: str) -> None:
    """Forget model `name`; unknown names are an error.

    Raises:
        ConfigError: If no such model is registered.
    """
    get_model(name)
    del _MODELS[name]


def list_models() -> list[str]:
    """Names of the models that this package adds to MMSA, sorted."""
    return sorted(_MODELS)


def is_registered(name: str) -> bool:
    """Whether `name` is a model of this package (MMSA's own are not)."""
    return name in _MODELS


def trains_in_mmsa(name: str) -> bool:
    """Whether `name` trains in MMSA's own loop: MMSA's models, and variants that have a host."""
    return not is_registered(name) or get_model(name).host is not None


def get_model(name: str) -> ModelEntry:
    """Look up a registered model.

    Raises:
        ConfigError: If no such model is registered; names the closest ones.
    """
    entry = _entry(name)
    if entry is None:
        raise ConfigError(f"unknown model {name!r}; {suggest(name, list_models())}")
    return entry


def _entry(name: str) -> ModelEntry | None:
    """The entry of a model, its module imported; None if there is none, or not yet."""
    if name in _MODELS and _MODELS[name] is None:
        models.import_home(name)
    return _MODELS.get(name)

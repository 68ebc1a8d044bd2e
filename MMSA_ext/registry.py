"""The registry of models: one decorator makes a model known everywhere.

A registered model is accepted by `MMSA_run`, by MMSA itself (through `mmsa_bridge`), by the command
line, and is tested by the parametrised test suite, which reads `list_models()`. This package's own
are known by `catalogue`, and the module of one is imported when its entry is first asked for; those
of installed packages when a name is not known otherwise, or all names are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from MMSA_ext import catalogue, mmsa_files, own_models
from MMSA_ext.datasets import get_dataset
from MMSA_ext.errors import ConfigError, UnknownModelError, suggest
from MMSA_ext.names import MODALITIES

if TYPE_CHECKING:
    from torch import nn

    from MMSA_ext.config.schema import RunConfig, VariantConfig

Builder = Callable[[Any], "nn.Module"]

# The trainers of this package by name, so that no model imports one.
TRAINER = "MMSA_ext.training.trainer:Trainer"
FINE_TUNE_TRAINER = "MMSA_ext.training.fine_tuning:FineTuneTrainer"
TWO_STAGE_TRAINER = "MMSA_ext.training.stage_one:TwoStageTrainer"


@dataclass(frozen=True)
class ModelEntry:
    """What the package knows of one model.

    Attributes:
        name: Lower-case name, as given to `MMSA_run`.
        build: Makes the model from MMSA's `args` (an EasyDict with every configuration key).
        config: Typed configuration; its fields are the keys that the model accepts.
        trained_by: Class with MMSA's trainer contract (`do_train`, `do_test`), or its name.
        paper: Title and place of the paper.
        host: MMSA's model whose trainer, batches and configuration this one uses: a variant of it.
            None for models on this package's trainer.
    """

    name: str
    build: Builder
    config: type[RunConfig] | type[VariantConfig]
    trained_by: type | str
    paper: str
    host: str | None = None

    @property
    def trainer(self) -> Any:
        """The class that trains it."""
        by = self.trained_by
        return resolve_name(by) if isinstance(by, str) else by


# One of the package's own is None until its module is imported, when it is first looked up.
_MODELS: dict[str, ModelEntry | None] = dict.fromkeys(catalogue.MODELS)


def register_model(
    name: str,
    *,
    config: type[RunConfig] | type[VariantConfig],
    trainer: type | str = TRAINER,
    paper: str = "",
    host: str | None = None,
) -> Callable[[Builder], Builder]:
    """Register the decorated builder as model `name`.

    Args:
        name: Lower-case name of the model.
        config: Typed configuration class of the model.
        trainer: Trainer class, or its name as `package.module:Class`; see
            `MMSA_ext.training.trainer.Trainer`, which it is by default.
        paper: Title and place of the paper, shown by `mmsa-ext list` and MMSA's citations; of the
            package's own models the catalogue's.
        host: For a variant of one of MMSA's models: that model. `trainer` is MMSA's then, the
            batches and the configuration that `config` does not name too.

    Returns:
        A decorator that leaves the builder as it is.

    Raises:
        ConfigError: If the name is taken, by MMSA too, or not lower-case, or MMSA has no such host.
    """
    if host is not None and not mmsa_files.is_model(host):
        raise ConfigError(f"model {name!r}: its host {host!r} is no model of MMSA.")
    if name != name.lower():
        raise ConfigError(f"model name {name!r}: use lower case, MMSA lower-cases what users type.")

    def decorate(build: Builder) -> Builder:
        if _entry(name) is not None or mmsa_files.is_model(name):
            raise ConfigError(
                f"model {name!r} exists already; choose another name, or forget your own first "
                "with MMSA_ext.unregister_model."
            )
        _MODELS[name] = ModelEntry(name, build, config, trainer, paper or paper_of(name), host)
        return build

    return decorate


def unregister_model(name: str) -> None:
    """Forget model `name`; unknown names are an error.

    Raises:
        ConfigError: If no such model is registered.
    """
    get_model(name)
    del _MODELS[name]


def list_models() -> list[str]:
    """Names of the models that are added to MMSA, sorted; those of installed packages too."""
    own_models.import_installed()
    return registered_models()


def registered_models() -> list[str]:
    """Names of the models that are registered already, sorted."""
    return sorted(_MODELS)


def is_registered(name: str) -> bool:
    """Whether `name` is a model of this package or of the user's (MMSA's own are not)."""
    if name not in _MODELS and not mmsa_files.is_model(name):
        own_models.import_installed()
    return name in _MODELS


def is_known(name: str) -> bool:
    """Whether there is a model `name`, MMSA's own included."""
    return is_registered(name) or mmsa_files.is_model(name)


def own_modules(names: Collection[str]) -> tuple[str, ...]:
    """Modules that another process has to import to know those models of some that are a user's.

    What is defined in `__main__` is there where Python carries out the script again, as it does for
    processes of this machine.
    """
    entries = (_MODELS[name] for name in names if is_registered(name))
    homes = {part.__module__ for e in entries if e is not None for part in (e.build, e.config)}
    ours, main = __name__.partition(".")[0], ("__main__", "__mp_main__")
    return tuple(sorted(h for h in homes if h.partition(".")[0] != ours and h not in main))


def get_model(name: str) -> ModelEntry:
    """Look up a registered model.

    Raises:
        ConfigError: If no such model is registered; names the closest ones.
    """
    entry = _entry(name) if is_registered(name) else None
    if entry is None:
        raise ConfigError(f"unknown model {name!r}; {suggest(name, list_models())}")
    return entry


def host_of(name: str) -> str | None:
    """The model of MMSA in whose loop `name` trains: of MMSA's own itself; None if in none."""
    entry = _known(name)
    return name if entry is None else entry.host


def trains_in_mmsa(name: str) -> bool:
    """Whether `name` trains in MMSA's own loop: MMSA's models, and variants that have a host."""
    return host_of(name) is not None


def unread_modalities(args: Any) -> tuple[str, ...]:
    """Modalities that a model does not read, by its complete configuration; MMSA's read all.

    Raises:
        ConfigError: If the configuration cannot be used, or `reads` names what is no modality.
    """
    name = str(args["model_name"])
    if trains_in_mmsa(name):
        return ()
    reads = cast("RunConfig", get_model(name).config.from_args(args)).reads
    if wrong := [str(modality) for modality in reads if modality not in MODALITIES]:
        raise ConfigError(
            f"model {name!r} reads {wrong[0]!r:.80}; {suggest(wrong[0], list(MODALITIES))}"
        )
    return tuple(modality for modality in MODALITIES if modality not in reads)


def paper_of(name: str) -> str:
    """Title and place of the paper of a model of this package; empty if none was given."""
    entry = _known(name)
    return "" if entry is None else entry.paper


def refusal(name: str) -> str | None:
    """Why there is no model `name`; None if nothing is known of it."""
    return None if is_registered(name) else catalogue.REFUSED.get(name)


def check_names(model: str, dataset: str | None = None) -> None:
    """Check the names of a model and a data set, both in lower case.

    Raises:
        ConfigError: Naming what is known, or the closest match.
    """
    if (reason := refusal(model)) is not None:
        raise ConfigError(reason)
    if not is_known(model):
        known = sorted({*list_models(), *mmsa_files.models()})
        said = f"unknown model {model!r:.80}; {suggest(model, known)}"
        raise UnknownModelError(f"{said} {own_models.MEND}")
    if dataset is not None:
        get_dataset(dataset)


def _known(name: str) -> ModelEntry | catalogue.Shipped | None:
    """What is known of a model without importing its module."""
    return _MODELS[name] or catalogue.MODELS.get(name) if is_registered(name) else None


def _entry(name: str) -> ModelEntry | None:
    """The entry of a registered model, its module imported; None if there is none, or not yet."""
    if name in _MODELS and _MODELS[name] is None:
        import_module(f"MMSA_ext.models.{catalogue.MODELS[name].module}")
    return _MODELS.get(name)

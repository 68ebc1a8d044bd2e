"""MMSA_ext: DashFusion and InfoEnh in the MMSA toolkit, under its protocol.

Data flows one way::

    feature file --data.features--> checked arrays --data.loader--> batches --models--> outputs
    outputs --training--> checkpoint, predictions --MMSA's metrics--> record
    records --reporting--> tables, figures, statistics

Importing this package registers its models in MMSA: both `from MMSA_ext import MMSA_run` and
`from MMSA import MMSA_run` accept them. `unregister()` restores MMSA exactly.

MMSA and torch take seconds to import, and asking the command line for help needs neither. So a
public name is imported when it is first used, and the registration waits for MMSA: it is in force
once `import MMSA`, anyone's, has been carried out, and at once if it was before.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from MMSA_ext.errors import MMSAExtError
from MMSA_ext.on_import import after_import
from MMSA_ext.version import __version__

if TYPE_CHECKING:
    from MMSA_ext import models
    from MMSA_ext.config.resolve import get_config_regression, get_config_tune
    from MMSA_ext.data.convert import convert
    from MMSA_ext.datasets import Dataset, list_datasets, register_dataset, unregister_dataset
    from MMSA_ext.mmsa_bridge import register, unregister
    from MMSA_ext.mmsa_files import Kind
    from MMSA_ext.models import optimal_transport
    from MMSA_ext.models.infoenh import InfoEnh, InfoEnhConfig, TokenReadout
    from MMSA_ext.registry import list_models, register_model, unregister_model
    from MMSA_ext.reporting.tables import runs_frame
    from MMSA_ext.runs.api import MMSA_run
    from MMSA_ext.runs.export import export_model
    from MMSA_ext.runs.hub import pull, push
    from MMSA_ext.runs.prediction import MMSA_test, Scorer, load_model, predict_file
    from MMSA_ext.runs.results import MetricSummary, RunResults, SeedResult
    from MMSA_ext.runs.sharing import save_pretrained
    from MMSA_ext.training.callbacks import Callback

__all__ = [
    "Callback",
    "Dataset",
    "InfoEnh",
    "InfoEnhConfig",
    "MMSAExtError",
    "MMSA_run",
    "MMSA_test",
    "MetricSummary",
    "RunResults",
    "Scorer",
    "SeedResult",
    "TokenReadout",
    "__version__",
    "convert",
    "export_model",
    "get_config_regression",
    "get_config_tune",
    "list_datasets",
    "list_models",
    "load_model",
    "models",
    "optimal_transport",
    "predict_file",
    "pull",
    "push",
    "register",
    "register_dataset",
    "register_model",
    "runs_frame",
    "save_pretrained",
    "unregister",
    "unregister_dataset",
    "unregister_model",
]

# Modules of the names that are imported when they are first used.
_HOMES = {
    "Callback": "MMSA_ext.training.callbacks",
    "Dataset": "MMSA_ext.datasets",
    "InfoEnh": "MMSA_ext.models.infoenh",
    "InfoEnhConfig": "MMSA_ext.models.infoenh",
    "MMSA_run": "MMSA_ext.runs.api",
    "MMSA_test": "MMSA_ext.runs.prediction",
    "MetricSummary": "MMSA_ext.runs.results",
    "RunResults": "MMSA_ext.runs.results",
    "Scorer": "MMSA_ext.runs.prediction",
    "SeedResult": "MMSA_ext.runs.results",
    "TokenReadout": "MMSA_ext.models.infoenh",
    "convert": "MMSA_ext.data.convert",
    "export_model": "MMSA_ext.runs.export",
    "get_config_regression": "MMSA_ext.config.resolve",
    "get_config_tune": "MMSA_ext.config.resolve",
    "list_datasets": "MMSA_ext.datasets",
    "list_models": "MMSA_ext.registry",
    "load_model": "MMSA_ext.runs.prediction",
    "predict_file": "MMSA_ext.runs.prediction",
    "pull": "MMSA_ext.runs.hub",
    "push": "MMSA_ext.runs.hub",
    "register": "MMSA_ext.mmsa_bridge",
    "register_dataset": "MMSA_ext.datasets",
    "register_model": "MMSA_ext.registry",
    "runs_frame": "MMSA_ext.reporting.tables",
    "save_pretrained": "MMSA_ext.runs.sharing",
    "unregister": "MMSA_ext.mmsa_bridge",
    "unregister_dataset": "MMSA_ext.datasets",
    "unregister_model": "MMSA_ext.registry",
}


_MODULES = {"models": "MMSA_ext.models", "optimal_transport": "MMSA_ext.models.optimal_transport"}


def __getattr__(name: str) -> Any:
    """A public name that has not been used yet."""
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _introduce() -> None:
    """Tell the bridge of this package, which then is registered in MMSA."""
    # Statements, unlike `import_module`, do not fail where another thread does the same; and of
    # modules below the bridge, which itself may be what imports MMSA.
    from MMSA_ext import registry
    from MMSA_ext.mmsa_bridge.extension import Extension
    from MMSA_ext.mmsa_bridge.registration import introduce

    def configuration(kind: Kind) -> Mapping[str, Any]:
        from MMSA_ext.config.files import extension_config

        return extension_config(kind)

    def building(args: Any) -> AbstractContextManager[None]:
        if not args.get("fast"):
            return nullcontext()
        from MMSA_ext.models.hosts.fast import fast_form

        return fast_form(args)

    introduce(
        Extension(
            list_models=registry.registered_models,
            get_model=registry.get_model,
            configuration=configuration,
            run=lambda *args, **options: __getattr__("MMSA_run")(*args, **options),
            test=lambda *args, **options: __getattr__("MMSA_test")(*args, **options),
            building=building,
        )
    )


def _check_home() -> None:
    # MMSA asks for the home folder when it is imported; without one, this says so in a sentence.
    from MMSA_ext.paths import home

    home()


after_import("MMSA", _introduce, before=_check_home)

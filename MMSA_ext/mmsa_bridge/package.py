"""What this package adds to MMSA.

Its functions stand above the bridge and import it, so each is imported when it is first called.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from MMSA_ext.mmsa_bridge.extension import Extension


def _later(module: str, name: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        return getattr(import_module(f"MMSA_ext.{module}"), name)(*args, **options)

    return call


THIS_PACKAGE = Extension(
    list_models=_later("registry", "list_models"),
    get_model=_later("registry", "get_model"),
    configuration=_later("config.resolve", "extension_config"),
    run=_later("runs.api", "MMSA_run"),
    test=_later("runs.prediction", "MMSA_test"),
)

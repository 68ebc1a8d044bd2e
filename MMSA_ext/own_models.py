"""Models of one's own: modules that are named, and entry points of installed packages.

Importing such a module registers its models (`registry.register_model`).
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path

from MMSA_ext.errors import ConfigError
from MMSA_ext.paths import expand, shown, why_no_file

ENTRY_POINTS = "MMSA_ext.models"
# What to do about a model that is not known.
MEND = (
    "A model of your own is known once its module is imported: --import MODULE, in Python `import`."
)


class OwnModelWarning(UserWarning):
    """Models of an installed package are not known, because it cannot be imported."""


def is_file(name: str) -> bool:
    """Whether what is to be imported is named by its file, and not as Python names modules."""
    return name.endswith(".py") or any(sign in name for sign in (os.sep, os.altsep) if sign)


def import_modules(names: Iterable[str]) -> None:
    """Import modules, as `python -m NAME` and `python FILE` find them.

    Their folder stays on Python's path.

    Args:
        names: Names of modules on Python's path or in the current folder, and paths of `.py` files.

    Raises:
        ConfigError: A module is not there, has the name of another, or fails.
    """
    for given in names:
        folder, name, file = _found(given) if is_file(given) else (Path.cwd(), given, None)
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        try:
            module = import_module(name)
        except Exception as error:  # whatever a module's code raises
            raise ConfigError(f"--import {shown(given)}: {_why_not(error, name)}") from error
        if file is not None and Path(module.__file__ or "").resolve() != file:
            raise ConfigError(
                f"--import {shown(given)}: another module has its name, {name} "
                f"({module.__file__ or 'built in'}); rename the file."
            )


@cache
def import_installed() -> None:
    """Import what installed packages name in `ENTRY_POINTS`, once; what fails is warned of."""
    from importlib.metadata import entry_points  # takes longer to import than all of this module

    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:  # a broken package must not stop the models of others
            package = "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"
            warnings.warn(
                f"entry point {point.name} = {point.value}{package}: "
                f"{_why_not(error, point.module)} Its models are not known; mend or uninstall it.",
                OwnModelWarning,
                stacklevel=2,
            )


def _found(given: str) -> tuple[Path, str, Path]:
    """The folder on Python's path, the name, and the file of a module that a path names."""
    file = Path(expand(given)).resolve()
    if reason := why_no_file(file, "module"):
        raise ConfigError(f"--import {shown(given)}: {reason}.")
    folder, parts = file.parent, [file.stem] if file.stem != "__init__" else []
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts), file


def _why_not(error: Exception, name: str) -> str:
    """Why a module cannot be imported, as a sentence."""
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return f"there is no module {error.name!r} on Python's path or in {Path.cwd()}."
    *_, last = traceback.extract_tb(error.__traceback__)
    where = "" if isinstance(error, SyntaxError) else f" ({last.filename}, line {last.lineno})"
    return f"cannot be imported: {type(error).__name__}: {error}{where}."

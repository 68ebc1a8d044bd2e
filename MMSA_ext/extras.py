"""Packages that an extra brings, and the line that installs one here."""

import importlib
import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from MMSA_ext.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def import_extra(module: str, extra: str, user: str) -> Any:
    """Import a module that comes with an extra.

    Args:
        module: Its name.
        extra: The extra.
        user: What needs it, as the message begins.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.partition(".")[0]
        raise ConfigError(
            f"{user} needs {package}, which is not installed: {install_command(extra)}"
        ) from None


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation, for a message to end with.

    In a clone it installs the clone; elsewhere it goes where the package came from: a folder, a
    file, a repository, or by its name the package index.

    Args:
        extra: One of `[project.optional-dependencies]` in `pyproject.toml`.
    """
    found = shutil.which("pip")
    beside = found is not None and Path(found).parent == Path(sys.executable).parent
    pip = "pip" if beside else f"{_quoted(sys.executable)} -m pip"
    clone = _PACKAGE.parent
    if (clone / "pyproject.toml").is_file():
        return f'{pip} install -e "{clone}[{extra}]"'
    origin = _origin()
    return f'{pip} install "MMSA_ext[{extra}]{f" @ {origin}" if origin else ""}"'


def _origin() -> str:
    """Where pip had the package from, as it is asked for; empty for a package index."""
    try:
        noted = importlib.metadata.distribution("MMSA_ext").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        noted = None
    origin = json.loads(noted or "{}")
    system = origin.get("vcs_info", {}).get("vcs")
    return f"{system}+{origin['url']}" if system else origin.get("url", "")


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path

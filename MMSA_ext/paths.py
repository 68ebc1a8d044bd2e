"""Paths that users write, and the folders of a run.

`~` and environment variables are expanded, which MMSA leaves as they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from MMSA_ext.errors import ConfigError

# Folder of MMSA's data (it holds MOSI/, MOSEI/, SIMS/), in place of the one in MMSA's files.
DATA_ROOT_VARIABLE = "MMSA_DATA_ROOT"


def expand(path: str | Path) -> str:
    """Expand environment variables and `~`."""
    return str(Path(os.path.expandvars(str(path))).expanduser())


@dataclass(frozen=True)
class Places:
    """Folders of a run.

    Attributes:
        models: Checkpoints.
        results: Records, tables, pictures.
        logs: Log files.
    """

    models: Path
    results: Path
    logs: Path

    @classmethod
    def default(
        cls,
        models: str | Path | None = None,
        results: str | Path | None = None,
        logs: str | Path | None = None,
    ) -> Places:
        """`resolved`, and made where they are missing.

        Raises:
            ConfigError: If a folder cannot be made or written to.
        """
        places = cls.resolved(models, results, logs)
        options = ("--model-save-dir", "--res-save-dir", "--log-dir")
        for folder, option in zip(vars(places).values(), options, strict=True):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                reason = "" if os.access(folder, os.W_OK | os.X_OK) else "permission denied"
            except OSError as error:
                reason = error.strerror or str(error)
            if reason:
                raise ConfigError(
                    f"{folder}: cannot be written to ({reason}); give another folder with {option}."
                )
        return places

    @classmethod
    def resolved(
        cls,
        models: str | Path | None = None,
        results: str | Path | None = None,
        logs: str | Path | None = None,
    ) -> Places:
        """MMSA's folders under the home directory, for those not given; none is made."""
        home = Path.home() / "MMSA"
        return cls(
            Path(expand(models or home / "saved_models")),
            Path(expand(results or home / "results")),
            Path(expand(logs or home / "logs")),
        )

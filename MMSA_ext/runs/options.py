"""`RunOptions`: how and where a run is made, one object from the command line to its seeds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from MMSA_ext.errors import ConfigError
from MMSA_ext.names import MODALITY_FILES
from MMSA_ext.own_models import is_file
from MMSA_ext.paths import Places, expand, expand_given
from MMSA_ext.runs import tracking
from MMSA_ext.training import callbacks
from MMSA_ext.training.callbacks import Callback
from MMSA_ext.validation import flag, verbosity, whole_number

__all__ = ["RunOptions"]


@dataclass(frozen=True)
class RunOptions:
    """How and where a run is made. The files aside, no number of it depends on this.

    The attributes are arguments of `MMSA_run`, but for one.

    Attributes:
        imports: Modules of models of one's own, see `own_models.import_modules`.

    Raises:
        ConfigError: If a value is none that can be meant. Whether files, folders and devices are
            there is found out when they are used.
    """

    custom_feature: str | Path | None = None
    feature_T: str | Path | None = None  # noqa: N815 (MMSA's names)
    feature_A: str | Path | None = None  # noqa: N815
    feature_V: str | Path | None = None  # noqa: N815
    gpu_ids: Sequence[int | str] | int | str = (0,)
    num_workers: int = 4
    verbose_level: int = 1
    model_save_dir: str | Path | None = None
    res_save_dir: str | Path | None = None
    log_dir: str | Path | None = None
    reuse: bool = True
    dataset_file: str | Path | None = None
    imports: Sequence[str] = ()
    callbacks: Sequence[Callback] = ()
    track: Sequence[str] | str = ()

    def __post_init__(self) -> None:
        checked = {
            "verbose_level": verbosity(self.verbose_level),
            "num_workers": whole_number("num_workers", self.num_workers, 0),
            "reuse": flag("reuse", self.reuse),
            "dataset_file": expand_given(self.dataset_file),
            "imports": _modules(self.imports),
            "callbacks": callbacks.checked(self.callbacks),
            "track": tracking.checked(self.track),
            **{name: expand_given(path) for name, path in self.files.items()},
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def files(self) -> dict[str, Any]:
        """The feature files by their names."""
        return {"custom_feature": self.custom_feature, **self.modality_files}

    @property
    def modality_files(self) -> dict[str, Any]:
        """The feature files of single modalities."""
        return {name: getattr(self, name) for name in MODALITY_FILES}

    @property
    def loaders(self) -> int:
        """Loader processes, at most one a processor."""
        return min(self.num_workers, os.cpu_count() or 1)

    def places(self) -> Places:
        """The folders, made where they are missing.

        Raises:
            ConfigError: If one cannot be made or written to.
        """
        return Places.default(self.model_save_dir, self.res_save_dir, self.log_dir)

    def inside(self, folder: str | Path) -> RunOptions:
        """The same with all that is written below one folder."""
        return replace(self, model_save_dir=folder, res_save_dir=folder, log_dir=folder)


def _modules(names: Sequence[str]) -> tuple[str, ...]:
    """Names of modules, those of files whole: a worker has another folder."""
    listed = [names] if isinstance(names, str | Path) else list(names)
    if not all(isinstance(name, str | Path) for name in listed):
        raise ConfigError(f"imports is {names!r:.80}; give names of modules or their .py files.")
    texts = map(str, listed)
    return tuple(str(Path(expand(t)).absolute()) if is_file(t) else t for t in texts)

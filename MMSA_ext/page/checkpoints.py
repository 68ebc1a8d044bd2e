"""The trained models that a page offers: by name, so that a client never names a path."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from MMSA_ext.errors import CheckpointError, suggest
from MMSA_ext.paths import shown
from MMSA_ext.runs.prediction import Scorer
from MMSA_ext.training import model_folder

__all__ = ["Checkpoints", "UnknownCheckpointError"]

logger = logging.getLogger("MMSA")


class UnknownCheckpointError(CheckpointError):
    """No model of that name is offered."""


class Checkpoints:
    """Trained models by name; one is in memory at a time.

    Args:
        named: Checkpoints, or folders of shared models, in the order of the list.
        folder: Folder in which more are; looked into each time, so that a model that is trained
            while the page is open is offered too. It need not exist.
    """

    def __init__(self, named: Sequence[Path], folder: Path | None = None) -> None:
        self._named, self._folder = tuple(path.absolute() for path in named), folder
        self._loaded: tuple[tuple[Path, int], Scorer] | None = None

    def places(self) -> dict[str, Path]:
        """Path of each by its name: the file's without its ending, counted where it is taken."""
        found: dict[str, Path] = {}
        for path in dict.fromkeys((*self._named, *self._in_folder())):
            stem = path.stem if path.suffix == ".pth" else path.name
            names = (stem, *(f"{stem} ({number})" for number in range(2, len(found) + 3)))
            found[next(name for name in names if name not in found)] = path
        return found

    def _in_folder(self) -> Iterator[Path]:
        if self._folder is None or not self._folder.is_dir():
            return
        for path in sorted(self._folder.absolute().iterdir()):
            shared = (path / model_folder.CONFIG).is_file() and (
                path / model_folder.WEIGHTS
            ).is_file()
            if shared or (path.suffix == ".pth" and path.is_file()):
                yield path

    def open(self, name: str | None = None) -> tuple[str, Scorer]:
        """A model, ready to score on the CPU or the most free GPU; the one before is let go.

        Utterances that are longer than any in training have their frames averaged.

        Args:
            name: One of `places`; None is the first.

        Raises:
            UnknownCheckpointError: There is none of that name.
            CheckpointError, ConfigError, TextEncoderError: As `Scorer`; paths are not said.
        """
        places = self.places()
        if not places:
            raise UnknownCheckpointError(
                "no model is offered; train one, or start `mmsa-ext demo CHECKPOINT`."
            )
        name = next(iter(places)) if name is None else name
        if name not in places:
            raise UnknownCheckpointError(
                f"there is no model {shown(name)!r}; {suggest(name, list(places))}"
            )
        path = places[name]
        stamp = (path, _changed(path))
        if self._loaded is None or self._loaded[0] != stamp:
            self._loaded = None  # before the next one takes memory
            logger.info("loading %s", path)
            self._loaded = (stamp, Scorer(path, gpu_ids=[], too_long="pool"))
        return name, self._loaded[1]


def _changed(path: Path) -> int:
    """When a checkpoint was last written, in nanoseconds; 0 of one that is gone."""
    file = path / model_folder.WEIGHTS if path.is_dir() else path
    return file.stat().st_mtime_ns if file.exists() else 0

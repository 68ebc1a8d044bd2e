"""What was extracted of clips, kept by their content: nothing is extracted twice.

    <folder>/<key>.npz   a track, or the words that were recognised; arrays without pickle

The key is a digest of all that decides the numbers: the file's bytes, the stretch of it, and the
recipe with its version. An entry is written aside and renamed: it is complete or absent. One that
cannot be read is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_cache import VARIABLE, cache_folder
from MMSA_ext.errors import WriteError
from MMSA_ext.files import remove_leftovers, replaced
from MMSA_ext.paths import expand
from MMSA_ext.video.contract import Track, Word

__all__ = ["ClipCache", "key_of", "opened_cache", "user_cache"]

_SUFFIX = ".npz"
_FACTS, _SHOWN = "facts", "shown."
_FORMAT = 1
_UNUSED_SECONDS = 30 * 24 * 3600


def user_cache() -> ClipCache | None:
    """The one below `data.feature_cache.cache_folder`; None where that is off."""
    folder = cache_folder()
    return None if folder is None else ClipCache(folder / "clips")


@contextmanager
def opened_cache(wanted: bool | str | os.PathLike[str] = True) -> Iterator[ClipCache]:
    """A cache to extract into; what nobody used for 30 days is removed from it first.

    Args:
        wanted: The user's, or a folder; False, and where the user's is off, is one for this block.
    """
    own = user_cache() if wanted is True else None
    if not isinstance(wanted, bool):
        own = ClipCache(Path(expand(wanted)))
    if own is not None:
        with suppress(OSError):
            own.clear(_UNUSED_SECONDS)
        yield own
        return
    with tempfile.TemporaryDirectory(prefix="mmsa-ext-clips-") as folder:
        yield ClipCache(Path(folder), lasts=False)


def key_of(*decides: Any) -> str:
    """Digest of what decides an entry, in JSON's types."""
    text = json.dumps([_FORMAT, *decides], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ClipCache:
    """Entries of a folder, which need not exist.

    Args:
        folder: The folder; nothing else is in it.
        lasts: Whether it is there when the command has ended.
    """

    def __init__(self, folder: Path, lasts: bool = True) -> None:
        self.folder, self.lasts = folder, lasts

    def track(self, key: str, width: int) -> tuple[Track, str] | None:
        """A track that was kept, and the damage of its file; None where there is no sound one."""
        arrays, facts = self._entry(key)
        shown = {
            name.removeprefix(_SHOWN): array
            for name, array in arrays.items()
            if name.startswith(_SHOWN)
        }
        try:
            found, missing = float(facts["found"]), str(facts["missing"])
            track = Track(arrays["frames"], arrays["times"], found, missing, shown)
            return None if track.wrong(width) else (track, str(facts["damage"]))
        except (KeyError, TypeError, ValueError):
            return None

    def keep_track(self, key: str, track: Track, damage: str = "") -> None:
        """Keep a track, and what was wrong with the file.

        Raises:
            WriteError: The disk refuses.
        """
        arrays: dict[str, NDArray[Any]] = {"frames": track.frames, "times": track.times}
        arrays |= {f"{_SHOWN}{name}": array for name, array in track.shown.items()}
        facts = {"found": float(track.found), "missing": track.missing, "damage": damage}
        self._keep(key, arrays, facts)

    def words(self, key: str) -> list[Word] | None:
        """Words that were kept; None where there are none."""
        _, facts = self._entry(key)
        try:
            return [
                Word(str(w["text"]), float(w["start"]), float(w["end"])) for w in facts["words"]
            ]
        except (KeyError, TypeError, ValueError):
            return None

    def keep_words(self, key: str, words: list[Word]) -> None:
        """Keep what a recogniser made of a clip.

        Raises:
            WriteError: The disk refuses.
        """
        self._keep(key, {}, {"words": [asdict(word) for word in words]})

    def entries(self) -> list[Path]:
        """All entries."""
        return sorted(self.folder.glob(f"*{_SUFFIX}"))

    def size(self) -> int:
        """Bytes of the entries."""
        return sum(path.stat().st_size for path in self.entries())

    def clear(self, unused: float = 0.0) -> int:
        """Remove entries that nobody used for so many seconds, and what dead processes left.

        Returns:
            Bytes of what was removed.

        Raises:
            OSError: Something cannot be removed.
        """
        remove_leftovers(self.folder)
        freed = 0
        for path in self.entries():
            with suppress(FileNotFoundError):  # another process was faster
                status = path.stat()
                if time.time() - status.st_mtime >= unused:
                    path.unlink()
                    freed += status.st_size
        return freed

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _entry(self, key: str) -> tuple[dict[str, NDArray[Any]], Any]:
        """Arrays and facts, whatever they are; empty ones where there is no entry."""
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            facts = json.loads(arrays.pop(_FACTS).tobytes())
        except Exception:  # absent, or whatever lies there: it is made anew
            return {}, {}
        with suppress(OSError):
            os.utime(path)
        return arrays, facts

    def _keep(self, key: str, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
        described = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        try:
            with replaced(self._path(key)) as staged, staged.open("wb") as file:
                np.savez(file, **{_FACTS: described}, **arrays)  # type: ignore[arg-type]
        except WriteError as error:
            variable = VARIABLE if self.lasts else "TMPDIR"
            raise WriteError(f"{error} {variable} names the folder of what is kept.") from error

"""What is extracted of one clip: a track a modality, and what is said."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.errors import MediaError, MMSAExtError, one_line
from MMSA_ext.files import reason
from MMSA_ext.paths import shown
from MMSA_ext.video.clip_cache import ClipCache, key_of
from MMSA_ext.video.contract import Clip, Extractor, Recogniser, Track, Transcript, Word
from MMSA_ext.video.media import MediaClip
from MMSA_ext.video.words import transcript

if TYPE_CHECKING:
    from MMSA_ext.data.recipes import Recipe

__all__ = [
    "Extraction",
    "Request",
    "file_digest",
    "frames_of",
    "missing",
]

_NO_WORDS = "no transcript, no subtitles and no recogniser"


@dataclass(frozen=True)
class Request:
    """What of a file is a clip, and what is known of its words.

    Attributes:
        path: Video or audio file.
        start: Seconds.
        end: Seconds; None is the end of the file.
        text: Transcript; None where it is not known.
        subtitles: Subtitles of the whole file; None where there are none.
    """

    path: Path
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    subtitles: Path | None = None


def missing(tracks: Mapping[str, Track], transcript: Transcript) -> dict[str, str]:
    """By modality, `text` too, why there is nothing; only what is missing."""
    said = {name: track.missing for name, track in tracks.items() if not len(track.frames)}
    if not transcript.text.strip():
        said["text"] = _NO_WORDS if transcript.source == "none" else "no words were found"
    return said


@dataclass(frozen=True)
class Extraction:
    """How clips are extracted.

    Attributes:
        extractors: By modality.
        recogniser: What makes words where none are given; or None.
        cache: What was extracted before.
    """

    extractors: Mapping[str, Extractor]
    recogniser: Recogniser | None
    cache: ClipCache

    @property
    def recipe(self) -> Recipe:
        """Who makes the modalities."""
        return {name: extractor.recipe() for name, extractor in self.extractors.items()}

    def tracks(self, request: Request, clip: MediaClip) -> tuple[dict[str, Track], str]:
        """What the extractors make of a clip, by modality, and the damage of its file.

        What they made of it before is taken from the cache.

        Raises:
            ConfigError: A package or a model that is needed is not there.
            MediaError: The file cannot be read.
        """
        found, damages = {}, [clip.damage]
        for modality, extractor in self.extractors.items():
            key = self.key(request, modality)
            kept = self.cache.track(key, extractor.width)
            if kept is None:
                kept = _extracted(extractor, clip), clip.damage
                self.cache.keep_track(key, *kept)
            found[modality], damage = kept
            damages.append(damage)
        return found, joined_damage(damages)

    def key(self, request: Request, modality: str) -> str:
        """Where the cache has a track."""
        extractor = self.extractors[modality]
        files = [request.path]
        if beside := getattr(extractor, "beside", None):
            files += beside(request.path)
        digests = list(map(file_digest, files))
        return key_of(digests, request.start, request.end, extractor.recipe())

    def transcript(self, request: Request, clip: Clip) -> Transcript:
        """What is said in a clip; what was recognised before is taken from the cache.

        Raises:
            ConfigError: The recogniser's package or model is not there.
            MediaError: The file, or its subtitles, cannot be read.
        """
        known = None
        if self.recogniser is not None:
            content = [file_digest(request.path), request.start, request.end]
            known = _Remembering(self.recogniser.name, self.recogniser, self.cache, content)
        return transcript(clip, text=request.text, subtitles=request.subtitles, recogniser=known)


@dataclass
class _Remembering:
    """A recogniser whose words are kept."""

    name: str
    recogniser: Recogniser
    cache: ClipCache
    content: list[Any]

    def __call__(self, clip: Clip) -> list[Word]:
        key = key_of(*self.content, {"recogniser": self.name})
        words = self.cache.words(key)
        if words is None:
            words = self._recognised(clip)
            self.cache.keep_words(key, words)
        return words

    def _recognised(self, clip: Clip) -> list[Word]:
        failed = f"{shown(clip.path)}: recogniser {self.name!r} fails"
        try:
            words = self.recogniser(clip)
        except MMSAExtError:
            raise
        except Exception as error:
            raise MediaError(f"{failed}: {one_line(error)}") from error
        if not (isinstance(words, list) and all(isinstance(word, Word) for word in words)):
            raise MediaError(f"{failed}: it returns no list of Word.")
        return words


def _extracted(extractor: Extractor, clip: MediaClip) -> Track:
    """What an extractor makes of a clip; whatever library fails, the message names both."""
    failed = f"{shown(clip.path)}: extractor {extractor.name!r} fails"
    try:
        track = extractor(clip)
    except MMSAExtError:
        raise
    except Exception as error:
        raise MediaError(f"{failed}: {one_line(error)}") from error
    if not isinstance(track, Track):
        raise MediaError(f"{failed}: it returns {type(track).__name__}, not a Track.")
    if wrong := track.wrong(extractor.width):
        raise MediaError(f"{failed}: {wrong}.")
    return track


def joined_damage(said: Iterable[str]) -> str:
    """What is wrong with a file, each thing once."""
    return "; ".join(dict.fromkeys(part for one in said for part in one.split("; ") if part))


def frames_of(track: Track, width: int) -> NDArray[np.float32]:
    """Frames (L, d) of a track; of a missing modality one of zeros."""
    return track.frames if len(track.frames) else np.zeros((1, width), np.float32)


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        MediaError: It cannot be read.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise MediaError(f"{shown(path)}: cannot be read ({reason(error)}).") from None


@lru_cache(maxsize=16)  # many clips of one long video
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

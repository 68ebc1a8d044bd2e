"""Where requests are served: one at a time, by one model, in the package's sentences."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from MMSA_ext.errors import ConfigError, MMSAExtError
from MMSA_ext.page.checkpoints import Checkpoints
from MMSA_ext.page.reading import Reading, as_one_utterance, read
from MMSA_ext.paths import shown
from MMSA_ext.runs.prediction import Scorer
from MMSA_ext.runs.video_scoring import VideoFeatures, extract_video

__all__ = ["LONGEST_SECONDS", "Desk", "in_a_sentence", "unforeseen", "without_paths"]

LONGEST_SECONDS = 600.0


class Desk:
    """Scores what clients send. Its methods may be called by several threads: they wait in line.

    Args:
        checkpoints: The models that are offered.
        recogniser: Name of what recognises speech where no words are given; None is nothing.
    """

    def __init__(self, checkpoints: Checkpoints, recogniser: str | None = None) -> None:
        self.checkpoints, self.recogniser = checkpoints, recogniser
        self._lock = threading.Lock()

    def sentence(self, model: str | None, text: str, *, explain: bool = True) -> Reading:
        """Score a sentence alone, by a checkpoint of that name; None is the first.

        Raises:
            UnknownCheckpointError: There is no such model.
            ConfigError: There is no text, or the model reads more than text.
            MMSAExtError: The model, or its text encoder, cannot be used.
        """
        return self._read(model, lambda scorer: as_one_utterance(scorer, text), explain)

    def video(
        self,
        model: str | None,
        path: Path,
        *,
        text: str | None = None,
        subtitles: Path | None = None,
        explain: bool = True,
    ) -> Reading:
        """Score a video or audio file, of which nothing is kept; arguments as in `sentence`.

        Raises:
            UnknownCheckpointError: There is no such model.
            ConfigError: A package is not installed.
            MediaError: The file cannot be read, is too long, or has nothing that the model reads.
            MMSAExtError: As `runs.video_scoring.score_video`.
        """

        def extracted(scorer: Scorer) -> VideoFeatures:
            _check_length(path)
            return extract_video(
                scorer,
                path,
                text=text,
                subtitles=subtitles,
                recogniser=None if text or subtitles else self.recogniser,
                cache=False,
            )

        return self._read(model, extracted, explain)

    def edited(self, reading: Reading, texts: Sequence[str]) -> Reading:
        """Score a reading's video again with other transcripts, without extracting it.

        Raises:
            ConfigError: There is not one text an utterance.
            MMSAExtError: As `video`.
        """
        return self._read(reading.model, lambda _: reading.score.features.with_texts(texts))

    def _read(
        self,
        model: str | None,
        features: Callable[[Scorer], VideoFeatures],
        explain: bool = True,
    ) -> Reading:
        with self._lock:
            name, scorer = self.checkpoints.open(model)
            return read(name, scorer, features(scorer), explain=explain)

    def said(self, error: MMSAExtError, names: Mapping[Path, str] | None = None) -> str:
        """An error as clients read it: names in place of the models' paths and of further ones."""
        own = {path: name for name, path in self.checkpoints.places().items()}
        return in_a_sentence(str(error), own | dict(names or {}))


def in_a_sentence(message: str, names: Mapping[Path, str]) -> str:
    """A message on one line, with names in place of paths."""
    said = ""
    for line in message.splitlines():
        item = line.startswith(" ") and not said.endswith(":")
        said += ("; " if item else " ") + line.strip()
    said = said.strip()
    for path, name in names.items():
        for written in dict.fromkeys((str(path), shown(path))):
            said = said.replace(written, name)
    return said


def unforeseen(error: Exception) -> str:
    """What a client is told of an error that is no sentence of the package."""
    return f"An error that nobody foresaw ({type(error).__name__}); the terminal has all of it."


def without_paths(reading: Reading, names: Mapping[Path, str]) -> Reading:
    """A reading whose utterances' errors name no path."""
    score = reading.score
    told = tuple(replace(one, error=in_a_sentence(one.error, names)) for one in score.utterances)
    return replace(reading, score=replace(score, utterances=told))


def _check_length(path: Path) -> None:
    from MMSA_ext.video.media import open_clip

    minutes, most = open_clip(path).duration / 60, LONGEST_SECONDS / 60
    if minutes > most:
        raise ConfigError(
            f"{path}: lasts {minutes:.0f} minutes, and {most:.0f} are read here at most; score it "
            "by `mmsa-ext predict`, or send a part of it."
        )

"""Recognisers of speech, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MMSA_ext.errors import ConfigError, first_line, suggest
from MMSA_ext.extras import import_extra
from MMSA_ext.paths import expand, shown
from MMSA_ext.video.contract import Word
from MMSA_ext.video.speech import RATE, speech
from MMSA_ext.video.sphinx import heard

if TYPE_CHECKING:
    from MMSA_ext.video.contract import Clip, Recogniser

__all__ = ["RECOGNISERS", "Pocketsphinx", "Whisper", "recogniser"]

RECOGNISERS = ("whisper", "pocketsphinx")
WHISPER_MODEL = "small"  # 0.5 GB; the smallest that is of use outside of English
_AROUND = 0.2  # seconds: the detector of speech is late at soft beginnings


def recogniser(name: str | Recogniser | None) -> Recogniser | None:
    """A recogniser by its name.

    Args:
        name: `whisper`, which uses the model `small` if it is on this machine; `whisper:MODEL` with
            a size (such as `base`), a repository of the Hugging Face Hub or a folder, whose weights
            are downloaded where they are not; or `pocketsphinx`, for English. What is no name is
            given back: a recogniser, or None.

    Raises:
        ConfigError: There is none of that name.
    """
    if not isinstance(name, str):
        return name
    kind, colon, model = name.partition(":")
    if kind == "whisper" and (model or not colon):
        return Whisper(model or None)
    if name == "pocketsphinx":
        return Pocketsphinx()
    raise ConfigError(
        f"{name!r:.80} is no recogniser of speech; {suggest(kind, [*RECOGNISERS, 'whisper:MODEL'])}"
    )


@dataclass(frozen=True)
class Pocketsphinx:
    """CMU Sphinx with the English model that its package carries: no network, many errors."""

    name: str = "pocketsphinx"

    def __call__(self, clip: Clip) -> list[Word]:
        """The words of a clip, see `contract.Recogniser`; each stretch of speech is its own."""
        decoder = _sphinx()
        samples = clip.audio(RATE)
        words: list[Word] = []
        for start, end in speech(clip):
            first = max(start - _AROUND, 0.0)
            part = samples[int(first * RATE) : int((end + _AROUND) * RATE)]
            words += [Word(text, first + a, first + b) for text, (a, b) in heard(decoder, part)]
        return _tidy(words, clip.duration)


@lru_cache(maxsize=1)
def _sphinx() -> Any:
    package = import_extra("pocketsphinx", "asr-offline", "the recogniser pocketsphinx")
    return package.Decoder(samprate=RATE, loglevel="FATAL")


@dataclass(frozen=True)
class Whisper:
    """OpenAI's Whisper, run by faster-whisper, with the times of words.

    Attributes:
        model: A size, a repository of the Hub, or a folder with a model for CTranslate2; None is
            `WHISPER_MODEL`, which then is never downloaded.
    """

    model: str | None = None

    @property
    def name(self) -> str:
        """What a transcript is said to be from."""
        return f"whisper:{self.model or WHISPER_MODEL}"

    def __call__(self, clip: Clip) -> list[Word]:
        """The words of a clip, see `contract.Recogniser`; the language is found out."""
        model = _whisper(self.model)
        samples = clip.audio(RATE)
        if not samples.any():
            return []
        try:
            # Without its detector of speech, it makes up words in silence.
            segments, _ = model.transcribe(samples, word_timestamps=True, vad_filter=True)
            words = [
                Word(word.word.strip(), float(word.start), float(word.end))
                for segment in segments
                for word in segment.words or ()
            ]
        except RuntimeError as error:
            raise ConfigError(
                f"{self.name} cannot run here: {error}. If that is about CUDA, set "
                "CUDA_VISIBLE_DEVICES= to use the processor."
            ) from error
        return _tidy(words, clip.duration)


@lru_cache(maxsize=1)
def _whisper(model: str | None) -> Any:
    """A model, one a process."""
    package = import_extra("faster_whisper", "asr", "the recogniser whisper")
    given = model or WHISPER_MODEL
    source = _whisper_source(given, package.available_models())
    try:
        return package.WhisperModel(source, local_files_only=model is None)
    except Exception as error:  # of the hub, of HTTP, of CTranslate2: no common base
        if source != given or Path(source).is_dir():
            raise ConfigError(
                f"--asr whisper:{shown(given)}: is no folder with a Whisper model for CTranslate2 "
                f"(model.bin, config.json, tokenizer.json): {first_line(error)}."
            ) from error
        if model is None:
            raise ConfigError(
                f"--asr whisper: the model {given} is not on this machine. To download it (0.5 "
                f"GB), write --asr whisper:{given}; other sizes and folders are named so too."
            ) from error
        raise ConfigError(
            f"--asr whisper:{given}: cannot be downloaded: {first_line(error)}. Give a folder that "
            "holds the model, as --asr whisper:FOLDER, or --asr pocketsphinx, which needs no "
            "network."
        ) from error


def _whisper_source(given: str, sizes: Iterable[str]) -> str:
    """What faster-whisper is asked for."""
    sizes = list(sizes)
    if given in sizes:
        return given
    folder = expand(given)
    if Path(folder).is_dir():
        return folder
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", given):
        return given
    raise ConfigError(
        f"--asr whisper:{shown(given)}: is no size, no folder that is there, and no repository; "
        f"{suggest(given, sizes)}"
    )


def _tidy(words: Iterable[Word], duration: float) -> list[Word]:
    """Words with text, in time, inside of the clip."""
    return [
        Word(word.text, start, min(max(word.end, start), duration))
        for word in sorted(words, key=lambda word: word.start)
        if word.text
        for start in [min(max(word.start, 0.0), duration)]
    ]

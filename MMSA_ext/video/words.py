"""What is said in a clip: from a text, from subtitles, or from a recogniser."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from MMSA_ext.errors import ConfigError
from MMSA_ext.video.alignment import joined, split_words, spread, timed
from MMSA_ext.video.contract import Transcript, Word
from MMSA_ext.video.speech import Stretch
from MMSA_ext.video.subtitles import Cue, SubtitleWarning, read_subtitles

if TYPE_CHECKING:
    from MMSA_ext.video.contract import Clip, Recogniser

__all__ = ["cue_words", "transcript"]


def transcript(
    clip: Clip,
    text: str | None = None,
    subtitles: Path | None = None,
    recogniser: Recogniser | None = None,
) -> Transcript:
    """What is said in a clip, and when.

    Args:
        clip: The clip.
        text: What is said, where that is known; an empty text says that nothing is.
        subtitles: A file, in times of the clip's file. Words are spread inside of each cue, so the
            clip's sound is not read.
        recogniser: Asked if there is neither, see `recognition.recogniser`.

    Returns:
        The transcript; with none of the three, an empty one whose source is `none`.

    Raises:
        ConfigError: Both text and subtitles are given, or a package or model is not there.
        MediaError: The clip or the subtitles cannot be read.
    """
    if text is not None and subtitles is not None:
        raise ConfigError("text and subtitles are given, and may differ; give one of them.")
    if text is not None:
        if not isinstance(text, str):
            raise ConfigError(f"text is {text!r:.80}; give a string, empty if nothing is said.")
        words, timing, coverage = timed(clip, split_words(text))
        return Transcript(" ".join(text.split()), tuple(words), "given", timing, coverage)
    if subtitles is not None:
        return _of_subtitles(clip, subtitles)
    if recogniser is None:
        return Transcript("")
    return _given(recogniser(clip), recogniser.name)


def cue_words(cue: Cue) -> list[Word]:
    """The words of a cue, spread over it, in the times of its file."""
    return [
        word
        for start, end, text in cue.parts
        for word in spread(split_words(text), [Stretch(start, end)])
    ]


def _of_subtitles(clip: Clip, subtitles: Path) -> Transcript:
    cues, end = read_subtitles(subtitles), clip.start + clip.duration
    words = [
        Word(
            word.text,
            max(word.start - clip.start, 0.0),
            min(word.end - clip.start, clip.duration),
        )
        for cue in cues
        if cue.start < end and cue.end >= clip.start
        for word in cue_words(cue)
        if clip.start <= (word.start + word.end) / 2 < end
    ]
    if cues and not words:
        warnings.warn(
            f"none of {len(cues)} cues from {cues[0].start:.1f} to {cues[-1].end:.1f} s is in the "
            f"clip, from {clip.start:.1f} to {end:.1f} s; are the subtitles of another video?",
            SubtitleWarning,
            stacklevel=3,
        )
    return _given(words, "subtitles")


def _given(words: Sequence[Word], source: str) -> Transcript:
    """A transcript of words with times."""
    timing, coverage = ("given", 1.0) if words else ("none", 0.0)
    return Transcript(joined([w.text for w in words]), tuple(words), source, timing, coverage)

"""Which stretches of a video are utterances, by the name of the rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from MMSA_ext.errors import ConfigError
from MMSA_ext.video.contract import Transcript
from MMSA_ext.video.speech import Stretch, speech
from MMSA_ext.video.subtitles import read_subtitles
from MMSA_ext.video.utterances import LONGEST, by_cues, by_pauses

if TYPE_CHECKING:
    from MMSA_ext.video.contract import Clip

__all__ = ["Part", "Split", "check_split", "parts"]

Split = Literal["auto", "whole", "pauses", "subtitles"]


@dataclass(frozen=True)
class Part:
    """An utterance.

    Attributes:
        start: Seconds from the start of the video.
        end: Likewise.
        transcript: What is said in it, in seconds from `start`.
    """

    start: float
    end: float
    transcript: Transcript


def check_split(split: str) -> None:
    """Refuse what is none of `Split`, by a ConfigError."""
    if split not in get_args(Split):
        raise ConfigError(f"split is {split!r:.80}; use one of {', '.join(get_args(Split))}.")


def parts(clip: Clip, said: Transcript, split: Split, subtitles: Path | None) -> list[Part]:
    """The utterances of a video.

    Args:
        clip: All of the video.
        said: What is said in it.
        split: `whole` is one utterance; `subtitles` cuts at the ends of sentences of the subtitles,
            `pauses` where nobody speaks. `auto` is `subtitles` where there are some, `whole` of a
            video that is no longer than an utterance, and `pauses` of others.
        subtitles: Their file.

    Returns:
        In time, at least one. Where nothing sounds like speech, stretches of equal length.

    Raises:
        ConfigError: There is no such rule, or no subtitles for it.
        MediaError: The sound or the subtitles cannot be read.
    """
    check_split(split)
    if split == "subtitles" and subtitles is None:
        raise ConfigError("split by subtitles needs subtitles; give a file, or split by pauses.")
    if split == "whole" or (split == "auto" and not subtitles and clip.duration <= LONGEST):
        return [Part(0.0, clip.duration, said)]
    if subtitles is not None and split != "pauses":
        found = by_cues(read_subtitles(subtitles), clip.duration)
    else:
        found = by_pauses(said.words, speech(clip))
    if not found:
        found = by_pauses([], [Stretch(0.0, clip.duration)])
    return [Part(one.start, min(one.end, clip.duration), one.transcript(said)) for one in found]

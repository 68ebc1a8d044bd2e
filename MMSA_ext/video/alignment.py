"""When words are said that are known already."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from MMSA_ext.extras import import_extra
from MMSA_ext.video.contract import Word
from MMSA_ext.video.speech import RATE, Stretch, speech
from MMSA_ext.video.sphinx import heard

if TYPE_CHECKING:
    from MMSA_ext.video.contract import Clip, Samples

__all__ = ["aligned", "joined", "split_words", "spread", "timed"]

# What is written without spaces, and read character by character: Chinese, Japanese.
_IDEOGRAPH = (
    r"[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_OPENING = r"[(\[{<\u00ab\u2018\u201c\u3008\u300a\u300c\u300e\u3010\u3014\uff08\uff3b\uff5b]"
_WORDS = re.compile(
    rf"{_OPENING}{{,3}}{_IDEOGRAPH}(?:(?!{_OPENING})[^\w\s])*|(?:(?!{_OPENING}{{,3}}{_IDEOGRAPH})\S)+"
)
_WIDE = re.compile(rf"{_IDEOGRAPH}|[\u3000-\u3003\u3008-\u3020\uff00-\uff65]")
# Share of the words that the dictionary must have; with less the language is another.
_LEAST_KNOWN = 0.5
# Share of the words that must be found; with less they are not what is said.
_LEAST_FOUND = 0.5
# With the default of 1e-48 the path that is right ends early in most clips, and there is no answer.
_BEAM = 1e-100
# Sounds of letters, and digits in words: roughly right is near enough to find them in the sound.
_SOUNDS = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        [
            *("AE", "B", "K", "D", "EH", "F", "G", "HH", "IH", "JH", "K", "L", "M"),
            *("N", "AA", "P", "K", "R", "S", "T", "AH", "V", "W", "K S", "Y", "Z"),
        ],
        strict=True,
    )
)
_DIGITS = re.compile(r"000|00|[0-9]")
_SAID = dict(
    zip(
        "0123456789",
        "zero one two three four five six seven eight nine".split(),  # noqa: SIM905
        strict=True,
    )
) | {"000": "thousand", "00": "hundred"}
_LEAST_SECONDS = 0.03  # of a sound, which has three states of 10 ms at least
_LEAST_ROOM = 0.06  # seconds for a word that is not found


def split_words(text: str) -> list[str]:
    """Words of a text with their punctuation: by spaces; Chinese and Japanese by characters.

    Chinese characters are what BERT reads as words, so also what `explain` shows.
    """
    return _WORDS.findall(text)


def joined(words: Sequence[str]) -> str:
    """Words as a text: with spaces, but none beside a Chinese or Japanese character."""
    text = ""
    for word in words:
        beside = text and not (_WIDE.match(text[-1]) or _WIDE.match(word[0]))
        text += f" {word}" if beside else word
    return text


def spread(words: Sequence[str], stretches: Sequence[Stretch]) -> list[Word]:
    """Words over stretches of time, each as long as its share of the letters.

    A word lies in one stretch, that of its middle, and the words of a stretch fill it.

    Args:
        words: At least one word, or none.
        stretches: At least one, in time.

    Returns:
        As many, in time.
    """
    if not words:
        return []
    weights = np.array([max(1, sum(c.isalnum() for c in word)) for word in words], dtype=float)
    ends = np.cumsum(weights)
    lengths = np.cumsum([end - start for start, end in stretches])
    middles = (ends - weights / 2) * (lengths[-1] / ends[-1])
    at = np.minimum(np.searchsorted(lengths, middles, side="right"), len(stretches) - 1)
    said: list[Word] = []
    for stretch, group in groupby(range(len(words)), key=at.__getitem__):
        members = list(group)
        start, end = stretches[int(stretch)]
        edges = np.concatenate([[0.0], np.cumsum(weights[members])])
        edges = start + (end - start) * edges / edges[-1]
        edges[-1] = end
        said += [
            Word(words[i], float(a), float(b))
            for i, a, b in zip(members, edges[:-1], edges[1:], strict=True)
        ]
    return said


def timed(clip: Clip, words: Sequence[str]) -> tuple[list[Word], str, float]:
    """When the words of a clip are said.

    English words are looked for in the sound (`aligned`); between those that are found, the others
    are spread. Where that finds less than half, all are spread over what sounds like speech, or
    over the clip if nothing does.

    Args:
        clip: The clip.
        words: Its words.

    Returns:
        The words with times, and `timing` and `coverage` as in `Transcript`.

    Raises:
        ConfigError: webrtcvad is not installed.
        MediaError: The file cannot be read.
    """
    if not words:
        return [], "none", 0.0
    whole = [Stretch(0.0, clip.duration)]
    stretches = speech(clip) or whole
    found = _with_room(aligned(words, clip.audio(RATE)), clip.duration)
    coverage = sum(place is not None for place in found) / len(words)
    if coverage < _LEAST_FOUND:
        return spread(words, stretches), "spread", 0.0
    return _filled(words, found, stretches, clip.duration), "aligned", coverage


def _with_room(found: Sequence[Stretch | None], duration: float) -> list[Stretch | None]:
    """Places of words, without those that leave no time for words beside them: they are wrong."""
    places = list(found)
    at = 0
    while at < len(places):
        until = at
        while until < len(places) and places[until] is None:
            until += 1
        before = places[at - 1] if at else None
        after = places[until] if until < len(places) else None
        room = (duration if after is None else after.start) - (before.end if before else 0.0)
        if room >= _LEAST_ROOM * (until - at) or (before is None and after is None):
            at = until + 1
        elif before is not None:
            at -= 1
            places[at] = None
            while at and places[at - 1] is None:
                at -= 1
        else:
            places[until] = None
    return places


def _filled(
    words: Sequence[str],
    found: Sequence[Stretch | None],
    stretches: Sequence[Stretch],
    duration: float,
) -> list[Word]:
    """Words that were found, and between them the others, where there is speech."""
    said: list[Word] = []
    for missing, group in groupby(range(len(words)), key=lambda i: found[i] is None):
        members = list(group)
        if not missing:
            places = [found[i] or Stretch(0.0, 0.0) for i in members]
            said += [
                Word(words[i], min(start, duration), min(end, duration))
                for i, (start, end) in zip(members, places, strict=True)
            ]
            continue
        after = found[members[-1] + 1] if members[-1] + 1 < len(words) else None
        gap = Stretch(said[-1].end if said else 0.0, duration if after is None else after.start)
        inside = [Stretch(max(a, gap.start), min(b, gap.end)) for a, b in stretches]
        places = [place for place in inside if place.end > place.start]
        said += spread([words[i] for i in members], places or [gap])
    return said


def aligned(words: Sequence[str], samples: Samples) -> list[Stretch | None]:
    """Where English words are in a sound, by pocketsphinx's forced alignment.

    A word that its dictionary lacks is looked for letter by letter: it is then found less exactly,
    but its neighbours are not lost.

    Args:
        words: In the order in which they are said.
        samples: (n,) at 16,000 a second.

    Returns:
        From when to when, for each word; None for those not found, such as emoji. All are None
        where other words are said, or no more than half of them are in the dictionary, as in
        another language, and without pocketsphinx.
    """
    found: list[Stretch | None] = [None] * len(words)
    spelled = [_spelled(word) for word in words]
    shortest = _LEAST_SECONDS * sum(map(len, spelled))
    if not 0 < shortest <= len(samples) / RATE or not samples.any():
        return found
    if not importlib.util.find_spec("pocketsphinx"):
        return found
    decoder = _decoder()
    known = sum(bool(parts) and all(map(decoder.lookup_word, parts)) for parts in spelled)
    if known < _LEAST_KNOWN * len(words):
        return found
    sought = [(i, _entry(decoder, part)) for i, parts in enumerate(spelled) for part in parts]
    entries = [entry for _, entry in sought]
    decoder.set_align_text(" ".join(entries))
    said = heard(decoder, samples)
    if [entry for entry, _ in said] != entries:
        return found
    for (i, _), (_, place) in zip(sought, said, strict=True):
        before = found[i]
        found[i] = place if before is None else Stretch(before.start, place.end)
    return found


def _spelled(word: str) -> list[str]:
    """Parts of a word as the dictionary writes them; none of what is not written in letters."""
    plain = unicodedata.normalize("NFKD", word).replace("\u2019", "'").lower()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    if any(c.isalnum() and not c.isascii() for c in plain):
        return []
    plain = _DIGITS.sub(lambda digits: f" {_SAID[digits[0]]} ", plain)
    return [part for part in re.findall(r"[a-z']+", plain) if part.strip("'")]


def _entry(decoder: Any, part: str) -> str:
    """The entry of the dictionary for a part of a word, made of its letters if there is none."""
    if decoder.lookup_word(part):
        return part
    entry = f"{part}~"  # beside the dictionary's own, so that the part remains unknown
    if not decoder.lookup_word(entry):
        decoder.add_word(entry, " ".join(_SOUNDS[letter] for letter in part if letter != "'"), True)
    return entry


@lru_cache(maxsize=1)
def _decoder() -> Any:
    """One a process: reading its dictionary takes 0.15 s."""
    package = import_extra("pocketsphinx", "asr-offline", "alignment")
    # Its search for a better path in what was found loses words at the end.
    beams = {"beam": _BEAM, "pbeam": _BEAM, "wbeam": _BEAM, "bestpath": False}
    return package.Decoder(samprate=RATE, lm=None, loglevel="FATAL", **beams)

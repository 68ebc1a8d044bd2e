"""A long video cut into utterances: at pauses, or by the cues of its subtitles.

Both ways have atoms that are not cut, words or cues, are cut between them where a speaker pauses
or a sentence ends, and are then made neither too short nor too long.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from MMSA_ext.video.alignment import joined
from MMSA_ext.video.contract import Transcript, Word
from MMSA_ext.video.speech import Stretch
from MMSA_ext.video.subtitles import Cue, SubtitleWarning
from MMSA_ext.video.words import cue_words

__all__ = ["LONGEST", "PAUSE", "SHORTEST", "Utterance", "by_cues", "by_pauses"]

# CH-SIMS was cut into clips of 1 to 10 seconds; one of MOSI has 4 on average.
SHORTEST, LONGEST = 1.0, 10.0
# Seconds of silence between utterances: within a sentence, pauses are mostly shorter.
PAUSE = 0.5
_ROUNDING = 1e-6
_LEAST = 0.05  # seconds: a file has no picture and no frame of sound for less
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"')\]\u2019\u201d\u300d\u300f\uff09]*$")
_SENTENCE = 1.0  # seconds of pause that the end of a sentence is worth, where one has to cut


@dataclass(frozen=True)
class Utterance:
    """A stretch of a video in which something is said.

    Attributes:
        start: Seconds from the start of the video.
        end: The same.
        words: What is said, in the times of the video; none where nobody knows.
    """

    start: float
    end: float
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """What is said."""
        return joined([word.text for word in self.words])

    def transcript(self, whole: Transcript) -> Transcript:
        """The transcript of this utterance, whose times begin with it; source etc. of the whole."""
        words = tuple(Word(w.text, w.start - self.start, w.end - self.start) for w in self.words)
        if not words:
            return Transcript("", (), whole.source)
        return replace(whole, text=self.text, words=words)


@dataclass(frozen=True)
class _Atom:
    start: float
    end: float
    words: tuple[Word, ...] = ()


_Pause = Callable[[_Atom, _Atom], float]


def by_pauses(words: Sequence[Word], stretches: Sequence[Stretch]) -> list[Utterance]:
    """Utterances between pauses.

    One below `SHORTEST` joins its nearer neighbour, if both together are not too long and no pause
    of `2 * PAUSE` lies between. One above `LONGEST` is cut where the pause is longest, best at the
    end of a sentence, a stretch without words evenly. A longer word is not cut.

    Args:
        words: Of the whole video, in time; where there are any, sound without words is no
            utterance.
        stretches: That sound like speech, see `speech.speech`.

    Returns:
        In time, without overlap, of 0.05 s at least; every word is in one, silence in none.
    """
    pause = _silence(stretches) if words else _gap
    atoms = _one_after_the_other(words)
    atoms = atoms or [piece for stretch in stretches for piece in _evenly(stretch)]

    def is_end(before: _Atom, after: _Atom) -> bool:
        return pause(before, after) >= PAUSE

    return _utterances(atoms, is_end, pause)


def by_cues(cues: Sequence[Cue], duration: float) -> list[Utterance]:
    """Utterances of subtitles: cues up to the end of a sentence.

    Where no cue ends a sentence, as in subtitles without punctuation, each cue is one. Short ones
    join as in `by_pauses`; a cue that is too long is cut between its words.

    Args:
        cues: As `read_subtitles` gives them; those outside of the video are left out, with a
            `SubtitleWarning`.
        duration: Seconds of the video.

    Returns:
        As `by_pauses`.
    """
    inside = [_until(cue, duration) for cue in cues if 0 <= cue.start < duration]
    if len(inside) < len(cues):
        warnings.warn(
            f"{len(cues) - len(inside)} of {len(cues)} cues begin outside of the video, which has "
            f"{duration:.1f} s, and are left out; are the subtitles of another video?",
            SubtitleWarning,
            stacklevel=2,
        )
    punctuated = any(map(_ends_sentence, inside))

    def is_end(before: _Atom, after: _Atom) -> bool:
        return not punctuated or _ends_sentence(before) or after.start - before.end >= 2 * PAUSE

    return _utterances(inside, is_end, _gap)


def _one_after_the_other(words: Sequence[Word]) -> list[_Atom]:
    atoms: list[_Atom] = []
    at = 0.0
    for word in words:
        start, end = max(word.start, at), max(word.end, at)
        atoms.append(_Atom(start, end, (Word(word.text, start, end),)))
        at = end
    return atoms


def _until(cue: Cue, duration: float) -> _Atom:
    words = [Word(w.text, min(w.start, duration), min(w.end, duration)) for w in cue_words(cue)]
    return _Atom(cue.start, min(cue.end, duration), tuple(words))


def _evenly(stretch: Stretch) -> list[_Atom]:
    count = max(1, math.ceil((stretch.end - stretch.start) / LONGEST - 1e-9))
    edges = np.linspace(stretch.start, stretch.end, count + 1).tolist()
    return [_Atom(a, b) for a, b in pairwise(edges)]


def _gap(before: _Atom, after: _Atom) -> float:
    return after.start - before.end


def _silence(stretches: Sequence[Stretch]) -> _Pause:
    """Seconds between two atoms in which there is no speech."""
    edges = np.array([edge for stretch in stretches for edge in stretch] or [0.0])
    lengths = np.diff(edges, prepend=edges[0])
    lengths[::2] = 0.0
    spoken = np.cumsum(lengths)

    def pause(before: _Atom, after: _Atom) -> float:
        until = np.interp([before.end, after.start], edges, spoken)
        return float(_gap(before, after) - (until[1] - until[0]))

    return pause


def _ends_sentence(atom: _Atom) -> bool:
    return bool(atom.words) and _SENTENCE_END.search(atom.words[-1].text) is not None


def _utterances(
    atoms: Sequence[_Atom],
    is_end: Callable[[_Atom, _Atom], bool],
    pause: _Pause,
) -> list[Utterance]:
    groups: list[list[_Atom]] = []
    for atom in atoms:
        if groups and not is_end(groups[-1][-1], atom):
            groups[-1].append(atom)
        else:
            groups.append([atom])
    pieces = [piece for group in groups for piece in _short_enough(group, pause)]
    return [_utterance(group) for group in _long_enough(pieces)]


def _utterance(group: Sequence[_Atom]) -> Utterance:
    start, end = group[0].start, group[-1].end
    if end - start < _LEAST:  # it stands alone, see `_belong`
        start = max(start - _LEAST, 0.0)
        end = max(end, start + _LEAST)
    return Utterance(start, end, tuple(word for atom in group for word in atom.words))


def _short_enough(group: list[_Atom], pause: _Pause) -> Iterator[list[_Atom]]:
    """Parts of a group that are not too long, if its atoms are not."""
    left = [group]
    while left:
        part = left.pop()
        if _length(part) <= LONGEST + _ROUNDING:
            yield part
        elif len(part) > 1:
            at = _best_cut(part, pause)
            left += [part[at:], part[:at]]
        elif len(part[0].words) > 1:
            left.append([_Atom(word.start, word.end, (word,)) for word in part[0].words])
        else:
            yield part


def _best_cut(part: list[_Atom], pause: _Pause) -> int:
    """Before which atom: one that leaves enough on both sides, after the longest pause."""
    start, end = part[0].start, part[-1].end

    def worth(at: int) -> tuple[bool, float, float]:
        before, after = part[at - 1], part[at]
        middle = (before.end + after.start) / 2
        enough = min(before.end - start, end - after.start) >= SHORTEST
        gain = pause(before, after) + _SENTENCE * _ends_sentence(before)
        return enough, round(gain, 1), -abs(middle - (start + end) / 2)

    return max(range(1, len(part)), key=worth)


def _long_enough(pieces: Sequence[list[_Atom]]) -> list[list[_Atom]]:
    """Pieces of which the short ones have joined the nearer neighbour, where that is near."""
    joined_up: list[list[_Atom]] = []
    for k, piece in enumerate(pieces):
        following = pieces[k + 1] if k + 1 < len(pieces) else None
        if joined_up and _belong(joined_up[-1], piece, following):
            joined_up[-1] = joined_up[-1] + piece
        else:
            joined_up.append(piece)
    return joined_up


def _belong(last: list[_Atom], piece: list[_Atom], following: list[_Atom] | None) -> bool:
    """Whether a piece joins the one before it, because one of them is too short."""
    gap = piece[0].start - last[-1].end
    if gap >= 2 * PAUSE:
        return False
    if min(_length(last), _length(piece)) < _LEAST:
        return True
    if piece[-1].end - last[0].start > LONGEST:
        return False
    if _length(last) < SHORTEST:
        return True
    is_nearer = following is None or gap < following[0].start - piece[-1].end - _ROUNDING
    return _length(piece) < SHORTEST and is_nearer


def _length(group: Sequence[_Atom]) -> float:
    return group[-1].end - group[0].start

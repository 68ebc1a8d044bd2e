"""Subtitle files, SRT and WebVTT, read into cues that follow each other.

Written here and not left to a library: pysubs2 drops a cue whose times are misspelled without a
word, and keeps WebVTT's times inside of a line as text.
"""

from __future__ import annotations

import codecs
import html
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from MMSA_ext.errors import MediaError
from MMSA_ext.files import read_regular, reason
from MMSA_ext.paths import expand, shown, why_no_file

__all__ = ["Cue", "SubtitleWarning", "read_subtitles"]

_LARGEST = 16 * 2**20  # bytes; a long film has 0.2 MiB of subtitles
_ARROW = "-->"
_TIME = r"(-?)(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_BEGINS_WITH_TIME = re.compile(r"\s*-?(?:\d{1,3}:)?\d{1,2}:\d{2}[.,]\d{3}\s")
_TIME_TAG = re.compile(rf"<{_TIME}>")
# Tags of HTML and WebVTT, styling of SubStation Alpha; "a < b" and "<3" are text.
_STYLING = re.compile(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}")
_INVISIBLE = re.compile("[\u200b-\u200f\u2028-\u202e\u2060\ufeff]")
_HIGH = re.compile(rb"[\x80-\xff]+")
_TOUCHING = 0.05  # seconds between a cue and the one that repeats its last line


class SubtitleWarning(UserWarning):
    """A subtitle file is read, but perhaps not as it was meant."""


@dataclass(frozen=True)
class Cue:
    """What is shown at a time.

    Attributes:
        start: Seconds from the start of the file.
        end: The same, not before `start`.
        text: Without styling, in one line.
        parts: Start, end and text of each piece that has a time of its own, as the words of
            automatic captions; one piece where the cue has one time.
    """

    start: float
    end: float
    text: str
    parts: tuple[tuple[float, float, str], ...]


@dataclass
class _Block:
    """Lines between two lines of times."""

    start: float
    end: float
    lines: list[str]


def read_subtitles(path: str | os.PathLike[str]) -> list[Cue]:
    """Read a subtitle file, SRT or WebVTT, whatever it is called.

    Cues are sorted, one that lasts into the next ends where that begins, and those that begin
    together are one. A line that rolls up, as in automatic captions, is read once. Text in UTF-8,
    UTF-16 with its mark, GB18030 or Windows-1252; the last two are guessed, with a
    `SubtitleWarning`.

    Args:
        path: The file, at most 16 MiB.

    Returns:
        Cues that do not overlap, in time, each with text. Times may be negative, or after the end
        of the video: what is not in a clip, `words.transcript` leaves out.

    Raises:
        MediaError: The file is missing, too large, no text or no subtitles, or a line of times is
            wrong; with the number of the line.
    """
    file = Path(expand(path))
    if why := why_no_file(file, "file"):
        raise MediaError(f"{shown(file)}: {why}.")
    try:
        data = read_regular(file, _LARGEST)
    except OSError as error:
        raise MediaError(f"{shown(file)}: cannot be read: {reason(error)}.") from error
    lines = re.split(r"\r\n|\r|\n", _decoded(file, data))
    is_vtt = lines[0].startswith("WEBVTT")
    blocks = list(_blocks(file, lines, is_vtt))
    if not blocks and not is_vtt:
        raise MediaError(f"{shown(file)}: holds no cue; give subtitles as SRT or WebVTT.")
    if any(_TIME_TAG.search(line) for block in blocks for line in block.lines):
        _unroll(blocks)
    return _in_a_row([cue for block in blocks if (cue := _cue(block)).text])


def _decoded(file: Path, data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in data:
        raise MediaError(f"{shown(file)}: is no text file; give subtitles as SRT or WebVTT.")
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        if encoding == "utf-16":
            raise MediaError(f"{shown(file)}: is no text file, or breaks off.") from None
        encoding = "gb18030" if _looks_chinese(data) else "cp1252"
    text = data.decode(encoding, errors="replace")
    warnings.warn(
        f"{shown(file)}: is not in UTF-8; read as {encoding}, which is a guess. Where characters "
        "are wrong, save it as UTF-8.",
        SubtitleWarning,
        stacklevel=1,  # one place, so that it is said once of a file that is read twice
    )
    return text


def _looks_chinese(data: bytes) -> bool:
    """Whether it is GB18030: bytes above 127 come in pairs, in Western text mostly alone."""
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    runs = _HIGH.findall(data)
    return 2 * sum(len(run) % 2 == 0 for run in runs) > len(runs)


def _blocks(file: Path, lines: list[str], is_vtt: bool) -> Iterator[_Block]:
    block: _Block | None = None
    is_open = not is_vtt  # whether text belongs to the cue: WebVTT ends it by an empty line
    for number, line in enumerate(lines, 1):
        if _ARROW in line:
            start, end = _times(file, number, line)
            if block is not None:
                if not is_vtt and block.lines and block.lines[-1].strip().isdigit():
                    block.lines.pop()  # the number of this cue
                yield block
            block, is_open = _Block(start, end, []), True
        elif is_vtt and not line:
            is_open = False
        elif is_open and line.strip():
            if _BEGINS_WITH_TIME.match(line):
                raise MediaError(_wrong_times(file, number, line))
            if block is not None:
                block.lines.append(line)
            elif not line.strip().isdigit():
                raise MediaError(
                    f"{shown(file)}: line {number}: text before the first times: {line[:40]!r}; "
                    "give subtitles as SRT or WebVTT."
                )
    if block is not None:
        yield block


def _times(file: Path, number: int, line: str) -> tuple[float, float]:
    found = _TIMES.fullmatch(line)
    if found is None:
        raise MediaError(_wrong_times(file, number, line))
    fields = found.groups()
    if any(int(fields[i]) > 59 for i in (2, 3, 7, 8)):
        raise MediaError(_wrong_times(file, number, line))
    start, end = _seconds(*fields[:5]), _seconds(*fields[5:])
    if end < start:
        raise MediaError(f"{shown(file)}: line {number}: ends before it begins: {line.strip()!r}.")
    return start, end


def _wrong_times(file: Path, number: int, line: str) -> str:
    return (
        f"{shown(file)}: line {number}: {line.strip()[:60]!r} are no times; write them as "
        "00:00:01,000 --> 00:00:02,500."
    )


def _seconds(sign: str, hours: str | None, minutes: str, seconds: str, part: str | None) -> float:
    whole = 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds)
    time = whole + float(f"0.{part or 0}")
    return -time if sign else time


def _unroll(blocks: list[_Block]) -> None:
    """Take out lines that the cue before has shown: automatic captions roll up line by line."""
    shown_before: list[str] = []
    ended = -1.0
    for block in blocks:
        clean = [_plain(line) for line in block.lines]
        follows = abs(block.start - ended) <= _TOUCHING
        if follows and clean and clean[0] in shown_before:
            block.lines = block.lines[1:]
        shown_before, ended = [line for line in clean if line][-1:] or shown_before, block.end


def _plain(line: str) -> str:
    text = html.unescape(_STYLING.sub("", _TIME_TAG.sub("", line)))
    return " ".join(_INVISIBLE.sub("", text).split())


def _cue(block: _Block) -> Cue:
    """The cue of a block; its times inside of the text begin new parts."""
    text = " ".join(block.lines)
    tags = list(_TIME_TAG.finditer(text))
    begins = [block.start]
    for tag in tags:
        begins.append(min(max(_seconds(*tag.groups()), begins[-1]), block.end))
    edges = [0, *(edge for tag in tags for edge in tag.span()), len(text)]
    texts = [_plain(text[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    ends = [*begins[1:], block.end]
    parts = tuple(part for part in zip(begins, ends, texts, strict=True) if part[2])
    return Cue(block.start, block.end, _plain(text), parts)


def _in_a_row(cues: list[Cue]) -> list[Cue]:
    """Cues in time that do not overlap."""
    row: list[Cue] = []
    for cue in sorted(cues, key=lambda cue: cue.start):
        if row and row[-1].start == cue.start:
            last = row.pop()
            end, text = max(last.end, cue.end), f"{last.text} {cue.text}"
            row.append(Cue(cue.start, end, text, ((cue.start, end, text),)))
            continue
        if row and row[-1].end > cue.start:
            row[-1] = _until(row[-1], cue.start)
        row.append(cue)
    return row


def _until(cue: Cue, end: float) -> Cue:
    parts = tuple((min(a, end), min(b, end), text) for a, b, text in cue.parts)
    return replace(cue, end=end, parts=parts)

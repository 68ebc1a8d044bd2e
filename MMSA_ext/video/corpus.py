"""What is to be extracted: a table of clips, a folder of files, or one file.

A table is a CSV as `data.convert.table` reads it, with a column `path` (relative to the table), and
where they are wanted `start`, `end` (seconds) and `subtitles`. Without `path`, the clip of an id
`video$_$clip` is looked for as `video/clip.*` beside the table or in a folder `Raw` there, as in
MMSA's data sets.
"""

from __future__ import annotations

import glob
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from MMSA_ext.data.feature_layout import SINGLE
from MMSA_ext.data.samples import Sample
from MMSA_ext.errors import ConfigError, MediaError
from MMSA_ext.files import read_regular, reason
from MMSA_ext.paths import expand, shown
from MMSA_ext.video.clip_features import Request

if TYPE_CHECKING:
    import pandas as pd

    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport

__all__ = ["Item", "beside", "is_media", "is_table", "media_files", "read_corpus"]

_MEDIA = (
    *(".3gp", ".asf", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".mxf", ".ogv", ".ts", ".webm", ".wmv"),
    *(".aac", ".aiff", ".caf", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"),
)
_TABLES = (".csv", ".tsv")
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("file", "video", "video_path", "audio_path", "filename"),
    "start": ("start_time", "begin"),
    "end": ("end_time", "stop"),
    "subtitles": ("srt", "vtt"),
}
_LARGEST_TEXT = 1 << 20


@dataclass(frozen=True)
class Item:
    """A clip of a corpus: its id, split and labels, and what is extracted."""

    sample: Sample
    request: Request


def is_media(path: Path) -> bool:
    """Whether a name is that of a video or audio file."""
    return path.suffix.lower() in _MEDIA


def is_table(path: Path) -> bool:
    """Whether a source is a table of clips."""
    return path.suffix.lower() in _TABLES and not path.is_dir()


def media_files(folder: Path) -> list[Path]:
    """The video and audio files of a folder and those in it, but for hidden ones.

    What has such a name and is no file, such as a broken link, is among them, to be told.
    """
    found = (path for path in folder.rglob("*") if is_media(path) and not path.is_dir())
    return sorted(
        p for p in found if not any(n.startswith(".") for n in p.relative_to(folder).parts)
    )


def read_corpus(source: Path, options: Options, report: ConversionReport) -> list[Item]:
    """The clips of a source, in its order.

    Args:
        source: Table, folder, or video or audio file.
        options: Columns, and how splits are made; of a table alone.
        report: Receives problems and notes.

    Raises:
        FeatureFileError: The table cannot be read.
        ConfigError: An option means nothing to the source, or a column that was named is not there.
        MediaError: A folder holds no such file.
    """
    if is_table(source):
        return _of_table(source, options, report)
    if given := [name for name, value in vars(options).items() if value not in (None, {})]:
        raise ConfigError(f"{given[0]} means nothing to {shown(source)}; it goes with a table.")
    return _of_folder(source, report) if source.is_dir() else [_of_file(source)]


def _of_file(file: Path) -> Item:
    text, subtitles = beside(file)
    sample = Sample(file.stem, SINGLE)
    return Item(sample, Request(file, text=text, subtitles=subtitles))


def _of_folder(folder: Path, report: ConversionReport) -> list[Item]:
    if not (files := media_files(folder)):
        raise MediaError(f"{shown(folder)}: holds no video or audio file.")
    report.note("A folder has neither labels nor splits: all samples are of split test.")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
    items = []
    counts = Counter(names)
    for path, name in zip(files, names, strict=True):
        if counts[name] > 1:  # a.mp4 beside a.wav
            name = path.relative_to(folder).as_posix()
        items.append(replace(_of_file(path), sample=Sample(name, "test")))
    return items


def beside(file: Path) -> tuple[str | None, Path | None]:
    """Transcript and subtitles of a video, from files of the same name beside it.

    Raises:
        MediaError: The transcript cannot be read.
    """
    subtitles = (file.with_suffix(suffix) for suffix in (".srt", ".vtt"))
    if found := next(filter(Path.is_file, subtitles), None):
        return None, found
    text = file.with_suffix(".txt")
    if not text.is_file():
        return None, None
    try:
        return read_regular(text, _LARGEST_TEXT).decode("utf-8-sig").strip() or None, None
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{shown(text)}: is no text in UTF-8 ({reason(error)}).") from None


def _of_table(table: Path, options: Options, report: ConversionReport) -> list[Item]:
    from MMSA_ext.data.convert.columns import find_columns, utterances
    from MMSA_ext.data.tables import read_table

    frame = read_table(table)
    found = find_columns(list(frame.columns), options, report, more=_COLUMNS)
    if "path" not in found and "id" not in found:
        raise ConfigError(
            f"{shown(table)} has no column 'path'; name it by --column path=NAME. The columns are "
            f"{', '.join(frame.columns)}."
        )
    samples = utterances(frame, found, _by_video(frame, found, options), report)
    cells: dict[str, list[str]] = {
        name: frame[found[name][0]].str.strip().tolist()
        for name in ("path", "start", "end", "subtitles")
        if name in found
    }
    items = []
    for row, sample in enumerate(samples):
        own: dict[str, str] = {name: values[row] for name, values in cells.items()}
        items.append(Item(sample, _request(table.parent, own, sample, report)))
    return items


def _by_video(frame: pd.DataFrame, found: Mapping[str, list[str]], options: Options) -> Options:
    """The options; splits that are to be made keep a video together, unless told otherwise."""
    if options.group or "split" in found or "label" not in found:
        return options
    group = "video_id" if "video_id" in frame else found["path"][0] if "path" in found else None
    return replace(options, group=group)


def _request(
    folder: Path, cells: Mapping[str, str], sample: Sample, report: ConversionReport
) -> Request:
    place = f"id {sample.id!r}"
    path = folder / expand(cells["path"]) if "path" in cells else _by_id(folder, sample.id)
    if not cells.get("path", "here"):
        report.problem("path is empty", place, "Name the video or audio file.")
    times = {name: _seconds(name, cells.get(name, ""), place, report) for name in ("start", "end")}
    start, end = times["start"] or 0.0, times["end"]
    if end is not None and end <= start:
        report.problem("end is not behind start", f"{place} has {start:g} and {end:g}")
    text, told = sample.raw_text.strip(), cells.get("subtitles")
    subtitles = folder / expand(told) if told and not text else None
    return Request(path, start, end, text or None, subtitles)


def _by_id(folder: Path, name: str) -> Path:
    """The file of an id; one that is not there where there is none."""
    *video, clip = name.split("$_$")
    for root in (folder, folder / "Raw"):
        inside = root.joinpath(*video)
        for path in sorted(inside.glob(f"{glob.escape(clip)}.*")):
            if is_media(path):
                return path
    return folder.joinpath(*video, f"{clip}.mp4")


def _seconds(name: str, cell: str, place: str, report: ConversionReport) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
        if value >= 0 and math.isfinite(value):
            return value
    except ValueError:
        pass
    report.problem(f"{name} is no number of seconds", f"{place} has {cell[:40]!r}")
    return None

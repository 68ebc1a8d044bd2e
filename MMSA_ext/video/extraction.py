"""Videos into a feature file: extracted, several at once, kept clip by clip, and written."""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from joblib import cpu_count
from tqdm import tqdm

from MMSA_ext.data.convert.checking import checked
from MMSA_ext.data.convert.options import Options
from MMSA_ext.data.convert.report import ConversionReport, Spread
from MMSA_ext.data.convert.writing import Incomplete, Writing
from MMSA_ext.data.feature_report import printable, text_table
from MMSA_ext.data.fit_lengths import TooLong
from MMSA_ext.data.samples import Sample
from MMSA_ext.errors import ConfigError, FeatureFileError, MediaError, MMSAExtError, one_line
from MMSA_ext.paths import check_output, expand, expand_given, shown
from MMSA_ext.processes import (
    THREADS_VARIABLE,
    LostWorkerError,
    Process,
    end,
    threads_of_new_processes,
)
from MMSA_ext.stopping import Stopped
from MMSA_ext.validation import whole_number
from MMSA_ext.video.clip_cache import ClipCache, opened_cache
from MMSA_ext.video.clip_features import Extraction, Request, frames_of, missing
from MMSA_ext.video.contract import Extractor, Recogniser, Transcript
from MMSA_ext.video.corpus import Item, is_table, read_corpus
from MMSA_ext.video.extractors import checked_extractor, extractor
from MMSA_ext.video.media import open_clip
from MMSA_ext.video.recognition import recogniser as recogniser_of
from MMSA_ext.video.splitting import Split, check_split, parts

__all__ = ["ExtractionReport", "extract"]

PathLike = str | os.PathLike[str]
_GO_ON = "What was extracted is kept; the same command goes on from there."
_KEPT = "What was extracted is kept in the cache, and not extracted again."
_NOT_KEPT = "Nothing is kept without the cache; with it, the same command goes on from there."


@dataclass
class ExtractionReport(ConversionReport):
    """What was extracted, beside what a conversion reports.

    Attributes:
        found: Modality -> share of each clip's frames that describe what was looked for.
        failed: Id of a clip that could not be extracted -> why.
    """

    found: dict[str, Spread] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def render(self) -> str:
        """The whole report as plain text."""
        columns = dict.fromkeys(("modality", "clips", "share found, min / mean / max"), "")
        rows = [[name, spread.count, str(spread)] for name, spread in self.found.items()]
        found = printable(text_table(columns, rows)) + "\n\n" if rows else ""
        return found + super().render()


def extract(
    source: PathLike,
    output: PathLike,
    *,
    audio: str | Extractor | None = "sims33",
    vision: str | Extractor | None = "facemesh",
    recogniser: str | Recogniser | None = None,
    pretrained: str | None = None,
    text: str | None = None,
    subtitles: PathLike | None = None,
    split: Split = "whole",
    jobs: int = 1,
    cache: bool | PathLike = True,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    seed: int | None = None,
    shares: Sequence[float] | None = None,
    max_length: Mapping[str, int] | None = None,
    too_long: TooLong = "cut",
    incomplete: Incomplete = "error",
    shards: int | None = None,
    progress: bool = True,
) -> ExtractionReport:
    """Extract features of videos into a feature file, or into shards.

    A modality that a clip lacks, such as a face, is a frame of zeros there, and said; one that all
    clips lack is absent. What was extracted of a clip is kept by the content of its file, so a
    command that was ended goes on, and nothing is extracted twice.

    Args:
        source: CSV of clips, folder of video and audio files, or one such file; see `video.corpus`
            and docs/video.md.
        output: File to write; with `shards` a folder.
        audio: Extractor, or its name; None leaves audio out.
        vision: Likewise.
        recogniser: What recognises speech where there is no transcript, or its name.
        pretrained: Encoder whose tokenizer fills `text_bert`.
        text: Transcript of one file.
        subtitles: Subtitles of one file.
        split: What of one file is a sample, see `runs.video_scoring.score_video`.
        jobs: Processes that extract.
        cache: Whether clips are kept in the user's cache; or a folder for them.
        columns: As `convert`.
        group: As `convert`; splits that are made keep a video in one, unless this says otherwise.
        seed: As `convert`.
        shares: As `convert`.
        max_length: As `convert`.
        too_long: As `convert`.
        incomplete: As `convert`; of clips that cannot be extracted, too.
        shards: As `convert`.
        progress: Show a progress bar with the time left.

    Returns:
        What was done; print `report.render()`.

    Raises:
        FeatureFileError: The table cannot be used, or clips cannot be extracted; all are named.
        ConfigError: An option is not usable, or a package is not installed.
        MediaError: A folder holds no video or audio file.
        TextEncoderError: The tokenizer cannot be loaded.
        WriteError: The disk refuses.
    """
    path = Path(expand(source))
    whole_number("jobs", jobs, 1)
    check_split(split)
    writing = Writing.of(
        path,
        output,
        max_length=max_length,
        too_long=too_long,
        incomplete=incomplete,
        pretrained=pretrained,
        shards=shards,
    )
    options = Options.of(columns, group=group, seed=seed, shares=shares)
    extractors, own = _extractors(audio, vision), recogniser_of(recogniser)
    report = ExtractionReport(path, "video")
    items = _with_words(read_corpus(path, options, report), path, text, subtitles)
    _check_early(items, path, report, writing)
    with opened_cache(cache) as kept:
        extraction = Extraction(extractors, own, kept)
        if split != "whole":
            items = _split(extraction, items, path, split)
        outcomes = _all_outcomes(extraction, items, jobs, progress)
        absent = _tell(items, outcomes, extractors, report)
        _tell_failed(items, outcomes, report, writing, kept)
        recipe = {key: made for key, made in extraction.recipe.items() if key not in absent}
        if "text" in absent and pretrained is not None:
            report.note("No clip has a transcript: there are no tokens.")
            writing = replace(writing, pretrained=None)
        samples = _samples(items, outcomes, extractors, absent, kept, report)
        writing.write(samples, report, recipe)
    return report


def _extractors(
    audio: str | Extractor | None, vision: str | Extractor | None
) -> dict[str, Extractor]:
    found: dict[str, Extractor] = {}
    for modality, given in (("audio", audio), ("vision", vision)):
        if given is not None:
            made = extractor(given) if isinstance(given, str) else given
            found[modality] = checked_extractor(made, modality)
    return found


def _with_words(
    items: list[Item], path: Path, text: str | None, subtitles: PathLike | None
) -> list[Item]:
    if text is None and subtitles is None:
        return items
    if path.is_dir() or is_table(path):
        raise ConfigError("text and subtitles are of one file; a table has columns for them.")
    if not isinstance(text, str | None):
        raise ConfigError(f"text is {text!r:.80}; give a string, empty if nothing is said.")
    given = expand_given(subtitles)
    words = {"text": text, "subtitles": Path(given) if given else None}
    return [replace(items[0], request=replace(items[0].request, **words))]  # type: ignore[arg-type]


def _check_early(
    items: list[Item], source: Path, report: ExtractionReport, writing: Writing
) -> None:
    """Find what is wrong before hours of work: times, files, ids and labels."""
    read = (path for item in items for path in (item.request.path, item.request.subtitles) if path)
    check_output(writing.output, *dict.fromkeys(read))
    mend = "Paths are relative to the table." if is_table(source) else ""
    for item in items:
        path = item.request.path
        if not path.is_file() and writing.incomplete == "error":
            report.problem("there is no such file", f"id {item.sample.id!r}: {shown(path)}", mend)
    report.raise_problems()
    known = ConversionReport(report.source, report.form, expected=report.expected)
    samples = (item.sample for item in items)
    deque(checked(samples, known, {}, writing.too_long, writing.incomplete), maxlen=0)


def _split(extraction: Extraction, items: list[Item], path: Path, split: Split) -> list[Item]:
    """The utterances of one file."""
    if path.is_dir() or is_table(path):
        raise ConfigError(f"split={split!r} is of one video; a table says start and end.")
    request = items[0].request
    clip = open_clip(request.path)
    said = extraction.transcript(request, clip)
    found = parts(clip, said, split, request.subtitles)
    width = len(str(len(found)))
    return [
        Item(
            Sample(f"{path.stem}$_${number:0{width}}", "test"),
            Request(path, part.start, part.end, part.transcript.text),
        )
        for number, part in enumerate(found, 1)
    ]


@dataclass(frozen=True)
class _Outcome:
    """What became of a clip; its tracks are in the cache."""

    keys: dict[str, str] = field(default_factory=dict)
    found: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    text: str = ""
    damage: str = ""
    error: str = ""
    fatal: MMSAExtError | None = None


@dataclass(frozen=True)
class _Server:
    """Extracts clips; an error of a clip is its outcome, and does not stop the others."""

    extraction: Extraction

    def execute(self, request: Request) -> _Outcome:
        try:
            clip = open_clip(request.path, request.start, request.end)
            tracks, damage = self.extraction.tracks(request, clip)
            if request.text is None:
                said = self.extraction.transcript(request, clip)
            else:  # nobody asks for the times of the words
                said = Transcript(request.text, source="given")
        except MediaError as error:
            return _Outcome(error=str(error))
        except MMSAExtError as error:  # of all clips alike
            return _Outcome(fatal=error)
        keys = {name: self.extraction.key(request, name) for name in tracks}
        found = {name: track.found for name, track in tracks.items()}
        return _Outcome(keys, found, missing(tracks, said), said.text, damage)

    def close(self) -> None:
        """Nothing is open."""


def _all_outcomes(
    extraction: Extraction, items: list[Item], jobs: int, progress: bool
) -> list[_Outcome]:
    """What became of each clip, in their order."""
    requests = [item.request for item in items]
    made = _parallel if jobs > 1 and len(requests) > 1 else _one_by_one
    outcomes: dict[int, _Outcome] = {}
    bar = partial(tqdm, total=len(requests), unit=" clips", desc="extract")
    try:
        with bar(disable=None if progress else True) as progress_bar:
            for number, outcome in made(extraction, requests, min(jobs, len(requests))):
                if outcome.fatal is not None:
                    raise outcome.fatal
                outcomes[number] = outcome
                progress_bar.update()
    except Stopped as stopped:
        stopped.add_note(_GO_ON if extraction.cache.lasts else _NOT_KEPT)
        raise
    return [outcomes[number] for number in range(len(items))]


def _one_by_one(
    extraction: Extraction, requests: list[Request], jobs: int
) -> Iterator[tuple[int, _Outcome]]:
    server = _Server(extraction)
    for number, request in enumerate(requests):
        yield number, server.execute(request)


def _parallel(
    extraction: Extraction, requests: list[Request], jobs: int
) -> Iterator[tuple[int, _Outcome]]:
    """Outcomes as they come; a clip that ends its process costs itself alone."""
    try:
        pickle.dumps(extraction)
    except Exception as error:
        raise ConfigError(
            "jobs: an extractor or recogniser cannot be handed to other processes "
            f"({one_line(error)}); define its class at the top of a module, or extract in one."
        ) from error
    as_set = THREADS_VARIABLE in os.environ
    share = nullcontext() if as_set else threads_of_new_processes(max(1, cpu_count() // jobs))
    waiting = iter(enumerate(requests))
    busy: dict[Any, tuple[Process, int]] = {}

    def hand_over(process: Process) -> None:
        for number, request in waiting:
            process.send(request)
            busy[process.connection] = process, number
            return

    with share:
        processes = [Process(partial(_Server, extraction)) for _ in range(jobs)]
        try:
            for process in processes:
                hand_over(process)
            while busy:
                for connection in wait(list(busy)):
                    process, number = busy.pop(connection)
                    try:
                        outcome: _Outcome = process.receive()
                    except LostWorkerError as error:
                        outcome = _Outcome(error=str(error))
                    hand_over(process)
                    yield number, outcome
        finally:
            end(processes, patience=0.0)  # an entry of the cache is complete or absent


def _tell(
    items: list[Item],
    outcomes: list[_Outcome],
    extractors: Mapping[str, Extractor],
    report: ExtractionReport,
) -> set[str]:
    """Report what was found and what was not; the modalities that no clip has."""
    sound = [(item.sample.id, o) for item, o in zip(items, outcomes, strict=True) if not o.error]
    asked = ("text", *extractors)
    absent = {key for key in asked if all(key in outcome.missing for _, outcome in sound)}
    for name, outcome in sound:
        for key, share in outcome.found.items():
            report.found.setdefault(key, Spread()).add(share)
        for key, why in outcome.missing.items():
            if key not in absent and key != "text":  # empty texts are counted as they are written
                told = f"{key} is missing, a frame of zeros in its place"
                report.count(told, f"id {name!r} ({why})")
        if outcome.missing.keys() >= set(asked):
            report.count("Nothing at all was found", f"id {name!r}")
        if outcome.damage:
            told = "Damaged, and extracted as far as it can be read"
            report.count(told, f"id {name!r} ({outcome.damage})")
    for key in sorted(absent if sound else ()):
        report.note(f"{key} is missing in all clips ({sound[0][1].missing[key]}): it is absent.")
    if sound and absent >= set(asked):
        report.problem("nothing was found in any clip, so there is nothing to write")
    report.transcripts = "text" not in absent
    return absent


def _tell_failed(
    items: list[Item],
    outcomes: list[_Outcome],
    report: ExtractionReport,
    writing: Writing,
    cache: ClipCache,
) -> None:
    """Report clips that cannot be extracted; where they may be left out, that they are."""
    pairs = zip(items, outcomes, strict=True)
    report.failed = {item.sample.id: outcome.error for item, outcome in pairs if outcome.error}
    none_left = len(report.failed) == len(items)
    drop = writing.incomplete == "drop" and not none_left
    for name, why in report.failed.items():
        said = f"id {name!r}: {why.removesuffix('.')}"
        if drop:
            report.note(f"Left out, cannot be extracted: {said}.")
        else:
            report.problem(said)
    if report.failed and not drop:
        mend = "Mend or remove them."
        if not none_left:
            mend = "Mend or remove them, or leave them out by --incomplete drop. "
            mend += _KEPT if cache.lasts else _NOT_KEPT
        report.problem(f"{len(report.failed)} of {len(items)} clips cannot be extracted", mend=mend)
        report.raise_problems()


def _samples(
    items: list[Item],
    outcomes: list[_Outcome],
    extractors: Mapping[str, Extractor],
    absent: set[str],
    kept: ClipCache,
    report: ExtractionReport,
) -> Iterator[Sample]:
    for item, outcome in zip(items, outcomes, strict=True):
        if outcome.error:
            continue
        arrays: dict[str, Any] = {}
        for modality, maker in extractors.items():
            if modality in absent:
                continue
            found = kept.track(outcome.keys[modality], maker.width)
            if found is None:
                raise FeatureFileError(
                    f"{kept.folder}: what was extracted of {item.request.path} was removed "
                    "meanwhile; start the command again."
                )
            track, _ = found
            arrays[modality] = frames_of(track, maker.width)
            report.arrived(item.sample.split, modality, len(track.frames))
        yield replace(item.sample, raw_text=outcome.text, **arrays)

"""Scores of a video: extracted as the features of a checkpoint's training were, then scored.

Both steps stand apart, so that an edited transcript is scored without extracting anew:

    features = extract_video(scorer, "new.mp4")
    score = score_features(scorer, features)
    again = score_features(scorer, features.with_texts(["what was really said"]))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from MMSA_ext.data.feature_layout import SINGLE
from MMSA_ext.data.recipes import Recipe, described
from MMSA_ext.data.utterances import Utterances
from MMSA_ext.errors import CheckpointError, ConfigError, MediaError
from MMSA_ext.names import FRAMES, MODALITIES
from MMSA_ext.paths import expand, shown
from MMSA_ext.runs.prediction import Scorer
from MMSA_ext.video.clip_cache import opened_cache
from MMSA_ext.video.clip_features import Extraction, Request, frames_of, joined_damage, missing
from MMSA_ext.video.contract import Extractor, Recogniser, Track, Transcript, Word
from MMSA_ext.video.extractors import extractor, list_extractors, options_of
from MMSA_ext.video.media import open_clip
from MMSA_ext.video.recognition import recogniser as recogniser_of
from MMSA_ext.video.splitting import Part, Split, parts
from MMSA_ext.video.words import transcript

__all__ = [
    "UtteranceFeatures",
    "UtteranceScore",
    "VideoFeatures",
    "VideoScore",
    "extract_video",
    "extractors_of",
    "score_features",
    "score_video",
    "to_utterances",
]

# Official features whose programs are not to be had, by (data set, modality, width).
_NOT_TO_BE_HAD = {
    ("mosi", "audio", 5): "COVAREP",
    ("mosi", "vision", 20): "FACET",
    ("mosei", "audio", 74): "COVAREP",
    ("mosei", "vision", 35): "FACET",
}
_MEND = (
    "Extract the videos of a corpus with `mmsa-ext extract CORPUS.csv -o features.pkl`, train on "
    "that file, and score with that checkpoint (docs/video.md)."
)


@dataclass(frozen=True)
class UtteranceFeatures:
    """An utterance of a video, extracted.

    Attributes:
        start: Seconds from the start of the file.
        end: Likewise.
        transcript: What is said; times of words are seconds from `start`.
        tracks: `audio`, `vision`, those that the model reads; their times are from `start`.
        error: Why it could not be extracted; empty if it was.
    """

    start: float
    end: float
    transcript: Transcript
    tracks: dict[str, Track]
    error: str = ""


@dataclass(frozen=True)
class VideoFeatures:
    """A video, extracted.

    Attributes:
        path: The file.
        duration: Seconds.
        recipe: Who made the tracks.
        utterances: In time; at least one.
        damage: What is wrong with the file, as a sentence's part; empty if it is sound.
    """

    path: Path
    duration: float
    recipe: Recipe
    utterances: tuple[UtteranceFeatures, ...]
    damage: str = ""

    def with_texts(self, texts: Sequence[str]) -> VideoFeatures:
        """The same with other transcripts; words of one that changes get new times.

        Args:
            texts: One an utterance.

        Raises:
            ConfigError: There are more or fewer, or one is no string.
            MediaError: The file, which is listened to for the times, is gone.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if odd := [text for text in texts if not isinstance(text, str)]:
            raise ConfigError(f"a text is {odd[0]!r:.80}; give strings, empty if nothing is said.")
        if len(texts) != len(self.utterances):
            raise ConfigError(
                f"{len(texts)} texts are given for {len(self.utterances)} utterances; give as many."
            )
        changed = tuple(
            one if text == one.transcript.text else replace(one, transcript=self._timed(one, text))
            for one, text in zip(self.utterances, texts, strict=True)
        )
        return replace(self, utterances=changed)

    def _timed(self, utterance: UtteranceFeatures, text: str) -> Transcript:
        return transcript(open_clip(self.path, utterance.start, utterance.end), text=text)


@dataclass(frozen=True)
class UtteranceScore:
    """The score of an utterance.

    Attributes:
        start: Seconds from the start of the file.
        end: Likewise.
        text: What is said.
        prediction: Sentiment; NaN where there is an error.
        missing: Modality -> why there was nothing of it; the model saw zeros, or no words.
        error: Why there is no prediction; empty where there is one.
    """

    start: float
    end: float
    text: str
    prediction: float
    missing: dict[str, str]
    error: str = ""


@dataclass(frozen=True)
class VideoScore:
    """The scores of a video, and what they were made of.

    Attributes:
        features: What was extracted; `features.utterances[i]` is that of `utterances[i]`.
        label_range: Lowest and highest sentiment of the training data.
        utterances: The scores, in time.
    """

    features: VideoFeatures
    label_range: tuple[float, float]
    utterances: tuple[UtteranceScore, ...]

    @property
    def prediction(self) -> float:
        """Mean over the utterances, each weighted by its length; NaN where none has a score."""
        scored = [one for one in self.utterances if not one.error]
        lengths = [one.end - one.start for one in scored]
        if not scored:
            return math.nan
        weights = lengths if any(lengths) else None  # a sentence alone takes no time
        return float(np.average([one.prediction for one in scored], weights=weights))

    @property
    def words(self) -> list[Word]:
        """All words, in seconds from the start of the file."""
        return [
            Word(word.text, word.start + one.start, word.end + one.start)
            for one in self.features.utterances
            for word in one.transcript.words
        ]

    def shown(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """What extractors give to be shown, in seconds from the start of the file.

        Args:
            name: `loudness` or `face`, see `video.contract.Track.shown`.

        Returns:
            Times (n,) and values (n, ...); both of length 0 where there is nothing.
        """
        found = [
            (track.times + one.start, track.shown[name])
            for one in self.features.utterances
            for track in one.tracks.values()
            if name in track.shown
        ]
        if not found:
            return np.zeros(0), np.zeros(0, np.float32)
        return np.concatenate([t for t, _ in found]), np.concatenate([v for _, v in found])

    def table(self) -> pd.DataFrame:
        """A row an utterance: `video`, `start`, `end`, `text`, `prediction`, `missing`, `error`."""
        rows = [
            {
                "video": str(self.features.path),
                "start": one.start,
                "end": one.end,
                "text": one.text,
                "prediction": one.prediction,
                "missing": "; ".join(f"{key}: {why}" for key, why in one.missing.items()),
                "error": one.error,
            }
            for one in self.utterances
        ]
        return pd.DataFrame(rows)

    def as_json(self) -> dict[str, Any]:
        """Everything but the frames, in JSON's types."""

        def number(value: float) -> float | None:
            return round(value, 6) if math.isfinite(value) else None

        own = zip(self.utterances, self.features.utterances, strict=True)
        return {
            "video": str(self.features.path),
            "duration": number(self.features.duration),
            "damage": self.features.damage,
            "label_range": list(self.label_range),
            "prediction": number(self.prediction),
            "recipe": self.features.recipe,
            "utterances": [
                {
                    "start": number(score.start),
                    "end": number(score.end),
                    "text": score.text,
                    "text_source": features.transcript.source,
                    "word_times": features.transcript.timing,
                    "words": [
                        [word.text, number(word.start + one), number(word.end + one)]
                        for one in [score.start]
                        for word in features.transcript.words
                    ],
                    "prediction": number(score.prediction),
                    "missing": score.missing,
                    "error": score.error,
                }
                for score, features in own
            ],
        }


def score_video(
    scorer: Scorer,
    path: str | Path,
    *,
    text: str | None = None,
    subtitles: str | Path | None = None,
    recogniser: str | Recogniser | None = None,
    split: Split = "auto",
    cache: bool | str | Path = True,
) -> VideoScore:
    """Score a video or audio file, utterance by utterance.

    Args:
        scorer: The trained model; its recipe says how the video is extracted. `too_long="pool"`
            averages the frames of utterances that are longer than any in training; by default such
            a one has an error in place of a score.
        path: The file.
        text: What is said, as a whole.
        subtitles: `.srt` or `.vtt` file of what is said.
        recogniser: What recognises speech, or its name; where neither is given.
        split: `whole` is one utterance; `subtitles` makes one of each, `pauses` cuts where nobody
            speaks, `auto` does what fits the file.
        cache: Whether what is extracted is kept in the user's cache; or a folder for it.

    Raises:
        CheckpointError: The features of its training cannot be made again, or are not known.
        ConfigError: A package is not installed, or an option is not usable.
        FeatureFileError: An extractor of other parameters made the training features.
        MediaError: The file cannot be read, or there is nothing in it that the model reads.
    """
    features = extract_video(
        scorer,
        path,
        text=text,
        subtitles=subtitles,
        recogniser=recogniser,
        split=split,
        cache=cache,
    )
    return score_features(scorer, features)


def extract_video(
    scorer: Scorer,
    path: str | Path,
    *,
    text: str | None = None,
    subtitles: str | Path | None = None,
    recogniser: str | Recogniser | None = None,
    split: Split = "auto",
    cache: bool | str | Path = True,
) -> VideoFeatures:
    """Extract of a video what a model reads, as its training features were extracted.

    Args and raises are those of `score_video`.
    """
    file, given = Path(expand(path)), None if subtitles is None else Path(expand(subtitles))
    own, extractors = recogniser_of(recogniser), extractors_of(scorer)
    with opened_cache(cache) as kept:
        extraction = Extraction(extractors, own, kept)
        in_training = {key: made for key, made in scorer.recipe.items() if key == "text"}
        scorer.check_recipe(in_training | extraction.recipe, file)
        clip = open_clip(file)
        whole = extraction.transcript(Request(file, text=text, subtitles=given), clip)
        found = [
            _extracted(extraction, file, part, clip.duration)
            for part in parts(clip, whole, split, given)
        ]
    damage = joined_damage([clip.damage, *(damage for _, damage in found)])
    utterances = tuple(utterance for utterance, _ in found)
    return VideoFeatures(file, clip.duration, extraction.recipe, utterances, damage)


def _extracted(
    extraction: Extraction, file: Path, part: Part, duration: float
) -> tuple[UtteranceFeatures, str]:
    """An utterance, and what of the file was found to be damaged."""
    end = part.end if part.end < duration else None
    made = UtteranceFeatures(part.start, part.end, part.transcript, {})
    try:
        clip = open_clip(file, part.start, end)
        tracks, damage = extraction.tracks(Request(file, part.start, end), clip)
    except MediaError as error:
        return replace(made, error=str(error)), ""
    return replace(made, tracks=tracks), damage


def extractors_of(scorer: Scorer) -> dict[str, Extractor]:
    """What extracts a video for a model, by modality that it reads, with the options of training.

    Raises:
        CheckpointError: Its features cannot be made again, or nobody knows who made them.
        ConfigError: A package is not installed.
    """
    if "text" in scorer.reads and not scorer.args.get("use_bert"):
        raise CheckpointError(
            f"{scorer.path}: {scorer.args.model_name} reads word vectors, which are not made of a "
            "video; models that read tokens are (docs/video.md)."
        )
    known = {entry.recipe_name or entry.name: entry for entry in list_extractors()}
    found = {}
    for modality in (modality for modality in FRAMES if modality in scorer.reads):
        made, width = scorer.recipe.get(modality), _width(scorer, modality)
        if made is None or made["name"] not in known:
            raise CheckpointError(
                f"{scorer.path}: {_why_not(scorer, modality)}, so no video can be scored. {_MEND}"
            )
        entry = known[made["name"]]
        told = {key: value for key, value in made.items() if key not in ("name", "version")}
        told["width"] = width
        options = {key: told[key] for key in options_of(entry) or () if key in told}
        found[modality] = extractor(entry.name, **options)
        if found[modality].width != width:
            raise CheckpointError(
                f"{scorer.path}: was trained on {width} {modality} features a frame, extractor "
                f"{entry.name!r} makes {found[modality].width}, so no video can be scored. {_MEND}"
            )
    return found


def _why_not(scorer: Scorer, modality: str) -> str:
    """Why the training features of a modality cannot be made of a video."""
    if (made := scorer.recipe.get(modality)) is not None:
        known = [entry.name for entry in list_extractors() if entry.modality == modality]
        return (
            f"the {modality} features of its training are by {described(made)}, which is none of "
            f"the extractors here ({', '.join(known)})"
        )
    data, width = str(scorer.args.dataset_name), _width(scorer, modality)
    if official := _NOT_TO_BE_HAD.get((data, modality, width)):
        return (
            f"it was trained on the official {modality} features of {data} ({width} a frame, by "
            f"{official}), which cannot be made again, because {official} cannot be had"
        )
    return (
        f"it does not say who made the {modality} features of its training ({width} a frame), so "
        "they cannot be made again"
    )


def _width(scorer: Scorer, modality: str) -> int:
    return int(scorer.args.feature_dims[MODALITIES.index(modality)])


def score_features(scorer: Scorer, features: VideoFeatures) -> VideoScore:
    """Score a video that was extracted.

    Args:
        scorer: The model that it was extracted for.
        features: What was extracted.

    Raises:
        CheckpointError, TextEncoderError: As `Scorer.score`.
        ConfigError: It was extracted for another model, in another way.
        MediaError: There is nothing in it that the model reads.
    """
    for modality, maker in extractors_of(scorer).items():
        if features.recipe.get(modality) != maker.recipe():
            raise ConfigError(
                f"{shown(features.path)}: its {modality} features were not extracted for "
                f"{scorer.path}; extract them by extract_video with this scorer."
            )
    scores = [_unscored(scorer, one) for one in features.utterances]
    rows = [i for i, score in enumerate(scores) if not score.error]
    if not rows:
        reasons = dict.fromkeys(score.error for score in scores)
        raise MediaError(f"{shown(features.path)}: nothing can be scored: {'; '.join(reasons)}.")
    found = scorer.score(to_utterances(scorer, features, rows), features.path)
    for i, prediction, error in zip(rows, found.prediction, found.errors, strict=True):
        scores[i] = replace(scores[i], prediction=float(prediction), error=error)
    return VideoScore(features, scorer.label_range, tuple(scores))


def _unscored(scorer: Scorer, utterance: UtteranceFeatures) -> UtteranceScore:
    """What is known of an utterance without the model."""
    found = missing(utterance.tracks, utterance.transcript)
    lacks = {key: why for key, why in found.items() if key in scorer.reads}
    error = utterance.error
    if not error and lacks.keys() == set(scorer.reads):
        error = ", ".join(f"no {key} ({why})" for key, why in lacks.items())
    text = utterance.transcript.text
    return UtteranceScore(utterance.start, utterance.end, text, math.nan, lacks, error)


def to_utterances(
    scorer: Scorer, features: VideoFeatures, rows: Sequence[int] | None = None
) -> Utterances:
    """What was extracted as `Scorer.score` takes it; a missing modality is a frame of zeros.

    Args:
        scorer: The model.
        features: What was extracted.
        rows: Which utterances; None is all.
    """
    count = len(features.utterances)
    chosen = [features.utterances[i] for i in (range(count) if rows is None else rows)]
    arrays = {
        modality: [frames_of(one.tracks[modality], _width(scorer, modality)) for one in chosen]
        for modality in FRAMES
        if modality in scorer.reads
    }
    ids = [f"{features.path.stem}$_${i}" for i in range(1, len(chosen) + 1)]
    return Utterances(ids, [SINGLE] * len(ids), [one.transcript.text for one in chosen], arrays)

"""What a model makes of a video or a sentence: its score, and what contributed to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from MMSA_ext.data.encode_text import token_arrays
from MMSA_ext.errors import CheckpointError, ConfigError
from MMSA_ext.explain.attribution import attribute
from MMSA_ext.explain.trained_model import look_into
from MMSA_ext.explain.words import words_of
from MMSA_ext.runs.prediction import Scorer
from MMSA_ext.runs.video_scoring import (
    UtteranceFeatures,
    VideoFeatures,
    VideoScore,
    score_features,
    to_utterances,
)
from MMSA_ext.video.contract import Transcript

__all__ = ["Contributions", "Reading", "as_one_utterance", "in_words", "read"]

_STEPS = 24  # points of the integral; the gap is shown
_EXPLAINED = 20  # utterances; more take longer than a reader waits
# MOSI's scale (Zadeh et al., 2016): a whole number from -3 to 3 each.
_MOSI_WORDS = (
    *("highly negative", "negative", "weakly negative"),
    "neutral",
    *("weakly positive", "positive", "highly positive"),
)
_LEVEL_WORDS = ("very low", "low", "rather low", "in the middle", "rather high", "high")


@dataclass(frozen=True)
class Contributions:
    """What the parts of an utterance add to the prediction for a baseline, in the label's unit.

    Attributes:
        baseline: Prediction for padding in place of every word, and for average frames.
        modalities: By modality that the model reads.
        words: Pieces of the text in order, as they stand there with the spaces behind them, and
            what each adds; empty for a model that reads word vectors.
        gap: Prediction minus baseline and all contributions: the error of the sum.
    """

    baseline: float
    modalities: dict[str, float]
    words: tuple[tuple[str, float], ...]
    gap: float


@dataclass(frozen=True)
class Reading:
    """What is shown.

    Attributes:
        model: Name of the checkpoint.
        architecture: Name of the model.
        reads: Modalities that it reads.
        score: The scores, and what was extracted.
        contributions: One an utterance; None where there is no score, or it was left out.
        unexplained: Why contributions are missing, a sentence; empty where none is.
    """

    model: str
    architecture: str
    reads: tuple[str, ...]
    score: VideoScore
    contributions: tuple[Contributions | None, ...]
    unexplained: str = ""

    @property
    def is_sentence(self) -> bool:
        """Whether there is no file, but a text alone."""
        return not self.score.features.duration


def as_one_utterance(scorer: Scorer, text: str) -> VideoFeatures:
    """A sentence alone, as if it had been extracted for a model.

    Raises:
        ConfigError: There is no text, or the model reads more than text.
    """
    if not text.strip():
        raise ConfigError("there is no text; write a sentence.")
    if more := [modality for modality in scorer.reads if modality != "text"]:
        raise ConfigError(
            f"this model ({scorer.args.model_name}) reads {' and '.join(more)} besides text, which "
            "a sentence alone does not have; give a video, or choose a model of text alone "
            "(text_only)."
        )
    said = Transcript(" ".join(text.split()), source="given")
    return VideoFeatures(Path("sentence"), 0.0, {}, (UtteranceFeatures(0.0, 0.0, said, {}),))


def read(name: str, scorer: Scorer, features: VideoFeatures, *, explain: bool = True) -> Reading:
    """Score what was extracted for a model, and attribute the scores to modalities and words.

    Raises:
        CheckpointError, MediaError, TextEncoderError: As `score_features`.
        FeatureFileError: The sentence cannot be scored.
    """
    score = score_features(scorer, features)
    rows = [i for i, one in enumerate(score.utterances) if explain and not one.error]
    found: list[Contributions | None] = [None] * len(score.utterances)
    unexplained = ""
    try:
        for i, one in zip(rows, _contributions(scorer, score, rows[:_EXPLAINED]), strict=False):
            found[i] = one
    except CheckpointError as error:
        unexplained = str(error)
    if not unexplained and len(rows) > _EXPLAINED:
        unexplained = f"Contributions are computed for the first {_EXPLAINED} utterances alone."
    return Reading(name, scorer.args.model_name, scorer.reads, score, tuple(found), unexplained)


def in_words(score: float, label_range: tuple[float, float]) -> str:
    """A score in the words of its scale.

    Where the scale is symmetric those are the seven of MOSI; of any other scale it is not known
    what is neutral, so the word says how high it is.
    """
    low, high = label_range
    if math.isnan(score):
        return "no score"
    if low == -high:
        return _MOSI_WORDS[3 + round(max(-1.0, min(1.0, score / high)) * 3)]
    share = max(0.0, min(1.0, (score - low) / (high - low)))
    return (*_LEVEL_WORDS, "very high")[round(share * 6)]


def _contributions(scorer: Scorer, score: VideoScore, rows: Sequence[int]) -> list[Contributions]:
    """Contributions to the scores of some utterances.

    Scaled frames are attributed to from their mean in training, which is zero; of a model without
    scaling that mean is not known, and the mean of this video takes its place.
    """
    if not rows:
        return []
    utterances = to_utterances(scorer, score.features, rows)
    trained = look_into(scorer, scorer.features(utterances, score.features.path))
    found = attribute(trained, steps=_STEPS, baseline="zero" if scorer.scaling else "mean")
    texts = [score.utterances[i].text for i in rows]
    return [
        Contributions(
            baseline=float(sample["baseline"]),
            modalities={m: float(sample[f"{m}_sum"]) for m in scorer.reads},
            words=_pieces(scorer, text, found.parts[found.parts["id"] == sample["id"]]),
            gap=float(sample["gap"]),
        )
        for (_, sample), text in zip(found.samples.iterrows(), texts, strict=True)
    ]


def _pieces(scorer: Scorer, text: str, parts: pd.DataFrame) -> tuple[tuple[str, float], ...]:
    """The text cut where the words begin that contributions are known of."""
    if "text" not in scorer.reads or not scorer.args.get("use_bert"):
        return ()
    own = parts[parts["modality"] == "text"]
    values, units = own["attribution"].tolist(), own["unit"].tolist()
    starts = _starts(scorer.tokenizer, text)
    if len(starts) != len(values) or not starts:  # a tokenizer that tells no places, a text cut
        return tuple((f"{unit} ", float(value)) for unit, value in zip(units, values, strict=True))
    ends = [*starts[1:], len(text)]
    starts[0] = 0
    return tuple(
        (text[start:end], float(value))
        for start, end, value in zip(starts, ends, values, strict=True)
    )


def _starts(tokenizer: Any, text: str) -> list[int]:
    """Where each of `words_of` begins in the text; empty where the tokenizer does not tell."""
    if not getattr(tokenizer, "is_fast", False):
        return []
    places = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    (tokens,) = token_arrays(tokenizer, [text])
    index = words_of(tokenizer, tokens.T).index
    firsts = np.flatnonzero(np.diff(index, prepend=-1) * (index >= 0))
    return [places[position][0] for position in firsts]

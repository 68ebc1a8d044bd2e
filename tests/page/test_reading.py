"""Scores, and what they are made of."""

import math

import pytest

from MMSA_ext.errors import ConfigError
from MMSA_ext.page.reading import as_one_utterance, in_words, read
from MMSA_ext.runs.video_scoring import extract_video

TEXT = "Word3,  word4 won't — 中文!"


def test_the_pieces_of_a_sentence_are_the_sentence(scorer):
    model = scorer("text_only")
    reading = read("a", model, as_one_utterance(model, f"\n {TEXT}"))
    (found,) = reading.contributions
    assert "".join(piece for piece, _ in found.words) == "Word3, word4 won't — 中文!"
    assert [piece for piece, _ in found.words][:3] == ["Word3", ", ", "word4 "]
    assert reading.is_sentence


def test_baseline_and_contributions_add_up_to_the_score(scorer, video):
    for name in ("text_only", "dashfusion"):
        model = scorer(name)
        features = extract_video(model, video, text="word3 word4", cache=False)
        reading = read(name, model, features)
        (found,) = reading.contributions
        assert tuple(found.modalities) == model.reads
        total = found.baseline + sum(found.modalities.values()) + found.gap
        assert total == pytest.approx(reading.score.prediction, abs=1e-5)
        assert abs(found.gap) < 0.02
        assert sum(v for _, v in found.words) == pytest.approx(found.modalities["text"], abs=1e-5)
        assert not reading.is_sentence


def test_a_sentence_alone_is_for_a_model_of_text_alone(scorer):
    with pytest.raises(ConfigError, match=r"\(dashfusion\) reads audio and vision besides text"):
        as_one_utterance(scorer("dashfusion"), "word3")
    with pytest.raises(ConfigError, match="there is no text"):
        as_one_utterance(scorer("text_only"), " \n")


def test_a_score_alone_costs_no_attribution(scorer, monkeypatch):
    monkeypatch.setattr("MMSA_ext.page.reading.attribute", None)
    model = scorer("text_only")
    reading = read("a", model, as_one_utterance(model, "word3"), explain=False)
    assert reading.contributions == (None,)
    assert reading.unexplained == ""


def test_more_utterances_than_a_reader_waits_for_are_said(scorer, video, monkeypatch):
    monkeypatch.setattr("MMSA_ext.page.reading._EXPLAINED", 0)
    model = scorer("text_only")
    reading = read("a", model, as_one_utterance(model, "word3"))
    assert reading.contributions == (None,)
    assert reading.unexplained == "Contributions are computed for the first 0 utterances alone."


@pytest.mark.parametrize(
    ("score", "label_range", "words"),
    [
        (0.4, (-3, 3), "neutral"),
        (-0.6, (-3, 3), "weakly negative"),
        (2.0, (-3, 3), "positive"),
        (9.0, (-3, 3), "highly positive"),
        (-0.66, (-1, 1), "negative"),
        (0.0, (0, 10), "very low"),
        (5.0, (0, 10), "in the middle"),
        (10.0, (0, 10), "very high"),
        (math.nan, (-3, 3), "no score"),
    ],
)
def test_a_score_in_words(score, label_range, words):
    assert in_words(score, label_range) == words

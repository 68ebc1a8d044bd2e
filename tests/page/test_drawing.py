"""Readings as HTML."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from MMSA_ext.page import drawing
from MMSA_ext.page.reading import Contributions, Reading
from MMSA_ext.runs.video_scoring import (
    UtteranceFeatures,
    UtteranceScore,
    VideoFeatures,
    VideoScore,
)
from MMSA_ext.video.contract import Track, Transcript

HOSTILE = "<img src=x onerror=alert(1)> & \"'"


def reading(texts=("so good", "so bad"), scores=(1.0, -2.0), **more):
    """Two utterances of 4 s with a pause of 2 s, half of their pictures with a face."""
    times = np.arange(0.05, 4, 0.1)
    boxes = np.tile(np.float32([0.1, 0.2, 0.5, 0.6]), (len(times), 1))
    boxes[::2] = np.nan
    shown = {"loudness": np.full(len(times), -30, np.float32)}
    tracks = {
        "audio": Track(np.zeros((40, 1), np.float32), times, shown=shown),
        "vision": Track(np.zeros((40, 1), np.float32), times, shown={"face": boxes}),
    }
    spans = [(6.0 * i, 6.0 * i + 4) for i in range(len(texts))]
    features = VideoFeatures(
        Path("/secret/clip.mp4"),
        spans[-1][1],
        {},
        tuple(
            UtteranceFeatures(a, b, Transcript(text), tracks)
            for (a, b), text in zip(spans, texts, strict=True)
        ),
    )
    utterances = tuple(
        UtteranceScore(a, b, text, score, {}, "")
        for (a, b), text, score in zip(spans, texts, scores, strict=True)
    )
    parts = {"text": 0.5, "audio": 0.25, "vision": -0.25}
    found = [
        Contributions(0.5, parts, tuple((f"{w} ", 0.5) for w in t.split()), 0.0) for t in texts
    ]
    score = VideoScore(features, (-3.0, 3.0), utterances)
    given = {"model": "m", "architecture": "dashfusion", "reads": ("text", "audio", "vision")}
    return Reading(score=score, contributions=tuple(found), **given | more)


def test_what_a_client_says_is_text():
    one = reading(texts=(HOSTILE,), scores=(1.0,), model=HOSTILE)
    one = replace(one, contributions=(None,), unexplained=HOSTILE)
    drawn = drawing.draw(one, notes=[HOSTILE]) + drawing.draw_parts(one)
    drawn += drawing.draw_error(HOSTILE)
    assert "<img" not in drawn
    assert drawn.count("&lt;img src=x onerror=alert(1)&gt; &amp; &#34;&#39;") == 5
    words = drawing.draw(reading(texts=("<b>bold</b>",), scores=(1.0,)))
    assert "&lt;b&gt;bold&lt;/b&gt;" in words


def test_the_score_stands_on_its_scale_and_over_time():
    drawn = drawing.draw(reading())
    assert "<b>\N{MINUS SIGN}0.50</b> <span>neutral</span>" in drawn
    assert '<i style="left:41.67%">' in drawn
    bars = [part.split('"')[0] for part in drawn.split('title="')[1:] if ":" in part[:24]]
    assert bars == ["0.0\N{EN DASH}4.0 s: +1.00", "6.0\N{EN DASH}10.0 s: \N{MINUS SIGN}2.00"]
    assert "left:60.000%;width:40.000%;top:50%;height:33.33%" in drawn
    assert "the mean of 2 utterances" in drawn
    assert "/secret" not in drawn


def test_a_pause_is_not_loud():
    """The polygon ends where an utterance does."""
    assert drawing.draw(reading()).count("<polygon") == 2


def test_an_utterance_without_a_score_says_why():
    one = reading(scores=(1.0, float("nan")))
    lacks = replace(one.score.utterances[1], error="too long", missing={"vision": "no face"})
    score = replace(one.score, utterances=(one.score.utterances[0], lacks))
    drawn = drawing.draw(replace(one, score=score, contributions=(one.contributions[0], None)))
    assert "<b>+1.00</b>" in drawn
    assert "too long" in drawn
    assert "No face in 1 of 2 utterances: no face." in drawn
    assert "nan" not in drawn.lower()


def test_parts_and_the_share_of_faces():
    drawn = drawing.draw_parts(reading(), [drawing.Face(1.0, "data:,", (1, 2, 3, 4))])
    rows = [row.split("</td>") for row in drawn.split('<th scope="row">')[1:]]
    said = [(row[0].split("<")[0], row[1].split(">")[-1]) for row in rows]
    names = ("start", "words", "sound", "face")
    values = ("+0.50", "+0.50", "+0.25", "\N{MINUS SIGN}0.25")
    assert said == list(zip(names, values, strict=True))
    assert "A face was found in 50 % of the pictures" in drawn
    assert "left:1.0%;top:2.0%;width:3.0%;height:4.0%" in drawn


def test_the_box_is_that_of_the_nearest_picture():
    score = reading().score
    picture = np.zeros((600, 800, 3), np.uint8)
    without, found = drawing.face_strip(score, [(0.06, picture), (0.14, picture)])
    assert without.box is None
    assert found.box == pytest.approx((10, 20, 40, 40))
    assert found.address.startswith("data:image/jpeg;base64,")
    assert len(found.address) < 4000


@pytest.mark.parametrize(("duration", "last"), [(0.4, "0:00"), (10, "0:10"), (75, "1:15")])
def test_ticks_are_few_and_round(duration, last):
    ticks = drawing._ticks(duration)
    assert 1 <= len(ticks) <= 6
    assert ticks[-1][1] == last
    assert ticks[-1][0] <= 100


def test_the_style_names_no_other_place():
    assert "http" not in drawing.style()
    assert "url(" not in drawing.style()

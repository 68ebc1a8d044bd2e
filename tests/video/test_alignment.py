from itertools import pairwise

import numpy as np
import pytest

from MMSA_ext.video.alignment import aligned, joined, split_words, spread, timed
from MMSA_ext.video.speech import Stretch
from tests.video.speaking import RATE, heard, said, silence, voice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Well, don't — it's 2,000 😀!", ["Well,", "don't", "—", "it's", "2,000", "😀!"]),
        ("我喜欢《红楼梦》。你呢!", ["我", "喜", "欢", "《红", "楼", "梦》。", "你", "呢!"]),
        ("用Python写。ok", ["用", "Python", "写。", "ok"]),
        ("???", ["???"]),
        (" \n ", []),
    ],
)
def test_words_of_a_text(text, words):
    assert split_words(text) == words
    assert "".join(words) == "".join(text.split())


def test_words_make_a_text_again():
    for text in ("Well, that is all.", "我喜欢《红楼梦》。你呢!"):
        assert joined(split_words(text)) == text


def test_a_word_lasts_as_its_letters_do_and_never_reaches_over_a_pause():
    words = spread(["aaaa", "bb", "cc"], [Stretch(1, 3), Stretch(10, 12)])
    assert [(w.text, w.start, w.end) for w in words] == [
        ("aaaa", 1, 3), ("bb", 10, 11), ("cc", 11, 12),
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 3, 5000])
def test_any_number_of_words_fits(count):
    words = spread(["a!", "...", "长"] * count, [Stretch(0.5, 0.7), Stretch(1, 2)])
    edges = np.array([(word.start, word.end) for word in words])
    assert len(words) == 3 * count
    assert (np.diff(edges.reshape(-1)) >= 0).all()
    assert edges.min() == (1 if count == 1 else 0.5)  # the first stretch is too short for one
    assert edges.max() == 2


def test_without_speech_words_are_spread_over_the_clip():
    words, timing, coverage = timed(heard(silence(3)), ["好", "看。"])
    assert [(word.start, word.end) for word in words] == [(0, 1.5), (1.5, 3)]
    assert (timing, coverage) == ("spread", 0.0)


def test_chinese_is_spread_over_what_sounds_like_speech():
    clip = heard(np.concatenate([silence(2), voice(2), silence(1)]))
    words, timing, _ = timed(clip, split_words("这部电影真的很好看。"))
    assert timing == "spread"
    assert words[0].start == pytest.approx(2, abs=0.15)
    assert words[-1].end == pytest.approx(4, abs=0.15)


def test_no_words_have_no_times():
    assert timed(heard(voice(1)), []) == ([], "none", 0.0)


@pytest.fixture(scope="module")
def spoken():
    """Words that are said one by one, and when."""
    pytest.importorskip("pocketsphinx")
    text = "the movie was really wonderful but the ending felt a little slow to me"
    words = text.split()
    parts, times, at = [], [], 0.0
    for k, word in enumerate(words):
        parts += [silence(1.0 if k % 5 == 0 else 0.1), said(word)]
        start = at + len(parts[-2]) / RATE
        at = start + len(parts[-1]) / RATE
        times.append((start, at))
    return heard(np.concatenate([*parts, silence(0.5)])), words, np.array(times)


def test_english_words_are_found_where_they_are_said(spoken):
    clip, words, times = spoken
    found, timing, coverage = timed(clip, words)
    assert (timing, coverage) == ("aligned", 1.0)
    errors = np.abs([(word.start, word.end) for word in found] - times)
    assert errors.mean() < 0.1  # they are 0.2 s long on average


def test_words_that_the_dictionary_lacks_do_not_lose_the_others(spoken):
    clip, words, times = spoken
    other = [*words]
    other[1], other[4], other[-1] = "moovee", "wonderfull,", "😀"
    found, timing, coverage = timed(clip, other)
    assert [word.text for word in found] == other
    assert timing == "aligned"
    assert coverage == pytest.approx(13 / 14)
    middles = np.array([(word.start + word.end) / 2 for word in found])
    assert np.abs(middles - times.mean(axis=1)).max() < 0.3
    assert all(a.end <= b.start + 1e-9 for a, b in pairwise(found))
    assert all(word.end > word.start for word in found)


def test_numbers_are_found_as_they_are_said():
    pytest.importorskip("pocketsphinx")
    sound = np.concatenate([silence(0.5), said("it cost"), silence(1), said("2,000 dollars")])
    places = aligned(["it", "cost", "2,000", "dollars"], np.concatenate([sound, silence(0.5)]))
    begins = len(sound) / RATE - len(said("2,000 dollars")) / RATE
    assert places[2].start == pytest.approx(begins, abs=0.1)


def test_other_words_than_are_said_are_not_found(spoken):
    clip, _, _ = spoken
    other = "completely different sentences about mathematics and engineering departments"
    found = aligned(other.split() * 8, clip.audio(RATE))
    assert found == [None] * 64


def test_nothing_is_found_in_silence_or_without_letters():
    assert aligned(["hello"], silence(1)) == [None]
    assert aligned(["...", "123", "好"], voice(1)) == [None] * 3


def test_without_pocketsphinx_words_are_spread(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert aligned(["hello"], voice(1)) == [None]


def test_more_words_than_can_be_said_are_not_looked_for(monkeypatch):
    monkeypatch.setattr("MMSA_ext.video.alignment._decoder", lambda: pytest.fail("looked for"))
    assert aligned(["a"] * 5000, voice(2)) == [None] * 5000

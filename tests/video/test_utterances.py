from itertools import pairwise

import numpy as np
import pytest

from MMSA_ext.video.contract import Transcript, Word
from MMSA_ext.video.speech import Stretch
from MMSA_ext.video.subtitles import Cue, SubtitleWarning
from MMSA_ext.video.utterances import LONGEST, PAUSE, SHORTEST, by_cues, by_pauses


def cue(start, end, text):
    return Cue(start, end, text, ((start, end, text),))


def spans(utterances):
    return [(round(one.start, 6), round(one.end, 6)) for one in utterances]


def check(utterances, texts):
    """Every word is in one utterance, in order and in its time; no two overlap."""
    assert [word.text for one in utterances for word in one.words] == texts
    for one in utterances:
        assert one.end - one.start > 0.04
        assert all(one.start <= word.start <= word.end <= one.end for word in one.words)
    assert all(before.end <= after.start for before, after in pairwise(utterances))


def steady(count, seconds=0.4, every=10**9):
    """Words without a pause, with a full stop after so many."""
    return [
        Word(f"w{k}" + "." * (k % every == every - 1), k * seconds, (k + 1) * seconds)
        for k in range(count)
    ]


def test_pauses_part_utterances_and_silence_is_in_none():
    words = [Word("a", 1, 2), Word("b", 2.2, 3.5), Word("c", 3.5 + PAUSE, 5.5)]
    found = by_pauses(words, [Stretch(0.9, 3.5), Stretch(4, 5.5)])
    assert spans(found) == [(1, 3.5), (4, 5.5)]
    assert [one.text for one in found] == ["a b", "c"]


def test_a_gap_between_words_in_which_somebody_speaks_is_no_pause():
    words = [Word("a", 1, 2), Word("b", 3, 4)]
    assert len(by_pauses(words, [])) == 2
    assert len(by_pauses(words, [Stretch(0.5, 4)])) == 1


def test_sound_without_words_is_no_utterance_where_words_are_known():
    words = [Word("a", 1, 3)]
    assert spans(by_pauses(words, [Stretch(1, 3), Stretch(10, 30)])) == [(1, 3)]
    assert spans(by_pauses([], [Stretch(1, 3), Stretch(10, 30)])) == [(1, 3), (10, 20), (20, 30)]


def test_ten_minutes_without_a_pause_are_cut_at_ends_of_sentences():
    words = steady(1500, every=17)
    found = by_pauses(words, [Stretch(0, 600)])
    check(found, [word.text for word in words])
    assert max(one.end - one.start for one in found) <= LONGEST + 1e-5
    assert sum(one.text.endswith(".") for one in found) > 0.9 * len(found)


def test_without_sentences_it_is_cut_into_similar_parts():
    words = steady(1500)
    found = by_pauses(words, [Stretch(0, 600)])
    check(found, [word.text for word in words])
    lengths = [one.end - one.start for one in found]
    assert LONGEST / 2 < min(lengths) <= max(lengths) <= LONGEST + 1e-5


def test_short_ones_join_the_nearer_neighbour_unless_they_stand_alone():
    words = [Word("a", 0, 3), Word("b", 3.6, 3.8), Word("c", 4.7, 8), Word("alone", 20, 20.3)]
    found = by_pauses(words, [])
    assert [one.text for one in found] == ["a b", "c", "alone"]
    assert found[2].end - found[2].start < SHORTEST


def test_many_short_ones_are_not_heaped_up():
    cues = [cue(k, k + 0.9, f"w{k}") for k in range(10)]
    assert [len(one.words) for one in by_cues(cues, 20)] == [2] * 5


def test_a_word_longer_than_the_limit_stays_whole():
    words = [Word("a", 0, 1), Word("loooong", 1.1, 40), Word("b", 40.1, 41.5)]
    found = by_pauses(words, [])
    check(found, ["a", "loooong", "b"])
    assert (1.1, 40) in spans(found)


def test_silence_has_no_utterances():
    assert by_pauses([], []) == []
    assert by_cues([], 10.0) == []


@pytest.mark.parametrize("at", [0.0, 5.0])
def test_words_at_one_time_are_one_utterance_of_some_length(at):
    found = by_pauses([Word("x", at, at)] * 500, [])
    assert len(found) == 1
    check(found, ["x"] * 500)


def test_overlapping_words_are_in_utterances_that_do_not_overlap():
    words = [Word("a", 3, 5), Word("b", 4, 4.5), Word("c", 4.5, 17), Word("d", 6, 6.1)]
    check(by_pauses(words, []), ["a", "b", "c", "d"])


@pytest.mark.parametrize("seed", range(20))
def test_any_speech_is_cut_into_what_it_has_to_be(seed):
    rng = np.random.default_rng(seed)
    starts = np.cumsum(
        rng.exponential(0.3, 400) + rng.exponential(2, 400) * (rng.random(400) < 0.1)
    )
    ends = starts + rng.exponential(0.3, 400)
    texts = [f"w{k}" + "." * int(rng.random() < 0.1) for k in range(400)]
    words = [Word(*word) for word in zip(texts, starts.tolist(), ends.tolist(), strict=True)]
    found = by_pauses(words, [])
    check(found, texts)
    assert all(len(one.words) == 1 or one.end - one.start < LONGEST + 1e-5 for one in found)
    cues = [
        cue(a, b, text) for text, a, b in zip(texts, starts, [*starts[1:], ends[-1]], strict=True)
    ]
    check(by_cues(cues, 1e4), texts)


def test_cues_are_joined_up_to_the_end_of_a_sentence():
    cues = [cue(0, 2, "I like,"), cue(2, 4, "this film."), cue(4.1, 6, "Do you?"), cue(6, 8, "So")]
    found = by_cues(cues, 10)
    assert [one.text for one in found] == ["I like, this film.", "Do you?", "So"]
    assert spans(found) == [(0, 4), (4.1, 6), (6, 8)]


def test_cues_without_punctuation_are_utterances():
    cues = [cue(0, 2, "我喜欢"), cue(2, 4, "这部电影")]
    assert [one.text for one in by_cues(cues, 10)] == ["我喜欢", "这部电影"]
    ended = [cue(0, 2, "我喜欢"), cue(2, 4, "这部电影。")]
    assert [one.text for one in by_cues(ended, 10)] == ["我喜欢这部电影。"]


def test_a_cue_longer_than_the_limit_is_cut_between_its_words():
    text = "one two three. four five six seven. eight nine ten"
    found = by_cues([cue(0, 60, text)], 60)
    check(found, text.split())
    assert max(one.end - one.start for one in found) <= LONGEST


def test_cues_outside_of_the_video_are_left_out_aloud():
    cues = [cue(-2, 1, "before."), cue(1, 2.5, "in."), cue(9, 12, "ends."), cue(99, 100, "after.")]
    with pytest.warns(SubtitleWarning, match=r"2 of 4 cues begin outside of the video.*10\.0 s"):
        found = by_cues(cues, 10.0)
    assert spans(found) == [(1, 2.5), (9, 10)]
    assert found[1].words[-1].end == 10


def test_an_utterance_has_a_transcript_in_its_own_times():
    whole = Transcript("a b", (Word("a", 1, 2), Word("b", 9, 11)), "given", "aligned", 0.5)
    first, second = by_pauses(whole.words, [])
    assert second.transcript(whole) == Transcript("b", (Word("b", 0, 2),), "given", "aligned", 0.5)
    assert first.transcript(whole).text == "a"
    (empty,) = by_pauses([], [Stretch(0, 2)])
    assert empty.transcript(Transcript("")) == Transcript("")

import numpy as np
import pytest

from MMSA_ext.errors import ConfigError, MediaError
from MMSA_ext.video.contract import Transcript, Word
from MMSA_ext.video.subtitles import SubtitleWarning
from MMSA_ext.video.words import transcript
from tests.video.make import FakeClip
from tests.video.speaking import RATE, heard, silence, voice

SRT = "00:00:01,000 --> 00:00:02,000\none two\n\n00:00:09,000 --> 00:00:11,000\n我喜欢。\n"


class Silent(FakeClip):
    """Whose sound must not be asked for."""

    def __init__(self, sound, start=0.0):
        super().__init__(sound, RATE, start=start)

    def audio(self, rate):
        raise AssertionError


@pytest.fixture
def srt(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(SRT, encoding="utf-8")
    return path


def test_nothing_known_is_no_transcript():
    assert transcript(Silent(silence(2))) == Transcript("", (), "none", "none", 0.0)


def test_a_given_text_is_timed():
    clip = heard(np.concatenate([silence(1), voice(2)]))
    said = transcript(clip, text="  我 喜欢\n你。 ")
    assert (said.text, said.source, said.timing) == ("我 喜欢 你。", "given", "spread")
    assert [word.text for word in said.words] == ["我", "喜", "欢", "你。"]
    assert said.words[0].start == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_says_that_nothing_is_said(text):
    assert transcript(Silent(silence(2)), text=text) == Transcript("", (), "given", "none", 0.0)


def test_subtitles_give_times_and_the_sound_is_not_asked(srt):
    said = transcript(Silent(silence(20)), subtitles=srt)
    assert (said.text, said.source, said.timing, said.coverage) == (
        "one two我喜欢。", "subtitles", "given", 1.0,
    )  # fmt: skip
    assert said.words[:2] == (Word("one", 1.0, 1.5), Word("two", 1.5, 2.0))


def test_subtitles_of_a_stretch_are_those_in_it_in_its_times(srt):
    said = transcript(Silent(silence(8.8), start=1.6), subtitles=srt)
    assert said.text == "two我喜"
    assert said.words[0] == Word("two", 0.0, pytest.approx(0.4))
    assert said.words[-1] == Word(
        "喜", pytest.approx(8.0667, abs=1e-3), pytest.approx(8.7333, abs=1e-3)
    )


def test_subtitles_of_another_time_are_said(srt):
    with pytest.warns(SubtitleWarning, match="none of 2 cues from 1.0 to 11.0 s is in the clip"):
        said = transcript(Silent(silence(5), start=60), subtitles=srt)
    assert said == Transcript("", (), "subtitles", "none", 0.0)


def test_a_recogniser_is_asked_where_nothing_is_known(srt):
    class Parrot:
        name = "parrot"

        def __call__(self, clip):
            return [Word("so", 0.2, 0.5), Word("good.", 0.5, 1.0)]

    clip = heard(silence(20))
    said = transcript(clip, recogniser=Parrot())
    assert said == Transcript("so good.", tuple(Parrot()(clip)), "parrot", "given", 1.0)
    assert transcript(clip, text="no", recogniser=Parrot()).source == "given"
    assert transcript(clip, subtitles=srt, recogniser=Parrot()).source == "subtitles"


def test_what_cannot_be_is_refused(srt, tmp_path):
    clip = heard(silence(1))
    with pytest.raises(ConfigError, match="text and subtitles"):
        transcript(clip, text="a", subtitles=srt)
    with pytest.raises(ConfigError, match="give a string"):
        transcript(clip, text=float("nan"))
    with pytest.raises(MediaError, match=r"absent\.srt"):
        transcript(clip, subtitles=tmp_path / "absent.srt")

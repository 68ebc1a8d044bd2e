import numpy as np
import pytest

from MMSA_ext.errors import ConfigError
from MMSA_ext.video.speech import speech
from tests.video.speaking import RATE, heard, said, silence, voice


def near(stretches, expected):
    np.testing.assert_allclose(np.array(stretches).reshape(-1, 2), expected, atol=0.15)


def test_speech_is_found_between_silence_and_as_often_as_it_comes():
    clip = heard(np.concatenate([silence(1), voice(1.5), silence(1), voice(2), silence(0.5)]))
    near(speech(clip), [[1, 2.5], [3.5, 5.5]])


def test_quiet_speech_is_found():
    word = said("the movie was really wonderful")
    clip = heard(0.02 * np.concatenate([silence(1), word, silence(1)]))
    near(speech(clip), [[1, 1 + len(word) / RATE]])


def test_a_breath_is_no_pause():
    clip = heard(np.concatenate([silence(1), voice(1), silence(0.1), voice(1), silence(1)]))
    near(speech(clip), [[1, 3.1]])


def test_a_click_is_no_speech():
    clip = heard(np.concatenate([silence(1), voice(0.02), silence(1)]))
    assert speech(clip) == []


@pytest.mark.parametrize("samples", [[], np.zeros(5), np.zeros(40_000)])
def test_nothing_to_hear_is_no_speech(samples):
    assert speech(heard(samples)) == []


def test_faint_noise_is_no_speech():
    noise = 0.002 * np.random.default_rng(0).normal(size=48_000)
    assert sum(b - a for a, b in speech(heard(noise))) < 0.3


@pytest.mark.parametrize("samples", [7, 479, 481, 16_001])
def test_stretches_end_with_the_clip(samples):
    clip = heard(voice(2)[:samples])
    assert all(0 <= a < b <= clip.duration for a, b in speech(clip))


def test_without_the_detector_the_mend_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "webrtcvad", None)
    with pytest.raises(ConfigError, match=r"webrtcvad.*\[video\]"):
        speech(heard(voice(1)))

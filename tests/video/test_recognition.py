import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from MMSA_ext.errors import ConfigError
from MMSA_ext.video import recognition
from MMSA_ext.video.contract import Word
from MMSA_ext.video.recognition import Whisper, recogniser
from tests.video.speaking import heard, said, silence, voice


@pytest.fixture(autouse=True)
def forget():
    recognition._whisper.cache_clear()
    yield
    recognition._whisper.cache_clear()


@pytest.fixture
def whisper(monkeypatch):
    """A module with what is used of faster-whisper; its weights are on no package index."""

    class WhisperModel:
        here, asked, words, broken = {"tiny"}, [], [], None

        def __init__(self, source, local_files_only=False):
            self.asked.append((source, local_files_only))
            if source not in self.here:
                raise OSError("Name or service not known\nand more")

        def transcribe(self, samples, word_timestamps, vad_filter):
            assert samples.dtype == np.float32
            assert word_timestamps
            assert vad_filter
            if self.broken:
                raise RuntimeError(self.broken)
            words = [
                SimpleNamespace(word=w, start=np.float64(a), end=np.float64(b))
                for w, a, b in self.words
            ]
            segments = [SimpleNamespace(words=words), SimpleNamespace(words=None)]
            return iter(segments), SimpleNamespace(language="en")

    module = SimpleNamespace(
        WhisperModel=WhisperModel, available_models=lambda: ["tiny", "small", "large-v3"]
    )
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    return WhisperModel


def test_whisper_gives_words_in_time_inside_of_the_clip(whisper):
    whisper.words = [(" so", -0.1, 0.5), (" good.", 1.5, 2.4), (" ", 0.1, 0.2), (" it", 0.5, 0.6)]
    named = recogniser("whisper:tiny")
    words = named(heard(voice(2)))
    assert {type(word.start) for word in words} == {float}  # faster-whisper has NumPy's
    assert words == [
        Word("so", 0.0, 0.5), Word("it", 0.5, 0.6), Word("good.", 1.5, 2.0),
    ]  # fmt: skip
    assert named.name == "whisper:tiny"
    assert named(heard(voice(2)))
    assert whisper.asked == [("tiny", False)]  # once a process


def test_silence_is_not_handed_to_whisper(whisper):
    whisper.broken = "must not be asked"
    assert recogniser("whisper:tiny")(heard(silence(1))) == []
    assert recogniser("whisper:tiny")(heard([])) == []


def test_a_model_that_was_not_named_is_not_downloaded(whisper):
    with pytest.raises(ConfigError, match=r"small is not on this machine.*--asr whisper:small"):
        recogniser("whisper")(heard(voice(1)))
    assert whisper.asked == [("small", True)]


def test_what_cannot_be_downloaded_has_a_mend(whisper, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be downloaded: Name .* known\. Give a folder"):
        recogniser("whisper:large-v3")(heard(voice(1)))
    with pytest.raises(ConfigError, match="no folder with a Whisper model"):
        recogniser(f"whisper:{tmp_path}")(heard(voice(1)))
    with pytest.raises(ConfigError, match=r"no size, no folder.*did you mean tiny"):
        recogniser("whisper:tinny")(heard(voice(1)))


def test_a_folder_is_a_model(whisper, tmp_path):
    whisper.here = {str(tmp_path)}
    assert recogniser(f"whisper:{tmp_path}")(heard(voice(1))) == []


def test_a_device_that_whisper_cannot_use_is_said(whisper):
    whisper.broken = "Library libcublas.so.12 is not found"
    with pytest.raises(ConfigError, match=r"libcublas.*CUDA_VISIBLE_DEVICES="):
        recogniser("whisper:tiny")(heard(voice(1)))


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("whisper", "faster_whisper", "asr"), ("pocketsphinx", "pocketsphinx", "asr-offline")],
)
def test_an_absent_package_has_its_install_line(monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    recognition._sphinx.cache_clear()
    with pytest.raises(ConfigError, match=rf"{package}.*\[{extra}\]"):
        recogniser(name)(heard(voice(1)))


@pytest.mark.parametrize("name", ["wisper", "whisper:", "pocketsphinx:en", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match=r"is no recogniser of speech; .*(whisper|pocketsphinx)"):
        recogniser(name)


@pytest.mark.parametrize("name", ["whisper:base", "pocketsphinx"])
def test_recognisers_can_be_pickled(name):
    assert pickle.loads(pickle.dumps(recogniser(name))) == recogniser(name)
    assert isinstance(Whisper("base"), type(recogniser("whisper:base")))


def test_the_real_package_has_what_is_used_of_it():
    package = pytest.importorskip("faster_whisper")
    assert recognition.WHISPER_MODEL in package.available_models()
    import inspect

    assert "local_files_only" in inspect.signature(package.WhisperModel).parameters
    used = inspect.signature(package.WhisperModel.transcribe).parameters
    assert {"word_timestamps", "vad_filter"} <= set(used)
    assert {"word", "start", "end"} <= set(package.transcribe.Word.__dataclass_fields__)


def test_pocketsphinx_hears_words_with_their_times():
    pytest.importorskip("pocketsphinx")
    speech = said("she said that the acting was really wonderful", speed=140)
    clip = heard(np.concatenate([silence(2), speech, silence(1)]))
    words = recogniser("pocketsphinx")(clip)
    texts = [word.text for word in words]
    assert {"really", "wonderful"} <= set(texts)
    assert all(1.7 < word.start < word.end <= clip.duration for word in words)
    wonderful = words[texts.index("wonderful")]
    assert wonderful.end == pytest.approx(2 + len(speech) / 16_000, abs=0.3)


def test_pocketsphinx_hears_nothing_in_silence():
    pytest.importorskip("pocketsphinx")
    assert recogniser("pocketsphinx")(heard(silence(2))) == []

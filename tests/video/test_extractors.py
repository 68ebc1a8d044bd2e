import subprocess
import sys

import numpy as np
import pytest

from MMSA_ext.errors import ConfigError
from MMSA_ext.extras import install_command
from MMSA_ext.video import extractors
from MMSA_ext.video.contract import Track
from MMSA_ext.video.extractors import (
    checked_extractor,
    extractor,
    list_extractors,
    register_extractor,
    unregister_extractor,
)
from tests.video.make import FakeClip


def test_what_is_shipped_says_what_it_makes():
    entries = {entry.name: entry for entry in list_extractors()}

    assert {name: entry.modality for name, entry in entries.items()} == {
        "egemaps25": "audio",
        "facemesh": "vision",
        "openface": "vision",
        "sims33": "audio",
    }
    for name, entry in entries.items():
        if not entry.absent:
            made = extractor(name)
            assert (made.name, made.modality) == (name, entry.modality)
            assert made.width > 0


def test_an_absent_package_is_named_with_the_line_that_installs_it(monkeypatch):
    found = extractors.find_spec
    monkeypatch.setattr(
        extractors, "find_spec", lambda name: None if name == "mediapipe" else found(name)
    )

    with pytest.raises(ConfigError, match="'facemesh' needs mediapipe, not installed") as failed:
        extractor("facemesh")

    assert install_command("video") in str(failed.value)
    (entry,) = (entry for entry in list_extractors() if entry.name == "facemesh")
    assert entry.absent == ("mediapipe",)
    assert entry.mend == install_command("video")


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ConfigError, match="did you mean facemesh"):
        extractor("face_mesh")
    with pytest.raises(ConfigError, match="--import"):
        extractor("zzz")
    with pytest.raises(ConfigError, match="no option 'widht'; did you mean width"):
        extractor("openface", widht=3)


def test_one_of_ones_own_is_found_by_its_name():
    @register_extractor("loudness")
    class Loudness:
        """How loud it is."""

        name, modality, width = "loudness", "audio", 1

        def recipe(self):
            return {"name": self.name, "version": "1"}

        def __call__(self, clip):
            return Track(np.abs(clip.audio(100))[:, None], np.arange(100) / 100)

    try:
        made = extractor("loudness")
        assert made(FakeClip(np.ones(100), 100)).frames.shape == (100, 1)
        (entry,) = (entry for entry in list_extractors() if entry.name == "loudness")
        assert (entry.about, entry.absent) == ("How loud it is.", ())
        with pytest.raises(ConfigError, match="exists already"):
            register_extractor("loudness")(Loudness)
    finally:
        unregister_extractor("loudness")
    with pytest.raises(ConfigError, match="unknown extractor"):
        extractor("loudness")


@pytest.mark.parametrize("name", ["Mine", "", "none", "a:b"])
def test_names_are_in_lower_case(name):
    with pytest.raises(ConfigError, match="lower case"):
        register_extractor(name)


def test_a_modality_must_be_said():
    with pytest.raises(ConfigError, match="modality"):
        register_extractor("mine")(lambda: None)


def test_importing_brings_no_heavy_package():
    code = (
        "import sys\n"
        "import MMSA_ext, MMSA_ext.cli\n"
        "from MMSA_ext.video import audio, extractors, media, openface, talking_head, vision\n"
        "extractors.list_extractors()\n"
        "heavy = {'av', 'soxr', 'librosa', 'mediapipe', 'opensmile', 'cv2'}\n"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules}\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"width": "2"}, "width of extractor 'own'"),
        ({"width": None}, "width of extractor 'own'"),
        ({"recipe": lambda self: {"a": 1}}, "recipe of extractor 'own'"),
        ({"recipe": lambda self: 1 / 0}, "recipe of extractor 'own': ZeroDivisionError"),
        ({"__init__": lambda self: {}["x"]}, "extractor 'own': KeyError"),
    ],
)
def test_a_broken_one_is_refused_before_it_is_used(changed, words):
    parts = {
        "name": "own",
        "modality": "audio",
        "width": 2,
        "recipe": lambda self: {"name": "own", "version": "1"},
        "__call__": lambda self, clip: None,
    }
    register_extractor("own")(type("Own", (), parts | changed))
    try:
        with pytest.raises(ConfigError, match=words):
            extractor("own")
    finally:
        unregister_extractor("own")


def test_what_is_no_extractor_is_refused():
    with pytest.raises(ConfigError, match="has no name"):
        checked_extractor(3, "audio")

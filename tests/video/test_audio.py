import pickle

import numpy as np
import pytest

from MMSA_ext.data.recipes import problems
from MMSA_ext.video.audio import Egemaps25, Sims33
from tests.video.make import FakeClip

pytest.importorskip("librosa")

RATE = 22_050


def tone(seconds: float, hertz: float = 200.0, height: float = 0.3) -> FakeClip:
    return FakeClip(height * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE))


def _egemaps() -> Egemaps25:
    pytest.importorskip("opensmile")
    return Egemaps25()


EXTRACTORS = {"sims33": Sims33, "egemaps25": _egemaps}


@pytest.mark.parametrize("make", EXTRACTORS.values(), ids=EXTRACTORS)
@pytest.mark.parametrize("seconds", [0.001, 0.03, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["tone", "silence", "clipped", "noise"])
def test_features_are_finite_whatever_the_sound(make, seconds, kind):
    count = round(seconds * RATE)
    sound = {
        "tone": 0.3 * np.sin(np.arange(count) * 0.05),
        "silence": np.zeros(count),
        "clipped": np.clip(9 * np.sin(np.arange(count) * 0.05), -1, 1),
        "noise": np.random.default_rng(0).normal(0, 0.1, count),
    }[kind]
    extractor = make()

    track = extractor(FakeClip(sound))

    assert track.frames.dtype == np.float32
    assert track.frames.shape == (len(track.times), extractor.width)
    assert np.isfinite(track.frames).all()
    assert bool(len(track.frames)) != bool(track.missing)
    assert seconds < 0.1 or len(track.frames) > 5
    if len(track.frames):
        assert track.shown["loudness"].shape == (len(track.frames),)
        assert (np.diff(track.times) >= 0).all()
        assert track.times[-1] <= seconds


@pytest.mark.parametrize("make", EXTRACTORS.values(), ids=EXTRACTORS)
def test_no_sound_is_said(make):
    extractor = make()

    track = extractor(FakeClip(pictures=[np.zeros((4, 4, 3), np.uint8)]))

    assert track.frames.shape == (0, extractor.width)
    assert (track.missing, track.found) == ("the file has no sound", 0.0)


@pytest.mark.parametrize("make", EXTRACTORS.values(), ids=EXTRACTORS)
def test_a_recipe_is_one_and_the_extractor_goes_to_other_processes(make):
    extractor = make()
    extractor(tone(0.2))

    again = pickle.loads(pickle.dumps(extractor))

    assert problems({"audio": extractor.recipe()}) == []
    assert again.recipe() == extractor.recipe()
    assert again(tone(0.2)).frames == pytest.approx(extractor(tone(0.2)).frames)


def test_sims_pitch_is_in_octaves_and_0_where_unvoiced():
    columns = Sims33.columns

    high, low = (Sims33()(tone(1, hertz)).frames[5:-5] for hertz in (300, 75))
    noise = Sims33()(FakeClip(np.random.default_rng(0).normal(0, 0.1, RATE))).frames
    faint = Sims33()(tone(1, 200, 1e-4)).frames

    assert len(columns) == Sims33.width == 33
    assert high[:, columns.index("log2_f0")] == pytest.approx(1, abs=0.01)
    assert low[:, columns.index("log2_f0")] == pytest.approx(-1, abs=0.01)
    assert (noise[:, 0] == 0).mean() > 0.9
    assert (faint[:, 0] == 0).all()


@pytest.mark.parametrize(("hertz", "pitch_class"), [(261.63, 0), (440, 9), (466.16, 10)])
def test_sims_chroma_names_the_note_of_a_tone(hertz, pitch_class):
    chroma = Sims33()(tone(1, hertz)).frames[5:-5, Sims33.columns.index("chroma_0") :]

    assert (chroma.argmax(axis=1) == pitch_class).all()
    assert chroma.max(axis=1) == pytest.approx(1)


def test_sims_mfcc_of_twice_the_sound_differ_in_the_first_alone():
    quiet, loud = (Sims33()(tone(1, 300, height)).frames[5:-5, 1:21] for height in (0.2, 0.4))

    # librosa's orthonormal DCT of 128 mel bands
    assert (loud - quiet)[:, 0] == pytest.approx(20 * np.log10(2) * np.sqrt(128), rel=1e-2)
    assert np.abs((loud - quiet)[:, 1:]).max() < 5


def test_sims_pitch_of_many_blocks_is_that_of_one(monkeypatch):
    sound = tone(2, 220)
    whole = Sims33()(sound).frames

    monkeypatch.setattr("MMSA_ext.video.audio._BLOCK", 7)

    assert Sims33()(sound).frames == pytest.approx(whole, abs=1e-4)


def test_loudness_is_in_decibels_to_full_scale():
    for make in EXTRACTORS.values():
        loudness = make()(tone(1, 200, 0.1)).shown["loudness"][5:-5]
        assert loudness == pytest.approx(20 * np.log10(0.1) - 3.01, abs=0.3)


def test_egemaps_are_opensmiles():
    opensmile = pytest.importorskip("opensmile")
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
    )
    clip = tone(1)

    track = Egemaps25()(clip)

    assert (track.frames == smile.process_signal(clip.audio(16_000), 16_000).to_numpy()).all()
    assert track.times[:2] == pytest.approx([0.01, 0.02])
    assert Egemaps25().recipe() == {
        "name": "opensmile",
        "version": opensmile.__version__,
        "feature_set": "eGeMAPSv02",
    }

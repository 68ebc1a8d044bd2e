"""librosa compiles for half a minute when it is first imported, so what compares is slow."""

import warnings

import numpy as np
import pytest

from MMSA_ext.video import spectra

pytest.importorskip("soxr")

RATE, HOP = 22_050, 512
SOUNDS = (
    "voice -1",
    "voice 0",
    "voice 1",
    "noise",
    "silence",
    "clipped",
    "one frame",
    "many blocks",
)


def sine(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


def test_yin_hears_a_tone_and_says_that_noise_is_none():
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)

    f0, difference = spectra.yin(spectra.framed(sine(200), HOP), RATE, 60, 500)
    _, of_noise = spectra.yin(spectra.framed(noise, HOP), RATE, 60, 500)

    assert f0[3:-3] == pytest.approx(200, rel=3e-3)
    assert difference[3:-3].max() < 0.05
    assert np.median(of_noise) > 0.5


@pytest.mark.parametrize(("hertz", "pitch_class"), [(261.63, 0), (440, 9), (466.16, 10)])
def test_chroma_names_the_note_of_a_tone(hertz, pitch_class):
    tone = sine(hertz)

    found = spectra.chroma(tone, spectra.magnitudes(tone, HOP), RATE, HOP)

    assert found.shape == (1 + RATE // HOP, 12)
    assert (found[5:-5].argmax(axis=1) == pitch_class).all()
    assert found.max(axis=1) == pytest.approx(1)


def test_mfcc_of_twice_the_sound_differ_in_the_first_alone():
    quiet, loud = (spectra.mfcc(spectra.magnitudes(k * sine(300), HOP), RATE) for k in (1, 2))

    assert (loud - quiet)[:, 0] == pytest.approx(20 * np.log10(2) * np.sqrt(128), abs=1e-2)
    assert np.abs((loud - quiet)[:, 1:]).max() < 1e-2


def _sounds() -> dict[str, np.ndarray]:
    from MMSA_ext.video.talking_head import _voice

    rng = np.random.default_rng(0)
    voices = {f"voice {s}": _voice(s, 3.0, np.random.default_rng(s + 1)) for s in (-1, 0, 1)}
    others = {
        "noise": rng.normal(0, 0.1, 30_001),
        "silence": np.zeros(RATE),
        "clipped": np.clip(9 * sine(200), -1, 1),
        "one frame": voices["voice 0"][5000:5300],
        "many blocks": np.tile(voices["voice 1"], 20),
    }
    return {name: sound.astype(np.float32) for name, sound in (voices | others).items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SOUNDS)
def test_the_numbers_are_librosas(name):
    librosa = pytest.importorskip("librosa")
    sound = _sounds()[name]
    magnitude = spectra.magnitudes(sound, HOP)
    f0, _ = spectra.yin(spectra.framed(sound, HOP), RATE, 60, 500)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mfcc = librosa.feature.mfcc(y=sound, sr=RATE, n_mfcc=20, hop_length=HOP, htk=True).T
        pitch = librosa.yin(sound, fmin=60, fmax=500, sr=RATE, hop_length=HOP)
        chroma = librosa.feature.chroma_cqt(y=sound, sr=RATE, hop_length=HOP).T

    close = np.testing.assert_allclose
    close(spectra.mfcc(magnitude, RATE), mfcc, rtol=0, atol=1e-5 * np.abs(mfcc).max())
    close(f0, pitch, rtol=1e-5)
    close(spectra.chroma(sound, magnitude, RATE, HOP), chroma, rtol=0, atol=1e-5)

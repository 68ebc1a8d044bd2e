"""A clip in memory, and speech in it."""

import io
import shutil
import subprocess

import numpy as np
import pytest

RATE = 16_000


class FakeClip:
    """Sound of 16,000 samples a second, without a file."""

    def __init__(self, samples, start=0.0):
        self.samples = np.asarray(samples, dtype=np.float32)
        self.start = start
        self.duration = len(self.samples) / RATE
        self.has_audio = len(self.samples) > 0
        self.has_pictures = False

    def audio(self, rate):
        assert rate == RATE
        return self.samples

    def pictures(self, rate):
        return iter(())


def silence(seconds):
    return np.zeros(int(seconds * RATE), np.float32)


def voice(seconds, rate=RATE):
    """What sounds like speech to a detector: a buzz at 120 Hz with formants, in syllables."""
    time = np.arange(int(seconds * rate)) / rate
    buzz = sum(
        np.sin(2 * np.pi * 120 * k * time) / (1 + ((120 * k - 600) / 200) ** 2) ** 0.5
        for k in range(1, 30)
    )
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
    return (0.1 * buzz * syllables).astype(np.float32)


def said(text, speed=150):
    """Speech by espeak-ng, without the silence around it."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed, which speaks in this test")
    soundfile, soxr = pytest.importorskip("soundfile"), pytest.importorskip("soxr")
    command = ["espeak-ng", "-v", "en-us", "-s", str(speed), "--stdout", text]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    samples = soxr.resample(samples, rate, RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    return samples[loud[0] : loud[-1] + 1].astype(np.float32)

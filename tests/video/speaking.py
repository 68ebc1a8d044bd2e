"""Clips in memory in which somebody speaks."""

import io
import shutil
import subprocess

import numpy as np
import pytest

from tests.video.make import FakeClip

RATE = 16_000


def heard(samples):
    """A clip of 16,000 samples a second, without pictures."""
    return FakeClip(np.asarray(samples, np.float32) if len(samples) else None, RATE)


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

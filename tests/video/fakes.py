"""Extractors that are quick, and say into a file what they have extracted; files for them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from MMSA_ext.video.contract import Track
from MMSA_ext.video.extractors import register_extractor, unregister_extractor
from tests.video.make import write


def write_sound(path: Path, seconds: float = 0.5, level: float = 0.3, rate: int = 8000) -> Path:
    """A tone as a WAV file."""
    samples = level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, None, np.float32(samples), sound_rate=rate, codecs=("", "pcm_s16le"))


def write_pictures(path: Path, seconds: float = 1.0, grey: int = 128, sound=None) -> Path:
    """Grey pictures as a video file."""
    pictures = [np.full((48, 64, 3), grey, np.uint8)] * round(10 * seconds)
    return write(path, pictures, None if sound is None else np.float32(sound), rate=10)


class Loudness:
    """Mean square of each tenth of a second; notes in `log` each clip that is finished."""

    name, modality, width = "loudness", "audio", 2

    def __init__(self, log=None, version="1", seconds=0.0, dies_at=None):
        self.log, self.version, self.seconds, self.dies_at = log, version, seconds, dies_at

    def recipe(self):
        return {"name": self.name, "version": self.version, "rate": 8000}

    def __call__(self, clip):
        if self.dies_at and self.dies_at in clip.path.name:
            os._exit(9)
        time.sleep(self.seconds)
        sound = clip.audio(8000)
        if self.log is not None:
            with Path(self.log).open("a") as log:
                log.write(f"{clip.path.name}\n")
        parts = sound[: len(sound) // 800 * 800].reshape(-1, 800)
        if not len(parts):
            return Track(np.zeros((0, 2), np.float32), np.zeros(0), 0.0, "no sound")
        levels = (parts**2).mean(axis=1)
        frames = np.stack([levels, np.sqrt(levels)], axis=1).astype(np.float32)
        times = 0.1 * np.arange(len(parts)) + 0.05
        return Track(frames, times, shown={"loudness": levels})


class Brightness:
    """Mean of each of five pictures a second."""

    name, modality, width = "brightness", "vision", 1

    def recipe(self):
        return {"name": self.name, "version": "1", "rate": 5}

    def __call__(self, clip):
        seen = [(at, image.mean() / 255) for at, image in clip.pictures(5)]
        if not seen:
            return Track(np.zeros((0, 1), np.float32), np.zeros(0), 0.0, "no pictures")
        times, means = map(np.array, zip(*seen, strict=True))
        boxes = np.tile(np.float32([0.1, 0.2, 0.3, 0.4]), (len(seen), 1))
        return Track(means[:, None].astype(np.float32), times, 0.5, shown={"face": boxes})


@contextmanager
def registered() -> Iterator[None]:
    """Inside, both are found by their names."""
    for made in (Loudness, Brightness):
        register_extractor(made.name)(made)
    yield
    for made in (Loudness, Brightness):
        unregister_extractor(made.name)


def tone(seconds: float) -> np.ndarray:
    return 0.2 * np.sin(2 * np.pi * 220 * np.arange(round(44_100 * seconds)) / 44_100)

"""Audio features of a clip: what SIMS and SIMS v2 were published with, made again."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from MMSA_ext.extras import import_extra
from MMSA_ext.version import __version__
from MMSA_ext.video import spectra
from MMSA_ext.video.contract import Track

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from MMSA_ext.video.contract import Clip, Samples

__all__ = ["Egemaps25", "Sims33"]

_FLOOR_DB = -100.0
_NO_SOUND = "the file has no sound"


class Sims33:
    """The 33 values of SIMS (Yu et al., 2020, section 3.3): pitch, 20 MFCC, 12 chroma.

    22,050 Hz, a frame every 512 samples. The paper calls the first value log F0, those who made the
    files zero crossing rate. Here it is the octaves that F0 lies above 150 Hz, between the usual
    voices of men and women, by YIN; 0 where a frame is unvoiced. MFCC (`htk=True`) and chroma
    (`chroma_cqt`) are librosa's, see `spectra`.
    """

    name = "sims33"
    modality: Literal["audio", "vision"] = "audio"
    columns = (
        "log2_f0",
        *(f"mfcc_{k}" for k in range(20)),
        *(f"chroma_{k}" for k in range(12)),
    )
    width = len(columns)

    rate = 22_050
    hop = 512
    f0_range = (60.0, 500.0)
    f0_reference = 150.0
    voiced_below = 0.4  # YIN's difference
    voiced_db = -60.0  # and level, from which on a frame is voiced

    def recipe(self) -> dict[str, Any]:
        """All that decides the numbers."""
        return {
            "name": self.name,
            "version": __version__,
            "rate": self.rate,
            "hop": self.hop,
            "window": spectra.WINDOW,
            "f0": "octaves above f0_reference by YIN, 0 where unvoiced",
            "f0_reference": self.f0_reference,
            "f0_range": list(self.f0_range),
            "voiced_below": self.voiced_below,
            "voiced_db": self.voiced_db,
            "mfcc": "20, as librosa 0.11 with htk",
            "chroma": "12, as librosa 0.11 chroma_cqt",
        }

    def __call__(self, clip: Clip) -> Track:
        """(1 + n // 512, 33) features of n samples.

        Raises:
            ConfigError: A package that reads files is not installed.
            MediaError: The file cannot be read.
        """
        sound = clip.audio(self.rate)
        if not len(sound):
            return _nothing(self.width, _NO_SOUND)
        frames = spectra.framed(sound, self.hop)
        level = _decibels(np.einsum("lt,lt->l", frames, frames) / spectra.WINDOW)
        f0, difference = spectra.yin(frames, self.rate, *self.f0_range)
        voiced = (difference < self.voiced_below) & (level > self.voiced_db)
        magnitude = spectra.magnitudes(sound, self.hop)
        mfcc = spectra.mfcc(magnitude, self.rate)
        chroma = spectra.chroma(sound, magnitude, self.rate, self.hop)
        pitch = np.where(voiced, np.log2(f0 / self.f0_reference), 0.0)
        count = len(chroma)  # of sounds whose octaves end sooner, one frame less
        features = np.column_stack([pitch[:count], mfcc[:count], chroma])
        times = np.arange(count) * self.hop / self.rate
        return Track(
            np.asarray(features, np.float32),
            np.minimum(times, clip.duration),
            shown={"loudness": level[:count]},
        )


class Egemaps25:
    """The 25 low-level descriptors of eGeMAPSv02 at 16 kHz, by openSMILE, as SIMS v2 has them.

    openSMILE is licensed for research and private use.
    """

    name = "egemaps25"
    modality: Literal["audio", "vision"] = "audio"
    width = 25

    rate = 16_000

    def __init__(self) -> None:
        self._smile: Any = None

    def recipe(self) -> dict[str, Any]:
        """As `data.recipes` has one of openSMILE."""
        return {
            "name": "opensmile",
            "version": version("opensmile"),
            "feature_set": "eGeMAPSv02",
        }

    def __call__(self, clip: Clip) -> Track:
        """(L, 25) features, 100 a second.

        Raises:
            ConfigError: openSMILE is not installed.
            MediaError: The file cannot be read.
        """
        smile = import_extra("opensmile", "video,egemaps", f"extractor {self.name!r}")
        sound = clip.audio(self.rate)
        if not len(sound):
            return _nothing(self.width, _NO_SOUND)
        if self._smile is None:
            self._smile = smile.Smile(
                feature_set=smile.FeatureSet.eGeMAPSv02,
                feature_level=smile.FeatureLevel.LowLevelDescriptors,
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Segment too short")
            table = self._smile.process_signal(sound, self.rate)
        frames = table.to_numpy(np.float32)
        starts = table.index.get_level_values("start").total_seconds().to_numpy()
        if np.isnan(frames).all():
            return _nothing(self.width, f"{clip.duration:.2f} s of sound are too short")
        return Track(
            np.nan_to_num(frames),
            np.minimum(starts + 0.01, clip.duration),  # the middle of 20 ms
            shown={"loudness": _levels(sound, self.rate, starts)},
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without openSMILE, which is made again."""
        return {"_smile": None}


def _nothing(width: int, why: str) -> Track:
    return Track(np.zeros((0, width), np.float32), np.zeros(0), 0.0, why)


def _levels(sound: Samples, rate: int, starts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Level in dB to full scale of 20 ms from each start."""
    power = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    first = np.clip((starts * rate).astype(int), 0, len(sound) - 1)
    last = np.minimum(first + rate // 50, len(sound))
    return _decibels((power[last] - power[first]) / (last - first))


def _decibels(power: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10))), np.float32)

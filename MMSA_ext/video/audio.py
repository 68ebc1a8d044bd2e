"""Audio features of a clip: what SIMS and SIMS v2 were published with, made again.

librosa compiles a part of itself when it is first imported, about 20 seconds of processor time. It
keeps that on disk, beside itself or in the user's cache folder (`NUMBA_CACHE_DIR` names another).
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from MMSA_ext.extras import import_extra
from MMSA_ext.video.contract import Track

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from MMSA_ext.video.contract import Clip, Samples

__all__ = ["Egemaps25", "Sims33"]

_WINDOW = 2048
_BLOCK = 2048  # frames whose pitch is found at once
_FLOOR_DB = -100.0
_NO_SOUND = "the file has no sound"


class Sims33:
    """The 33 values of SIMS (Yu et al., 2020, section 3.3): pitch, 20 MFCC, 12 chroma.

    22,050 Hz, a frame every 512 samples. The paper calls the first value log F0, those who made the
    files zero crossing rate. Here it is the octaves that F0 lies above 150 Hz, between the usual
    voices of men and women, by YIN; 0 where a frame is unvoiced. MFCC and chroma are librosa's
    with `htk=True` and defaults.
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
    voiced = 0.5  # autocorrelation at the period, from which on a frame is
    voiced_db = -60.0  # and its level

    def recipe(self) -> dict[str, Any]:
        """Who makes the features: librosa's version, and all that decides the numbers."""
        return {
            "name": self.name,
            "version": f"librosa {version('librosa')}",
            "window": _WINDOW,
            "rate": self.rate,
            "hop": self.hop,
            "f0": "octaves above f0_reference, by yin; 0 where unvoiced",
            "f0_reference": self.f0_reference,
            "f0_range": list(self.f0_range),
            "voiced": self.voiced,
            "voiced_db": self.voiced_db,
            "mfcc": "20, htk",
            "chroma": "12, cqt",
        }

    def __call__(self, clip: Clip) -> Track:
        """(1 + n // 512, 33) features of n samples.

        Raises:
            ConfigError: librosa is not installed.
            MediaError: The file cannot be read.
        """
        librosa = _librosa()
        sound = clip.audio(self.rate)
        if not len(sound):
            return _nothing(self.width, _NO_SOUND)
        with warnings.catch_warnings():
            # Of windows that are longer than the clip: librosa fills up with silence, as we want.
            warnings.filterwarnings("ignore", message="n_fft=.* is too large")
            warnings.filterwarnings("ignore", message="Trying to estimate tuning from empty")
            given = {"y": sound, "sr": self.rate, "hop_length": self.hop}
            mfcc = librosa.feature.mfcc(n_mfcc=20, htk=True, **given)
            chroma = librosa.feature.chroma_cqt(**given)
        pitch, level = self._pitch(librosa, sound)
        count = chroma.shape[1]  # of sounds whose octaves end sooner, one frame less
        frames = np.column_stack([pitch[:count], mfcc.T[:count], chroma.T[:count]])
        return Track(
            np.nan_to_num(frames.astype(np.float32)),
            np.minimum(np.arange(count) * self.hop / self.rate, clip.duration),
            shown={"loudness": level[:count]},
        )

    def _pitch(self, librosa: Any, sound: Samples) -> tuple[Samples, Samples]:
        """Octaves above the reference, 0 where unvoiced, and dB to full scale, of each frame."""
        padded = np.pad(sound, _WINDOW // 2)
        step = _BLOCK * self.hop
        low, high = self.f0_range
        octaves, levels = [], []
        for begin in range(0, len(padded) - _WINDOW + 1, step):
            piece = padded[begin : begin + step - self.hop + _WINDOW]
            f0 = librosa.yin(
                piece, fmin=low, fmax=high, sr=self.rate, hop_length=self.hop, center=False
            )
            frames = np.lib.stride_tricks.sliding_window_view(piece, _WINDOW)[:: self.hop]
            power = np.mean(np.square(frames), axis=1)
            level = _decibels(power)
            alike = _autocorrelation(frames, np.rint(self.rate / f0).astype(int))
            is_voiced = (alike >= self.voiced) & (level >= self.voiced_db)
            octaves.append(np.where(is_voiced, np.log2(f0 / self.f0_reference), 0.0))
            levels.append(level)
        return np.concatenate(octaves), np.concatenate(levels)


class Egemaps25:
    """The 25 low-level descriptors of eGeMAPSv02 at 16 kHz, by openSMILE, as SIMS v2 has them.

    openSMILE is licensed for research and private use.
    """

    name = "egemaps25"
    modality: Literal["audio", "vision"] = "audio"
    width = 25

    rate = 16_000

    def recipe(self) -> dict[str, Any]:
        """As `data.recipes` has one of openSMILE."""
        smile = {"name": "opensmile", "version": version("opensmile")}
        return smile | {"feature_set": "eGeMAPSv02"}

    def __call__(self, clip: Clip) -> Track:
        """(L, 25) features, 100 a second.

        Raises:
            ConfigError: openSMILE is not installed.
            MediaError: The file cannot be read.
        """
        smile = _smile()
        sound = clip.audio(self.rate)
        if not len(sound):
            return _nothing(self.width, _NO_SOUND)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Segment too short")
            table = smile.process_signal(sound, self.rate)
        frames = table.to_numpy(np.float32)
        starts = table.index.get_level_values("start").total_seconds().to_numpy()
        if np.isnan(frames).all():
            return _nothing(self.width, f"{clip.duration:.2f} s of sound are too short")
        return Track(
            np.nan_to_num(frames),
            np.minimum(starts + 0.01, clip.duration),  # the middle of 20 ms
            shown={"loudness": _levels(sound, self.rate, starts)},
        )


@cache
def _smile() -> Any:
    """openSMILE, one a process."""
    package = import_extra("opensmile", "video,egemaps", "extractor 'egemaps25'")
    return package.Smile(
        feature_set=package.FeatureSet.eGeMAPSv02,
        feature_level=package.FeatureLevel.LowLevelDescriptors,
    )


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


def _autocorrelation(frames: Samples, lags: NDArray[np.int_]) -> NDArray[np.float64]:
    """Correlation of each frame's first half with what comes a lag later."""
    half = frames.shape[1] // 2
    later = np.take_along_axis(frames, np.arange(half) + lags[:, None], axis=1)
    first = frames[:, :half]
    both = np.einsum("lt,lt->l", first, later)
    power = np.einsum("lt,lt->l", first, first) * np.einsum("lt,lt->l", later, later)
    return np.asarray(both / np.sqrt(np.maximum(power, 1e-20)))


def _librosa() -> Any:
    """librosa, whose compiler needs a folder that can be written to."""
    if "NUMBA_CACHE_DIR" not in os.environ and not any(map(_writable, _cache_folders())):
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="numba-")  # of this process
    return import_extra("librosa", "video", "extractor 'sims33'")


def _cache_folders() -> Iterator[Path]:
    """Where numba keeps what it compiles of librosa: beside its modules, or in the user's cache."""
    spec = find_spec("librosa")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "util"
    with suppress(RuntimeError):
        yield Path.home()


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)

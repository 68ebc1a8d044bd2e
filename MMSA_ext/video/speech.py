"""When there is speech in a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.extras import import_extra

if TYPE_CHECKING:
    from MMSA_ext.video.contract import Clip, Samples

__all__ = ["RATE", "Stretch", "as_pcm", "speech"]

RATE = 16_000  # samples a second
_FRAME = 480  # samples: 30 ms, the longest that WebRTC's detector takes
_FRAME_SECONDS = _FRAME / RATE
_LEVEL = 2  # of 0 to 3: how sure it has to be
_CLICK = 0.15  # seconds: what is shorter is no speech; the detector answers 0.1 s too long
_BREATH = 0.3  # seconds: what is shorter is no pause between words

# Mean levels of 30 ms, as shares of full scale.
_LOUD = 0.1  # of speech as the detector knows it
_SILENT = 3e-4  # -70 dB: there is nothing to make louder
_STEADY = 5.0  # loudest to quietest: what varies less is no speech


class Stretch(NamedTuple):
    """From when to when, in seconds."""

    start: float
    end: float


def speech(clip: Clip) -> list[Stretch]:
    """Stretches that sound like speech, by WebRTC's voice activity detector.

    Its answers for 30 ms each are smoothed: what lasts less than 0.15 s is no speech, a gap of less
    than 0.3 s no pause. A quiet clip is made louder first, unless it is steady, as noise is. Music
    and loud noise sound like speech to it.

    Args:
        clip: Of any length.

    Returns:
        Stretches in time that do not touch; none where there is no sound, or silence.

    Raises:
        ConfigError: webrtcvad is not installed.
        MediaError: The file cannot be read.
    """
    samples = clip.audio(RATE)
    if not samples.any():
        return []
    detector = import_extra("webrtcvad", "video", "finding speech").Vad(_LEVEL)
    frames = np.pad(samples, (0, -len(samples) % _FRAME)).reshape(-1, _FRAME)
    pcm = as_pcm(frames * _gain(frames))
    size = 2 * _FRAME
    voiced = [detector.is_speech(pcm[i : i + size], RATE) for i in range(0, len(pcm), size)]
    runs = _runs(np.array(voiced, dtype=bool))
    return _smoothed(runs * _FRAME_SECONDS, len(samples) / RATE)


def as_pcm(samples: Samples) -> bytes:
    """Sound in [-1, 1] as 16-bit integers of this machine, as speech libraries take it."""
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()


def _gain(frames: Samples) -> float:
    """How much louder the detector has to hear a clip."""
    levels = np.sqrt((frames**2).mean(axis=1))
    floor, loud = np.percentile(levels, [5, 95])
    is_steady = loud < _STEADY * floor
    return 1.0 if is_steady or loud < _SILENT else max(1.0, float(_LOUD / loud))


def _runs(voiced: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n, 2): first frame, and the frame after the last, of each run of voiced frames."""
    changes = np.flatnonzero(np.diff(np.pad(voiced, 1).astype(np.int8)))
    return changes.reshape(-1, 2).astype(np.int64)


def _smoothed(runs: NDArray[np.floating], duration: float) -> list[Stretch]:
    stretches: list[Stretch] = []
    for start, end in runs.tolist():
        if end - start < _CLICK - 1e-9:
            continue
        if stretches and start - stretches[-1].end < _BREATH:
            start = stretches.pop().start
        stretches.append(Stretch(start, min(end, duration)))
    return stretches

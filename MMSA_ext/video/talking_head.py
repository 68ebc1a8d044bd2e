"""A short video of somebody who talks, made of nothing: for the sample clip and tests.

The face is the public-domain portrait in matplotlib's wheel, whose mouth opens with the speech; the
voice is a glottal source through the formants of vowels (Fant, 1960), and says nothing. A sentiment
is planted in both: the better it is, the higher go the corners of the mouth and the brows, the
higher, livelier and louder is the voice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MMSA_ext.extras import import_extra
from MMSA_ext.files import replaced
from MMSA_ext.paths import expand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Array = NDArray[np.float64]

__all__ = ["make_talking_head"]

_RATE = 22_050

# Formants of vowels in Hz, and their bandwidths.
_VOWELS = (
    (730, 1090, 2440),
    (530, 1840, 2480),
    (270, 2290, 3010),
    (570, 840, 2410),
    (300, 870, 2240),
)
_BANDWIDTHS = (80, 100, 140)

# In pixels of the portrait, 512 x 600: what is cut out, and where the parts of the face are.
_CUT = (62, 20, 462, 420)  # left, top, right, bottom
_MOUTH, _CHIN = (267.5, 279.0), 334.0
_CORNERS = ((232.0, 280.0), (303.0, 277.0))
_BROWS = ((207.0, 168.0), (236.0, 168.0), (292.0, 164.0), (319.0, 162.0))
_OPEN = 16.0  # pixels that the mouth opens at most
_SMILE = 9.0  # that its corners go up
_RAISE = 5.0  # that the brows go up
_SWAY = 4.0  # that the head moves
_INSIDE = (58, 22, 24)  # of the mouth, RGB


def make_talking_head(
    path: str | os.PathLike[str],
    sentiment: float = 0.0,
    seconds: float = 2.0,
    seed: int = 0,
    *,
    rate: int = 25,
    size: int = 256,
) -> Path:
    """Write a video of a talking head: H.264 and AAC in MP4. The same arguments give the same file.

    Args:
        path: The file.
        sentiment: What face and voice show, from -1 to 1.
        seconds: Length.
        seed: Decides what is said, and how the head moves.
        rate: Pictures a second.
        size: Pixels along each side; even.

    Returns:
        The file.

    Raises:
        ConfigError: PyAV is not installed.
        WriteError: The file cannot be written.
    """
    rng = np.random.default_rng(seed)
    file = Path(expand(path))
    voice = _voice(sentiment, seconds, rng)
    images = _images(sentiment, _openness(voice, seconds, rate), rate, size, rng)
    with replaced(file) as staged:
        _write(staged, images, voice, rate, size)
    return file


def _voice(sentiment: float, seconds: float, rng: np.random.Generator) -> _Array:
    """Syllables, about four a second: (n,) in [-1, 1]."""
    from scipy.signal import lfilter

    count = round(seconds * _RATE)
    lasts = rng.uniform(0.18, 0.32, int(seconds / 0.18) + 2)
    edges = np.minimum(np.rint(np.cumsum([0.06, *lasts]) * _RATE), count).astype(int)
    middles = (edges[:-1] + edges[1:]) / 2
    # In octaves: how high the voice is, and how far it goes up and down.
    height = 0.35 * sentiment + rng.normal(0, 0.04)
    lively = 0.12 + 0.08 * sentiment
    contour = np.interp(np.arange(count), middles, lively * rng.uniform(-1, 1, len(middles)))
    phase = np.cumsum(130 * 2 ** (height + contour) / _RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    source = lfilter([1.0], [1.0, -0.96], pulses) + rng.normal(0, 0.003, count)
    voice = np.zeros(count)
    for first, last in pairwise(edges):
        if last - first > 1:
            said = source[first:last]
            for formant, width in zip(_VOWELS[rng.integers(5)], _BANDWIDTHS, strict=True):
                said = lfilter(*_resonance(formant, width), said)
            said = said / max(float(np.abs(said).max()), 1e-9)
            voice[first:last] = said * np.hanning(last - first) * rng.uniform(0.8, 1)
    return voice * 0.3 * 10 ** (6 * sentiment / 20)


def _resonance(formant: float, width: float) -> tuple[list[float], list[float]]:
    """Coefficients of a filter with one resonance."""
    radius, angle = np.exp(-np.pi * width / _RATE), 2 * np.pi * formant / _RATE
    feedback = [1.0, -2 * radius * np.cos(angle), radius**2]
    return [sum(feedback)], feedback


def _openness(voice: _Array, seconds: float, rate: int) -> _Array:
    """How open the mouth is in each picture, 0 to 1."""
    count = max(round(seconds * rate), 1)
    span = max(_RATE // 25, 1)
    level = np.sqrt(np.convolve(np.square(voice), np.ones(span) / span, "same"))
    at = np.minimum(((np.arange(count) + 0.5) / rate * _RATE).astype(int), len(level) - 1)
    opened: _Array = np.clip(level[at] / max(float(np.quantile(level, 0.95)), 1e-6), 0, 1)
    return opened


def _images(
    sentiment: float, openness: _Array, rate: int, size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    """Pictures, (size, size, 3)."""
    left, top, right, bottom = _CUT
    x, y = np.meshgrid(
        left + (np.arange(size) + 0.5) * (right - left) / size,
        top + (np.arange(size) + 0.5) * (bottom - top) / size,
    )
    strength = sentiment + rng.normal(0, 0.05)
    frequency, phase = rng.uniform(0.15, 0.35, 2), rng.uniform(0, 2 * np.pi, 2)
    for k, opened in enumerate(openness):
        across, down = _SWAY * np.sin(2 * np.pi * frequency * k / rate + phase)
        yield _image(x - across, y - down, strength, _OPEN * opened)


def _image(x: _Array, y: _Array, strength: float, opened: float) -> NDArray[np.uint8]:
    """What is seen at places of the portrait, once its brows and corners and jaw have moved."""
    lift = np.zeros_like(y)
    for cx, cy in _CORNERS:
        lift += _SMILE * strength * _bump(x - cx, y - cy, 16, 13)
    for cx, cy in _BROWS:
        lift += _RAISE * strength * _bump(x - cx, y - cy, 20, 14)
    drop, gap = _jaw(x, y)
    below = y > _MOUTH[1]
    image = _sampled(x, y + lift - np.where(below, opened * drop, 0.0))
    image[below & (y - opened * gap < _MOUTH[1]) & (opened * gap > 0.5)] = _INSIDE
    return image


def _jaw(x: _Array, y: _Array) -> tuple[_Array, _Array]:
    """By what share of the opening each place goes down, and is open along the lips."""
    across = np.clip(1 - ((x - _MOUTH[0]) / 32) ** 2, 0, 1)
    side = np.exp(-0.5 * ((x - _MOUTH[0]) / 45) ** 4)
    end = _CHIN + 45
    down = np.clip((end - y) / (end - _CHIN), 0, 1)
    near = np.clip((y - _MOUTH[1]) / 25, 0, 1)
    return ((1 - near) * across + near * side) * down, across


def _bump(x: _Array, y: _Array, wide: float, high: float) -> _Array:
    shape: _Array = np.exp(-0.5 * ((x / wide) ** 2 + (y / high) ** 2))
    return shape


def _sampled(x: _Array, y: _Array) -> NDArray[np.uint8]:
    """The portrait at places, linearly between its pixels."""
    from scipy.ndimage import map_coordinates

    places = np.stack([y - 0.5, x - 0.5])
    channels = [
        map_coordinates(_portrait()[..., c], places, order=1, mode="nearest") for c in range(3)
    ]
    return np.stack(channels, axis=-1)


@cache
def _portrait() -> NDArray[np.uint8]:
    from matplotlib.cbook import get_sample_data
    from matplotlib.image import imread

    file: Any = get_sample_data("grace_hopper.jpg", asfileobj=False)
    return np.asarray(imread(file), np.uint8)


def _write(
    file: Path, images: Iterator[NDArray[np.uint8]], voice: _Array, rate: int, size: int
) -> None:
    av = import_extra("av", "video", "making a talking head")
    with av.open(str(file), "w", format="mp4") as out:
        video = out.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the same file on every machine
        audio = out.add_stream("aac", rate=_RATE, layout="mono")
        for k, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = k, Fraction(1, rate)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        for frame in _sound_frames(av, voice):
            out.mux(audio.encode(frame))
        out.mux(audio.encode())


def _sound_frames(av: Any, voice: _Array) -> Iterator[Any]:
    step = 1024
    for first in range(0, len(voice), step):
        samples = voice[None, first : first + step].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = _RATE, first, Fraction(1, _RATE)
        yield frame

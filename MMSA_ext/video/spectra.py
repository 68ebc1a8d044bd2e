"""MFCC, F0 and chroma in numpy and scipy, with librosa's numbers.

librosa is compiled by numba when it is first imported, which takes about 20 seconds of processor
time, and again in each process that can keep nothing on disk. The tests hold these functions
against librosa 0.11, whose defaults they have.

All take frames first: (L, ...) for L frames.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    _Array = NDArray[Any]  # float32, but where numpy says otherwise

__all__ = ["chroma", "framed", "magnitudes", "mfcc", "yin"]

WINDOW = 2048
_BLOCK = 2048  # frames that are worked on at once
_OCTAVES, _PER_OCTAVE = 7, 36
_C1 = 440 * 2 ** (-45 / 12)


def framed(sound: _Array, hop: int, window: int = WINDOW) -> _Array:
    """(1 + n // hop, window) frames whose middles are `hop` apart, silence around; a view."""
    return sliding_window_view(np.pad(sound, window // 2), window)[::hop]


def magnitudes(sound: _Array, hop: int) -> _Array:
    """(L, 1 + WINDOW // 2) magnitudes of the spectrum, by Hann windows."""
    import scipy.fft
    from scipy.signal import get_window

    window = get_window("hann", WINDOW).astype(np.float32)
    blocks = _blocks(framed(sound, hop))
    return np.concatenate([np.abs(scipy.fft.rfft(block * window)) for block in blocks])


def mfcc(magnitude: _Array, rate: int, count: int = 20) -> _Array:
    """(L, count) cepstral coefficients of 128 bands on HTK's mel scale, 80 dB deep."""
    import scipy.fft

    bands = np.square(magnitude) @ _mel_filters(rate).T
    level = 10 * np.log10(np.maximum(bands, 1e-10))
    level = np.maximum(level, level.max() - 80)
    return np.asarray(scipy.fft.dct(level, axis=1, norm="ortho")[:, :count])


def yin(frames: _Array, rate: int, lowest: float, highest: float) -> tuple[_Array, _Array]:
    """Fundamental frequency by YIN (de Cheveigné and Kawahara, 2002).

    Args:
        frames: (L, WINDOW).
        rate: Samples a second.
        lowest: Hz.
        highest: Hz.

    Returns:
        F0 (L,) in Hz, and the cumulative mean normalised difference at its period (L,), equation 8:
        0 where a frame is periodic, about 1 where it is not.
    """
    shortest = int(np.floor(rate / highest))
    longest = min(int(np.ceil(rate / lowest)), WINDOW - 1)
    found = [_yin(block, shortest, longest) for block in _blocks(frames)]
    period, difference = map(np.concatenate, zip(*found, strict=True))
    return rate / period, difference


def chroma(sound: _Array, magnitude: _Array, rate: int, hop: int) -> _Array:
    """(L, 12) energy of the pitch classes from C on, by a constant-Q transform; the largest is 1.

    The transform is tuned to the clip, as librosa's is by default.

    Args:
        sound: (n,).
        magnitude: What `magnitudes` gives of it.
        rate: Samples a second.
        hop: Samples, a multiple of 64.
    """
    tuning = _tuning(magnitude, rate)
    bins = _OCTAVES * _PER_OCTAVE
    frequencies = _C1 * 2 ** (tuning / _PER_OCTAVE) * 2 ** (np.arange(bins) / _PER_OCTAVE)
    bands = _constant_q(sound, frequencies, rate, hop)
    # Three bins make a semitone, whose own is the middle one.
    classes = np.roll(bands.reshape(len(bands), -1, _PER_OCTAVE), 1, axis=2).sum(axis=1)
    classes = classes.reshape(len(bands), 12, 3).sum(axis=2)
    largest = classes.max(axis=1, keepdims=True)
    return np.asarray(classes / np.where(largest < np.finfo(np.float32).tiny, 1, largest))


def _blocks(frames: _Array) -> Iterator[_Array]:
    for first in range(0, len(frames), _BLOCK):
        yield frames[first : first + _BLOCK]


@lru_cache(maxsize=4)
def _mel_filters(rate: int) -> _Array:
    """(128, 1 + WINDOW // 2) triangles of equal area."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, 130) / 2595) - 1)
    below = np.fft.rfftfreq(WINDOW, 1 / rate) - edges[:, None]
    steps = np.diff(edges)[:, None]
    shape = np.maximum(0, np.minimum(below[:-2] / steps[:-1], -below[2:] / steps[1:]))
    return np.asarray(shape * (2 / (edges[2:] - edges[:-2]))[:, None], np.float32)


def _yin(frames: _Array, shortest: int, longest: int) -> tuple[_Array, _Array]:
    """Period in samples, and the difference there."""
    import scipy.fft

    size = scipy.fft.next_fast_len(2 * WINDOW - 1, real=True)
    power = np.square(np.abs(scipy.fft.rfft(frames, n=size)))
    alike = scipy.fft.irfft(power, n=size)[:, : longest + 1]
    energy = np.cumsum(np.square(frames), axis=1)[:, :longest]
    apart = 2 * (alike[:, :1] - alike[:, 1:]) - energy  # at periods 1, 2, ... longest
    mean = np.cumsum(apart, axis=1) / np.arange(1, longest + 1)
    tiny = np.finfo(np.float32).tiny
    apart = apart[:, shortest - 1 :] / (mean[:, shortest - 1 :] + tiny)
    trough = np.zeros(apart.shape, bool)
    trough[:, 1:-1] = (apart[:, 1:-1] < apart[:, :-2]) & (apart[:, 1:-1] <= apart[:, 2:])
    trough[:, 0] = apart[:, 0] < apart[:, 1]
    trough[:, -1] = apart[:, -1] < apart[:, -2]
    deep = trough & (apart < 0.1)
    place = np.where(deep.any(axis=1), deep.argmax(axis=1), apart.argmin(axis=1))[:, None]
    shift = np.take_along_axis(_parabola(apart), place, axis=1)[:, 0]
    return shortest + place[:, 0] + shift, np.take_along_axis(apart, place, axis=1)[:, 0]


def _parabola(values: _Array) -> _Array:
    """How far from each place the top or bottom of the parabola through it lies; 0 if beyond."""
    shifts = np.zeros_like(values)
    before, here, after = values[:, :-2], values[:, 1:-1], values[:, 2:]
    curve, slope = after + before - 2 * here, (after - before) / 2
    near = np.abs(slope) < np.abs(curve)
    shifts[:, 1:-1] = np.where(near, -slope / np.where(near, curve, 1), 0)
    return shifts


def _tuning(magnitude: _Array, rate: int) -> float:
    """By what share of a bin the clip's pitches lie off, -0.5 to 0.5."""
    found = [_peaks(block, rate) for block in _blocks(magnitude)]
    pitch, height = map(np.concatenate, zip(*found, strict=True))
    if not len(pitch):
        return 0.0
    pitch = pitch[height >= np.median(height)]
    off = np.mod(_PER_OCTAVE * np.log2(pitch / (440 / 16)), 1.0)
    counts, edges = np.histogram(np.where(off >= 0.5, off - 1, off), np.linspace(-0.5, 0.5, 101))
    return float(edges[np.argmax(counts)])


def _peaks(magnitude: _Array, rate: int) -> tuple[_Array, _Array]:
    """Frequencies and heights of the peaks of spectra, 150 to 4000 Hz."""
    shift = _parabola(magnitude)
    high = magnitude * (magnitude > 0.1 * magnitude.max(axis=1, keepdims=True))
    is_peak = np.zeros(magnitude.shape, bool)
    is_peak[:, 1:-1] = (high[:, 1:-1] > high[:, :-2]) & (high[:, 1:-1] >= high[:, 2:])
    frequency = np.fft.rfftfreq(WINDOW, 1 / rate)
    is_peak &= (frequency >= 150) & (frequency < 4000)
    frame, place = np.nonzero(is_peak)
    slope = (magnitude[frame, place + 1] - magnitude[frame, place - 1]) / 2
    moved = shift[frame, place]
    height = magnitude[frame, place] + 0.5 * slope * moved
    return np.asarray((place + moved) * rate / WINDOW, np.float32), height


def _constant_q(sound: _Array, frequencies: NDArray[np.float64], rate: int, hop: int) -> _Array:
    """(L, bins) magnitudes, an octave after the other, each at half the rate of the one above."""
    import soxr

    above = 2 ** (2 / _PER_OCTAVE)  # neighbouring bins, one to each side
    quality = (above + 1) / (above - 1)
    octaves = []
    now = float(rate)
    for octave in reversed(np.split(frequencies, _OCTAVES)):
        basis = _filters(octave, now, quality) * np.float32(np.sqrt(rate / now))
        frames = framed(sound, hop, 2 * (basis.shape[0] - 1))
        octaves.append(np.concatenate([_response(block, basis) for block in _blocks(frames)]))
        now, hop = now / 2, hop // 2
        half = soxr.resample(sound, 2, 1, quality="soxr_hq")[: -(-len(sound) // 2)]
        sound = np.pad(half, (0, -(-len(sound) // 2) - len(half))) * np.float32(np.sqrt(2))
    length = min(map(len, octaves))
    bands = np.concatenate([octave[:length] for octave in reversed(octaves)], axis=1)
    return np.asarray(bands / np.sqrt(quality * rate / frequencies), np.float32)


def _response(frames: _Array, basis: Any) -> _Array:
    import scipy.fft

    return np.asarray(np.abs((basis.T @ scipy.fft.rfft(frames).T).T))


def _filters(frequencies: NDArray[np.float64], rate: float, quality: float) -> Any:
    """Spectra of windowed tones, (1 + window // 2, bins) sparse: the largest 99 % of each."""
    import scipy.fft
    from scipy.signal import get_window
    from scipy.sparse import csc_array

    lengths = quality * rate / frequencies
    window = int(2 ** np.ceil(np.log2(lengths.max())))
    tones = np.zeros((len(frequencies), window), np.complex64)
    for row, length, frequency in zip(tones, lengths, frequencies, strict=True):
        at = np.arange(-length // 2, length // 2, dtype=float)
        tone = np.exp(2j * np.pi * frequency / rate * at) * get_window("hann", len(at))
        first = (window - len(at)) // 2
        row[first : first + len(at)] = tone / np.abs(tone).sum()
    tones *= (lengths / window)[:, None]
    spectra = scipy.fft.fft(tones, axis=1)[:, : window // 2 + 1]
    size = np.abs(spectra)
    ordered = np.sort(size, axis=1)
    small = np.cumsum(ordered / size.sum(axis=1, keepdims=True), axis=1) < 0.01
    least = np.take_along_axis(ordered, small.argmin(axis=1)[:, None], axis=1)
    return csc_array(np.where(size >= least, spectra, 0).T)

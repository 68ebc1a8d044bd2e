"""Media files for tests, written by PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 44_100


def clicks(seconds: float, times: tuple[float, ...], rate: int = RATE) -> np.ndarray:
    """Faint noise with clicks at known times."""
    sound = np.random.default_rng(0).normal(0, 1e-3, round(seconds * rate)).astype(np.float32)
    for time in times:
        sound[round(time * rate) : round(time * rate) + 8] = 0.9
    return sound


def greys(count: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Pictures whose number is in their brightness, with a white corner at the top left."""
    width, height = size
    pictures = [np.full((height, width, 3), grey_of(k), np.uint8) for k in range(count)]
    for picture in pictures:
        picture[:16, :16] = 255
    return pictures


def grey_of(number: int) -> int:
    return 20 + number * 37 % 200


def write(
    path: Path,
    pictures: list[np.ndarray] | None = None,
    sound: np.ndarray | None = None,
    *,
    rate: int = 25,
    milliseconds: list[int] | None = None,
    sound_rate: int = RATE,
    codecs: tuple[str, str] = ("libx264", "aac"),
    turned: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a file; `milliseconds` are the pictures' times where their rate varies."""
    with av.open(str(path), "w", options=options or {}) as out:
        video = audio = None
        if pictures is not None:
            video = out.add_stream(codecs[0], rate=rate)
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt = "yuv420p"
            if milliseconds is not None:
                video.codec_context.time_base = Fraction(1, 1000)
            if codecs[0] == "libx264":
                video.options = {"crf": "10", "preset": "ultrafast"}
            if turned:
                video.set_display_rotation(turned)
        if sound is not None:
            audio = out.add_stream(codecs[1], rate=sound_rate, layout="mono")
        for k, picture in enumerate(pictures or ()):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = k if milliseconds is None else milliseconds[k]
            frame.time_base = Fraction(1, rate if milliseconds is None else 1000)
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode())
        if audio is not None:
            for frame in _frames(sound, sound_rate, audio.format.name):
                out.mux(audio.encode(frame))
            out.mux(audio.encode())
    return path


def _frames(sound: np.ndarray, rate: int, form: str) -> list[av.AudioFrame]:
    frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    cut = av.AudioResampler(format=form, layout="mono", rate=rate, frame_size=960)
    return [*cut.resample(frame), *cut.resample(None)]


class FakeClip:
    """A clip of given sound and pictures."""

    damage = ""

    def __init__(
        self,
        sound: np.ndarray | None = None,
        rate: int = 22_050,
        pictures: list[np.ndarray] | None = None,
        path: Path = Path("clip.mp4"),
        start: float = 0.0,
    ) -> None:
        self.path, self.start = path, start
        self._sound, self._rate, self._pictures = sound, rate, pictures
        self.has_audio, self.has_pictures = sound is not None, pictures is not None
        self.duration = len(sound) / rate if sound is not None else len(pictures or ()) / 25

    def audio(self, rate: int) -> np.ndarray:
        import soxr

        if self._sound is None:
            return np.zeros(0, np.float32)
        sound = self._sound.astype(np.float32)
        return sound if rate == self._rate else soxr.resample(sound, self._rate, rate)

    def pictures(self, rate: float, largest: int = 1280) -> list[tuple[float, np.ndarray]]:
        return [(k / rate, picture) for k, picture in enumerate(self._pictures or ())]

"""Small video and audio files."""

import wave
from pathlib import Path

import numpy as np


def write_sound(path: Path, seconds: float = 0.5, level: float = 0.3, rate: int = 8000) -> Path:
    """A tone as a WAV file."""
    samples = level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def write_pictures(path: Path, seconds: float = 1.0, grey: int = 128, rate: int = 10) -> Path:
    """Grey pictures without sound as a video file."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        image = np.full((48, 64, 3), grey, np.uint8)
        for _ in range(round(seconds * rate)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path

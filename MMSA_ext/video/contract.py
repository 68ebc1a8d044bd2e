"""What the parts of an extraction hand to each other.

Times are seconds from the start of the clip, whose own `start` is seconds from the start of the
file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clip", "Extractor", "Recogniser", "Track", "Transcript", "Word"]

Samples = NDArray[np.float32]  # (n,) mono, in [-1, 1]
Image = NDArray[np.uint8]  # (height, width, 3), RGB, as it is to be looked at


class Clip(Protocol):
    """A stretch of a video or audio file; `media.open_clip` gives one."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def start(self) -> float:
        """Seconds from the start of the file."""

    @property
    def duration(self) -> float:
        """Seconds."""

    @property
    def has_audio(self) -> bool:
        """Whether the file has sound."""

    @property
    def has_pictures(self) -> bool:
        """Whether the file has pictures."""

    @property
    def damage(self) -> str:
        """What is wrong with the file, as a sentence's part; empty if nothing is known.

        That it breaks off is known at once, what cannot be decoded when it was tried.
        """

    def audio(self, rate: int) -> Samples:
        """The sound at so many samples a second; empty where there is none."""

    def pictures(self, rate: float, largest: int = 1280) -> Iterator[tuple[float, Image]]:
        """Times and pictures, so many a second, whatever the rate of the file; one at a time.

        The longer side of a picture has `largest` pixels at most.
        """


@dataclass(frozen=True)
class Track:
    """What an extractor makes of a clip.

    Attributes:
        frames: (L, d) float32, finite; (0, d) where there is nothing.
        times: (L,) float64, the middle of what each frame describes.
        found: Share of the frames that describe what was looked for, such as a face; 0 to 1.
        missing: Why there is nothing, as a sentence's part, such as "no face in 50 pictures"; empty
            where there is something.
        shown: What a page shows beside, by name, each with L rows: `loudness` (L,) in dB relative
            to full scale; `face` (L, 4) left, top, right, bottom as shares of the picture, NaN
            where there is no face.
    """

    frames: NDArray[np.float32]
    times: NDArray[np.float64]
    found: float = 1.0
    missing: str = ""
    shown: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def wrong(self, width: int) -> str:
        """What is not as said above, as a sentence's part; empty if all is.

        Args:
            width: Features that a frame has.
        """
        frames: Any = self.frames  # whatever others made
        times: Any = self.times
        if not isinstance(frames, np.ndarray) or not isinstance(times, np.ndarray):
            return "frames and times must be NumPy arrays"
        if frames.dtype != np.float32 or frames.ndim != 2 or frames.shape[1] != width:
            return f"frames are {frames.dtype} {frames.shape}, not float32 (L, {width})"
        if not np.isfinite(frames).all():
            return "frames have values that are no finite numbers"
        if times.dtype.kind != "f" or times.shape != frames.shape[:1]:
            return f"times are {times.dtype} {times.shape}, not float64 ({len(frames)},)"
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            return "times do not grow"
        if not 0 <= self.found <= 1:
            return f"found is {self.found!r:.80}, not a share from 0 to 1"
        if not len(frames) and not self.missing:
            return "there is no frame, and missing does not say why"
        uneven = [name for name, values in self.shown.items() if len(values) != len(frames)]
        return f"shown[{uneven[0]!r:.80}] has not a row a frame" if uneven else ""


class Extractor(Protocol):
    """What makes the frames of one modality: found by name, see `extractors`.

    It can be pickled, and loads what it needs when it is first called. One that reads other files
    than the video has a method `beside(video: Path) -> list[Path]` that names them.
    """

    name: str
    modality: Literal["audio", "vision"]
    width: int  # d

    def recipe(self) -> dict[str, Any]:
        """`name`, `version` and what else decides the numbers, as `data.recipes` has it."""

    def __call__(self, clip: Clip) -> Track:
        """Features of a clip.

        Raises:
            ConfigError: A package that it needs is not installed, with the line that installs it.
            MediaError: The file cannot be read.
        """


@dataclass(frozen=True)
class Word:
    """A word, and when it is said."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """What is said in a clip.

    Attributes:
        text: The transcript; empty where nothing is said, or nobody knows.
        words: The words of it, in time; empty only where the text is.
        source: Where the text is from: `given`, `subtitles`, a recogniser's name, or `none`.
        timing: Where the times are from: `given`, `aligned`, `spread` (over what sounds like
            speech), or `none`.
        coverage: Share of the words that alignment found, 0 to 1; 1 where times are given, 0 where
            they are spread.
    """

    text: str
    words: tuple[Word, ...] = ()
    source: str = "none"
    timing: str = "none"
    coverage: float = 0.0


class Recogniser(Protocol):
    """Recognises speech."""

    @property
    def name(self) -> str:
        """What a transcript says that it is from."""

    def __call__(self, clip: Clip) -> list[Word]:
        """The words of a clip.

        Raises:
            ConfigError: Its package or its model is not there, with the mend.
            MediaError: The file cannot be read.
        """

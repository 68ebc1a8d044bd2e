"""Sound and pictures of a video or audio file, by PyAV (ffmpeg's libraries).

A file is untrusted: only containers that hold their own sound and pictures are read, so that a
playlist cannot open other files or addresses, and nothing is handed to a shell.

Time is as a player has it: zero is where the file begins to play. Sound is sought to the sample
(to a millisecond where the container rounds its times to that, as Matroska does). A sound that
starts late or has holes is silent there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MMSA_ext.errors import ConfigError, MediaError
from MMSA_ext.extras import import_extra
from MMSA_ext.paths import expand, shown, why_no_file

if TYPE_CHECKING:
    from MMSA_ext.video.contract import Image, Samples

__all__ = ["LONGEST_SECONDS", "MediaClip", "open_clip"]

LONGEST_SECONDS = 4 * 3600.0
LARGEST_SIDE = 1280

_FORMATS = (
    "aac,aiff,amr,ape,asf,au,avi,caf,flac,flv,matroska,mov,mp3,mp4,mpeg,mpegts,mxf,ogg,rm,tta,"
    "w64,wav,webm,wv"
)
# Their length is in the header; of others ffmpeg guesses it.
_TELL_LENGTH = {"asf", "flac", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"}
_MOST_PIXELS = 1 << 26  # four times 4K
_PREROLL = 1.0  # seconds that decoders of sound need before they are exact
_ROUNDED = 1e-3  # seconds to which some containers round
_HOLE = 0.02  # seconds without sound that are no rounding
_LATE = 0.5  # seconds that an end may lie behind the file's, as tables of segments round
_BROKEN = 0.5  # seconds that a file may be shorter than it says


@dataclass(frozen=True)
class _Facts:
    """What a look at all packets of a file says, in seconds."""

    zero: float  # time stamp at which it begins to play
    duration: float
    video_end: float  # 0.0 where there are no pictures
    has_audio: bool
    has_pictures: bool
    damage: str


@dataclass(frozen=True)
class MediaClip:
    """A stretch of a file, the `contract.Clip` of this package. It can be pickled.

    Attributes:
        path: The file.
        start: Seconds from the start of the file.
        duration: Seconds.
        has_audio: Whether the file has sound.
        has_pictures: Whether it has pictures; a cover is none.
    """

    path: Path
    start: float
    duration: float
    has_audio: bool
    has_pictures: bool
    _facts: _Facts = field(repr=False)
    _undecodable: set[str] = field(default_factory=set, repr=False, compare=False)

    @property
    def damage(self) -> str:
        """What is wrong with the file, such as "it breaks off at 3.20 of 8.00 s"; empty if sound.

        That it breaks off is known at once (in MP4, Matroska, FLAC, FLV, ASF, AVI and WAV, which
        tell their length), what cannot be decoded after that was tried.
        """
        return "; ".join(filter(None, [self._facts.damage, *sorted(self._undecodable)]))

    def audio(self, rate: int) -> Samples:
        """The sound, channels averaged.

        Args:
            rate: Samples a second.

        Returns:
            (round(duration * rate),) float32; (0,) where the file has no sound.

        Raises:
            MediaError: The file cannot be read, or changes its own rate.
        """
        if not self.has_audio:
            return np.zeros(0, np.float32)
        sound = _Sound(self, rate)
        with _opened(self.path) as container:
            stream = container.streams.audio[0]
            for seconds, frame in self._decoded(container, stream, self.start, _PREROLL):
                if sound.add(seconds, frame):
                    break
        return sound.samples()

    def pictures(self, rate: float, largest: int = LARGEST_SIDE) -> Iterator[tuple[float, Image]]:
        """What is seen at 0, 1 / rate, 2 / rate, ... seconds of the clip.

        Args:
            rate: Pictures a second, whatever the file's: some come twice, or not at all.
            largest: Pixels that the longer side has at most. Larger pictures are made smaller as
                they are turned into RGB; the shape of a face needs no more.

        Yields:
            Seconds from the clip's start, and (height, width, 3) uint8 RGB, upright, with square
            pixels. Nothing where the file has no picture at a time: before its first, after its
            last.

        Raises:
            MediaError: The file cannot be read.
        """
        if not (rate > 0 and math.isfinite(rate)):
            raise ConfigError(f"rate is {rate!r}; give pictures a second, more than 0.")
        if not self.has_pictures:
            return
        end = min(self.start + self.duration, self._facts.video_end)
        with _opened(self.path) as container:
            stream = _video_stream(container)
            to_rgb = _ToRGB(stream.sample_aspect_ratio, largest)
            frames = _in_time(self._decoded(container, stream, self.start), stream)
            k = 0
            for (since, frame), (then, _) in pairwise(chain(frames, [(end, None)])):
                until = min(then, end)
                image = None
                while (at := self.start + k / rate) < until - _ROUNDED:
                    if at >= since - _ROUNDED:
                        image = to_rgb(frame) if image is None else image
                        yield k / rate, image
                    k += 1
                if until >= end:
                    return

    def _decoded(
        self, container: Any, stream: Any, start: float, preroll: float = 0.0
    ) -> Iterator[tuple[float, Any]]:
        """Seconds from the file's start (NaN where the file does not say) and frames.

        They begin at or before `start`, if there is something.
        """
        if start > preroll:
            at = int((start - preroll + self._facts.zero) / stream.time_base)
            with suppress(OSError):  # it has no index
                container.seek(at, stream=stream)
            frames = self._from_here(container, stream)
            first = next(frames, None)
            if first is not None and first[0] <= start + _ROUNDED:
                yield first
                yield from frames
                return
            container.seek(0)  # its index is wrong
        yield from self._from_here(container, stream)

    def _from_here(self, container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
        """As `_decoded`; what cannot be decoded is left out and noted."""
        import av

        kind = "sound" if stream.type == "audio" else "pictures"
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    self._undecodable.add(f"some of its {kind} cannot be decoded")
                    continue
                for frame in frames:
                    known = frame.pts is not None
                    time = float(frame.pts * frame.time_base) if known else math.nan
                    yield time - self._facts.zero, frame
        except (av.FFmpegError, OSError):
            self._undecodable.add(f"some of its {kind} cannot be read")


class _Sound:
    """Puts frames of sound where their times say, at another rate."""

    def __init__(self, clip: MediaClip, rate: int) -> None:
        self._clip, self._rate = clip, rate
        self._parts: list[Samples] = []
        self._own = 0  # rate of the file
        self._at = 0  # samples of the file's rate that are there
        self._last: int | None = None  # where the last frame ended, counted as _at

    def add(self, seconds: float, frame: Any) -> bool:
        """Add a frame; whether the clip is complete."""
        if not self._own:
            import soxr

            self._own = frame.sample_rate
            self._stream = soxr.ResampleStream(self._own, self._rate, 1, dtype="float32")
            self._total = round(self._clip.duration * self._own)
        elif frame.sample_rate != self._own:
            raise MediaError(
                f"{shown(self._clip.path)}: changes its sample rate from {self._own} to "
                f"{frame.sample_rate}; convert it to one rate."
            )
        samples = _mono(frame)
        first = self._place(seconds)
        self._last = first + len(samples)
        if first > self._at:
            silence = min(first, self._total) - self._at
            self._push(np.zeros(silence, np.float32))
        self._push(samples[max(self._at - first, 0) : max(self._total - first, 0)])
        return self._at >= self._total

    def _place(self, seconds: float) -> int:
        """Where a frame begins; times that are a little off, as rounded ones are, say nothing."""
        if math.isnan(seconds):
            return self._last or 0
        first = round((seconds - self._clip.start) * self._own)
        near = self._last is not None and abs(first - self._last) < _HOLE * self._own
        return self._last if near and self._last is not None else first

    def _push(self, samples: Samples) -> None:
        if len(samples):
            self._at += len(samples)
            self._parts.append(self._stream.resample_chunk(samples))

    def samples(self) -> Samples:
        """All of it, as long as the clip."""
        sound = np.zeros(round(self._clip.duration * self._rate), np.float32)
        if self._own:
            self._parts.append(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
            found = np.concatenate(self._parts)[: len(sound)]
            sound[: len(found)] = found
        return np.clip(sound, -1, 1)


def open_clip(
    path: str | os.PathLike[str], start: float = 0.0, end: float | None = None
) -> MediaClip:
    """A stretch of a video or audio file, such as mp4, mkv, webm, avi, wav, mp3 or m4a.

    Args:
        path: The file.
        start: Seconds from the start of the file.
        end: Seconds from the start of the file; None is its end, which `end` may exceed by half a
            second.

    Raises:
        ConfigError: PyAV is not installed, or `path` is no path.
        MediaError: The file is missing, empty or damaged beyond use, or is no media file; there is
            nothing between `start` and `end`; or that is longer than `LONGEST_SECONDS`.
    """
    file = Path(expand(path)).absolute()
    if reason := why_no_file(file, "file"):
        raise MediaError(f"{shown(file)}: {reason}.")
    stat = file.stat()
    if not stat.st_size:
        raise MediaError(f"{shown(file)}: is empty.")
    facts = _facts(file, stat.st_size, stat.st_mtime_ns)
    stop = facts.duration if end is None else float(end)
    where = f"{shown(file)}: from {float(start):g} to {stop:g} s"
    if not 0 <= start < stop < math.inf:
        raise MediaError(f"{where} is no stretch of time; give 0 <= start < end, in seconds.")
    if start >= facts.duration or stop > facts.duration + _LATE:
        raise MediaError(f"{where} is not in the file, which has {facts.duration:.2f} s.")
    stop = min(stop, facts.duration)
    if stop - start > LONGEST_SECONDS:
        raise MediaError(
            f"{where} is more than {LONGEST_SECONDS / 3600:g} hours; give start and end."
        )
    return MediaClip(file, float(start), stop - start, facts.has_audio, facts.has_pictures, facts)


@lru_cache(maxsize=64)
def _facts(path: Path, size: int, changed: int) -> _Facts:
    """Facts of a file of that size, last changed at that time."""
    import_extra("soxr", "video", "reading sound and pictures")
    with _opened(path) as container:
        audio = next(iter(container.streams.audio), None)
        video = _video_stream(container)
        if audio is None and video is None:
            raise MediaError(
                f"{shown(path)}: has neither sound nor pictures, or breaks off before them."
            )
        if video is not None and video.width * video.height > _MOST_PIXELS:
            raise MediaError(
                f"{shown(path)}: has pictures of {video.width} x {video.height}; make them smaller."
            )
        # A negative start is what the decoder of the sound needs, and is not played.
        zero = max((container.start_time or 0) / 1e6, 0.0)
        ends = _ends(container, [stream for stream in (audio, video) if stream is not None])
        ends = {index: end - zero for index, end in ends.items()}
        duration = max(ends.values(), default=0.0)
        if duration <= 0:
            raise MediaError(f"{shown(path)}: has no sound or picture that can be read.")
        return _Facts(
            zero=zero,
            duration=duration,
            video_end=0.0 if video is None else ends.get(video.index, 0.0),
            has_audio=audio is not None and audio.index in ends,
            has_pictures=video is not None and video.index in ends,
            damage=_breaks_off(path, size, container, duration),
        )


def _breaks_off(path: Path, size: int, container: Any, duration: float) -> str:
    """That a file is shorter than it says, if it says so."""
    told = (container.duration or 0) / 1e6
    if container.format.name in _TELL_LENGTH and told - duration > _BROKEN:
        return f"it breaks off at {duration:.2f} of {told:.2f} s"
    with path.open("rb") as file:  # AVI and WAV tell their bytes
        head = file.read(8)
    bytes_told = int.from_bytes(head[4:], "little")
    riff = head[:4] == b"RIFF" and bytes_told != 0xFFFFFFFF
    return f"it breaks off at {duration:.2f} s" if riff and bytes_told + 8 > size else ""


def _ends(container: Any, streams: list[Any]) -> dict[int, float]:
    """Time stamps in seconds at which streams end, by their index; of empty ones none."""
    import av

    ends: dict[int, float] = {}
    try:
        for packet in container.demux(streams):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if not packet.size or packet.is_discard:
                continue
            index = packet.stream.index
            lasts = float((packet.duration or 0) * packet.time_base)
            if not lasts and packet.stream.type == "video":
                lasts = float(1 / (packet.stream.average_rate or 25))
            begins = ends.get(index, 0.0) if stamp is None else float(stamp * packet.time_base)
            ends[index] = max(ends.get(index, 0.0), begins + lasts)
    except (av.FFmpegError, OSError):
        pass  # what comes before is there, and the file is shorter than it says
    return ends


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A container, opened by nothing but the file and what is in it."""
    av = import_extra("av", "video", "reading sound and pictures")
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    try:
        container = av.open(str(path), container_options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{shown(path)}: {_why_not(path, error)}.") from error
    with container:
        for stream in (*container.streams.video, *container.streams.audio):
            stream.thread_count = 1  # clips are spread over processes
        yield container


def _why_not(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return "is an MP4 file that breaks off before its index; copy or download it again"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    return "is no video or audio file, or is damaged at its beginning"


def _video_stream(container: Any) -> Any:
    """The first stream of pictures that is no cover; None if there is none."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = container.streams.video
    return next((stream for stream in streams if not stream.disposition & covers), None)


def _mono(frame: Any) -> Samples:
    """(n,) float32 in [-1, 1], channels averaged."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        values = values.astype(np.float32) / 128 - 1
    elif values.dtype.kind == "i":
        values = values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    mono = np.nan_to_num(values.mean(axis=0, dtype=np.float32))
    return np.asarray(np.clip(mono, -1, 1), np.float32)


def _in_time(frames: Iterator[tuple[float, Any]], stream: Any) -> Iterator[tuple[float, Any]]:
    """Pictures whose times grow; one without a time follows the one before at the file's rate."""
    step = float(1 / (stream.average_rate or stream.base_rate or 25))
    last = -step
    for seconds, frame in frames:
        time = last + step if math.isnan(seconds) else seconds
        if time > last:
            yield time, frame
            last = time


class _ToRGB:
    """Makes pictures that are to be looked at of a file's."""

    def __init__(self, aspect: Any, largest: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._aspect, self._largest = float(aspect or 1), largest

    def __call__(self, frame: Any) -> Image:
        """(height, width, 3) uint8, RGB."""
        width, height = frame.width * self._aspect, float(frame.height)
        scale = min(1.0, self._largest / max(width, height))
        across, down = max(round(width * scale), 1), max(round(height * scale), 1)
        image: Any = self._reformatter.reformat(frame, across, down, "rgb24").to_ndarray()
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image

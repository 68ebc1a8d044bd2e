"""A reading as HTML: one template, whose values are escaped; no script, no address."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from matplotlib.image import imsave
from numpy.typing import NDArray

from MMSA_ext.page.reading import Contributions, Reading, in_words
from MMSA_ext.runs.video_scoring import UtteranceScore, VideoScore
from MMSA_ext.video.contract import Image

__all__ = ["Face", "draw", "draw_error", "draw_parts", "face_strip", "picture_rate", "style"]

_NAMES = {"text": "words", "audio": "sound", "vision": "face"}
_PICTURES = 8
_PICTURE_WIDTH = 240  # pixels
_POINTS = 400  # of the loudness; the panel is not wider
_GAP_SECONDS = 0.25  # between frames, where an utterance ends
_QUIETEST = -60.0  # dB, where the panel begins
_FAINT = 0.06  # share of the strongest word below which a word has no colour


@dataclass(frozen=True)
class Face:
    """A picture of the video.

    Attributes:
        time: Seconds from the start of the file.
        address: The picture as a data address (JPEG).
        box: Left, top, width, height of the face in per cent of the picture; None without a face.
    """

    time: float
    address: str
    box: tuple[float, float, float, float] | None


def draw(reading: Reading, *, notes: Sequence[str] = ()) -> str:
    """The score, sentences to stand below it, the utterances over time and their words."""
    score = reading.score
    low, high = score.label_range
    return _template("reading.html").render(
        reading=reading,
        score=score,
        prediction=score.prediction,
        low=low,
        high=high,
        notes=notes,
        missing=_missing(reading),
        strongest=_strongest(reading.contributions),
        coloured=any(found and found.words for found in reading.contributions),
        loudness=_loudness(score),
        ticks=_ticks(score.features.duration),
    )


def draw_parts(reading: Reading, faces: Sequence[Face] = ()) -> str:
    """What the score is made of, and the face."""
    return _template("made_of.html").render(
        reading=reading,
        names=_NAMES,
        modalities=_modalities(reading),
        found=_found(reading.score),
        faces=faces,
    )


def draw_error(message: str) -> str:
    """A sentence in place of an answer."""
    return _template("error.html").render(message=message)


@cache
def style() -> str:
    """The page's style sheet."""
    return (files("MMSA_ext.page") / "templates" / "page.css").read_text(encoding="utf-8")


def face_strip(score: VideoScore, pictures: Sequence[tuple[float, Image]]) -> list[Face]:
    """Pictures by seconds from the start, with the face's box that was found nearest in time."""
    times, boxes = score.shown("face")
    strip = []
    for time, picture in pictures:
        box = None
        if len(times):
            nearest = int(np.abs(times - time).argmin())
            left, top, right, bottom = (float(x) for x in np.clip(boxes[nearest], 0, 1) * 100)
            if not math.isnan(left):
                box = (left, top, right - left, bottom - top)
        strip.append(Face(time, _jpeg(picture), box))
    return strip


def picture_rate(duration: float) -> float:
    """Pictures a second that make a strip."""
    return _PICTURES / max(duration, 1e-3)


def _jpeg(picture: Image) -> str:
    """A small picture, each of whose pixels is the mean of a square, as a data address."""
    step = max(1, picture.shape[1] // _PICTURE_WIDTH)
    height, width = (length // step for length in picture.shape[:2])
    squares = picture[: height * step, : width * step].reshape(height, step, width, step, 3)
    content = io.BytesIO()
    small = squares.mean(axis=(1, 3)).astype(np.uint8)
    imsave(content, small, format="jpeg", pil_kwargs={"quality": 80})
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _missing(reading: Reading) -> list[str]:
    """What there was nothing of, as sentences' parts: the same reason once, with its count."""
    utterances = reading.score.utterances
    counts = Counter(
        (modality, reason) for one in utterances for modality, reason in one.missing.items()
    )
    said = []
    for (modality, reason), count in counts.items():
        where = "" if count == len(utterances) else f" in {count} of {len(utterances)} utterances"
        said.append(f"No {_NAMES[modality]}{where}: {reason}.")
    if reading.score.features.damage:
        said.append(f"The file is damaged: {reading.score.features.damage}.")
    return said


def _modalities(reading: Reading) -> dict[str, float]:
    """Contribution of each modality, as a mean over the utterances, weighted as the score is."""
    own = [
        (found, one.end - one.start)
        for found, one in zip(reading.contributions, reading.score.utterances, strict=True)
        if found is not None
    ]
    if not own:
        return {}
    weights = [length for _, length in own] if any(length for _, length in own) else None

    def mean(values: list[float]) -> float:
        return float(np.average(values, weights=weights))

    parts = {m: mean([found.modalities[m] for found, _ in own]) for m in reading.reads}
    return {"baseline": mean([found.baseline for found, _ in own])} | parts


def _strongest(contributions: Sequence[Contributions | None]) -> float:
    """The largest contribution of a word, by which the colours are scaled."""
    values = [abs(v) for found in contributions if found for _, v in found.words]
    return max(values, default=0.0) or 1.0


def _loudness(score: VideoScore) -> list[str]:
    """The loudness as points of SVG polygons, 1000 wide and 100 high in all, one an utterance."""
    times, values = score.shown("loudness")
    if not len(times):
        return []
    level = np.nan_to_num(values.reshape(len(values), -1)[:, 0], nan=_QUIETEST)
    x = times / score.features.duration * 1000
    y = 100 * np.clip(level / _QUIETEST, 0, 1)
    step = max(1, len(times) // _POINTS)
    gaps = np.flatnonzero(np.diff(times) > _GAP_SECONDS) + 1
    parts = np.split(np.stack([x, y], axis=1), gaps)
    return [_polygon(part[::step]) for part in parts]


def _polygon(line: NDArray[np.float64]) -> str:
    """A line closed along the bottom."""
    first, last = line[0, 0], line[-1, 0]
    points = [(first, 100.0), *line.tolist(), (last, 100.0)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _found(score: VideoScore) -> float | None:
    """Share of the pictures with a face; None where no face was looked for."""
    _, boxes = score.shown("face")
    return float(np.isfinite(boxes).all(axis=1).mean()) if len(boxes) else None


def _ticks(duration: float) -> list[tuple[float, str]]:
    """Per cent of the duration, and what stands there: at most six round times."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
    step = next((step for step in steps if duration / step <= 5), 7200)
    return [(t / max(duration, 1) * 100, _clock(t)) for t in range(0, int(duration) + 1, step)]


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _moment(seconds: float, duration: float) -> str:
    """A time, in a short video to a tenth of a second."""
    return f"{seconds:.1f} s" if duration < 60 else _clock(seconds)


def _when(utterance: UtteranceScore, duration: float) -> str:
    """From when to when."""
    start, end = (_moment(time, duration) for time in (utterance.start, utterance.end))
    return f"{start.removesuffix(' s')}\N{EN DASH}{end}"


def _signed(value: float) -> str:
    """A number with its sign, the minus a real one."""
    return "no score" if math.isnan(value) else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _color(value: float, strongest: float) -> str:
    """Colour behind a word: the stronger, the fuller; none where it hardly counts."""
    share = abs(value) / strongest
    if share < _FAINT:
        return "transparent"
    color = "var(--plus)" if value > 0 else "var(--minus)"
    return f"color-mix(in srgb, {color} {round(12 + 58 * min(share, 1.0))}%, transparent)"


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("MMSA_ext.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": _signed, "color": _color, "moment": _moment, "when": _when}
    environment.globals["in_words"] = in_words
    return environment.get_template(name)

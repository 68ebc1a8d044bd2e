"""Vision features of a clip: shape, gaze and pose of the largest face, by MediaPipe's FaceMesh.

MediaPipe 0.10.14 (Python 3.11, 3.12) brings its models. A newer one brings none: then the
environment variable `MMSA_EXT_FACE_LANDMARKER` names the file `face_landmarker.task`, which its
authors publish, and the Tasks API reads it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from MMSA_ext.errors import ConfigError
from MMSA_ext.extras import import_extra
from MMSA_ext.paths import expand, shown, why_no_file
from MMSA_ext.video import face_shape
from MMSA_ext.video.contract import Track

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from MMSA_ext.video.contract import Clip, Image

__all__ = ["MODEL_VARIABLE", "FaceMesh"]

MODEL_VARIABLE = "MMSA_EXT_FACE_LANDMARKER"
_FACES = 4  # looked for in a picture, of which one is taken
_STAY = 0.67  # size, relative to the largest face, at which the face of before is kept
_LEAST = 0.5  # confidence
_ALL = (0.0, 0.0, 1.0, 1.0)  # left, top, right, bottom of a picture
_AROUND = 2.5  # side of a small face's window, by the face's


class FaceMesh:
    """Shape, gaze and pose of the largest face; `columns` names the values, see `face_shape`.

    All are relative to the face: neither where it is in the picture nor its size counts. Of several
    faces the largest is taken, and kept while it is about as large as any. A picture without a face
    has zeros, and `Track.found` is the share of those with one. A face is found from about a tenth
    of the picture's height on.

    Args:
        rate: Pictures a second.
    """

    name = "facemesh"
    modality: Literal["audio", "vision"] = "vision"
    columns = face_shape.COLUMNS
    width = len(columns)

    largest = 960  # pixels of a picture's longer side; a face is looked at in 192

    def __init__(self, rate: float = 25.0) -> None:
        is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if not (is_number and 0 < rate <= 1000):
            raise ConfigError(f"rate is {rate!r:.80}; give pictures a second, such as 25.")
        self.rate = float(rate)

    def recipe(self) -> dict[str, Any]:
        """Who makes the features: MediaPipe's version, and all that decides the numbers."""
        model = _model_file()
        return {
            "name": self.name,
            "version": f"mediapipe {version('mediapipe')}",
            "model": "face_landmark_with_attention" if model is None else _digest(model),
            "rate": self.rate,
            "largest": self.largest,
            "no_face": "zeros",
        }

    def __call__(self, clip: Clip) -> Track:
        """(L, 119) features, `rate` a second.

        Raises:
            ConfigError: MediaPipe or its model is not there.
            MediaError: The file cannot be read.
        """
        if not clip.has_pictures:
            return self._nothing("the file has no pictures")
        times, points, sizes = [], [], []
        with _finder() as find:
            box = None
            for time, image in clip.pictures(self.rate, self.largest):
                times.append(time)
                faces = find(image, round(time * 1000))
                if faces:
                    face = _chosen(faces, box)
                    points.append(face)
                    box = _box(face)
                else:
                    points.append(np.full((face_shape.POINTS, 3), np.nan, np.float32))
                sizes.append(image.shape[:2])
        if not times:
            return self._nothing("the file has no pictures there")
        middles = np.minimum(np.array(times) + 0.5 / self.rate, clip.duration)
        return self._track(middles, np.stack(points), np.array(sizes, np.float32))

    def _track(
        self,
        times: NDArray[np.float64],
        points: NDArray[np.float32],
        sizes: NDArray[np.float32],
    ) -> Track:
        there = ~np.isnan(points[:, 0, 0])
        if not there.any():
            return self._nothing(f"no face in {len(times)} pictures")
        frames = np.zeros((len(times), self.width), np.float32)
        pixels = points[there] * sizes[there][:, None, [1, 0, 1]]
        frames[there] = face_shape.described(pixels)
        boxes = np.stack([_box(face) for face in points])
        return Track(frames, times, float(there.mean()), shown={"face": boxes})

    def _nothing(self, why: str) -> Track:
        return Track(np.zeros((0, self.width), np.float32), np.zeros(0), 0.0, why)


def _box(face: NDArray[np.float32]) -> NDArray[np.float32]:
    """Left, top, right, bottom."""
    return np.concatenate([face[:, :2].min(axis=0), face[:, :2].max(axis=0)])


def _chosen(
    faces: list[NDArray[np.float32]], before: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """The largest face, or that of before if it is about as large."""
    boxes = np.stack([_box(face) for face in faces])
    sizes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    if before is not None:
        centre = (before[:2] + before[2:]) / 2
        same = np.all((boxes[:, :2] < centre) & (centre < boxes[:, 2:]), axis=1)
        sizes = np.where(same, sizes / _STAY, sizes)
    return faces[int(np.argmax(sizes))]


@contextmanager
def _finder() -> Iterator[_Solutions | _Tasks]:
    """A finder of faces, which remembers nothing of another clip.

    Called with a picture and its time in ms, it gives (478, 3) points of each face, as shares of
    the picture's width, height and width.
    """
    model = _model_file()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype", append=False)
        with _quiet():
            made = _Solutions() if model is None else _Tasks(model)
        try:
            yield made
        finally:
            made.close()


class _Solutions:
    """FaceMesh of MediaPipe 0.10.14, whose models are in its wheel.

    It finds faces from a quarter of the picture's height on. Where there is none, MediaPipe's
    detector for larger distances looks for a smaller one, and FaceMesh then sees its surroundings
    alone, as long as it finds it there.
    """

    def __init__(self) -> None:
        self._mesh = _solution("face_mesh").FaceMesh(
            max_num_faces=_FACES, refine_landmarks=True, min_detection_confidence=_LEAST
        )
        self._far = _solution("face_detection").FaceDetection(
            model_selection=1, min_detection_confidence=_LEAST
        )
        self._window = _ALL
        for part in (self._mesh, self._far):  # whose threads speak up once, at the first picture
            part.process(np.zeros((64, 64, 3), np.uint8))

    def __call__(self, image: Image, milliseconds: int) -> list[NDArray[np.float32]]:
        faces = self._within(image)
        if not faces:
            self._window = self._surroundings(image)
            faces = self._within(image) if self._window != _ALL else []
        return faces

    def _within(self, image: Image) -> list[NDArray[np.float32]]:
        """Faces in the window, as shares of the whole picture."""
        size = np.array([image.shape[1], image.shape[0]])
        left, top, right, bottom = np.rint(np.multiply(self._window, [*size, *size])).astype(int)
        part = np.ascontiguousarray(image[top:bottom, left:right])
        found = self._mesh.process(part).multi_face_landmarks
        scale = np.array([right - left, bottom - top, right - left]) / size[[0, 1, 0]]
        offset = np.array([left, top, 0]) / size[[0, 1, 0]]
        points = [_array(face.landmark) * scale + offset for face in found or ()]
        return [face.astype(np.float32) for face in points]

    def _surroundings(self, image: Image) -> tuple[float, float, float, float]:
        """A window around the largest face; all of the picture where none is found."""
        found = self._far.process(image).detections
        boxes = [face.location_data.relative_bounding_box for face in found or ()]
        if not boxes:
            return _ALL
        box = max(boxes, key=lambda box: box.width * box.height)
        x, y = box.xmin + box.width / 2, box.ymin + box.height / 2
        wide, high = _AROUND * box.width / 2, _AROUND * box.height / 2
        left, top, right, bottom = np.clip([x - wide, y - high, x + wide, y + high], 0, 1)
        return float(left), float(top), float(right), float(bottom)

    def close(self) -> None:
        self._mesh.close()
        self._far.close()


class _Tasks:
    """FaceLandmarker of MediaPipe's Tasks API, with a model of the user's."""

    def __init__(self, model: Path) -> None:
        self._mp = import_extra("mediapipe", "video", "extractor 'facemesh'")
        vision = import_extra("mediapipe.tasks.python.vision", "video", "extractor 'facemesh'")
        core = import_extra("mediapipe.tasks.python", "video", "extractor 'facemesh'")
        options = vision.FaceLandmarkerOptions(
            base_options=core.BaseOptions(model_asset_path=str(model)),
            running_mode=vision.RunningMode.VIDEO,
            num_faces=_FACES,
            min_face_detection_confidence=_LEAST,
        )
        try:
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{shown(model)} ({MODEL_VARIABLE}): MediaPipe cannot read it; name the file "
                "face_landmarker.task that its authors publish."
            ) from error

    def __call__(self, image: Image, milliseconds: int) -> list[NDArray[np.float32]]:
        picture = self._mp.Image(image_format=self._mp.ImageFormat.SRGB, data=image)
        found = self._landmarker.detect_for_video(picture, milliseconds).face_landmarks
        return [_array(face) for face in found]

    def close(self) -> None:
        self._landmarker.close()


def _array(landmarks: Any) -> NDArray[np.float32]:
    return np.array([(point.x, point.y, point.z) for point in landmarks], np.float32)


def _solution(name: str) -> Any:
    """A module of MediaPipe that brings its models; None if this MediaPipe has none."""
    import_extra("mediapipe", "video", "extractor 'facemesh'")
    try:
        return import_module(f"mediapipe.python.solutions.{name}")
    except ImportError:
        return None


def _model_file() -> Path | None:
    """The file of the Tasks API; None where MediaPipe brings its models."""
    given = os.environ.get(MODEL_VARIABLE)
    if given:
        file = Path(expand(given))
        if reason := why_no_file(file, "model"):
            raise ConfigError(f"{shown(file)} ({MODEL_VARIABLE}): {reason}.")
        return file
    with _quiet():
        brought = _solution("face_mesh") is not None
    if not brought:
        raise ConfigError(
            f"MediaPipe {version('mediapipe')} brings no model of faces: set {MODEL_VARIABLE} to "
            "the file face_landmarker.task that its authors publish, or use Python 3.12 or older "
            "with mediapipe==0.10.14."
        )
    return None


@cache
def _digest(file: Path) -> str:
    return f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what MediaPipe's C++ writes to stderr, unless the block fails."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (AttributeError, OSError):  # a process without stderr
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if failed:
                held.seek(0)
                os.write(2, held.read())

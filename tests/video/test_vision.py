import pickle
import sys
import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from MMSA_ext.data.recipes import problems
from MMSA_ext.errors import ConfigError
from MMSA_ext.video import vision
from MMSA_ext.video.extractors import extractor
from MMSA_ext.video.vision import MODEL_VARIABLE, FaceMesh
from tests.video.make import FakeClip


@cache
def portrait(size: int = 256) -> np.ndarray:
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        return np.asarray(image.convert("RGB").crop((62, 20, 462, 420)).resize((size, size)))


@pytest.fixture
def mediapipe(monkeypatch) -> None:
    pytest.importorskip("mediapipe.python.solutions.face_mesh")
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)


def beside(*pictures: np.ndarray) -> np.ndarray:
    height = max(len(picture) for picture in pictures)
    return np.concatenate(
        [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0))) for p in pictures], axis=1
    )


@pytest.mark.usefixtures("mediapipe")
def test_a_face_is_found_in_every_picture_and_gives_the_same_numbers():
    track = extractor("facemesh")(FakeClip(pictures=[portrait()] * 8))

    assert track.frames.shape == (8, 119)
    assert (track.found, track.missing) == (1.0, "")
    assert track.times == pytest.approx((np.arange(8) + 0.5) / 25)
    values = dict(zip(FaceMesh.columns, track.frames[-1], strict=True))
    assert values["mouth_open"] < 0.03  # she has her mouth shut, and looks ahead
    assert 0.5 < values["mouth_width"] < 0.7
    assert abs(values["pose_yaw"]) < 0.1
    left, top, right, bottom = track.shown["face"][-1]
    assert 0.2 < left < 0.35 < 0.65 < right < 0.8
    assert 0.2 < top < 0.35 < 0.7 < bottom < 0.85


@pytest.mark.usefixtures("mediapipe")
def test_pictures_without_a_face_are_zeros():
    empty = np.full_like(portrait(), 90)

    track = extractor("facemesh")(FakeClip(pictures=[*[empty] * 3, *[portrait()] * 5]))
    nobody = extractor("facemesh")(FakeClip(pictures=[empty] * 3))

    assert track.found == pytest.approx(5 / 8)
    assert (track.frames[:3] == 0).all()
    assert (track.frames[3:] != 0).all(axis=1).all()
    assert np.isnan(track.shown["face"][:3]).all()
    assert nobody.frames.shape == (0, 119)
    assert (nobody.found, nobody.missing) == (0.0, "no face in 3 pictures")


def test_sound_alone_has_no_face():
    track = FaceMesh()(FakeClip(np.zeros(100)))

    assert (track.frames.shape, track.missing) == ((0, 119), "the file has no pictures")


@pytest.mark.usefixtures("mediapipe")
@pytest.mark.parametrize("order", [1, -1])
def test_of_two_faces_the_larger_is_taken(order):
    sides = [portrait(300), portrait(200)][::order]

    track = extractor("facemesh")(FakeClip(pictures=[beside(*sides)] * 4))

    left, _, right, _ = track.shown["face"][-1]
    first = 0 if order == 1 else 200
    assert first / 500 < left < right < (first + 300) / 500
    alone = extractor("facemesh")(FakeClip(pictures=[portrait(300)] * 4))
    assert track.frames[-1] == pytest.approx(alone.frames[-1], abs=0.1)


@pytest.mark.usefixtures("mediapipe")
def test_a_small_face_is_found_where_it_is_and_lost_when_it_leaves():
    def scene(left: int) -> np.ndarray:
        picture = np.full((540, 960, 3), 90, np.uint8)
        picture[200:360, left : left + 160] = portrait(160)
        return picture

    empty = np.full((540, 960, 3), 90, np.uint8)
    track = FaceMesh()(FakeClip(pictures=[scene(100), scene(104), scene(700), empty, scene(400)]))
    large = FaceMesh()(FakeClip(pictures=[portrait(540)] * 2))

    assert (track.frames != 0).any(axis=1).tolist() == [True, True, True, False, True]
    face = track.shown["face"][2]
    assert 700 / 960 < face[0] < face[2] < 860 / 960
    assert 200 / 540 < face[1] < face[3] < 360 / 540
    assert face[3] - face[1] < 0.2
    for name in ("mouth_width", "jaw_drop", "pose_yaw", "brow_gap"):
        column = FaceMesh.columns.index(name)
        assert track.frames[2, column] == pytest.approx(large.frames[1, column], abs=0.08)


def test_a_face_is_kept_while_another_is_little_larger():
    def face(left: float, size: float) -> np.ndarray:
        corners = np.array([[left, 0.1, 0], [left + size, 0.1 + size, 0]], np.float32)
        return np.concatenate([corners, np.zeros((0, 3), np.float32)])

    mine, other = face(0.1, 0.2), face(0.6, 0.22)
    before = vision._box(mine)

    assert vision._chosen([mine, other], None) is other
    assert vision._chosen([mine, other], before) is mine
    much_larger = face(0.6, 0.3)
    assert vision._chosen([mine, much_larger], before) is much_larger


@pytest.mark.usefixtures("mediapipe")
def test_a_recipe_is_one_and_the_extractor_goes_to_other_processes():
    made = FaceMesh(rate=10)

    assert problems({"vision": made.recipe()}) == []
    assert made.recipe()["rate"] == 10
    assert pickle.loads(pickle.dumps(made)).recipe() == made.recipe()


@pytest.mark.usefixtures("mediapipe")
def test_mediapipe_is_quiet_and_errors_are_not(capfd):
    FaceMesh()(FakeClip(pictures=[portrait()]))
    assert capfd.readouterr().err == ""

    def fail() -> None:
        import os

        os.write(2, b"what went wrong\n")
        raise RuntimeError

    with pytest.raises(RuntimeError), vision._quiet():
        fail()
    assert capfd.readouterr().err == "what went wrong\n"


@pytest.mark.slow
@pytest.mark.usefixtures("mediapipe")
def test_it_works_in_worker_processes():
    from joblib import Parallel, delayed

    clips = [FakeClip(pictures=[portrait()] * 3)] * 3
    found = Parallel(n_jobs=2, backend="loky")(delayed(FaceMesh())(clip) for clip in clips)

    assert all((track.frames == found[0].frames).all() for track in found)
    assert found[0].found == 1


@pytest.mark.parametrize("rate", [0, -1, float("nan"), 5000, "x", True, None])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError, match="rate"):
        extractor("facemesh", rate=rate) if _has_mediapipe() else FaceMesh(rate)


def _has_mediapipe() -> bool:
    from importlib.util import find_spec

    return find_spec("mediapipe") is not None


@dataclass
class _Point:
    x: float
    y: float
    z: float


class FakeTasks:
    """The part of MediaPipe's Tasks API that is used; its model cannot be had for tests."""

    made: "list[FakeTasks]" = []  # noqa: RUF012

    def __init__(self, options) -> None:
        self.options, self.times, self.closed = options, [], False
        self.made.append(self)

    @classmethod
    def create_from_options(cls, options) -> "FakeTasks":
        if Path(options.base_options.model_asset_path).read_bytes() != b"model":
            raise RuntimeError("Unable to initialize runfiles")
        return cls(options)

    def detect_for_video(self, image, milliseconds):
        assert not self.times or milliseconds > self.times[-1]
        self.times.append(milliseconds)
        assert image.image_format == "srgb"
        rng = np.random.default_rng(0)
        points = [_Point(*rng.uniform(0.3, 0.6, 3)) for _ in range(478)]
        return types.SimpleNamespace(face_landmarks=[points] if image.data.max() else [])

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tasks(monkeypatch, tmp_path) -> Path:
    """A newer MediaPipe, without models; gives the file of one."""
    space = types.SimpleNamespace
    fakes = {
        "mediapipe": space(
            Image=lambda image_format, data: space(image_format=image_format, data=data),
            ImageFormat=space(SRGB="srgb"),
        ),
        "mediapipe.tasks.python": space(BaseOptions=space),
        "mediapipe.tasks.python.vision": space(
            FaceLandmarkerOptions=space,
            FaceLandmarker=FakeTasks,
            RunningMode=space(VIDEO="video"),
        ),
    }
    monkeypatch.setattr(vision, "import_extra", lambda module, extra, user: fakes[module])
    monkeypatch.setattr(vision, "version", lambda name: "0.10.99")
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.face_mesh", None)
    monkeypatch.setattr(FakeTasks, "made", [])
    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"model")
    monkeypatch.setenv(MODEL_VARIABLE, str(model))
    return model


@pytest.mark.usefixtures("tasks")
def test_a_newer_mediapipe_reads_the_model_that_is_named():
    black = np.zeros((8, 8, 3), np.uint8)

    track = FaceMesh()(FakeClip(pictures=[black, black + 1, black + 1]))

    (landmarker,) = FakeTasks.made
    assert landmarker.times == [0, 40, 80]
    assert landmarker.closed
    assert landmarker.options.running_mode == "video"
    assert track.found == pytest.approx(2 / 3)
    assert (track.frames[0] == 0).all()
    assert (track.frames[1] == track.frames[2]).all()
    recipe = FaceMesh().recipe()
    assert recipe["version"] == "mediapipe 0.10.99"
    assert recipe["model"].startswith("sha256 ")


def test_a_model_that_is_not_there_or_none_is_said(tasks, monkeypatch):
    clip = FakeClip(pictures=[np.zeros((8, 8, 3), np.uint8)])
    tasks.write_bytes(b"other")
    with pytest.raises(ConfigError, match="MediaPipe cannot read it"):
        FaceMesh()(clip)
    tasks.unlink()
    with pytest.raises(ConfigError, match=f"{MODEL_VARIABLE}.*no such model"):
        FaceMesh()(clip)
    monkeypatch.delenv(MODEL_VARIABLE)
    with pytest.raises(ConfigError, match=f"brings no model of faces: set {MODEL_VARIABLE}"):
        FaceMesh()(clip)

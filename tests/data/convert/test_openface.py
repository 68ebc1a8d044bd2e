"""OpenFace's CSV: which frames and features are taken."""

from pathlib import Path

import numpy as np
import pytest

from MMSA_ext.data.convert.openface import read_openface
from MMSA_ext.data.features import safe_load
from MMSA_ext.errors import FeatureFileError
from tests.data.convert import sources
from tests.data.convert.test_forms import SOURCES, converted


@pytest.mark.parametrize("faces", [True, False])
@pytest.mark.parametrize("features", [709, 177])
def test_successful_frames_are_taken(faces: bool, features: int, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).normal(size=(5, features))
    path = sources.openface_csv(tmp_path / "clip.csv", frames, failed=(1, 4), faces=faces)
    found, count, names = read_openface(path)
    np.testing.assert_allclose(found, frames, rtol=1e-6)
    assert (count, len(names)) == (7, features)


def test_the_face_with_most_frames_is_taken(tmp_path: Path) -> None:
    lines = ["frame, face_id, timestamp, confidence, success, AU01_r"]
    lines += [
        "1, 0, 0, 0.9, 1, 1",
        "1, 1, 0, 0.9, 1, 5",
        "2, 1, 0, 0.9, 1, 6",
        "3, 0, 0, 0.9, 1, 2",
    ]
    lines += ["3, 2, 0, 0.9, 1, 9", "4, 2, 0, 0.1, 0, 9", "5, 2, 0, 0.1, 0, 9"]
    (tmp_path / "clip.csv").write_text("\n".join(lines))
    found, count, _ = read_openface(tmp_path / "clip.csv")
    assert (found.tolist(), count) == ([[1], [2]], 5)


def test_a_file_becomes_a_sample(tmp_path: Path) -> None:
    rows = sources.openface(tmp_path)
    report = converted(tmp_path, "clip.csv")
    data = safe_load(tmp_path / "out.pkl")
    np.testing.assert_allclose(data["vision"], rows[0]["vision"], rtol=1e-6)
    assert data["recipe"]["vision"]["name"] == "openface"
    assert "audio" not in data
    assert report.of("sample", "vision").dropped == 2


def test_without_a_face_there_is_a_frame_of_zeros(tmp_path: Path) -> None:
    sources.openface(tmp_path)
    name = tmp_path / "openface" / "train0.csv"
    sources.openface_csv(name, np.zeros((0, sources.VISION)), failed=(1, 2))
    source, options = SOURCES["openface"]
    report = converted(tmp_path, source, **options)
    assert "vision without a frame gets one of zeros (1): id 'train0'" in report.render()
    assert safe_load(tmp_path / "out.pkl")["train"]["vision_lengths"][0] == 1


def test_what_does_not_fit(tmp_path: Path) -> None:
    sources.openface(tmp_path)
    source, options = SOURCES["openface"]
    path = tmp_path / "openface" / "train1.csv"
    path.write_text(path.read_text().replace("gaze_0_x", "pose_Tx"))
    with pytest.raises(
        FeatureFileError, match=r"vision: the columns differ, or their order does.*train1"
    ):
        converted(tmp_path, source, **options)
    path.write_text(path.read_text().replace("0.98", "high").replace("pose_Tx", "gaze_0_x"))
    converted(tmp_path, source, **options)
    path.write_text(path.read_text().splitlines()[0] + "\n1, 0, 0, 1, 1, a, b, c, d\n")
    with pytest.raises(FeatureFileError, match=r"vision cannot be read.*train1\.csv"):
        converted(tmp_path, source, **options)
    (tmp_path / "clip.csv").write_text("frame,timestamp,confidence,success,x\n1,0,1,1,a\n")
    with pytest.raises(FeatureFileError, match="no sound OpenFace file"):
        converted(tmp_path, "clip.csv")

from pathlib import Path

import numpy as np
import pytest

from MMSA_ext.errors import MediaError
from MMSA_ext.video.extractors import extractor
from tests.video.make import FakeClip


def csv(path: Path, faces: tuple[int, ...] = (0,), seconds: float = 2.0) -> Path:
    """OpenFace's table at 25 pictures a second; the values are the picture's number and face."""
    lines = ["frame, face_id, timestamp, confidence, success, gaze_0_x, AU01_r"]
    for k in range(round(seconds * 25)):
        for face in faces:
            success = int(k % 5 != 4) if face == 0 else int(k % 5 == 0)
            lines.append(f"{k + 1}, {face}, {k / 25:.3f}, 0.98, {success}, {k}, {face}")
    path.write_text("\n".join(lines) + "\n")
    return path


def clip(folder: Path, start: float = 0.0, seconds: float = 2.0) -> FakeClip:
    made = FakeClip(np.zeros(round(seconds * 100)), 100, path=folder / "a.mp4")
    made.start = start
    return made


def test_the_file_beside_the_video_is_read(tmp_path):
    csv(tmp_path / "a.csv", (0, 1))

    track = extractor("openface", width=2)(clip(tmp_path))

    there = [k for k in range(50) if k % 5 != 4]
    assert track.frames.tolist() == [[k, 0] for k in there]
    assert track.times == pytest.approx(np.array(there) / 25)
    assert track.found == 0.8


def test_a_stretch_has_its_own_rows(tmp_path):
    csv(tmp_path / "a.csv")

    track = extractor("openface", width=2)(clip(tmp_path, 0.4, 0.2))

    assert track.frames[:, 0].tolist() == [10, 11, 12, 13]
    assert track.times == pytest.approx([0, 0.04, 0.08, 0.12])


def test_another_folder_and_no_face(tmp_path):
    (tmp_path / "faces").mkdir()
    csv(tmp_path / "faces" / "a.csv")

    track = extractor("openface", width=2, folder=str(tmp_path / "faces"))(
        clip(tmp_path, 0.16, 0.04)
    )

    assert track.frames.shape == (0, 2)
    assert (track.found, track.missing) == (0.0, "no face in 1 pictures")


def test_what_is_wrong_with_the_file_is_said(tmp_path):
    read = extractor("openface", width=2)
    with pytest.raises(MediaError, match=r"a\.csv: no such file; run OpenFace first"):
        read(clip(tmp_path))
    csv(tmp_path / "a.csv")
    with pytest.raises(MediaError, match="has 2 features, not 709"):
        extractor("openface")(clip(tmp_path))
    for content in ("", "a,b\n1,2\n", "frame,timestamp,confidence,success,x,y\n1,0,1,1,no,2\n"):
        (tmp_path / "a.csv").write_text(content)
        with pytest.raises(MediaError, match=r"a\.csv: it is no sound OpenFace file"):
            read(clip(tmp_path))
    (tmp_path / "a.csv").write_text("frame,timestamp,confidence,success,x,y\n1,0,1,1,,2\n")
    with pytest.raises(MediaError, match="no numbers"):
        read(clip(tmp_path))

import numpy as np
import pytest

from MMSA_ext.errors import WriteError

pytest.importorskip("av")
pytest.importorskip("soxr")

from MMSA_ext.video.extractors import extractor
from MMSA_ext.video.media import open_clip
from MMSA_ext.video.talking_head import make_talking_head


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("heads")
    return {s: make_talking_head(folder / f"{s}.mp4", s, 1.0, seed=3) for s in (-1, 0, 1)}


def test_it_is_a_film_of_that_length_and_size(tmp_path):
    clip = open_clip(make_talking_head(tmp_path / "a.mp4", 0.5, 0.6, rate=20, size=96))

    assert clip.duration == pytest.approx(0.6, abs=0.02)
    assert len(clip.audio(16_000)) == pytest.approx(9_600, abs=400)
    pictures = [picture for _, picture in clip.pictures(20)]
    assert {picture.shape for picture in pictures} == {(96, 96, 3)}
    assert len(pictures) == 12


def test_the_same_arguments_give_the_same_file(tmp_path):
    first, second, other = (
        make_talking_head(tmp_path / f"{k}.mp4", 0.5, 0.3, seed, size=64).read_bytes()
        for k, seed in enumerate((1, 1, 2))
    )

    assert first == second != other


def test_the_face_is_found_and_its_mouth_moves_with_the_voice(heads):
    pytest.importorskip("mediapipe.python.solutions.face_mesh")
    clip = open_clip(heads[0])
    face, sound = extractor("facemesh")(clip), extractor("sims33")(clip)

    mouth = face.frames[:, extractor("facemesh").columns.index("mouth_open")]
    loud = 10 ** (np.interp(face.times, sound.times, sound.shown["loudness"]) / 20)

    assert face.found == 1
    assert np.corrcoef(mouth, loud)[0, 1] > 0.6
    assert mouth.max() > 0.12


def test_the_sentiment_is_seen_and_heard(heads):
    pytest.importorskip("mediapipe.python.solutions.face_mesh")
    face = extractor("facemesh")

    def shown(path):
        clip = open_clip(path)
        frames = face(clip).frames.mean(axis=0)
        sound = extractor("sims33")(clip)
        pitch = sound.frames[:, 0][sound.frames[:, 0] != 0]
        corners = frames[[face.columns.index(f"corner_lift_{s}") for s in ("right", "left")]]
        brow = frames[face.columns.index("brow_middle_left")]
        return corners.mean(), brow, pitch.mean(), pitch.std(), sound.shown["loudness"].mean()

    bad, middle, good = (np.array(shown(heads[s])) for s in (-1, 0, 1))

    assert (bad < middle).all()
    assert (middle < good).all()


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        make_talking_head(tmp_path / "file" / "a.mp4", size=64, seconds=0.2)

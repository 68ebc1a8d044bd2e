"""Strange videos end in a score that says what was missing."""

import math
import subprocess
import sys

import numpy as np
import pytest

from MMSA_ext import Scorer
from MMSA_ext.data.features import write_features
from MMSA_ext.runs.video_scoring import score_video
from MMSA_ext.video.extractors import extractor
from MMSA_ext.video.media import open_clip
from MMSA_ext.video.talking_head import make_talking_head
from tests.conftest import make_feature_data, tiny_config, train
from tests.video.make import write

pytest.importorskip("mediapipe")
SECONDS = 0.6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_encoder):
    """Of random features, said to be by the extractors here."""
    folder = tmp_path_factory.mktemp("awkward")
    makers = {"audio": extractor("sims33"), "vision": extractor("facemesh")}
    data, rng = make_feature_data(), np.random.default_rng(0)
    for split in data.values():
        for key, maker in makers.items():
            count, steps = split[key].shape[:2]
            split[key] = rng.normal(size=(count, steps, maker.width)).astype(np.float32)
    data["recipe"] = {key: maker.recipe() for key, maker in makers.items()}
    config = tiny_config("dashfusion", tiny_encoder, num_epochs=1)
    features = write_features(folder / "features.pkl", data)
    return train("dashfusion", features, folder, config=config).checkpoint


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Pictures and sound of somebody who talks."""
    path = tmp_path_factory.mktemp("head") / "head.mp4"
    clip = open_clip(make_talking_head(path, 0.5, SECONDS, size=160))
    return [image for _, image in clip.pictures(25)], clip.audio(44_100)


def scored(checkpoint, path, **options):
    scorer = Scorer(checkpoint, gpu_ids="cpu", too_long="pool")
    return score_video(scorer, path, text="word1 word2", cache=False, **options)


def side_by_side(pictures):
    return [np.hstack([image[:, ::2].repeat(2, axis=1), image]) for image in pictures]


@pytest.mark.parametrize(
    ("name", "made", "missing"),
    [
        ("no_sound", lambda pictures, sound: {"pictures": pictures}, {"audio"}),
        (
            "no_face",
            lambda pictures, sound: {"pictures": [p * 0 for p in pictures], "sound": sound},
            {"vision"},
        ),
        (
            "two_faces",
            lambda pictures, sound: {"pictures": side_by_side(pictures), "sound": sound},
            set(),
        ),
        ("one_picture", lambda pictures, sound: {"pictures": pictures[:1]}, {"audio"}),
        (
            "turned",
            lambda pictures, sound: {
                "pictures": [np.rot90(p, -1).copy() for p in pictures],
                "sound": sound,
                "turned": 90,
            },
            set(),
        ),
        (
            "uneven",
            lambda pictures, sound: {
                "pictures": pictures[:8],
                "sound": sound,
                "milliseconds": [0, 20, 40, 160, 200, 420, 430, 560],
            },
            set(),
        ),
        ("你好 世界", lambda pictures, sound: {"pictures": pictures, "sound": sound}, set()),
    ],
)
def test_a_strange_video_has_a_score(checkpoint, head, tmp_path, name, made, missing):
    score = scored(checkpoint, write(tmp_path / f"{name}.mp4", **made(*head)))
    (only,) = score.utterances
    assert not only.error
    assert math.isfinite(score.prediction)
    assert set(only.missing) == missing
    faces = score.shown("face")[1]
    seen = len(faces) and np.isfinite(faces).all(axis=1).mean()
    assert seen > 0.8 if "vision" not in missing else not seen
    if seen and name in ("turned", "你好 世界"):  # where a face is, in shares of what one looks at
        left, top, right, bottom = np.nanmean(faces, axis=0)
        assert 0 < left < 0.5 < right < 1
        assert 0 < top < 0.6 < bottom <= 1


def test_what_cannot_be_decoded_is_said_of_every_part(checkpoint, head, tmp_path):
    """Also where the cache has the part."""
    pictures, sound = head
    path = write(tmp_path / "bad.mkv", 3 * pictures, np.tile(sound, 3))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    scorer = Scorer(checkpoint, gpu_ids="cpu", too_long="pool")
    for _ in range(2):
        score = score_video(scorer, path, text="word1", cache=tmp_path / "cache")
        assert "cannot be" in score.features.damage
        assert math.isfinite(score.prediction)


LONG = """
import sys
from MMSA_ext import Scorer
from MMSA_ext.processes import peak_rss_mb
from MMSA_ext.runs.video_scoring import score_video
score = score_video(Scorer(sys.argv[1], gpu_ids="cpu", too_long="pool"), sys.argv[2], cache=False)
print(len(score.utterances), score.prediction, peak_rss_mb())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="its peak is not known there")
def test_ten_minutes_take_less_than_two_gigabytes(checkpoint, tmp_path):
    video = make_talking_head(tmp_path / "long.mp4", 0.2, 600, size=128, rate=10)
    command = [sys.executable, "-c", LONG, checkpoint, video]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    utterances, prediction, peak = int(said[0]), float(said[1]), float(said[2])
    print(f"{utterances} utterances, peak {peak:.0f} MiB")
    assert utterances >= 60
    assert math.isfinite(prediction)
    assert peak < 2e6 / 2**10

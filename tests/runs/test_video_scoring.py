"""Videos are scored by what a checkpoint's recipe says, with what there is of them."""

import json
import logging
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from MMSA_ext import Scorer
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError, MediaError
from MMSA_ext.runs.video_scoring import (
    extract_video,
    extractors_of,
    score_features,
    score_video,
)
from MMSA_ext.video import extract
from MMSA_ext.video.extractors import (
    extractor,
    list_extractors,
)
from tests.video.fakes import (
    Brightness,
    Loudness,
    registered,
    tone,
    write_pictures,
    write_sound,
)
from tests.video.trained import trained_on_videos

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def extractors():
    with registered():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_encoder):
    return trained_on_videos(tmp_path_factory.mktemp("videos"), tiny_encoder)


@pytest.fixture
def scorer(trained):
    return Scorer(trained["dashfusion"], gpu_ids="cpu", too_long="pool")


@pytest.fixture
def video(tmp_path):
    return write_pictures(tmp_path / "new.mp4", 0.6, 90, tone(0.6))


def scored(scorer, path, **options):
    return score_video(scorer, path, **{"cache": False} | options)


def test_a_video_is_scored_as_its_feature_file_is(scorer, video, tmp_path, tiny_encoder):
    score = scored(scorer, video, text="word3 word4")
    options = {"audio": Loudness(), "vision": Brightness(), "pretrained": str(tiny_encoder)}
    one = {"text": "word3 word4", "cache": False, "progress": False}
    extract(video, tmp_path / "one.pkl", **options, **one)
    want = scorer.predict(scorer.read(tmp_path / "one.pkl"))["prediction"].item()
    assert score.prediction == pytest.approx(want, abs=1e-5)
    (only,) = score.utterances
    assert (only.missing, only.error, only.text) == ({}, "", "word3 word4")
    assert score.label_range == (-3, 3)
    assert [word.text for word in score.words] == ["word3", "word4"]
    times, boxes = score.shown("face")
    assert boxes.shape == (len(times), 4)
    assert len(score.shown("loudness")[0]) == 6


def test_what_is_missing_is_said_and_the_rest_scored(scorer, tmp_path, tiny_encoder):
    sound = write_sound(tmp_path / "new.wav", 0.6)
    score = scored(scorer, sound, text="word3")
    assert score.utterances[0].missing == {"vision": "no pictures"}
    assert math.isfinite(score.prediction)
    nothing = scored(scorer, sound)
    assert nothing.utterances[0].missing.keys() == {"vision", "text"}
    assert "vision: no pictures; text: no transcript" in nothing.table()["missing"][0]
    # as in extraction: zeros, which are then scaled
    both = {"audio": Loudness(), "vision": Brightness(), "pretrained": str(tiny_encoder)}
    write_pictures(tmp_path / "other.mp4", 0.6, 90, tone(0.6))
    rows = ["id,path,text", "new,new.wav,word3", "other,other.mp4,word4"]
    (tmp_path / "two.csv").write_text("\n".join(rows))
    extract(tmp_path / "two.csv", tmp_path / "two.pkl", cache=False, progress=False, **both)
    want = scorer.predict(scorer.read(tmp_path / "two.pkl"))["prediction"][0]
    assert score.prediction == pytest.approx(want, abs=1e-5)


def test_where_there_is_nothing_a_sentence_says_so(trained, video, tmp_path):
    text_only = Scorer(trained["text_only"], gpu_ids="cpu")
    with pytest.raises(MediaError, match=r"nothing can be scored: no text \(no transcript"):
        scored(text_only, video)
    assert math.isfinite(scored(text_only, video, text="word1").prediction)
    (tmp_path / "none.mp4").write_text("no video")
    with pytest.raises(MediaError, match="is no video or audio file"):
        scored(text_only, tmp_path / "none.mp4", text="word1")


def test_an_edited_transcript_is_scored_without_extracting(scorer, video, monkeypatch):
    features = extract_video(scorer, video, text="word3", cache=False)
    monkeypatch.setattr(Loudness, "__call__", lambda *_: pytest.fail("extracted again"))
    before, after = (score_features(scorer, f) for f in (features, features.with_texts(["word9"])))
    assert after.utterances[0].text == "word9"
    assert after.prediction != before.prediction
    assert after.words[0].end <= features.duration
    assert features.with_texts(["word3"]).utterances[0] is features.utterances[0]
    with pytest.raises(ConfigError, match="2 texts are given for 1 utt"):
        features.with_texts(["a", "b"])
    with pytest.raises(ConfigError, match="a text is None"):
        features.with_texts([None])
    assert features.with_texts("word3").utterances == features.utterances


def test_what_was_extracted_for_another_model_is_refused(scorer, video):
    features = extract_video(scorer, video, text="word3", cache=False)
    slower = features.recipe | {"audio": features.recipe["audio"] | {"rate": 1}}
    for recipe in (slower, {"audio": features.recipe["audio"]}):
        with pytest.raises(ConfigError, match="not extracted for"):
            score_features(scorer, replace(features, recipe=recipe))


@pytest.mark.parametrize(
    ("made", "words"),
    [(lambda: 1 / 0, "ZeroDivisionError"), (lambda: ["a"], "no list of Word"), (int, "no list")],
)
def test_a_recogniser_that_fails_is_named(scorer, video, made, words):
    class Broken:
        name = "broken"

        def __call__(self, clip):
            return made()

    with pytest.raises(MediaError, match=f"recogniser 'broken' fails: .*{words}"):
        scored(scorer, video, recogniser=Broken())


def test_a_long_video_is_scored_utterance_by_utterance(scorer, tmp_path):
    video = write_pictures(tmp_path / "long.mp4", 6, 90, tone(6))
    cues = ("00:00:00,500 --> 00:00:02,000\nword1 word2.", "00:00:03,000 --> 00:00:05,500\nword3.")
    subtitles = tmp_path / "long.srt"
    subtitles.write_text("".join(f"{i}\n{cue}\n\n" for i, cue in enumerate(cues, 1)))
    score = scored(scorer, video, subtitles=subtitles)
    assert [(one.start, one.end) for one in score.utterances] == [(0.5, 2.0), (3.0, 5.5)]
    assert [one.text for one in score.utterances] == ["word1 word2.", "word3."]
    assert [one.start for one in score.words] == pytest.approx([0.5, 1.25, 3.0], abs=0.2)
    times, _ = score.shown("loudness")
    assert times[0] == pytest.approx(0.55)
    assert times[-1] == pytest.approx(5.45)
    one, other = (one.prediction for one in score.utterances)
    assert score.prediction == pytest.approx((1.5 * one + 2.5 * other) / 4)
    assert len(score.table()) == 2
    written = json.loads(json.dumps(score.as_json()))
    assert written["utterances"][1]["words"][0][0] == "word3."
    assert written["utterances"][1]["words"][0][1] == 3.0
    whole = scored(scorer, video, subtitles=subtitles, split="whole")
    assert whole.utterances[0].text == "word1 word2. word3."
    with pytest.raises(ConfigError, match="needs subtitles"):
        scored(scorer, video, split="subtitles")
    with pytest.raises(ConfigError, match="split is 'half'"):
        scored(scorer, video, split="half")


def test_silence_is_cut_evenly(scorer, tmp_path):
    video = write_pictures(tmp_path / "silent.mp4", 25)
    score = scored(scorer, video)
    assert [round(one.end) for one in score.utterances] == [8, 17, 25]
    assert all(one.missing.keys() == {"audio", "text"} for one in score.utterances)


class TestRecipe:
    def test_another_version_is_a_warning(self, scorer, video, monkeypatch, caplog):
        monkeypatch.setattr(Loudness.__init__, "__defaults__", (None, "2", 0.0, None))
        with caplog.at_level(logging.WARNING, "MMSA"):
            scored(scorer, video, text="word1")
        assert "perhaps of another recipe: audio is loudness 2" in caplog.text

    def test_another_parameter_is_refused(self, scorer, video, monkeypatch):
        made = {"name": "loudness", "version": "1", "rate": 9000}
        monkeypatch.setattr(Loudness, "recipe", lambda _: made)
        with pytest.raises(FeatureFileError, match="rate 9000"):
            scored(scorer, video, text="word1")

    def test_options_are_those_of_training(self, scorer, video, monkeypatch):
        scorer.recipe["audio"] = scorer.recipe["audio"] | {"seconds": 0.001}
        seen = []
        monkeypatch.setattr(
            Loudness, "recipe", lambda self: seen.append(self.seconds) or scorer.recipe["audio"]
        )
        scored(scorer, video, text="word1")
        assert set(seen) == {0.001}

    @pytest.mark.parametrize(
        ("name", "width"), [("sims33", 33), ("egemaps25", 25), ("facemesh", 119), ("openface", 177)]
    )
    def test_a_recipe_finds_its_extractor(self, scorer, name, width):
        entry = next(entry for entry in list_extractors() if entry.name == name)
        if entry.absent:
            pytest.skip(f"{entry.absent} not installed")
        options = {"width": width} if name == "openface" else {}
        scorer.recipe[entry.modality] = made = extractor(name, **options).recipe()
        place = 1 if entry.modality == "audio" else 2
        scorer.args.feature_dims[place] = width
        found = extractors_of(scorer)[entry.modality]
        assert (found.name, found.width, found.recipe()) == (name, width, made)
        if name != "openface":
            scorer.args.feature_dims[place] = 3
            with pytest.raises(CheckpointError, match=f"trained on 3 .* makes {width}"):
                extractors_of(scorer)

    @pytest.mark.parametrize(
        ("made", "words"),
        [
            (None, r"does not say who made the audio features of its training \(2 a frame\)"),
            ({"name": "covarep", "version": ""}, "are by covarep, which is none of the extractors"),
        ],
    )
    def test_what_cannot_be_made_again_is_said_with_the_mend(self, scorer, video, made, words):
        scorer.recipe.pop("audio")
        if made:
            scorer.recipe["audio"] = made
        with pytest.raises(CheckpointError, match=f"(?s){words}.*mmsa-ext extract"):
            scored(scorer, video)

    def test_official_features_are_called_by_name(self, scorer, video):
        scorer.recipe.clear()
        scorer.args.feature_dims = [768, 5, 20]
        with pytest.raises(CheckpointError, match=r"official audio features of mosi.*COVAREP"):
            scored(scorer, video)
        scorer.args.use_bert = False
        with pytest.raises(CheckpointError, match="reads word vectors"):
            scored(scorer, video)


class TestCommand:
    @pytest.fixture
    def checkpoint(self, trained, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return shutil.copy(trained["dashfusion"], tmp_path / "model.pth")

    def test_several_videos_and_a_folder(self, checkpoint, video, tmp_path, typed):
        sound = write_sound(tmp_path / "新.wav")
        (tmp_path / "新.txt").write_text("word7")
        for given in ("new.mp4 新.wav", "."):
            ended, said = typed(f"mmsa-ext predict model.pth {given} -o scores.csv")
            assert ended == 0, said
            assert "2 predictions written to scores.csv" in said
        table = pd.read_csv("scores.csv", keep_default_na=False)
        assert table["video"].tolist() == [video.name, sound.name]
        assert table["text"].tolist() == ["", "word7"]
        assert table["missing"][1] == "vision: no pictures"

    def test_what_cannot_be_scored_is_named_and_the_others_are(self, checkpoint, video, typed):
        shutil.copy(checkpoint, "bad.mp4")
        ended, said = typed("mmsa-ext predict model.pth bad.mp4 new.mp4 --no-cache")
        assert ended == 1
        assert "bad.mp4: is no video or audio file" in said
        assert "1 of 2 videos could not be scored." in said
        assert "new.mp4,0.0,0.6," in said

    def test_as_json(self, checkpoint, video, typed):
        ended, said = typed('mmsa-ext predict model.pth new.mp4 --text "word1 word2" -o s.json')
        assert ended == 0, said
        (one,) = json.loads((video.parent / "s.json").read_text("utf-8"))
        assert one["utterances"][0]["text_source"] == "given"

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ("new.mp4 --front-padding turn", "no effect but on a feature file"),
            ("new.mp4 new.mp4 --text x", "are of one video"),
            ("--text x --asr whisper", "no effect but on a video"),
            ("new.mp4 model.pth", "of videos alone"),
            ("new.mp4 -o new.mp4", "is the input"),
            (". -o new.mp4", "is the input"),
            ("new.mp4 --subtitles new.mp4 -o new.mp4", "is the input"),
            ("new.mp4 --text x -o a.png --plot a.png", "name one file"),
            ("new.mp4 -o .", "is a folder"),
            (". --text x -o s.csv --split half", "split is 'half'"),
            ("model.pth --text x", "for videos alone"),
            ("--text x --no-cache", "no effect but on a video"),
            ("new.mp4 --asr no_such", "is no recogniser"),
        ],
    )
    def test_options_that_do_not_go_together(self, checkpoint, video, typed, words, told):
        ended, said = typed(f"mmsa-ext predict model.pth {words}")
        assert ended == 2
        assert told in said

"""Pickles of MulT, MAG-BERT and MMSA's extractor: what is renamed, turned, refused."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MMSA_ext.data.features import check_features, safe_load
from MMSA_ext.errors import FeatureFileError
from tests.data.convert import sources
from tests.data.convert.test_forms import converted, frames


def change(path: Path, **split: Any) -> None:
    """Other values in the training split of a pickle."""
    data = safe_load(path)
    data["train"] |= split
    path.write_bytes(pickle.dumps(data, protocol=4))


def test_mult_says_what_it_renamed(tmp_path: Path) -> None:
    sources.mult(tmp_path)
    said = converted(tmp_path, "mosi_data.pkl").render()
    for note in (
        "Key labels is regression_labels",
        r"The parts of an id are joined by $_$",
        "Split dev is valid",
        "moved behind them, in samples: text 13, audio 13, vision 13",
    ):
        assert note in said
    train = safe_load(tmp_path / "out.pkl")["train"]
    assert train["text"].shape == (12, 5, 6)
    assert check_features(tmp_path / "out.pkl", "mosi").ok
    kept = converted(tmp_path, "mosi_data.pkl", front_padding="keep")
    assert "moved" not in kept.render()


def test_mult_unaligned(tmp_path: Path) -> None:
    """Each modality has steps of its own, and its own zeros in front."""
    rows = sources.utterances()
    data = {}
    for name in sources.SPLITS:
        own = [row for row in rows if row["split"] == name]
        data[name] = {
            "text": np.ones((len(own), 4, 6)),
            "audio": sources.padded(own, "audio", front=True),
            "vision": sources.padded(own, "vision", front=True),
            "labels": np.array([[[row["label"]]] for row in own]),
            "id": [[row["id"], "1"] for row in own],
        }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    converted(tmp_path, "x.pkl")
    train = safe_load(tmp_path / "out.pkl")["train"]
    for i, row in enumerate(row for row in rows if row["split"] == "train"):
        for key in ("audio", "vision"):
            np.testing.assert_allclose(frames(train, key, i), row[key], rtol=1e-6)


def test_minus_infinity_in_audio_is_counted(tmp_path: Path) -> None:
    sources.mult(tmp_path)
    audio = safe_load(tmp_path / "mosi_data.pkl")["train"]["audio"].copy()
    audio[0, -1, 0] = -np.inf
    change(tmp_path / "mosi_data.pkl", audio=audio)
    assert converted(tmp_path, "mosi_data.pkl").of("train", "audio").not_numbers == 1
    vision = safe_load(tmp_path / "mosi_data.pkl")["train"]["vision"].copy()
    vision[0, -1, 0] = np.inf
    change(tmp_path / "mosi_data.pkl", vision=vision)
    with pytest.raises(FeatureFileError, match="vision is infinite"):
        converted(tmp_path, "mosi_data.pkl")


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"labels": [[1, 2]] * 12}, "regression_labels is not one number a sample"),
        ({"labels": 1.0}, "regression_labels is not one number a sample"),
        ({"labels": [[True]] * 12}, "regression_labels is not one number a sample"),
        ({"id": ["a"] * 12}, r"id occurs more than once \(11\)"),
        ({"id": ["a"] * 11}, "keys differ in their number of samples"),
        ({"audio": np.zeros((12, 5))[..., None, None]}, r"audio is not \(samples, time"),
        ({"audio": "x"}, r"audio is not \(samples, time"),
        ({"audio": []}, r"audio is not \(samples, time"),
        ({"raw_text": 3}, "keys differ in their number of samples"),
        ({"labels": [None] * 12}, "M is missing"),
    ],
)
def test_what_is_wrong_is_said(split: dict[str, Any], said: str, tmp_path: Path) -> None:
    sources.mult(tmp_path)
    change(tmp_path / "mosi_data.pkl", **split)
    with pytest.raises(FeatureFileError, match=said):
        converted(tmp_path, "mosi_data.pkl", form="mult")
    assert not (tmp_path / "out.pkl").exists()


@pytest.mark.parametrize("form", ["mult", "mag_bert", "mmsa_fet"])
@pytest.mark.parametrize("data", [3, [], {}, {"train": 3}, {"train": {}}, {"train": [[1, 2, 3]]}])
def test_what_is_no_such_pickle(form: str, data: Any, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(FeatureFileError):
        converted(tmp_path, "x.pkl", form=form)


def test_inputs_that_failed_once_end_in_a_sentence(shared_cases: Path, tmp_path: Path) -> None:
    for path in sorted((shared_cases / "pickles").glob("*.pkl"))[::3]:
        with pytest.raises(FeatureFileError, match=re.escape(path.name)):
            converted(path.parent, path.name, str(tmp_path / "out.pkl"))


def test_mag_bert_samples(tmp_path: Path) -> None:
    sources.mag_bert(tmp_path)
    data = safe_load(tmp_path / "mosi.pkl")
    (words, visual, acoustic), label, name = data["train"][0]
    data["train"][0] = ((words, visual, acoustic), np.nan, name)
    data["train"][1] = (("one text", visual, acoustic), 1.0, data["train"][1][2])
    data["train"][2] = ((words, visual), label, "short")
    data["train"][3] = ((words, visual[0], acoustic), label, "flat")
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(FeatureFileError) as error:
        converted(tmp_path, "mosi.pkl")
    assert error.match(r"a sample is not \(\(words, .*\(2\): train 2, train 3")
    assert error.match(r"M is missing .*'train0'")
    del data["train"][2:4]
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(data))
    converted(tmp_path, "mosi.pkl", incomplete="drop")
    assert safe_load(tmp_path / "out.pkl")["train"]["raw_text"][0] == "one text"


def test_the_recipe_of_the_source_is_kept(tmp_path: Path) -> None:
    sources.mmsa_fet(tmp_path)
    data = safe_load(tmp_path / "dataset.pkl")
    data["recipe"] = {"audio": {"name": "opensmile", "version": "2.5"}}
    data["text_encoder"] = "minilm"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    report = converted(tmp_path, "x.pkl", front_padding="turn")
    assert safe_load(tmp_path / "out.pkl")["recipe"] == data["recipe"] | {
        "text": {"name": "minilm", "version": ""}
    }
    assert "Recipe   text by minilm; audio by opensmile 2.5" in report.render()
    data["recipe"]["audio"].pop("version")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(FeatureFileError, match="recipe audio has no texts"):
        converted(tmp_path, "x.pkl", front_padding="turn")


def test_keys_that_are_not_used_are_said(tmp_path: Path) -> None:
    sources.mmsa_fet(tmp_path)
    said = converted(tmp_path, "dataset.pkl", front_padding="turn").render()
    assert "Keys not used: annotations, classification_labels" in said


def test_extractor_needs_the_word_to_turn(tmp_path: Path) -> None:
    sources.mmsa_fet(tmp_path)
    with pytest.raises(FeatureFileError, match="--front-padding turn"):
        converted(tmp_path, "dataset.pkl")


def test_extractor_without_padding(tmp_path: Path) -> None:
    rows = sources.mmsa_fet(tmp_path)
    own = [row for row in rows if row["split"] == "train"]
    data = {"train": safe_load(tmp_path / "dataset.pkl")["train"]}
    data["train"] |= {key: [row[key] for row in own] for key in ("audio", "vision")}
    del data["train"]["audio_lengths"]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    converted(tmp_path, "x.pkl")
    train = safe_load(tmp_path / "out.pkl")["train"]
    assert train["audio_lengths"] == [len(row["audio"]) for row in own]


def test_one_file_of_the_extractor(tmp_path: Path) -> None:
    rows = sources.mmsa_fet(tmp_path)
    report = converted(tmp_path, "one.pkl")
    data = safe_load(tmp_path / "out.pkl")
    np.testing.assert_allclose(data["audio"], rows[0]["audio"], rtol=1e-6)
    assert data["id"] == "one"
    assert check_features(tmp_path / "out.pkl", require_labels=False).ok
    assert "mmsa-ext predict CHECKPOINT" in report.render()

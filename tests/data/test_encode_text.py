"""Filling text keys from transcripts."""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from MMSA_ext.data.encode_text import TextCoverage, coverage, encode_text
from MMSA_ext.data.features import read_features, safe_load, write_features
from MMSA_ext.errors import ConfigError, FeatureFileError, TextEncoderError
from MMSA_ext.text_encoders import identity, load_text_encoder, load_tokenizer
from tests.conftest import loader_args

TEXTS = ["word1", "", "word2 word3 unknown", " ".join(["word4"] * 30), "word5 word6"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    data: dict[str, Any] = {"remark": "kept"}
    for number, name in enumerate(("train", "valid", "test")):
        texts = np.array(TEXTS) if name == "test" else TEXTS
        data[name] = {
            "id": [f"{name}{i}" for i in range(len(texts))],
            "raw_text": texts,
            "audio": generator.normal(size=(5, 4, 3)).astype(np.float32),
            "vision": generator.normal(size=(5, 2, 2)).astype(np.float16),
            "audio_lengths": [4, 3, 2, 1, 4],
            "vision_lengths": [2] * 5,
            "regression_labels": np.linspace(-1, 1, 5, dtype=np.float32) * (number + 1),
            "annotations": ["x"] * 5,
        }
    return write_features(tmp_path / "source.pkl", data)


def encoded(source: Path, encoder: Path, name: str = "out.pkl", **options: Any) -> Any:
    options = {"max_length": 8, "progress": False} | options
    return safe_load(encode_text(source, source.with_name(name), str(encoder), **options))


def test_file_has_both_text_keys_and_everything_else(source: Path, tiny_encoder: Path) -> None:
    data, before = encoded(source, tiny_encoder), safe_load(source)
    made = {"name": identity(str(tiny_encoder)), "version": "", "max_length": 8}
    assert data["recipe"] == {"text": made}
    assert data["remark"] == "kept"
    for name in ("train", "valid", "test"):
        assert data[name]["text_bert"].shape == (5, 3, 8)
        assert data[name]["text"].shape == (5, 8, 16)
        assert data[name]["text_bert"].dtype == data[name]["text"].dtype == np.float32
        assert data[name]["annotations"] == ["x"] * 5
        np.testing.assert_array_equal(data[name]["vision"], before[name]["vision"])
        assert data[name]["vision"].dtype == np.float16
    features = read_features(source.with_name("out.pkl"), "mosi")
    assert features.report.warnings == []
    assert features.recipe == {"text": made}


def test_the_recipe_is_that_of_the_text_alone(source: Path, tiny_encoder: Path) -> None:
    audio = {"name": "opensmile", "version": "2.5.0"}
    old = {"text": {"name": "glove", "version": "1"}, "audio": audio}
    write_features(source, safe_load(source) | {"recipe": old, "text_encoder": "bert-base-uncased"})
    data = encoded(source, tiny_encoder, padding="encoder")
    assert "text_encoder" not in data
    text = data["recipe"].pop("text")
    assert data["recipe"] == {"audio": audio}
    assert (text["name"], text["padding"]) == (identity(str(tiny_encoder)), "encoder")
    # Of the ids alone it speaks where the vectors are another's, and of all text where they are not
    # there.
    assert "fields" not in encoded(source, tiny_encoder, fields=("text_bert",))["recipe"]["text"]
    once = source.with_name("out.pkl")
    again = encoded(once, tiny_encoder, "again.pkl")
    assert again["recipe"]["text"].keys() == {"name", "version", "max_length"}
    part = encoded(source.with_name("again.pkl"), tiny_encoder, "part.pkl", fields=("text_bert",))
    assert part["recipe"]["text"]["fields"] == ["text_bert"]


def test_a_broken_recipe_is_refused(source: Path, tiny_encoder: Path) -> None:
    write_features(source, safe_load(source) | {"recipe": {"text": "minilm"}})
    with pytest.raises(FeatureFileError, match=r"source\.pkl.*\n.*recipe text is a str"):
        encoded(source, tiny_encoder)


def test_tokens(source: Path, tiny_encoder: Path) -> None:
    tokens = encoded(source, tiny_encoder, fields=("text_bert",))["train"]["text_bert"]
    words = {name: index for index, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])}
    expected = [words["[CLS]"], 7, 8, words["[UNK]"], words["[SEP]"], 0, 0, 0]
    np.testing.assert_array_equal(tokens[2, 0], expected)
    np.testing.assert_array_equal(tokens[:, 1].sum(axis=1), [3, 2, 5, 8, 4])
    assert tokens[3, 0, -1] == words["[SEP]"], "a text that is cut keeps its last token"
    assert not tokens[:, 2].any()
    assert "text" not in safe_load(source.with_name("out.pkl"))["train"]


def test_hidden_states_are_those_of_each_text_alone(source: Path, tiny_encoder: Path) -> None:
    hidden = encoded(source, tiny_encoder)["test"]["text"]
    model, tokenizer = load_text_encoder(str(tiny_encoder)), load_tokenizer(str(tiny_encoder))
    for text, states in zip(TEXTS, hidden, strict=True):
        tokens = tokenizer([text], truncation=True, max_length=8, return_tensors="pt")
        with torch.no_grad():
            alone = model(**tokens).last_hidden_state[0].numpy()
        np.testing.assert_allclose(states[: len(alone)], alone, atol=1e-5)
        assert not states[len(alone) :].any()


def test_padding_may_hold_what_the_encoder_computes(source: Path, tiny_encoder: Path) -> None:
    zero = encoded(source, tiny_encoder, "a.pkl")["test"]
    kept = encoded(source, tiny_encoder, "b.pkl", padding="encoder")["test"]
    valid = zero["text_bert"][:, 1].astype(bool)
    np.testing.assert_allclose(kept["text"][valid], zero["text"][valid], atol=1e-5)
    assert np.abs(kept["text"][~valid]).min(axis=0).any()
    assert not zero["text"][~valid].any()
    with pytest.raises(ConfigError, match="zero or encoder"):
        encoded(source, tiny_encoder, padding="none")


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_does_not_matter(source: Path, tiny_encoder: Path, batch_size: int) -> None:
    reference = encoded(source, tiny_encoder, "a.pkl", batch_size=3)
    other = encoded(source, tiny_encoder, "b.pkl", batch_size=batch_size)
    for name in ("train", "valid", "test"):
        np.testing.assert_array_equal(other[name]["text_bert"], reference[name]["text_bert"])
        np.testing.assert_allclose(other[name]["text"], reference[name]["text"], atol=1e-5)


def test_single_sample(tmp_path: Path, tiny_encoder: Path) -> None:
    sample = {"audio": np.ones((4, 3)), "vision": np.ones((2, 2)), "raw_text": "word1 word2"}
    path = write_features(tmp_path / "one.pkl", sample)
    data = encoded(path, tiny_encoder)
    assert data["text_bert"].shape == (3, 8)
    assert data["text"].shape == (8, 16)
    split = read_features(tmp_path / "out.pkl", require_labels=False).splits["sample"]
    assert split.text_bert is not None
    assert split.text_bert.shape == (1, 3, 8)


def test_mmsa_loads_the_result(source: Path, tiny_encoder: Path) -> None:
    from MMSA.data_loader import MMDataLoader

    encoded(source, tiny_encoder)
    loaders = MMDataLoader(loader_args(source.with_name("out.pkl"), batch_size=2), 0)
    assert set(loaders) == {"train", "valid", "test"}
    assert next(iter(loaders["train"]))["text"].shape == (2, 3, 8)


def test_progress_bar(
    source: Path,
    tiny_encoder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    encoded(source, tiny_encoder, progress=True)
    assert "15/15" in capfd.readouterr().err
    encoded(source, tiny_encoder, "quiet.pkl")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    encoded(source, tiny_encoder, "piped.pkl", progress=True)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": ("audio",)}, r"got \['audio'\]"),
        ({"fields": ()}, "fields must name"),
        ({"max_length": 2}, "at least 3"),
        ({"max_length": 65}, "more than the 64 positions"),
        ({"batch_size": 0}, "batch_size at least 1"),
        ({"device": "no_device"}, "no_device"),
        ({"name": "source.pkl"}, "is the input"),
    ],
)
def test_bad_options(
    source: Path, tiny_encoder: Path, options: dict[str, Any], message: str
) -> None:
    before = source.read_bytes()
    with pytest.raises(ConfigError, match=message):
        encoded(source, tiny_encoder, **options)
    assert source.read_bytes() == before
    assert not source.with_name("out.pkl").exists()


def test_what_is_wrong_with_the_transcripts_is_all_named(source: Path, tiny_encoder: Path) -> None:
    data = safe_load(source)
    del data["train"]["raw_text"]
    data["valid"]["raw_text"] = []
    data["test"]["raw_text"] = ["a", None, "b", "c", "caf\ud83d"]
    write_features(source, data)
    with pytest.raises(FeatureFileError) as error:
        encoded(source, tiny_encoder)
    assert error.match(r"\[train\] raw_text: is missing")
    assert error.match(r"\[valid\] raw_text: is empty")
    assert error.match(r"\[test\] raw_text: is NoneType instead of text in 1 sample: 1")
    data["test"]["raw_text"][1] = "a"
    write_features(source, data)
    with pytest.raises(FeatureFileError, match=r"\[test\] raw_text: holds half .*1 sample: 4"):
        encoded(source, tiny_encoder)


def test_several_samples_without_a_split_are_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    path = write_features(tmp_path / "x.pkl", {"audio": np.ones((2, 4, 3)), "raw_text": ["a", "b"]})
    with pytest.raises(FeatureFileError, match="2 texts"):
        encoded(path, tiny_encoder)


def test_unknown_encoder_writes_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TextEncoderError):
        encoded(source, tmp_path / "no" / "encoder")
    assert not source.with_name("out.pkl").exists()


class TestCoverage:
    TEXTS = ("word1 word2", "word3 nobody knows", " ".join(["word4"] * 9), "")

    def test_counts(self, tiny_encoder: Path) -> None:
        found = coverage(load_tokenizer(str(tiny_encoder)), self.TEXTS, 6, "tiny")
        assert (found.samples, found.cut, found.needed) == (4, 1, 11)
        assert (found.words, found.lost, found.unknown) == (14, 5, 2)
        assert str(found) == (
            "1 of 4 samples cut at 6 tokens; of 14 words 5 lost by that (35.7%), 2 unknown to tiny "
            "(14.3%)"
        )
        cut, unknown = found.warnings
        assert "35.7% of the words are cut off; --max-length 11" in cut
        assert "14.3% of the words are unknown to tiny" in unknown

    def test_a_word_of_several_tokens_counts_once(self) -> None:
        tokenizer = load_tokenizer("minilm")
        text = "unbelievably"
        tokens = len(tokenizer(text)["input_ids"])
        assert tokens > 3
        assert coverage(tokenizer, [text], tokens).lost == 0
        assert coverage(tokenizer, [text], tokens - 1).lost == 1
        assert coverage(tokenizer, [text], 3).words == 1

    def test_chinese_through_an_english_encoder(self) -> None:
        texts = ["今天天气很好", "我不知道"]
        found = coverage(load_tokenizer("minilm"), texts, 20)
        assert found.words == 10
        assert found.unknown > 2
        assert "unknown" in found.warnings[0]

    def test_up_to_5_percent_is_no_warning(self, tiny_encoder: Path) -> None:
        tokenizer = load_tokenizer(str(tiny_encoder))
        texts = [" ".join(["word1"] * 19) + " nobody"]
        assert coverage(tokenizer, texts, 30).warnings == ()
        assert coverage(tokenizer, texts, 21).warnings == ()
        assert len(coverage(tokenizer, texts, 20).warnings) == 1

    def test_encoding_says_it(
        self, source: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, logger="MMSA"):
            encoded(source, tiny_encoder)
        said = [record for record in caplog.records if "samples cut at 8 tokens" in record.message]
        assert len(said) == 1
        assert "3 of 15 samples" in said[0].message
        warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert any("--max-length 32" in message for message in warned)
        found: list[TextCoverage] = []
        caplog.clear()
        encoded(source, tiny_encoder, report=found.append)
        assert (found[0].cut, found[0].samples) == (3, 15)
        assert not caplog.records

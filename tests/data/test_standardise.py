"""Standardising audio and vision by the training split."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MMSA_ext.data.features import read_features, safe_load, write_features
from MMSA_ext.data.recipes import compared
from MMSA_ext.data.standardise import standardise
from MMSA_ext.errors import ConfigError, FeatureFileError

LENGTHS = {"train": [5, 3, 4, 1], "valid": [2, 5], "test": [1, 1, 3]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    data: dict[str, Any] = {"remark": "kept"}
    for name, lengths in LENGTHS.items():
        count = len(lengths)
        audio = generator.normal([800.0, 0.0, 3.0], [100.0, 0.01, 0.0], size=(count, 5, 3))
        audio[np.arange(5) >= np.array(lengths)[:, None]] = 0
        data[name] = {
            "id": [f"{name}{i}" for i in range(count)],
            "raw_text": ["a text"] * count,
            "text": np.ones((count, 2, 4), np.float32),
            "audio": audio.astype(np.float32),
            "vision": generator.normal(size=(count, 2, 2)).astype(np.float32),
            "audio_lengths": lengths,
            "vision_lengths": [2] * count,
            "regression_labels": np.linspace(-1, 1, count, dtype=np.float32),
        }
    return write_features(tmp_path / "source.pkl", data)


def valid_frames(path: Path, split: str) -> np.ndarray:
    features = read_features(path).splits[split]
    return features.audio[np.arange(5) < features.audio_lengths[:, None]]


def test_training_frames_have_mean_zero_and_deviation_one(source: Path, tmp_path: Path) -> None:
    frames = valid_frames(standardise(source, tmp_path / "out.pkl"), "train")
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(axis=0), [1, 1, 0], atol=1e-4)


def test_padding_is_zero_and_all_else_is_kept(source: Path, tmp_path: Path) -> None:
    before = safe_load(source)
    after = safe_load(standardise(source, tmp_path / "out.pkl", ["audio"]))
    for name, lengths in LENGTHS.items():
        assert not after[name]["audio"][np.arange(5) >= np.array(lengths)[:, None]].any()
        np.testing.assert_array_equal(after[name]["vision"], before[name]["vision"])
    assert after["remark"] == "kept"
    assert after["standardised"] == ["audio"]


def test_a_modality_that_is_absent_stays_absent(source: Path, tmp_path: Path) -> None:
    data = safe_load(source)
    for name in LENGTHS:
        del data[name]["vision"], data[name]["vision_lengths"]
    without = write_features(tmp_path / "without.pkl", data)
    written = safe_load(standardise(without, tmp_path / "out.pkl", front_padding="turn"))
    assert "vision" not in written["test"]
    assert written["standardised"] == ["audio"]
    with pytest.raises(FeatureFileError, match="has no vision to standardise"):
        standardise(without, tmp_path / "out.pkl", ["vision"])


def test_bad_options_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name another output"):
        standardise(source, source)
    with pytest.raises(ConfigError, match="audio, vision"):
        standardise(source, tmp_path / "out.pkl", ["text"])
    data = safe_load(source)
    del data["train"]
    without = write_features(tmp_path / "without.pkl", data)
    with pytest.raises(FeatureFileError, match="train"):
        standardise(without, tmp_path / "out.pkl")


def test_a_modality_after_the_other_and_once_more(source: Path, tmp_path: Path) -> None:
    once = standardise(source, tmp_path / "audio.pkl", ["audio"])
    both = standardise(once, tmp_path / "both.pkl", ["vision"])
    twice = safe_load(standardise(both, tmp_path / "twice.pkl"))
    at_once = safe_load(standardise(source, tmp_path / "out.pkl"))
    assert twice["standardised"] == ["audio", "vision"]
    for modality in ("audio", "vision"):
        for name in ("mean", "deviation"):
            found, expected = (d["scaling"][modality][name] for d in (twice, at_once))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_lengths_are_stated_where_zeros_alone_told_them(source: Path, tmp_path: Path) -> None:
    data = safe_load(source)
    for name in LENGTHS:
        del data[name]["audio_lengths"]
        data[name]["audio"][..., 0] = 0
        data[name]["audio"][..., 1] = 0  # what is left is constant, and will be zeros
    path = write_features(tmp_path / "none.pkl", data)
    written = standardise(path, tmp_path / "out.pkl")
    for name, lengths in LENGTHS.items():
        assert read_features(written).splits[name].audio_lengths.tolist() == lengths


def test_the_means_and_deviations_give_the_frames_back(source: Path, tmp_path: Path) -> None:
    written = standardise(source, tmp_path / "out.pkl")
    scaling = safe_load(written)["scaling"]
    assert scaling.keys() == {"audio", "vision"}
    mean, deviation = np.array(scaling["audio"]["mean"]), np.array(scaling["audio"]["deviation"])
    back = valid_frames(written, "test") * deviation + mean
    np.testing.assert_allclose(back, valid_frames(source, "test"), rtol=1e-4, atol=1e-5)


def test_the_recipe_tells_scalings_apart(source: Path, tmp_path: Path) -> None:
    made = {"name": "opensmile", "version": "2.5.0"}
    data = safe_load(source) | {"recipe": {"audio": made}}
    once = standardise(write_features(source, data), tmp_path / "once.pkl", ["audio"])
    recipe = read_features(once).recipe
    assert recipe["audio"] == made | {"standardised": recipe["audio"]["standardised"]}
    assert recipe.keys() == {"audio"}
    again = read_features(standardise(source, tmp_path / "again.pkl")).recipe
    assert again["audio"] == recipe["audio"]
    assert again["vision"].pop("standardised")
    assert again["vision"] == {"name": "unknown", "version": ""}
    data["train"]["audio"] *= 2  # other data, scaled by their own deviations
    louder = write_features(tmp_path / "louder.pkl", data)
    other = read_features(standardise(louder, tmp_path / "out.pkl")).recipe
    assert other["vision"] == read_features(tmp_path / "again.pkl").recipe["vision"]
    (difference,), doubtful = compared(recipe, {"audio": other["audio"]})
    assert (difference[:9], doubtful) == ("audio is ", [])
    assert compared(recipe, {"audio": made})[0], "frames that are not scaled at all"

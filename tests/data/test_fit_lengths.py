"""Samples longer than any in training: refused with a way out, cut, or averaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from MMSA_ext import predict_file
from MMSA_ext.data.features import FeatureSet, read_features, write_features
from MMSA_ext.data.fit_lengths import fit_lengths
from MMSA_ext.errors import ConfigError, FeatureFileError
from tests.conftest import make_feature_data, tiny_config, train

LIMITS = {"text_bert": 7, "text": 6, "audio": 5, "vision": 8}


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    return read_features(write_features(tmp_path / "data.pkl", make_feature_data()), "mosi")


def test_refused_with_a_way_out(features: FeatureSet) -> None:
    with pytest.raises(FeatureFileError) as error:
        fit_lengths(features, LIMITS, "model.pth")
    said = str(error.value)
    assert "does not fit model.pth" in said
    many = (features.splits["train"].audio_lengths > 5).sum()
    assert f"split 'train', key 'audio': {many} of 12 samples have more than the 5 steps" in said
    assert "the longest 12 ('train$_$0')" in said
    assert "--too-long cut" in said
    assert "--too-long pool" in said
    assert "'vision'" not in said
    with pytest.raises(FeatureFileError, match="12 samples have more than the 11 steps"):
        fit_lengths(features, {"audio": 11}, "model.pth")
    with pytest.raises(ConfigError, match=r"too_long is 'shorten'; use 'cut', 'pool' or 'error'"):
        fit_lengths(features, LIMITS, "model.pth", "shorten")  # type: ignore[arg-type]


def test_padding_beyond_is_no_reason(features: FeatureSet) -> None:
    longer = {
        name: replace(split, audio=np.pad(split.audio, ((0, 0), (0, 9), (0, 0))))
        for name, split in features.splits.items()
    }
    fitted = fit_lengths(replace(features, splits=longer), {"audio": 12}, "model.pth")
    for name, split in features.splits.items():
        np.testing.assert_array_equal(fitted.splits[name].audio, split.audio)
        np.testing.assert_array_equal(fitted.splits[name].audio_lengths, split.audio_lengths)


def test_cut_keeps_the_first_steps_and_the_last_token(features: FeatureSet) -> None:
    fitted = fit_lengths(features, LIMITS, "model.pth", "cut").splits["train"]
    before = features.splits["train"]
    np.testing.assert_array_equal(fitted.audio, before.audio[:, :5])
    np.testing.assert_array_equal(fitted.audio_lengths, np.minimum(before.audio_lengths, 5))
    np.testing.assert_array_equal(fitted.text, before.text[:, :6])
    assert fitted.vision is before.vision
    tokens = before.text_bert[:, 1].sum(axis=1).astype(int)
    for row, count in enumerate(tokens):
        assert fitted.text_bert[row, 0, min(count, 7) - 1] == 3  # [SEP]
        kept = min(count, 7) - 1
        np.testing.assert_array_equal(
            fitted.text_bert[row, :, :kept], before.text_bert[row, :, :kept]
        )


def test_pool_averages_as_torch_does(features: FeatureSet) -> None:
    fitted = fit_lengths(features, LIMITS, "model.pth", "pool").splits["train"]
    before = features.splits["train"]
    assert fitted.audio.dtype == before.audio.dtype
    for row, length in enumerate(before.audio_lengths):
        frames = torch.from_numpy(before.audio[row, :length]).T
        expected = (
            torch.nn.functional.adaptive_avg_pool1d(frames, 5).T.numpy()
            if length > 5
            else before.audio[row, :5]
        )
        np.testing.assert_allclose(fitted.audio[row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["dashfusion", "lf_dnn"])
def test_predicting(model: str, tmp_path: Path, tiny_encoder: Path) -> None:
    path = write_features(tmp_path / "data.pkl", make_feature_data())
    config = {"early_stop": 1} if model == "lf_dnn" else tiny_config(model, tiny_encoder)
    seed = train(model, path, tmp_path / "out", config=config)
    data = make_feature_data()
    for split in data.values():
        split["audio"] = np.repeat(split["audio"], 2, axis=1)
        split["audio_lengths"] = [2 * length for length in split["audio_lengths"]]
    longer = write_features(tmp_path / "longer.pkl", data)
    with pytest.raises(FeatureFileError, match="--too-long cut"):
        predict_file(seed.checkpoint, longer, gpu_ids="cpu")
    known = predict_file(seed.checkpoint, path, gpu_ids="cpu")
    pooled = predict_file(seed.checkpoint, longer, gpu_ids="cpu", too_long="pool")
    cut = predict_file(seed.checkpoint, longer, gpu_ids="cpu", too_long="cut")
    assert pooled["id"].tolist() == cut["id"].tolist() == known["id"].tolist()
    assert np.isfinite(cut["prediction"]).all()
    # The longest sample, every frame of it twice, is averaged to what it was.
    assert pooled["prediction"][0] == pytest.approx(known["prediction"][0], abs=1e-5)

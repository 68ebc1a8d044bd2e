"""Scoring with a trained checkpoint."""

import pickle

import numpy as np
import pandas as pd
import pytest

from MMSA_ext import MMSA_run, MMSA_test, predict_file
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError
from tests.conftest import tiny_config


@pytest.fixture(params=["dashfusion", "text_only", "lf_dnn"])
def trained(request, tmp_path, feature_file, tiny_encoder):
    model = request.param
    config = {"early_stop": 1} if model == "lf_dnn" else tiny_config(model, tiny_encoder)
    return MMSA_run(
        model, "mosi", config=config | {"featurePath": str(feature_file)}, seeds=[1],
        num_workers=0, verbose_level=0, model_save_dir=tmp_path / "m",
        res_save_dir=tmp_path / "r", log_dir=tmp_path / "l",
    ).seeds[0]  # fmt: skip


def test_a_whole_file_is_scored_as_in_the_run(trained, feature_file):
    table = predict_file(trained.checkpoint, feature_file)
    assert list(table.columns) == ["split", "id", "label", "prediction"]
    recorded = pd.read_csv(trained.record_path.with_suffix(".predictions.csv"))
    merged = table.merge(recorded, on=["split", "id"], suffixes=("", "_run"))
    assert len(merged) == len(table) == 24
    np.testing.assert_allclose(merged.prediction, merged.prediction_run, atol=1e-5)


def test_overrides_that_replace_nothing_are_refused(trained, feature_file):
    for given, said in (
        ({"early_stp": 3}, "did you mean early_stop"),
        ({"a.b": 3}, "no key 'a.b'"),
    ):
        with pytest.raises(ConfigError, match=said):
            predict_file(trained.checkpoint, feature_file, overrides=given)
    whole = dict(trained.record.identity.configuration)
    whole.pop("pretrained", None)  # a record names an encoder by its content
    given = whole | {"train_mode": "regression", "device": "cpu"}  # as MMSA's dictionaries have it
    assert len(predict_file(trained.checkpoint, feature_file, overrides=given)) == 24


def test_labels_are_not_needed(trained, tmp_path, feature_data):
    unlabelled = {"test": {k: v for k, v in feature_data["test"].items() if "labels" not in k}}
    path = tmp_path / "unlabelled.pkl"
    path.write_bytes(pickle.dumps(unlabelled))
    table = predict_file(trained.checkpoint, path)
    assert len(table) == 6
    assert table.label.isna().all()
    assert np.isfinite(table.prediction).all()


def test_one_sample_in_mmsa_layout(trained, tmp_path, feature_data, feature_file):
    test = feature_data["test"]
    length = {name: test[f"{name}_lengths"][0] for name in ("audio", "vision")}
    sample = {
        "text": test["text"][0],
        "text_bert": test["text_bert"][0],
        "audio": test["audio"][0][: length["audio"]],
        "vision": test["vision"][0][: length["vision"]],
    }
    path = tmp_path / "sample.pkl"
    path.write_bytes(pickle.dumps(sample))
    whole = predict_file(trained.checkpoint, feature_file)
    want = whole[whole.split == "test"].prediction.iloc[0]
    got = MMSA_test(None, trained.checkpoint, path, gpu_id=-1)
    assert got == pytest.approx(want, abs=1e-4)


def test_features_that_do_not_fit_are_refused(trained, tmp_path, feature_data):
    for split in feature_data.values():
        split["audio"] = np.repeat(split["audio"], 2, axis=2)
    path = tmp_path / "wide.pkl"
    path.write_bytes(pickle.dumps(feature_data))
    with pytest.raises(FeatureFileError, match=r"audio.*10 features.*trained on 5"):
        predict_file(trained.checkpoint, path)


def test_more_than_one_sample_is_not_for_mmsa_test(trained, feature_file):
    with pytest.raises(FeatureFileError, match=r"24 samples.*predict_file"):
        MMSA_test(None, trained.checkpoint, feature_file)


def test_weights_alone_with_their_configuration(trained, tmp_path, feature_file):
    import json

    import torch

    from MMSA_ext.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(trained.checkpoint)
    bare, config = tmp_path / "bare.pth", tmp_path / "config.json"
    torch.save(checkpoint.state_dict, bare)
    config.write_text(json.dumps(checkpoint.config))
    whole = predict_file(trained.checkpoint, feature_file)
    again = predict_file(bare, feature_file, overrides=checkpoint.config)
    np.testing.assert_array_equal(whole.prediction, again.prediction)
    with pytest.raises(FeatureFileError, match="24 samples"):  # the file was understood
        MMSA_test(config, bare, feature_file)
    lacking = {"model_name": "x", "dataset_name": "mosi", "seq_lens": [1, 1, 1]}
    with pytest.raises(CheckpointError, match="lacks feature_dims"):
        predict_file(bare, feature_file, overrides=lacking)


def test_a_missing_checkpoint(tmp_path, feature_file):
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        predict_file(tmp_path / "none.pth", feature_file)

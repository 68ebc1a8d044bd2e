"""Smoke tests of a run: every model of this package, and MMSA's by some that differ."""

import numpy as np
import pytest

from MMSA_ext.config.resolve import get_config_regression, resolve, unread
from MMSA_ext.data.features import read_features
from MMSA_ext.errors import ConfigError
from MMSA_ext.records.store import RunStore
from MMSA_ext.registry import get_model, list_models, trains_in_mmsa
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.smoke import few, one_epoch, smoke_run
from tests.conftest import tiny_config
from tests.models.hosts.variants import SIZES

IN_MMSA = ("lf_dnn", "mult", "self_mm", "tfn_infoenh")


def overrides(model, encoder):
    if not trains_in_mmsa(model):
        return tiny_config(model, encoder)
    host = get_model(model).host if model in list_models() else model
    given = {"batch_size": 4, "update_epochs": 2, "pretrained": str(encoder)} | SIZES.get(host, {})
    idle = unread(get_config_regression(model, "mosi"), given)
    return {key: value for key, value in given.items() if key not in idle}


@pytest.fixture
def smoke(feature_file, tiny_encoder, tmp_path):
    options = RunOptions(custom_feature=feature_file, gpu_ids="cpu", num_workers=0, verbose_level=0)

    def run(model, **config):
        return smoke_run(
            model, "mosi", options, tmp_path / "smoke",
            config=overrides(model, tiny_encoder) | config,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    "model", [*(name for name in list_models() if not trains_in_mmsa(name)), *IN_MMSA]
)
def test_one_epoch_on_two_batches_of_each_split(model, smoke, tmp_path):
    record = smoke(model)
    assert record.history[-1].epoch == 1
    if record.finished:
        table = RunStore(tmp_path / "smoke" / "runs").predictions(record)
        assert dict(table["split"].value_counts()) == {"train": 8, "valid": 6, "test": 6}
    for note in record.notes:
        assert "stage one" not in note or note.endswith("in epoch 1 of 1")


def test_what_a_run_would_refuse_is_refused(smoke):
    with pytest.raises(ConfigError, match="did you mean learning_rate"):
        smoke("lf_dnn", lr=1)
    with pytest.raises(ConfigError, match="batch"):
        smoke("lf_dnn", batch_size=11)  # the whole file leaves a batch of one


@pytest.mark.parametrize("model", ["confede", "dashfusion_released", "self_mm"])
def test_all_stages_and_loops_are_short(model):
    args = resolve(model, "sims")
    given = one_epoch(args)
    assert given["num_epochs"] == 1
    assert given.get("first_selected_epoch", 1) == given.get("update_epochs", 1) == 1
    if model == "confede":
        assert {stage["epochs"] for stage in given["stage_one"].values()} == {1}


def test_samples_are_from_all_over_the_split(feature_file):
    whole = read_features(feature_file, "mosi")
    whole.splits["train"].gaps["audio"] = np.array([0 * 5 + 3, 3 * 5 + 1, 4 * 5 + 2])
    thin = few(whole, 6)
    train = thin.splits["train"]
    assert train.ids == whole.splits["train"].ids[::2]
    np.testing.assert_array_equal(train.audio, whole.splits["train"].audio[::2])
    np.testing.assert_array_equal(train.labels["M"], whole.splits["train"].labels["M"][::2])
    assert train.gaps["audio"].tolist() == [3, 2 * 5 + 2]  # of samples 0 and 4
    assert thin.splits["test"].ids == whole.splits["test"].ids
    assert thin.fingerprint == whole.fingerprint

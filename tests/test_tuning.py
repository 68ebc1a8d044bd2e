"""Tuning selects on validation, and says so when it does not."""

import json

import pandas as pd
import pytest

from MMSA_ext import MMSA_run
from MMSA_ext.tuning import search_space
from tests.conftest import tiny_config


@pytest.fixture
def tune(tmp_path, feature_file, tiny_encoder):
    def call(**options):
        config = tiny_config("text_only", tiny_encoder, num_epochs=1)
        del config["learning_rate"]
        return MMSA_run(
            "text_only", "mosi", config=config | {"featurePath": str(feature_file)}, seeds=[3],
            is_tune=True, tune_times=3, verbose_level=0, model_save_dir=tmp_path / "m",
            res_save_dir=tmp_path / "r", log_dir=tmp_path / "l", **options,
        )  # fmt: skip

    return call


@pytest.mark.parametrize(("on_test", "split"), [(False, "valid"), (True, "test")])
def test_selection_split_and_best_configuration(tune, tmp_path, on_test, split):
    results = tune(tune_on_test=on_test)
    trials = pd.read_csv(tmp_path / "r/tune/mosi-text_only.csv")
    assert len(trials) == 3
    column = f"{split}_Loss"
    scores = pd.to_numeric(trials[column], errors="coerce")
    best = json.loads((tmp_path / "r/tune/mosi-text_only-best.json").read_text())
    chosen = results.seeds[0].record
    assert chosen.metrics[split]["Loss"] == pytest.approx(scores.min())
    assert {key: chosen.identity.configuration[key] for key in best} == best
    assert set(best) == {"learning_rate", "weight_decay", "batch_size"}
    assert results.seeds[0].reused
    assert any("TEST split" in note for note in chosen.notes) == on_test


def test_an_interrupted_search_repeats_nothing(tune):
    tune()
    assert tune().seeds[0].reused


def test_search_space_is_mmsas():
    space = search_space("lf_dnn", "mosi")
    assert [128, 16, 128] in space["hidden_dims"]
    assert space["batch_size"] == [32, 64, 128]
    assert "hidden_dims" not in search_space("dashfusion", "sims")

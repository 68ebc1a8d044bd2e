"""Tuning selects on validation, and says so when it does not."""

import json

import pandas as pd
import pytest

from MMSA_ext import MMSA_run
from MMSA_ext.errors import ConfigError
from MMSA_ext.tuning import search_space
from tests.conftest import tiny_config


@pytest.fixture
def tune(tmp_path, feature_file, tiny_encoder):
    def call(config=None, **options):
        given = config or {}
        config = tiny_config("text_only", tiny_encoder, num_epochs=1) | given
        for key in {"learning_rate", "batch_size"} - given.keys():
            del config[key]
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


def test_an_interrupted_search_repeats_nothing_and_keeps_one_checkpoint(tune, tmp_path):
    first = tune()
    assert list((tmp_path / "m").glob("*.pth")) == [first.seeds[0].checkpoint]
    assert tune().seeds[0].reused


def test_a_checkpoint_from_before_the_search_is_kept(tune, tmp_path):
    first = tune()
    records = [json.loads(path.read_text()) for path in (tmp_path / "r/runs").rglob("*.json")]
    worst = max(records, key=lambda record: record["metrics"]["valid"]["Loss"])
    checkpoint = tmp_path / "m" / worst["checkpoint"]
    assert checkpoint != first.seeds[0].checkpoint
    checkpoint.write_bytes(b"a checkpoint of an ordinary run")
    tune()
    assert checkpoint.is_file()


def test_selection_on_test_is_never_mixed_with_selection_on_validation(tune):
    honest = tune()
    assert not any("TEST" in note for note in honest.seeds[0].record.notes)
    on_test = tune(tune_on_test=True)
    assert any("TEST" in note for note in on_test.seeds[0].record.notes)
    assert on_test.seeds[0].record.identity != honest.seeds[0].record.identity
    again = tune()
    assert not any("TEST" in note for note in again.seeds[0].record.notes)


def test_what_the_user_set_is_not_searched(tune):
    results = tune(config={"batch_size": 5})
    assert results.seeds[0].record.identity.configuration["batch_size"] == 5


def test_nothing_to_search(tune):
    with pytest.raises(ConfigError, match="nothing to search"):
        tune(config={"batch_size": 5, "weight_decay": 0.0, "learning_rate": 1e-3})


def test_all_trials_diverged(tune):
    with pytest.raises(ConfigError, match="all 3 trials diverged"):
        tune(config={"learning_rate": 1e30})


def test_search_space_is_mmsas():
    space = search_space("lf_dnn", "mosi")
    assert [128, 16, 128] in space["hidden_dims"]
    assert space["batch_size"] == [32, 64, 128]
    assert "hidden_dims" not in search_space("dashfusion", "sims")

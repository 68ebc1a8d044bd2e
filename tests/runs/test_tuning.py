"""Tuning selects on validation, and says so when it does not."""

import json
import logging

import pandas as pd
import pytest

from MMSA_ext import MMSA_run, mmsa_files
from MMSA_ext.errors import ConfigError
from MMSA_ext.runs.tuning import search_space
from tests.conftest import tiny_config


@pytest.fixture
def tune(tmp_path, feature_file, tiny_encoder):
    def call(config=None, tune_times=3, **options):
        given = config or {}
        config = tiny_config("text_only", tiny_encoder, num_epochs=1) | given
        for key in {"learning_rate", "batch_size"} - given.keys():
            del config[key]
        return MMSA_run(
            "text_only", "mosi", config=config | {"featurePath": str(feature_file)}, seeds=[3],
            is_tune=True, tune_times=tune_times, verbose_level=0, model_save_dir=tmp_path / "m",
            res_save_dir=tmp_path / "r", log_dir=tmp_path / "l", **options,
        )  # fmt: skip

    return call


@pytest.mark.parametrize(("on_test", "split"), [(False, "valid"), (True, "test")])
def test_selection_split_and_best_configuration(tune, tmp_path, on_test, split):
    results = tune(tune_on_test=on_test)
    stem = f"mosi-text_only{'-on-test' if on_test else ''}"
    trials = pd.read_csv(tmp_path / f"r/tune/{stem}.csv")
    assert len(trials) == 3
    scores = pd.to_numeric(trials[f"{split}_MAE"], errors="coerce")
    best = json.loads((tmp_path / f"r/tune/{stem}-best.json").read_text())
    chosen = results.seeds[0].record
    assert chosen.metrics[split]["MAE"] == pytest.approx(scores.min())
    assert best.keys() > {"learning_rate", "weight_decay", "batch_size", "pretrained", "dim"}
    for key in ("learning_rate", "weight_decay", "batch_size", "dim", "num_epochs"):
        assert chosen.identity.configuration[key] == best[key]
    assert results.seeds[0].reused
    assert any("TEST split" in note for note in chosen.notes) == on_test


@pytest.mark.parametrize(
    ("model", "form"),
    [
        ("text_only", "config"),
        ("self_mm", "config_file"),
        pytest.param("text_only", "config_file", marks=pytest.mark.slow),
        pytest.param("self_mm", "config", marks=pytest.mark.slow),
    ],
)
def test_the_best_configuration_gives_the_reported_numbers_again(
    model, form, tmp_path, feature_file, tiny_encoder
):
    """Elsewhere, from the written file and the seed alone, bit for bit."""
    given = tiny_config("text_only", tiny_encoder, num_epochs=1) if model == "text_only" else {}
    if model == "self_mm":
        given = {"pretrained": str(tiny_encoder), "early_stop": 1, "update_epochs": 1}
    for key in ("learning_rate", "batch_size"):
        given.pop(key, None)

    def run(folder, **options):
        return MMSA_run(
            model, "mosi", custom_feature=feature_file, seeds=[3], verbose_level=0, num_workers=0,
            model_save_dir=tmp_path / folder / "m", res_save_dir=tmp_path / folder / "r",
            log_dir=tmp_path / folder / "l", gpu_ids="cpu", **options,
        ).seeds[0].record  # fmt: skip

    reported = run("search", config=given, is_tune=True, tune_times=2)
    ending = {"config": "-best.json", "config_file": "-best-config.json"}[form]
    path = tmp_path / "search" / "r" / "tune" / f"mosi-{model}{ending}"
    again = run("again", **{form: json.loads(path.read_text()) if form == "config" else path})
    assert again.identity == reported.identity
    assert again.metrics == reported.metrics
    assert again.predictions_sha256 == reported.predictions_sha256


def test_a_search_that_is_interrupted_goes_on(tune, tmp_path, monkeypatch):
    from MMSA_ext.runs.seeds import Run

    train, trained = Run._train, []

    def interrupted(self, identity, *rest):
        if len(trained) == 2:
            trained.append("stop")
            raise KeyboardInterrupt
        trained.append(identity.short_id)
        return train(self, identity, *rest)

    monkeypatch.setattr(Run, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune()
    assert len(trained) == 3
    results = tune()
    assert len(trained) == 4
    assert len(pd.read_csv(tmp_path / "r/tune/mosi-text_only.csv")) == 3
    assert not results.seeds[0].diverged
    first = pd.read_csv(tmp_path / "r/tune/mosi-text_only.csv")
    tune(tune_times=7)
    assert len(trained) > 4
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "r/tune/mosi-text_only.csv")[:3], first)


def test_an_interrupted_search_repeats_nothing_and_keeps_one_checkpoint(tune, tmp_path):
    first = tune()
    assert list((tmp_path / "m").glob("*.pth")) == [first.seeds[0].checkpoint]
    assert tune().seeds[0].reused


def test_a_checkpoint_from_before_the_search_is_kept(tune, tmp_path):
    first = tune()
    records = [json.loads(path.read_text()) for path in (tmp_path / "r/runs").rglob("*.json")]
    files = [tmp_path / "m" / record["checkpoint"] for record in records]
    checkpoint = next(path for path in files if path != first.seeds[0].checkpoint)
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


class TestSearchSpaces:
    """Keys that nothing reads, and choices that cannot be used."""

    @pytest.fixture
    def search(self, tmp_path, feature_file, tiny_encoder):
        def search(model, space=None, *, lacks=None, **given):
            options = {}
            if space is not None:
                section = mmsa_files.section(model) | {"debugParams": space}
                section["datasetParams"]["mosi"].pop(lacks, None)
                path = tmp_path / "space.json"
                path.write_text(json.dumps({model: section}))
                options["config_file"] = path
            return MMSA_run(
                model, "mosi", config={"early_stop": 0, **given}, seeds=[1], is_tune=True,
                tune_times=2, custom_feature=feature_file, verbose_level=0, gpu_ids="cpu",
                model_save_dir=tmp_path / "m", res_save_dir=tmp_path / "r",
                log_dir=tmp_path / "l", **options,
            )  # fmt: skip

        return search

    def test_what_mmsa_searches_and_nothing_reads_is_left_out(self, search, tmp_path, caplog):
        with caplog.at_level(logging.INFO, logger="MMSA"):
            search("mfm", batch_size=8)
        assert "Not searched, as mfm does not read it: learning_rate." in caplog.text
        trials = pd.read_csv(tmp_path / "r/tune/mosi-mfm.csv")
        assert {"memsize", "weight_decay"} & set(trials.columns)
        assert "learning_rate" not in trials.columns

    @pytest.mark.parametrize(
        ("space", "said"),
        [
            ({"d_paras": ["lr"], "lr": [1, 2]}, "lr: is searched .*lf_dnn does not read it"),
            ({"d_paras": ["rank"], "rank": [1]}, "rank: is searched"),
            ({"d_paras": ["batch_size"]}, "lacks the choices of 'batch_size'"),
            ({"d_paras": ["batch_size"], "batch_size": []}, r"batch_size is \[\]; give a list"),
            ({"d_paras": "batch_size", "batch_size": [1]}, "needs 'd_paras', a list"),
            ({"batch_size": [1]}, "needs 'd_paras', a list"),
            ({"d_paras": ["batch_size"], "batch_size": [8, "a"]}, "batch_size: give a number"),
            ({"d_paras": ["batch_size"], "batch_size": [0, 8]}, "batch_size: give 1 or more"),
        ],
    )
    def test_of_the_users_are_refused_before_a_trial(self, search, tmp_path, space, said):
        with pytest.raises(ConfigError, match=said):
            search("lf_dnn", space)
        assert not list(tmp_path.glob("r/runs/**/*.json"))

    def test_a_searched_key_need_not_be_in_the_other_sections(self, search):
        space = {"d_paras": ["batch_size"], "batch_size": [4, 6]}
        result = search("lf_dnn", space, lacks="batch_size").seeds[0]
        assert result.record.identity.configuration["batch_size"] in (4, 6)

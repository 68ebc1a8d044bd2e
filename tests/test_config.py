"""Files and overrides to one validated configuration."""

import json

import pytest

from MMSA_ext import config
from MMSA_ext.errors import ConfigError


def test_every_problem_is_reported_at_once():
    overrides = {"learning_rat": 1, "dim": "wide", "fusion": "hbff", "batch_size": 0}
    with pytest.raises(ConfigError) as error:
        config.resolve("dashfusion", "mosi", "", overrides)
    message = str(error.value)
    assert "4 problem(s)" in message
    for part in ("learning_rat", "did you mean learning_rate", "dim", "fusion", "batch_size"):
        assert part in message


def test_overrides_win_and_names_may_be_any_case():
    args = config.resolve("DashFusion", "SIMS", "", {"learning_rate": 1e-3})
    assert (args.model_name, args.dataset_name, args.learning_rate) == ("dashfusion", "sims", 1e-3)


@pytest.mark.parametrize(
    ("model", "dataset", "said"),
    [
        ("dashfusoin", "mosi", "did you mean dashfusion"),
        ("dashfusion", "simms", "did you mean sims"),
        ("self-mm", "mosi", "did you mean self_mm"),
    ],
)
def test_unknown_names_suggest_the_closest(model, dataset, said):
    with pytest.raises(ConfigError, match=said):
        config.resolve(model, dataset)


def test_contradicting_names_in_overrides_are_refused():
    with pytest.raises(ConfigError, match="model_name"):
        config.resolve("dashfusion", "mosi", "", {"model_name": "lmf"})
    assert config.resolve("lmf", "mosi", "", {"model_name": "lmf"}).model_name == "lmf"


def test_data_root_home_and_variables_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("MMSA_DATA_ROOT", str(tmp_path))
    path = config.resolve("dashfusion", "sims").featurePath
    assert path == str(tmp_path / "SIMS/Processed/unaligned_39.pkl")
    assert config.resolve("lf_dnn", "mosi").featurePath.startswith(str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = {"featurePath": "~/x.pkl"}
    assert config.resolve("dashfusion", "sims", "", overrides).featurePath == f"{tmp_path}/x.pkl"


def test_mmsa_reads_our_models_too():
    from MMSA import get_config_regression

    import MMSA_ext

    assert get_config_regression("dashfusion", "sims").batch_size == 16
    assert MMSA_ext.get_config_regression("dashfusion", "sims").num_epochs == 100


def test_data_root_in_the_configuration(tmp_path):
    for model in ("dashfusion", "lf_dnn"):
        args = config.resolve(model, "sims", "", {"dataset_root_dir": tmp_path})
        assert args.featurePath == str(tmp_path / "SIMS/Processed/unaligned_39.pkl")
        assert "dataset_root_dir" not in args


def test_mmsa_tuning_configuration_is_accepted_as_overrides():
    point = dict(config.get_config_tune("dashfusion", "mosi"))
    args = config.resolve("dashfusion", "mosi", "", point)
    assert args.learning_rate == point["learning_rate"]


def test_paths_are_accepted_as_values(tmp_path):
    args = config.resolve("dashfusion", "mosi", "", {"pretrained": tmp_path})
    assert args.pretrained == str(tmp_path)


def test_own_configuration_file(tmp_path):
    content = config.extension_config("regression")
    content["dashfusion"]["datasetParams"]["mosi"]["batch_size"] = 3
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"dashfusion": content["dashfusion"]}))
    assert config.resolve("dashfusion", "mosi", path).batch_size == 3
    with pytest.raises(ConfigError, match="no such configuration file"):
        config.resolve("dashfusion", "mosi", tmp_path / "none.json")
    path.write_text("{broken")
    with pytest.raises(ConfigError, match=r"mine\.json"):
        config.resolve("dashfusion", "mosi", path)


def test_identity_leaves_places_out():
    args = config.resolve("dashfusion", "mosi", "", {"featurePath": "/somewhere/x.pkl"})
    identity = config.identity_config(args)
    assert "featurePath" not in identity
    assert "somewhere" not in json.dumps(identity)
    assert identity["learning_rate"] == 5e-5


def test_both_files_agree_on_what_is_not_searched():
    regression, tune = (config.extension_config(kind) for kind in ("regression", "tune"))
    assert regression.keys() == tune.keys()
    for name in regression:
        for part in ("commonParams", "datasetParams"):
            assert regression[name][part] == tune[name][part]


def test_tuning_spaces_name_known_keys():
    for model in ("dashfusion", "dashfusion_released", "text_only"):
        args = config.get_config_tune(model, "sims", random_choice=False)
        known = config.resolve(model, "sims")
        assert args.d_paras
        assert set(args.d_paras) <= set(known)

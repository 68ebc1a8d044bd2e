"""Files and overrides to one validated configuration."""

import json

import pytest

from MMSA_ext import config
from MMSA_ext.errors import ConfigError
from MMSA_ext.registry import trains_in_mmsa


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
    for name in (name for name in regression if not trains_in_mmsa(name)):
        for part in ("commonParams", "datasetParams"):
            assert regression[name][part] == tune[name][part]


def test_tuning_spaces_name_known_keys():
    for model in ("dashfusion", "dashfusion_released", "text_only"):
        args = config.get_config_tune(model, "sims", random_choice=False)
        known = config.resolve(model, "sims")
        assert args.d_paras
        assert set(args.d_paras) <= set(known)


class TestMerge:
    @pytest.fixture
    def base(self):
        return {"batch_size": 4, "infoenh": {"k": 8, "d": 128}, "off": None}

    def test_nested_and_dotted_overrides_leave_the_rest(self, base):
        for overrides in ({"infoenh": {"k": 4}}, {"infoenh.k": 4}):
            merged = config.merge(base, overrides)
            assert merged.infoenh == {"k": 4, "d": 128}
            assert merged.batch_size == 4
        assert base["infoenh"] == {"k": 8, "d": 128}

    def test_none_turns_off_and_a_value_below_none_turns_on(self, base):
        assert config.merge(base, {"infoenh": None}).infoenh is None
        assert config.merge(base, {"off.k": 2}).off == {"k": 2}

    def test_later_overrides_win(self, base):
        assert config.merge(base, {"infoenh": {"k": 4}, "infoenh.k": 2}).infoenh.k == 2


class TestVariants:
    """Variants of MMSA's models: MMSA's configuration of the host, and the variant's keys."""

    def test_the_hosts_keys_stay_the_hosts(self):
        host = config.resolve("self_mm", "sims")
        variant = config.resolve("self_mm_infoenh", "sims")
        own = set(variant) - set(host)
        assert "infoenh" in own
        assert {key: variant[key] for key in host if key != "model_name"} == {
            key: host[key] for key in host if key != "model_name"
        }

    @pytest.mark.parametrize(
        ("model", "overrides", "said"),
        [
            ("self_mm_infoenh", {"alignment": False}, "did you mean infoenh.alignment?"),
            ("self_mm_infoenh", {"unimodal_heads": "host"}, "did you mean infoenh.unimodal_heads?"),
            ("self_mm_infoenh", {"infoehn.k": 4}, "did you mean infoenh?"),
            ("misa_infoenh", {"frame_length": "own"}, "did you mean frame_lengths?"),
            ("lf_dnn", {"learning_rat": 1.0}, "did you mean learning_rate?"),
            ("lf_dnn", {"corruptoin.remove": "text"}, "did you mean corruption?"),
            ("self_mm", {"infoenh.k": 4}, "run self_mm_infoenh"),
        ],
    )
    def test_near_misses_are_refused_where_mmsa_would_ignore_them(self, model, overrides, said):
        with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
            config.resolve(model, "mosi", "", overrides)

    def test_a_wrong_nested_key_is_named_with_the_closest(self):
        overrides = {"infoenh": {"kk": 4, "inverse_temprature": 1.0, "d": 0}}
        with pytest.raises(ConfigError) as error:
            config.resolve("self_mm_infoenh", "mosi", "", overrides)
        message = str(error.value)
        assert "'self_mm_infoenh' has 3 problem(s)" in message
        assert "infoenh.inverse_temprature: no such key" in message
        assert "did you mean inverse_temperature" in message
        assert "infoenh.d" in message

    def test_mmsas_search_space_is_the_hosts_and_more(self):
        host = config.get_config_tune("self_mm", "mosi", random_choice=False)
        variant = config.get_config_tune("self_mm_infoenh", "mosi", random_choice=False)
        assert set(host.d_paras) < set(variant.d_paras)

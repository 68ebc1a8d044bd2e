"""Files and overrides to one validated configuration."""

import json

import numpy as np
import pytest

from MMSA_ext import mmsa_files
from MMSA_ext.config import resolve as config
from MMSA_ext.config.files import extension_config, supported_datasets
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
    content = extension_config("regression")
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
    regression, tune = (extension_config(kind) for kind in ("regression", "tune"))
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


class TestKeysThatNothingReads:
    """For MMSA's models and variants in its loop, where MMSA would take any key."""

    @pytest.mark.parametrize(
        ("model", "overrides", "said"),
        [
            ("lf_dnn", {"lr": 1e-3}, r"lr: lf_dnn has no such key; did you mean learning_rate\?"),
            ("lf_dnn", {"my_key": 1}, "my_key: lf_dnn has no such key; known: KeyEval, "),
            *(
                (model, {key: 1}, rf"{key}: {model} has no such key; did you mean .*num_epochs")
                for model in ("lf_dnn", "self_mm_infoenh")
                for key in ("max_epochs", "n_epochs", "epochs")
            ),
            ("self_mm", {"lr": 1.0}, "did you mean learning_rate_audio"),
            ("mctn", {"lr": 1.0}, r"did you mean init_lr\?"),
            ("misa", {"weight_decay": 0.5}, r"misa does not read it; leave it at 0\.0"),
            ("mfm", {"learning_rate": 0.5}, "mfm does not read it; leave it at"),
            ("tfr_net", {"fusion_t_in": 5}, "tfr_net does not read it; leave it at 90"),
            ("mult", {"pretrained": "minilm"}, "mult does not read it with use_bert=False"),
            ("lf_dnn", {"num_classes": 7}, "lf_dnn does not read it; leave it at 3"),
            ("dashfusion", {"num_classes": 7}, "dashfusion does not read it; leave it at 3"),
            ("text_only", {"language": "cn"}, "text_only does not read it; leave it at 'en'"),
            ("mfn", {"NN1Config": {"dorp": 0.1}}, r"NN1Config.dorp: .* did you mean drop\?"),
            ("mfn", {"NN1Config.dorp": 0.1}, r"NN1Config.dorp: .* did you mean drop\?"),
            ("mfn", {"NN1Config": 0.1}, r"NN1Config: give an object of keys and values"),
            ("self_mm_infoenh", {"anything": 1}, "anything: self_mm_infoenh has no such key"),
            ("graph_mfn", {"infoenh.k": 4}, "its fusion graph keeps networks outside"),
        ],
    )
    def test_are_refused_with_the_nearest_that_is_read(self, model, overrides, said):
        with pytest.raises(ConfigError, match=said):
            config.resolve(model, "mosi", "", overrides)

    @pytest.mark.parametrize("model", ["lf_dnn", "self_mm_infoenh", "dashfusion"])
    def test_only_regression_is_trained(self, model):
        with pytest.raises(ConfigError, match=r"train_mode is 'classification'; .* regression"):
            config.resolve(model, "mosi", "", {"train_mode": "classification"})
        assert "train_mode" not in config.resolve(model, "mosi", "", {"train_mode": "regression"})

    @pytest.mark.parametrize("cap", [0, -1, True, 1.0, "3", [1]])
    def test_a_cap_is_a_number_of_epochs(self, cap):
        with pytest.raises(ConfigError, match="num_epochs: give a whole number from 1, or null"):
            config.resolve("lf_dnn", "mosi", "", {"num_epochs": cap})

    def test_no_cap_is_the_run_without_the_key(self):
        without = config.identity_config(config.resolve("lf_dnn", "mosi"))
        args = config.resolve("lf_dnn", "mosi", "", {"num_epochs": None})
        assert config.identity_config(args) == without
        args = config.resolve("lf_dnn", "mosi", "", {"num_epochs": 3})
        assert config.identity_config(args) == without | {"num_epochs": 3}

    def test_may_have_the_values_of_the_shipped_file(self):
        assert config.resolve("misa", "mosi", "", {"weight_decay": 0.0}).weight_decay == 0.0
        with pytest.raises(ConfigError, match=r"leave it at 0\.0"):  # that of mosei
            config.resolve("misa", "mosi", "", {"weight_decay": 5e-5})

    @pytest.mark.parametrize("model", mmsa_files.models())
    def test_the_whole_configuration_is_accepted_as_mmsas_readme_passes_it(self, model):
        import MMSA

        for dataset in supported_datasets(model):
            whole = MMSA.get_config_regression(model, dataset)
            whole["batch_size"], whole["featurePath"] = 7, "mine.pkl"
            args = config.resolve(model, dataset, "", whole)
            assert (args.batch_size, args.featurePath) == (7, "mine.pkl")

    @pytest.mark.parametrize("model", mmsa_files.models())
    def test_a_drawn_point_of_mmsas_search_space_is_accepted(self, model):
        for dataset in supported_datasets(model):
            if model == "mctn":
                continue  # MMSA has no search space for it
            drawn = config.get_config_tune(model, dataset)
            assert "d_paras" not in config.resolve(model, dataset, "", drawn)

    def test_every_problem_is_told_at_once(self):
        wrong = {"lr": 1, "batch_size": "a", "learning_rate": -1, "dropouts": [0.1], "use_bert": 1}
        with pytest.raises(ConfigError, match=r"'lf_dnn' has 5 problem\(s\)") as error:
            config.resolve("lf_dnn", "mosi", "", wrong)
        for key in wrong:
            assert f"  {key}: " in str(error.value)

    def test_keys_that_are_needed_are_named_with_what_mmsa_has_there(self):
        with pytest.raises(ConfigError, match="res_save_dir: is missing; MMSA's self_mm reads it"):
            config.resolve("self_mm", "mosi", "", {"save_labels": True})


class TestOwnFiles:
    """Configuration files of users, in MMSA's schema."""

    @pytest.fixture
    def write(self, tmp_path):
        def write(change, model="lf_dnn"):
            content = {model: mmsa_files.section(model)}
            change(content)
            path = tmp_path / "mine.json"
            path.write_text(json.dumps(content))
            return path

        return write

    @pytest.mark.parametrize(
        ("keys", "value", "said"),
        [
            (["commonParams"], None, r"mine\.json: section lf_dnn lacks the key 'commonParams'"),
            (
                ["commonParams"],
                [1],
                r"mine\.json: lf_dnn\.commonParams is \[1\]; it must be an obj",
            ),
            (["datasetParams", "mosi"], 5, r"mine\.json: lf_dnn\.datasetParams\.mosi is 5"),
            (
                ["commonParams", "need_data_aligned"],
                None,
                r"mine\.json: section lf_dnn\.commonParams lacks the key 'need_data_aligned'",
            ),
            (
                ["datasetParams", "mosi", "hidden_dims"],
                None,
                r"mine\.json(?s:.*)hidden_dims: is missing; .* lf_dnn\.datasetParams\.mosi.*128",
            ),
            (
                ["commonParams", "early_stop"],
                None,
                r"mine\.json(?s:.*)early_stop: is missing; .* lf_dnn\.commonParams.* 8\)",
            ),
            (["commonParams", "lr"], 1, r"mine\.json(?s:.*)lr: .* did you mean learning_rate"),
            (["commonParams", "featurePath"], 5, r"mine\.json: .* featurePath 5 for 'mosi'"),
            (["datasetParams", "mosi", "batch_size"], "x", r"batch_size: give a number"),
        ],
    )
    def test_errors_name_file_section_and_key(self, write, keys, value, said):
        def change(content):
            section = content["lf_dnn"]
            for key in keys[:-1]:
                section = section[key]
            if value is None:
                del section[keys[-1]]
            else:
                section[keys[-1]] = value

        with pytest.raises(ConfigError, match=said):
            config.resolve("lf_dnn", "mosi", write(change))

    def test_what_it_says_of_the_data_set_must_be_whole(self, write):
        def change(content):
            content["datasetCommonParams"] = {"mosi": {"aligned": {}}}

        said = r"section datasetCommonParams\.mosi lacks the key 'unaligned'"
        with pytest.raises(ConfigError, match=said):
            config.resolve("lf_dnn", "mosi", write(change))

    def test_a_model_on_a_data_set_of_the_users_choice(self, write):
        def change(content):
            content["mctn"]["datasetParams"]["sims"] = content["mctn"]["datasetParams"].pop("mosi")

        args = config.resolve("mctn", "sims", write(change, "mctn"))
        assert args.max_seq_len == 50


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([("a", 1)], "give a dictionary"),
        ("lf_dnn", "give a dictionary"),
        ({1: 2}, "1 is no key; keys are texts"),
        ({"infoenh": {1: 2}}, "1 is no key"),
        ({"batch_size": {4}}, r"\{4\} is a set; values are"),
        ({"batch_size": lambda: 4}, "is a function; values are"),
        ({"cur_seed": 4}, "the seed as seeds"),
        ({"train_mode": ["x"]}, "train_mode is"),
    ],
)
@pytest.mark.parametrize("model", ["lf_dnn", "dashfusion"])
def test_what_is_no_override(model, overrides, said):
    with pytest.raises(ConfigError, match=said):
        config.resolve(model, "mosi", "", overrides)


def test_a_value_that_holds_itself_is_refused():
    circular: dict = {}
    circular["infoenh"] = circular
    with pytest.raises(ConfigError, match="nested more than"):
        config.resolve("self_mm_infoenh", "mosi", "", circular)


def test_numbers_and_arrays_of_numpy_are_taken_as_numbers():
    given = {"learning_rate": np.float32(0.5), "batch_size": np.int64(8)}
    args = config.resolve("lf_dnn", "mosi", "", given | {"hidden_dims": np.array([1, 2, 3])})
    assert (args.learning_rate, args.batch_size, list(args.hidden_dims)) == (0.5, 8, [1, 2, 3])
    assert type(args.batch_size) is int
    assert config.resolve("dashfusion", "mosi", "", given).batch_size == 8


@pytest.mark.parametrize("names", [(None, "mosi"), ("lf_dnn", 5), (b"lf_dnn", "mosi")])
def test_names_are_texts(names):
    with pytest.raises(ConfigError, match="give a name"):
        config.resolve(*names)


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


@pytest.mark.parametrize("key", ["num_epochs", "selection_digits", "warmup_ratio", "dim"])
def test_true_is_no_number(key):
    with pytest.raises(ConfigError, match=rf"{key}: .*give a number, not true or false"):
        config.resolve("dashfusion", "mosi", "", {key: True})


@pytest.mark.parametrize("model", ["dashfusion", "text_only", "confede", "dbf", "almt_released"])
@pytest.mark.parametrize(
    ("dataset", "lengths"),
    [("mosi", [50, 375, 500]), ("mosei", [50, 500, 500]), ("sims", [39, 400, 55])],
)
def test_lengths_of_our_models_are_the_official_files(model, dataset, lengths):
    assert list(config.resolve(model, dataset).seq_lens) == lengths

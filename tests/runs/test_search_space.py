"""What a user may search: the grammar, and what is refused before anything is trained."""

import optuna
import pytest

from MMSA_ext import MMSA_run
from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import ConfigError
from MMSA_ext.runs.search_space import Choices, Range, given_space, point, usable


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("8,16,32", Choices((8, 16, 32))),
        ("[8, 16]", Choices((8, 16))),
        ([8, 16], Choices((8, 16))),
        ("true, false", Choices((True, False))),
        ("../one,../other", Choices(("../one", "../other"))),
        ("[[128, 64], [64, 64]]", Choices(([128, 64], [64, 64]))),
        ("null,0.1", Choices((None, 0.1))),
        ("1..4", Range(1, 4)),
        ("-1 .. 4", Range(-1, 4)),
        ("8..64:log", Range(8, 64, log=True)),
        ("0.0..0.5", Range(0.0, 0.5)),
        ("0..0.5", Range(0.0, 0.5)),
        ("1e-5..1e-3:log", Range(1e-5, 1e-3, log=True)),
    ],
)
def test_grammar(given, meant):
    (found,) = given_space({"key": given}, {}).values()
    assert found == meant
    if isinstance(found, Range):
        assert found.whole == isinstance(meant.low, int)
        assert given_space({"key": found.plain()}, {})["key"] == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("4..1", r"space key: the range 4\.\.1 is empty; write the lower end first"),
        ("1..1", "is empty"),
        ("0..1:log", "begins above 0"),
        ("1..4:2", "'2' after the range; only :log can stand there"),
        ("8", "8 is one value; write choices"),
        ("1..x", r"'1\.\.x' is one value"),
        ("1e-5...1e-3", r"'1e-5\.\.\.1e-3' is one value"),
        ("", "nothing between two commas|is one value"),
        ("8,,16", "nothing between two commas"),
        ("8,16,8", "8 is there twice"),
        ("[8, 16", "not valid JSON"),
        ("NaN,1", "NaN is no number"),
        ([], "there is no value"),
        (8, "8 says nothing to search"),
    ],
)
def test_what_is_none(given, said):
    with pytest.raises(ConfigError, match=said):
        given_space({"key": given}, {})


@pytest.mark.parametrize(
    ("space", "config", "said"),
    [
        ({}, {}, "space is {}; give a dictionary"),
        (["batch_size"], {}, "give a dictionary"),
        ({1: [1, 2]}, {}, "1 is no key"),
        ({"KeyEval": ["MAE", "Loss"]}, {}, "KeyEval is what trials are compared by"),
        ({"batch_size": [1, 2]}, {"batch_size": 8}, "batch_size: given as what to search .*--set"),
        ({"infoenh.k": [1, 2]}, {"infoenh": {"k": 4}}, "infoenh.k: given as"),
        ({"infoenh": {"k": [1, 2]}}, {"infoenh": None}, "infoenh.k and infoenh: given as"),
        ({"infoenh.k": [1, 2], "infoenh": {"k": [1, 2]}}, {}, "infoenh.k is there twice"),
    ],
)
def test_what_cannot_be_searched(space, config, said):
    with pytest.raises(ConfigError, match=said):
        given_space(space, config)


@pytest.mark.parametrize(
    ("model", "space", "said"),
    [
        ("text_only", {"learning_rat": [1, 2]}, "learning_rat: no such key; did you mean learning"),
        ("text_only", {"batch_size": [8, "a"]}, "batch_size: .*given: 'a'"),
        ("text_only", {"batch_size": "8.0..16.0"}, "batch_size: .*integer"),
        ("text_only", {"batch_size": "-4..16"}, "batch_size: .*given: -4"),
        ("text_only", {"seed": [1, 2]}, "seed"),
        ("lf_dnn", {"hidden_dim": [1, 2]}, "hidden_dim: lf_dnn has no such key; did you mean hid"),
        ("lf_dnn", {"batch_size": "0..8"}, "batch_size: give 1 or more"),
        ("mfm", {"learning_rate": [1e-3, 1e-2]}, "learning_rate: mfm does not read it"),
    ],
)
def test_keys_and_values_are_checked_before_the_search(model, space, said, tmp_path, feature_file):
    folders = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), tmp_path)
    with pytest.raises(ConfigError, match=said):
        MMSA_run(
            model, "mosi", is_tune=True, space=space, custom_feature=feature_file, gpu_ids="cpu",
            verbose_level=0, **folders,
        )  # fmt: skip
    assert not [*tmp_path.rglob("*.db")]


@pytest.mark.parametrize(
    "option", [{"space": {"batch_size": [1, 2]}}, {"prune": True}, {"jobs": 2}]
)
def test_options_of_a_search_without_one(option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))} has no effect without a search"):
        MMSA_run("text_only", "mosi", **option)


def test_points_are_in_the_space_and_nested_as_the_configuration():
    args = resolve("confede_infoenh", "mosi")
    space = given_space(
        {"infoenh.k": "4..6", "learning_rate": "1e-5..1e-3:log", "batch_size": [8, 16]}, {}
    )
    assert usable(args, space, own=True) == space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [point(study.ask(), space) for _ in range(20)]
    assert {each["infoenh"]["k"] for each in drawn} == {4, 5, 6}
    assert {each["batch_size"] for each in drawn} == {8, 16}
    rates = [each["learning_rate"] for each in drawn]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    assert sum(rate < 1e-4 for rate in rates) > 5


def test_values_that_a_dashboard_cannot_show_are_drawn_as_they_are():
    space = given_space({"dims": [[128, 64], [64, 64]], "flag": [True, 1], "name": "a,b"}, {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trials = [study.ask() for _ in range(12)]
    drawn = [point(trial, space) for trial in trials]
    assert {str(each["dims"]) for each in drawn} == {"[128, 64]", "[64, 64]"}
    assert {str(each["flag"]) for each in drawn} == {"True", "1"}
    assert {trial.params["name"] for trial in trials} == {"a", "b"}

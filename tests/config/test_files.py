"""What configuration files say of a model on a data set."""

import json
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import MMSA
import pytest

from MMSA_ext import mmsa_files
from MMSA_ext.config.files import read_config, supported_datasets
from MMSA_ext.datasets import get_dataset
from MMSA_ext.errors import ConfigError
from MMSA_ext.registry import list_models

ALL = [*mmsa_files.models(), *list_models()]


def test_mmsas_models_are_those_of_its_file() -> None:
    from MMSA.trains.ATIO import ATIO

    assert mmsa_files.models() == sorted(set(ATIO().TRAIN_MAP) - set(list_models()))
    assert mmsa_files.is_model("self_mm")
    assert not mmsa_files.is_model("datasetCommonParams")


@pytest.mark.parametrize("model", ALL)
def test_every_configuration_is_what_mmsas_reader_gives(model: str) -> None:
    for dataset in supported_datasets(model):
        expected = MMSA.get_config_regression(model, dataset)
        if get_dataset(dataset).features is None:  # MMSA joins its root folder and nothing
            expected.featurePath = ""
        assert read_config("regression", model, dataset) == expected
        if model == "mctn":
            continue  # MMSA has no search space for it
        for choice in (False, True):
            random.seed(1)
            expected = MMSA.get_config_tune(model, dataset, random_choice=choice)
            if get_dataset(dataset).features is None:
                expected.featurePath = ""
            random.seed(1)
            assert read_config("tune", model, dataset, random_choice=choice) == expected


def test_supported_datasets() -> None:
    assert supported_datasets("mctn") == ["mosi"]
    assert supported_datasets("mlf_dnn") == ["sims", "simsv2"]
    for model in ("dashfusion", "lmf", "lmf_infoenh"):
        assert supported_datasets(model) == ["mosi", "mosei", "sims", "simsv2"]


@pytest.mark.parametrize(
    ("kind", "model", "dataset", "said"),
    [
        ("regression", "selfmm", "mosi", "did you mean self_mm"),
        ("regression", "mctn", "sims", r"'mctn' has no regression .* 'sims', only for mosi; run"),
        (
            "regression",
            "mtfn",
            "mosi",
            r"'mtfn' has no regression .* only for sims, simsv2; its unimod",
        ),
        ("tune", "mctn", "mosi", "'mctn' has no tune configuration"),
    ],
)
def test_what_is_not_configured(kind, model, dataset, said) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config(kind, model, dataset)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"c\.json: no such configuration file"),
        ('{"a": 1,}', "not valid JSON at line 1, column"),
        ('{"lf_dnn": {"datasetParams": {"mosi": {}}}}', "lacks the key 'commonParams'"),
        ("[1]", "holds no JSON object"),
        ('{"lf_dnn": [1]}', "is not a configuration in MMSA's schema: lf_dnn is"),
        ('{"lf_dn": {}}', "'lf_dnn' has no regression configuration; did you mean lf_dn "),
    ],
)
def test_unusable_files(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_config("regression", "lf_dnn", "mosi", path)


def test_a_file_is_completed_by_the_shipped_ones(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    data = {"dataset_root_dir": "/mine", "mosi": {"unaligned": {"featurePath": "m.pkl"}}}
    path.write_text(json.dumps({"datasetCommonParams": data}))
    for model in ("dashfusion", "tfn_infoenh"):
        args = read_config("regression", model, "mosi", path)
        assert args == MMSA.get_config_regression(model, "mosi", path)
        assert args.featurePath == "/mine/m.pkl"


@pytest.mark.parametrize(
    "model",
    [
        "dashfusion",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("self_mm_infoenh", "text_only", "lf_dnn")
        ),
    ],
)
def test_one_model_is_configured_by_few_files_and_its_own_module(model: str) -> None:
    script = f"""
        import json, sys
        from MMSA_ext import catalogue
        from MMSA_ext.config.resolve import resolve

        read, loads = [], json.loads
        json.loads = lambda text, **options: read.append(text) or loads(text, **options)
        resolve({model!r}, "mosi")
        assert 0 < len(read) <= 4, len(read)
        modules = {{f"MMSA_ext.models.{{shipped.module}}" for shipped in catalogue.MODELS.values()}}
        own = {{f"MMSA_ext.models.{{catalogue.MODELS[{model!r}].module}}"}} if {model!r} in (
            catalogue.MODELS) else set()
        assert modules & sys.modules.keys() == own, modules & sys.modules.keys()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

import json

import pytest

from MMSA_ext.config.described import described
from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import ConfigError
from MMSA_ext.registry import list_models, trains_in_mmsa


def by_key(*arguments):
    return {found.key: found for found in described(*arguments)}


@pytest.mark.parametrize("model", [name for name in list_models() if not trains_in_mmsa(name)])
def test_every_key_has_a_meaning(model):
    assert not [found.key for found in described(model, "sims") if not found.meaning]


@pytest.mark.parametrize("model", ["dashfusion", "lf_dnn_infoenh", "self_mm"])
def test_keys_and_values_are_those_of_a_run(model):
    found, args = by_key(model, "mosi"), resolve(model, "mosi")
    assert {key.partition(".")[0] for key in found} == args.keys()
    assert found["batch_size"].value == args.batch_size


def test_a_key_is_from_the_last_place_that_has_it():
    found = by_key("dashfusion", "sims", "", {"reading": {"padding": "seen"}, "fusion": "bf"})
    sources = {key: found[key].source for key in ("fusion", "pretrained", "dim", "decay_norms")}
    assert sources == {
        "fusion": "given",
        "pretrained": "shipped file, sims",
        "dim": "shipped file, any data set",
        "decay_norms": "default",
    }
    assert found["reading.padding"][:3] == ("reading.padding", "seen", "given")
    assert found["reading.activation"].source == "default"
    assert found["feature_dims"].source == "MMSA's file, facts of sims"
    assert found["reading.activation"].meaning.startswith("ReLU as printed")


def test_a_variant_says_what_is_its_hosts():
    found = by_key("lf_dnn_infoenh", "mosi", "", {"infoenh.k": 4})
    assert found["infoenh.k"][:3] == ("infoenh.k", 4, "given")
    assert found["infoenh.d"].source == "default of the variant"
    assert found["text_out"].source == "MMSA's file, lf_dnn"


def test_a_file_of_ones_own_is_named(tmp_path):
    path = tmp_path / "mine.json"
    common = {
        "need_data_aligned": False, "need_model_aligned": False, "need_normalized": False,
        "use_bert": True, "dim": 64,
    }  # fmt: skip
    section = {"commonParams": common, "datasetParams": {"mosi": {"batch_size": 7}}}
    path.write_text(json.dumps({"dashfusion": section}), encoding="utf-8")
    found = by_key("dashfusion", "mosi", path)
    assert found["dim"].source == f"{path}, any data set"
    assert found["batch_size"].source == f"{path}, mosi"
    assert found["heads"].source == "default"


def test_mistakes_are_those_of_a_run():
    with pytest.raises(ConfigError, match="no such key"):
        described("self_mm", "mosi", "", {"lr": 1})

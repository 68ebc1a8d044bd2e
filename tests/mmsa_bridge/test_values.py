"""Values of MMSA's keys, against those that MMSA ships."""

from typing import Any

import pytest

from MMSA_ext import mmsa_files
from MMSA_ext.mmsa_bridge.values import leaves, misfit, shipped_values


@pytest.mark.parametrize(
    ("model", "key", "value", "said"),
    [
        ("lf_dnn", "batch_size", 16, ""),
        ("lf_dnn", "batch_size", "16", "a number"),
        ("lf_dnn", "batch_size", True, "a number"),
        ("lf_dnn", "batch_size", 16.0, "a whole number"),
        ("lf_dnn", "batch_size", 0, "1 or more"),
        ("lf_dnn", "early_stop", 0, ""),
        ("lf_dnn", "early_stop", -1, "0 or more"),
        ("lf_dnn", "early_stop", None, "a number"),
        ("lf_dnn", "learning_rate", 1, ""),
        ("lf_dnn", "learning_rate", -1e-3, "0 or more"),
        ("lf_dnn", "learning_rate", float("nan"), "a number"),
        ("lf_dnn", "learning_rate", 10**400, "a number"),
        ("lf_dnn", "weight_decay", -0.1, "0 or more"),
        ("lf_dnn", "dropouts", [0.1, 0.2, 0.3, 0.4], ""),
        ("lf_dnn", "dropouts", (0.1, 0.2, 0.3, 0), ""),
        ("lf_dnn", "dropouts", [0.1, 0.2, 0.3], "a list of 4 values"),
        ("lf_dnn", "dropouts", 0.1, "a list of 4 values"),
        ("lf_dnn", "dropouts", [0.1, 0.2, 0.3, 1.5], "a share from 0 to 1"),
        ("lf_dnn", "use_bert", 1, "true or false"),
        ("lf_dnn", "use_bert", "False", "true or false"),
        ("misa", "grad_clip", -1.0, ""),  # MMSA's word for none
        ("misa", "sim_weight", -0.1, ""),
        ("misa", "pretrained", 3, "a text"),
        ("bert_mag", "beta_shift", 0.5, ""),
        ("tfr_net", "weight_gen_loss", [0.5, 0.0, 1], ""),
        ("ef_lstm", "hidden_dims", [1, 2, 3], "a number"),
        ("mfn", "NN1Config.drop", 2, "a share"),
        ("lf_dnn", "feature_dims", [1, 2], "a list of 3 values"),
        ("lf_dnn", "unheard_of", object(), ""),
    ],
)
def test_misfits(model: str, key: str, value: Any, said: str) -> None:
    found = misfit(key, value, list(shipped_values(model).get(key, [])))
    assert (found == "") if not said else (said in found)


@pytest.mark.parametrize("model", mmsa_files.models())
def test_everything_that_mmsa_ships_fits(model: str) -> None:
    for key, values in shipped_values(model).items():
        for value in values:
            assert misfit(key, value, values) == "", (key, value)


def test_leaves_are_the_values_below_dictionaries() -> None:
    nested = {"a": 1, "b": {"c": {"d": [2]}, "e": {}}}
    assert dict(leaves(nested)) == {"a": 1, "b.c.d": [2], "b.e": {}}

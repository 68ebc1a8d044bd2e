"""Names of runs: what options that came later do to them."""

import pytest

from MMSA_ext.config.resolve import resolve
from MMSA_ext.config.schema import STEP_OPTIONS
from MMSA_ext.errors import ConfigError, TextEncoderError
from MMSA_ext.runs.identity import identifying_configuration
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.processes import options_of


def named(model, **given):
    return identifying_configuration(resolve(model, "mosi", "", {"pretrained": "minilm"} | given))


def test_options_of_a_step_are_in_a_name_where_they_are_not_the_default():
    usual = named("dashfusion")
    assert not STEP_OPTIONS & usual.keys()
    assert named("dashfusion", compile=False, precision="fp32", accumulate_steps=1) == usual
    assert named("dashfusion", compile=True) == usual | {"compile": "inductor"}
    assert named("dashfusion", precision="bf16", max_grad_norm=1.0, accumulate_steps=2) == (
        usual | {"precision": "bf16", "max_grad_norm": 1.0, "accumulate_steps": 2}
    )
    # What had the key before has it in its names, at the default too.
    assert named("almt")["max_grad_norm"] is None


@pytest.mark.parametrize("model", ["misa", "misa_infoenh", "self_mm"])
@pytest.mark.parametrize("key", ["precision", "accumulate_steps"])
def test_mmsas_loops_have_none_of_them(model, key):
    """InfoEnh's loss joins MMSA's through the prediction: a scaled loss would leave it behind."""
    with pytest.raises(ConfigError, match=f"{key}: {model} trains in MMSA's own loop"):
        resolve(model, "mosi", "", {key: "bf16" if key == "precision" else 2})


def test_processes_have_a_gpu_each_in_turn():
    options = RunOptions(gpu_ids=[0, 1])
    assert [list(options_of(n, 4, options).gpu_ids) for n in range(4)] == [[0], [1], [0], [1]]


def test_an_encoder_that_a_record_names_needs_no_folder():
    assert named("text_only", pretrained="bert@0123456789ab")["pretrained"] == "bert@0123456789ab"
    with pytest.raises(TextEncoderError):
        named("text_only", pretrained="bert@0123")

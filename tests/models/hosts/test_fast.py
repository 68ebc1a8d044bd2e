"""MMSA's models in their faster form, beside MMSA's."""

import pickle

import pytest
import torch
from torch import nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.catalogue import FAST
from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.hosts.fast_mult import FastLayer
from MMSA_ext.runs.identity import identifying_configuration, model_code_version
from tests.conftest import make_feature_data
from tests.models.hosts.variants import build, make_args, outputs, predict, whole_batch

VARIANTS = ("mult_infoenh", "misa_infoenh", "mmim_infoenh", "self_mm_infoenh")
CASES = [
    *((name, {}) for name in (*sorted(FAST), *VARIANTS)),
    ("mult", {"attn_mask": False}),
    ("self_mm", {"use_finetune": False}),
]
# A softmax is the same with a constant added to the logits, so this has no gradient but rounding.
WITHOUT_GRADIENT = "key.bias"


@pytest.fixture(scope="module")
def aligned(path):
    """A file whose frames are those of the words, for bert_mag."""
    data = make_feature_data((16, 8, 8))
    for split in data.values():
        split["audio"] = split["audio"][:, :10]
        split["vision"] = split["audio"][:, :, :4]
        del split["audio_lengths"], split["vision_lengths"]
    file = path.with_name("aligned.pkl")
    file.write_bytes(pickle.dumps(data, protocol=4))
    return file


@pytest.fixture
def args_for(path, aligned, tiny_encoder):
    def make(name, **config):
        return make_args(name, aligned if name == "bert_mag" else path, tiny_encoder, **config)

    return make


@pytest.fixture
def pair(args_for):
    """A model as MMSA has it and in its faster form, without dropout, and a batch."""

    def make(name, config):
        args = args_for(name, **config)
        (model, loaders), (faster, _) = build(args), build(args_for(name, **config, fast=True))
        for network in (model, faster):
            turn_dropout_off(network)
        return model, faster, args, whole_batch(loaders)

    return make


def turn_dropout_off(network):
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


@pytest.mark.parametrize(("name", "config"), CASES)
def test_the_function_is_that_of_MMSA(pair, name, config):
    """Weights by name, outputs in evaluation, and gradients where dropout does not differ."""
    model, faster, args, batch = pair(name, config)
    plain, fast = model.state_dict(), faster.state_dict()
    assert list(plain) == list(fast)
    assert all(torch.equal(plain[key], fast[key]) for key in plain if "_float_tensor" not in key)
    wanted, given = outputs(model.eval(), args, batch), outputs(faster.eval(), args, batch)
    torch.testing.assert_close(given["M"], wanted["M"], rtol=1e-5, atol=1e-6)
    for network in (model, faster):
        predict(network.train(), args, batch)["M"].square().sum().backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    for key, parameter in faster.named_parameters():
        expected, found = gradients[key], parameter.grad
        if expected is None or found is None:
            assert all(g is None or not g.any() for g in (expected, found)), key
        elif WITHOUT_GRADIENT not in key:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", sorted(FAST))
def test_the_faster_form_is_another_code_path(args_for, name):
    """No padding is computed, and of MulT's last layers one position: else the above is idle."""
    model, loaders = build(args_for(name, fast=True))
    batch = whole_batch(loaders)
    seen = []
    for module in model.modules():
        if name == "mult" and isinstance(module, FastLayer):
            module.register_forward_hook(lambda m, given, out: seen.append((m.last_only, len(out))))
        elif name != "mult" and type(module).__name__ == "BertEncoder":
            module.register_forward_pre_hook(lambda m, given: seen.append(given[0].shape[:2]))
    outputs(model.eval(), args_for(name), batch)
    if name == "mult":
        assert seen.count((True, 1)) == 3  # one for each modality
        assert all(length > 1 for last_only, length in seen if not last_only)
    else:
        words, positions = int(batch["text"][:, 1].sum()), batch["text"][:, 1].numel()
        assert seen
        assert all(one == 1 and words <= rows < positions for one, rows in seen)


@pytest.mark.parametrize("name", ["bert_mag", "mult", "self_mm_infoenh"])
def test_it_trains_and_its_weights_are_MMSAs(args_for, name):
    args = args_for(name, fast=True, num_epochs=1)
    run = mmsa_bridge.train_and_test(args, seed=1, splits=("test",))
    scored = mmsa_bridge.score_trained(args_for(name), run.model.state_dict())
    torch.testing.assert_close(
        torch.as_tensor(scored["test"][1].prediction),
        torch.as_tensor(run.predictions["test"].prediction),
        rtol=1e-4,
        atol=1e-5,
    )


def test_dropout_drops_attention_weights_in_training(args_for):
    model, loaders = build(args_for("mult", fast=True))
    turn_dropout_off(model)
    batch = whole_batch(loaders)
    for layer in (m for m in model.modules() if isinstance(m, FastLayer)):
        layer.self_attn.attn_dropout = 0.5
    args = args_for("mult")
    first, second = (predict(model.train(), args, batch)["M"] for _ in range(2))
    assert not torch.allclose(first, second)
    assert torch.equal(outputs(model.eval(), args, batch)["M"], outputs(model, args, batch)["M"])


class TestIdentity:
    def test_it_is_part_of_a_runs_name(self):
        plain, off, on = (
            resolve("mult", "mosi", "", given) for given in ({}, {"fast": False}, {"fast": True})
        )
        assert identifying_configuration(off) == identifying_configuration(plain)
        assert "fast" not in identifying_configuration(plain)
        assert identifying_configuration(on) == identifying_configuration(plain) | {"fast": True}

    def test_its_code_is_part_of_its_runs_alone(self):
        assert model_code_version("mult", fast=True) != model_code_version("mult")

    @pytest.mark.parametrize(("name", "value"), [("mctn", True), ("tfr_net", True), ("mult", 1)])
    def test_what_cannot_be_meant_is_refused(self, name, value):
        with pytest.raises(ConfigError, match="fast: "):
            resolve(name, "mosi", "", {"fast": value})

"""Weights go into the model that they belong to, and no other model takes any memory."""

import copy
import logging
import threading
import tracemalloc
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.schema import RunConfig
from MMSA_ext.errors import CheckpointError, TextEncoderError
from MMSA_ext.mmsa_bridge import networks
from MMSA_ext.registry import register_model, unregister_model
from MMSA_ext.training.trainer import Trainer
from tests.models.hosts.variants import VARIANTS
from tests.models.test_all_models import tiny_args
from tests.models.untrained import OWN, STOCK, untrained

QUICK = {"dashfusion", "confede_infoenh", "bert_mag", "graph_mfn", "self_mm_infoenh"}
ALL = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in (*OWN, *STOCK, *VARIANTS)
]


@pytest.fixture
def trained(tmp_path, tiny_encoder):
    """Arguments and weights of an untrained model, as a checkpoint has them."""
    return partial(untrained, folder=tmp_path, encoder=tiny_encoder)


@pytest.mark.parametrize("name", ALL)
def test_every_model_has_an_outline_without_memory(name, trained, monkeypatch):
    args, weights = trained(name)
    built = []
    monkeypatch.setattr(networks, "_built_on", _recorded(built, networks._built_on))
    expected = mmsa_bridge.build_model(copy.deepcopy(args))
    before = torch.get_rng_state()
    model = mmsa_bridge.trained_model(args, weights)
    assert torch.equal(torch.get_rng_state(), before), "no random number is left in it"
    assert [device.type for device in built] == ["meta"]
    assert type(model) is type(expected)
    for key, value in model.state_dict().items():
        if not key.endswith("_float_tensor"):  # tfr_net's, which holds what was in memory
            assert torch.equal(value, weights[key])


def _recorded(seen, build):
    def record(device, args):
        seen.append(device)
        return build(device, args)

    return record


def largest(weights):
    return max(weights, key=lambda key: weights[key].numel())


@pytest.mark.parametrize("name", ["text_only", "lf_dnn", "self_mm_infoenh"])
class TestRefused:
    def refused(self, args, weights):
        with pytest.raises(CheckpointError) as error:
            mmsa_bridge.trained_model(args, weights)
        message = str(error.value)
        assert "checkpoint.pth" in message
        assert "another checkpoint" in message
        return message

    def test_other_weights(self, name, trained):
        args, weights = trained(name)
        key = largest(weights)
        value = weights[key]
        for changed, said in (
            (weights | {key: value.double()}, f"{key} is float64"),
            (
                weights | {key: value[:-1]},
                f"{key} is float32 {list(value[:-1].shape)}, not float32",
            ),
            (weights | {"Model.x": value}, "Model.x is in no part of the model"),
            ({k: v for k, v in weights.items() if k != key}, f"{key} is missing"),
            ({k: v for k, v in weights.items() if k != key} | {"Model.x": value}, "Model.x is in"),
            ({f"x{i}": value for i in range(len(weights))}, "more. Use"),
        ):
            message = self.refused(args, changed)
            assert said in message
            assert f"do not fit {name} as configured" in message
            assert len(message) < 700

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_numbers_that_are_none(self, name, trained, number):
        args, weights = trained(name)
        key = largest(weights)
        weights[key].view(-1)[3] = number
        assert f"{key} holds values that are not finite" in self.refused(args, weights)

    @pytest.mark.parametrize("key", ["model_name", "feature_dims"])
    def test_a_configuration_that_builds_nothing(self, name, trained, key):
        args, weights = trained(name)
        args[key] = None
        self.refused(args, weights)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("dashfusion", "encoder_layers", 10**6),
        ("dashfusion", "dim", 10**6),
        ("dashfusion", "feed_forward_dim", 10**9),
        ("text_only", "text_encoder_config.num_hidden_layers", 10**5),
        ("text_only", "text_encoder_config.num_hidden_layers", 10**10),
        ("text_only", "text_encoder_config.num_labels", 10**10),
        ("text_only", "text_encoder_config.hidden_size", 10**6),
        ("text_only", "text_encoder_config.vocab_size", 10**9),
        ("text_only", "text_encoder_config.max_position_embeddings", 10**7),
        ("lf_dnn", "hidden_dims", [10**9] * 3),
        ("self_mm", "a_lstm_layers", 10**6),
        ("self_mm", "post_fusion_dim", 10**9),
        ("self_mm_infoenh", "infoenh.d", 10**9),
        ("mult", "nlevels", 10**6),
        ("lmf", "rank", 10**9),
    ],
)
def test_a_giant_is_refused_before_it_takes_memory(name, key, value, trained):
    args, weights = trained(name)
    key, _, inner = key.partition(".")
    args[key] = {**args[key], inner: value} if inner else value
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"checkpoint\.pth"):
            mmsa_bridge.trained_model(args, weights)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert not torch_module._global_parameter_registration_hooks
    assert not torch_module._global_buffer_registration_hooks


def test_weights_with_the_memory_of_one_for_a_giant(trained):
    """Layers that share their weights in the file make a model that has them all apart."""
    args, weights = trained("dashfusion")
    args.encoder_layers = 500
    with pytest.raises(CheckpointError, match="larger than its weights"):
        mmsa_bridge.trained_model(args, weights)


def test_an_encoder_that_is_missing_here_is_no_fault_of_the_checkpoint(trained):
    args, weights = trained("self_mm")
    args.pretrained = "nobody/has-this"
    with pytest.raises(TextEncoderError, match="nobody/has-this"):
        mmsa_bridge.trained_model(args, weights)


def test_what_is_said_of_a_model_is_said_once(trained, caplog):
    args, weights = trained("tfr_net")
    args.num_temporal_head = 7
    caplog.clear()
    with caplog.at_level(logging.WARNING, "MMSA"):
        mmsa_bridge.trained_model(args, weights)
    assert caplog.text.count("num_temporal_head") == 1


def test_other_threads_may_build_what_they_like(trained):
    args, weights = trained("text_only")
    with networks._limited(1, 1, "x"):
        thread = threading.Thread(target=lambda: made.append(nn.Linear(10, 10)))
        made: list[nn.Module] = []
        thread.start()
        thread.join()
        assert made
        with pytest.raises(CheckpointError):
            nn.Linear(10, 10)
    assert mmsa_bridge.trained_model(args, weights) is not None


def test_a_model_of_ones_own_that_needs_numbers_to_be_built(trained, tmp_path):
    """It has no outline; its memory is limited all the same."""

    class Config(RunConfig):
        width: int = 4

    class Calibrated(nn.Module):
        def __init__(self, args: Any) -> None:
            super().__init__()
            self.scale = torch.ones(3).sum().item()
            self.linear = nn.Linear(args.width, 1)

    register_model("calibrated", config=Config, trainer=Trainer, paper="none")(Calibrated)
    try:
        args = tiny_args("text_only", "mosi", "x") | {"model_name": "calibrated", "width": 4}
        args = mmsa_bridge.complete_args(
            args, device=torch.device("cpu"), model_save_path=tmp_path / "c.pth"
        )
        weights = mmsa_bridge.build_model(args).state_dict()
        assert mmsa_bridge.trained_model(args, weights).Model.scale == 3
        args.width = 10**8
        with pytest.raises(CheckpointError, match="larger than its weights"):
            mmsa_bridge.trained_model(args, weights)
    finally:
        unregister_model("calibrated")

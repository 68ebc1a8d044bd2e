"""Registering models."""

import pytest
from torch import nn

from MMSA_ext import registry
from MMSA_ext.config.resolve import get_config_regression
from MMSA_ext.config.schema import RunConfig, VariantConfig
from MMSA_ext.errors import ConfigError
from MMSA_ext.training.trainer import Trainer


@pytest.fixture
def toy():
    @registry.register_model("toy", config=RunConfig, trainer=object, paper="a paper")
    def build(args):
        return nn.Linear(1, 1)

    yield build
    registry.unregister_model("toy")


def test_registered_model_is_known(toy):
    assert "toy" in registry.list_models()
    entry = registry.get_model("toy")
    assert (entry.build, entry.paper) == (toy, "a paper")
    assert registry.is_registered("toy")
    assert not registry.is_registered("lf_dnn")


def test_a_trainer_may_be_named(toy):
    named = registry.register_model("named", config=RunConfig, trainer="torch.nn:Linear")
    named(toy)
    registry.register_model("usual", config=RunConfig)(toy)
    try:
        assert registry.get_model("named").trainer is nn.Linear
        assert registry.get_model("usual").trainer is Trainer
    finally:
        registry.unregister_model("named")
        registry.unregister_model("usual")


@pytest.mark.parametrize("name", ["toy", "dashfusion", "lf_dnn", "Upper"])
def test_taken_or_malformed_names_are_refused(toy, name):
    with pytest.raises(ConfigError, match=name):
        registry.register_model(name, config=RunConfig, trainer=object, paper="")(lambda args: None)


def test_a_variant_needs_a_host_of_mmsa():
    with pytest.raises(ConfigError, match="host 'lf_dn' is no model of MMSA"):
        registry.register_model("v", config=VariantConfig, trainer=object, paper="", host="lf_dn")


def test_who_trains_in_mmsas_loop(toy):
    assert not registry.trains_in_mmsa("toy")
    assert registry.trains_in_mmsa("lf_dnn")
    assert registry.trains_in_mmsa("self_mm_infoenh")


def test_what_a_model_reads():
    @registry.register_model("reader", config=Reader)
    def build(args):
        return nn.Linear(1, 1)

    args = get_config_regression("reader", "mosi") | {"train_samples": 1}
    try:
        assert registry.unread_modalities(args | {"chosen": ["audio"]}) == ("text", "vision")
        assert registry.unread_modalities(args) == ()
        with pytest.raises(ConfigError, match="'reader' reads 'visio'; did you mean vision"):
            registry.unread_modalities(args | {"chosen": ["text", "visio"]})
    finally:
        registry.unregister_model("reader")
    assert registry.unread_modalities({"model_name": "lf_dnn"}) == ()
    assert registry.unread_modalities({"model_name": "misa_infoenh"}) == ()


class Reader(RunConfig):
    chosen: tuple[str, ...] = ("text", "audio", "vision")

    @property
    def reads(self):
        return self.chosen


def test_unknown_name_suggests_the_closest():
    with pytest.raises(ConfigError, match="did you mean dashfusion"):
        registry.get_model("dashfusoin")


def test_a_model_without_shipped_configuration_gets_its_defaults(toy):
    from MMSA_ext.config.resolve import get_config_regression

    args = get_config_regression("toy", "sims")
    assert (args.batch_size, args.num_epochs, args.early_stop) == (16, 100, None)
    assert args.seq_lens == [39, 400, 55]


def test_shipped_models_are_listed():
    assert {"dashfusion", "dashfusion_released", "text_only"} <= set(registry.list_models())
